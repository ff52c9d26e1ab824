"""Calibration of posteriors: tests with simulated galaxies of known truth, drawn from the prior of the model.

Draws are arrays [s, n] or [s, n, d]: s posterior draws for each of n galaxies, of one quantity or of d; truths are [n]
or [n, d]. For exact posteriors, the truth of a galaxy and its draws are s + 1 draws of one distribution, and nothing
tells which of them is the truth. Ranks (``calibration_ranks``) and z-scores rest on that alone, so their tests hold for
posteriors of any shape, and for few draws.

Ranks: Talts et al. (2018), arXiv:1804.06788. Joint coverage: Lemos et al. (2023), arXiv:2302.03026 (TARP). z-scores and
contraction: Betancourt (2018), arXiv:1803.08393; Schad et al. (2021), arXiv:1904.12765. Posteriors that ignore the
image and give back the prior pass all tests; contraction shows them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from hiergal.runtime.pytree import brief
from hiergal.runtime.verdict import ALPHA, Verdict, holm, verdict_of
from hiergal.validation.calibration.ranks import (
    Draws,
    Truth,
    checked_draws,
    sbc_ranks,
    sbc_test,
    tarp_coverage,
    tarp_test,
)

__all__ = [
    "PosteriorScores",
    "calibration_tests",
    "coverage_test",
    "fewest_draws",
    "sbc_ranks",
    "sbc_test",
    "tarp_coverage",
    "tarp_test",
    "z_score_test",
    "z_scores_and_contraction",
]

PROBABILITIES = (0.5, 0.68, 0.9, 0.95)


class PosteriorScores(NamedTuple):
    """Posterior z-score and contraction of each galaxy.

    Attributes:
        z_score: Posterior mean minus truth, in posterior standard deviations, [n].
        contraction: One minus the ratio of the posterior variance to that of the prior, [n].
    """

    z_score: Float[np.ndarray, "n"]
    contraction: Float[np.ndarray, "n"]

    __repr__ = brief


def fewest_draws(probabilities: Sequence[float] = PROBABILITIES) -> int:
    """Return how many draws intervals of these probabilities need: 2 / (1 - p) - 1 for the largest.

    Example:
        >>> fewest_draws((0.68, 0.95))
        39
    """
    return int(np.ceil(np.round(2 / (1 - np.max(probabilities)) - 1, 6)))


def coverage_test(
    draws: Draws,
    truth: Truth,
    name: str,
    *,
    probabilities: Sequence[float] = PROBABILITIES,
    alpha: float = ALPHA,
) -> Verdict:
    """Test how often central intervals hold the truth, with exact binomial p-values judged together (Bonferroni).

    Intervals are those of :func:`hiergal.posterior.interval`. Shifted posteriors change coverage in second order only:
    with 1000 galaxies 0.3 standard deviations go unnoticed here, 0.6 do not.

    Args:
        draws: Posterior draws of one quantity.
        truth: Its true values.
        name: Name of the quantity.
        probabilities: Probabilities of the intervals.
        alpha: Chance of a false alarm, at most.

    Returns:
        The verdict; the statistic is the largest difference of coverage from nominal, negative for too narrow ones, and
        its error the binomial one.

    Raises:
        ValueError: If shapes do not fit, values are not finite, or there are too few of them: an interval of
            probability p needs 2 / (1 - p) - 1 draws.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> draws, truth = rng.normal(size=(99, 1000)), rng.normal(size=1000)
        >>> verdict = coverage_test(0.8 * draws, truth, "flux")
        >>> verdict.passed, -0.15 < verdict.statistic < -0.05
        (False, True)
    """
    draws, truth = checked_draws(draws, truth, name)
    nominal, n = np.asarray(probabilities, float), len(truth)
    if nominal.size == 0 or not ((nominal > 0) & (nominal < 1)).all():
        raise ValueError(f"probabilities: expected some between 0 and 1, got {tuple(probabilities)}")
    least = fewest_draws(probabilities)
    if len(draws) < least:
        raise ValueError(
            f"{name}: expected at least {least} draws for intervals of {nominal.max():.4g}, got {len(draws)}; "
            "draw more, or ask for smaller probabilities"
        )
    tail = (1 - nominal) / 2
    low, high = np.split(np.quantile(draws, np.append(tail, 1 - tail), axis=0, method="weibull"), 2)
    inside = ((low <= truth) & (truth <= high)).sum(axis=1)
    p_values = [stats.binomtest(int(k), n, p).pvalue for k, p in zip(inside, nominal, strict=True)]
    difference = inside / n - nominal
    error = np.sqrt(nominal * (1 - nominal) / n)
    worst = int(np.argmax(np.abs(difference)))
    found = ", ".join(
        f"{100 * k / n:.1f} +- {100 * e:.1f} % in {100 * p:.4g} % intervals"
        for k, e, p in zip(inside, error, nominal, strict=True)
    )
    p_value = min(1.0, len(nominal) * float(min(p_values)))
    words = f"truths of {name}: {found}"
    return verdict_of(
        f"{name} (coverage)", difference[worst], float(error[worst]), 0.0, p_value, alpha, words
    )


def z_scores_and_contraction(
    draws: Draws, truth: Truth, prior_variance: float | Float[np.ndarray, "k"]
) -> PosteriorScores:
    """Return z-scores and contractions of posteriors.

    Args:
        draws: Posterior draws of one quantity.
        truth: Its true values.
        prior_variance: Variance of the prior, one or that of each galaxy [square of the quantity's unit].

    Raises:
        ValueError: If shapes do not fit, values are not finite, all draws of a galaxy are equal, or a variance is not
            positive.

    Example:
        >>> draws = np.array([-1.0, 0.0, 1.0])[:, None] + np.array([1.0, 2.0])
        >>> z_score, contraction = z_scores_and_contraction(draws, np.array([0.0, 2.0]), 4.0)
        >>> z_score.tolist(), contraction.tolist()
        ([1.0, 0.0], [0.75, 0.75])
    """
    draws, truth = checked_draws(draws, truth, least=1)
    prior = np.asarray(prior_variance, float)
    if prior.shape not in ((), truth.shape) or not (np.isfinite(prior) & (prior > 0)).all():
        raise ValueError(
            f"prior_variance: expected one positive number or {len(truth)} of them, got {prior_variance!r}"
        )
    variance = _variance(draws)
    return PosteriorScores((draws.mean(axis=0) - truth) / np.sqrt(variance), 1 - variance / prior)


def z_score_test(draws: Draws, truth: Truth, name: str, *, alpha: float = ALPHA) -> Verdict:
    """Test that errors of the posterior mean are centred on zero, and as large as the posteriors say.

    The mean of s draws misses the truth by e, with E[e] = 0 and E[e^2] = (1 + 1 / s) times the posterior variance. With
    v the variance of all s + 1 values, truth included, r = e / sqrt(v (1 + 1 / s)) has mean 0 and mean square 1 over
    the choices of which value is the truth: exactly, for each galaxy, and for posteriors of any shape. The fourth
    moment of the values gives the scatter of r^2. Sums over galaxies are taken as normal; two p-values are judged
    together (Bonferroni).

    Args:
        draws: Posterior draws of one quantity.
        truth: Its true values.
        name: Name of the quantity.
        alpha: Chance of a false alarm, at most.

    Returns:
        The verdict; the statistic is the mean of r^2, above 1 for posteriors too narrow or too far off, and its error
        that for exact posteriors.

    Raises:
        ValueError: If shapes do not fit, values are not finite, there are too few of them, or all draws are equal.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> draws, truth = rng.normal(size=(99, 1000)), rng.normal(size=1000)
        >>> [z_score_test(draws + shift, truth, "flux").passed for shift in (0.0, 0.3)]
        [True, False]
    """
    draws, truth = checked_draws(draws, truth, name)
    _variance(draws)
    s, n = draws.shape
    error = draws.mean(axis=0) - truth
    values = np.concatenate([draws, truth[None]])
    values -= values.mean(axis=0)
    variance = (values**2).sum(axis=0) / s
    r = error / np.sqrt(variance * (1 + 1 / s))
    kurtosis = (values**4).mean(axis=0) / (values**2).mean(axis=0) ** 2
    bias, bias_error = float(r.mean()), n**-0.5
    square, square_error = float((r**2).mean()), max(float(np.sqrt((kurtosis - 1).sum())), 1e-12) / n
    p_values = 2 * stats.norm.sf(np.abs([bias / bias_error, (square - 1) / square_error]))
    words = (
        f"{name}: squared errors are {square:.3f} +- {square_error:.3f} of what posteriors say, "
        f"bias {bias:+.3f} +- {bias_error:.3f} posterior standard deviations"
    )
    p_value = min(1.0, 2 * float(p_values.min()))
    return verdict_of(f"{name} (z-scores)", square, square_error, 1.0, p_value, alpha, words)


def calibration_tests(
    draws: Mapping[str, Draws],
    truth: Mapping[str, Truth],
    *,
    joint: Sequence[str] | None = None,
    seed: int = 0,
    alpha: float = ALPHA,
) -> list[Verdict]:
    """Test ranks, coverage and z-scores of each quantity, and the coverage of some together, judged as one (Holm).

    Args:
        draws: Posterior draws by name of the quantity.
        truth: True values by the same names.
        joint: Names of the quantities whose joint posterior is tested, too.
        seed: Seed of the randomised ranks and points; each test gets its own.
        alpha: Chance of any false alarm, at most.

    Raises:
        ValueError: If names or shapes do not fit, values are not finite, or there are too few of them.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> draws = {name: rng.normal(size=(99, 500)) for name in ("flux", "size")}
        >>> truth = {name: rng.normal(size=500) for name in ("flux", "size")}
        >>> [v.passed for v in calibration_tests(draws, truth, joint=["flux", "size"])]
        [True, True, True, True, True, True, True]
    """
    if set(draws) != set(truth) or not draws:
        raise ValueError(f"truth: expected the names of the draws, {sorted(draws)}, got {sorted(truth)}")
    if unknown := set(joint or ()) - set(draws):
        raise ValueError(f"joint: expected names among {sorted(draws)}, got {sorted(unknown)}")
    verdicts = []
    for i, name in enumerate(draws):
        verdicts += [
            sbc_test(draws[name], truth[name], name, seed=seed + i, alpha=alpha),
            coverage_test(draws[name], truth[name], name, alpha=alpha),
            z_score_test(draws[name], truth[name], name, alpha=alpha),
        ]
    if joint:
        together = [np.stack([kind[name] for name in joint], axis=-1) for kind in (draws, truth)]
        verdicts.append(tarp_test(*together, ", ".join(joint), seed=seed + len(draws), alpha=alpha))
    return holm(verdicts, alpha=alpha)


def _variance(draws: np.ndarray) -> np.ndarray:
    variance = draws.var(axis=0, ddof=1)
    if not (variance > 0).all():
        raise ValueError(
            f"draws: expected draws that differ, got {(variance == 0).sum()} galaxies whose draws are all the same; "
            "leave them out"
        )
    return variance
