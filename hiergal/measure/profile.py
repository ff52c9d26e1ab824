"""Numbers that describe a noise-free light profile: flux, half-light radius, centroid, ellipticity.

Everything is measured inside the stamp, and batched: the same functions measure posterior draws and, where a survey
knows it, the truth. All but the half-light radius, a bisection, are differentiable. (Noisy images are measured by
``hiergal.measure.moments``.)
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.runtime.pytree import Array, Record, record

__all__ = ["ProfileSummary", "summarize_profile"]

BISECTIONS = 14  # from the diagonal of a stamp to a hundredth of a pixel


@record
class ProfileSummary(Record):
    """Measurements of light profiles, each of the batch shape [...].

    Attributes:
        flux: Total flux in the stamp.
        hlr_arcsec: Radius of the circle around the centroid that holds half of it [arcsec].
        x_pix: Centroid along x, from the centre of the stamp [pixels].
        y_pix: Centroid along y, from the centre of the stamp [pixels].
        g1: Reduced-shear ellipticity along the pixel axes, from unweighted second moments (paper, Eq. 17).
        g2: The same along the diagonals.
    """

    flux: Float[Array, "*n"]
    hlr_arcsec: Float[Array, "*n"]
    x_pix: Float[Array, "*n"]
    y_pix: Float[Array, "*n"]
    g1: Float[Array, "*n"]
    g2: Float[Array, "*n"]


def summarize_profile(profile: Float[Array, "*n y x"], pixel_scale_arcsec: float) -> ProfileSummary:
    """Measure non-negative light profiles.

    Args:
        profile: Profiles [flux per pixel].
        pixel_scale_arcsec: Width of a pixel [arcsec].

    Example:
        >>> y, x = np.mgrid[-20:21, -20:21]
        >>> summary = summarize_profile(np.exp(-0.5 * (x**2 + y**2) / 16.0)[None], 0.03)
        >>> round(float(summary.hlr_arcsec[0]) / 0.03 / 4.0, 2)  # of a Gaussian, in units of its sigma
        1.18
    """
    profile = jnp.asarray(profile)
    ny, nx = profile.shape[-2:]
    x = np.broadcast_to(np.arange(nx) - (nx - 1) / 2, (ny, nx)).astype(profile.dtype)
    y = np.broadcast_to(np.arange(ny)[:, None] - (ny - 1) / 2, (ny, nx)).astype(profile.dtype)
    terms = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=-1)
    sums = jnp.einsum("...yx,yxk->...k", profile, terms, precision="highest")
    flux = sums[..., 0]
    per_flux = 1 / jnp.maximum(flux, jnp.finfo(profile.dtype).tiny)
    x_pix, y_pix, qxx, qyy, qxy = jnp.moveaxis(sums[..., 1:] * per_flux[..., None], -1, 0)
    qxx, qyy, qxy = qxx - x_pix**2, qyy - y_pix**2, qxy - x_pix * y_pix
    size = qxx + qyy + 2 * jnp.sqrt(jnp.maximum(qxx * qyy - qxy**2, 1e-12))
    dx, dy = (
        jnp.broadcast_to(axis, profile.shape) - center[..., None, None]
        for axis, center in ((x, x_pix), (y, y_pix))
    )
    radius = jnp.sqrt(dx**2 + dy**2)
    hlr = _half_light_radius_pix(profile * per_flux[..., None, None], radius)
    return ProfileSummary(flux, hlr * pixel_scale_arcsec, x_pix, y_pix, (qxx - qyy) / size, 2 * qxy / size)


def _half_light_radius_pix(light: jax.Array, radius: jax.Array) -> jax.Array:
    """Radius at which the curve of growth reaches one half, by bisection; the circle cuts pixels softly."""
    ones = np.ones(light.shape[-1], light.dtype)  # a product with them is twice as fast as a sum along x
    low = jnp.zeros(light.shape[:-2], light.dtype)
    high = jnp.full_like(low, math.hypot(*light.shape[-2:]))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        part = light * jnp.clip(middle[..., None, None] - radius + 0.5, 0, 1)
        inside = jnp.einsum("...yx,x->...y", part, ones, precision="highest").sum(-1)
        low, high = jnp.where(inside < 0.5, middle, low), jnp.where(inside < 0.5, high, middle)
    return (low + high) / 2
