"""Light profiles of mock galaxies on the plane, and their drawing on a grid of pixels.

A galaxy is a sum of Sersic profiles and rings. Sersic profiles carry modulations that smooth models lack: spiral arms,
lopsidedness, bends, dust lanes. The total flux on the plane is exact: arms and lopsidedness have unit mean on every
ellipse, bends have unit Jacobian, and what a lane of dust lets through is found by quadrature over the plane. So a
stamp of any size shows its part of the same galaxy.

Values are surface brightness at the pixel centre times the pixel's area. Where the profile is steep it is averaged
over sub-pixels, and the blur of that average is taken out to second order (the midpoint rule read backwards). The
effective PSF, which has the pixel in it, therefore acts once: convolved images agree with GalSim's to 0.2 % of the
peak for discs, 1 % for the cusps of de Vaucouleurs profiles. Lengths are in pixels, angles in radians.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special

from hiergal.measure.sersic import sersic_constants

__all__ = ["Arms", "Component", "Lane", "Part", "Ring", "half_light_radius", "render"]

# Width [pixels] of the boxes around a galaxy's centre that are averaged, and sub-pixels along each axis there; the
# later ones lie inside the earlier ones. Elsewhere profiles are smooth from pixel to pixel.
BOXES = ((24, 4), (5, 15))
STRENGTHS = np.linspace(0, 4, 200)
SCALED_BESSEL = special.i0e(STRENGTHS).astype(np.float32)
BESSEL_STEPS = np.append(np.diff(special.i0e(STRENGTHS)), 0).astype(np.float32)
RADII, AZIMUTHS = 64, 128  # nodes of the quadrature over the plane
Image = Float[np.ndarray, "y x"]


@dataclass(frozen=True)
class Arms:
    """Logarithmic spiral arms that fade towards the centre of a disc.

    Attributes:
        strength: Exponent of the contrast, 0 for none.
        count: Number of arms.
        pitch: Pitch angle [radians]; its sign is the sense of winding.
        phase: Angle of the first arm at the half-light radius [radians].
        start: Radius at which they have half of their strength [half-light radii].
    """

    strength: float = 0.0
    count: int = 2
    pitch: float = 0.3
    phase: float = 0.0
    start: float = 0.55


@dataclass(frozen=True)
class Lane:
    """Dust in the plane of an inclined disc, which covers a strip along its major axis.

    Attributes:
        depth: Share of the light that is lost in the middle of the strip, below 1; 0 for none.
        offset: Distance of the strip from the centre, along the minor axis [pixels].
        width: Standard deviation of the strip along the minor axis [pixels].
        length: The same along the major axis [pixels].
        angle: Direction of the major axis [radians].
    """

    depth: float = 0.0
    offset: float = 0.0
    width: float = 1.0
    length: float = 1.0
    angle: float = 0.0

    def transmission(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Compute the share of the light that passes at offsets from the centre of a galaxy [pixels]."""
        c, s = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        along = (c * x + s * y) / np.float32(self.length)
        across = (c * y - s * x - np.float32(self.offset)) / np.float32(self.width)
        return 1 - np.float32(self.depth) * np.exp(np.float32(-0.5) * (along * along + across * across))


@dataclass(frozen=True)
class Component:
    """One Sersic profile with its modulations; knots and bars are profiles of index 0.5.

    Attributes:
        flux: Total flux on the plane, behind the dust.
        radius: Half-light radius along the major axis [pixels].
        index: Sersic index.
        axis_ratio: Minor over major axis.
        angle: Direction of the major axis [radians].
        x: Position along x, from the centre of the stamp [pixels].
        y: Position along y, from the centre of the stamp [pixels].
        arms: Spiral arms.
        lopsided: Amplitude of the one-sided excess at and beyond the half-light radius, below 1.
        lopsided_angle: Its direction in the plane of the disc [radians].
        bend: Displacement across the major axis at one half-light radius, in units of it.
        lane: Dust in front of it.
    """

    flux: float
    radius: float
    index: float = 0.5
    axis_ratio: float = 1.0
    angle: float = 0.0
    x: float = 0.0
    y: float = 0.0
    arms: Arms = Arms()
    lopsided: float = 0.0
    lopsided_angle: float = 0.0
    bend: float = 0.0
    lane: Lane = Lane()

    @property
    def is_knot(self) -> bool:
        """Whether it is a round Gaussian: the product of one along x and one along y."""
        plain = not (self.arms.strength or self.lopsided or self.bend or self.lane.depth)
        return bool(self.index == 0.5 and self.axis_ratio == 1 and plain)


