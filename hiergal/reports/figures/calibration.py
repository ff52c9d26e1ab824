"""Figures of calibration: coverage, ranks and z-scores of simulated galaxies."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from hiergal.posterior.posterior import credible_interval
from hiergal.runtime.plotting import BLACK, BLUE, GRAY, GREEN, ORANGE, PURPLE, plain_axes, plain_figure
from hiergal.runtime.pytree import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["coverage", "expected_coverage", "intervals", "rank_histograms", "z_scores"]

LOOKS = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "D"), (BLACK, "v"))
BAND = 0.95
MOST_SIGMA = 5.0  # of a z-score on its axis
BIN_BAND = 0.99  # of one bin, so that every fifth panel of 20 bins has one outside


def coverage(
    nominal: Float[Array, "p"],
    empirical: Mapping[str, Float[Array, "p"]],
    galaxies: int,
    *,
    title: str = "Coverage of central posterior intervals",
) -> "Figure":
    """Show the coverage of credible intervals against their nominal probability.

    Args:
        nominal: Probabilities of the intervals.
        empirical: For each quantity, the share of galaxies whose truth is inside.
        galaxies: Number of galaxies; it sets the band that calibrated posteriors stay in with 95 % (binomial).
        title: Title of the figure.

    Returns:
        Two panels: coverage, and its difference from nominal in percentage points.

    Example:
        >>> p = np.linspace(0.1, 0.9, 9)
        >>> figure = coverage(p, {"total flux": p + 0.01, "half-light radius": p}, galaxies=400)
        >>> len(figure.axes)
        2
    """
    from matplotlib.ticker import PercentFormatter
    from scipy.stats import binom

    nominal = np.asarray(nominal, float)
    fine = np.linspace(0, 1, 201)
    low, high = (binom.ppf(q, galaxies, fine) / galaxies for q in ((1 - BAND) / 2, (1 + BAND) / 2))
    figure = plain_figure(10, 4.4, title)
    left, right = figure.subplots(1, 2)
    left.fill_between(fine, low, high, color="0.88", linewidth=0, label=f"{BAND:.0%} band of calibrated ones")
    right.fill_between(fine, 100 * (low - fine), 100 * (high - fine), color="0.88", linewidth=0)
    left.plot([0, 1], [0, 1], color=GRAY, linewidth=1)
    right.axhline(0, color=GRAY, linewidth=1)
    for i, (name, share) in enumerate(empirical.items()):
        colour, marker = LOOKS[i % len(LOOKS)]
        line = {"color": colour, "marker": marker, "markersize": 4.5, "linewidth": 1.3}
        left.plot(nominal, share, label=name, **line)
        right.plot(nominal, 100 * (np.asarray(share) - nominal), **line)
    plain_axes(left, xlabel="probability of the interval", ylabel="share of truths inside")
    plain_axes(right, xlabel="probability of the interval", ylabel="difference [percentage points]")
    left.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    right.set(xlim=(0, 1))
    left.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axes in (left, right):
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    left.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def intervals(
    truth: Float[Array, "n"],
    draws: Float[Array, "s n"],
    *,
    quantity: str = "total flux",
    unit: str = "",
    probability: float = 0.68,
    title: str = "Inferred against true",
) -> "Figure":
    """Show inferred values of a positive quantity against the true ones.

    Args:
        truth: True values.
        draws: Posterior draws.
        quantity: What it is called.
        unit: Its unit.
        probability: Probability of the error bars.
        title: Title of the figure.

    Returns:
        Two panels above each other, inferred values and their ratio to the truth, with central intervals.

    Example:
        >>> truth = np.geomspace(1, 100, 20)
        >>> figure = intervals(truth, truth * np.linspace(0.9, 1.1, 50)[:, None], unit="counts/s")
        >>> len(figure.axes)
        2
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    truth, draws = np.asarray(truth, float), np.asarray(draws, float)
    middle, (low, high) = np.median(draws, axis=0), credible_interval(draws, probability)
    figure = plain_figure(6.5, 6.5, title)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    reach = np.array([min(truth.min(), middle.min()), max(truth.max(), middle.max())]) * (0.8, 1.25)
    top.plot(reach, reach, color=GRAY, linewidth=1)
    bottom.axhline(1, color=GRAY, linewidth=1)
    for axes, by in ((top, 1.0), (bottom, truth)):
        bars = np.stack([middle - low, high - middle]) / by
        style = {"fmt": "o", "markersize": 2.5, "linewidth": 0.9, "color": BLUE, "alpha": 0.7}
        axes.errorbar(truth, middle / by, yerr=np.maximum(bars, 0), **style)
    in_unit = f" [{unit}]" if unit else ""
    plain_axes(top, ylabel=f"inferred {quantity}{in_unit}")
    plain_axes(bottom, xlabel=f"true {quantity}{in_unit}", ylabel="inferred / true")
    top.set(xscale="log", yscale="log")
    for axis in (top.xaxis, top.yaxis):  # the lower panel shares the first
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if reach[1] < 300 * reach[0] else (1,)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    ratio = np.concatenate([low / truth, high / truth])
    bottom.set_ylim(*np.clip(np.quantile(ratio, [0.01, 0.99]) + (-0.05, 0.05), 0, 3))
    top.text(0.03, 0.95, f"bars: {probability:.0%} intervals", transform=top.transAxes, va="top", fontsize=9)
    return figure


