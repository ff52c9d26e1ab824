"""How well each galaxy is fitted, for a person to look through: images, residuals and their power, p-values."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from hiergal.figures.style import (
    TEXT_SIZE,
    label_stamp,
    scale_bar,
    show_noiseless,
    show_signed,
    show_stamp,
    stamp_grid,
)
from hiergal.observation import Observation
from hiergal.posterior import METHODS, Posterior

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hiergal.predictive import FitChecks

__all__ = ["fit_pages"]

RESIDUAL_LIMIT = 4.0  # standard deviations
HEADINGS = ("observed", "denoised", "deconvolved", "its std. dev.", "residual", "power of residual")
ROW_INCH, LEFT_INCH = 1.45, 1.3
SUSPICIOUS = 0.01


def fit_pages(
    observation: Observation, posterior: Posterior, checks: "FitChecks", *, rows: int = 11
) -> list["Figure"]:
    """Show every galaxy, brightest first, with what was inferred and what is wrong with it.

    At the left: identifier, magnitude, method, reduced chi-square and its p-value, the p-value of coherent residuals,
    and rarity under the prior; small ones (below 0.01) have a star. The last column is the power of whitened residuals
    over that of noise against frequency [cycles per arcsec], with the band that holds 95 % of replicates.

    Args:
        observation: The galaxies.
        posterior: Their posteriors, seen at their own PSFs.
        checks: What :func:`hiergal.predictive.check_fits` found.
        rows: Galaxies on a page.

    Returns:
        One figure for each page.

    Raises:
        ValueError: If these are not of the same galaxies.

    Example:
        >>> pages = fit_pages(observation, posterior, checks)  # doctest: +SKIP
    """
    for other in (posterior, checks):
        if not np.array_equal(other.identifier, observation.identifier):
            raise ValueError(
                f"expected posteriors and checks of the {len(observation)} observed galaxies in the same order, got "
                "others; index all alike"
            )
    brightest = np.argsort(-np.asarray(posterior.image_mean).sum((1, 2)))
    pages = [brightest[first : first + rows] for first in range(0, len(brightest), rows)]
    return [
        _page(observation, posterior, checks, page, f"{i + 1} of {len(pages)}")
        for i, page in enumerate(pages)
    ]


def _page(observation, posterior, checks, chosen: Int[np.ndarray, "r"], number: str) -> "Figure":
    shape, columns = observation.image.shape[1:], len(HEADINGS)
    figure, axes = stamp_grid(
        len(chosen),
        columns,
        shape,
        title=f"Galaxies, and how well they are fitted, {number}",
        width_inch=LEFT_INCH + columns * ROW_INCH,
        left_inch=LEFT_INCH,
        head_inch=0.62,
        foot_inch=0.45,
    )
    level = np.asarray(observation.noise.level())
    residual = np.asarray(
        observation.noise.whiten(np.asarray(observation.image) - posterior.image_mean, observation.mask)
    )
    for line, i in zip(axes, chosen, strict=True):
        peak = float(posterior.image_mean[i].max())
        show_stamp(line[0], np.asarray(observation.image)[i], level[i], peak)
        show_stamp(line[1], posterior.image_mean[i], level[i], peak)
        show_noiseless(line[2], posterior.profile_mean[i], level[i], float(posterior.profile_mean[i].max()))
        show_noiseless(line[3], posterior.profile_std[i], level[i], float(posterior.profile_std[i].max()))
        show_signed(line[4], residual[i], RESIDUAL_LIMIT)
        label_stamp(line[3], f"{posterior.profile_std[i].max() / level[i]:.1f}")
        _power(line[5], checks, i)
        line[0].text(
            -0.06, 0.5, _words(observation, posterior, checks, i), transform=line[0].transAxes, ha="right", va="center",
            fontsize=TEXT_SIZE - 2,
        )  # fmt: skip
    for panel, name in zip(axes[0], HEADINGS, strict=True):
        panel.set_title(name, fontsize=TEXT_SIZE)
    scale_bar(axes[-1][0], shape, observation.pixel_scale_arcsec)
    last = axes[-1][5]
    last.set_xlabel("cycles per arcsec", fontsize=TEXT_SIZE - 2)
    last.tick_params(labelbottom=True)
    return figure


def _power(axes: Any, checks: "FitChecks", i: int) -> None:
    axes.set_axis_on()
    axes.fill_between(
        checks.frequency, checks.spectrum_low[i], checks.spectrum_high[i], color="0.85", linewidth=0
    )
    axes.plot(checks.frequency, checks.spectrum[i], color="tab:blue", linewidth=1.2)
    axes.axhline(1, color="0.4", linewidth=0.6)
    axes.set_yscale("log")
    axes.set_ylim(0.5, max(2.0, 1.2 * float(checks.spectrum[i].max())))
    axes.minorticks_off()
    axes.set_yticks([0.5, 1, 2], ["0.5", "1", "2"])
    axes.yaxis.tick_right()
    axes.tick_params(labelsize=TEXT_SIZE - 3, length=2, labelbottom=False)


def _words(observation, posterior, checks, i: int) -> str:
    def starred(value: float) -> str:
        return f"{value:.3f}{'*' if value < SUSPICIOUS else ''}"

    magnitude = observation.catalog.get("mag_auto")
    lines = [
        str(observation.identifier[i]) + (f", {magnitude[i]:.2f} mag" if magnitude is not None else ""),
        METHODS[posterior.method[i]],
        f"chi-square {checks.chi_square[i]:.3f}",
        f"its p {starred(checks.chi_square_p[i])}",
        f"coherent p {starred(checks.coherence_p[i])}",
        f"rarity {starred(checks.rarity[i])}",
    ]
    return "\n".join(lines)
