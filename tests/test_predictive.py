"""Predictions of data, p-values of fits, rarity: on galaxies of a known model, and on strange ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import awkward_psf
from toys import SCALE, linear_model, tiny_model, tiny_recipe, tiny_survey

from hiergal.noise import WhiteNoise
from hiergal.observation import Observation
from hiergal.posterior import infer
from hiergal.predictive import check_fits, predict

SHAPE, DRAWS = (16, 24), 20


@pytest.fixture(scope="module")
def model():
    return tiny_model(tiny_recipe(SHAPE))


def observed(make_psf, make_noise, kind, n=5):
    observation = tiny_survey(n, SHAPE, make_psf(n)).replace(noise=make_noise(kind, n, SHAPE))
    if kind == "stationary":
        return observation
    return observation.replace(mask=np.random.default_rng(4).uniform(size=(n, *SHAPE)) < 0.2)


@pytest.mark.parametrize("kind", ["white", "pixel", "stationary"])
def test_log_likelihoods_sum_to_that_of_the_noise_model(key, model, make_psf, make_noise, kind):
    observation = observed(make_psf, make_noise, kind)
    posterior = infer(model, observation, key=key, draws=7, batch=4)
    posterior = posterior.replace(variance_factor=np.ones(5, np.float32))
    found = predict(model, observation, posterior, key=key)
    assert found.log_likelihood.shape == (7, 5, *SHAPE) and found.draw.tolist() == list(range(7))
    profile = model.decode(jnp.asarray(posterior.latents[3]))
    residual = observation.image - model.render(profile, observation.psf)
    expected = observation.noise.log_prob(residual, observation.mask)
    np.testing.assert_allclose(found.log_likelihood[3].sum((1, 2)), expected, rtol=1e-4)
    if observation.mask is not None:
        assert np.all(found.log_likelihood[:, observation.mask] == 0)


def test_replicates_are_the_draws_with_new_noise(key, model, make_psf, make_noise):
    """Their scatter about the rendered draw is that of the noise, times what misfit made of it."""
    observation = observed(make_psf, make_noise, "white")
    posterior = infer(model, observation, key=key, draws=30, batch=4)
    factor = np.linspace(1, 4, 5).astype(np.float32)
    found = predict(model, observation, posterior.replace(variance_factor=factor), key=key, draws=10)
    assert found.image.shape == (10, 5, *SHAPE)
    latents = jnp.asarray(posterior.latents[found.draw].reshape(50, 8))
    psf = observation.psf.replace(stamp=np.tile(observation.psf.stamp, (10, 1, 1)))
    clean = np.asarray(model.render(model.decode(latents), psf)).reshape(found.image.shape)
    scatter = (found.image - clean).std(axis=(0, 2, 3))
    pixels = 10 * SHAPE[0] * SHAPE[1]
    np.testing.assert_allclose(
        scatter, observation.noise.sigma * np.sqrt(factor), rtol=4 / np.sqrt(2 * pixels)
    )
    again = predict(model, observation, posterior.replace(variance_factor=factor), key=key, draws=10)
    np.testing.assert_array_equal(again.image, found.image)


LINEAR, SIGMA = (8, 16), 2.0  # a linear model, whose posteriors are exact


def known_galaxies(n=120, spread=1.0):
    model, psf = linear_model(LINEAR), awkward_psf(n, (5, 3))
    noise = WhiteNoise(np.full(n, SIGMA, np.float32))
    z = spread * jax.random.normal(jax.random.key(3), (n, 8))
    image = model.render(model.decode(z), psf)
    image = np.asarray(image + noise.sample(jax.random.key(9), image.shape))
    return Observation(image, psf, noise, None, {}, np.arange(n), SCALE)


def checks_of(observation):
    model, key = linear_model(LINEAR), jax.random.key(4)
    posterior = infer(model, observation, key=key, draws=DRAWS, batch=40)
    posterior = posterior.replace(variance_factor=np.ones(len(observation), np.float32))
    return check_fits(model, observation, posterior, key=key, draws=DRAWS)


@pytest.fixture(scope="module")
def usual():
    return checks_of(known_galaxies())


def excess(p, level):
    """By how many binomial errors p-values are below a level more often than they say."""
    return (np.mean(p < level) - level) / np.sqrt(level * (1 - level) / len(p))


@pytest.mark.parametrize("level", [0.05, 0.2])
def test_galaxies_of_the_model_pass(usual, level):
    """p-values are never smaller than they say, by more than four binomial errors."""
    for p in (usual.chi_square_p, usual.coherence_p, usual.rarity):
        assert excess(p, level) < 4
    assert abs(np.median(usual.chi_square) - 1) < 0.1 and abs(np.median(usual.coherence) - 1) < 0.2
    outside = (usual.spectrum < usual.spectrum_low) | (usual.spectrum > usual.spectrum_high)
    assert outside.mean() < 0.2 and usual.frequency[-1] < 0.5 * np.sqrt(2) / SCALE + 1e-6


def test_artefacts_are_seen_in_the_pixels_alone(usual):
    """A cosmic ray that no galaxy explains: p-values of the pixels are small, and the galaxy is as usual as it was."""
    galaxies = known_galaxies()
    image = galaxies.image.copy()
    image[:, 3, 5] += 12 * SIGMA
    found = checks_of(galaxies.replace(image=image))
    assert np.mean(found.chi_square_p < 0.01) > 0.8
    assert excess(found.rarity, 0.05) < 6


def test_louder_noise_is_seen_in_every_ring():
    galaxies = known_galaxies()
    louder = galaxies.image + np.random.default_rng(1).normal(0, SIGMA, galaxies.image.shape)
    found = checks_of(galaxies.replace(image=louder.astype(np.float32)))
    assert np.mean(found.chi_square_p < 0.01) > 0.9
    np.testing.assert_allclose(np.median(found.spectrum, axis=0)[3:], 2, rtol=0.35)


def test_coherent_residuals_are_seen_better_than_by_chi_square():
    """A lump below the noise of a pixel changes chi-square by a few per cent, what passes the PSF by much more."""
    galaxies = known_galaxies()
    y, x = np.mgrid[: LINEAR[0], : LINEAR[1]]
    lump = 1.2 * SIGMA * np.exp(-0.5 * ((y - 3) ** 2 + (x - 11) ** 2) / 1.5**2)
    found, usual = (
        checks_of(galaxies.replace(image=galaxies.image + lump.astype(np.float32))),
        checks_of(galaxies),
    )
    gain = np.median(found.coherence / usual.coherence)
    assert gain > 1.3 and gain - 1 > 3 * (np.median(found.chi_square / usual.chi_square) - 1)


def test_galaxies_far_from_the_prior_are_rare_and_fit_well():
    found = checks_of(known_galaxies(n=40, spread=3.0))
    assert np.mean(found.rarity < 0.05) > 0.3
    assert excess(found.chi_square_p, 0.05) < 4


def test_other_galaxies_are_refused(key, model, make_psf, make_noise):
    observation = observed(make_psf, make_noise, "white")
    posterior = infer(model, observation, key=key, draws=2, batch=4)
    with pytest.raises(ValueError, match="got 5 and 3 galaxies whose identifiers differ"):
        predict(model, observation[:3], posterior, key=key)
    with pytest.raises(ValueError, match="whose identifiers differ"):
        check_fits(model, observation[np.array([1, 0, 2, 3, 4])], posterior, key=key)
