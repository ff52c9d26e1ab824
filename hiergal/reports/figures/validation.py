"""Figures of the validation suite: fits against parametric ones, ellipticity and scatter in bins, power spectra.

Figs. 5, 6b and 7 of Lanusse et al. (2020); the others of its figures are in the modules of what they show.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table
from jaxtyping import Float

from hiergal.measure.power_spectrum import Spectrum
from hiergal.observation.observation import Observation
from hiergal.reports.figures.style import label_stamp, scale_bar, show_signed, show_stamp, stamp_grid
from hiergal.runtime.plotting import BLACK, BLUE, GRAY, ORANGE, TEXT_SIZE, plain_axes, plain_figure
from hiergal.runtime.pytree import Array
from hiergal.validation.conditional import Residuals, binned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["conditional_scatter", "fits_side_by_side", "mean_ellipticity", "power_spectra"]

RESIDUAL_LIMIT = 4.0  # standard deviations
HEADINGS = ("observed", "model", "parametric", "residual, model", "residual, param.")
LOOKS = ((BLACK, "o", "-"), (ORANGE, "s", "--"), (BLUE, "^", "-."), (GRAY, "D", ":"))
FEWEST_GALAXIES = 5  # galaxies in a bin that is drawn
QUANTILE_BINS = 9
REACH = {"size": 0.75, "flux": 1.0}  # of the residuals, as in the paper


def fits_side_by_side(
    observation: Observation,
    model_image: Float[Array, "n y x"],
    parametric_image: Float[Array, "n y x"],
    chi_square: Mapping[str, Float[Array, "n"]],
    *,
    count: int = 7,
    title: str = "Unseen galaxies, their reconstructions and parametric fits, from small to large",
) -> "Figure":
    """Show galaxies, the model's reconstructions, the best parametric fits, and both residuals (paper, Fig. 5).

    Args:
        observation: Observed galaxies, with ``flux_radius`` or ``mag_auto`` in the catalogue to be ordered by.
        model_image: Reconstructions at the galaxies' own PSFs [flux per pixel].
        parametric_image: Parametric fits at their PSFs [flux per pixel].
        chi_square: Reduced chi-squares of each, under ``model`` and ``parametric``.
        count: How many galaxies, evenly over the ranks of size.
        title: Title of the figure.

    Returns:
        A row for each galaxy, the smallest first. Residuals are whitened: uncorrelated if the model is right.

    Example:
        >>> one, fits = posterior.chi_square, 0.9 * posterior.image_mean  # fits: by any other program
        >>> chi_square = {"model": one, "parametric": 1.1 * one}
        >>> figure = fits_side_by_side(observation, posterior.image_mean, fits, chi_square)
    """
    rank = next(
        (observation.catalog[name] for name in ("flux_radius", "mag_auto") if name in observation.catalog),
        None,
    )
    rank = np.arange(len(observation)) if rank is None else np.asarray(rank)
    places = np.linspace(0, len(rank) - 1, min(count, len(rank))).round().astype(int)
    rows = np.argsort(rank, kind="stable")[places]
    here, level = observation[rows], np.asarray(observation.noise.rms())[rows]
    images = [np.asarray(x)[rows] for x in (observation.image, model_image, parametric_image)]
    residuals = [np.asarray(here.noise.whiten(images[0] - fit, here.mask)) for fit in images[1:]]
    left_inch, foot_inch, shape = 0.1, 0.5, images[0].shape[1:]
    figure, axes = stamp_grid(
        len(rows),
        5,
        shape,
        title=title,
        width_inch=left_inch + 5 * 1.6,
        left_inch=left_inch,
        head_inch=0.62,
        foot_inch=foot_inch,
    )
    for panel, heading in zip(axes[0], HEADINGS, strict=True):
        panel.set_title(heading, fontsize=TEXT_SIZE + 1, pad=3)
    for r, panels in enumerate(axes):
        for panel, stamps in zip(panels[:3], images, strict=True):
            show_stamp(panel, stamps[r], level[r], np.nanmax(images[0][r]))
        for panel, whitened, name in zip(panels[3:], residuals, ("model", "parametric"), strict=True):
            coloured = show_signed(panel, whitened[r], RESIDUAL_LIMIT)
            label_stamp(panel, f"χ² {chi_square[name][rows[r]]:.2f}")
        if "mag_auto" in here.catalog:
            label_stamp(panels[0], f"{here.catalog['mag_auto'][r]:.1f}")
    scale_bar(axes[0, 0], shape, observation.pixel_scale_arcsec)
    _colour_bar(figure, axes[-1, 3:], coloured, foot_inch)
    return figure


def mean_ellipticity(
    moments: Mapping[str, Table],
    conditions: Mapping[str, Float[np.ndarray, "n"]],
    *,
    title: str = "Mean ellipticity against magnitude and size",
) -> "Figure":
    """Compare mean ellipticities in bins of the catalogue's quantities (paper, Fig. 6b).

    Args:
        moments: Moments of each sample, row for row of the same survey galaxies.
        conditions: Quantities to bin in, by label with unit; each with one value for each row.
        title: Title of the figure.

    Returns:
        A panel for each quantity; error bars are standard errors of the mean, and points are shifted a little next to
        each other. Bins have equal numbers of galaxies.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> samples = {w: Table({"g": rng.random(90), "flag": np.zeros(90, int)}) for w in ("survey", "drawn")}
        >>> len(mean_ellipticity(samples, {"magnitude": rng.uniform(20, 25, 90)}).axes)
        1
    """
    figure = plain_figure(5 * len(conditions), 3.8, title)
    panels = figure.subplots(1, len(conditions), squeeze=False)[0]
    for panel, (label, values) in zip(panels, conditions.items(), strict=True):
        edges = _edges(values)
        width = np.diff(edges)
        for k, ((name, table), (colour, marker, line)) in enumerate(
            zip(moments.items(), LOOKS, strict=False)
        ):
            good = np.asarray(table["flag"] == 0)
            points = []
            for low, high, w in zip(edges[:-1], edges[1:], width, strict=True):
                g = np.asarray(table["g"])[good & (values >= low) & (values < high)]
                if len(g) >= FEWEST_GALAXIES:
                    x = 0.5 * (low + high) + 0.06 * (k - (len(moments) - 1) / 2) * w
                    points.append((x, g.mean(), g.std(ddof=1) / np.sqrt(len(g))))
            if points:
                x, y, error = np.array(points).T
                style = {
                    "color": colour,
                    "marker": marker,
                    "linestyle": line,
                    "markersize": 4,
                    "linewidth": 1.1,
                }
                panel.errorbar(x, y, yerr=error, label=name, capsize=2, **style)
        plain_axes(panel, xlabel=label, ylabel="mean |g|")
    panels[0].legend(frameon=False, fontsize=TEXT_SIZE)
    return figure


def conditional_scatter(
    residuals: Mapping[str, Residuals],
    *,
    seed: int = 0,
    title: str = "Drawn galaxies against the survey's, whose size and magnitude they were asked for",
) -> "Figure":
    """Show bias and scatter of drawn sizes and fluxes against what was asked for (paper, Fig. 7).

    Args:
        residuals: ``size`` against the half-light radius [arcsec], ``flux`` against the magnitude, from
            :func:`hiergal.validation.conditional.conditional_residuals`.
        seed: Seed of the bootstrap of errors.
        title: Title of the figure.

    Returns:
        A panel for each: numbers of galaxies in hexagons, medians with errors, and the central 68 % (dotted).

    Example:
        >>> rng = np.random.default_rng(1)
        >>> size = Residuals(rng.uniform(0.1, 0.5, 300), rng.normal(0, 0.3, 300))
        >>> len(conditional_scatter({"size": size}).axes)  # and a colour bar
        2
    """
    labels = {
        "size": ("catalogue half-light radius [arcsec]", "(σ drawn - σ survey) / σ survey"),
        "flux": ("catalogue magnitude", "(flux drawn - flux survey) / flux survey"),
    }
    figure = plain_figure(5.4 * len(residuals), 4.2, title)
    for panel, (name, values) in zip(
        figure.subplots(1, len(residuals), squeeze=False)[0], residuals.items(), strict=True
    ):
        edges, reach = _edges(values.condition), REACH[name]
        shown = panel.hexbin(
            values.condition,
            np.clip(values.residual, -reach, reach),
            gridsize=(32, 18),
            cmap="viridis",
            mincnt=1,
            linewidths=0.1,
            extent=(edges[0], edges[-1], -reach, reach),
            rasterized=True,
        )
        table = binned(values, edges, seed=seed)
        x = 0.5 * (table["low"] + table["high"])
        panel.axhline(0, color=GRAY, linewidth=1)
        style = {"color": ORANGE, "marker": "o", "markersize": 4, "linewidth": 1.4, "capsize": 2}
        panel.errorbar(x, table["bias"], yerr=table["bias_error"], label="median", **style)
        for sign in (-1, 1):
            panel.plot(
                x, table["bias"] + sign * table["scatter"], color=ORANGE, linestyle=":", linewidth=1.4,
                label="central 68 %" if sign > 0 else None,
            )  # fmt: skip
        plain_axes(panel, xlabel=labels[name][0], ylabel=labels[name][1])
        panel.set(xlim=(edges[0], edges[-1]), ylim=(-reach, reach))
        panel.legend(loc="upper right", fontsize=TEXT_SIZE)
        bar = figure.colorbar(shown, ax=panel, pad=0.01)
        bar.set_label("galaxies", fontsize=TEXT_SIZE)
        bar.ax.tick_params(labelsize=TEXT_SIZE)
    return figure


def power_spectra(
    spectra: Mapping[str, Spectrum],
    *,
    limit: float | None = None,
    ylabel: str = "power",
    expected: float | None = None,
    title: str,
) -> "Figure":
    """Compare mean power spectra.

    Args:
        spectra: Spectra by name of the sample; at most four.
        limit: The survey's band limit, drawn as a vertical line [cycles per arcsec].
        ylabel: What is shown, with its unit.
        expected: A power that is expected at all frequencies, drawn as a line; the axis is linear then, unless
            a spectrum is several times above it.
        title: Title of the figure.

    Example:
        >>> spectrum = Spectrum(np.array([1.0, 2.0]), np.array([1.0, 0.1]), np.array([0.1, 0.01]))
        >>> len(power_spectra({"drawn": spectrum}, title="Power").axes)
        1
    """
    figure = plain_figure(6.5, 4.2, title)
    panel = figure.subplots()
    for (name, spectrum), (colour, marker, line) in zip(spectra.items(), LOOKS, strict=False):
        style: dict[str, Any] = {
            "color": colour,
            "marker": marker,
            "linestyle": line,
            "markersize": 3.5,
            "linewidth": 1.2,
        }
        panel.errorbar(
            spectrum.frequency, spectrum.power, yerr=spectrum.error, label=name, capsize=2, **style
        )
    plain_axes(panel, xlabel="frequency [cycles per arcsec]", ylabel=ylabel)
    if expected is not None:
        panel.axhline(expected, color=GRAY, linewidth=1)
    if expected is None or max(np.max(spectrum.power) for spectrum in spectra.values()) > 3 * expected:
        panel.set_yscale("log")
    if limit is not None:
        panel.axvline(limit, color=GRAY, linestyle=":", linewidth=1.2, label="band limit of the survey")
    panel.legend(frameon=False, fontsize=TEXT_SIZE)
    return figure


def amplitudes_of_rings(
    arms: Mapping[str, Table], *, title: str = "Azimuthal modes of rings of bright galaxies"
) -> "Figure":
    """Compare cumulative distributions of the amplitudes of m = 1, 2, 3, of what winds, and of its phase's drift.

    Args:
        arms: Measurements of each sample (:func:`hiergal.measure.arms.measure_arms`), of the galaxies that count.
        title: Title of the figure.

    Example:
        >>> names = ("m1", "m2", "m3", "winding2", "drift2")
        >>> table = Table({name: np.linspace(0.01, 0.3, 30) for name in names})
        >>> len(amplitudes_of_rings({"survey": table, "drawn": table}).axes)
        5
    """
    labels = {
        "m1": "amplitude of m = 1",
        "m2": "amplitude of m = 2",
        "m3": "amplitude of m = 3",
        "winding2": "winding amplitude of m = 2",
        "drift2": "|phase drift| of m = 2\n[radians per e-fold of the radius]",
    }
    figure = plain_figure(13, 3.4, title)
    panels = figure.subplots(1, len(labels), sharey=True)
    for panel, (column, label) in zip(panels, labels.items(), strict=True):
        for (name, table), (colour, _, line) in zip(arms.items(), LOOKS, strict=False):
            values = np.sort(np.abs(np.asarray(table[column], float)))
            share = (np.arange(len(values)) + 1) / len(values)
            panel.step(values, share, where="post", color=colour, linestyle=line, linewidth=1.3, label=name)
        plain_axes(panel, xlabel=label, ylabel="share of galaxies below" if panel is panels[0] else "")
        if column != "drift2":
            panel.set_xscale("log")
    panels[0].set_ylim(0, 1)
    panels[0].legend(frameon=False, fontsize=TEXT_SIZE)
    return figure


def _edges(values: np.ndarray) -> np.ndarray:
    """Bins of equal numbers of galaxies, without the outermost per cent on either side."""
    bins = int(np.clip(len(values) // (4 * FEWEST_GALAXIES), 1, QUANTILE_BINS))
    return np.unique(np.quantile(values, np.linspace(0.01, 0.99, bins + 1)))


def _colour_bar(figure: "Figure", above: Any, coloured: Any, foot_inch: float) -> None:
    """Draw the colour bar of the residuals below their columns."""
    left, right = (panel.get_position() for panel in above)
    height = figure.get_size_inches()[1]
    width = right.x1 - left.x0
    bar = figure.add_axes((left.x0 + 0.2 * width, (foot_inch - 0.16) / height, 0.6 * width, 0.09 / height))
    figure.colorbar(coloured, cax=bar, orientation="horizontal", ticks=[-4, -2, 0, 2, 4])
    bar.tick_params(labelsize=TEXT_SIZE - 1, length=2, pad=1)
    bar.set_xlabel("residual [σ]", fontsize=TEXT_SIZE - 1, labelpad=0)
