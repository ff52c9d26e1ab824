"""One galaxy on one page: what was observed, what the posterior says is behind it, and how far to trust that."""

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
from hiergal.runtime.plotting import BLACK, BLUE, GREY, ORANGE, TEXT_SIZE, TITLE_SIZE, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["QUANTITIES", "posterior", "radial_profiles"]

QUANTITIES = {  # of the corner: label and, for numbers in the text, decimals
    "magnitude": ("magnitude [mag]", 3),
    "hlr_arcsec": ("half-light radius [arcsec]", 3),
    "g1": ("ellipticity $g_1$", 3),
    "g2": ("ellipticity $g_2$", 3),
}
WIDTH, HEIGHT = 10.0, 13.2  # inches
SHOWN = 5  # draws as stamps
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

    one = posterior.at_own_psf()
    figure = Figure(figsize=(WIDTH, HEIGHT), facecolor="white")
    title = f"Galaxy {one.identifier[0]}" if title is None else title
    figure.text(0.035, 0.985, title, fontsize=TITLE_SIZE + 3, va="top", weight="bold")
    lines = figure.subfigures(4, 1, height_ratios=[1.35, 2.35, 2.1, 7.4], hspace=0.0)
    _write_summary(figure, one)
    _draw_stamps(lines[1], one)
    sharp = one.images(draws=PROFILES)[:, 0]
    _draw_draws(lines[2], one, sharp)
    left, right = lines[3].subfigures(1, 2, width_ratios=[1.38, 1.0], wspace=0.0)
    _draw_corner(left, one, dict(truth or {}))
    _draw_profiles(right, one, sharp)
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
        ([0.0, 0.57, 1.12, 1.64], [4.0, 4.0, 4.0, 4.0])
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


def _write_summary(figure: "Figure", one: Posterior) -> None:
    """The verdict in words, and the main numbers."""
    flag = None if one.flag is None else int(one.flag[0])
    if flag is None:
        words, colour = ["Not judged: inferred with verdict=False."], GREY
    elif flag == 0:
        words, colour = ["Nothing speaks against this posterior."], BLACK
    else:
        words, colour = explain_flags(flag), ORANGE
    figure.text(0.035, 0.962, "\n".join(words), fontsize=TEXT_SIZE + 1, va="top", color=colour, wrap=True)
    draws, method = len(one.latents), METHODS[int(one.method[0])]
    numbers = [f"{name}  {_number(one.draws_of(key)[:, 0], digits)}" for key, name, digits in (
        ("magnitude", "magnitude [mag]", 3),
        ("flux", f"flux [{one.model.provenance.flux_unit}]", None),
        ("hlr_arcsec", "half-light radius [arcsec]", 3),
    )]  # fmt: skip
    numbers.append(f"axis ratio of moments  {_number(_axis_ratio(one), 3)}")
    numbers.append(f"{'mode alone' if draws == 1 else f'{draws} draws'} by {method}")
    numbers.append(f"reduced $\\chi^2$  {float(one.chi_square[0]):.2f}")
    figure.text(0.965, 0.985, "\n".join(numbers), fontsize=TEXT_SIZE, va="top", ha="right", linespacing=1.35)


def _axis_ratio(one: Posterior) -> np.ndarray:
    ellipticity = np.hypot(one.draws_of("g1")[:, 0], one.draws_of("g2")[:, 0])
    return (1 - ellipticity) / (1 + ellipticity)


def _number(draws: np.ndarray, digits: int | None) -> str:
    """Write a median with the distances to the ends of the 68 % interval."""
    if digits is None:
        digits = max(0, 2 - int(np.floor(np.log10(max(draws.std(), abs(draws.mean()) * 1e-3, 1e-12)))))
    if len(draws) < FEWEST:
        return f"{np.median(draws):.{digits}f}"
    low, middle, high = np.quantile(draws, SIGMA[1:4], method="weibull")
    return f"${middle:.{digits}f}^{{+{high - middle:.{digits}f}}}_{{-{middle - low:.{digits}f}}}$"


