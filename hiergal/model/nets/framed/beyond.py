"""Light of a framed galaxy beyond squares around the centre of its stamp, without any pixel.

The smooth part is a sum of Gaussians, of which the light beyond a square is bounded in closed form: the coordinates of
a Gaussian are within an interval each at least as often together as if they were independent (Sidak 1967). Structure
moves light along rings, whose points (:func:`~hiergal.model.nets.framed.structure.rings`) tell how much of it ends up
beyond.
"""

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erfc
from jaxtyping import Float

from hiergal.model.nets.framed.frame import Ellipse
from hiergal.model.nets.registry import LightBeyond
from hiergal.runtime.pytree import Array

__all__ = ["light_beyond"]


def light_beyond(
    e: Ellipse,
    forms: Float[Array, "n j 3"],
    weights: Float[Array, "n j"],
    peaks: Float[Array, "n j"],
    x: Float[Array, "n q"],
    y: Float[Array, "n q"],
    smooth: Float[Array, "n q"],
    contrast: Float[Array, "n q"],
    areas: Float[Array, "n q"],
    flux: Float[Array, "n"],
    half_sides: tuple[float, ...],
) -> LightBeyond:
    """Compute the light of galaxies beyond squares.

    Args:
        e: Ellipses.
        forms: Quadratic forms of the Gaussians.
        weights: Their peaks, times their shares of the flux.
        peaks: Their peaks for unit flux.
        x: Points on rings, from the centre of the stamp [pixels of the model].
        y: The same along y.
        smooth: Smooth profile of unit flux at these.
        contrast: What structure multiplies it by.
        areas: Areas that the points stand for [squared pixels].
        flux: Total fluxes.
        half_sides: Half the sides of the squares [pixels of the model].
    """
    half = np.asarray(half_sides, np.float32)[None, :, None]
    determinant = 1 / (2 * np.pi * peaks) ** 2  # of the covariance matrix
    beyond, brightest = [], 0.0
    for center, inverse in ((e.x_pix, forms[..., 2]), (e.y_pix, forms[..., 0])):
        # The variance along one axis is the other element of the inverse, times the determinant.
        sigma = jnp.sqrt(inverse * determinant)[:, None]
        near, far = half - jnp.abs(center)[:, None, None], half + jnp.abs(center)[:, None, None]
        beyond.append(0.5 * (erfc(near / sigma / np.sqrt(2)) + erfc(far / sigma / np.sqrt(2))))
        edge = jnp.exp(-0.5 * (jnp.maximum(near, 0.0) / sigma) ** 2)
        brightest = jnp.maximum(brightest, jnp.sum(weights[:, None] * edge, axis=-1))
    either = beyond[0] + beyond[1] - beyond[0] * beyond[1]
    shares = (weights / peaks)[:, None]
    share = jnp.sum(shares * either, axis=-1)
    out = (jnp.maximum(jnp.abs(x), jnp.abs(y))[:, None] > half).astype(x.dtype)
    moved = (smooth * (contrast - 1) * areas)[:, None]
    share = jnp.maximum(share + jnp.sum(moved * out, axis=-1), 0.0)
    brightest = jnp.maximum(brightest, jnp.max((smooth * contrast)[:, None] * out, axis=-1))
    scale = 1 / jnp.maximum(
        1 + jnp.sum(moved, axis=-1), 0.1
    )  # rings of rounder Gaussians are no rings of the frame
    return LightBeyond(share * scale, brightest * scale * flux[:, None])
