"""Common style of all figures: colours, the stretch of stamps, grids of stamps, plain axes.

Everything is set on the figure itself, so that a reader's own matplotlib settings are neither needed nor changed.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from hiergal.observation.observation import Observation
from hiergal.runtime.plotting import BLACK, TEXT_SIZE, TITLE_SIZE
from hiergal.runtime.pytree import Array, brief

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "SOFTENING",
    "StampGrid",
    "bright_to_faint",
    "label_stamp",
    "noiseless_pixels",
    "scale_bar",
    "show_noiseless",
    "show_signed",
    "show_stamp",
    "signed_pixels",
    "stamp_grid",
    "stamp_pixels",
    "stretch",
]


SOFTENING = 2.0  # the stretch is linear below so many standard deviations of the noise
DARKEST_AT_LEAST = 12.0  # so that empty stamps stay light [standard deviations of the noise]
LIGHTEST = -1.0  # fainter pixels are white [standard deviations of the noise]
BAR_LENGTHS_ARCSEC = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
GUTTER_INCH = 0.04
LEVELS = 80  # of each colour map of thumbnails: three of them have fewer than the 256 colours of a palette


class StampGrid(NamedTuple):
    """A figure that is filled with stamps.

    Attributes:
        figure: The figure.
        axes: An array of axes without frames, [rows, columns].
    """

    figure: "Figure"
    axes: np.ndarray

    __repr__ = brief


def stretch(image: Float[Array, "*n y x"], noise_level: float) -> np.ndarray:
    """Compress the range of a stamp: linear in the noise, logarithmic in the light.

    Args:
        image: Stamps [flux per pixel].
        noise_level: Standard deviation of a pixel [flux per pixel].

    Example:
        >>> [round(float(x), 2) for x in stretch(np.array([[0.0, 1.0, 100.0]]), 1.0)[0]]
        [0.0, 0.48, 4.61]
    """
    return np.arcsinh(np.asarray(image, float) / (SOFTENING * noise_level))


def show_stamp(axes: Any, image: Float[Array, "y x"], noise_level: float, peak: float) -> Any:
    """Draw an observed stamp on the stretch; pixels of the flux ``peak`` are black, NaN is blue."""
    return _show(axes, stretch(image, noise_level), *_of_stamp(noise_level, peak))


def show_noiseless(
    axes: Any, image: Float[Array, "y x"], noise_level: float, peak: float, *, cmap: str = "gray_r"
) -> Any:
    """Draw a stamp without noise on the same stretch, from white at zero to its ``peak``."""
    return _show(axes, stretch(image, noise_level), *_of_noiseless(noise_level, peak, cmap))


def show_signed(axes: Any, image: Float[Array, "y x"], limit: float) -> Any:
    """Draw a stamp of positive and negative values between minus and plus a limit, white at zero."""
    return _show(axes, image, "RdBu_r", -limit, limit)


def stamp_pixels(image: Float[Array, "y x"], noise_level: float, peak: float) -> UInt8[np.ndarray, "y x 4"]:
    """Return the colours that :func:`show_stamp` gives the pixels."""
    return _colours(stretch(image, noise_level), *_of_stamp(noise_level, peak))


def noiseless_pixels(
    image: Float[Array, "y x"], noise_level: float, peak: float, *, cmap: str = "gray_r"
) -> UInt8[np.ndarray, "y x 4"]:
    """Return the colours that :func:`show_noiseless` gives the pixels."""
    return _colours(stretch(image, noise_level), *_of_noiseless(noise_level, peak, cmap))


def signed_pixels(image: Float[Array, "y x"], limit: float) -> UInt8[np.ndarray, "y x 4"]:
    """Return the colours that :func:`show_signed` gives the pixels."""
    return _colours(image, "RdBu_r", -limit, limit)


def label_stamp(
    axes: Any, text: str, *, corner: str = "upper left", colour: str = BLACK, up: float = 0.0
) -> None:
    """Write a few characters into a corner of a stamp, or a share of its height above, readable on any background."""
    from matplotlib.patheffects import withStroke

    vertical, horizontal = corner.split()
    x, y = {"left": 0.04, "right": 0.96}[horizontal], {"upper": 0.96, "lower": 0.04}[vertical] + up
    axes.text(
        x,
        y,
        text,
        transform=axes.transAxes,
        ha=horizontal,
        va={"upper": "top", "lower": "bottom"}[vertical],
        fontsize=TEXT_SIZE,
        color=colour,
        path_effects=[withStroke(linewidth=2.2 if colour == BLACK else 3.2, foreground="white")],
    )


def scale_bar(axes: Any, shape: tuple[int, int], pixel_scale_arcsec: float) -> None:
    """Draw a bar of a round number of arcsec into the lower left corner of a stamp."""
    from matplotlib.patheffects import withStroke

    ny, nx = shape
    fitting = [length for length in BAR_LENGTHS_ARCSEC if length <= 0.45 * nx * pixel_scale_arcsec]
    length = max(fitting, default=BAR_LENGTHS_ARCSEC[0])
    halo = [withStroke(linewidth=4, foreground="white")]
    left, y = 0.05 * nx, 0.06 * ny
    axes.plot(
        [left, left + length / pixel_scale_arcsec], [y, y], color="black", linewidth=1.8, path_effects=halo
    )
    axes.text(left, y + 0.03 * ny, f'{length:g}"', fontsize=TEXT_SIZE - 1, va="bottom", path_effects=halo)


def stamp_grid(
    rows: int,
    columns: int,
    shape: tuple[int, int],
    *,
    title: str,
    width_inch: float = 9.0,
    left_inch: float = 0.05,
    head_inch: float = 0.42,
    foot_inch: float = 0.05,
) -> StampGrid:
    """Make a figure of stamps side by side, each with its true proportions.

    Args:
        rows: Stamps down.
        columns: Stamps across.
        shape: (ny, nx) of the stamps [pixels].
        title: Title of the figure.
        width_inch: Width of the figure.
        left_inch: Room for labels at the left.
        head_inch: Room for the title, and for headings of columns.
        foot_inch: Room at the bottom.
    """
    from matplotlib.figure import Figure

    across = (width_inch - left_inch - 0.05 - (columns - 1) * GUTTER_INCH) / columns
    down = across * shape[0] / shape[1]
    height_inch = rows * down + (rows - 1) * GUTTER_INCH + head_inch + foot_inch
    figure = Figure(figsize=(width_inch, height_inch), facecolor="white")
    axes = figure.subplots(
        rows,
        columns,
        squeeze=False,
        gridspec_kw={
            "left": left_inch / width_inch,
            "right": 1 - 0.05 / width_inch,
            "top": 1 - head_inch / height_inch,
            "bottom": foot_inch / height_inch,
            "wspace": GUTTER_INCH / across,
            "hspace": GUTTER_INCH / down,
        },
    )
    for panel in axes.flat:
        panel.set_axis_off()
    figure.suptitle(
        title, x=0.05 / width_inch, y=1 - 0.08 / height_inch, ha="left", va="top", fontsize=TITLE_SIZE
    )
    return StampGrid(figure, axes)


def bright_to_faint(observation: Observation, count: int) -> np.ndarray:
    """Pick galaxies evenly over the ranks of magnitude, the brightest first.

    Args:
        observation: Galaxies; without ``mag_auto`` in the catalogue, the flux in the stamp ranks them.
        count: How many; all, if there are fewer.
    """
    if len(observation) == 0:
        raise ValueError("expected at least one galaxy to show, got none")
    rank = observation.catalog.get("mag_auto")
    rank = -np.nansum(observation.image, axis=(1, 2)) if rank is None else np.asarray(rank)
    places = np.linspace(0, len(rank) - 1, min(count, len(rank))).round().astype(int)
    return np.argsort(rank, kind="stable")[places]


def _of_stamp(noise_level: float, peak: float) -> tuple[str, float, float]:
    lightest = stretch(np.array([[LIGHTEST]]), 1.0).item()
    return "gray_r", lightest, stretch(np.array([[max(peak / noise_level, DARKEST_AT_LEAST)]]), 1.0).item()


def _of_noiseless(noise_level: float, peak: float, cmap: str) -> tuple[str, float, float]:
    return cmap, 0.0, stretch(np.array([[peak]]), noise_level).item() or 1.0


def _colour_map(name: str, levels: int | None = None) -> Any:
    from matplotlib import colormaps

    colours = colormaps[name] if levels is None else colormaps[name].resampled(levels)
    return colours.with_extremes(bad="#9CC3E6")


def _show(axes: Any, image: np.ndarray, cmap: str, vmin: float, vmax: float) -> Any:
    colours = _colour_map(cmap)
    return axes.imshow(image, origin="lower", interpolation="nearest", cmap=colours, vmin=vmin, vmax=vmax)


def _colours(image: np.ndarray, cmap: str, vmin: float, vmax: float) -> np.ndarray:
    from matplotlib.colors import Normalize

    colours = _colour_map(cmap, LEVELS)
    return colours(Normalize(vmin, vmax)(np.ma.masked_invalid(image)), bytes=True)