@dataclass(frozen=True)
class Ring:
    """An elliptical ring, Gaussian across.

    Attributes:
        flux: Total flux on the plane.
        radius: Radius of the brightest ellipse along the major axis [pixels].
        width: Standard deviation across, along the major axis [pixels].
        axis_ratio: Minor over major axis.
        angle: Direction of the major axis [radians].
        x: Position along x, from the centre of the stamp [pixels].
        y: Position along y, from the centre of the stamp [pixels].
    """

    flux: float
    radius: float
    width: float
    axis_ratio: float = 1.0
    angle: float = 0.0
    x: float = 0.0
    y: float = 0.0


Part = Component | Ring


def render(parts: Sequence[Part], shape: tuple[int, int]) -> Image:
    """Draw what a stamp shows of the unconvolved profile of a galaxy.

    Args:
        parts: Parts of the galaxy, the main one first.
        shape: (ny, nx) of the stamp.

    Returns:
        Flux per pixel, never negative; light outside the stamp is not in it.

    Example:
        >>> disc = Component(flux=10.0, radius=4.0, index=1.0, axis_ratio=0.5)
        >>> round(float(render([disc], (64, 48)).sum()), 2)
        10.0
    """
    knots = [part for part in parts if isinstance(part, Component) and part.is_knot]
    extended = [_unobscured(part) for part in parts if not (isinstance(part, Component) and part.is_knot)]
    y, x = (np.arange(n, dtype=np.float32) - np.float32((n - 1) / 2) for n in shape)
    image = np.zeros(shape, np.float32)
    for part in extended:
        _add(image, part, x, y)
    cusps = {
        _nearest(part, shape): None for part in extended if isinstance(part, Component) and part.index > 0.5
    }
    for size, samples in BOXES:
        for row, column in cusps:
            rows, columns = (_inside(at, size, n) for at, n in ((row, shape[0]), (column, shape[1])))
            if rows.stop > rows.start and columns.stop > columns.start:
                image[rows, columns] = _averaged(extended, x[columns], y[rows], samples)
    if knots:
        image += _gaussians(knots, x, y)
    return image


def half_light_radius(bulge: float, size: float, index: float, bulge_index: float) -> float:
    """Return the circularised half-light radius of bulge plus disc, in units of the disc's.

    Args:
        bulge: Bulge-to-total ratio.
        size: Half-light radius of the bulge over that of the disc, below 1.
        index: Sersic index of the disc.
        bulge_index: Sersic index of the bulge.

    Example:
        >>> half_light_radius(0.0, 0.4, 1.0, 2.0)
        1.0
    """
    radii = np.linspace(0.05, 1.0, 96)
    disc_b, bulge_b = sersic_constants(index)[0], sersic_constants(bulge_index)[0]
    inside = (1 - bulge) * special.gammainc(2 * index, disc_b * radii ** (1 / index))
    inside += bulge * special.gammainc(2 * bulge_index, bulge_b * (radii / size) ** (1 / bulge_index))
    return float(np.interp(0.5, inside, radii))


