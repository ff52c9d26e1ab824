"""Columns of tables: what they are called, and their units."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

__all__ = [
    "column_of",
    "unit_from",
]

UNITS = {  # what tables call units that Astropy calls otherwise
    r"pix|pixels?|px": "pix",
    r"mags?|magnitudes?|ab|ab ?mags?|mag\(ab\)": "mag",
    r"arcsecs?|arcseconds?|asec|\"|''": "arcsec",
    r"masec|milliarcseconds?": "mas",
    r"degrees?|degs?": "deg",
    r"radians?|rad": "rad",
}


NO_UNIT = ("", "-", "--", "none", "not stated", "unitless", "null", "nan")


def unit_from(words: Any) -> Any:
    """Return an Astropy unit, None where there is none; a unit unknown to Astropy is kept by its name.

    Args:
        words: A unit, or what a table calls it.

    Example:
        >>> unit_from("pixels"), unit_from("none"), unit_from("0.03 arcsec pixels")
        (Unit("pix"), None, Unit("0.03 arcsec"))
    """
    import astropy.units as u

    if words is None or (not isinstance(words, str) and not _unknown(words)):
        return words
    text = " ".join(str(words).split())
    if text.lower() in NO_UNIT:
        return None
    # What a store says of a size: pixels of a stated width.
    text = re.sub(r"^([\d.eE+-]+) arcsec pixels?$", r"\1 arcsec", text)
    for pattern, name in UNITS.items():
        if re.fullmatch(pattern, text.lower()):
            return u.Unit(name)
    for form in (None, "fits", "vounit", "cds"):
        try:
            return u.Unit(text, format=form)
        except (ValueError, TypeError):
            continue
    return u.Unit(text, parse_strict="silent")


def column_of(name: str, there: Sequence[str], where: str = "catalog") -> str | None:
    """Return the name of a column in a catalogue: this one, or this one in another case; None if not there.

    Raises:
        ValueError: If several differ only in case, and none is called just that.

    Example:
        >>> column_of("mag_auto", ["NUMBER", "MAG_AUTO"])
        'MAG_AUTO'
    """
    if name in there:
        return name
    same = [one for one in there if str(one).lower() == name.lower()]
    if len(same) > 1:
        raise ValueError(
            f"{where}: expected one column {name}, got {', '.join(same)}; say which with {name}=COLUMN"
        )
    return same[0] if same else None


def _unknown(unit: Any) -> bool:
    return type(unit).__name__ == "UnrecognizedUnit"
