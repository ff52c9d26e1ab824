"""C, A and S: concentration, asymmetry and smoothness of a galaxy (Conselice 2003; Lotz et al. 2004, Eqs. 9 to 11).

With r_p the circular Petrosian radius, everything inside 1.5 r_p about the centre that makes A smallest, I the image,
I_180 the same turned by 180 degrees, I_s smoothed by a box of r_p / 4, and B the same quantity of the sky for an equal
area,

    C = 5 log10(r_80 / r_20)     A = (sum |I - I_180| - B) / sum |I|     S = (sum max(I - I_s, 0) - B) / sum I,

S without the inner r_p / 4. (Conselice has twice the denominator for A, and ten times S.) Images are [y, x],
zero at neighbours; centres are (x, y) [pixels].
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage, optimize

from hiergal.measure.petrosian import Ellipse, overlap

__all__ = ["Centre", "asymmetry", "asymmetry_center", "clumpiness", "sky_box", "turned"]

Image = Float[np.ndarray, "y x"]
Mask = Bool[np.ndarray, "y x"]

EXTENT = 1.5  # of the Petrosian radius: where the galaxy ends
FRACTION = 0.25  # of the Petrosian radius: its core, and the box that smooths
SKY_PIX, LEAST_SKY_PIX = 32, 2
SIMPLEX = 0.05
PRECISION_PIX = 1e-3  # of the centre
OUTSIDE = 100.0  # asymmetry of a centre that is not in the image


class Centre(NamedTuple):
    """Centre of least asymmetry [pixels], and whether the search for it found one near to the galaxy's."""

    x: float
    y: float
    found: bool


def turned(image: Image, x: float, y: float) -> Image:
    """Turn an image by 180 degrees about a point, with linear interpolation; what was outside is zero.

    Args:
        image: An image.
        x: The point along x [pixels].
        y: The point along y [pixels].

    Example:
        >>> turned(np.array([[1.0, 2.0, 3.0]]), 0.5, 0.0)
        array([[2., 1., 0.]])
    """
    flipped, result = image[::-1, ::-1], np.zeros(image.shape)
    moves = [_whole_and_part(2 * c - (n - 1)) for c, n in zip((y, x), image.shape, strict=True)]
    for (down, share_y), (right, share_x) in itertools.product(*moves):
        to_y, from_y = _overlapping(down, image.shape[0])
        to_x, from_x = _overlapping(right, image.shape[1])
        result[to_y, to_x] += share_y * share_x * flipped[from_y, from_x]
    return result


