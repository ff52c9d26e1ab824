"""Galaxies with what is asked of their fits: a row each, from the stamp to the spectrum of the residuals."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from hiergal.observation.observation import Observation
from hiergal.posterior.fit_checks import FitChecks
from hiergal.posterior.posterior import Posterior
from hiergal.reports.figures.reconstruction import RESIDUAL_LIMIT, residual_bar, whitened_residual
from hiergal.reports.figures.stamps import visible_pixels
from hiergal.reports.figures.style import (
    GUTTER_INCH,
    bright_to_faint,
    label_stamp,
    scale_bar,
    show_noiseless,
    show_signed,
    show_stamp,
)
from hiergal.runtime.plotting import BLACK, BLUE, GRAY, ORANGE, TEXT_SIZE, TITLE_SIZE, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["checked_fits"]

HEADINGS = ("observed", "denoised", "deconvolved", "its std. dev.", "residual [σ]")
TITLE = "Goodness of fit, and unusual galaxies"
STAMP_INCH, SPECTRUM_INCH, SPACE_INCH = 1.5, 2.3, 0.62
LEFT_INCH, HEAD_INCH, FOOT_INCH = 0.55, 0.62, 0.52
SMALL = 0.01  # p-values below are orange
WIDE = 3.0  # power above which the axis is logarithmic


def checked_fits(
    observation: Observation,
    posterior: Posterior,
    checks: FitChecks,
    *,
    rows: int | Int[np.ndarray, "r"] = 6,
    title: str = TITLE,
) -> "Figure":
    """Show galaxies, their fits, and the checks of these.

    A row has the stamp and the denoised image on one stretch; the deconvolved profile with ``p_prior``, small for
    unusual galaxies; its standard deviation, whose largest value is in units of the noise of a pixel; the residual of
    the posterior mean, whitened, with ``p_pixels``, small for bad fits, and below it chi-square and the largest
    significance of a point source ("peak"), each with its p-value; and the spectrum of the residuals with the band that
    holds 95 % of noise, and its p-value. P-values below 0.01 are orange, and so is power outside the band.

    Args:
        observation: Observed galaxies.
        posterior: Their posteriors, seen at their own PSFs.
        checks: Their checks.
        rows: How many galaxies, evenly over the ranks of magnitude; or which ones.
        title: Title of the figure.

    Returns:
        A row for each galaxy, the brightest first. Masked pixels are blue.

    Raises:
        ValueError: If posteriors or checks are not those of the observations.

    Example:
        >>> checks = hiergal.check_fits(model, observation, posterior, key=jax.random.key(2), replicates=50)
        >>> suspects = np.argsort(checks.p_pixels)[:2]
        >>> figure = checked_fits(observation, posterior, checks, rows=suspects)
    """
    for what, identifier in (("posteriors", posterior.identifier), ("checks", checks.identifier)):
        if not np.array_equal(identifier, observation.identifier):
            raise ValueError(
                f"expected {what} of the {len(observation)} observed galaxies in the same order, got others "
                f"({len(identifier)} of them); index both alike"
            )
    chosen = bright_to_faint(observation, rows) if isinstance(rows, int) else np.asarray(rows)
    shape = observation.image.shape[1:]
    figure, stamps, spectra = _panels(len(chosen), shape, title)
    observation, posterior = observation[chosen], posterior[chosen]
    image, level = visible_pixels(observation), np.asarray(observation.noise.rms())
    residual = whitened_residual(observation, posterior)
    for r, (panels, spectrum) in enumerate(zip(stamps, spectra, strict=True)):
        profile, error, i = posterior.profile_mean[r], posterior.profile_std[r], chosen[r]
        peak = np.nanmax(image[r])
        show_stamp(panels[0], image[r], level[r], peak)
        show_stamp(panels[1], posterior.image_mean[r], level[r], peak)
        show_noiseless(panels[2], profile, level[r], profile.max())
        show_noiseless(panels[3], error, level[r], error.max(), cmap="Purples")
        coloured = show_signed(panels[4], residual[r], RESIDUAL_LIMIT)
        _say(panels[2], "prior ", checks.p_prior[i])
        label_stamp(panels[3], f"max {error.max() / level[r]:.2g} σ")
        _say(panels[4], "pixels ", checks.p_pixels[i])
        _say(panels[4], f"χ² {checks.chi_square[i]:.2f}, ", checks.p_chi_square[i], "lower left", 0.11)
        _say(panels[4], f"peak {checks.coherent[i]:.1f} σ, ", checks.p_coherent[i], "lower left")
        _draw_spectrum(spectrum, checks, i)
        magnitude = observation.catalog.get("mag_auto")
        name = f"{observation.identifier[r]}" + ("" if magnitude is None else f"\n{magnitude[r]:.2f} mag")
        panels[0].text(-0.06, 0.5, name, transform=panels[0].transAxes, rotation=90, ha="right", va="center",
                       multialignment="center", fontsize=TEXT_SIZE)  # fmt: skip
    spectra[-1].set_xlabel("frequency [cycles per arcsec]", fontsize=TEXT_SIZE)
    scale_bar(stamps[0, 0], shape, observation.pixel_scale_arcsec)
    residual_bar(figure, stamps[-1, 4], coloured, FOOT_INCH)
    return figure


def _panels(rows: int, shape: tuple[int, int], title: str) -> tuple["Figure", np.ndarray, np.ndarray]:
    """A figure with five stamps in each row, and a panel for the spectrum at the right."""
    from matplotlib.figure import Figure

    columns = len(HEADINGS)
    down = STAMP_INCH * shape[0] / shape[1]
    across = columns * STAMP_INCH + (columns - 1) * GUTTER_INCH
    gap = 0.18  # between rows: spectra have numbers on their axes
    width = LEFT_INCH + across + SPACE_INCH + SPECTRUM_INCH + 0.1
    height = rows * down + (rows - 1) * gap + HEAD_INCH + FOOT_INCH
    figure = Figure(figsize=(width, height), facecolor="white")
    frame = {"top": 1 - HEAD_INCH / height, "bottom": FOOT_INCH / height, "hspace": gap / down}
    edges = {"left": LEFT_INCH / width, "right": (LEFT_INCH + across) / width}
    stamps = figure.add_gridspec(rows, columns, wspace=GUTTER_INCH / STAMP_INCH, **edges, **frame).subplots(
        squeeze=False
    )
    edges = {"left": 1 - (SPECTRUM_INCH + 0.1) / width, "right": 1 - 0.1 / width}
    spectra = figure.add_gridspec(rows, 1, **edges, **frame).subplots(squeeze=False)[:, 0]
    for panel in stamps.flat:
        panel.set_axis_off()
    for panel, heading in zip((*stamps[0], spectra[0]), (*HEADINGS, "power of the residual"), strict=True):
        panel.set_title(heading, fontsize=TEXT_SIZE + 1, pad=3)
    figure.suptitle(title, x=0.05 / width, y=1 - 0.08 / height, ha="left", va="top", fontsize=TITLE_SIZE)
    return figure, stamps, spectra


def _draw_spectrum(panel: Any, checks: FitChecks, i: int) -> None:
    from matplotlib.ticker import LogFormatterMathtext, LogLocator, NullFormatter

    frequency, power = checks.frequency, checks.power[i]
    low, high = checks.power_low[i], checks.power_high[i]
    panel.fill_between(frequency, low, high, color="0.85", linewidth=0)
    panel.axhline(1, color=GRAY, linewidth=1)
    panel.plot(frequency, power, color=BLUE, marker="o", markersize=3.5, linewidth=1.2)
    outside = (power < low) | (power > high)
    panel.plot(frequency[outside], power[outside], linestyle="", color=ORANGE, marker="s", markersize=4.5)
    plain_axes(panel, ylabel="power / noise")
    panel.yaxis.label.set_fontsize(TEXT_SIZE)
    panel.tick_params(labelsize=TEXT_SIZE - 1)
    panel.set_xlim(0, frequency[-1] * 1.05)
    most = max(power.max(), high.max())
    if most > WIDE:
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if most < 100 else (1,)))
        panel.yaxis.set_major_formatter("{x:g}" if most < 1000 else LogFormatterMathtext())
        panel.yaxis.set_minor_formatter(NullFormatter())
    else:
        panel.set_ylim(min(low.min(), power.min()) - 0.1, most + 0.35)
    _say(panel, "", checks.p_spectrum[i], "upper right")


def _say(axes: Any, words: str, p: float, corner: str = "upper left", up: float = 0.0) -> None:
    """Write a p-value into a corner, or a line above it."""
    number = f"{p:.2f}" if p >= SMALL else f"{p:.1g}" if p > 1e-99 else "< 1e-99"
    label_stamp(axes, f"{words}p {number}", corner=corner, colour=BLACK if p >= SMALL else ORANGE, up=up)
