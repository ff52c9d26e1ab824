"""Masks whose numbers are bits: which of them mean that a pixel is bad.

A mask of 0 and 1 excludes what is 1. Masks of HSC and Rubin have a plane for each bit, named in the header (``MP_SAT``
and so on), and the one of ``DETECTED`` is set on every galaxy: only planes that say that pixels are bad count. Other
bits have no names (the ``DQ`` of HST and JWST): which mean bad has to be said.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

__all__ = ["BAD_PLANES", "bad_pixels", "parse_bad_bits"]

BAD_PLANES = (
    "BAD", "SAT", "INTRP", "CR", "EDGE", "NO_DATA", "SUSPECT", "UNMASKEDNAN", "BRIGHT_OBJECT", "CROSSTALK", "VIGNETTED",
    "STREAK", "SPIKE", "ITL_DIP",
)  # fmt: skip


def parse_bad_bits(words: str | int | None) -> int | tuple[str, ...] | None:
    """Return which bits mean bad: the sum of their values, or names of planes; None if not given.

    Args:
        words: A number such as ``1`` or ``5`` (the bits 1 and 4), ``all``, or names such as ``SAT,CR``.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> parse_bad_bits("5"), parse_bad_bits("SAT,CR"), parse_bad_bits("all")
        (5, ('SAT', 'CR'), -1)
    """
    if words is None or isinstance(words, int):
        return words
    text = str(words).strip()
    if text.lower() == "all":
        return -1
    if text.isdigit():
        return int(text)
    names = tuple(name.strip().upper().removeprefix("MP_") for name in text.split(","))
    if not all(name.replace("_", "").isalnum() and not name.isdigit() for name in names):
        raise ValueError(
            f"bad_bits: expected a sum of bits, such as 5, names of planes, such as SAT,CR, or all, got {text}"
        )
    return names


def bad_pixels(
    values: Any, header: Mapping[str, Any], bad: int | tuple[str, ...] | None, where: str
) -> Bool[np.ndarray, "y x"]:
    """Find the pixels that a mask excludes.

    Args:
        values: The mask.
        header: Its header.
        bad: Which bits mean bad (:func:`parse_bad_bits`); None for the planes that say so, or for 1.
        where: File and extension, for errors.

    Raises:
        ValueError: If it is not clear what the numbers mean.

    Example:
        >>> bad_pixels(np.array([[0, 32, 33]]), {"MP_BAD": 0, "MP_DETECTED": 5}, None, "MASK").tolist()
        [[False, False, True]]
    """
    values = np.asarray(values)
    if values.dtype.kind == "b":
        return values.copy()
    if values.dtype.kind == "f":
        if not np.isfinite(values).all() or (values != np.rint(values)).any():
            raise ValueError(f"{where}: expected whole numbers in a mask, got {values.dtype} with others")
        values = values.astype(np.int64)
    planes = {
        str(key)[3:].upper(): int(value)
        for key, value in header.items()
        if str(key).upper().startswith("MP_") and isinstance(value, int) and 0 <= value < 64
    }
    values = values.astype(np.int64)
    if isinstance(bad, tuple):
        unknown = [name for name in bad if name not in planes]
        if unknown:
            raise ValueError(
                f"{where}: expected planes named {', '.join(unknown)}, got {', '.join(planes) or 'no names (MP_*)'}"
            )
        bits = sum(1 << planes[name] for name in set(bad))
    elif bad is not None:
        bits = bad
    elif planes:
        bits = sum(1 << planes[name] for name in BAD_PLANES if name in planes)
    else:
        other = values[(values != 0) & (values != 1)]
        if other.size:
            bits = ", ".join(str(1 << bit) for bit in range(63) if (values & (1 << bit)).any())
            raise ValueError(
                f"{where}: expected 0 and 1, got {other.flat[0]} in {other.size} of {values.size} pixels; if these are "
                f"bits ({bits}), say which mean bad with --bad-bits, as their sum, or --bad-bits all"
            )
        bits = 1
    return (values & np.int64(bits)) != 0