def sky_box(sources: Mask) -> tuple[slice, slice] | None:
    """Find a square without sources: the first of 32 pixels, row by row, or else of 16, and so on.

    Args:
        sources: Pixels of the galaxy and of its neighbours.

    Returns:
        Its rows and columns, or None if there is none of two pixels.

    Example:
        >>> y, x = np.mgrid[:64, :64] - 32
        >>> sky_box(np.hypot(x, y) < 20)
        (slice(0, 16, None), slice(0, 16, None))
    """
    counts = np.pad(sources, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    size = SKY_PIX
    while size >= LEAST_SKY_PIX:
        if min(sources.shape) >= size:
            pixels = (
                counts[size:, size:] - counts[:-size, size:] - counts[size:, :-size] + counts[:-size, :-size]
            )
            free = np.argwhere(pixels == 0)
            if len(free):
                i, j = (int(k) for k in free[0])
                return slice(i, i + size), slice(j, j + size)
        size //= 2
    return None


def asymmetry(image: Image, valid: Mask, x: float, y: float, radius_pix: float, sky: float) -> float:
    """Compute A about a point.

    Args:
        image: A stamp [flux per pixel], zero where it is not valid.
        valid: Pixels to use; those whose counterparts are not valid are left out, too.
        x: Centre along x [pixels].
        y: Centre along y [pixels].
        radius_pix: Radius of the aperture [pixels].
        sky: Mean |I - I_180| of a pixel of the sky [flux per pixel].

    Example:
        >>> image = np.zeros((21, 21))
        >>> image[10, 7], image[10, 13] = 3.0, 1.0
        >>> asymmetry(image, np.ones(image.shape, bool), 10.0, 10.0, 6.0, 0.0)
        1.0
    """
    ny, nx = image.shape
    if not (0 <= x < nx and 0 <= y < ny):
        return OUTSIDE
    counterpart = turned(image, x, y)
    aperture = overlap(image.shape, Ellipse(x, y), radius_pix)
    if not valid.all():
        aperture = aperture * (valid & (turned((~valid).astype(float), x, y) < 0.5))
    light = (aperture * np.abs(image)).sum()
    if light == 0:
        return OUTSIDE
    return float(((aperture * np.abs(counterpart - image)).sum() - sky * aperture.sum()) / light)


def asymmetry_center(
    image: Image,
    valid: Mask,
    centroid: tuple[float, float],
    brightest: tuple[float, float],
    radius_pix: float,
    sky: float,
) -> Centre:
    """Find the centre of least asymmetry, by downhill simplex from the centroid, or else from the brightest pixel.

    Args:
        image: A stamp [flux per pixel], zero where it is not valid.
        valid: Pixels to use.
        centroid: (x, y) of the galaxy's light [pixels].
        brightest: (x, y) of its brightest pixel [pixels].
        radius_pix: Petrosian radius about the centroid [pixels]; a centre further than a quarter of it from where the
            search began is none.
        sky: Mean |I - I_180| of a pixel of the sky [flux per pixel].

    Returns:
        The centre; the centroid if neither search stayed near.
    """
    for start in (centroid, brightest):
        # Nothing further out counts as long as the centre is near.
        margin = int((EXTENT + FRACTION) * radius_pix) + 3
        low = [max(int(c) - margin, 0) for c in start]
        box = tuple(slice(at, int(c) + margin + 2) for at, c in zip(low[::-1], start[::-1], strict=True))
        part, use = image[box], valid[box]
        # The corners that scipy starts from where none are given: a twentieth of the coordinates away.
        corners = np.array(start) * (1 + SIMPLEX * np.array([[0, 0], [1, 0], [0, 1]]))
        found = low + optimize.fmin(
            lambda p, part=part, use=use: asymmetry(part, use, p[0], p[1], EXTENT * radius_pix, sky),
            np.subtract(start, low),
            initial_simplex=corners - low,
            xtol=PRECISION_PIX,
            disp=False,
        )
        if np.hypot(*(found - start)) <= FRACTION * radius_pix:
            return Centre(float(found[0]), float(found[1]), True)
    return Centre(*centroid, False)


def clumpiness(
    image: Image, x: float, y: float, radius_pix: float, sky: Float[np.ndarray, "sky_y sky_x"] | None
) -> float:
    """Compute S, the smoothness of Conselice (2003), which is large for clumpy galaxies.

    Args:
        image: A stamp [flux per pixel], zero at neighbours.
        x: Centre along x [pixels].
        y: Centre along y [pixels].
        radius_pix: Circular Petrosian radius about it [pixels].
        sky: A part of the image without sources, or None if there is none.

    Returns:
        Its value; NaN if the light outside the core is not positive, or the galaxy is smaller than four pixels.
    """
    box = int(FRACTION * radius_pix)
    if box < 1:
        return float("nan")
    outer, inner = (overlap(image.shape, Ellipse(x, y), share * radius_pix) for share in (EXTENT, FRACTION))
    ring = outer - inner
    light = (ring * image).sum()
    if light <= 0:
        return float("nan")
    excess = (ring * _above_smooth(image, box)).sum()
    if sky is not None:
        excess -= np.pi * (EXTENT**2 - FRACTION**2) * radius_pix**2 * _above_smooth(sky, box).mean()
    return float(excess / light)


def _whole_and_part(shift: float) -> list[tuple[int, float]]:
    """The two whole shifts around one, and their weights in a linear interpolation."""
    whole = int(np.floor(shift))
    return [(whole, whole + 1 - shift), (whole + 1, shift - whole)]


def _overlapping(shift: int, size: int) -> tuple[slice, slice]:
    """Overlap of a shifted axis with itself: slices to and from."""
    shift = max(-size, min(shift, size))
    return slice(max(shift, 0), size + min(shift, 0)), slice(max(-shift, 0), size - max(shift, 0))


def _above_smooth(image: Image, box: int) -> Image:
    return np.maximum(image - ndimage.uniform_filter(image, box), 0)
