"""Morphology of samples, real galaxies, parametric fits and published mocks (paper, Figs. 8, 9)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table

from hiergal.runtime.plotting import BLACK, BLUE, GRAY, ORANGE, TEXT_SIZE, plain_axes, plain_figure
from hiergal.validation.morphology_reference import MorphologyReference, morphology_samples
from hiergal.validation.reference import smoothed_cdf

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["morphology_curves", "morphology_planes"]

CURVES = {
    "log10_m": "multimode, log₁₀ M",
    "log10_i": "intensity, log₁₀ I",
    "d": "deviation, D",
}
PLANES = {"m20_gini": ("M20", "Gini"), "d_log10_i": ("deviation, D", "intensity, log₁₀ I")}
LINES = ((BLACK, "-"), (GRAY, ":"), (BLUE, "-."))  # real, parametric, published mocks
OWN_LINES = ((ORANGE, "--"), ("#009E73", (0, (5, 1, 1, 1))), ("#CC79A7", (0, (1, 1))))


def morphology_curves(
    samples: Mapping[str, Table], references: Mapping[str, MorphologyReference], *, title: str = "M, I and D"
) -> "Figure":
    """Compare distributions of M, I and D (paper, Fig. 8), all smoothed by the same rule.

    Args:
        samples: Measurements by :func:`~hiergal.measure.morphology.measure_paper_morphology`, by what to call them;
            at most three.
        references: Published samples, by what to call them; at most three.
        title: Title of the figure.

    Returns:
        Three panels: the density of each statistic.

    Raises:
        ValueError: If there are too many samples.

    Example:
        >>> from hiergal.validation.morphology_reference import morphology_reference
        >>> rng = np.random.default_rng(1)
        >>> table = Table({name: rng.random(50) for name in ("m", "i", "d", "gini", "m20")})
        >>> table["flag"] = 0
        >>> len(morphology_curves({"ours": table}, {"real": morphology_reference()}).axes)
        3
    """
    if len(samples) > len(OWN_LINES) or len(references) > len(LINES):
        raise ValueError(
            f"expected at most 3 samples and 3 references, got {len(samples)} and {len(references)}"
        )
    figure = plain_figure(10, 3.4, title)
    selected = {name: morphology_samples(table) for name, table in samples.items()}
    for panel, (name, label) in zip(figure.subplots(1, 3), CURVES.items(), strict=True):
        for (what, reference), (colour, line) in zip(references.items(), LINES, strict=False):
            curve = reference.curves[name]
            middle, density = _density(curve.x, curve.cdf)
            panel.plot(middle, density, color=colour, linestyle=line, linewidth=1.5, label=what)
        for (what, sample), (colour, line) in zip(selected.items(), OWN_LINES, strict=False):
            values = sample[name]
            margin = 0.15 * np.ptp(values)  # for what the kernel adds beyond the values
            nodes = np.linspace(values.min() - margin, values.max() + margin, 128)
            middle, density = _density(nodes, smoothed_cdf(values, nodes))
            panel.plot(middle, density, color=colour, linestyle=line, linewidth=1.5, label=what)
        plain_axes(panel, xlabel=label, ylabel="density")
        panel.set_ylim(0, None)
    figure.axes[0].legend(frameon=False, fontsize=TEXT_SIZE)
    return figure


def morphology_planes(
    samples: Mapping[str, Table],
    references: Mapping[str, MorphologyReference],
    *,
    title: str = "Gini-M20 and I-D",
) -> "Figure":
    """Show where galaxies lie in the planes of M20 and Gini, and of D and I (paper, Fig. 9).

    Args:
        samples: Measurements, as for :func:`morphology_curves`.
        references: Published samples.
        title: Title of the figure.

    Returns:
        Two rows of panels, one column for each reference and then for each sample; colour is the share of galaxies in a
        cell, on one scale along each row. M20 runs from right to left, as in the paper: smooth galaxies are at the
        right.

    Raises:
        ValueError: If there is no reference, whose cells all panels share.

    Example:
        >>> from hiergal.validation.morphology_reference import morphology_reference
        >>> references = {name: morphology_reference(name) for name in ("cosmos", "mock")}
        >>> len(morphology_planes({}, references).axes)  # four panels and two colour bars
        6
    """
    if not references:
        raise ValueError("references: expected at least one published sample, got none")
    columns = len(references) + len(samples)
    figure = plain_figure(2.4 * columns + 0.6, 5.0, title)
    grid = figure.subplots(2, columns, squeeze=False)
    for row, (name, (xlabel, ylabel)) in zip(grid, PLANES.items(), strict=True):
        plane = next(iter(references.values())).planes[name]
        counts = {what: reference.planes[name].counts for what, reference in references.items()}
        for what, table in samples.items():
            pairs = morphology_samples(table)[name]
            counts[what] = np.histogram2d(*pairs.T, bins=[plane.x_edges, plane.y_edges])[0]
        shares = {what: 100 * count / count.sum() for what, count in counts.items()}
        highest = max(np.quantile(share[share > 0], 0.995) for share in shares.values())
        for panel, (what, share) in zip(row, shares.items(), strict=True):
            mesh = panel.pcolormesh(
                plane.x_edges, plane.y_edges, share.T, cmap="viridis", vmin=0, vmax=highest, rasterized=True
            )
            panel.set_title(what, fontsize=TEXT_SIZE + 1)
            panel.tick_params(labelsize=TEXT_SIZE)
            panel.set_xlabel(xlabel, fontsize=TEXT_SIZE + 1)
            if name == "m20_gini":
                panel.invert_xaxis()
        row[0].set_ylabel(ylabel, fontsize=TEXT_SIZE + 1)
        bar = figure.colorbar(mesh, ax=row, pad=0.01, fraction=0.03)
        bar.set_label("galaxies per cell [%]", fontsize=TEXT_SIZE)
        bar.ax.tick_params(labelsize=TEXT_SIZE)
    return figure


def _density(x: np.ndarray, cdf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 0.5 * (x[1:] + x[:-1]), np.diff(cdf) / np.diff(x)
