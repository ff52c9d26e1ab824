"""Structure in the frame of a galaxy: spiral and straight modes around its centre, and a free field.

    T = sum_m Re[ c_m(ln rho) exp(i m (theta - kappa ln rho)) ] + sum_m Re[ d_m(ln rho) exp(i m theta) ] + field(u, v)

with rho and theta polar coordinates in the frame, kappa the cotangent of the pitch angle of logarithmic spirals (images
of spirals are decomposed so, e.g. Considere & Athanassoula 1988, A&AS 76, 365), c and d cubic splines of ln rho, and
the field a cubic spline on a square lattice. The smooth profile is multiplied by exp(T) over its mean on each ring, so
what is radial stays with the smooth profile.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.model.nets.framed.frame import keep
from hiergal.runtime.pytree import Array

__all__ = [
    "MODES",
    "NODES",
    "RING_AREAS",
    "RING_POINTS",
    "divide_by_ring_means",
    "field",
    "log_ring_means",
    "spiral_modes",
    "splines",
]

WOUND, STRAIGHT = (1, 2, 3, 4), (1, 2, 3)  # orders m, from one on
MODES = len(WOUND) + len(STRAIGHT)
FIRST_NODE, NODE_STEP, NODES = float(np.log(0.2)), 0.6, 6  # of ln rho
LARGEST = 4.0  # of T: contrasts beyond exp(4) are no galaxy's
LOG_RINGS = np.linspace(np.log(0.11), np.log(6.0), 27).astype(np.float32)
MEAN_NODES = 14  # of the spline of the ring means, every other ring
ANGLES = ((np.arange(24) + 0.5) * 2 * np.pi / 24).astype(np.float32)


def splines(
    place: Float[Array, "m p"], first: float, step: float, nodes: int
) -> Float[jax.Array, "m nodes p"]:
    """Return cubic B-splines around equally spaced nodes; they sum to one between the second and the last but one.

    Example:
        >>> basis = splines(jnp.array([[2.0, 2.5]]), 0.0, 1.0, 6)
        >>> basis.sum(axis=1).round(6).tolist()
        [[1.0, 1.0]]
    """
    s = jnp.abs((place[:, None] - first) / step - np.arange(nodes, dtype=np.float32)[None, :, None])
    return _cubic(s, jnp.maximum)


def spiral_modes(
    coefficients: Float[Array, "n nodes w"],
    kappa: Float[Array, "n"],
    log_rho: Float[Array, "m p"],
    cos: Float[Array, "m p"],
    sin: Float[Array, "m p"],
) -> Float[jax.Array, "n p"]:
    """Return the modes at points of the frame, those of each galaxy [n, p], or the same ones of all [1, p].

    Args:
        coefficients: Of the cosine and the sine of each mode at the nodes, wound ones first.
        kappa: Cotangent of the pitch angle; its sign is the sense of winding.
        log_rho: ln rho of the points.
        cos: Cosine of their azimuth.
        sin: Sine of their azimuth.
    """
    basis = splines(log_rho, FIRST_NODE, NODE_STEP, NODES)
    values = _product("mkp,nkw->nwp", basis, coefficients)
    turn = kappa[:, None] * log_rho
    a, b = keep(jnp.cos(turn), jnp.sin(turn))
    total, i = jnp.zeros_like(turn), 0
    for orders, (x, y) in ((WOUND, (cos * a + sin * b, sin * a - cos * b)), (STRAIGHT, (cos, sin))):
        mx, my = x, y  # of m times the azimuth
        for order in orders:
            if order > 1:
                mx, my = mx * x - my * y, my * x + mx * y
            total = total + values[:, i] * mx + values[:, i + 1] * my
            i += 2
    return total


def field(
    values: Float[Array, "n v u"], reach: float, u: Float[Array, "m p"], v: Float[Array, "m p"]
) -> Float[jax.Array, "n p"]:
    """Return a cubic spline on a square lattice at points of the frame; zero far outside.

    Args:
        values: Coefficients at the middles of equal cells.
        reach: Half the side of the lattice [half-light radii].
        u: Coordinates of the points.
        v: Coordinates of the points.
    """
    size = values.shape[-1]
    step = 2 * reach / size
    along_u, along_v = (splines(at, step / 2 - reach, step, size) for at in (u, v))
    # Products, not gathers: one lattice is small, and its gradient is a product, too.
    return jnp.sum(along_v * _product("mup,nvu->nvp", along_u, values), axis=1)


def _ring_points() -> tuple[np.ndarray, ...]:
    log_rho = np.repeat(LOG_RINGS, len(ANGLES))[None]
    angle = np.tile(ANGLES, len(LOG_RINGS))[None]
    return log_rho, np.cos(angle), np.sin(angle)


RING_POINTS = _ring_points()  # ln rho, cosine and sine of the azimuth, ring after ring, [1, q] each
RING_AREAS = np.exp(2 * RING_POINTS[0]) * (LOG_RINGS[1] - LOG_RINGS[0]) * (ANGLES[1] - ANGLES[0])


def log_ring_means(t: Float[Array, "n q"]) -> Float[jax.Array, "n nodes"]:
    """Fit a cubic spline of ln rho to the logarithm of the mean of exp(T) on each ring.

    Args:
        t: T at :data:`RING_POINTS`.

    Returns:
        Coefficients of the spline, for :func:`divide_by_ring_means`.
    """
    t = t.reshape(-1, len(LOG_RINGS), len(ANGLES))
    return (jax.nn.logsumexp(t, axis=-1) - np.log(len(ANGLES))) @ FIT_MEANS


def divide_by_ring_means(
    t: Float[Array, "n p"], means: Float[Array, "n nodes"], log_rho: Float[Array, "m p"]
) -> Float[jax.Array, "n p"]:
    """Return exp(T) over its mean on the ring through each point."""
    return jnp.exp(t - _product("mrp,nr->np", _mean_splines(log_rho), means))


def _mean_splines(log_rho: Array) -> jax.Array:
    return splines(log_rho, float(LOG_RINGS[0]), 2 * float(LOG_RINGS[1] - LOG_RINGS[0]), MEAN_NODES)


def _fit_means() -> np.ndarray:
    """Least squares of the spline through values at the rings, as a product from the right."""
    place = (LOG_RINGS - LOG_RINGS[0]) / (2 * (LOG_RINGS[1] - LOG_RINGS[0]))
    s = np.abs(place[:, None] - np.arange(MEAN_NODES))
    return np.linalg.pinv(_cubic(s, np.maximum)).T.astype(np.float32)


def _cubic(s: Any, maximum: Callable[[Any, float], Any]) -> Any:
    """The cubic B-spline at distances from its node, in steps; ``maximum`` is NumPy's or JAX's."""
    return (maximum(2.0 - s, 0.0) ** 3 - 4 * maximum(1.0 - s, 0.0) ** 3) / 6


FIT_MEANS = _fit_means()


def _product(what: str, basis: jax.Array, values: jax.Array) -> jax.Array:
    """An einsum in which the first operand may be one for all galaxies."""
    if len(basis) == 1:
        return jnp.einsum(what.replace("m", ""), basis[0], values)
    return jnp.einsum(what.replace("m", "n"), basis, values)