def _stamp_axes(part: Any, columns: int) -> np.ndarray:
    axes = part.subplots(
        1, columns, gridspec_kw={"left": 0.035, "right": 0.965, "top": 0.88, "bottom": 0.1, "wspace": 0.05}
    )
    for panel in axes:
        panel.set_axis_off()
    return axes


def _draw_stamps(part: Any, one: Posterior) -> None:
    observation = one.observation
    image, level = visible_pixels(observation)[0], float(np.asarray(observation.noise.level())[0])
    peak, profile, error = np.nanmax(image), one.profile_mean[0], one.profile_std[0]
    panels = _stamp_axes(part, 5)
    show_stamp(panels[0], image, level, peak)
    show_stamp(panels[1], one.image_mean[0], level, peak)
    coloured = show_signed(panels[2], whitened_residual(observation, one)[0], RESIDUAL_LIMIT)
    show_noiseless(panels[3], profile, level, profile.max())
    show_noiseless(panels[4], error, level, error.max() or level, cmap="Purples")
    for panel, text in zip(
        panels,
        ("observed", "denoised", "residual", "deconvolved mean", "its standard deviation"),
        strict=True,
    ):
        panel.set_title(text, fontsize=TEXT_SIZE + 1, pad=4)
    label_stamp(panels[0], f"peak {peak / level:.3g} σ")
    label_stamp(panels[3], f"peak {profile.max() / level:.3g} σ")
    label_stamp(panels[4], f"peak {error.max() / level:.3g} σ")
    scale_bar(panels[0], image.shape, observation.pixel_scale_arcsec)
    bar = panels[2].inset_axes((0.0, -0.085, 1.0, 0.045))
    part.figure.colorbar(coloured, cax=bar, orientation="horizontal", ticks=[-4, -2, 0, 2, 4])
    bar.tick_params(labelsize=TEXT_SIZE - 2, length=2, pad=1)
    panels[2].set_title("residual [σ of the noise]", fontsize=TEXT_SIZE + 1, pad=4)
    part.text(0.965, 0.02, "σ: standard deviation of the noise in a pixel", fontsize=TEXT_SIZE - 1, ha="right",
              color="0.35")  # fmt: skip


def _draw_draws(part: Any, one: Posterior, sharp: np.ndarray) -> None:
    level = float(np.asarray(one.observation.noise.level())[0])
    panels = _stamp_axes(part, SHOWN)
    chosen = np.linspace(0, len(sharp) - 1, min(SHOWN, len(sharp))).round().astype(int)
    for panel, draw in zip(panels, sharp[chosen], strict=False):
        show_noiseless(panel, draw, level, float(one.profile_mean[0].max()))
    text = "draws of the deconvolved profile" if len(sharp) > 1 else "the mode"
    panels[0].set_title(text, fontsize=TEXT_SIZE + 1, pad=4, loc="left")


