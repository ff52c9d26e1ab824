"""Observed galaxies and their reconstructions by the model (Lanusse et al. 2020, Fig. 5, with errors)."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from hiergal.observation.observation import Observation
from hiergal.posterior.posterior import Posterior
from hiergal.reports.figures.stamps import visible_pixels
from hiergal.reports.figures.style import (
    bright_to_faint,
    label_stamp,
    scale_bar,
    show_noiseless,
    show_signed,
    show_stamp,
    stamp_grid,
)
from hiergal.runtime.plotting import TEXT_SIZE
from hiergal.runtime.pytree import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "RESIDUAL_LIMIT",
    "reconstruction_pages",
    "reconstructions",
    "residual_bar",
    "whitened_residual",
]

RESIDUAL_LIMIT = 4.0  # standard deviations
HEADINGS = ("observed", "reconstruction", "residual", "deconvolved", "its std. dev.", "truth")
TITLE = "Unseen galaxies, and what the model infers behind them"
ROW_INCH = 1.5


def reconstructions(
    observation: Observation,
    posterior: Posterior,
    truth: Float[Array, "n y x"] | None = None,
    *,
    rows: int | Int[np.ndarray, "r"] = 8,
    title: str = TITLE,
) -> "Figure":
    """Show galaxies, their reconstructions, residuals, and deconvolved light with its error.

    Observation and reconstruction of a row share one stretch, and so do the deconvolved mean and the truth. The
    standard deviation is on a scale of its own; its largest value is written on it, in units of the noise of a
    pixel, as is the reduced chi-square on the residual (whitened: uncorrelated if the model is right).

    Args:
        observation: Observed galaxies.
        posterior: Their posteriors, seen at their own PSFs.
        truth: Unconvolved profiles [flux per pixel], where they are known.
        rows: How many galaxies, evenly over the ranks of magnitude; or which ones.
        title: Title of the figure.

    Returns:
        A row for each galaxy, the brightest first. Masked pixels are blue.

    Raises:
        ValueError: If the posteriors are not those of the observations.

    Example:
        >>> figure = reconstructions(observation, posterior, rows=2)
    """
    if not np.array_equal(posterior.identifier, observation.identifier):
        raise ValueError(
            f"expected posteriors of the {len(observation)} observed galaxies in the same order, got others "
            f"({len(posterior)} of them); index both alike"
        )
    chosen = bright_to_faint(observation, rows) if isinstance(rows, int) else rows
    columns = 5 if truth is None else 6
    shape = observation.image.shape[1:]
    left_inch, foot_inch = 0.42, 0.5
    figure, axes = stamp_grid(
        len(chosen),
        columns,
        shape,
        title=title,
        width_inch=left_inch + columns * ROW_INCH,
        left_inch=left_inch,
        head_inch=0.62,
        foot_inch=foot_inch,
    )
    for panel, heading in zip(axes[0], HEADINGS, strict=False):
        panel.set_title(heading, fontsize=TEXT_SIZE + 1, pad=3)
    observation, posterior = observation[chosen], posterior[chosen]
    image, level = visible_pixels(observation), np.asarray(observation.noise.rms())
    whitened = whitened_residual(observation, posterior)
    for r, panels in enumerate(axes):
        profile, error = posterior.profile_mean[r], posterior.profile_std[r]
        peak, sharp_peak = np.nanmax(image[r]), profile.max() if truth is None else truth[chosen[r]].max()
        show_stamp(panels[0], image[r], level[r], peak)
        show_stamp(panels[1], posterior.image_mean[r], level[r], peak)
        coloured = show_signed(panels[2], whitened[r], RESIDUAL_LIMIT)
        show_noiseless(panels[3], profile, level[r], sharp_peak)
        show_noiseless(panels[4], error, level[r], error.max(), cmap="Purples")
        if truth is not None:
            show_noiseless(panels[5], truth[chosen[r]], level[r], sharp_peak)
        label_stamp(panels[2], f"χ² {posterior.chi_square[r]:.2f}")
        label_stamp(panels[4], f"max {error.max() / level[r]:.2g} σ")
        if "mag_auto" in observation.catalog:
            text = f"{observation.catalog['mag_auto'][r]:.1f} mag"
            panels[0].text(
                -0.06, 0.5, text, transform=panels[0].transAxes, rotation=90, ha="right", va="center"
            )
    scale_bar(axes[0, 0], shape, observation.pixel_scale_arcsec)
    residual_bar(figure, axes[-1, 2], coloured, foot_inch)
    return figure


def reconstruction_pages(
    observation: Observation,
    posterior: Posterior,
    truth: Float[Array, "n y x"] | None = None,
    *,
    per_page: int = 11,
    title: str = TITLE,
) -> "list[Figure]":
    """Show all galaxies, the brightest first, on as many figures as that takes.

    Args:
        observation: Observed galaxies.
        posterior: Their posteriors.
        truth: Unconvolved profiles [flux per pixel], where they are known.
        per_page: Galaxies on a figure.
        title: Title of the figures; their numbers are added.

    Example:
        >>> pages = reconstruction_pages(observation, posterior, title="Mock galaxies")
    """
    order = bright_to_faint(observation, len(observation))
    pages = [order[first : first + per_page] for first in range(0, len(order), per_page)]
    return [
        reconstructions(observation, posterior, truth, rows=rows, title=f"{title} ({number} of {len(pages)})")
        for number, rows in enumerate(pages, start=1)
    ]


def whitened_residual(observation: Observation, posterior: Posterior) -> np.ndarray:
    """Return residuals of denoised images in standard deviations, uncorrelated; NaN where masked."""
    residual = np.asarray(
        observation.noise.whiten(observation.image - posterior.image_mean, observation.mask)
    )
    return residual if observation.mask is None else np.where(observation.mask, np.nan, residual)


def residual_bar(figure: "Figure", above: Any, coloured: Any, foot_inch: float) -> None:
    """Draw the colour bar of the residuals below their column."""
    place, height = above.get_position(), figure.get_size_inches()[1]
    bar = figure.add_axes((place.x0, (foot_inch - 0.16) / height, place.width, 0.09 / height))
    figure.colorbar(coloured, cax=bar, orientation="horizontal", ticks=[-4, -2, 0, 2, 4])
    bar.tick_params(labelsize=TEXT_SIZE - 1, length=2, pad=1)
    bar.set_xlabel("residual [σ]", fontsize=TEXT_SIZE - 1, labelpad=0)
