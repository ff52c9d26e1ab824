"""Two-sample tests of galaxies: the verdict, and the permutation of labels that most of them rest on.

If both samples come from one population, it does not matter which galaxy carries which label: the statistic for random
labels says what chance does. One galaxy is a row.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

__all__ = [
    "ALPHA",
    "Verdict",
    "checked",
    "exchange_verdict",
    "holm",
    "labels_of",
    "pooled_rows",
    "standardised",
    "verdict_of",
]

ALPHA = 0.01
EXCHANGES = 9999  # of labels at most: p-values below what Holm asks of dozens of tests
ENOUGH = 20  # exchanges above the statistic
EXCHANGES_PER_CALL = 100  # exchanges at once


class Verdict(NamedTuple):
    """Result of a two-sample test.

    Attributes:
        name: What was compared.
        statistic: The measure of the difference; what it is says the test.
        error: Its standard error.
        expected: Its mean for two samples of one population.
        p_value: Chance of at least such a difference for two samples of one population.
        passed: Whether the p-value is at least ``alpha``.
        words: The same in a sentence.
    """

    name: str
    statistic: float
    error: float
    expected: float
    p_value: float
    passed: bool
    words: str


def holm(verdicts: list[Verdict], *, alpha: float = ALPHA) -> list[Verdict]:
    """Judge many comparisons together, so that the chance of any false alarm stays below a level (Holm 1979).

    Args:
        verdicts: The comparisons.
        alpha: That level.

    Returns:
        The same, in their order, with ``passed`` set again; p-values stay.

    Example:
        >>> several = [Verdict(f"v{i}", 0.0, 0.0, 0.0, p, False, "") for i, p in enumerate([0.004, 0.2, 0.001])]
        >>> [verdict.passed for verdict in holm(several, alpha=0.01)]
        [False, True, False]
    """
    order = np.argsort([verdict.p_value for verdict in verdicts], kind="stable")
    failed = np.zeros(len(verdicts), bool)
    for rank, place in enumerate(order):
        if verdicts[place].p_value >= alpha / (len(verdicts) - rank):
            break
        failed[place] = True
    return [verdict._replace(passed=not fail) for verdict, fail in zip(verdicts, failed, strict=True)]


def labels_of(order: Int[np.ndarray, "c nm"], n: int) -> Float[np.ndarray, "c nm"]:
    """Return weights of 1 / n for the n galaxies that come first in an order, and -1 / m for the others."""
    return np.where(order < n, 1 / n, -1 / (order.shape[1] - n))


def exchange_verdict(
    name: str,
    statistic: Callable[[Float[np.ndarray, "c nm"]], Float[np.ndarray, "c"]],
    total: int,
    n: int,
    words: Callable[[float, float, float], str],
    *,
    error: Callable[[float, np.random.Generator], float],
    rng: np.random.Generator,
    alpha: float,
) -> Verdict:
    """Judge a statistic, large for samples that differ, by its values for random labels.

    Exchanges stop once twenty gave at least the statistic found: that is enough to know a p-value that is not small
    (Besag & Clifford 1991).

    Args:
        name: What is compared.
        statistic: Function of weights [exchanges, galaxies], as :func:`labels_of` makes them.
        total: Number of galaxies in both samples.
        n: Number of those that come from the first.
        words: Function of the statistic, its error and its mean for random labels.
        error: Function of the statistic and of a source of randomness that gives the standard error.
        rng: Source of the labels.
        alpha: Chance of a false alarm.
    """
    found = float(statistic(labels_of(np.arange(total)[None], n))[0])
    values = np.empty(0)
    while len(values) < EXCHANGES:
        order = np.stack(
            [rng.permutation(total) for _ in range(min(EXCHANGES_PER_CALL, EXCHANGES - len(values)))]
        )
        values = np.append(values, statistic(labels_of(order, n)))
        above = np.flatnonzero(values >= found * (1 - 1e-12))
        if len(above) >= ENOUGH:
            break
    if len(above) >= ENOUGH:
        p_value = ENOUGH / (above[ENOUGH - 1] + 1)
    else:
        # The labels as they are belong to the exchanges: no p-value is zero.
        p_value = (len(above) + 1) / (len(values) + 1)
    scatter, expected = error(found, rng), float(values.mean())
    return verdict_of(name, found, scatter, expected, float(p_value), alpha, words(found, scatter, expected))


def verdict_of(
    name: str, statistic: float, error: float, expected: float, p_value: float, alpha: float, words: str
) -> Verdict:
    """Judge a p-value."""
    return Verdict(
        name,
        float(statistic),
        error,
        expected,
        p_value,
        bool(p_value >= alpha),
        f"{words}; p = {p_value:.3g}",
    )


def checked(real: np.ndarray, other: np.ndarray, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Check two samples [galaxies, ...]: enough rows, all finite."""
    for what, sample in (("real", real), ("other", other)):
        if len(sample) < least:
            raise ValueError(f"{what}: expected at least {least} galaxies, got {len(sample)}")
        if not np.isfinite(sample).all():
            raise ValueError(
                f"{what}: expected finite values, got NaN or infinity; leave out rows whose flag is not 0"
            )
    return np.asarray(real, float), np.asarray(other, float)


def pooled_rows(real: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, int]:
    """Put two samples into one array, and return how many rows come from the first."""
    real, other = checked(real, other)
    return np.concatenate([real, other]), len(real)


def standardised(real: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale two samples so that the first has zero mean and unit variance in each column."""
    real, other = checked(real, other)
    scale = real.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    return (real - real.mean(axis=0)) / scale, (other - real.mean(axis=0)) / scale
