"""One galaxy on one page: the observation, its posterior, and the checks of both."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float

from hiergal.observation.observation import Observation
from hiergal.posterior.posterior import METHODS, Posterior
from hiergal.posterior.verdict import explain_flags
from hiergal.reports.figures.reconstruction import RESIDUAL_LIMIT, whitened_residual
from hiergal.reports.figures.stamps import visible_pixels
from hiergal.reports.figures.style import label_stamp, scale_bar, show_noiseless, show_signed, show_stamp
from hiergal.runtime.plotting import BLACK, BLUE, GRAY, ORANGE, TEXT_SIZE, TITLE_SIZE, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["QUANTITIES", "posterior", "radial_profiles"]

QUANTITIES = {  # of the corner, with their labels
    "magnitude": "magnitude",
    "hlr_arcsec": "$R_{1/2}$ [arcsec]",
    "g1": "$g_1$",
    "g2": "$g_2$",
}
WIDTH, LOWER, MARGIN, GAP = 10.0, 5.4, 0.35, 0.09  # inches: the page, its lower half, margins, between stamps
TITLE, BAR, LINE = 0.27, 0.3, 0.175  # inches: a heading, the colour bar, a line of text
HEADINGS = ("observed", "denoised", "residual [σ]", "deconvolved mean", "its standard deviation")
STAMPS = len(HEADINGS)
FEWEST = 20  # draws of which distributions are shown
PROFILES = 100  # draws of which radial profiles are computed
REPLICATES = 200  # noise stamps that give the errors of the observed profile
SIGMA = np.array([0.025, 0.16, 0.5, 0.84, 0.975])


def posterior(
    posterior: Posterior,
    *,
    truth: Mapping[str, float] | None = None,
    title: str | None = None,
) -> "Figure":
    """Show the posterior of one galaxy on one page.

    From the top: the verdict in words and the main numbers (medians, with the ends of 68 % intervals); the stamp, the
    denoised image on the same stretch, the whitened residual, the deconvolved mean and its standard deviation; draws
    of the deconvolved profile; the corner of magnitude, half-light radius and ellipticity; radial profiles with 68 and
    95 % bands, of the denoised image (with the data) and of the deconvolved one.

    Args:
        posterior: Posterior of one galaxy, as ``posterior[0]`` gives it, which keeps its model and its galaxy.
        truth: Values of the quantities in the corner, where they are known, by name, in its units.
        title: Title of the page; default the identifier.

    Returns:
        A figure of 10 by 13 inches. Masked pixels are blue.

    Raises:
        ValueError: If it is of several galaxies, or has lost its model and its galaxy
            (:meth:`hiergal.Posterior.attach`).

    Example:
        >>> figure = hiergal.reports.figures.posterior(hiergal.infer(model, observation[0], key=0))
        >>> figure.savefig("galaxy.png", dpi=130)
    """
    if len(posterior) != 1:
        raise ValueError(
            f"posterior: expected that of one galaxy, got {len(posterior)}; give posterior[0], or another row"
        )
    from matplotlib.figure import Figure

    one, words = posterior.at_own_psf(), _verdict(posterior)
    ny, nx = one.profile_mean.shape[1:]
    across = (WIDTH - 2 * MARGIN - (STAMPS - 1) * GAP) / STAMPS
    down = min(across * ny / nx, 1.5 * across)
    head = 0.7 + LINE * max(len(words), 4)
    height = head + 2 * (TITLE + down) + BAR + LOWER
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    title = f"Galaxy {one.identifier[0]}" if title is None else title
    _write_summary(figure, one, title, words)
    rows = []
    for top in (head + TITLE, head + 2 * TITLE + down + BAR):
        edges = [MARGIN + i * (across + GAP) for i in range(STAMPS)]
        boxes = [(x / WIDTH, 1 - (top + down) / height, across / WIDTH, down / height) for x in edges]
        rows.append([figure.add_axes(box) for box in boxes])
        for panel in rows[-1]:
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set(color="0.8", linewidth=0.6)
    _draw_stamps(rows[0], one)
    sharp = one.images(draws=PROFILES)[:, 0]
    _draw_draws(rows[1], one, sharp)
    lower = LOWER / height
    corner = figure.add_gridspec(len(QUANTITIES), len(QUANTITIES), left=0.078, right=0.56, bottom=0.09 * lower,
                                 top=0.885 * lower, wspace=0.08, hspace=0.08)  # fmt: skip
    figure.text(0.035, 0.915 * lower, "Corner of the main quantities", fontsize=TEXT_SIZE + 1)
    _draw_corner(figure, corner, one, dict(truth or {}))
    profiles = figure.add_gridspec(
        2, 1, left=0.665, right=0.965, bottom=0.09 * lower, top=0.885 * lower, hspace=0.24
    )
    _draw_profiles(np.atleast_1d(np.asarray(profiles.subplots(sharex=True))), one, sharp)
    return figure


def radial_profiles(
    images: Float[np.ndarray, "s y x"],
    center_pix: tuple[float, float],
    pixel_scale_arcsec: float,
    mask: np.ndarray | None = None,
) -> tuple[Float[np.ndarray, "r"], Float[np.ndarray, "s r"]]:
    """Average images in rings about a point, each a pixel wide, as far as whole circles fit into the stamp.

    Args:
        images: Images [flux per pixel].
        center_pix: The point (x, y), from the centre of the stamp [pixels].
        pixel_scale_arcsec: Width of a pixel [arcsec].
        mask: Pixels to leave out.

    Returns:
        Mean radius of each ring [arcsec], and the mean brightness in it [flux per square arcsec].

    Example:
        >>> radius, brightness = radial_profiles(np.ones((1, 9, 9)), (0.0, 0.0), 0.5)
        >>> radius.round(2).tolist(), brightness[0].tolist()
        ([0.0, 0.6, 1.08, 1.52], [4.0, 4.0, 4.0, 4.0])
    """
    ny, nx = images.shape[-2:]
    x = np.arange(nx) - (nx - 1) / 2 - center_pix[0]
    y = np.arange(ny)[:, None] - (ny - 1) / 2 - center_pix[1]
    radius = np.hypot(x, y)
    ring = np.floor(radius + 0.5).astype(int)
    reach = (min(ny, nx) - 1) / 2 - np.max(np.abs(center_pix))
    used = ring <= max(1, int(reach - 0.5))
    used &= True if mask is None else ~mask
    numbers, member = np.unique(ring[used], return_inverse=True)
    sums = np.zeros((images.shape[0], len(numbers)))
    for image, out in zip(images, sums, strict=True):
        out[:] = np.bincount(member, image[used], len(numbers))
    count = np.bincount(member, minlength=len(numbers))
    means = np.bincount(member, radius[used], len(numbers)) / count
    return means * pixel_scale_arcsec, sums / count / pixel_scale_arcsec**2


def _verdict(one: Posterior) -> list[str]:
    """Describe in words the flags of the posterior."""
    if one.flag is None:
        return ["Not judged: inferred with verdict=False."]
    return explain_flags(int(one.flag[0])) or ["Nothing speaks against this posterior."]


def _write_summary(figure: "Figure", one: Posterior, title: str, words: list[str]) -> None:
    """The verdict in words, and the main numbers."""
    height = figure.get_size_inches()[1]
    figure.text(MARGIN / WIDTH, 1 - 0.2 / height, title, fontsize=TITLE_SIZE + 3, va="top", weight="bold")
    colour = ORANGE if one.flag is not None and one.flag[0] else BLACK
    options: dict[str, Any] = {"fontsize": TEXT_SIZE + 1, "va": "top", "linespacing": 1.3}
    figure.text(MARGIN / WIDTH, 1 - 0.6 / height, "\n".join(words), color=colour, **options)
    draws = len(one.latents)
    numbers = {
        "magnitude": _number(one.draws_of("magnitude")[:, 0]),
        f"flux [{one.model.provenance.flux_unit}]": _number(one.draws_of("flux")[:, 0]),
        "half-light radius $R_{1/2}$ [arcsec]": _number(one.draws_of("hlr_arcsec")[:, 0]),
        "axis ratio (moments)": _number(_axis_ratio(one)),
        "reduced $\\chi^2$": f"{float(one.chi_square[0]):.2f}",
        "method": METHODS[int(one.method[0])] + (f", {draws} draws" if draws > 1 else ", the mode alone"),
    }
    for row, (name, value) in enumerate(numbers.items()):
        y = 1 - (0.24 + 1.05 * LINE * row) / height
        figure.text(0.775, y, name, fontsize=TEXT_SIZE, va="top", ha="right", color="0.35")
        figure.text(0.79, y, value, fontsize=TEXT_SIZE, va="top")


def _axis_ratio(one: Posterior) -> np.ndarray:
    ellipticity = np.hypot(one.draws_of("g1")[:, 0], one.draws_of("g2")[:, 0])
    return (1 - ellipticity) / (1 + ellipticity)


def _number(draws: np.ndarray) -> str:
    """Write a median with the distances to the ends of the 68 % interval, to two digits of these."""
    if len(draws) < FEWEST:
        return f"{np.median(draws):.4g}"
    low, middle, high = np.quantile(draws, SIGMA[1:4], method="weibull")
    smaller = max(min(high - middle, middle - low), 1e-12)
    digits = int(np.clip(1 - np.floor(np.log10(smaller)), 0, 6))
    return f"{middle:.{digits}f}  +{high - middle:.{digits}f}  \u2212{middle - low:.{digits}f}"


def _draw_stamps(panels: list[Any], one: Posterior) -> None:
    observation = one.observation
    image, level = visible_pixels(observation)[0], float(np.asarray(observation.noise.rms())[0])
    peak, profile, error = np.nanmax(image), one.profile_mean[0], one.profile_std[0]
    show_stamp(panels[0], image, level, peak)
    show_stamp(panels[1], one.image_mean[0], level, peak)
    coloured = show_signed(panels[2], whitened_residual(observation, one)[0], RESIDUAL_LIMIT)
    show_noiseless(panels[3], profile, level, profile.max())
    show_noiseless(panels[4], error, level, error.max() or level, cmap="Purples")
    for panel, text in zip(panels, HEADINGS, strict=True):
        panel.set_title(text, fontsize=TEXT_SIZE + 1, pad=4)
    label_stamp(panels[0], f"peak {peak / level:.2g} σ")
    label_stamp(panels[3], f"peak {profile.max() / level:.2g} σ")
    label_stamp(panels[4], f"peak {error.max() / level:.2g} σ")
    scale_bar(panels[0], image.shape, observation.pixel_scale_arcsec)
    bar = panels[2].inset_axes((0.0, -0.075, 1.0, 0.04))
    panels[2].figure.colorbar(coloured, cax=bar, orientation="horizontal", ticks=[-4, -2, 0, 2, 4])
    bar.tick_params(labelsize=TEXT_SIZE - 2, length=2, pad=1)
    text = "σ: standard deviation of the noise in a pixel"
    panels[4].text(1, -0.05, text, transform=panels[4].transAxes, fontsize=TEXT_SIZE - 1, ha="right", va="top",
                   color="0.35")  # fmt: skip


def _draw_draws(panels: list[Any], one: Posterior, sharp: np.ndarray) -> None:
    level = float(np.asarray(one.observation.noise.rms())[0])
    chosen = np.linspace(0, len(sharp) - 1, min(STAMPS, len(sharp))).round().astype(int)
    for panel, draw in zip(panels, sharp[chosen], strict=False):
        show_noiseless(panel, draw, level, float(one.profile_mean[0].max()))
    text = "Draws of the deconvolved profile" if len(sharp) > 1 else "The mode, deconvolved"
    panels[0].set_title(text, fontsize=TEXT_SIZE + 1, pad=4, loc="left")


def _draw_corner(figure: "Figure", grid: Any, one: Posterior, truth: dict[str, float]) -> None:
    """Distributions of the main quantities, and of pairs of them."""
    from matplotlib.ticker import MaxNLocator

    names, size = list(QUANTITIES), len(QUANTITIES)
    draws = {name: np.asarray(one.draws_of(name)[:, 0], float) for name in names}
    if len(one.latents) < FEWEST:
        words = f"Distributions are shown of {FEWEST} draws or more;\nthis posterior has {len(one.latents)}."
        panel = figure.add_subplot(grid[:, :])
        panel.set_axis_off()
        panel.text(0.5, 0.5, words, ha="center", va="center", fontsize=TEXT_SIZE + 1, color="0.35")
        return
    limits = {name: _limits(draws[name], truth.get(name)) for name in names}
    for i in range(size):
        for j in range(i + 1):
            x, y, panel = names[j], names[i], figure.add_subplot(grid[i, j])
            if i == j:
                _histogram(panel, draws[x], limits[x])
            else:
                panel.plot(draws[x], draws[y], ".", color=BLUE, markersize=3.5, alpha=0.6, markeredgewidth=0)
                panel.set_ylim(limits[y])
            panel.set_xlim(limits[x])
            if x in truth:
                panel.axvline(truth[x], color=ORANGE, linewidth=1.2)
            if y in truth and i != j:
                panel.axhline(truth[y], color=ORANGE, linewidth=1.2)
            bottom, left = i == size - 1, j == 0 < i
            plain_axes(panel, xlabel=QUANTITIES[x] if bottom else "", ylabel=QUANTITIES[y] if left else "")
            for axis in (panel.xaxis, panel.yaxis):  # numbers at the ends would meet those of the next panel
                axis.set_major_locator(MaxNLocator(3, prune="both"))
            panel.tick_params(labelsize=TEXT_SIZE - 1, labelbottom=bottom, labelleft=left, length=2)
            if i == j:
                panel.set_yticks([])
    figure.align_ylabels()
    lines = "Lines: median and 68 % interval" + ("; orange: truth" if truth else "")
    box = grid[0, 1:].get_position(figure)
    figure.text(box.x1, box.y1, lines, fontsize=TEXT_SIZE - 1, ha="right", va="top", color="0.35")


def _limits(draws: np.ndarray, truth: float | None) -> tuple[float, float]:
    """Range that holds 99 % of the draws, and the truth."""
    low, high = np.quantile(draws[np.isfinite(draws)], [0.005, 0.995])
    if truth is not None:
        low, high = min(low, truth), max(high, truth)
    room = 0.08 * (high - low) or 1e-3
    return low - room, high + room


def _histogram(panel: Any, draws: np.ndarray, limits: tuple[float, float]) -> None:
    low, middle, high = np.quantile(draws, SIGMA[1:4], method="weibull")
    panel.hist(draws, bins=np.linspace(*limits, 25), color="#BFD9EA", edgecolor=BLUE, linewidth=0.4)
    panel.axvline(middle, color=BLACK, linewidth=1)
    for edge in (low, high):
        panel.axvline(edge, color=BLACK, linewidth=0.8, linestyle="--")
    panel.set_yticks([])
    panel.spines["left"].set_visible(False)


def _draw_profiles(panels: np.ndarray, one: Posterior, sharp: np.ndarray) -> None:
    """Radial profiles with bands, at the PSF with the data and deconvolved."""
    observation, scale = one.observation, one.observation.pixel_scale_arcsec
    center = (float(np.median(one.draws_of("x_pix"))), float(np.median(one.draws_of("y_pix"))))
    mask = None if observation.mask is None else np.asarray(observation.mask[0])
    seen = one.images(psf=observation.psf, draws=PROFILES)[:, 0]
    radius, data = radial_profiles(np.nan_to_num(np.asarray(observation.image)), center, scale, mask)
    errors = _errors(observation, center, mask)
    titles = ("Radial profile, denoised", "Radial profile, deconvolved")
    for panel, images, title in zip(panels, (seen, sharp), titles, strict=True):
        ring, brightness = radial_profiles(images, center, scale)
        _bands(panel, ring, brightness)
        panel.set_title(title, fontsize=TEXT_SIZE + 1, loc="left", pad=4)
        plain_axes(panel, ylabel=f"{one.model.provenance.flux_unit} / arcsec$^2$")
        panel.yaxis.label.set_fontsize(TEXT_SIZE)
        panel.tick_params(labelsize=TEXT_SIZE - 1)
        panel.axvline(float(np.median(one.draws_of("hlr_arcsec"))), color=GRAY, linewidth=0.8, linestyle=":")
        lowest = min(
            np.quantile(brightness, SIGMA[0], axis=0).min(), data.min() if images is seen else np.inf
        )
        _brightness_axis(panel, lowest, float(np.quantile(brightness, SIGMA[-1], axis=0).max()), errors)
    panels[0].errorbar(
        radius, data[0], errors, fmt="o", color=BLACK, markersize=3, linewidth=0.9, label="data", zorder=4
    )
    panels[0].legend(frameon=False, fontsize=TEXT_SIZE - 1, loc="upper right")
    panels[1].set_xlabel("radius [arcsec]; dotted: $R_{1/2}$", fontsize=TEXT_SIZE)


def _errors(observation: Observation, center: tuple[float, float], mask: np.ndarray | None) -> np.ndarray:
    """Standard deviation of the noise in each ring, correlations included."""
    shape = (REPLICATES, *observation.image.shape[1:])
    one = jax.tree.map(lambda leaf: leaf[0], observation.noise)
    noise = np.asarray(one.sample(jax.random.key(0), shape))
    return radial_profiles(noise, center, observation.pixel_scale_arcsec, mask)[1].std(axis=0)


def _bands(panel: Any, radius: np.ndarray, brightness: np.ndarray) -> None:
    wide, low, middle, high, widest = np.quantile(brightness, SIGMA, axis=0)
    if len(brightness) >= FEWEST:
        panel.fill_between(radius, wide, widest, color="#D6E6F2", linewidth=0, label="95 %")
        panel.fill_between(radius, low, high, color="#8FBBDB", linewidth=0, label="68 %")
    panel.plot(radius, middle, color=BLUE, linewidth=1.2, label="median")


def _brightness_axis(panel: Any, low: float, high: float, errors: np.ndarray) -> None:
    """Logarithmic where all is above the noise; else linear below three of its standard deviations."""
    threshold = 3 * float(np.median(errors))
    panel.set_xlim(0, None)
    if low > threshold:
        panel.set_yscale("log")
        panel.set_ylim(0.7 * low, 2 * high)
        return
    panel.set_yscale("symlog", linthresh=threshold, linscale=0.7)
    panel.set_ylim(min(-0.5 * threshold, 1.3 * low), 2 * max(high, threshold))
    panel.axhline(0, color=GRAY, linewidth=0.8)
