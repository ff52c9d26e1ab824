"""Photometry: the unit of fluxes and the magnitude of a source of unit flux, and exact conversion between two of them.

A flux f in a unit with zero point ZP has the magnitude ZP - 2.5 log10 f. Two statements are therefore converted into
each other by their zero points alone: f' = f * 10^(0.4 (ZP' - ZP)). What a unit is called decides nothing (counts per
second and electrons per second of one zero point are the same numbers), unless it names a flux density: one nJy has the
AB magnitude 31.4, whatever else is said of it, and a zero point that contradicts that is refused.

=======================================  ======================================================================
unit                                     zero point
=======================================  ======================================================================
nJy, uJy, Jy, erg / (s cm2 Hz), ...      that of the AB system (Oke & Gunn 1983, ApJ 266, 713): 31.4, 23.9, 8.9
nanomaggies, maggies                     22.5, 0 (AB)
MJy / sr, nJy / arcsec2, ...             surface brightness: that of the flux in a pixel, whose width has to be known
counts per second, electron, adu, DN     as stated: they name no flux
erg / (s cm2 Angstrom), ...              as stated; 21.1 below zero is the ST system, which no AB magnitude follows from
                                         without the shape of the filter
=======================================  ======================================================================
"""

import re
import warnings
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

__all__ = [
    "UNSTATED",
    "Photometry",
    "check_photometry",
    "flux_unit_of",
    "natural_zero_point",
    "photometry_from",
    "surface_factor",
    "table_unit",
]

UNSTATED = "not stated"
ZERO_POINT_TOLERANCE = 0.01  # mag: 3631 Jy, for the 3630.78 Jy of the definition, is 0.00007 mag
AB_OF_JANSKY = 8.9  # -2.5 log10(1e-23) - 48.6, exactly
ST_ZERO_POINT = -21.1  # of erg / (s cm2 Angstrom)
SURFACE_UNIT = "nJy"  # what surface brightness becomes: numbers of ordinary size
WORDS = {  # of surveys, for what Astropy calls otherwise
    r"nano-?maggie?s?|nano-?maggy|nmgys?|nmgy": "nmgy",
    r"maggies?|maggy|mgy": "mgy",
    r"nano-?janskys?": "nJy",
    r"(micro-?|µ|μ)janskys?|[µμ]jy": "uJy",
    r"milli-?janskys?": "mJy",
    r"janskys?": "Jy",
    r"counts? per second|counts? */ *s(ec)?|cts? */ *s(ec)?|cps|counts? s-1": "ct / s",
    r"(e-|electrons?) (per second|s-1)|(e-|electrons?) */ *s(ec)?": "electron / s",
    r"counts?|cts?": "ct",
    r"e-|electrons?": "electron",
    r"(dn|adu|data numbers?) per second|(dn|adu) */ *s(ec)?": "adu / s",
    r"dn|adu|data numbers?": "adu",
}


class Photometry(msgspec.Struct, frozen=True):
    """Unit of fluxes, and magnitude of a source of unit flux.

    Attributes:
        flux_unit: Unit of fluxes, in words or as Astropy writes it; pixels hold this unit per pixel.
        magnitude_zero_point: Magnitude of a source of unit flux [mag].

    Example:
        >>> counts = Photometry("counts per second", 25.94)
        >>> round(counts.factor_to(Photometry("nJy", 31.4)), 3)
        152.757
        >>> counts.factor_to(Photometry("electron / s", 25.94))
        1.0
    """

    flux_unit: str
    magnitude_zero_point: float

    def factor_to(self, other: "Photometry") -> float:
        """Return the factor from fluxes of this photometry to those of another: exactly 1 for one zero point.

        Raises:
            ValueError: If the two are of different magnitude systems, or contradict themselves.
        """
        if self.magnitude_zero_point == other.magnitude_zero_point:
            return 1.0
        if self.is_st != other.is_st:
            raise ValueError(
                f"photometry: expected one magnitude system, got {self} (ST) and {other}; give the zero point of the "
                "AB system, which follows from ST with the pivot wavelength of the filter"
                if self.is_st
                else f"photometry: expected one magnitude system, got {self} and {other} (ST)"
            )
        return 10 ** (0.4 * (other.magnitude_zero_point - self.magnitude_zero_point))

    @property
    def is_st(self) -> bool:
        """Whether magnitudes are of the ST system: a flux per wavelength, with its zero point."""
        unit = _unit(self.flux_unit)
        return unit is not None and _is_st(unit, self.magnitude_zero_point)

    def __str__(self) -> str:
        """Return a few words, for messages."""
        return f"{self.flux_unit} at zero point {self.magnitude_zero_point:.10g} mag"


