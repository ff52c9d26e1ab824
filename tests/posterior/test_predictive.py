"""Posterior predictions: replicated stamps, and log-likelihoods of pixels that add up to those of stamps.

The twins are dense multivariate normals and a linear model, whose posterior predictive distribution is known.
Statistical checks allow five standard errors for each number compared.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm
from toys import NOISE_KINDS as KINDS
from toys import (
    SCALE,
    bare_posterior,
    convolution_matrix,
    covariance_matrix,
    double,
    exact_draws,
    exact_posterior,
    linear_model,
    scaled,
)

from hiergal.observation import Observation
from hiergal.observation.independent import PixelNoise, WhiteNoise
from hiergal.posterior.infer import infer
from hiergal.posterior.predictive import DRAWS_PER_CALL, pixel_log_prob, predict, spread_draws

SHAPE, N = (8, 16), 3
CASES = [("white", False), ("white", True), ("pixel", True), ("stationary", False), ("stationary", True)]


def linear_observation(make_psf, noise, masked=False, n=N, seed=11):
    """Galaxies of the linear model, with NaN under the mask."""
    rng = np.random.default_rng(seed)
    model, psf = linear_model(SHAPE), make_psf(n, (5, 3))
    image = model.render(model.decode(jnp.asarray(rng.normal(size=(n, 8)), jnp.float32)), psf)
    image = np.asarray(image + noise.sample(jax.random.key(1), image.shape))
    mask = rng.uniform(size=image.shape) < 0.2 if masked else None
    if masked:
        image = np.where(mask, np.nan, image)
        if isinstance(noise, PixelNoise):
            noise = PixelNoise(np.where(mask, np.nan, noise.sigma))
    return Observation(image, psf, noise, mask, {}, 10 + np.arange(n), SCALE)


@pytest.mark.parametrize("shape", [(4, 5), (1, 6)])
@pytest.mark.parametrize("kind", KINDS)
def test_terms_of_pixels_add_up_to_the_dense_normal(x64, rng, make_noise, kind, shape):
    noise = double(make_noise(kind, 2, shape))
    residual = rng.normal(size=(3, 2, *shape))
    terms = np.asarray(pixel_log_prob(noise, residual))
    for i in range(2):
        twin = multivariate_normal(cov=covariance_matrix(noise, i, shape))
        np.testing.assert_allclose(
            terms[:, i].sum(axis=(-2, -1)), twin.logpdf(residual[:, i].reshape(3, -1)), rtol=1e-10
        )
    if kind != "stationary":  # each is the log-density of its pixel
        sigma = np.broadcast_to(
            np.reshape(noise.sigma, (2, 1, 1) if kind == "white" else (2, *shape)), (2, *shape)
        )
        np.testing.assert_allclose(terms, norm.logpdf(residual, scale=sigma[None]), rtol=1e-10)


@pytest.mark.parametrize(("kind", "masked"), CASES)
def test_log_likelihood_is_that_of_the_noise_that_was_used(key, rng, make_psf, make_noise, kind, masked):
    """With a factor on the variance of the noise of each galaxy."""
    observation = linear_observation(make_psf, make_noise(kind, N, SHAPE), masked)
    model, factor = linear_model(SHAPE), np.array([1.0, 4.0, 9.0], np.float32)
    posterior = bare_posterior(
        rng.normal(size=(DRAWS_PER_CALL + 3, N, 8)), observation, variance_factor=factor
    )
    found = predict(model, observation, posterior, key=key, batch=2)
    assert np.isfinite(found.image).all() and np.isfinite(found.log_likelihood).all()
    profile = model.decode(posterior.latents.reshape(-1, 8)).reshape(-1, N, *SHAPE)
    residual = observation.image - np.asarray(model.render(profile, observation.psf))
    louder = [scaled(observation[i : i + 1].noise, np.sqrt(factor[i])) for i in range(N)]
    noise = jax.tree.map(lambda *leaves: np.concatenate(leaves), *louder)
    expected = noise.log_prob(residual, observation.mask)
    np.testing.assert_allclose(found.log_likelihood.sum(axis=(-2, -1)), expected, rtol=1e-4, atol=0.02)
    if masked:
        hidden = np.broadcast_to(observation.mask, found.image.shape)
        assert np.all(found.log_likelihood[hidden] == 0) and np.all(found.log_likelihood[~hidden] != 0)


@pytest.mark.parametrize(("kind", "masked"), [("pixel", True), ("stationary", False), ("stationary", True)])
def test_replicates_have_the_exact_predictive_distribution(key, rng, make_psf, make_noise, kind, masked):
    """Mean and variance of each pixel: of the posterior's image, plus those of noise four times as strong."""
    observation = linear_observation(make_psf, make_noise(kind, N, SHAPE), masked)
    model, draws = linear_model(SHAPE), 600
    if kind == "pixel":
        latents = exact_draws(observation, model.linear, draws)
    else:  # any draws will do
        latents = rng.normal(size=(draws, N, 8)) * 0.1 + rng.normal(size=(N, 8))
    louder = bare_posterior(latents, observation, variance_factor=np.full(N, 4.0, np.float32))
    found = predict(model, observation, louder, key=key, batch=N)
    for i in range(N):
        blur = convolution_matrix(np.asarray(observation.psf.stamp[i], float), SHAPE)
        design = blur @ model.linear["weights"].T
        z = latents[:, i]
        if kind == "pixel":
            exact = exact_posterior(observation, model.linear, i)
            mean, spread, kept = exact.mean, exact.covariance, ~observation.mask[i].ravel()
            noise = np.nan_to_num(observation.noise.sigma[i].ravel() ** 2)
        else:
            kept = slice(None) if observation.mask is None else ~observation.mask[i].ravel()
            mean, spread = z.mean(axis=0), np.cov(z.T)
            noise = np.diag(covariance_matrix(observation.noise, i, SHAPE))
        mean = blur @ model.linear["offset"] + design @ mean
        variance = np.einsum("pi,ij,pj->p", design, spread, design) + 4 * noise
        pixels = found.image[:, i].reshape(draws, -1)
        off = np.abs(pixels.mean(axis=0) - mean) / np.sqrt(variance / draws)
        assert off[kept].max() < 5
        off = np.abs(pixels.var(axis=0) / variance - 1) / np.sqrt(2 / draws)
        assert off[kept].max() < 5
        if masked:  # nothing but light is predicted there
            light = z @ design.T + blur @ model.linear["offset"]
            np.testing.assert_allclose(pixels[:, ~kept], light[:, ~kept], rtol=1e-3, atol=1e-3)


