"""The brightest galaxies of a survey: what is known of each, and two of the galaxies that it may be."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from hiergal.posterior.posterior import Posterior
from hiergal.reports.figures.stamps import visible_pixels
from hiergal.reports.figures.style import (
    SOFTENING,
    label_stamp,
    scale_bar,
    show_noiseless,
    show_stamp,
    stamp_grid,
)
from hiergal.runtime.plotting import TEXT_SIZE
from hiergal.runtime.pytree import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["brightest_posteriors"]

HEADINGS = ("truth", "observed", "posterior mean", "one draw", "another draw", "std. dev.")
DRAWS = 2
ROW_INCH = 1.5
LEFT_INCH, FOOT_INCH = 0.42, 0.62
TICKS = (0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000)  # standard deviations of the noise of a pixel


def brightest_posteriors(
    posterior: Posterior,
    truth: Float[Array, "n y x"] | None = None,
    *,
    count: int = 10,
    title: str = "The brightest galaxies, and what may be behind them",
) -> "Figure":
    """Show truth, data, posterior mean, two draws and standard deviation of the brightest galaxies.

    Mean, draws and truth are deconvolved. All panels but the last column share one arcsinh stretch in units of the
    noise of a pixel, with its colour bar below; the standard deviation has its own.

    Args:
        posterior: Posteriors of at least two draws, which keep their model and their galaxies
            (:meth:`hiergal.Posterior.attach`).
        truth: Unconvolved profiles [flux per pixel], where they are known.
        count: How many galaxies; all, if there are fewer.
        title: Title of the figure.

    Returns:
        A row for each galaxy, the brightest first, by magnitude or else by flux in the stamp. Masked pixels are blue.

    Raises:
        ValueError: If there are fewer than two draws, or the posteriors have lost their galaxies.

    Example:
        >>> figure = brightest_posteriors(posterior, count=2)
        >>> len(figure.axes)  # five columns, and two colour bars
        12
    """
    if len(posterior.latents) < DRAWS:
        raise ValueError(
            f"posterior: expected at least {DRAWS} draws, got {len(posterior.latents)}; infer with more (`draws`)"
        )
    catalog = posterior.observation.catalog
    rank = catalog.get("mag_auto", -np.nansum(posterior.observation.image, axis=(1, 2)))
    rows = np.argsort(np.asarray(rank), kind="stable")[:count]
    posterior = posterior[rows].at_own_psf()
    observation, shape = posterior.observation, posterior.observation.image.shape[1:]
    level = np.asarray(observation.noise.rms())
    # Everything in units of the noise of a pixel, so that one stretch and one colour bar hold for all rows.
    by = level[:, None, None]
    columns = [
        visible_pixels(observation) / by,
        posterior.profile_mean / by,
        *(posterior.images(draws=DRAWS) / by),
        posterior.profile_std / by,
    ]
    if truth is not None:
        columns.insert(0, np.asarray(truth)[rows] / by)
    headings = HEADINGS[len(HEADINGS) - len(columns) :]
    figure, axes = stamp_grid(
        len(rows),
        len(columns),
        shape,
        title=title,
        width_inch=LEFT_INCH + len(columns) * ROW_INCH,
        left_inch=LEFT_INCH,
        head_inch=0.62,
        foot_inch=FOOT_INCH,
    )
    peak = max(float(np.nanmax(images)) for images in columns[:-1])
    most = max(float(columns[-1].max()), 1e-6)
    for panel, heading in zip(axes[0], headings, strict=True):
        panel.set_title(heading, fontsize=TEXT_SIZE + 1, pad=3)
    for r, panels in enumerate(axes):
        for panel, images, heading in zip(panels, columns, headings, strict=True):
            if heading == "observed":
                show_stamp(panel, images[r], 1.0, peak)
            elif heading == "std. dev.":
                error = show_noiseless(panel, images[r], 1.0, most, cmap="Purples")
            else:
                light = show_noiseless(panel, images[r], 1.0, peak)
        label_stamp(panels[headings.index("observed")], f"χ² {float(posterior.chi_square[r]):.2f}")
        name = f"{catalog['mag_auto'][rows[r]]:.2f} mag" if "mag_auto" in catalog else str(rows[r])
        panels[0].text(
            -0.06, 0.5, name, transform=panels[0].transAxes, rotation=90, ha="right", va="center", fontsize=10
        )
    scale_bar(axes[0, 0], shape, observation.pixel_scale_arcsec)
    _stretch_bar(figure, axes[-1, :-1], light, "flux of a pixel [σ of its noise]")
    _stretch_bar(figure, axes[-1, -1:], error, "std. dev. [σ]")
    return figure


def _stretch_bar(figure: "Figure", above: Any, shown: Any, label: str) -> None:
    """Draw the colour bar of an arcsinh stretch below columns, with ticks in the unit that was stretched."""
    first, last = (panel.get_position() for panel in (above[0], above[-1]))
    height = figure.get_size_inches()[1]
    width = last.x1 - first.x0
    inset = 0.25 * width if len(above) > 1 else 0.05 * width
    box = (first.x0 + inset, (FOOT_INCH - 0.17) / height, width - 2 * inset, 0.09 / height)
    bar = figure.add_axes(box)
    ticks = [tick for tick in TICKS if np.arcsinh(tick / SOFTENING) <= shown.norm.vmax]
    if len(above) == 1:
        ticks = ticks[:: max(1, len(ticks) // 3)]
    figure.colorbar(shown, cax=bar, orientation="horizontal")
    bar.set_xticks([np.arcsinh(tick / SOFTENING) for tick in ticks], [f"{tick:g}" for tick in ticks])
    bar.tick_params(labelsize=TEXT_SIZE - 1, length=2, pad=1)
    bar.set_xlabel(label, fontsize=TEXT_SIZE - 1, labelpad=0)
