"""The bound with free bits: against NumPyro's own at zero free bits, and each reduction against arithmetic."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import SVI, TraceMeanField_ELBO
from toys import SCALE, LinearGenerator, TableEncoder, linear_params

from hiergal.model.guide import galaxy_guide, output_count, posterior_from
from hiergal.model.program import galaxy_model
from hiergal.training.elbo import FreeBitsELBO, kl_per_latent

D, SHAPE = 4, (5, 7)


@pytest.fixture
def outputs(rng):
    def make(n, covariance="diagonal"):
        return (0.5 * rng.normal(size=(n, output_count(D, covariance)))).astype(np.float32)

    return make


def programs(covariance="diagonal", population=None):
    shared = {"generator": LinearGenerator(SHAPE), "latents": D, "pixel_scale_arcsec": SCALE}
    model = partial(galaxy_model, **shared, plate_size=population)
    encoder = TableEncoder(output_count(D, covariance))
    return model, partial(galaxy_guide, encoder=encoder, covariance=covariance, plate_size=population)


def parameters(outputs):
    generator = jax.tree.map(lambda leaf: leaf.astype(np.float32), linear_params(D, SHAPE))
    return {"generator$params": generator, "encoder$params": {"outputs": jnp.asarray(outputs)}}


@pytest.mark.parametrize(
    ("kind", "masked"), [("white", False), ("pixel", True), ("stationary", False), ("stationary", True)]
)
@pytest.mark.parametrize("population", [None, 60])
def test_is_that_of_numpyro_at_zero_free_bits(x64, key, make_observation, outputs, kind, masked, population):
    """Value and gradients, with the minibatch scaled to the population."""
    observation = make_observation(kind, shape=SHAPE, masked=masked)
    model, guide = programs(population=population)

    def loss(elbo, params):
        return elbo.loss(key, params, model, guide, observation)

    params = parameters(outputs(3))
    expected, found = (
        jax.jit(jax.value_and_grad(partial(loss, elbo)))(params)
        for elbo in (TraceMeanField_ELBO(), FreeBitsELBO())
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-5), found, expected)
    assert np.all(np.abs(jax.tree.leaves(expected[1])[0]) > 0)


def test_free_bits_of_a_minibatch_stand_for_the_population(key, make_observation, outputs):
    """What lambda adds is scaled as everything else is: by 60 / 3."""
    observation, params = make_observation(shape=SHAPE), parameters(outputs(3))

    def added(population):
        losses = [
            FreeBitsELBO(b).loss(key, params, *programs(population=population), observation)
            for b in (0.0, 9.0)
        ]
        return float(losses[1] - losses[0])

    assert added(3) > 1
    np.testing.assert_allclose(added(60), 20 * added(3), rtol=2e-2)


def divergences(outputs):
    """KL of each latent from a unit normal, one scalar formula at a time."""
    mean, log_scale = np.split(np.asarray(outputs, float), 2, axis=-1)
    return 0.5 * (mean**2 + np.exp(2 * log_scale) - 1) - log_scale


@pytest.mark.parametrize(
    ("reduction", "by_hand"),
    [
        ("total", lambda kl, bits: max(bits, sum(kl))),
        ("dimension", lambda kl, bits: sum(max(bits, k) for k in kl)),
        ("mean", lambda kl, bits: max(bits, sum(kl) / len(kl))),
    ],
)
@pytest.mark.parametrize("bits", [0.0, 0.3, 1.0, 50.0])
def test_reductions_by_hand(key, make_observation, outputs, reduction, by_hand, bits):
    """The likelihood is the same draw's in both; what is left is the divergence, galaxy by galaxy."""
    observation, table = make_observation(shape=SHAPE), outputs(3)
    params, (model, guide) = parameters(table), programs()
    kl = divergences(table)
    free = FreeBitsELBO(0.0, "total").loss(key, params, model, guide, observation)
    found = FreeBitsELBO(bits, reduction).loss(key, params, model, guide, observation)
    expected = sum(by_hand(row, bits) for row in kl) - kl.sum()
    np.testing.assert_allclose(found - free, expected, rtol=1e-3, atol=2e-6 * abs(float(free)))


