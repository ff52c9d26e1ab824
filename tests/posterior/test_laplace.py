"""Gauss-Newton sharpening where the answer is known, and where it has to be careful."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiergal.observation.psf import PSF
from hiergal.posterior.samplers.laplace import misfit
from hiergal.runtime import least_squares

levenberg_marquardt = jax.jit(least_squares.levenberg_marquardt, static_argnames=("residual", "steps"))


def test_single_latent_by_hand(x64):
    """r = 2 (z - 1): curvature 1 + 4, mode 4/5, residual -0.4 at the mode."""
    found = levenberg_marquardt(lambda z: 2.0 * (z - 1.0), jnp.zeros((1, 1)), steps=6)
    np.testing.assert_allclose(found.mean, [[0.8]], atol=1e-9)
    np.testing.assert_allclose(found.scale**2, [[[0.2]]], rtol=1e-9)
    np.testing.assert_allclose(found.residual, [[-0.4]], rtol=1e-6)
    np.testing.assert_allclose(found.leverage, [[0.8]], rtol=1e-9)
    np.testing.assert_allclose(found.remaining, [0.0], atol=1e-6)
    start = levenberg_marquardt(lambda z: 2.0 * (z - 1.0), jnp.zeros((1, 1)), steps=0)
    np.testing.assert_allclose(start.remaining, [0.8 / np.sqrt(0.2)], rtol=1e-9)


def test_misfit_looks_where_the_fit_is_determined(x64):
    """A wild pixel that no latent reaches does not count; one that decides the fit does."""

    def residual(z, wild):
        return jnp.stack([50 * z[:, 0] - wild, 50 * z[:, 0] + wild, 0 * z[:, 0] + 30.0], axis=-1)

    point = PSF(np.ones((1, 1, 1)), pixel_scale_arcsec=0.03)
    for wild in (1.0, 4.0):
        found = levenberg_marquardt(lambda z, w=wild: residual(z, w), jnp.ones((1, 1)), steps=8)
        np.testing.assert_allclose(misfit(found, point, (1, 3)).factor, [wild**2], rtol=1e-3)


def test_mode_of_a_curved_problem(x64):
    """Latents that bend into each other, against the mode found by a fine grid."""
    data = jnp.array([1.0, -0.5])

    def residual(z):
        return 5 * (
            jnp.stack([z[:, 0] * jnp.exp(0.2 * z[:, 1]), z[:, 1] + 0.1 * z[:, 0] ** 2], axis=-1) - data[None]
        )

    axis = np.linspace(-3, 3, 1201)
    grid = jnp.asarray(np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2))
    loss = 0.5 * (jnp.sum(residual(grid) ** 2, -1) + jnp.sum(grid**2, -1))
    best = grid[jnp.argmin(loss)]
    found = levenberg_marquardt(residual, best[None] + 0.3, steps=20)
    np.testing.assert_allclose(found.mean[0], best, atol=0.006)


def test_no_step_makes_the_posterior_worse(x64):
    """From starts where a plain Gauss-Newton step overshoots, the loss falls from step to step."""

    def residual(z):
        return 10 * jnp.tanh(3 * (z - 1))

    def loss(z):
        return 0.5 * (jnp.sum(residual(z) ** 2, -1) + jnp.sum(z**2, -1))

    start = jnp.array([[-0.2], [0.2], [2.2], [1.9]])
    undamped = start - (30 / jnp.cosh(3 * (start - 1)) ** 2 * residual(start) + start) / (
        1 + (30 / jnp.cosh(3 * (start - 1)) ** 2) ** 2
    )
    assert np.any(loss(undamped) > loss(start)), "the starts are too easy"
    values = [loss(levenberg_marquardt(residual, start, steps=steps).mean) for steps in (0, 1, 2, 5, 11)]
    assert np.all(np.diff(values, axis=0) <= 0)
    assert np.all(values[-1] < values[0])


def test_zero_steps_keep_the_start(x64):
    start = jnp.array([[0.3, -2.0]])
    found = levenberg_marquardt(lambda z: 2 * z - 1, start, steps=0)
    np.testing.assert_array_equal(found.mean, start)
    np.testing.assert_allclose(found.scale[0] @ found.scale[0].T, np.eye(2) / 5, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 4])
def test_galaxies_do_not_mix(rng, steps):
    design = jnp.asarray(rng.normal(size=(3, 6, 2)), jnp.float32)
    data = jnp.asarray(rng.normal(size=(3, 6)), jnp.float32)

    def residual_of(rows):
        return lambda z: jnp.einsum("npd,nd->np", design[rows], jnp.sin(z)) - data[rows]

    together = levenberg_marquardt(residual_of(jnp.arange(3)), jnp.zeros((3, 2)), steps=steps)
    for i in range(3):
        alone = levenberg_marquardt(residual_of(jnp.array([i])), jnp.zeros((1, 2)), steps=steps)
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b[0], rtol=1e-4, atol=1e-5), together, alone
        )
