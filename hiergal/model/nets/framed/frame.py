"""The frame of a galaxy: centred on it, in units of its half-light radius, with its ellipse made round.

A point of the sky is d = c + R E(s) w: w are coordinates in the frame, c the centre, R the circularised half-light
radius, and E(s) the matrix exponential of [[s1, s2], [s2, -s1]], which keeps areas. Sky coordinates are pixels from the
centre of the stamp, frame coordinates are half-light radii. Structure lives on a canvas, [-1, 1] along both axes, which
is the frame with its outskirts drawn in a little, so that the middle has the finer cells.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.runtime.pytree import Array

__all__ = [
    "CORE",
    "ELLIPSE",
    "Ellipse",
    "ellipse_from",
    "from_canvas",
    "from_sky",
    "keep",
    "to_canvas",
    "to_sky",
]

# The first latents are the ellipse: name, offset, spread over unit-normal latents, limits. No galaxy is beyond those,
# and float32 is not either: latents far from all others give no infinite profile.
ELLIPSE = {
    "log_flux": (0.0, 1.0, -6.0, 6.0),
    "x_pix": (0.0, 1.0, -64.0, 64.0),
    "y_pix": (0.0, 1.0, -64.0, 64.0),
    "log_radius_pix": (np.log(8.0), 0.6, np.log(0.2), np.log(500.0)),
    "shear_1": (0.0, 0.35, -1.8, 1.8),
    "shear_2": (0.0, 0.35, -1.8, 1.8),
    "log_index": (np.log(1.3), 0.45, np.log(0.35), np.log(8.0)),
}

CORE = 2.0  # half-light radii: inside, the canvas is nearly linear in the frame


def keep(*arrays: Float[Array, "n p"]) -> list[jax.Array]:
    """Return arrays as they are, computed once.

    XLA computes elementwise operations again for each use of their result, and a gradient has many. Nothing is fused
    into a product.
    """
    together = jnp.stack(arrays, axis=1)
    identity = jnp.eye(len(arrays), dtype=together.dtype)
    return list(jnp.moveaxis(jnp.einsum("kl,nlp->nkp", identity, together, precision="highest"), 1, 0))


class Ellipse(NamedTuple):
    """What the first latents say of each galaxy, [n] each."""

    log_flux: jax.Array
    x_pix: jax.Array
    y_pix: jax.Array
    log_radius_pix: jax.Array
    shear_1: jax.Array
    shear_2: jax.Array
    log_index: jax.Array

    @property
    def shear(self) -> jax.Array:
        """Length of the shear, with a finite gradient at zero."""
        return jnp.sqrt(jnp.maximum(self.shear_1**2 + self.shear_2**2, 1e-10))


def ellipse_from(z: Float[Array, "n d"]) -> Ellipse:
    """Read the ellipse from the first latents."""
    values = {}
    for i, (name, (offset, spread, low, high)) in enumerate(ELLIPSE.items()):
        values[name] = jnp.clip(offset + spread * z[:, i], low, high)
    return Ellipse(**values)


def from_sky(
    e: Ellipse, x: Float[Array, "m p"], y: Float[Array, "m p"]
) -> tuple[Float[jax.Array, "n p"], Float[jax.Array, "n p"]]:
    """Return frame coordinates of points of the sky, those of each galaxy, or the same ones of all."""
    scale = jnp.exp(-e.log_radius_pix)[:, None]
    return _stretched(e, (x - e.x_pix[:, None]) * scale, (y - e.y_pix[:, None]) * scale, -1.0)


def to_sky(
    e: Ellipse, u: Float[Array, "m p"], v: Float[Array, "m p"]
) -> tuple[Float[jax.Array, "n p"], Float[jax.Array, "n p"]]:
    """Return points of the sky at frame coordinates, those of each galaxy, or the same ones of all."""
    x, y = _stretched(e, u, v, 1.0)
    scale = jnp.exp(e.log_radius_pix)[:, None]
    return x * scale + e.x_pix[:, None], y * scale + e.y_pix[:, None]


def to_canvas(
    u: Float[Array, "m p"], v: Float[Array, "m p"], reach: float
) -> tuple[Float[jax.Array, "m p"], Float[jax.Array, "m p"]]:
    """Return canvas coordinates of points of the frame; at ``reach`` half-light radii the canvas ends."""
    rho = jnp.sqrt(u * u + v * v + 1e-6)
    factor = jnp.arcsinh(rho / CORE) / (np.arcsinh(reach / CORE).astype(np.float32) * rho)
    return u * factor, v * factor


def from_canvas(
    s: Float[np.ndarray, "*p"], t: Float[np.ndarray, "*p"], reach: float
) -> tuple[Float[np.ndarray, "*p"], Float[np.ndarray, "*p"]]:
    """Return frame coordinates of points of the canvas.

    Example:
        >>> u, v = from_canvas(np.array([0.6]), np.array([-0.8]), 4.5)
        >>> float(np.hypot(u, v)[0]).__round__(3)
        4.5
    """
    radius = np.hypot(s, t)
    factor = CORE * np.sinh(radius * np.arcsinh(reach / CORE)) / np.maximum(radius, 1e-6)
    return (s * factor).astype(np.float32), (t * factor).astype(np.float32)


def _stretched(e: Ellipse, u: Array, v: Array, sign: float) -> tuple[jax.Array, jax.Array]:
    """E(sign s) (u, v)."""
    cosh, sinh = jnp.cosh(e.shear), sign * jnp.sinh(e.shear) / e.shear
    first, second = (a[:, None] for a in (sinh * e.shear_1, sinh * e.shear_2))
    cosh = cosh[:, None]
    return (cosh + first) * u + second * v, second * u + (cosh - first) * v
