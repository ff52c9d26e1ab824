"""Identities of galaxies: random numbers that follow a galaxy, and not its place in a catalogue.

An identifier (an integer of 64 bits, or text) becomes a number of 64 bits, in two halves of 32, by a hash: the same on
every machine. Rows can then be dropped, added or sorted, and each galaxy stays as it was.
"""

import hashlib
from typing import Any

import numpy as np
from jaxtyping import Float, UInt32

__all__ = ["identities", "identity_normals"]

GOLDEN, FIRST, SECOND = (
    0x9E3779B97F4A7C15,
    0xBF58476D1CE4E5B9,
    0x94D049BB133111EB,
)  # SplitMix64 (Steele et al. 2014)


def identities(catalog: Any, column: str) -> UInt32[np.ndarray, "n two"]:
    """Turn a column of identifiers into numbers that random numbers can depend on.

    Args:
        catalog: Columns with names.
        column: The column: integers or text, all different.

    Returns:
        The upper and the lower 32 bits of a hash of each, [n, 2].

    Raises:
        ValueError: If the column is missing, or its values are masked, not unique, or neither integers nor text.

    Example:
        >>> identities({"id": [36411448540268969, 36411448540268970]}, "id").shape
        (2, 2)
    """
    try:
        values = catalog[column]
    except (KeyError, ValueError, IndexError):
        raise ValueError(
            f"identifier: expected a column {column!r} in the catalogue, there is none"
        ) from None
    return hash_identifiers(values, column)


def hash_identifiers(values: Any, column: str) -> UInt32[np.ndarray, "n two"]:
    """Hash identifiers; see :func:`identities`."""
    if np.ma.getmaskarray(np.ma.asarray(values)).any() if isinstance(values, np.ma.MaskedArray) else False:
        raise ValueError(f"identifier: {column}: expected an identifier in each row, got masked ones")
    values = np.atleast_1d(np.asarray(values))
    if values.ndim > 1:
        raise ValueError(f"identifier: {column}: expected one for each row, got shape {values.shape}")
    if values.dtype.kind == "O" and all(isinstance(value, int | np.integer) for value in values):
        values = values.astype(np.int64)
    if values.dtype.kind in "iu":
        bits = _mixed(values.astype(np.int64 if values.dtype.kind == "i" else np.uint64).view(np.uint64))
    elif values.dtype.kind in "SUO" and all(isinstance(value, str | bytes) for value in values):
        bits = np.array([_digest(value) for value in values], np.uint64)
    else:
        raise ValueError(f"identifier: {column}: expected integers or text, got {values.dtype}")
    _, first, count = np.unique(bits, return_index=True, return_counts=True)
    if (count > 1).any():
        again = values[first[count > 1][0]]
        raise ValueError(
            f"identifier: {column}: expected one galaxy for each, got {int((count > 1).sum())} of them more than once "
            f"(such as {again!s}); rows with the same would be the same galaxy"
        )
    return np.stack([bits >> np.uint64(32), bits & np.uint64(0xFFFFFFFF)], axis=-1).astype(np.uint32)


def identity_normals(
    seed: int, identity: UInt32[np.ndarray, "n two"], count: int
) -> Float[np.ndarray, "n count"]:
    """Draw unit-normal numbers of each galaxy: they depend on the seed and its identity alone.

    Args:
        seed: Seed.
        identity: As :func:`identities` gives them.
        count: How many for each.

    Example:
        >>> identity_normals(1, identities({"id": ["a", "b"]}, "id"), 3).shape
        (2, 3)
    """
    from scipy.special import ndtri

    bits = identity.astype(np.uint64)
    start = _mixed((bits[:, 0] << np.uint64(32) | bits[:, 1]) ^ _mixed(np.array([seed], np.uint64)))
    with np.errstate(over="ignore"):
        numbers = _mixed(start[:, None] + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN))
    return ndtri(((numbers >> np.uint64(11)).astype(float) + 0.5) * 2.0**-53)


def _mixed(bits: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64, which maps numbers of 64 bits one to one."""
    with np.errstate(over="ignore"):
        bits = bits + np.uint64(GOLDEN)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(FIRST)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(SECOND)
        return bits ^ (bits >> np.uint64(31))


def _digest(text: str | bytes) -> int:
    data = text if isinstance(text, bytes) else text.encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
