"""The conditional flow: log-determinants against autodiff, inverses, normalisation, masks, and a density to recover."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiergal.model.flow.autoregressive import MaskedAutoregression
from hiergal.model.flow.density import ConditionalFlow, fit_flow
from hiergal.recipe.config import FlowConfig

from_base, log_prob = jax.jit(ConditionalFlow.from_base), jax.jit(ConditionalFlow.log_prob)


def bent_flow(
    d: int, conditions: int, *, layers: int = 3, hidden: int = 12, seed: int = 0
) -> ConditionalFlow:
    """A flow far from the identity, with centres and scales that are not trivial."""
    names = tuple("abc"[:conditions])
    config = FlowConfig(conditions=names, layers=layers, hidden=hidden)
    rng = np.random.default_rng(seed)
    template = jax.eval_shape(lambda: ConditionalFlow.untrained(jax.random.key(0), config, d))
    params = jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape)), template.params)
    center, spread = jnp.asarray(rng.normal(size=(2, d))), jnp.asarray(rng.normal(size=(2, conditions)))
    return ConditionalFlow(params, center.at[1].set(0.5 + center[1] ** 2), spread.at[1].set(2.0), config)


CASES = [(1, 1, 1), (2, 1, 3), (3, 2, 2), (5, 3, 4)]


@pytest.mark.parametrize(("d", "c", "layers"), CASES)
def test_density_is_the_change_of_variables(x64, rng, d, c, layers):
    """log p(z) from the density pass against the Jacobian of the sampling pass, by autodiff."""
    flow = bent_flow(d, c, layers=layers)
    u, y = jnp.asarray(rng.normal(size=(6, d))), jnp.asarray(rng.normal(size=(6, c)))
    z = from_base(flow, u, y)
    jacobian = jax.jit(jax.vmap(jax.jacobian(lambda u, y: flow.from_base(u[None], y[None])[0])))(u, y)
    base = -0.5 * jnp.sum(u**2 + np.log(2 * np.pi), axis=-1)
    expected = base - np.linalg.slogdet(np.asarray(jacobian))[1]
    assert np.ptp(expected - base) > 0.01, "a log-determinant that does not vary shows nothing"
    np.testing.assert_allclose(log_prob(flow, z, y), expected, rtol=1e-9)


@pytest.mark.parametrize(("d", "c", "layers"), CASES)
def test_passes_are_inverse(x64, rng, d, c, layers):
    flow = bent_flow(d, c, layers=layers)
    u, y = jnp.asarray(rng.normal(size=(6, d))), jnp.asarray(rng.normal(size=(6, c)))
    z = from_base(flow, u, y)
    assert np.abs(z - u).max() > 0.1
    standard = (z - flow.center[:1]) / flow.center[1:]
    conditions = (y - flow.conditions_center[:1]) / flow.conditions_center[1:]
    to_base = jax.jit(partial(flow._stack.apply, method="to_base"))
    back, _ = to_base({"params": flow.params}, standard, conditions)
    np.testing.assert_allclose(back, u, atol=1e-9)


def test_density_integrates_to_one_in_one_dimension(x64):
    flow = bent_flow(1, 1)
    z = jnp.linspace(-60, 60, 60001)[:, None]
    for y in (-1.0, 0.0, 2.0):
        density = np.exp(log_prob(flow, z, jnp.full_like(z, y)))
        np.testing.assert_allclose(np.trapezoid(density, z[:, 0]), 1, atol=1e-4)


def test_density_integrates_to_one_in_two_dimensions(x64):
    """Over a grid that is stretched by sinh, so that it is fine in the middle and reaches far out."""
    flow = bent_flow(2, 2, layers=2, hidden=6)
    t = np.linspace(-6, 6, 1201)
    axis, weight = np.sinh(t), np.cosh(t) * (t[1] - t[0])
    z = jnp.asarray(np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2))
    density = np.exp(log_prob(flow, z, jnp.broadcast_to(jnp.array([[0.3, -1.0]]), z.shape)))
    np.testing.assert_allclose(np.sum(density.reshape(1201, 1201) * np.outer(weight, weight)), 1, atol=1e-3)


@pytest.mark.parametrize("hidden", [6, 7, 16])
def test_masks_make_each_layer_autoregressive(x64, rng, hidden):
    """Shift and log-scale of a dimension depend on all those before it, on none after, and on all conditions."""
    d, c = 5, 2
    layer = MaskedAutoregression(hidden)
    z, y = jnp.asarray(rng.normal(size=d)), jnp.asarray(rng.normal(size=c))
    template = jax.eval_shape(lambda: layer.init(jax.random.key(0), z[None], y[None]))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), template)

    def outputs(z, y):
        return tuple(value[0] for value in layer.apply(params, z[None], y[None]))

    shift_and_scale = jax.jit(jax.jacobian(outputs, argnums=(0, 1)))(z, y)
    by_z, by_y = zip(*shift_and_scale, strict=True)
    for value in by_z:
        assert np.all(np.triu(value) == 0)
        assert np.all(np.asarray(value)[np.tril_indices(d, -1)] != 0)
    for value in by_y:
        assert np.all(np.asarray(value)[1:] != 0)


def test_log_scales_are_limited(x64, rng):
    layer = MaskedAutoregression(8)
    z = jnp.asarray(1e3 * rng.normal(size=(20, 4)))
    template = jax.eval_shape(lambda: layer.init(jax.random.key(0), z, z[:, :1]))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), template)
    _, log_scale = layer.apply(params, z, z[:, :1])
    assert 2.9 < np.abs(log_scale).max() <= 3.0


@pytest.fixture(scope="module")
def gaussian():
    """Latents that given y are Gaussian, with a mean linear in y and a covariance that is not diagonal."""
    rng = np.random.default_rng(3)
    n, s = 3000, 4
    y = np.stack([rng.normal(23, 1.5, n), rng.normal(0.8, 0.3, n)], axis=-1)
    slope = np.array([[2.0, 0.0, -1.0], [0.5, 3.0, 0.0]])
    factor = np.array([[1.0, 0, 0], [0.8, 0.6, 0], [-0.3, 0.2, 0.5]])
    mean = (y - [23.0, 0.8]) @ slope + [1.0, -2.0, 5.0]
    latents = mean + rng.normal(size=(s, n, 3)) @ factor.T
    config = FlowConfig(
        conditions=("mag_auto", "zphot"), layers=2, hidden=32, steps=700, batch=512, learning_rate=5e-3
    )
    return y.astype(np.float32), latents.astype(np.float32), mean, factor, config


@pytest.fixture(scope="module")
def fitted(gaussian):
    y, latents, _, _, config = gaussian
    return fit_flow(jax.random.key(0), config, latents, y, progress=False)


def test_fit_recovers_a_conditional_gaussian(gaussian, fitted):
    """Cross entropy within 0.05 nats of the truth's; means within 0.15, covariances within 0.15."""
    y, latents, mean, factor, _ = gaussian
    precision = np.linalg.inv(factor @ factor.T)
    offset = latents[0] - mean
    log_determinant = np.linalg.slogdet(2 * np.pi * factor @ factor.T)[1]
    truth = -0.5 * (np.einsum("ni,ij,nj->n", offset, precision, offset) + log_determinant)
    density = jax.jit(fitted.flow.log_prob)(latents[0], y)
    np.testing.assert_allclose(np.mean(density), truth.mean(), atol=0.05)
    for condition in ([23.0, 0.8], [24.5, 0.5]):
        rows = np.tile(np.array(condition, np.float32), (6000, 1))
        draws = np.asarray(jax.jit(fitted.flow.sample)(jax.random.key(1), rows))
        expected = (np.array(condition) - [23.0, 0.8]) @ [[2.0, 0, -1], [0.5, 3, 0]] + [1.0, -2.0, 5.0]
        np.testing.assert_allclose(draws.mean(axis=0), expected, atol=0.15)
        np.testing.assert_allclose(np.cov(draws.T), factor @ factor.T, atol=0.15)


