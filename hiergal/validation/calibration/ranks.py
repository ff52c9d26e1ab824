"""Rank statistics of simulated truths among posterior draws, for one quantity or several together.

Draws are arrays [s, n] or [s, n, d]: s draws for each of n galaxies, of one quantity or of d; truths are [n] or [n, d].
For exact posteriors the ranks are uniform; spread evenly over [0, 1], exactly so, however few the draws. Part of
``hiergal.validation.calibration.checks``, which says more. Ranks: Talts et al. (2018), arXiv:1804.06788. Joint
coverage: Lemos et al. (2023), arXiv:2302.03026. The test: Neyman (1937), as in Rayner & Best (1989).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import special, stats

from hiergal.runtime.verdict import ALPHA, Verdict, verdict_of

__all__ = ["Draws", "Truth", "checked_draws", "sbc_ranks", "sbc_test", "tarp_coverage", "tarp_test"]

# Truths have axes of their own, so that a wrong shape meets the words of `checked_draws` first.
Draws = Float[np.ndarray, "s n"]
Truth = Float[np.ndarray, "m"]
JointDraws = Float[np.ndarray, "s n d"]
JointTruth = Float[np.ndarray, "m e"]

LEAST_DRAWS, LEAST_GALAXIES = 2, 10
# What is wrong where a component of the histogram of ranks is positive, and where it is negative.
FAULTS = (
    ("posteriors are too low", "posteriors are too high"),
    ("posteriors are too narrow", "posteriors are too wide"),
    ("posteriors have a wrong skewness", "posteriors have a wrong skewness"),
    ("posteriors have wrong tails", "posteriors have wrong tails"),
)


def sbc_ranks(
    draws: Float[np.ndarray, "s n *d"], truth: Float[np.ndarray, "m *e"], *, seed: int = 0
) -> Int[np.ndarray, "n *d"]:
    """Rank each truth among its draws, from 0 to the number of draws; for exact posteriors, all ranks are as likely.

    Args:
        draws: Posterior draws.
        truth: True values.
        seed: Seed of the ranks of truths that equal some draws, which are drawn at random.

    Raises:
        ValueError: If shapes do not fit, or values are not finite.

    Example:
        >>> sbc_ranks(np.arange(9.0)[:, None] * np.ones(3), np.array([-1.0, 3.5, 20.0])).tolist()
        [0, 4, 9]
    """
    draws, truth = checked_draws(draws, truth, least=1)
    return _ranks(draws, truth, np.random.default_rng(seed))


def sbc_test(draws: Draws, truth: Truth, name: str, *, seed: int = 0, alpha: float = ALPHA) -> Verdict:
    """Test by simulation-based calibration: the ranks of the truths are uniform if the posteriors are exact.

    The p-value is that of Neyman's smooth test with Legendre polynomials of degree 1 to 4: degree 1 sees a shift, 2 a
    width, 3 a skewness, 4 tails, with equal weight; Kolmogorov-Smirnov and Anderson-Darling are slow to see a width.

    Args:
        draws: Posterior draws of one quantity.
        truth: Its true values.
        name: Name of the quantity.
        seed: Seed of the randomised ranks.
        alpha: Chance of a false alarm.

    Returns:
        The verdict; the statistic is the root-mean-square departure of the histogram of ranks from flat, in those
        degrees, as a fraction.

    Raises:
        ValueError: If shapes do not fit, values are not finite, or there are too few of them.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> draws, truth = rng.normal(size=(99, 1000)), rng.normal(size=1000)
        >>> [sbc_test(width * draws, truth, "flux").passed for width in (0.8, 1.0, 1.25)]
        [False, True, False]
    """
    draws, truth = checked_draws(draws, truth, name)
    found = _departure(_unit_ranks(draws, truth, np.random.default_rng(seed)))
    words = f"{name}: ranks depart from uniform by {_percent(found)}"
    if found.p_value < alpha:
        largest = np.argmax(np.abs(found.components))
        words += f"; {FAULTS[largest][int(found.components[largest] < 0)]}"
    return verdict_of(f"{name} (ranks)", *found[:4], alpha, words)


def tarp_coverage(draws: JointDraws, truth: JointTruth, *, seed: int = 0) -> Float[np.ndarray, "n"]:
    """Return the probability of the region around a random point that just reaches the truth, for each galaxy (TARP).

    Points are uniform in the box that the truths span, distances Euclidean in units of the truths' standard deviations.
    The share of draws that are nearer than the truth is randomised as ranks are; for exact posteriors it is uniform.

    Args:
        draws: Posterior draws of several quantities; a draw has one row of each.
        truth: Their true values.
        seed: Seed of the points and of the randomised ranks.

    Raises:
        ValueError: If shapes do not fit, values are not finite, or there are too few of them.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> share = tarp_coverage(rng.normal(size=(99, 500, 3)), rng.normal(size=(500, 3)))
        >>> share.shape, bool(abs(share.mean() - 0.5) < 0.05)
        ((500,), True)
    """
    draws, truth = checked_draws(draws, truth)
    rng = np.random.default_rng(seed)
    point = rng.uniform(truth.min(axis=0), truth.max(axis=0), truth.shape)
    scale = truth.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    # One dimension at a time: no second array is as large as the draws.
    squares = sum(((draws[..., j] - point[:, j]) / scale[j]) ** 2 for j in range(truth.shape[1]))
    return _unit_ranks(squares, (((truth - point) / scale) ** 2).sum(axis=1), rng)


def tarp_test(
    draws: JointDraws, truth: JointTruth, name: str = "joint", *, seed: int = 0, alpha: float = ALPHA
) -> Verdict:
    """Test the joint coverage of several quantities with random points; see :func:`tarp_coverage`.

    It sees widths and wrong correlations. Around random points shifts cancel in first order: with 1000 galaxies 0.3
    standard deviations go unnoticed here, 0.6 do not.

    Args:
        draws: Posterior draws of several quantities.
        truth: Their true values.
        name: Name of the quantities.
        seed: Seed of the points and of the randomised ranks.
        alpha: Chance of a false alarm.

    Returns:
        The verdict, with statistic and p-value as in :func:`sbc_test`.

    Raises:
        ValueError: If shapes do not fit, values are not finite, or there are too few of them.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> draws, truth = rng.normal(size=(99, 1000, 3)), rng.normal(size=(1000, 3))
        >>> [tarp_test(width * draws, truth).passed for width in (0.7, 1.0)]
        [False, True]
    """
    found = _departure(tarp_coverage(draws, truth, seed=seed))
    words = f"{name}: coverage of random regions departs from uniform by {_percent(found)}"
    return verdict_of(f"{name} (TARP)", *found[:4], alpha, words)


def checked_draws(
    draws: np.ndarray, truth: np.ndarray, name: str = "posteriors", *, least: int = LEAST_GALAXIES
) -> tuple[np.ndarray, np.ndarray]:
    """Check shapes, numbers and finiteness, and return both in double precision."""
    if draws.shape[1:] != truth.shape:
        raise ValueError(
            f"{name}: expected draws of shape (draws, {str(truth.shape)[1:]} for truths of shape {truth.shape}, "
            f"got {draws.shape}; the axis of draws comes first"
        )
    if len(draws) < LEAST_DRAWS:
        raise ValueError(f"{name}: expected at least {LEAST_DRAWS} draws, got {len(draws)}; draw more")
    if len(truth) < least:
        raise ValueError(f"{name}: expected at least {least} galaxies, got {len(truth)}; simulate more")
    for what, finite in (("draws", np.isfinite(draws).all(axis=0)), ("truths", np.isfinite(truth))):
        if not finite.all():
            bad = (~finite.reshape(len(truth), -1).all(axis=1)).sum()
            raise ValueError(
                f"{name}: expected finite {what}, got NaN or infinity for {bad} of {len(truth)} galaxies; "
                "leave these out, and say how many"
            )
    return np.asarray(draws, float), np.asarray(truth, float)


class _Departure(NamedTuple):
    """Departure from uniform: size, error, size that chance gives, p-value, and components of degree 1 to 4."""

    size: float
    error: float
    expected: float
    p_value: float
    components: Float[np.ndarray, "k"]


def _departure(u: Float[np.ndarray, "n"]) -> _Departure:
    """Compare values with the uniform distribution on [0, 1] by Neyman's smooth test."""
    degrees = np.arange(1, len(FAULTS) + 1)[:, None]
    waves = np.sqrt(2 * degrees + 1) * special.eval_legendre(degrees, 2 * u - 1)  # orthonormal
    n, k, components = len(u), len(degrees), waves.mean(axis=1)
    size = float(np.linalg.norm(components))
    error = float(np.std(components @ waves) / max(size, 1e-12) / np.sqrt(n))
    expected = float(np.sqrt(2 / n) * special.gamma((k + 1) / 2) / special.gamma(k / 2))
    return _Departure(size, error, expected, float(stats.chi2.sf(n * size**2, k)), components)


def _percent(found: _Departure) -> str:
    size, error, expected = (100 * x for x in found[:3])
    return f"{size:.1f} +- {error:.1f} % (rms), {expected:.1f} % if calibrated"


def _ranks(draws: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (draws < truth).sum(axis=0) + rng.integers(0, (draws == truth).sum(axis=0), endpoint=True)


def _unit_ranks(draws: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return ranks spread evenly over [0, 1]: for exact posteriors exactly uniform, however few the draws."""
    return (_ranks(draws, truth, rng) + rng.uniform(size=truth.shape)) / (len(draws) + 1)