def photometry_from(
    flux_unit: Any = None,
    magnitude_zero_point: Any = None,
    *,
    pixel_scale_arcsec: float | None = None,
) -> Photometry | None:
    """Combine given unit and zero point into one photometry; None where neither is given.

    Args:
        flux_unit: Unit of fluxes, or of surface brightness: words, or an Astropy unit.
        magnitude_zero_point: Magnitude of a source of unit flux [mag]; None if the unit says it.
        pixel_scale_arcsec: Width of a pixel, for units of surface brightness [arcsec].

    Raises:
        ValueError: If they contradict each other, or the unit names no flux and there is no zero point.

    Example:
        >>> photometry_from("uJy").magnitude_zero_point
        23.9
        >>> photometry_from("nJy", 25.94)
        Traceback (most recent call last):
        ...
        ValueError: magnitude_zero_point: expected 31.4 mag (AB) for fluxes in nJy, got 25.94; leave one of the two out
    """
    if flux_unit is None and magnitude_zero_point is None:
        return None
    name = UNSTATED if flux_unit is None else flux_unit_of(flux_unit)
    natural = natural_zero_point(name, pixel_scale_arcsec)
    if magnitude_zero_point is None:
        if natural is None:
            raise ValueError(
                f"magnitude_zero_point: expected the magnitude of a source of unit flux, got none with flux_unit "
                f"{name!r}, which names no flux; give it"
            )
        return Photometry(name, natural)
    stated = Photometry(name, _magnitude(magnitude_zero_point))
    check_photometry(stated, pixel_scale_arcsec)
    return stated


def check_photometry(photometry: Photometry, pixel_scale_arcsec: float | None = None) -> None:
    """Check that unit and zero point do not contradict each other.

    Args:
        photometry: What is said.
        pixel_scale_arcsec: Width of a pixel, for units of surface brightness [arcsec].

    Raises:
        ValueError: If they do; both are named.
    """
    unit, zero_point = photometry.flux_unit, photometry.magnitude_zero_point
    if not np.isfinite(zero_point):
        raise ValueError(f"magnitude_zero_point: expected a finite magnitude, got {zero_point}")
    parsed = _unit(unit)
    surface = parsed is not None and _is_surface(parsed)
    if surface and pixel_scale_arcsec is None:
        return  # of which pixels, its survey knows
    natural = natural_zero_point(unit, pixel_scale_arcsec)
    if natural is not None and abs(natural - zero_point) > ZERO_POINT_TOLERANCE:
        area = f" over a pixel of {pixel_scale_arcsec:g} arcsec" if surface else ""
        raise ValueError(
            f"magnitude_zero_point: expected {natural:.6g} mag (AB) for fluxes in {unit}{area}, got {zero_point:g}; "
            "leave one of the two out"
        )


def natural_zero_point(flux_unit: str, pixel_scale_arcsec: float | None = None) -> float | None:
    """Return the AB magnitude of a source of unit flux if the unit names a flux density, or None.

    Args:
        flux_unit: A unit in words.
        pixel_scale_arcsec: Width of a pixel, for units of surface brightness [arcsec].

    Raises:
        ValueError: If the unit is a magnitude, or a surface brightness without the width of a pixel.

    Example:
        >>> natural_zero_point("nJy"), natural_zero_point("nanomaggies"), natural_zero_point("counts per second")
        (31.4, 22.5, None)
        >>> round(natural_zero_point("MJy / sr", 0.03), 3)
        28.087
    """
    unit = _unit(flux_unit)
    if unit is None:
        return None
    jansky = _in_jansky(unit, flux_unit, pixel_scale_arcsec)
    return None if jansky is None else round(float(AB_OF_JANSKY - 2.5 * np.log10(jansky)), 9)


def flux_unit_of(unit: Any) -> str:
    """Return a unit of fluxes as it is recorded: the given text, or an Astropy unit in words.

    Raises:
        ValueError: If it is a magnitude.
    """
    words = unit if isinstance(unit, str) else unit.to_string()
    words = " ".join(words.split()) or UNSTATED
    _unit(words)
    return words


