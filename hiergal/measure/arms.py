"""Azimuthal Fourier modes of galaxies, ring by ring: how strong arms, bars and lopsidedness are, and how arms wind.

Rings are ellipses about the centre of the adaptive moments, with their shape (:mod:`hiergal.measure.moments`); the
azimuth theta is that of the disc which is seen as such an ellipse. With I the brightness on the ring of semi-major axis
r, and < > its mean over theta,

    c_m(r) = <I exp(i m theta)>,    L_m(r) = r^2 c_m(r),

I = I_0 (1 + A cos(m theta - phi(r))) has 2 abs(c_m) / c_0 = A, and c_m has the phase phi(r) (Elmegreen & Elmegreen
1985). Logarithmic arms of pitch angle p have phi = m ln r / tan p: the phase drifts by m / tan p for each e-fold of the
radius (Considere & Athanassoula 1988). Sums over rings weight each with its light, L, so that rings of sky count for
little, and the drift is the phase of

    S_m = sum_i conj(L_m(r_i)) L_m(r_{i+1}),

to which rings contribute as strongly as they have arms. Noise of two rings is hardly correlated. A bar, and an ellipse
that is not quite the galaxy's, have a constant phase: they add to the amplitude of m = 2, not to the imaginary part
of S_m. Nothing is corrected for PSF and noise, so that only samples with the same ones may be compared.
"""

from enum import IntFlag

import numpy as np
from astropy.table import Table
from jaxtyping import Complex, Float
from scipy import ndimage

from hiergal.measure.petrosian import Ellipse
from hiergal.runtime.pytree import Array

__all__ = ["MODES", "RINGS", "STEP", "ArmFlag", "measure_arms", "ring_modes"]

MODES = (1, 2, 3)
STEP = 0.2  # of ln r between rings: the drift of two arms of 8 degrees, 14, is still less than half a turn
RINGS = 0.5 * np.exp(
    STEP * np.arange(9)
)  # in half-light radii: from inside the bulge to where the sky takes over
FEWEST_RINGS = 5
ANGLES, RADII = 128, 4  # points on a ring, around and across: more than pixels on most of them


class ArmFlag(IntFlag):
    """Reasons of a failed measurement; 0 if it succeeded."""

    NO_MOMENTS = 1  # no adaptive moments, and so no ellipse
    NO_RINGS = 2  # fewer than five rings inside the stamp
    NO_LIGHT = 4  # the rings have no light, or pixels are not finite


def measure_arms(images: Float[Array, "n y x"], moments: Table, *, pixel_scale_arcsec: float) -> Table:
    """Measure the amplitudes of m = 1, 2, 3 and how their phases drift with radius.

    Args:
        images: Stamps without background [flux per pixel].
        moments: Their adaptive moments (:func:`hiergal.measure.moments.measure_moments`), row for row.
        pixel_scale_arcsec: Width of a pixel [arcsec].

    Returns:
        One row for each stamp. ``r50_arcsec``: semi-major axis of the ellipse that holds half of the light inside the
        largest one in the stamp [arcsec]. For each m: ``m1``, the amplitude 2 sqrt(sum abs(L_m)^2 / sum L_0^2) of all
        rings, ``m1_inner`` and ``m1_outer`` of those inside and outside ``r50_arcsec``; ``drift1``, the phase of S_m
        over the distance of two rings [radians per e-fold of the radius], m / tan(pitch), positive where arms turn
        anticlockwise outwards; ``winding1``, 2 sqrt(abs(Im S_m) / sum L_0 L_0'), the amplitude of what winds. ``flag``
        (:class:`ArmFlag`): rows that failed have NaN.

    Raises:
        ValueError: If there is not one row of moments for each stamp.

    Example:
        >>> from hiergal.measure.moments import measure_moments
        >>> y, x = np.mgrid[-40:41, -40:41]
        >>> r, theta = np.hypot(x, y) + 1e-9, np.arctan2(y, x)
        >>> images = (np.exp(-r / 8) * (1 + 0.3 * np.cos(2 * theta - 5 * np.log(r))))[None]
        >>> table = measure_arms(images, measure_moments(images, pixel_scale_arcsec=0.03), pixel_scale_arcsec=0.03)
        >>> round(float(table["m2"][0]), 1), round(float(table["drift2"][0]))
        (0.3, 5)
    """
    images = np.asarray(images, float)
    if images.ndim != 3 or len(images) != len(moments):
        raise ValueError(
            f"images: expected a stamp [n, y, x] for each of {len(moments)} rows of moments, got {images.shape}"
        )
    names = ["r50_arcsec"]
    for m in MODES:
        names += [f"m{m}", f"m{m}_inner", f"m{m}_outer", f"drift{m}", f"winding{m}"]
    values, flag = np.full((len(images), len(names)), np.nan), np.zeros(len(images), int)
    g = np.asarray(moments["g1"], float) + 1j * np.asarray(moments["g2"], float)
    failed = np.asarray(moments["flag"]) != 0
    middle = (np.array(images.shape[:0:-1]) - 1) / 2
    for i, image in enumerate(images):
        if failed[i] or not np.isfinite(image).all():
            flag[i] = ArmFlag.NO_MOMENTS if failed[i] else ArmFlag.NO_LIGHT
            continue
        at_x, at_y = middle + (float(moments["x_pix"][i]), float(moments["y_pix"][i]))
        ratio = (1 - abs(g[i])) / (1 + abs(g[i]))
        ellipse = Ellipse(at_x, at_y, float(ratio), float(np.angle(g[i]) / 2))
        r50, edge = _half_light(image, ellipse)
        radii = RINGS[RINGS * r50 * np.exp(STEP / 2) <= edge]
        if len(radii) < FEWEST_RINGS:
            flag[i] = ArmFlag.NO_RINGS
            continue
        row = _row(ring_modes(image, ellipse, radii * r50), radii)
        if row is None:
            flag[i] = ArmFlag.NO_LIGHT
            continue
        values[i] = [r50 * pixel_scale_arcsec, *row]
    table = Table(values, names=names)
    table["r50_arcsec"].unit = "arcsec"
    table["flag"] = flag
    return table


