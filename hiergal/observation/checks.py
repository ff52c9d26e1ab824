"""Checks of arrays of a batch of galaxies: one sentence for each problem, with what was expected and what came."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped

__all__ = ["Parameter", "bad_rows", "parameter_problems"]


class Parameter(NamedTuple):
    """An array that a noise model consists of: one positive number, or an array of them, for each galaxy.

    Attributes:
        shape: Shape for one galaxy.
        flux_power: Power of the flux unit in its unit: 1 for a standard deviation [flux per pixel], 2 for a variance,
            0 for a number without unit.
        per_pixel: Whether its elements are the pixels of the stamp: then masked ones may hold any value.
    """

    shape: tuple[int, ...]
    flux_power: int = 1
    per_pixel: bool = False


def parameter_problems(
    name: str,
    values: Shaped[np.ndarray, "..."],
    parameter: Parameter,
    mask: Bool[np.ndarray, "n y x"] | None,
    identifier: Shaped[np.ndarray, "n"],
) -> Iterator[str]:
    """Yield a sentence if a parameter has the wrong shape, or values that are not positive and finite.

    Args:
        name: What to call it.
        values: Its values.
        parameter: What it has to be like.
        mask: Pixels to exclude, or None.
        identifier: Identifier of each galaxy.

    Example:
        >>> list(parameter_problems("noise.sigma", np.array([1.0, 0.0]), Parameter(()), None, np.array([7, 8])))
        ['noise.sigma: expected positive and finite values, got others in 1 of 2 galaxies (first: 8)']
    """
    expected = (len(identifier), *parameter.shape)
    if values.shape != expected:
        yield f"{name}: expected shape {expected}, got {values.shape}"
        return
    wrong = ~(np.isfinite(values) & (values > 0))
    if parameter.per_pixel and mask is not None:
        wrong &= ~mask
    bad = wrong.reshape(len(values), -1).any(axis=1)
    yield from bad_rows(name, "positive and finite values", "others", bad, identifier)


def bad_rows(
    what: str,
    expected: str,
    got: str,
    bad: Bool[np.ndarray, "n"],
    identifier: Shaped[np.ndarray, "n"],
    mend: str = "",
) -> Iterator[str]:
    """Yield a sentence if any galaxy is bad: how many, and the identifier of the first.

    Args:
        what: What is checked.
        expected: What was expected.
        got: What came.
        bad: Which galaxies are bad.
        identifier: Identifier of each galaxy.
        mend: What to do, with the words that join it.

    Example:
        >>> list(bad_rows("image", "finite pixels", "NaN", np.array([False, True]), np.array(["a", "b"])))
        ['image: expected finite pixels, got NaN in 1 of 2 galaxies (first: b)']
    """
    if bad.any():
        first = identifier[np.flatnonzero(bad)[0]]
        yield f"{what}: expected {expected}, got {got} in {bad.sum()} of {bad.size} galaxies (first: {first}){mend}"
