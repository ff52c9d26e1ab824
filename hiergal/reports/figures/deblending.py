"""Scenes of overlapping galaxies, and what each of them contributes, with errors."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from hiergal.observation.observation import Observation
from hiergal.reports.figures.style import (
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

    from hiergal.posterior.scenes.deblend import Deblended

__all__ = ["deblended_scenes"]

RESIDUAL_LIMIT = 4.0  # standard deviations
STAMP_INCH = 1.35


def deblended_scenes(
    observation: Observation,
    deblended: "Deblended",
    truth: Float[Array, "n k v u"] | None = None,
    *,
    rows: int | Int[np.ndarray, "r"] = 4,
    title: str = "Scenes, and what each galaxy contributes",
) -> "Figure":
    """Show scenes, their models and residuals, and mean and standard deviation of each source alone.

    Stamps of a row share one stretch; the standard deviation has a scale of its own, whose largest value is written on
    it in units of the noise of a pixel. Crosses are the mean positions.

    Args:
        observation: The scenes.
        deblended: Their posteriors.
        truth: Noise-free images of each source alone [flux per pixel], where they are known.
        rows: How many scenes, the first ones; or which.
        title: Title of the figure.

    Raises:
        ValueError: If the posteriors are not those of the scenes.

    Example:
        >>> positions = np.array([[[-8.0, 0.0], [8.0, 0.0]]])  # of two sources
        >>> found = hiergal.deblend(model, observation[0], positions, key=0, draws=10)
        >>> figure = deblended_scenes(observation[0], found)
    """
    if not np.array_equal(deblended.identifier, observation.identifier):
        raise ValueError(
            f"expected posteriors of the {len(observation)} scenes in the same order, got others "
            f"({len(deblended.identifier)} of them); index both alike"
        )
    chosen = np.arange(min(rows, len(observation))) if isinstance(rows, int) else rows
    sources, shape = deblended.image_mean.shape[1], observation.image.shape[1:]
    each = 2 if truth is None else 3
    columns = 3 + each * sources
    figure, axes = stamp_grid(
        len(chosen), columns, shape, title=title, width_inch=columns * STAMP_INCH, head_inch=0.62
    )
    level = np.asarray(observation.noise.rms())
    noisy = np.asarray(observation.image)
    model = deblended.image_mean.sum(axis=1)
    whitened = np.asarray(observation.noise.whiten(noisy - model, observation.mask))
    centre = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    for line, i in zip(axes, chosen, strict=True):
        peak = float(model[i].max())
        show_stamp(line[0], noisy[i], level[i], peak)
        show_stamp(line[1], model[i], level[i], peak)
        show_signed(line[2], whitened[i], RESIDUAL_LIMIT)
        label_stamp(line[2], f"{deblended.chi_square[i]:.2f}")
        at = deblended.positions[:, i].mean(axis=0) + centre
        line[0].plot(at[:, 0], at[:, 1], "+", color="tab:orange", markersize=7)
        for k in range(sources):
            here = line[3 + each * k :]
            show_stamp(here[0], deblended.image_mean[i, k], level[i], peak)
            show_noiseless(
                here[1], deblended.image_std[i, k], level[i], float(deblended.image_std[i, k].max())
            )
            label_stamp(here[1], f"{deblended.image_std[i, k].max() / level[i]:.1f}")
            if truth is not None:
                show_stamp(here[2], np.asarray(truth)[i, k], level[i], peak)
    names = ["observed", "model", "residual"]
    names += [f"{what} {k + 1}" for k in range(sources) for what in ("galaxy", "std. dev.", "truth")[:each]]
    for panel, name in zip(axes[0], names, strict=True):
        panel.set_title(name, fontsize=TEXT_SIZE)
    scale_bar(axes[-1][0], shape, observation.pixel_scale_arcsec)
    return figure