def rank_histograms(
    ranks: Mapping[str, Int[Array, "n"]],
    draws: int,
    *,
    title: str = "Ranks of the truth among posterior draws",
) -> "Figure":
    """Show whether ranks are uniform: a slope is a bias, a U posteriors too narrow, a hump posteriors too wide.

    Args:
        ranks: For each quantity, the ranks of :func:`hiergal.validation.calibration.checks.sbc_ranks`.
        draws: Number of posterior draws of each galaxy, the largest rank.
        title: Title of the figure.

    Returns:
        A panel for each quantity, at most three in a row, with the band that one bin stays in with 99 % (binomial).

    Example:
        >>> figure = rank_histograms({"total flux": np.arange(400) % 100, "size": np.arange(400) % 100}, draws=99)
        >>> len(figure.axes)
        2
    """
    from scipy.stats import binom

    galaxies = len(next(iter(ranks.values())))
    bins = int(np.clip(galaxies // 20, 2, min(20, draws + 1)))
    edges = np.round(np.linspace(0, draws + 1, bins + 1))
    chance = np.diff(edges) / (draws + 1)  # bins need not hold equal numbers of ranks
    low, high = (
        binom.ppf(q, galaxies, chance) / (galaxies * chance) for q in ((1 - BIN_BAND) / 2, (1 + BIN_BAND) / 2)
    )
    columns = min(len(ranks), 3)
    rows = -(-len(ranks) // columns)
    figure = plain_figure(1 + 3 * columns, 0.6 + 2.6 * rows, title)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    edges = edges / (draws + 1)
    for i, (axes, (name, rank)) in enumerate(zip(panels, ranks.items(), strict=False)):
        counts = np.histogram((np.asarray(rank) + 0.5) / (draws + 1), edges)[0] / (galaxies * chance)
        band = axes.stairs(high, edges, baseline=low, fill=True, color="0.88")
        axes.axhline(1, color=GRAY, linewidth=1)
        axes.stairs(counts, edges, baseline=None, color=BLUE, linewidth=1.5)
        axes.set_title(name, fontsize=10)
        ylabel = "" if i % columns else "galaxies / expected number"
        plain_axes(axes, xlabel=f"rank / {draws + 1}", ylabel=ylabel)
        axes.set(xlim=(0, 1))
    for axes in panels[len(ranks) :]:
        axes.remove()
    panels[0].set_ylim(0, 1.15 * max(axes.dataLim.y1 for axes in panels[: len(ranks)]))
    label = f"{BIN_BAND:.0%} band of a bin, calibrated"
    panels[0].legend([band], [label], frameon=False, fontsize=9, loc="lower center")
    return figure


def expected_coverage(
    shares: Mapping[str, Float[Array, "n"]],
    *,
    title: str = "Joint coverage of posteriors, by random points",
) -> "Figure":
    """Show how often regions of a probability hold the truth, minus that probability.

    Args:
        shares: For each posterior or group of quantities, the values of
            :func:`hiergal.validation.calibration.checks.tarp_coverage`.
        title: Title of the figure.

    Returns:
        One panel, with the bands that a whole curve stays in with 95 and 99 % (Kolmogorov-Smirnov).

    Example:
        >>> figure = expected_coverage({"all latents": (np.arange(400) + 0.5) / 400})
        >>> len(figure.axes)
        1
    """
    from matplotlib.ticker import PercentFormatter
    from scipy.stats import kstwo

    galaxies = len(next(iter(shares.values())))
    figure = plain_figure(6, 4.4, title)
    axes = figure.subplots()
    for probability, colour in ((0.99, "0.93"), (BAND, "0.85")):
        reach = 100 * kstwo.ppf(probability, galaxies)
        axes.axhspan(
            -reach, reach, color=colour, linewidth=0, label=f"{probability:.0%} band of calibrated ones"
        )
    axes.axhline(0, color=GRAY, linewidth=1)
    for i, (name, share) in enumerate(shares.items()):
        # Both ends of each step: the curve falls between two truths, and jumps at each.
        at = np.concatenate([[0.0], np.repeat(np.sort(np.asarray(share, float)), 2), [1.0]])
        below = np.repeat(np.arange(galaxies + 1) / galaxies, 2)
        axes.plot(at, 100 * (below - at), color=LOOKS[i % len(LOOKS)][0], linewidth=1.3, label=name)
    plain_axes(
        axes,
        xlabel="probability of the region",
        ylabel="coverage minus probability [percentage points]",
    )
    axes.set(xlim=(0, 1))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylim(*np.array([-1.3, 1.3]) * np.abs(axes.get_ylim()).max())
    axes.legend(frameon=False, fontsize=9, loc="best", ncols=2)
    return figure


def z_scores(
    z_score: Float[Array, "n"],
    contraction: Float[Array, "n"],
    *,
    quantity: str = "total flux",
    title: str = "Posterior z-scores and contraction",
) -> "Figure":
    """Show z-scores of posteriors against their contraction.

    Both as from :func:`hiergal.validation.calibration.checks.z_scores_and_contraction`.

    Args:
        z_score: Posterior mean minus truth [posterior standard deviations].
        contraction: One minus posterior variance over prior variance; 1 where all is known, 0 where nothing was learnt.
        quantity: What it is called.
        title: Title of the figure.

    Returns:
        One panel; values beyond its edges are drawn there as triangles.

    Example:
        >>> figure = z_scores(np.linspace(-2, 2, 50), np.linspace(0.5, 0.99, 50))
        >>> len(figure.axes)
        1
    """
    z_score, contraction = np.asarray(z_score, float), np.asarray(contraction, float)
    left = max(float(min(0.0, contraction.min())), -1.0)
    figure = plain_figure(6, 4.4, title)
    axes = figure.subplots()
    axes.axhspan(-2, 2, color="0.9", linewidth=0, label="within 2 standard deviations")
    axes.axhline(0, color=GRAY, linewidth=1)
    beyond = (np.abs(z_score) > MOST_SIGMA) | (contraction < left)
    for chosen, marker, size in ((~beyond, "o", 8), (beyond, "^", 22)):
        x, y = np.maximum(contraction[chosen], left), np.clip(z_score[chosen], -MOST_SIGMA, MOST_SIGMA)
        axes.scatter(x, y, s=size, marker=marker, color=BLUE, alpha=0.5, linewidth=0, clip_on=False, zorder=3)
    rms, mean = np.sqrt(np.mean(z_score**2)), z_score.mean()
    words = f"{quantity}: mean {mean:+.2f}, root mean square {rms:.2f}"
    axes.text(0.02, 0.97, words, transform=axes.transAxes, va="top", fontsize=9)
    plain_axes(
        axes,
        xlabel="contraction, 1 - posterior variance / prior variance",
        ylabel="z-score, (posterior mean - truth) / posterior std",
    )
    axes.set(xlim=(left, 1), ylim=(-MOST_SIGMA, MOST_SIGMA))
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    return figure
