"""Smooth profiles as sums of concentric Gaussians (multi-Gaussian expansions; Emsellem et al. 1994, Cappellari 2002).

Their widths are fixed fractions of the half-light radius; their shares of the flux say how concentrated the galaxy is.
A Gaussian blurred with a round Gaussian is a Gaussian, so profiles are exact on pixels of any size, cusps included, and
have their flux, moments and half-light radius in closed form.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import special

from hiergal.measure.sersic import sersic_constants
from hiergal.model.nets.framed.frame import Ellipse
from hiergal.runtime.pytree import Array

__all__ = ["WIDTHS", "gaussian_forms", "gaussian_mixture", "sersic_log_shares"]

WIDTHS = np.geomspace(0.04, 5.0, 12)  # standard deviations [half-light radii]
INDICES = np.geomspace(0.35, 8.0, 40)  # Sersic indices of the table
RADII = np.geomspace(3e-3, 60.0, 500)
ROUNDS = 400


@cache
def _table() -> np.ndarray:
    """Logarithms of the shares that make Sersic profiles, by expectation maximisation on rings of flux."""
    rings = np.concatenate([[0.0], RADII])
    inside = 1 - np.exp(-0.5 * (rings[:, None] / WIDTHS) ** 2)
    of_gaussian = np.diff(inside, axis=0)
    rows = []
    for index in INDICES:
        b = sersic_constants(float(index))[0]
        of_sersic = np.diff(special.gammainc(2 * index, b * rings ** (1 / index)))
        share = np.full(len(WIDTHS), 1 / len(WIDTHS))
        for _ in range(ROUNDS):
            model = np.maximum(of_gaussian @ share, 1e-30)
            share = share * (of_gaussian.T @ (of_sersic / model))
            share = np.maximum(share / share.sum(), 1e-7)
        rows.append(np.log(share))
    return np.array(rows)


def sersic_log_shares(log_index: Float[Array, "n"]) -> Float[jax.Array, "n j"]:
    """Return the logarithms of the shares that make Sersic profiles of unit half-light radius."""
    table = jnp.asarray(_table(), log_index.dtype)
    low, step = float(np.log(INDICES[0])), float(np.log(INDICES[1] / INDICES[0]))
    place = (log_index - low) / step
    hats = jnp.maximum(0.0, 1.0 - jnp.abs(place[:, None] - np.arange(len(INDICES), dtype=np.float32)[None]))
    return hats @ table


def gaussian_forms(
    e: Ellipse, roundness: Float[Array, "n j"], blur_pix: float | Float[Array, "n"]
) -> tuple[Float[jax.Array, "n j 3"], Float[jax.Array, "n j"]]:
    """Return quadratic forms q = a dx^2 + 2 b dx dy + c dy^2 and peaks of blurred Gaussians of unit flux.

    Args:
        e: Ellipses.
        roundness: Shear of each Gaussian in units of the galaxy's.
        blur_pix: Standard deviation of the round Gaussian that they are blurred with [pixels].
    """
    variance = jnp.exp(2 * e.log_radius_pix)[:, None] * jnp.asarray(WIDTHS[None] ** 2, e.log_flux.dtype)
    size = 2 * e.shear[:, None] * roundness
    cosh, sinh = jnp.cosh(size), jnp.sinh(size)
    c, s = (e.shear_1 / e.shear)[:, None], (e.shear_2 / e.shear)[:, None]
    blur = jnp.broadcast_to(jnp.asarray(blur_pix, variance.dtype) ** 2, e.log_flux.shape)[:, None]
    along, across, xy = variance * cosh + blur, variance * sinh * c, variance * sinh * s
    xx, yy = along + across, along - across
    determinant = variance**2 + 2 * blur * variance * cosh + blur**2
    forms = jnp.stack([yy, -xy, xx], axis=-1) / determinant[..., None]
    return forms, 0.5 / np.pi / jnp.sqrt(determinant)


def gaussian_mixture(
    forms: Float[Array, "n j 3"],
    weights: Float[Array, "n j"],
    dx: Float[Array, "n p"],
    dy: Float[Array, "n p"],
) -> Float[jax.Array, "n p"]:
    """Return the sum of Gaussians of these quadratic forms and peaks, at points from their centre."""
    squares = jnp.stack([dx * dx, 2 * dx * dy, dy * dy], axis=1)
    return jnp.einsum("nj,njp->np", weights, jnp.exp(jnp.einsum("njf,nfp->njp", -0.5 * forms, squares)))
