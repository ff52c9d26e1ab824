"""Structure in the frame of a galaxy: a field on its canvas, by which the smooth profile is multiplied.

The field T is a cubic spline on a square lattice. The smooth profile is multiplied by exp(T) over its mean on each
ring, so what is radial stays with the smooth profile.
"""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.model.nets.framed.frame import CORE, from_canvas
from hiergal.runtime.pytree import Array

__all__ = ["LARGEST", "Rings", "divide_by_ring_means", "field", "log_ring_means", "rings", "spline"]

LARGEST = 4.0  # of T: contrasts beyond exp(4) are no galaxy's
RADII = ((np.arange(24) + 0.5) / 20).astype(
    np.float32
)  # of rings, on the canvas; beyond 1 there is no structure
ANGLES = ((np.arange(40) + 0.5) * 2 * np.pi / 40).astype(np.float32)
MEAN_STEP, MEAN_NODES = 0.1, 14  # of the spline of the ring means, along the radius on the canvas


class Rings(NamedTuple):
    """Points on rings, ring after ring, [1, q] each.

    Attributes:
        u: Coordinates in the frame [half-light radii].
        v: Coordinates in the frame [half-light radii].
        s: Coordinates on the canvas.
        t: Coordinates on the canvas.
        areas: Areas that they stand for [squared half-light radii].
    """

    u: np.ndarray
    v: np.ndarray
    s: np.ndarray
    t: np.ndarray
    areas: np.ndarray


@cache
def rings(reach: float, finer: int = 1) -> Rings:
    """Return points that cover the canvas and what lies just outside of it.

    Args:
        reach: Half the side of the canvas [half-light radii].
        finer: How many times as many rings, and points on each, as :func:`log_ring_means` takes.
    """
    radii = (np.arange(len(RADII) * finer) + 0.5) * (RADII[1] - RADII[0]) / finer
    step = 2 * np.pi / (len(ANGLES) * finer)
    radius = np.repeat(radii, len(ANGLES) * finer)[None]
    angle = np.tile((np.arange(len(ANGLES) * finer) + 0.5) * step, len(radii))[None]
    # Every other ring is turned by half a step, so that no pattern falls between the points of all.
    angle = angle + (np.repeat(np.arange(len(radii)) % 2, len(ANGLES) * finer) * step / 2)[None]
    s, t = (radius * along(angle) for along in (np.cos, np.sin))
    u, v = from_canvas(s, t, reach)
    scale = np.arcsinh(reach / CORE)
    # rho d rho / d radius: the middle of each step stands for it.
    density = CORE**2 * scale * np.sinh(radius * scale) * np.cosh(radius * scale)
    areas = density * (radii[1] - radii[0]) * step
    return Rings(u, v, *(part.astype(np.float32) for part in (s, t, areas)))


def spline(values: Float[Array, "n nodes"], place: Float[Array, "m p"]) -> Float[jax.Array, "n p"]:
    """Return the cubic spline with these coefficients at places in steps from the first node; zero far outside.

    Example:
        >>> spline(jnp.ones((1, 6)), jnp.array([[2.0, 2.5, 9.0]])).round(6).tolist()
        [[1.0, 1.0, 0.0]]
    """
    first, weights = _reached(place, values.shape[-1])
    return jax.vmap(lambda v, i, w: jnp.sum(_four(v, i) * w, axis=-1))(
        _padded(values), *_for_each(values, first, weights)
    )


def field(
    values: Float[Array, "n t s"], s: Float[Array, "m p"], t: Float[Array, "m p"]
) -> Float[jax.Array, "n p"]:
    """Return a cubic spline on a square lattice at points of the canvas; zero far outside.

    Args:
        values: Coefficients at the middles of equal cells.
        s: Coordinates of the points, those of each galaxy, or the same ones of all.
        t: Coordinates of the points.
    """
    size = values.shape[-1]
    first_s, along_s = _reached((s + 1) * size / 2 - 0.5, size)
    first_t, along_t = _reached((t + 1) * size / 2 - 0.5, size)

    def of_one(values, first_s, along_s, first_t, along_t):
        total, width = 0.0, values.shape[-1]
        for row in range(4):
            four = _four(values.reshape(-1), (first_t + row) * width + first_s)
            total = total + along_t[:, row] * jnp.sum(four * along_s, axis=-1)
        return total

    return jax.vmap(of_one)(_padded(values), *_for_each(values, first_s, along_s, first_t, along_t))


def _reached(place: Array, nodes: int) -> tuple[jax.Array, jax.Array]:
    """Of four nodes around each place: the first, counted with three more before and after all, and their weights."""
    place = jnp.clip(place + 3, 1.0, nodes + 3.999)
    below = jnp.floor(place)
    f = place - below
    g = 1 - f
    weights = jnp.stack(
        [g * g * g, 4 - 6 * f * f + 3 * f * f * f, 4 - 6 * g * g + 3 * g * g * g, f * f * f], axis=-1
    )
    return below.astype(jnp.int32) - 1, weights / 6


def _padded(values: Array) -> jax.Array:
    return jnp.pad(values, [(0, 0)] + [(3, 3)] * (values.ndim - 1))


def _four(values: Array, first: Array) -> jax.Array:
    """Four values in a row from each place on: gathered together, an eighth of the time of single ones."""
    dimensions = jax.lax.GatherDimensionNumbers((1,), (), (0,))
    return jax.lax.gather(values, first[:, None], dimensions, (4,), mode="promise_in_bounds")


def _for_each(values: Array, *parts: Array) -> list[jax.Array]:
    """What is one for all galaxies, for each of them."""
    return [jnp.broadcast_to(part, (len(values), *part.shape[1:])) for part in parts]


def log_ring_means(t: Float[Array, "n q"]) -> Float[jax.Array, "n nodes"]:
    """Fit a cubic spline of the radius to the logarithm of the mean of exp(T) on each ring.

    Args:
        t: T at the points of :func:`rings`.

    Returns:
        Coefficients of the spline, for :func:`divide_by_ring_means`.
    """
    t = t.reshape(-1, len(RADII), len(ANGLES))
    return (jax.nn.logsumexp(t, axis=-1) - np.log(len(ANGLES))) @ _fit_means()


def divide_by_ring_means(
    t: Float[Array, "n p"], means: Float[Array, "n nodes"], radius: Float[Array, "m p"]
) -> Float[jax.Array, "n p"]:
    """Return exp(T) over its mean on the ring through each point, whose radius on the canvas is given."""
    return jnp.exp(t - spline(means, radius / MEAN_STEP))


@cache
def _fit_means() -> np.ndarray:
    """Least squares of the spline through values at the rings, as a product from the right."""
    with jax.ensure_compile_time_eval():
        basis = spline(np.eye(MEAN_NODES, dtype=np.float32), RADII[None] / MEAN_STEP)
        return np.linalg.pinv(np.asarray(basis)).astype(np.float32)
