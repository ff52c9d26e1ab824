"""Do the posteriors hold the truth as often as they say?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from hiergal.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, plain_axes, plain_figure
from hiergal.posterior import interval
from hiergal.records import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["coverage", "intervals"]

LOOKS = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "D"), (BLACK, "v"))
BAND = 0.95


def coverage(
    nominal: Float[Array, "p"],
    empirical: Mapping[str, Float[Array, "p"]],
    galaxies: int,
    *,
    title: str = "How often central posterior intervals hold the truth",
) -> "Figure":
    """Show the coverage of credible intervals against what they promise.

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
    left.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    right.axhline(0, color=GREY, linewidth=1)
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
    middle, (low, high) = np.median(draws, axis=0), interval(draws, probability)
    figure = plain_figure(6.5, 6.5, title)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    reach = np.array([min(truth.min(), middle.min()), max(truth.max(), middle.max())]) * (0.8, 1.25)
    top.plot(reach, reach, color=GREY, linewidth=1)
    bottom.axhline(1, color=GREY, linewidth=1)
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
