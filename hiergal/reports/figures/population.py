"""Drawn galaxies against those of the survey: latents (Lanusse et al. 2020, Fig. 4), sizes and shapes (Fig. 6)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table
from jaxtyping import Float

from hiergal.runtime.plotting import BLACK, BLUE, GRAY, ORANGE, TEXT_SIZE, plain_axes, plain_figure
from hiergal.runtime.pytree import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["latent_corner", "sizes_and_ellipticities"]

POINTS = 2000  # of a scatter
DIMENSIONS = 5
PRIOR_RADII = (1, 2)
PANELS = {"sigma": "HSM size σ [arcsec]", "g": "HSM ellipticity |g|"}
BINS = 40
LINES = ((BLACK, "-"), (ORANGE, "--"), (BLUE, "-."))


def latent_corner(
    data_latents: Float[Array, "n d"],
    data_color: Float[Array, "n"],
    flow_latents: Float[Array, "m d"],
    flow_color: Float[Array, "m"],
    *,
    dims: Sequence[int] | None = None,
    color_label: str = "magnitude",
    title: str = "Latents of survey galaxies (upper right) and of the flow (lower left)",
) -> "Figure":
    """Compare the latents of galaxies with those that the flow draws (paper, Fig. 4).

    Args:
        data_latents: A draw of the posterior of each galaxy.
        data_color: A condition that colors it, such as its magnitude.
        flow_latents: Draws of the flow.
        flow_color: The same condition of each draw.
        dims: Which latents; default those five that go most with the colour.
        color_label: Name of the condition, with its unit.
        title: Title of the figure.

    Returns:
        A square of panels: above the diagonal the data, below it the flow, on it both distributions. Dashed: the
        unit-normal prior, at one and two standard deviations.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> z, u = rng.normal(size=(2, 200, 6))
        >>> figure = latent_corner(z, z[:, 2], u, u[:, 2], dims=(0, 2, 5))
        >>> len(figure.axes)  # nine panels and the colour bar
        10
    """
    data, flow = (np.asarray(latents, float) for latents in (data_latents, flow_latents))
    dims = _telling(data, np.asarray(data_color)) if dims is None else tuple(dims)
    reach = max(3.0, np.quantile(np.abs(np.concatenate([data[:, dims], flow[:, dims]])), 0.995))
    colours = np.quantile(data_color, [0.02, 0.98])
    size = len(dims)
    figure = plain_figure(1.65 * size + 1.2, 1.65 * size + 0.5, title)
    axes = figure.subplots(size, size, squeeze=False)
    for i, j in np.ndindex(size, size):
        panel = axes[i, j]
        panel.set(xlim=(-reach, reach), box_aspect=1)
        if i == j:
            _marginals(panel, data[:, dims[i]], flow[:, dims[i]], reach)
        else:
            latents, colour = (data, data_color) if j > i else (flow, flow_color)
            points = _scatter(panel, latents[:, dims[j]], latents[:, dims[i]], np.asarray(colour), colours)
            panel.set(ylim=(-reach, reach))
        panel.tick_params(
            labelsize=TEXT_SIZE - 1, labelbottom=i == size - 1, labelleft=j == 0 and i != 0, length=2
        )
    for i, dim in enumerate(dims):
        axes[-1, i].set_xlabel(f"$z_{{{dim + 1}}}$", fontsize=TEXT_SIZE + 2)
        axes[i, 0].set_ylabel(f"$z_{{{dim + 1}}}$", fontsize=TEXT_SIZE + 2)
    names = {"frameon": False, "fontsize": TEXT_SIZE - 1, "ncols": 3, "handlelength": 1.5}
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper right", **names)
    if size > 1:
        bar = figure.colorbar(points, ax=axes, shrink=0.6, aspect=35, label=color_label)
        if bar.solids is not None:
            bar.solids.set_alpha(1)
    return figure


def sizes_and_ellipticities(
    survey: Table,
    drawn: Table,
    parametric: Table | None = None,
    *,
    title: str = "Sizes and ellipticities of survey and drawn galaxies",
) -> "Figure":
    """Compare the second moments of drawn and survey galaxies, measured alike (paper, Fig. 6).

    Args:
        survey: Moments of survey galaxies, from :func:`hiergal.measure.moments.measure_moments`.
        drawn: Moments of drawn galaxies with the same PSFs and noise.
        parametric: Moments of parametric fits to the survey galaxies, made alike, if there are any.
        title: Title of the figure.

    Returns:
        Two panels with distributions; vertical lines at the means, whose standard errors are in the legend. Failed
        measurements are left out.

    Raises:
        ValueError: If fewer than two galaxies of a table were measured.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> survey, drawn = (Table({"sigma": s, "g": s, "flag": np.zeros(50, int)}) for s in rng.random((2, 50)))
        >>> len(sizes_and_ellipticities(survey, drawn).axes)
        2
    """
    tables = {"survey": survey, "drawn": drawn} | ({} if parametric is None else {"parametric": parametric})
    figure = plain_figure(10, 3.9, title)
    for axes, (name, label) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        samples = [np.asarray(table[name][table["flag"] == 0], float) for table in tables.values()]
        pooled = np.concatenate(samples)
        if min(len(sample) for sample in samples) < 2:
            raise ValueError(
                f"{name}: expected at least two measured galaxies in each table, got "
                f"{' and '.join(str(len(sample)) for sample in samples)}; draw more"
            )
        bins = int(np.clip(np.sqrt(len(pooled)) / 1.5, 8, BINS))
        edges = np.linspace(0 if name == "g" else pooled.min(), np.quantile(pooled, 0.995), bins + 1)
        for sample, what, (colour, line) in zip(samples, tables, LINES, strict=False):
            mean, error = sample.mean(), sample.std(ddof=1) / np.sqrt(len(sample))
            heights, _ = np.histogram(sample, edges)
            density = heights / (len(sample) * np.diff(edges))
            text = f"{what}: {mean:.4f} ± {error:.4f}"
            axes.stairs(density, edges, color=colour, linestyle=line, linewidth=1.6, label=text)
            axes.axvline(mean, color=colour, linestyle=line, linewidth=1)
        plain_axes(axes, xlabel=label, ylabel="density")
        axes.set_ylim(0, 1.4 * axes.get_ylim()[1])  # room for the legend
        axes.legend(
            loc="upper right",
            frameon=False,
            fontsize=TEXT_SIZE,
            title="mean ± standard error",
            title_fontsize=TEXT_SIZE,
        )
    return figure


def _telling(latents: np.ndarray, colour: np.ndarray) -> tuple[int, ...]:
    """The latents that go most with the colour, in their own order."""
    centred = latents - latents.mean(0)
    scale = np.maximum(centred.std(0) * colour.std(), 1e-12)
    correlation = np.abs((centred * (colour - colour.mean())[:, None]).mean(0)) / scale
    return tuple(int(i) for i in np.sort(np.argsort(-correlation, kind="stable")[:DIMENSIONS]))


def _scatter(panel: Any, x: np.ndarray, y: np.ndarray, colour: np.ndarray, limits: np.ndarray) -> Any:
    from matplotlib.patches import Circle

    step = max(1, len(x) // POINTS)
    rows = slice(None, None, step)
    points = panel.scatter(
        x[rows],
        y[rows],
        c=colour[rows],
        s=4,
        alpha=0.6,
        linewidths=0,
        cmap="viridis_r",
        vmin=limits[0],
        vmax=limits[1],
    )
    for radius in PRIOR_RADII:
        panel.add_patch(
            Circle((0, 0), radius, fill=False, color="0.2", linestyle="--", linewidth=1, zorder=3)
        )
    return points


def _marginals(panel: Any, data: np.ndarray, flow: np.ndarray, reach: float) -> None:
    edges = np.linspace(-reach, reach, 31)
    fine = np.linspace(-reach, reach, 201)
    panel.plot(
        fine,
        np.exp(-0.5 * fine**2) / np.sqrt(2 * np.pi),
        color=GRAY,
        linestyle="--",
        linewidth=1,
        label="prior",
    )
    panel.stairs(
        np.histogram(data, edges, density=True)[0], edges, color=BLACK, linewidth=1.2, label="survey"
    )
    panel.stairs(np.histogram(flow, edges, density=True)[0], edges, color=ORANGE, linewidth=1.2, label="flow")
    panel.set(yticks=[], ylim=(0, None))