def _draw_corner(part: Any, one: Posterior, truth: dict[str, float]) -> None:
    """Distributions of the main quantities, and of pairs of them."""
    names = list(QUANTITIES)
    draws = {name: np.asarray(one.draws_of(name)[:, 0], float) for name in names}
    part.text(0.095, 0.965, "corner of the main quantities", fontsize=TEXT_SIZE + 1)
    if len(one.latents) < FEWEST:
        part.text(0.5, 0.5, f"expected at least {FEWEST} draws for distributions,\ngot {len(one.latents)}",
                  ha="center", fontsize=TEXT_SIZE + 1, color="0.35")  # fmt: skip
        return
    size = len(names)
    axes = part.subplots(
        size, size, squeeze=False,
        gridspec_kw={"left": 0.135, "right": 0.98, "top": 0.945, "bottom": 0.105, "wspace": 0.06, "hspace": 0.06},
    )  # fmt: skip
    limits = {name: _limits(draws[name], truth.get(name)) for name in names}
    for i, j in np.ndindex(size, size):
        panel = axes[i, j]
        if j > i:
            panel.remove()
            continue
        x, y = names[j], names[i]
        if i == j:
            _histogram(panel, draws[x], limits[x])
        else:
            panel.plot(draws[x], draws[y], ".", color=BLUE, markersize=2.5, alpha=0.5, markeredgewidth=0)
            panel.set_ylim(limits[y])
        panel.set_xlim(limits[x])
        for name, line in ((x, panel.axvline), (y, panel.axhline if i != j else None)):
            if line is not None and name in truth:
                line(truth[name], color=ORANGE, linewidth=1.1)
        plain_axes(
            panel,
            xlabel=QUANTITIES[x][0] if i == size - 1 else "",
            ylabel=QUANTITIES[y][0] if j == 0 < i else "",
        )
        panel.xaxis.label.set_fontsize(TEXT_SIZE)
        panel.yaxis.label.set_fontsize(TEXT_SIZE)
        panel.locator_params(axis="x", nbins=3)
        panel.locator_params(axis="y", nbins=3)
        panel.tick_params(
            labelsize=TEXT_SIZE - 2, labelbottom=i == size - 1, labelleft=j == 0 < i, length=2, rotation=0
        )
    if truth:
        part.text(0.98, 0.965, "orange: truth", fontsize=TEXT_SIZE, color=ORANGE, ha="right")


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


def _draw_profiles(part: Any, one: Posterior, sharp: np.ndarray) -> None:
    """Radial profiles with bands, at the PSF with the data and deconvolved."""
    observation, scale = one.observation, one.observation.pixel_scale_arcsec
    center = tuple(float(np.median(one.draws_of(name))) for name in ("x_pix", "y_pix"))
    mask = None if observation.mask is None else np.asarray(observation.mask[0])
    seen = one.images(psf=observation.psf, draws=PROFILES)[:, 0]
    unit = one.model.provenance.flux_unit
    upper, lower = part.subplots(
        2,
        1,
        sharex=True,
        gridspec_kw={"left": 0.2, "right": 0.955, "top": 0.945, "bottom": 0.105, "hspace": 0.2},
    )
    radius, data = radial_profiles(np.nan_to_num(np.asarray(observation.image)), center, scale, mask)
    errors = _errors(observation, center, mask)
    _bands(upper, *radial_profiles(seen, center, scale))
    upper.errorbar(
        radius, data[0], errors, fmt="o", color=BLACK, markersize=3, linewidth=0.9, label="data", zorder=4
    )
    _bands(lower, *radial_profiles(sharp, center, scale))
    _, level = radial_profiles(sharp, center, scale)
    _, blurred = radial_profiles(seen, center, scale)
    for panel, brightness in ((upper, blurred), (lower, level)):
        _brightness_axis(panel, np.quantile(brightness, 0.5, axis=0), float(np.median(errors)))
    upper.set_title("radial profile: data and denoised", fontsize=TEXT_SIZE + 1, loc="left", pad=4)
    lower.set_title("radial profile: deconvolved", fontsize=TEXT_SIZE + 1, loc="left", pad=4)
    for panel in (upper, lower):
        plain_axes(panel, ylabel=f"brightness [{unit} / arcsec$^2$]")
        panel.yaxis.label.set_fontsize(TEXT_SIZE)
        panel.tick_params(labelsize=TEXT_SIZE - 1)
        panel.axvline(float(np.median(one.draws_of("hlr_arcsec"))), color=GREY, linewidth=0.8, linestyle=":")
    lower.set_xlabel("radius [arcsec]; dotted: half-light radius", fontsize=TEXT_SIZE)
    upper.legend(frameon=False, fontsize=TEXT_SIZE - 1, loc="upper right")


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


def _brightness_axis(panel: Any, middle: np.ndarray, error: float) -> None:
    """Logarithmic above the noise, linear below."""
    panel.set_yscale("symlog", linthresh=3 * error, linscale=0.6)
    panel.set_ylim(-3 * error, 3 * middle.max())
    panel.axhline(0, color=GREY, linewidth=0.8)
    panel.set_xlim(0, None)
