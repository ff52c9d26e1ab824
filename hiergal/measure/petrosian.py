"""Radii from the curve of growth: Petrosian's, and those that hold a share of the light.

Apertures cut pixels exactly. With S(r) the mean brightness in an annulus at r and m(r) that inside r,
the Petrosian radius is where S(r) = eta m(r), eta = 0.2 (Petrosian 1976; Lotz et al. 2004, Eq. 4). Apertures are
circles, or ellipses whose radius is the semi-major axis. Images are [y, x]; a centre is (x, y) [pixels], an angle goes
from x towards y [radians].
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Complex, Float
from scipy import optimize

from hiergal.runtime.extras import require_extra

__all__ = ["Ellipse", "ellipse_of", "overlap", "petrosian_radius", "radius_of_fraction"]

Image = Float[np.ndarray, "y x"]
Mask = Bool[np.ndarray, "y x"]

ETA = 0.2
ANNULUS_PIX = 1.0
SEARCHED = (
    100  # radii, up to the stamp's diagonal; the first that is faint enough is refined, as statmorph does
)
STEP_PIX = 1.0  # of the search for a share of the light
PRECISION_PIX = 1e-4
CLEARLY = 1.5  # times eta: where a rough look finds the edge that bright there is no need for an exact one
FINE = 20  # bins of a pixel in that look
LEAST_AREA = 1e-3  # of an annulus at the edge of the stamp [pixels]: the rest is rounding
LEAST_MOMENT = 1 / 12  # of a pixel: thinner sources are as thick as that


class Ellipse(NamedTuple):
    """Centre [pixels], axis ratio and position angle of concentric apertures; by default circles."""

    x: float
    y: float
    axis_ratio: float = 1.0
    angle: float = 0.0


def ellipse_of(image: Image, x: float, y: float) -> Ellipse:
    """Return the ellipse around a point that has the shape of the image's second moments about it.

    Args:
        image: Light of the galaxy [flux per pixel], zero outside its region.
        x: Centre along x [pixels].
        y: Centre along y [pixels].

    Example:
        >>> y, x = np.mgrid[:41, :61]
        >>> image = np.exp(-0.5 * ((x - 30) ** 2 / 36 + (y - 20) ** 2 / 9))
        >>> round(ellipse_of(image, 30, 20).axis_ratio, 3)
        0.5
    """
    dy, dx = np.arange(image.shape[0])[:, None] - y, np.arange(image.shape[1]) - x
    flux = image.sum()
    xx, yy, xy = ((image * product).sum() / flux for product in (dx * dx, dy * dy, dx * dy))
    half_sum, half_difference = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    major, minor = (max(abs(half_sum + sign * half_difference), LEAST_MOMENT) for sign in (1, -1))
    ratio = np.sqrt(min(major, minor) / max(major, minor))
    return Ellipse(x, y, float(ratio), float(0.5 * np.arctan2(2 * xy, xx - yy)))


def overlap(shape: tuple[int, int], ellipse: Ellipse, radius: float) -> Image:
    """Compute which part of each pixel lies inside an aperture.

    Args:
        shape: (ny, nx) of the image.
        ellipse: Centre and shape of the aperture.
        radius: Its radius or semi-major axis [pixels].

    Returns:
        Shares between 0 and 1.

    Example:
        >>> round(float(overlap((20, 30), Ellipse(12.0, 9.0), 5.0).sum()) / np.pi, 6)
        25.0
    """
    return _overlaps(shape, ellipse, (radius,))[0]


def _overlaps(
    shape: tuple[int, int], ellipse: Ellipse, radii: tuple[float, ...]
) -> Float[np.ndarray, "r y x"]:
    """Compute :func:`overlap` for several apertures."""
    require_extra("validate", "apertures")
    from photutils.geometry import circular_overlap_grid

    shares, largest = np.zeros((len(radii), *shape)), max(radii)
    (low_y, high_y), (low_x, high_x) = (
        (max(int(np.floor(c - largest)), 0), min(int(np.ceil(c + largest)) + 1, n))
        for c, n in zip((ellipse.y, ellipse.x), shape, strict=True)
    )
    if largest <= 0 or low_y >= high_y or low_x >= high_x:
        return shares
    y, x = (np.arange(low, high + 1) - 0.5 for low, high in ((low_y, high_y), (low_x, high_x)))
    y, x = y - ellipse.y, x - ellipse.x
    box = shares[:, low_y:high_y, low_x:high_x]
    positive = [k for k, radius in enumerate(radii) if radius > 0]
    if ellipse.axis_ratio < 1:
        box[positive] = _ellipses_over_pixels(y, x, ellipse, np.array(radii)[positive])
    else:
        for k in positive:
            box[k] = circular_overlap_grid(x[0], x[-1], y[0], y[-1], len(x) - 1, len(y) - 1, radii[k], 1, 1)
    return shares


def _ellipses_over_pixels(
    y: Float[np.ndarray, "_"], x: Float[np.ndarray, "_"], ellipse: Ellipse, radii: Float[np.ndarray, "r"]
) -> Float[np.ndarray, "r _ _"]:
    """Fraction of each pixel inside ellipses; y and x are the edges of the pixels, from the ellipses' centre.

    Exact, where photutils' is wrong for ellipses that touch an edge, and faster: corners are mapped to where the
    ellipse is the unit circle, and the area of a pixel that is cut is summed around its edges.
    """
    along, across = np.cos(ellipse.angle), np.sin(ellipse.angle)
    real = along * x[None] + across * y[:, None]
    imaginary = (along * y[:, None] - across * x[None]) / ellipse.axis_ratio
    squared = real**2 + imaginary**2
    beyond = squared > radii[:, None, None] ** 2
    cut = beyond[:, :-1, :-1] | beyond[:, :-1, 1:] | beyond[:, 1:, :-1] | beyond[:, 1:, 1:]
    shares = (~cut).astype(float)
    # A pixel reaches no further from one of its corners than its diagonals.
    diagonals = real[1, 1] - real[0, 0], real[0, 1] - real[1, 0]
    heights = imaginary[1, 1] - imaginary[0, 0], imaginary[0, 1] - imaginary[1, 0]
    reach = radii + np.hypot(diagonals, heights).max()
    which, row, column = np.nonzero(cut & (squared[:-1, :-1] < reach[:, None, None] ** 2))
    scale, corner = 1 / radii[which], real + 1j * imaginary
    around = [corner[row + j, column + i] * scale for j, i in ((0, 0), (0, 1), (1, 1), (1, 0), (0, 0))]
    around = np.stack(around)
    area = ellipse.axis_ratio * radii[which] ** 2 * _swept(around[:-1], around[1:]).sum(axis=0)
    shares[which, row, column] = np.minimum(np.maximum(area, 0.0), 1.0)
    return shares


def _swept(start: Complex[np.ndarray, "4 n"], stop: Complex[np.ndarray, "4 n"]) -> Float[np.ndarray, "4 n"]:
    """Area of the unit circle that the line from its centre to a point sweeps as the point runs along an edge."""
    step = stop - start
    length = step.real**2 + step.imag**2
    turned = start.conj() * step
    nearest = -turned.real / length
    half = np.sqrt(np.maximum(length - turned.imag**2, 0.0)) / length
    enter, leave = (start + np.minimum(np.maximum(nearest + side, 0.0), 1.0) * step for side in (-half, half))
    # A sector before it enters the circle, a triangle inside, a sector after.
    before, after = enter * start.conj(), stop * leave.conj()
    sectors = np.arctan2(before.imag, before.real) + np.arctan2(after.imag, after.real)
    return (sectors + (enter.conj() * leave).imag) / 2


def petrosian_radius(image: Image, valid: Mask, ellipse: Ellipse, *, eta: float = ETA) -> float:
    """Find a radius at which the brightness has fallen to a share of the mean inside, the smallest at a coarse look.

    Args:
        image: A stamp [flux per pixel], zero where it is not valid.
        valid: Pixels to use.
        ellipse: Centre and shape of the apertures.
        eta: That share.

    Returns:
        The radius or semi-major axis [pixels]; NaN if the brightness stays above to the corners of the stamp, and the
        width of an annulus (one pixel) if it is below from there on.

    Example:
        >>> y, x = np.mgrid[:101, :101] - 50
        >>> image = np.exp(-np.hypot(x, y) / 5)
        >>> round(petrosian_radius(image, np.ones(image.shape, bool), Ellipse(50.0, 50.0)) / 5, 2)  # scale lengths
        3.63
    """
    weight = valid.astype(float)

    def mean(inside: Image) -> float:
        area = (inside * weight).sum()
        return abs((inside * image).sum() / area) if area > LEAST_AREA else float("nan")

    @cache
    def excess(radius: float) -> float:
        radii = (radius - ANNULUS_PIX / 2, radius, radius + ANNULUS_PIX / 2)
        inner, middle, outer = _overlaps(image.shape, ellipse, radii)
        inside, edge = mean(middle), mean(outer - inner)
        # Where there is nothing to be measured, it has not fallen.
        return edge / inside - eta if inside > 0 and np.isfinite(edge) else 1.0

    radii = np.linspace(ANNULUS_PIX, np.hypot(*image.shape) / ellipse.axis_ratio, SEARCHED)
    candidates = np.flatnonzero(~(_edge_over_inside(image, weight, ellipse, radii) > CLEARLY * eta))
    place = next((k for k in candidates if excess(radii[k]) <= 0), None)
    if place is None:
        return float("nan")
    while place > 0 and excess(radii[place - 1]) <= 0:  # the rough look was wrong there
        place -= 1
    if place == 0:
        return float(radii[0])
    return float(optimize.brentq(excess, radii[place - 1], radii[place], xtol=PRECISION_PIX))


def _edge_over_inside(
    image: Image, weight: Image, ellipse: Ellipse, radii: Float[np.ndarray, "r"]
) -> Float[np.ndarray, "r"]:
    """S(r) / m(r) with each pixel spread evenly over the radii within half a pixel of its own: rough, and fast."""
    dy, dx = np.arange(image.shape[0])[:, None] - ellipse.y, np.arange(image.shape[1]) - ellipse.x
    along = np.cos(ellipse.angle) * dx + np.sin(ellipse.angle) * dy
    across = np.cos(ellipse.angle) * dy - np.sin(ellipse.angle) * dx
    distance = np.hypot(along, across / ellipse.axis_ratio).ravel()
    bins = int(FINE * (radii[-1] + 2))
    place = np.minimum((FINE * distance).astype(int), bins - 1)
    # Sums to a radius, of all that is nearer, averaged over a pixel: the curve of growth in fine bins.
    growths = []
    for values in (image, weight):
        sums = np.cumsum(np.bincount(place, values.ravel(), minlength=bins))
        total = np.concatenate([[0.0], np.cumsum(sums)])
        low, high = (np.clip(np.arange(bins) + half, 0, bins) for half in (-FINE // 2, FINE // 2))
        growths.append((total[high] - total[low]) / FINE)
    middle = (FINE * radii).astype(int)
    with np.errstate(invalid="ignore", divide="ignore"):
        flux, area = (growth[middle + FINE // 2] - growth[middle - FINE // 2] for growth in growths)
        return np.abs(flux / area) / np.abs(growths[0][middle] / growths[1][middle])


def radius_of_fraction(image: Image, ellipse: Ellipse, fraction: float, total_radius: float) -> float:
    """Find the smallest radius that holds a share of the light.

    Args:
        image: A stamp [flux per pixel].
        ellipse: Centre and shape of the apertures.
        fraction: The share, between 0 and 1.
        total_radius: The radius that holds all light by definition [pixels].

    Returns:
        The radius or semi-major axis [pixels]; NaN if the light inside the total radius is not positive.

    Example:
        >>> y, x = np.mgrid[:101, :101] - 50
        >>> image = np.exp(-0.5 * (x**2 + y**2) / 5**2)
        >>> round(radius_of_fraction(image, Ellipse(50.0, 50.0), 0.5, 50.0) / 5, 3)  # of a Gaussian, in its sigmas
        1.179
    """
    if not np.isfinite(total_radius):
        return float("nan")
    total = (overlap(image.shape, ellipse, total_radius) * image).sum()
    if total <= 0:
        return float("nan")

    @cache
    def excess(radius: float) -> float:
        return (overlap(image.shape, ellipse, radius) * image).sum() / total - fraction

    radius = 0.0
    while excess(radius + STEP_PIX) < 0:
        radius += STEP_PIX
    return float(optimize.brentq(excess, radius, radius + STEP_PIX, xtol=PRECISION_PIX))