def _nearest(part: Component, shape: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the pixel that the centre of a part is in."""
    return round((shape[0] - 1) / 2 + part.y), round((shape[1] - 1) / 2 + part.x)


def _inside(at: int, size: int, n: int) -> slice:
    """As much of a box around a pixel as the stamp holds."""
    start = at - size // 2
    return slice(max(start, 0), min(start + size, n))


def _add(image: Image, part: Part, x: np.ndarray, y: np.ndarray) -> None:
    """Add surface brightness at the places x and y, in increasing order."""
    reach = _reach(part)
    rows, columns = (_near(axis, at, reach) for axis, at in ((y, part.y), (x, part.x)))
    from_x, from_y = (axis - np.float32(at) for axis, at in ((x[columns], part.x), (y[rows], part.y)))
    if isinstance(part, Ring):
        image[rows, columns] += _ring(part, from_x, from_y)
    else:
        image[rows, columns] += _surface_brightness(part, from_x, from_y)


def _reach(part: Part) -> float:
    """Distance beyond which nothing is left of a part [pixels]."""
    if isinstance(part, Ring):
        return part.radius + 6 * part.width
    return 5 * part.radius if part.index == 0.5 else np.inf


def _near(axis: np.ndarray, at: float, reach: float) -> slice:
    return slice(int(np.searchsorted(axis, at - reach)), int(np.searchsorted(axis, at + reach)))


def _averaged(parts: Sequence[Part], x: np.ndarray, y: np.ndarray, samples: int) -> Image:
    """Average over the sub-pixels of a box of pixels, and take the blur of it out again."""
    # One pixel more on each side, for the second derivative.
    x, y = (np.concatenate([axis[:1] - 1, axis, axis[-1:] + 1]) for axis in (x, y))
    offsets = ((np.arange(samples) + 0.5) / samples - 0.5).astype(np.float32)
    fine_x, fine_y = ((axis[:, None] + offsets).ravel() for axis in (x, y))
    fine = np.zeros((len(fine_y), len(fine_x)), np.float32)
    for part in parts:
        _add(fine, part, fine_x, fine_y)
    # Sums of slices are several times faster than a mean over axes of a few elements.
    columns = np.zeros((len(fine_y), len(x)), np.float32)
    mean = np.zeros((len(y), len(x)), np.float32)
    for j in range(samples):
        columns += fine[:, j::samples]
    for i in range(samples):
        mean += columns[i::samples]
    mean /= np.float32(samples**2)
    inner = mean[1:-1, 1:-1]
    laplacian = mean[2:, 1:-1] + mean[:-2, 1:-1] + mean[1:-1, 2:] + mean[1:-1, :-2] - 4 * inner
    return np.maximum(inner - np.float32((1 - 1 / samples**2) / 24) * laplacian, 0)


def _gaussians(knots: Sequence[Component], x: np.ndarray, y: np.ndarray) -> Image:
    """Draw round Gaussians, wide enough that the values at pixel centres say all of them."""
    b, peak = sersic_constants(0.5)
    radius, flux, at_x, at_y = np.array([(k.radius, k.flux, k.x, k.y) for k in knots], np.float32).T[
        :, :, None
    ]
    along_x, along_y = (
        np.exp(np.float32(-b) * ((axis - at) / radius) ** 2) for axis, at in ((x, at_x), (y, at_y))
    )
    return (along_y * (flux * np.float32(peak) / radius**2)).T @ along_x


def _unobscured(part: Part) -> Part:
    """Give a part the flux that it has before the dust, so that what passes is its flux."""
    if isinstance(part, Ring) or not part.lane.depth:
        return part
    radius, azimuth, cos, sin = _plane(part.index)
    u, v = radius * cos, radius * sin
    weight = _modulation(part, cos, sin, radius * radius)
    v = v + np.float32(part.bend / part.axis_ratio) * np.minimum(u * u, 4)
    c, s = np.float32(np.cos(part.angle) * part.radius), np.float32(np.sin(part.angle) * part.radius)
    v = v * np.float32(part.axis_ratio)
    passed = part.lane.transmission(c * u - s * v, s * u + c * v)
    return replace(part, flux=part.flux / float((passed * weight).mean()))


class _Nodes(NamedTuple):
    """Places in the plane that stand for equal shares of the flux of a Sersic profile, [radius, azimuth]."""

    radius: np.ndarray
    azimuth: np.ndarray
    cos: np.ndarray
    sin: np.ndarray


@cache
def _plane(index: float) -> _Nodes:
    """Return the nodes of the quadrature over the plane, in units of the half-light radius."""
    share = (np.arange(RADII) + 0.5) / RADII
    radius = (special.gammaincinv(2 * index, share) / sersic_constants(index)[0]) ** index
    azimuth = 2 * np.pi * np.arange(AZIMUTHS) / AZIMUTHS
    radius, azimuth = np.broadcast_arrays(radius[:, None], azimuth)
    return _Nodes(*(a.astype(np.float32) for a in (radius, azimuth, np.cos(azimuth), np.sin(azimuth))))


def _ring(ring: Ring, x: np.ndarray, y: np.ndarray) -> Image:
    c, s, q = np.cos(ring.angle), np.sin(ring.angle), ring.axis_ratio
    x, y = x[None, :], y[:, None]
    along = np.float32(c) * x + np.float32(s) * y
    across = np.float32(c / q) * y - np.float32(s / q) * x
    offset = (np.hypot(along, across) - np.float32(ring.radius)) / np.float32(ring.width)
    # The integral of r exp(-(r - radius)^2 / 2 width^2) from 0 on.
    t = ring.radius / (np.sqrt(2) * ring.width)
    area = ring.width**2 * np.exp(-t * t) + ring.radius * ring.width * np.sqrt(np.pi / 2) * (
        1 + special.erf(t)
    )
    return np.float32(ring.flux / (2 * np.pi * q * area)) * np.exp(np.float32(-0.5) * offset * offset)


def _surface_brightness(part: Component, x: np.ndarray, y: np.ndarray) -> Image:
    """A Sersic profile with its modulations; in place where it can be, for memory is what takes time."""
    x, y = x[None, :], y[:, None]
    c, s, q = np.cos(part.angle) / part.radius, np.sin(part.angle) / part.radius, part.axis_ratio
    u = np.float32(c) * x + np.float32(s) * y
    v = np.float32(c / q) * y - np.float32(s / q) * x
    if part.bend:
        # Saturates beyond two half-light radii: a bend, not a horseshoe.
        v -= np.float32(part.bend / q) * np.minimum(u * u, 4)
    square = u * u
    square += v * v
    np.maximum(square, np.float32(1e-12), out=square)
    b, peak = sersic_constants(part.index)
    profile = np.log(square)
    profile *= np.float32(0.5 / part.index)
    np.exp(profile, out=profile)
    profile *= np.float32(-b)
    np.exp(profile, out=profile)
    profile *= np.float32(part.flux * peak / (part.radius**2 * q))
    if part.arms.strength or part.lopsided:
        radius = np.sqrt(square)
        u /= radius
        v /= radius
        profile *= _modulation(part, u, v, square)
    if part.lane.depth:
        profile *= part.lane.transmission(x, y)
    return profile


def _modulation(part: Component, cos: np.ndarray, sin: np.ndarray, square: np.ndarray) -> np.ndarray:
    """Arms and lopsidedness at cosines and sines of azimuth, and squares of radius; their mean on an ellipse is 1."""
    factor = np.ones((1, 1), np.float32)
    if part.arms.strength:
        factor = _arm_contrast(part.arms, cos, sin, square)
    if part.lopsided:
        towards = cos * np.float32(np.cos(part.lopsided_angle)) + sin * np.float32(
            np.sin(part.lopsided_angle)
        )
        factor = factor * (1 + np.float32(part.lopsided) * np.minimum(np.sqrt(square), 1) * towards)
    return factor


def _arm_contrast(arms: Arms, cos: np.ndarray, sin: np.ndarray, square: np.ndarray) -> np.ndarray:
    """exp(k cos) over its mean: sharp arms with unit mean on every ellipse."""
    k = np.float32(arms.strength) / (1 + (np.float32(arms.start**2) / square) ** 2)
    turned = np.float32(arms.count * 0.5 / np.tan(arms.pitch)) * np.log(square)
    turned += np.float32(arms.count * arms.phase)
    cos_count, sin_count = cos, sin  # of the azimuth, as many times over as there are arms
    for _ in range(arms.count - 1):
        cos_count, sin_count = cos_count * cos - sin_count * sin, sin_count * cos + cos_count * sin
    wave = cos_count * np.cos(turned)
    wave += sin_count * np.sin(turned)
    wave -= 1
    wave *= k
    return np.exp(wave, out=wave) / _interpolated(k)


def _interpolated(k: np.ndarray) -> np.ndarray:
    """Return exp(-k) I0(k), by linear interpolation between equal steps."""
    place = np.minimum(k * np.float32(1 / STRENGTHS[1]), len(STRENGTHS) - 1)
    below = place.astype(np.intp)
    place -= below.astype(np.float32)
    place *= BESSEL_STEPS.take(below)
    place += SCALED_BESSEL.take(below)
    return place