def test_fit_standardises(gaussian, fitted):
    y, latents, *_ = gaussian
    flat = latents.reshape(-1, 3)
    np.testing.assert_allclose(fitted.flow.center, [flat.mean(0), flat.std(0)], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(fitted.flow.conditions_center, [y.mean(0), y.std(0)], rtol=1e-3, atol=1e-3)
    assert len(fitted.validation) == 20 and fitted.validation[-1] > fitted.validation[0]


def test_a_condition_that_never_varied_is_taken_as_it_is(gaussian):
    """Such as whether conditions are known, of galaxies of which none are: later values are not blown up."""
    y, latents, _, _, config = gaussian
    config = FlowConfig(conditions=config.conditions, layers=1, hidden=8, steps=5, batch=32)
    still = np.stack([y[:, 0], np.zeros_like(y[:, 1])], axis=-1)
    flow = fit_flow(jax.random.key(0), config, latents[..., :2], still, progress=False).flow
    assert flow.conditions_center[1, 1] == 1
    changed = flow.log_prob(jnp.zeros((1, 2)), jnp.asarray([[float(y[:, 0].mean()), 1.0]]))
    assert np.abs(changed) < 50


@pytest.mark.slow
def test_same_key_gives_the_same_fit(gaussian):
    y, latents, _, _, config = gaussian
    config = FlowConfig(conditions=config.conditions, layers=1, hidden=8, steps=5, batch=32)
    one, two = (
        fit_flow(jax.random.key(0), config, latents[..., :2], y, progress=False).flow for _ in range(2)
    )
    jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda y: y[:, :1],
            r"conditions: expected shape \(3000, 2\) for \('mag_auto', 'zphot'\), got \(3000, 1\)",
        ),
        (lambda y: np.where(y > 23, np.nan, y), "conditions: expected finite values, got NaN or infinity"),
    ],
)
def test_bad_conditions(gaussian, change, message):
    y, latents, _, _, config = gaussian
    with pytest.raises(ValueError, match=message):
        fit_flow(jax.random.key(0), config, latents, change(y).astype(np.float32), progress=False)


def test_draws_of_a_row_follow_its_condition(gaussian, fitted):
    """Rows do not mix: changing one condition changes that row's draw alone."""
    y = gaussian[0][:5]
    changed = y.copy()
    changed[2] += 1
    sample = partial(fitted.flow.sample, jax.random.key(4))
    moved = np.abs(np.asarray(sample(y) - sample(changed))).max(axis=1) > 1e-4
    np.testing.assert_array_equal(moved, [False, False, True, False, False])
