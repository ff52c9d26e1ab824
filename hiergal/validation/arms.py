"""Tests of spiral arms, bars and lopsidedness: azimuthal modes of rings of bright galaxies, and how their phases drift.

What is measured is in :mod:`hiergal.measure.arms`. Both samples have the same PSFs and noise, and those blur arms and
add to amplitudes alike. The goal of a generator is stated against the floor: what half of the survey's galaxies show
against the other half.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from astropy.table import Table
from jaxtyping import Float

from hiergal.measure.arms import measure_arms
from hiergal.observation.observation import Observation
from hiergal.runtime.pytree import Array
from hiergal.runtime.verdict import ALPHA, Verdict
from hiergal.validation.two_sample import energy_test, wasserstein_test

__all__ = ["BRIGHTER_THAN", "FEWEST_BRIGHT", "GOAL", "arm_tests", "arms_of", "bright", "times_floor"]

# Fainter galaxies are small, and their arms are lost in PSF and noise of ACS in COSMOS; those brighter have a median
# signal to noise of 8 in a pixel, and of some 100 in a ring. They are 14 in 100 of a survey to magnitude 25.2.
BRIGHTER_THAN = 22.5
FEWEST_BRIGHT = 20  # galaxies of a sample, for anything to be said about its distribution
GOAL = 2.0  # times the floor, which a sample of the same population keeps to

QUANTITIES = {  # tests of one quantity: its column, and whether its logarithm counts
    "m = 1 of rings": ("m1", True),
    "m = 2 of rings": ("m2", True),
    "m = 3 of rings": ("m3", True),
    "winding of m = 2": ("winding2", True),
    "phase drift of m = 2": ("drift2", False),
}
TOGETHER = (
    *(f"m{m}_{part}" for m in (1, 2, 3) for part in ("inner", "outer")),
    *("winding2", "winding3"),
)
TOGETHER_NAME = "arms"
SMALLEST_VALUE = 1e-4  # of an amplitude


def arms_of(images: Float[Array, "n y x"], moments: Table, observation: Observation) -> Table:
    """Measure the arms of galaxies that are observed as those of a survey, next to the survey's magnitudes.

    Args:
        images: Stamps [flux per pixel].
        moments: Their adaptive moments.
        observation: The survey's galaxies, row for row.

    Returns:
        Columns of :func:`hiergal.measure.arms.measure_arms`, and ``magnitude``, that of the catalogue (``mag_auto``),
        NaN where it has none.
    """
    table = measure_arms(images, moments, pixel_scale_arcsec=observation.pixel_scale_arcsec)
    table["magnitude"] = np.asarray(observation.catalog.get("mag_auto", np.full(len(table), np.nan)), float)
    return table


def bright(arms: Table, *, brighter_than: float = BRIGHTER_THAN) -> Table:
    """Return the rows of galaxies that are bright enough, and were measured.

    Args:
        arms: Measurements of a sample, from :func:`arms_of`.
        brighter_than: Magnitude of the faintest that count.
    """
    return arms[np.asarray((arms["magnitude"] < brighter_than) & (arms["flag"] == 0))]


def arm_tests(
    real: Table,
    other: Table,
    *,
    brighter_than: float = BRIGHTER_THAN,
    seed: int = 0,
    alpha: float = ALPHA,
) -> list[Verdict]:
    """Compare the arms of bright galaxies: amplitudes of m = 1, 2, 3, what winds, and how fast it does.

    Amplitudes are compared by their logarithms, and drifts by their moduli, since a galaxy and its mirror image are
    equally likely.

    Args:
        real: Measurements of the survey's galaxies, from :func:`arms_of`.
        other: Measurements of the sample to be judged, with the magnitudes of the survey's galaxies.
        brighter_than: Magnitude of the faintest that count.
        seed: Seed of everything random.
        alpha: Chance of a false alarm.

    Returns:
        Five Wasserstein distances and an energy distance of the amplitudes inside and outside the half-light radius
        together; none if fewer than twenty galaxies of a sample are bright enough.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> names = [name for name, _ in QUANTITIES.values()] + list(TOGETHER)
        >>> samples = [Table({name: rng.gamma(4, 0.02 * k, 300) for name in names}) for k in (1, 1, 2)]
        >>> for sample in samples:
        ...     sample["magnitude"], sample["flag"] = np.linspace(20, 24, 300), 0
        >>> [all(one.passed for one in arm_tests(samples[0], sample)) for sample in samples[1:]]
        [True, False]
    """
    here, there = (bright(sample, brighter_than=brighter_than) for sample in (real, other))
    if min(len(here), len(there)) < FEWEST_BRIGHT:
        return []
    verdicts = []
    for name, (column, logarithm) in QUANTITIES.items():
        pair = (_column(sample, column, logarithm=logarithm) for sample in (here, there))
        verdicts.append(wasserstein_test(*pair, name, seed=seed, alpha=alpha))
    rows = (
        np.stack([_column(sample, name, logarithm=True) for name in TOGETHER], axis=1)
        for sample in (here, there)
    )
    verdicts.append(energy_test(*rows, TOGETHER_NAME, seed=seed, alpha=alpha))
    counted = f"{len(here)} and {len(there)} galaxies brighter than {brighter_than:g}"
    return [verdict._replace(words=f"{verdict.words} ({counted})") for verdict in verdicts]


def times_floor(verdicts: Mapping[str, Sequence[Verdict]]) -> dict[str, float]:
    """Return the statistics of drawn galaxies' arms over the floor, by name of the test.

    The floor is the mean of the statistic over random divisions of the survey's galaxies into halves.

    Args:
        verdicts: Verdicts of a validation by sample, with ``drawn`` and, if there are enough galaxies, ``floor``.
    """
    names = {f"{name} (Wasserstein)" for name in QUANTITIES} | {f"{TOGETHER_NAME} (energy)"}
    floor = {one.name: one.expected for one in verdicts.get("floor", ()) if one.name in names}
    return {one.name: one.statistic / floor[one.name] for one in verdicts["drawn"] if one.name in floor}


def _column(sample: Table, name: str, *, logarithm: bool) -> Float[np.ndarray, "n"]:
    values = np.abs(np.asarray(sample[name], float))
    return np.log(np.maximum(values, SMALLEST_VALUE)) if logarithm else values
