"""Posteriors of generators with cells: the guide's Gaussian, and a flow around it that is learnt from simulations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import tiny_model

from hiergal.model.architecture import posterior_flow_cells, posterior_flow_config
from hiergal.model.flow.density import ConditionalFlow
from hiergal.model.guide import posterior_from
from hiergal.posterior.samplers.around_guide import draw_around_guide, seen_by_guide
from hiergal.posterior.samplers.methods import draw_latents
from hiergal.recipe.config import FlowConfig
from hiergal.recipe.framed_config import FramedEncoderConfig, FramedGeneratorConfig
from hiergal.recipe.recipe import Recipe

SMALL_FLOW = FlowConfig(layers=1, hidden=8, cell_layers=1, cell_blocks=1, cell_features=8)
RECIPE = Recipe(
    shape=(16, 24),
    pixel_scale_arcsec=0.03,
    covariance=8,
    generator=FramedGeneratorConfig(
        global_latents=8, cells=2, local_latents=2, features=8, channels=8, blocks=1
    ),
    encoder=FramedEncoderConfig(
        channels=8, templates=8, features=8, cell_channels=8, passes=1, newton_steps=0
    ),
    flow=SMALL_FLOW,
    posterior_flow=SMALL_FLOW,
)
D = RECIPE.generator.latents
ROUNDING = (
    5e-3  # standard deviations: Newton steps of an untrained guide, far from its mode, enlarge rounding
)


@pytest.fixture(scope="module")
def model():
    """An untrained model with cells, without prior flow."""
    return tiny_model(RECIPE, flow=False)


@pytest.fixture
def observation(make_observation):
    """Three galaxies on its stamps."""
    return make_observation("white", n=3, shape=RECIPE.shape)


def with_flow(model):
    config, cells = posterior_flow_config(RECIPE), posterior_flow_cells(RECIPE)
    template = jax.eval_shape(lambda: ConditionalFlow.untrained(jax.random.key(0), config, D, cells))
    rng = np.random.default_rng(4)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype), template.params
    )
    unit = [jnp.stack([jnp.zeros(k), jnp.ones(k)]) for k in (D, len(config.conditions))]
    return model.replace(posterior_flow=ConditionalFlow(params, *unit, config, cells))


def test_without_a_flow_draws_are_the_guides(model, observation):
    prior = model.latent_flow().expand((3,))
    z = draw_around_guide(model, observation, prior, jax.random.split(jax.random.key(0), 3), 4000)
    q = posterior_from(model.encode(observation), RECIPE.covariance)
    np.testing.assert_allclose((z.mean(0) - q.mean) / jnp.sqrt(q.variance), 0, atol=5 / 4000**0.5)
    for i in range(3):
        scale = np.sqrt(np.asarray(q.variance[i]))
        found, expected = np.cov(np.asarray(z[:, i]).T), np.asarray(q.covariance_matrix[i])
        np.testing.assert_allclose(
            found / np.outer(scale, scale), expected / np.outer(scale, scale), atol=0.1
        )


def test_what_the_flow_learns_is_what_it_draws(model, observation):
    """w of draws through the flow's inverse are the unit normals that they were made of."""
    model, prior = with_flow(model), model.latent_flow().expand((3,))
    keys = jax.random.split(jax.random.key(1), 3)
    z = draw_around_guide(model, observation, prior, keys, 5)
    w, features = seen_by_guide(model, observation, prior, z)
    rows = jnp.broadcast_to(features, (5, *features.shape)).reshape(15, -1)
    noise, _ = jax.jit(model.posterior_flow.to_base)(w.reshape(15, D), rows)
    expected = jax.vmap(lambda key: jax.random.normal(key, (5, D)), out_axes=1)(keys)
    np.testing.assert_allclose(noise.reshape(5, 3, D), expected, atol=2e-3)
    plain = draw_around_guide(model.replace(posterior_flow=None), observation, prior, keys, 5)
    assert np.abs(z - plain).max() > 0.01


def test_features_of_a_cell_are_its_own(model, observation):
    """Names of the flow's conditions say which latent each feature is of."""
    prior = model.latent_flow().expand((3,))
    q = posterior_from(model.encode(observation), RECIPE.covariance)
    _, features = seen_by_guide(model, observation, prior, q.mean[None])
    names = posterior_flow_config(RECIPE).conditions
    assert len(names) == features.shape[1] == 2 * D + 1
    for i in range(D):
        expected = 3 * np.tanh(q.mean[:, i] / 3)
        np.testing.assert_allclose(features[:, names.index(f"mean_{i}")], expected, atol=ROUNDING)
        expected = np.clip(q.log_scales[:, i], -7, 0.5)
        np.testing.assert_allclose(features[:, names.index(f"log_scale_{i}")], expected, atol=ROUNDING)


def test_the_method_flow_draws_around_the_guide(model, observation):
    model, prior = with_flow(model), model.latent_flow().expand((3,))
    keys = jax.random.split(jax.random.key(1), 3)
    drawn = draw_latents("flow", model, observation, prior, keys, draws=6, proposals=6)
    np.testing.assert_array_equal(drawn.draws.latents, draw_around_guide(model, observation, prior, keys, 6))
    one = draw_latents("flow", model, observation[1:2], prior[1:2], keys[1:2], draws=6, proposals=6)
    np.testing.assert_allclose(one.draws.latents[:, 0], drawn.draws.latents[:, 1], atol=ROUNDING)
