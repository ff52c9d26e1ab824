"""Structure of light profiles in batches, in JAX: Gini, M20 and concentration."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.runtime.pytree import Array, Record, record

__all__ = [
    "Structure",
    "measure_structure",
]

PETROSIAN, EXTENT = 0.2, 1.5
BRIGHTEST = 0.2  # of the flux
BISECTIONS = 14


@record
class Structure(Record):
    """Structure of images, each of the batch shape [...]; NaN where there is no Petrosian radius inside the stamp.

    Attributes:
        petrosian_arcsec: Petrosian radius [arcsec].
        concentration: C, 2.1 for a disc of even brightness, 2.7 for an exponential one.
        gini: 0 if all pixels are the same, 1 if one has all the light.
        m20: Negative; the nearer to zero, the farther the brightest pixels are from the centre.
    """

    petrosian_arcsec: Float[Array, "*n"]
    concentration: Float[Array, "*n"]
    gini: Float[Array, "*n"]
    m20: Float[Array, "*n"]


@partial(jax.jit, static_argnames="pixel_scale_arcsec")
def measure_structure(image: Float[Array, "n y x"], pixel_scale_arcsec: float) -> Structure:
    """Measure images without noise.

    Args:
        image: Images with one galaxy each [flux per pixel].
        pixel_scale_arcsec: Width of a pixel [arcsec].

    Example:
        >>> y, x = np.mgrid[-30:31, -30:31]
        >>> found = measure_structure(np.exp(-np.hypot(x, y) / 5)[None], 0.03)
        >>> round(float(found.concentration[0]), 1)
        2.7
    """
    image = jnp.maximum(jnp.asarray(image), 0.0)
    ny, nx = image.shape[-2:]
    y, x = (jnp.asarray(axis, image.dtype)[None] for axis in np.mgrid[:ny, :nx])
    cx, cy = _centroid(image, x, y)
    radius = jnp.hypot(x - cx, y - cy)
    r_p, brightness = _petrosian(image, radius)
    inside = image * jnp.clip(EXTENT * r_p[:, None, None] - radius + 0.5, 0, 1)
    r_20, r_80 = (_radius_of(inside, radius, fraction) for fraction in (0.2, 0.8))
    gini, m20 = _gini_m20(image * (image >= brightness[:, None, None]), x, y)
    found = Structure(r_p * pixel_scale_arcsec, 5 * jnp.log10(r_80 / r_20), gini, m20)
    return jax.tree.map(lambda value: jnp.where(jnp.isfinite(r_p), value, jnp.nan), found)


def _centroid(image: jax.Array, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Centroids along x and y, [n, 1, 1]."""
    flux = jnp.maximum(image.sum((-2, -1), keepdims=True), jnp.finfo(image.dtype).tiny)
    at_x, at_y = ((image * axis).sum((-2, -1), keepdims=True) / flux for axis in (x, y))
    return at_x, at_y


def _petrosian(image: jax.Array, radius: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Petrosian radius [pixels], and the brightness of the ring there; NaN if it is not inside the stamp.

    Rings are a pixel wide, and between two of them the ratio is interpolated.
    """
    ny, nx = image.shape[-2:]
    radii = np.arange(1.0, min(ny, nx) / 2)

    def at(r):
        disc = jnp.clip(r - radius + 0.5, 0, 1)
        ring = jnp.clip(r + 0.5 - radius + 0.5, 0, 1) - jnp.clip(r - 0.5 - radius + 0.5, 0, 1)
        mean = (image * ring).sum((-2, -1)) / ring.sum((-2, -1))
        return mean, mean / jnp.maximum((image * disc).sum((-2, -1)) / disc.sum((-2, -1)), 1e-30)

    brightness, ratio = jax.lax.map(at, jnp.asarray(radii, image.dtype))  # [radius, n]
    below = ratio < PETROSIAN
    first = jnp.maximum(jnp.argmax(below, axis=0), 1)
    found = below.any(axis=0) & ~below[0]

    def pick(values, place):
        return jnp.take_along_axis(values, place[None], axis=0)[0]

    before, after = pick(ratio, first - 1), pick(ratio, first)
    part = jnp.clip((before - PETROSIAN) / jnp.maximum(before - after, 1e-12), 0, 1)
    r_p = radii[0] + (first - 1) + part
    level = pick(brightness, first - 1) ** (1 - part) * pick(brightness, first) ** part
    return jnp.where(found, r_p, jnp.nan), jnp.where(found, level, jnp.inf)


def _radius_of(image: jax.Array, radius: jax.Array, fraction: float) -> jax.Array:
    """Radius that holds a fraction of the light [pixels], by bisection."""
    wanted = fraction * image.sum((-2, -1))

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        less = (image * jnp.clip(middle[:, None, None] - radius + 0.5, 0, 1)).sum((-2, -1)) < wanted
        return jnp.where(less, middle, low), jnp.where(less, high, middle)

    low = jnp.zeros(image.shape[0], image.dtype)
    low, high = jax.lax.fori_loop(0, BISECTIONS, halve, (low, low + math.hypot(*image.shape[-2:])))
    return (low + high) / 2


def _gini_m20(image: jax.Array, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gini and M20 of the pixels that are not zero."""
    cx, cy = _centroid(image, x, y)
    moment = ((x - cx) ** 2 + (y - cy) ** 2).reshape(len(image), -1)
    light, moment = jax.lax.sort((image.reshape(len(image), -1), moment), num_keys=1)
    n = (light > 0).sum(-1)[:, None]
    rank = jnp.arange(1, light.shape[-1] + 1)[None] - (light.shape[-1] - n)
    total = light.sum(-1, keepdims=True)
    gini = ((2 * rank - n - 1) * light).sum(-1) / jnp.maximum((n - 1) * total, 1e-30)[:, 0]
    brighter = jnp.cumsum(light[:, ::-1], axis=-1)[:, ::-1]  # with the pixel itself
    # The pixel that takes the sum past a fifth counts for the part that is wanted.
    part = jnp.clip((BRIGHTEST * total - (brighter - light)) / jnp.maximum(light, 1e-30), 0, 1)
    spread = light * moment
    return gini, jnp.log10((spread * part).sum(-1) / jnp.maximum(spread.sum(-1), 1e-30))