@pytest.fixture
def few(rng, make_psf):
    """Three galaxies, and 21 draws for each."""
    observation = linear_observation(make_psf, WhiteNoise(np.full(N, 0.5, np.float32)))
    return linear_model(SHAPE), observation, bare_posterior(rng.normal(size=(21, N, 8)), observation)


def test_batches_and_draws_do_not_matter(key, few):
    """Log-likelihoods are those of the draws taken, in any batches; a galaxy's noise is its own."""
    model, observation, posterior = few
    found = predict(model, observation, posterior, key=key, batch=2)
    other = predict(model, observation, posterior, key=key, batch=3)
    assert found.image.shape == found.log_likelihood.shape == (21, N, *SHAPE)
    np.testing.assert_allclose(found.image, other.image, rtol=1e-3, atol=1e-3)
    some = predict(model, observation, posterior, key=key, draws=7, batch=2)
    np.testing.assert_array_equal(some.draw, [0, 3, 6, 9, 12, 15, 18])
    np.testing.assert_allclose(some.log_likelihood, found.log_likelihood[some.draw], rtol=1e-3, atol=1e-3)
    profile = model.decode(posterior.latents.reshape(-1, 8)).reshape(-1, N, *SHAPE)
    noise = found.image - np.asarray(model.render(profile, observation.psf))
    flat = noise.reshape(63, -1)
    off_diagonal = np.abs(np.corrcoef(flat)[np.triu_indices(63, 1)])
    assert off_diagonal.max() < 5 / np.sqrt(flat.shape[1])  # no two draws or galaxies share noise


def test_compiles_once(key, few):
    from hiergal.posterior.predictive import _predict

    model, observation, posterior = few
    _predict.clear_cache()
    predict(model, observation, posterior, key=key, batch=2)  # 21 draws in blocks of 10, 3 galaxies in pairs
    assert _predict._cache_size() == 1


def test_half_of_an_even_number_of_draws_come_from_each_half(few):
    posterior = few[2][:1].replace(latents=np.zeros((22, 1, 8), np.float32))
    for draws in (2, 4, 10, 20, 22):
        chosen = spread_draws(posterior, draws)
        np.testing.assert_array_equal(chosen[draws // 2 :] - 11, chosen[: draws // 2])
        assert len(np.unique(chosen)) == draws


def test_posteriors_that_do_not_fit(key, few):
    model, observation, posterior = few
    with pytest.raises(ValueError, match="draws:.*1.*21.*got 22"):
        predict(model, observation, posterior, key=key, draws=22)
    with pytest.raises(ValueError, match="expected the posterior and the observation of the same galaxies"):
        predict(model, observation, posterior[::-1], key=key)
    image = observation.image.copy()
    image[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="image: expected finite pixels"):
        predict(model, observation.replace(image=image), posterior, key=key)


@pytest.mark.slow
def test_misfit_that_counts_as_noise_is_recorded(key, make_psf):
    """A galaxy with a second source gets a factor, its neighbours none."""
    observation = linear_observation(make_psf, WhiteNoise(np.full(N, 0.5, np.float32)))
    image = observation.image.copy()
    image[1] += 30 * np.asarray(observation.psf.stamp[1]).max() * np.eye(*SHAPE)
    posterior = infer(linear_model(SHAPE), observation.replace(image=image), key=key, draws=4, batch=N)
    assert posterior.variance_factor[1] == posterior.misfit[1] > 2
    np.testing.assert_array_equal(posterior.variance_factor[[0, 2]], 1)
    assert posterior[1:2].variance_factor.shape == (1,)
