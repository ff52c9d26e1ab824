"""Nonlinear least squares of many variables, for many small problems at once, by products with Jacobians alone.

:func:`hiergal.runtime.least_squares.levenberg_marquardt` computes Jacobians, which takes a forward pass for each
variable. With hundreds of variables, most of which the data hardly constrain, conjugate gradients solve for a
Gauss-Newton step in some tens of products with J and J^T: as many as there are directions that the data determine
better than the prior.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

__all__ = ["Minimum", "minimize"]

Residual = Callable[[Float[jax.Array, "n d"]], Float[jax.Array, "n pixels"]]
FIRST_DAMPING, EASIER, HARDER = 0.1, 0.2, 8.0


class Minimum(NamedTuple):
    """The best point that was found of each problem.

    Attributes:
        point: Variables, [n, d].
        value: Half the sum of squares of residual and variables there, [n].
        step: Length of the last step that was taken, in units of the prior, [n].
    """

    point: Float[jax.Array, "n d"]
    value: Float[jax.Array, "n"]
    step: Float[jax.Array, "n"]


def minimize(residual: Residual, start: Float[jax.Array, "n d"], *, steps: int, products: int) -> Minimum:
    """Minimise r(z)^2 / 2 + z^2 / 2 by damped Gauss-Newton steps: the mode under a unit-normal prior.

    Args:
        residual: Whitened residuals r; those of problem i may depend on the variables of problem i alone.
        start: Variables to start from.
        steps: Number of steps; one that does not lower the sum is not taken, and the next is more careful.
        products: Products with the Gauss-Newton matrix in each.

    Example:
        >>> found = minimize(lambda z: 2.0 * (z - 1.0), jnp.zeros((1, 1)), steps=5, products=2)
        >>> round(float(found.point[0, 0]), 3)
        0.8
    """

    def step(_, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        z, damping, moved = state
        r, push = jax.linearize(residual, z)
        pull = jax.linear_transpose(push, z)

        def matrix(v: jax.Array) -> jax.Array:
            return pull(push(v))[0] + (1 + damping[:, None]) * v

        change = _conjugate_gradients(matrix, pull(r)[0] + z, products)
        trial = z - change
        better = _value(residual(trial), trial) <= _value(r, z)
        return (
            jnp.where(better[:, None], trial, z),
            jnp.where(better, damping * EASIER, damping * HARDER),
            jnp.where(better, jnp.linalg.norm(change, axis=-1), moved),
        )

    state = (
        start,
        jnp.full(start.shape[:1], FIRST_DAMPING, start.dtype),
        jnp.zeros(start.shape[:1], start.dtype),
    )
    # A loop inside the program: a step holds two derivatives of the residual, which take long to compile.
    state = jax.lax.fori_loop(0, steps, step, state)
    return Minimum(state[0], _value(residual(state[0]), state[0]), state[2])


def _value(r: jax.Array, z: jax.Array) -> jax.Array:
    return 0.5 * (jnp.sum(r**2, axis=-1) + jnp.sum(z**2, axis=-1))


def _conjugate_gradients(
    matrix: Callable[[jax.Array], jax.Array], right: Float[jax.Array, "n d"], products: int
) -> Float[jax.Array, "n d"]:
    """Solve for each problem, from zero."""
    inner = partial(jnp.sum, axis=-1, keepdims=True)
    tiny = jnp.finfo(right.dtype).tiny

    def body(_, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        x, r, p, squared = state
        image = matrix(p)
        along = squared / jnp.maximum(inner(p * image), tiny)
        x, r = x + along * p, r - along * image
        now = inner(r * r)
        return x, r, r + now / jnp.maximum(squared, tiny) * p, now

    state = jnp.zeros_like(right), right, right, inner(right * right)
    return jax.lax.fori_loop(0, products, body, state)[0]
