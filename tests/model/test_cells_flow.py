"""The flow over cells: inverse, determinant, what depends on what, and correlations to recover."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiergal.model.flow.density import ConditionalFlow, fit_flow
from hiergal.recipe.config import FlowConfig

GLOBALS, SIDE, EACH = 3, 3, 2
D = GLOBALS + SIDE**2 * EACH


def bent_flow(layers=2, given=0):
    """A flow over three global latents and nine cells of two, far from the identity; two conditions of the galaxy."""
    config = FlowConfig(
        conditions=tuple(f"y{i}" for i in range(2 + given * SIDE**2)),
        layers=2,
        hidden=12,
        cell_layers=layers,
        cell_blocks=2,
        cell_features=8,
    )
    build = jax.jit(lambda: ConditionalFlow.untrained(jax.random.key(0), config, D, (SIDE, EACH, given)))
    rng = np.random.default_rng(1)
    flow = build()
    params = jax.tree.map(lambda leaf: leaf + jnp.asarray(0.3 * rng.normal(size=leaf.shape)), flow.params)
    return flow.replace(params=params, center=jnp.asarray(rng.uniform(0.5, 1.5, (2, D))))


@pytest.mark.parametrize(("layers", "given"), [(1, 0), (2, 3), (3, 0)])
def test_passes_are_inverse_and_the_determinant_is_the_dense_one(x64, rng, layers, given):
    flow = bent_flow(layers, given)
    z, y = jnp.asarray(rng.normal(size=(4, D))), jnp.asarray(rng.normal(size=(4, 2 + given * SIDE**2)))
    u, log_determinant = jax.jit(flow.to_base)(z, y)
    np.testing.assert_allclose(jax.jit(flow.from_base)(u, y), z, atol=1e-9)
    one = jax.jit(jax.vmap(jax.jacobian(lambda z, y: flow.to_base(z[None], y[None])[0][0])))
    jacobian = np.asarray(one(z, y))
    np.testing.assert_allclose(log_determinant, np.linalg.slogdet(jacobian)[1], rtol=1e-9)
    assert np.ptp(np.asarray(log_determinant)) > 0.01
    # Global latents know nothing of the cells.
    assert (jacobian[:, :GLOBALS, GLOBALS:] == 0).all() and (jacobian[:, GLOBALS:, :GLOBALS] != 0).any()
    if (
        layers == 1
    ):  # cells depend on those before, from the middle outwards: the first, in the middle, on none
        middle = GLOBALS + (SIDE**2 // 2) * EACH
        others = np.delete(np.arange(GLOBALS, D), [middle - GLOBALS, middle - GLOBALS + 1])
        assert (jacobian[:, GLOBALS : GLOBALS + EACH][:, :, others] == 0).all()


def test_correlations_between_and_inside_of_cells_are_learnt(rng):
    """A Gaussian of which the covariance is known, whose spread a condition sets."""
    n = 6000
    factor = np.linalg.cholesky(
        0.3 * np.eye(D) + 0.7 * np.exp(-np.abs(np.subtract.outer(*[np.arange(D)] * 2)) / 4)
    )
    y = rng.uniform(-1, 1, (n, 1))
    z = rng.normal(size=(n, D)) @ factor.T * np.exp(0.5 * y)
    config = FlowConfig(
        conditions=("size",),
        layers=2,
        hidden=32,
        cell_layers=1,
        cell_blocks=1,
        cell_features=16,
        steps=1500,
        batch=128,
        learning_rate=5e-3,
    )
    fitted = fit_flow(
        0, config, z[None].astype(np.float32), y.astype(np.float32), cells=(SIDE, EACH, 0), progress=False
    )
    best = (
        -0.5 * D * (1 + np.log(2 * np.pi)) - np.linalg.slogdet(factor)[1]
    )  # mean over y of its logarithm is zero
    alone = -0.5 * D * (1 + np.log(2 * np.pi))  # all correlations left out
    assert fitted.validation[-1] > best - 0.15 * (best - alone) - 3 * np.sqrt(D / 2 / (0.1 * n))
    drawn = np.asarray(jax.jit(fitted.flow.sample)(jax.random.key(1), np.zeros((4000, 1), np.float32)))
    np.testing.assert_allclose(np.cov(drawn.T), factor @ factor.T, atol=0.15)