def test_free_bits_are_for_each_galaxy(key, make_observation, outputs):
    """A galaxy that says much does not pay for one that says nothing."""
    table = outputs(2)
    table[0] = 0.0
    table[1, 0] = 6.0
    observation, params, (model, guide) = make_observation(n=2, shape=SHAPE), parameters(table), programs()
    losses = [FreeBitsELBO(bits).loss(key, params, model, guide, observation) for bits in (0.0, 3.0)]
    np.testing.assert_allclose(losses[1] - losses[0], 3.0, rtol=1e-3)


@pytest.mark.parametrize(("reduction", "above"), [("total", 0.5), ("dimension", 0.0), ("mean", 0.1)])
def test_divergence_has_no_gradient_below_lambda(outputs, reduction, above):
    table = outputs(3)

    def cost(bits, outputs):
        prior = dist.Normal(jnp.zeros((3, D)), 1.0).to_event(1)
        return jnp.sum(FreeBitsELBO(bits, reduction)._cost(posterior_from(outputs, "diagonal"), prior))

    assert np.all(jax.grad(partial(cost, 100.0))(table) == 0)
    assert np.all(np.abs(jax.grad(partial(cost, above))(table)).max(axis=1) > 1e-3)


def test_divergence_of_a_full_covariance_is_that_of_numpyro(x64, rng, outputs):
    q = posterior_from(jnp.asarray(outputs(5, "full"), float), "full")
    p = dist.Normal(jnp.asarray(rng.normal(size=(5, D))), jnp.asarray(rng.uniform(0.5, 2, (5, D)))).to_event(
        1
    )
    twin = dist.MultivariateNormal(p.mean, covariance_matrix=jax.vmap(jnp.diag)(p.variance))
    found = kl_per_latent(q, p)
    assert found.shape == (5, D)
    np.testing.assert_allclose(found.sum(-1), dist.kl_divergence(q, twin), rtol=1e-10)


def test_divergence_of_a_diagonal_covariance_latent_by_latent(x64, outputs):
    table = jnp.asarray(outputs(5), float)
    p = dist.Normal(jnp.zeros((5, D)), 1.0).to_event(1)
    found = kl_per_latent(posterior_from(table, "diagonal"), p)
    np.testing.assert_allclose(found, divergences(table), rtol=1e-10)
    full = jnp.concatenate([table, jnp.zeros((5, D * (D - 1) // 2))], axis=-1)
    np.testing.assert_allclose(found, kl_per_latent(posterior_from(full, "full"), p), rtol=1e-10)


def test_works_under_svi(key, make_observation, outputs):
    observation, (model, guide) = make_observation(shape=SHAPE), programs("full")
    svi = SVI(model, guide, numpyro.optim.Adam(0.05), FreeBitsELBO(0.5))
    result = svi.run(key, 60, observation, progress_bar=False)
    assert np.all(np.isfinite(result.losses)) and result.losses[-5:].mean() < 0.5 * result.losses[:5].mean()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, "sum"), "reduction: expected one of total, dimension, mean, got 'sum'"),
        ((-1.0,), "free_bits: expected a number of nats, zero or more, got -1.0"),
        ((float("nan"),), "free_bits: expected a number of nats, zero or more, got nan"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        FreeBitsELBO(*arguments)


def test_only_normals_have_a_divergence():
    unit = dist.Normal(jnp.zeros((1, 2)), 1.0).to_event(1)
    with pytest.raises(TypeError, match=r"\(multivariate\).*got Normal"):
        kl_per_latent(dist.Normal(jnp.zeros((1, 2)), 1.0), unit)
