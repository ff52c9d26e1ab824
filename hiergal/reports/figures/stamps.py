"""Galaxies as a survey shows them, and as a model draws them (Lanusse et al. 2020, Fig. 1)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from hiergal.observation.observation import Observation
from hiergal.reports.figures.style import bright_to_faint, label_stamp, scale_bar, show_stamp, stamp_grid
from hiergal.runtime.pytree import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["drawn_galaxies", "survey_stamps", "visible_pixels"]

COLUMNS = 8


def survey_stamps(
    observation: Observation, count: int = 24, *, title: str = "Galaxies of the survey, and their magnitudes"
) -> "Figure":
    """Show observed stamps, from bright to faint.

    Args:
        observation: Galaxies of the survey.
        count: How many of them, evenly over the ranks of magnitude.
        title: Title of the figure.

    Returns:
        A mosaic; each stamp has a stretch of its own, in units of its noise. Masked pixels are blue.

    Example:
        >>> from hiergal.survey.mock.galaxies import draw_mock
        >>> figure = survey_stamps(draw_mock(3, seed=1, stamp=32).observation)
        >>> len(figure.axes)
        3
    """
    chosen = bright_to_faint(observation, count)
    columns = min(COLUMNS, len(chosen))
    image, level = visible_pixels(observation), np.asarray(observation.noise.rms())
    magnitude = observation.catalog.get("mag_auto")
    rows = -(-len(chosen) // columns)
    figure, axes = stamp_grid(
        rows, columns, image.shape[1:], title=title, width_inch=9 * max(columns, 4) / COLUMNS
    )
    for panel, i in zip(axes.flat, chosen, strict=False):
        show_stamp(panel, image[i], level[i], np.nanmax(image[i]))
        if magnitude is not None:
            label_stamp(panel, f"{magnitude[i]:.1f}")
    for panel in axes.flat[len(chosen) :]:
        panel.remove()
    scale_bar(axes[0, 0], image.shape[1:], observation.pixel_scale_arcsec)
    return figure


def drawn_galaxies(
    real: Float[Array, "n y x"],
    drawn: Float[Array, "n y x"],
    drawn_noiseless: Float[Array, "n y x"],
    labels: Sequence[str] | None = None,
    *,
    noise_level: Float[Array, "n"],
    pixel_scale_arcsec: float,
    title: str = "Survey galaxies, and galaxies drawn for the same magnitude, size and redshift",
) -> "Figure":
    """Show real galaxies above drawn ones, with and without noise (paper, Fig. 1).

    Args:
        real: Observed stamps [flux per pixel].
        drawn: Drawn galaxies at the same PSF, with the same noise [flux per pixel].
        drawn_noiseless: The same without noise.
        labels: A few characters for each column, such as a magnitude.
        noise_level: Standard deviation of a pixel of each galaxy [flux per pixel].
        pixel_scale_arcsec: Width of a pixel [arcsec].
        title: Title of the figure.

    Returns:
        Three rows; the stamps of a column share one stretch.

    Example:
        >>> stamps = np.ones((4, 16, 16))
        >>> figure = drawn_galaxies(stamps, stamps, stamps, noise_level=np.ones(4), pixel_scale_arcsec=0.03)
        >>> len(figure.axes)
        12
    """
    rows = {"survey": real, "drawn": drawn, "drawn,\nno noise": drawn_noiseless}
    n, *shape = np.shape(real)
    width_inch = 0.75 + 8.25 * max(n, 4) / COLUMNS if n < COLUMNS else 9.0
    figure, axes = stamp_grid(3, n, tuple(shape), title=title, width_inch=width_inch, left_inch=0.75)
    for panels, (name, images) in zip(axes, rows.items(), strict=True):
        panels[0].text(-0.08, 0.5, name, transform=panels[0].transAxes, ha="right", va="center", fontsize=10)
        for i, panel in enumerate(panels):
            show_stamp(panel, images[i], float(noise_level[i]), max(np.nanmax(real[i]), np.nanmax(drawn[i])))
    for panel, text in zip(axes[0], labels or (), strict=False):
        label_stamp(panel, text)
    scale_bar(axes[-1, 0], tuple(shape), pixel_scale_arcsec)
    return figure


def visible_pixels(observation: Observation) -> np.ndarray:
    """Return the stamps with NaN where they are masked."""
    image = np.asarray(observation.image)
    return image if observation.mask is None else np.where(observation.mask, np.nan, image)