def table_unit(flux_unit: str) -> str | None:
    """Return a unit of fluxes as a column of a table states it, or None if it is no unit that Astropy knows.

    Example:
        >>> table_unit("counts per second"), table_unit("the survey's own")
        ('ct / s', None)
    """
    try:
        unit = _unit(flux_unit)
    except ValueError:
        return None
    return None if unit is None else unit.to_string()


def surface_factor(flux_unit: str, pixel_scale_arcsec: float) -> float | None:
    """Return the factor from pixels of surface brightness to ``SURFACE_UNIT``; None for other units.

    Args:
        flux_unit: A unit in words.
        pixel_scale_arcsec: Width of a pixel [arcsec].

    Example:
        >>> round(surface_factor("MJy / sr", 0.03), 4), surface_factor("nJy", 0.03)
        (21.154, None)
    """
    unit = _unit(flux_unit)
    if unit is None or not _is_surface(unit):
        return None
    of_surface, zero_point = (
        natural_zero_point(SURFACE_UNIT),
        natural_zero_point(flux_unit, pixel_scale_arcsec),
    )
    assert of_surface is not None and zero_point is not None  # both name flux densities
    return 10 ** (0.4 * (of_surface - zero_point))


def _in_jansky(unit: Any, words: str, pixel_scale_arcsec: float | None) -> float | None:
    """A unit in Jy, of surface brightness over one pixel; None if it names no flux density."""
    import astropy.units as u

    quantity = 1.0 * unit
    if _is_surface(unit):
        if pixel_scale_arcsec is None:
            raise ValueError(
                f"flux_unit: expected the width of a pixel with {words}, a surface brightness, got none; give "
                "pixel_scale_arcsec"
            )
        quantity = quantity * (pixel_scale_arcsec * u.arcsec) ** 2
    try:
        return float(quantity.to_value(u.Jy, u.zero_point_flux(1 * u.AB)))
    except u.UnitConversionError:
        return None


def _is_surface(unit: Any) -> bool:
    import astropy.units as u

    return unit.is_equivalent(u.Jy / u.sr) or unit.is_equivalent(u.mgy / u.sr)


def _is_st(unit: Any, zero_point: float) -> bool:
    import astropy.units as u

    if not unit.is_equivalent(u.ST):
        return False
    flux = (1.0 * unit).to_value(u.erg / u.s / u.cm**2 / u.AA)
    return bool(abs(ST_ZERO_POINT - 2.5 * np.log10(flux) - zero_point) < ZERO_POINT_TOLERANCE)


@lru_cache(maxsize=256)
def _unit(words: str) -> Any:
    """Astropy unit of a text, without "per pixel"; None if Astropy cannot parse it."""
    import astropy.units as u

    text = re.sub(r"\s*(per|/)\s*(pixel|pix)$", "", words.strip().lower())
    for pattern, name in WORDS.items():
        if re.fullmatch(pattern, text):
            return u.Unit(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", u.UnitsWarning)  # of several slashes
            unit = u.Unit(words)
    except (ValueError, TypeError):
        unit = None
    if isinstance(unit, u.function.FunctionUnitBase) or text in ("abmag", "stmag", "mag", "magnitudes"):
        raise ValueError(
            f"flux_unit: expected a unit in which fluxes add up, got {words}, a magnitude; turn magnitudes into fluxes"
        )
    if unit is None or unit == u.dimensionless_unscaled:
        return None
    pixels = dict(zip(unit.bases, unit.powers, strict=True)).get(u.pix)
    unit = unit * u.pix if pixels == -1 else unit
    if u.beam in unit.bases:
        raise ValueError(f"flux_unit: expected flux per pixel, got {words}; divide by the pixels of a beam")
    return unit


def _magnitude(value: Any) -> float:
    """A zero point as a number: magnitudes may come as a quantity."""
    try:
        number = float(getattr(value, "value", value))
    except (TypeError, ValueError):
        raise ValueError(f"magnitude_zero_point: expected a magnitude, got {value!r}") from None
    unit = getattr(value, "unit", None)
    if unit is not None and str(unit) not in ("mag", "mag(AB)"):
        raise ValueError(f"magnitude_zero_point: expected mag or mag(AB), got {unit}")
    return number