def ring_modes(
    image: Float[np.ndarray, "y x"], ellipse: Ellipse, radii: Float[np.ndarray, "r"]
) -> Complex[np.ndarray, "r m"]:
    """Compute the means c_m of m = 0, 1, 2, 3 over elliptical rings.

    Args:
        image: A stamp [flux per pixel].
        ellipse: Centre and shape of the rings.
        radii: Their semi-major axes [pixels]; each reaches half a step of ln r to either side.

    Example:
        >>> y, x = np.mgrid[-20:21, -20:21]
        >>> modes = ring_modes(100.0 + x, Ellipse(20.0, 20.0), np.array([10.0]))
        >>> abs(2 * modes / modes[0, 0])[0].round(2).tolist()
        [2.0, 0.1, 0.0, 0.0]
    """
    across = np.exp(STEP * ((np.arange(RADII) + 0.5) / RADII - 0.5))
    theta = 2 * np.pi * np.arange(ANGLES) / ANGLES
    along = (radii[:, None] * across)[..., None] * np.cos(theta)
    aside = (radii[:, None] * across)[..., None] * np.sin(theta) * ellipse.axis_ratio
    cos, sin = np.cos(ellipse.angle), np.sin(ellipse.angle)
    x, y = ellipse.x + cos * along - sin * aside, ellipse.y + sin * along + cos * aside
    light = ndimage.map_coordinates(image, [y, x], order=3, mode="nearest")
    # As the disc sees it, points lie at equal areas: those farther out stand for more of them.
    ring = (light * (across**2 / (across**2).sum())[:, None]).sum(axis=1)
    # The azimuth counts from the x axis of the stamp, so that turning the image turns the phases.
    return ring @ np.exp(1j * (theta[:, None] + ellipse.angle) * np.array([0, *MODES])) / ANGLES


def _row(modes: Complex[np.ndarray, "r m"], radii: Float[np.ndarray, "r"]) -> list[float] | None:
    """Statistics of one galaxy; None where its rings have no light."""
    light = radii[:, None] ** 2 * modes
    total, pairs = light[:, 0].real, (light[:-1, 0] * light[1:, 0]).real.sum()
    inner = radii < 1
    if not (pairs > 0 and all(total[part].any() for part in (inner, ~inner))):
        return None
    row = []
    for column in light[:, 1:].T:
        for part in (slice(None), inner, ~inner):
            row.append(2 * np.linalg.norm(column[part]) / np.linalg.norm(total[part]))
        turned = (column[:-1].conj() * column[1:]).sum()
        row += [np.angle(turned) / STEP, 2 * np.sqrt(abs(turned.imag) / pairs)]
    return [float(value) for value in row]


def _half_light(image: Float[np.ndarray, "y x"], ellipse: Ellipse) -> tuple[float, float]:
    """Semi-major axes of the ellipse with half of the light, and of the largest inside the stamp [pixels]."""
    ny, nx = image.shape
    cos, sin = np.cos(ellipse.angle), np.sin(ellipse.angle)
    x, y = np.arange(nx) - ellipse.x, np.arange(ny)[:, None] - ellipse.y
    radius = np.hypot(cos * x + sin * y, (cos * y - sin * x) / ellipse.axis_ratio)
    reach_x, reach_y = np.hypot(cos, ellipse.axis_ratio * sin), np.hypot(sin, ellipse.axis_ratio * cos)
    edge = min(
        min(ellipse.x, nx - 1 - ellipse.x) / reach_x,
        min(ellipse.y, ny - 1 - ellipse.y) / reach_y,
    )
    inside = radius <= edge
    order = np.argsort(radius[inside])
    light = np.cumsum(image[inside][order])
    if not len(light) or light[-1] <= 0:
        return np.inf, edge
    return float(radius[inside][order][np.argmax(light >= light[-1] / 2)]), edge
