"""Least squares by products alone, against the solver that computes Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np

from hiergal.runtime.least_squares import levenberg_marquardt
from hiergal.runtime.matrix_free import minimize


def test_linear_problems_are_solved_in_one_step(x64, rng):
    """As many products as variables solve exactly, whatever the conditions of the problems."""
    design, data = (
        jnp.asarray(rng.normal(size=(4, 9, 6)) * 10.0 ** rng.uniform(-2, 2, (4, 1, 1))),
        rng.normal(size=(4, 9)),
    )

    def residual(z):
        return jnp.einsum("npd,nd->np", design, z) - data

    found = minimize(residual, jnp.zeros((4, 6)), steps=12, products=8)
    for i in range(4):
        a = np.asarray(design[i])
        expected = np.linalg.solve(a.T @ a + np.eye(6), a.T @ data[i])
        np.testing.assert_allclose(found.point[i], expected, rtol=1e-5, atol=1e-7)


def test_curved_problems_end_where_jacobians_lead(x64, rng):
    """The same mode as damped steps with whole Jacobians, and none is worse than its start."""
    centers = jnp.asarray(rng.normal(size=(5, 3)))

    def residual(z):
        away = z - centers
        return jnp.concatenate([8 * jnp.sinh(away), 5 * (away[:, :1] * away[:, 1:2] - 0.3)], axis=-1)

    start = jnp.zeros((5, 3))
    found = minimize(residual, start, steps=25, products=6)
    twin = levenberg_marquardt(residual, start, steps=25)
    np.testing.assert_allclose(found.point, twin.mean, atol=1e-6)
    np.testing.assert_array_less(found.value, 0.5 * jnp.sum(residual(start) ** 2, axis=-1))
    assert (found.step < 1e-3).all()


def test_problems_do_not_mix(rng):
    """A problem with infinite residuals keeps its start, and leaves the others alone."""
    scale = jnp.array([1.0, jnp.inf, 3.0])

    def residual(z):
        return scale[:, None] * (z - 1.0)

    found = jax.jit(lambda z: minimize(residual, z, steps=3, products=3))(jnp.zeros((3, 2)))
    alone = minimize(lambda z: 3.0 * (z - 1.0), jnp.zeros((1, 2)), steps=3, products=3)
    np.testing.assert_allclose(found.point[2], alone.point[0], rtol=1e-6)
    np.testing.assert_array_equal(found.point[1], 0.0)
