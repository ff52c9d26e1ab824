"""Two-sample tests of means and distributions, with errors, p-values and verdicts.

One galaxy is a row. ``real`` is the sample to be matched, ``other`` that of a generator. A test that is passed says
that nothing was seen with so many galaxies, not that there is nothing. Wasserstein distances: Villani (2009); energy
distances: Szekely & Rizzo (2013). Tests that learn or divide the space are in ``hiergal.validation.learned_tests``.
"""

import numpy as np
from jaxtyping import Float
from scipy import stats

from hiergal.runtime.verdict import (
    ALPHA,
    Verdict,
    checked,
    exchange_verdict,
    labels_of,
    pooled_rows,
    standardised,
    verdict_of,
)

__all__ = ["energy_test", "mean_test", "wasserstein_test"]

Sample = Float[np.ndarray, "n"]
OtherSample = Float[np.ndarray, "m"]
Rows = Float[np.ndarray, "n d"]
OtherRows = Float[np.ndarray, "m d"]

ENERGY_ROWS = 2000  # of each sample: the matrix of distances is no larger than that


def mean_test(real: Sample, other: OtherSample, name: str, *, seed: int = 0, alpha: float = ALPHA) -> Verdict:
    """Compare means; the statistic is the relative difference, other over real minus 1.

    Args:
        real: Values of one quantity.
        other: Values of the generator.
        name: Name of the quantity.
        seed: Seed of the bootstrap that gives the error.
        alpha: Chance of a false alarm.

    Returns:
        The verdict, with Welch's p-value, which is approximate for small samples.

    Raises:
        ValueError: If a sample has fewer than two values, or values that are not finite.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> mean_test(rng.normal(2.0, 1.0, 4000), rng.normal(2.2, 1.0, 4000), "size").passed
        False
    """
    real, other = checked(real[:, None], other[:, None])
    rng = np.random.default_rng(seed)
    difference = other.mean() / real.mean() - 1
    again = [
        rng.choice(other[:, 0], len(other)).mean() / rng.choice(real[:, 0], len(real)).mean() - 1
        for _ in range(200)
    ]
    p_value = float(stats.ttest_ind(real[:, 0], other[:, 0], equal_var=False).pvalue)
    error = float(np.std(again))
    words = f"mean {name} differs by {100 * difference:+.2f} +- {100 * error:.2f} %"
    return verdict_of(f"mean {name}", difference, error, 0.0, p_value, alpha, words)


def wasserstein_test(
    real: Sample, other: OtherSample, name: str, *, seed: int = 0, alpha: float = ALPHA
) -> Verdict:
    """Compare distributions of one quantity by the Wasserstein distance, in units of the real standard deviation.

    Args:
        real: Values of one quantity.
        other: Values of the generator.
        name: Name of the quantity.
        seed: Seed of bootstrap and exchanges.
        alpha: Chance of a false alarm.

    Raises:
        ValueError: If a sample has fewer than two values, or values that are not finite.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> verdict = wasserstein_test(rng.normal(size=900), rng.normal(0.3, 1.0, 800), "size")
        >>> verdict.passed, 0.2 < verdict.statistic < 0.4
        (False, True)
    """
    pooled, n = pooled_rows(real[:, None], other[:, None])
    values, scale = pooled[:, 0], float(np.std(real)) or 1.0
    order = np.argsort(values, kind="stable")
    gaps = np.diff(values[order]) / scale

    def distance(labels: Float[np.ndarray, "k nm"]) -> Float[np.ndarray, "k"]:
        below = np.cumsum(labels[:, order], axis=1)[:, :-1]
        return np.abs(below) @ gaps

    def error(_: float, rng: np.random.Generator) -> float:
        pairs = ((rng.choice(real, n), rng.choice(other, len(other))) for _ in range(100))
        return float(np.std([stats.wasserstein_distance(a, b) / scale for a, b in pairs]))

    return exchange_verdict(
        f"{name} (Wasserstein)",
        distance,
        len(values),
        n,
        lambda found, error, expected: (
            f"{name} is off by {found:.3f} +- {error:.3f} standard deviations, {expected:.3f} for one population"
        ),
        error=error,
        rng=np.random.default_rng(seed),
        alpha=alpha,
    )


def energy_test(real: Rows, other: OtherRows, name: str, *, seed: int = 0, alpha: float = ALPHA) -> Verdict:
    """Compare distributions in several dimensions by the energy distance; rows are standardised with the real ones.

    Args:
        real: Rows of several quantities.
        other: Rows of the generator; the first 2000 rows of each sample count.
        name: Name of the comparison.
        seed: Seed of bootstrap and exchanges.
        alpha: Chance of a false alarm.

    Raises:
        ValueError: If a sample has fewer than two rows, or values that are not finite.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> energy_test(rng.normal(size=(500, 3)), rng.normal(size=(500, 3)), "shapes").passed
        True
    """
    pooled, n = pooled_rows(*standardised(real[:ENERGY_ROWS], other[:ENERGY_ROWS]))
    squares = (pooled**2).sum(axis=1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares - 2 * pooled @ pooled.T, 0))
    # Without its mean, which labels that sum to zero do not see, single precision is enough, and twice as fast.
    apart = (apart - apart.mean()).astype(np.float32)

    def distance(labels: Float[np.ndarray, "k nm"]) -> Float[np.ndarray, "k"]:
        labels = labels.astype(np.float32)
        return -np.einsum("ki,ki->k", labels @ apart, labels)

    def error(_: float, rng: np.random.Generator) -> float:
        # A bootstrap of galaxies, as weights.
        counts = (rng.multinomial(k, np.full(k, 1 / k), 100) for k in (n, len(pooled) - n))
        labels = labels_of(np.arange(len(pooled))[None], n)
        return float(np.std(distance(labels * np.concatenate(list(counts), axis=1))))

    return exchange_verdict(
        f"{name} (energy)",
        distance,
        len(pooled),
        n,
        lambda found, error, expected: (
            f"{name}: energy distance {found:.4f} +- {error:.4f}, {expected:.4f} for one population"
        ),
        error=error,
        rng=np.random.default_rng(seed),
        alpha=alpha,
    )
