"""Coordinates of posteriors: exact for a linear generator, inverted by corrections, straight where latents are bent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import SCALE, exact_posterior, linear_model, plain_recipe, tiny_model, tiny_survey

from hiergal.observation import Observation
from hiergal.posterior.samplers.posterior_flow import laplace_of
from hiergal.posterior.samplers.randomize_then_optimize import randomize_then_optimize
from hiergal.posterior.samplers.target import LatentPosterior
from hiergal.runtime.least_squares import levenberg_marquardt, widen

SHAPE, D, N = (8, 16), 8, 3


def linear_density(make_psf, make_noise, kind="pixel", factor=1.0):
    rng = np.random.default_rng(3)
    model, psf, noise = linear_model(SHAPE), make_psf(N, (5, 3)), make_noise(kind, N, SHAPE)
    psf = psf.replace(stamp=jnp.asarray(psf.stamp, float))
    noise = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), noise)
    image = model.render(model.decode(jnp.asarray(rng.normal(size=(N, D)))), psf)
    image = np.asarray(image + noise.sample(jax.random.key(1), image.shape))
    mask = rng.uniform(size=image.shape) < 0.2 if kind == "pixel" else None
    image = image if mask is None else np.where(mask, np.nan, image)
    observation = Observation(image, psf, noise, mask, {}, np.arange(N), SCALE)
    return LatentPosterior(model, observation, model.latent_flow().expand((N,)), jnp.full(N, factor))


@pytest.mark.parametrize("kind", ["white", "pixel", "stationary"])
def test_linear_generators_have_whitened_latents(x64, rng, make_psf, make_noise, kind):
    """w = S^-1 (z - m), with masks and any noise, and its inverse needs no correction."""
    density = linear_density(make_psf, make_noise, kind)
    found = laplace_of(density)
    coordinates = jax.jit(randomize_then_optimize)(density, found)
    z = jnp.asarray(rng.normal(size=(5, N, D)))
    expected = np.linalg.solve(found.scale, np.moveaxis(np.asarray(z - found.mean[None]), 0, -1))
    np.testing.assert_allclose(coordinates(z), np.moveaxis(expected, -1, 0), atol=1e-6)
    np.testing.assert_allclose(coordinates.latents(coordinates(z), corrections=0), z, atol=1e-6)


def test_projection_is_orthonormal_and_gives_the_leverage(x64, make_psf, make_noise):
    found = laplace_of(linear_density(make_psf, make_noise))
    q = np.asarray(found.projection)
    np.testing.assert_allclose(q @ q.swapaxes(1, 2), np.broadcast_to(np.eye(D), (N, D, D)), atol=1e-9)
    assert np.all(np.asarray(found.leverage) <= 1 + 1e-9) and np.asarray(found.leverage).max() > 0.1


def test_inflated_posteriors_are_those_of_more_noise(x64, make_psf, make_noise):
    """Mean and covariance of twice the noise variance, not twice the covariance; galaxies of factor one stay."""
    density = linear_density(make_psf, make_noise)
    factor = jnp.array([2.0, 1.0, 30.0])
    wider = widen(laplace_of(density), factor)
    noise, params = density.observation.noise, density.model.linear
    louder = noise.replace(sigma=noise.sigma * jnp.sqrt(factor)[:, None, None])
    observation = density.observation.replace(noise=louder)
    for i in range(N):
        exact = exact_posterior(observation, params, i)
        np.testing.assert_allclose(wider.mean[i], exact.mean, atol=1e-5)
        np.testing.assert_allclose(wider.scale[i] @ wider.scale[i].T, exact.covariance, atol=1e-5)
    direct = laplace_of(density.replace(variance_factor=factor))
    np.testing.assert_allclose(wider.projection, direct.projection, atol=1e-6)


def test_bent_posteriors_are_straight(x64):
    """A ring: angle and radius of a point, measured well; draws along the arc have w of unit normal components.

    In whitened latents the same draws are far from it.
    """

    def residual(z):  # x^2 + y = 0 measured to 0.05: a parabola, along which the prior alone says where
        return ((z[:, 0] ** 2 + z[:, 1]) / 0.05)[:, None]

    found = levenberg_marquardt(residual, jnp.zeros((1, 2)), steps=20)
    rng = np.random.default_rng(5)
    x = rng.normal(size=200_000)
    y = -(x**2) + 0.05 * rng.normal(size=x.size)
    keep = rng.uniform(size=x.size) < np.exp(-0.5 * y**2)  # rejection: exact draws of the posterior
    z = jnp.asarray(np.stack([x, y], axis=-1)[keep][:20000])
    both = jnp.concatenate([residual(z), z], axis=-1)
    w = both @ found.projection[0].T
    v = np.linalg.solve(found.scale[0], np.asarray(z - found.mean[:1]).T).T
    assert np.abs(v).max() > 20, "not bent enough to tell"
    assert np.all(np.std(w, axis=0) < 1.5) and np.quantile(np.abs(w), 0.99) < 4


@pytest.fixture(scope="module")
def model():
    return tiny_model(plain_recipe((16, 24)))


@pytest.mark.slow
def test_corrections_converge(key, model, make_psf):
    """Each takes the error of w down, for a network; draws are finite however far w is."""
    observation = tiny_survey(3, (16, 24), make_psf(3))
    density = LatentPosterior(model, observation, model.latent_flow().expand((3,)), jnp.ones(3))
    coordinates = randomize_then_optimize(density, laplace_of(density))
    w = jax.random.normal(key, (40, 3, 8))

    def error(corrections):
        away = coordinates(coordinates.latents(w, corrections=corrections)) - w
        return float(jnp.median(jnp.linalg.norm(away, axis=-1)))

    first, second, third = (error(k) for k in range(3))
    assert second < 0.5 * first and third < 0.5 * second
    assert np.all(np.isfinite(coordinates.latents(30 * w)))


@pytest.mark.slow
def test_the_data_moves_w_as_residuals_say(key, model, make_psf):
    """The filter of a galaxy is Q^T of its whitened residuals, written out."""
    observation = tiny_survey(2, (16, 24), make_psf(2))
    density = LatentPosterior(model, observation, model.latent_flow().expand((2,)), jnp.array([1.0, 3.0]))
    found = laplace_of(density)
    z = found.mean[None] + 0.3 * jax.random.normal(key, (4, 2, 8))
    both = jnp.concatenate([density.residual(z), density.prior.to_base(z)[0]], axis=-1)
    expected = jnp.einsum("ndp,snp->snd", found.projection, both, precision="highest")
    np.testing.assert_allclose(randomize_then_optimize(density, found)(z), expected, rtol=2e-3, atol=2e-2)
