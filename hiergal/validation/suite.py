"""The comparisons of two samples of stamps: what is measured on each, and every test between them.

Both samples have the same pixels, and PSFs and noise of the same population (:mod:`hiergal.validation.samples`);
nothing else is asked of them, so that the stamps of any generator can be compared. Samples that share their conditions,
galaxy by galaxy, are more alike than independent ones, which makes the tests conservative.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from astropy.table import Table
from jaxtyping import Bool, Float
from scipy import stats

from hiergal.measure.moments import measure_moments
from hiergal.measure.morphology import measure_morphology
from hiergal.measure.segmentation import detect
from hiergal.runtime.pytree import Array, brief
from hiergal.runtime.verdict import ALPHA, Verdict, holm, verdict_of
from hiergal.validation.learned_tests import (
    FEWEST_CLASSIFIED,
    classifier_test,
    memorization_test,
    pqmass_test,
)
from hiergal.validation.two_sample import energy_test, mean_test, wasserstein_test

__all__ = ["Measured", "Statistics", "cells_for", "compare", "measure", "statistics_of"]

MEANS = ("sigma", "g")  # paper, Fig. 6
LOGARITHMS = ("sigma", "flux", "r50_arcsec", "petrosian_arcsec", "sn_pixel", "intensity", "multimode")
SMALLEST_VALUE = 1e-4  # of intensity and multimode, which may be zero
FROM_MORPHOLOGY = (
    *("gini", "m20", "concentration", "asymmetry", "smoothness", "multimode", "intensity", "deviation"),
    *("r50_arcsec", "petrosian_arcsec", "sn_pixel"),
)
LEAST_SKY = 50  # pixels
CELLS = 50  # of PQMass, at most


class Measured(NamedTuple):
    """Measurements of a sample of stamps, one row for each: moments, morphology, and the sky around the galaxy."""

    moments: Table
    morphology: Table
    sky: Table

    __repr__ = brief


class Statistics(NamedTuple):
    """Numbers of the galaxies of which every measurement succeeded.

    Attributes:
        names: What the columns are.
        rows: Their values; sizes, fluxes and ratios as natural logarithms.
        good: Which of the measured galaxies they belong to.
    """

    names: tuple[str, ...]
    rows: Float[np.ndarray, "n d"]
    good: Bool[np.ndarray, "m"]

    __repr__ = brief


def measure(
    images: Float[Array, "n y x"],
    noise_rms: float | Float[Array, "n"],
    *,
    pixel_scale_arcsec: float,
    workers: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Measured:
    """Measure everything that :func:`compare` compares.

    Args:
        images: Stamps without background [flux per pixel], each with its galaxy near the centre.
        noise_rms: Standard deviation of the noise of a pixel [flux per pixel].
        pixel_scale_arcsec: Width of a pixel [arcsec].
        workers: Number of processes, or None for one per available core.
        on_progress: Called with the number of stamps done since the last call.

    Returns:
        Three tables; the sky has its standard deviation over the noise's (``rms``), and the correlation of pixels
        next to each other (``correlation``), NaN where too little of it is free of sources.

    Raises:
        ValueError: If shapes do not agree, or noise is not positive.
    """
    images = np.asarray(images, float)
    rms = np.broadcast_to(np.asarray(noise_rms, float), len(images))
    morphology = measure_morphology(
        images, rms, pixel_scale_arcsec=pixel_scale_arcsec, workers=workers, on_progress=on_progress
    )
    moments = measure_moments(images, pixel_scale_arcsec=pixel_scale_arcsec)
    sky = Table(
        np.array([_sky(*pair) for pair in zip(images, rms, strict=True)]), names=("rms", "correlation")
    )
    return Measured(moments, morphology, sky)


def statistics_of(measured: Measured) -> Statistics:
    """Collect the numbers of the galaxies of which every measurement succeeded.

    Args:
        measured: Measurements of a sample.
    """
    columns = {name: np.asarray(measured.moments[name], float) for name in ("sigma", "g", "rho4")}
    columns["flux"] = np.asarray(measured.moments["amplitude"], float)
    columns |= {name: np.asarray(measured.morphology[name], float) for name in FROM_MORPHOLOGY}
    for name in ("multimode", "intensity"):
        columns[name] = np.maximum(columns[name], SMALLEST_VALUE)
    with np.errstate(invalid="ignore", divide="ignore"):
        rows = np.stack([np.log(v) if name in LOGARITHMS else v for name, v in columns.items()], axis=1)
    flags = (measured.moments["flag"] == 0) & (measured.morphology["flag"] == 0)
    good = np.asarray(flags) & np.isfinite(rows).all(axis=1)
    return Statistics(tuple(columns), rows[good], good)


def compare(
    real: Measured,
    other: Measured,
    *,
    trained: Measured | None = None,
    seed: int = 0,
    alpha: float = ALPHA,
) -> list[Verdict]:
    """Compare a sample with the real one by all tests.

    Args:
        real: Measurements of held-out galaxies.
        other: Measurements of the sample to be judged.
        trained: Measurements of galaxies that the generator was trained on, to ask whether it copies them; or None.
        seed: Seed of everything random.
        alpha: Chance of any false alarm among all tests, after the correction of Holm.

    Returns:
        The verdicts, in a fixed order; tests that so few galaxies do not allow are left out.

    Raises:
        ValueError: If too few galaxies could be measured.
    """
    here, there = statistics_of(real), statistics_of(other)
    verdicts = [_failures(here.good, there.good, alpha)]
    for name in MEANS:
        values = (np.asarray(m.moments[name], float)[s.good] for m, s in ((real, here), (other, there)))
        verdicts.append(mean_test(*values, name, seed=seed, alpha=alpha))
    for k, name in enumerate(here.names):
        verdicts.append(wasserstein_test(here.rows[:, k], there.rows[:, k], name, seed=seed, alpha=alpha))
    for name in ("rms", "correlation"):
        sky = (np.asarray(m.sky[name]) for m in (real, other))
        verdicts.append(
            wasserstein_test(*(s[np.isfinite(s)] for s in sky), f"sky {name}", seed=seed, alpha=alpha)
        )
    verdicts.append(energy_test(here.rows, there.rows, "all statistics", seed=seed, alpha=alpha))
    if min(len(here.rows), len(there.rows)) >= FEWEST_CLASSIFIED:
        verdicts.append(classifier_test(here.rows, there.rows, "all statistics", seed=seed, alpha=alpha))
    cells = cells_for(len(here.rows) + len(there.rows))
    if cells >= 2:
        verdicts.append(
            pqmass_test(here.rows, there.rows, "all statistics", references=cells, seed=seed, alpha=alpha)
        )
    if trained is not None:
        seen = statistics_of(trained).rows
        verdicts.append(
            memorization_test(there.rows, seen, here.rows, "all statistics", seed=seed, alpha=alpha)
        )
    return holm(verdicts, alpha=alpha)


def cells_for(galaxies: int) -> int:
    """Return the number of cells in which PQMass counts so many galaxies, of both samples together."""
    return min(CELLS, galaxies // 10)


def _failures(here: Bool[np.ndarray, "n"], there: Bool[np.ndarray, "m"], alpha: float) -> Verdict:
    """Whether measurements fail as often on both samples (Fisher's exact test)."""
    counts = [[(~good).sum(), good.sum()] for good in (here, there)]
    shares = [(~good).mean() for good in (here, there)]
    error = float(np.sqrt(sum(s * (1 - s) / len(g) for s, g in zip(shares, (here, there), strict=True))))
    words = f"{100 * shares[1]:.1f} % of the measurements fail, {100 * shares[0]:.1f} % on real galaxies"
    p_value = float(stats.fisher_exact(counts).pvalue)
    return verdict_of("failures", shares[1] - shares[0], error, 0.0, p_value, alpha, words)


def _sky(image: Float[np.ndarray, "y x"], noise_rms: float) -> tuple[float, float]:
    """Standard deviation over the noise's, and correlation along x, of the pixels outside all sources."""
    if not np.isfinite(image).all():
        return float("nan"), float("nan")
    found = detect(image, noise_rms)
    free = ~(found.galaxy | found.neighbours)
    pairs = free[:, 1:] & free[:, :-1]
    if pairs.sum() < LEAST_SKY:
        return float("nan"), float("nan")
    left, right = image[:, :-1][pairs], image[:, 1:][pairs]
    variance = (image[free] ** 2).mean()
    return float(np.sqrt(variance) / noise_rms), float((left * right).mean() / variance)
