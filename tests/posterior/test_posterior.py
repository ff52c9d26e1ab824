"""Posteriors of galaxies: intervals, coverage, independence of batches, and observations that do not fit."""

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from conftest import awkward_psf
from toys import SCALE, bare_posterior, plain_recipe, tiny_model, tiny_recipe, tiny_survey

from hiergal.model.guide import posterior_from
from hiergal.model.program import render
from hiergal.model.trained import GalaxyModel
from hiergal.observation import Observation
from hiergal.observation.independent import WhiteNoise
from hiergal.observation.psf import gaussian_psf
from hiergal.posterior import interval
from hiergal.posterior.images import posterior_images
from hiergal.posterior.infer import _measure, infer

SHAPE, DRAWS, BATCH = (16, 24), 99, 4  # the same everywhere, so that the programs compile once
HOW = {"draws": DRAWS, "batch": BATCH, "verdict": False}


@pytest.fixture(scope="module")
def model():
    return tiny_model(tiny_recipe(SHAPE))


@pytest.fixture
def observation(make_psf):
    return tiny_survey(5, SHAPE, make_psf(5))


@pytest.fixture
def posterior(key, model, observation):
    return infer(model, observation, key=key, **HOW)


@pytest.mark.parametrize(("draws", "probability"), [(9, 0.8), (9, 0.4), (39, 0.9), (39, 0.5)])
def test_interval_holds_a_new_draw_with_its_probability(rng, draws, probability):
    """Exactly so where its ends are draws: within five standard errors. With plain quantiles it does not."""
    tries = 40000
    old, new = rng.normal(size=(draws, tries)), rng.normal(size=tries)
    error = np.sqrt(probability * (1 - probability) / tries)

    def excess(low, high):
        return abs(np.mean((low <= new) & (new <= high)) - probability) / error

    assert excess(*interval(old, probability)) < 5
    if draws == 9:
        assert excess(*np.quantile(old, [(1 - probability) / 2, (1 + probability) / 2], axis=0)) > 5


def test_interval_of_ranks():
    low, high = interval(np.arange(1.0, 20.0)[:, None] * np.array([1.0, 10.0]), 0.8)
    np.testing.assert_allclose(low, [2, 20])
    np.testing.assert_allclose(high, [18, 180])


def test_shapes_and_types(posterior):
    assert posterior.latents.shape == (DRAWS, 5, 8) and posterior.summary.flux.shape == (DRAWS, 5)
    assert posterior.profile_mean.shape == posterior.image_mean.shape == (5, *SHAPE)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(posterior))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(posterior.replace(statistics={})))
    assert all(np.all(np.isnan(value)) for value in posterior.statistics.values())  # Laplace has none
    assert len(posterior) == 5 and len(posterior[1:3]) == 2
    np.testing.assert_array_equal(posterior.variance_factor, 1)  # no misfit is significant
    np.testing.assert_array_equal(posterior[np.array([3])].latents[:, 0], posterior.latents[:, 3])


def test_summaries_are_those_of_the_draws(model, observation, posterior):
    """Means and standard deviations over draws, accumulated in blocks, against all profiles at once."""
    profiles = np.asarray(model.decode(jnp.asarray(posterior.latents.reshape(-1, 8))), float).reshape(
        DRAWS, 5, *SHAPE
    )
    np.testing.assert_allclose(posterior.profile_mean, profiles.mean(axis=0), rtol=1e-3, atol=1e-3)
    spread = profiles.std(axis=0)
    np.testing.assert_allclose(posterior.profile_std, spread, rtol=0.02, atol=2e-3 * profiles.max())
    np.testing.assert_allclose(posterior.summary.flux, profiles.sum((2, 3)), rtol=1e-4)
    blurred = render(jnp.asarray(posterior.profile_mean), observation.psf, SCALE)
    np.testing.assert_allclose(posterior.image_mean, blurred, rtol=1e-3, atol=1e-3)
    chi_square = observation.noise.chi_square(observation.image - blurred) / (16 * 24)
    np.testing.assert_allclose(posterior.chi_square, chi_square, rtol=1e-3)


@pytest.mark.slow
def test_does_not_depend_on_the_batches(key, model, observation, posterior):
    other = infer(model, observation, key=key, draws=DRAWS, batch=3)
    np.testing.assert_allclose(other.latents, posterior.latents, rtol=0.02, atol=0.02)
    first = infer(model, observation[:3], key=key, **HOW)
    np.testing.assert_allclose(first.latents, posterior.latents[:, :3], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_denoised_image_at_another_psf(key, model, observation, make_psf):
    other = make_psf(5, (7, 5), seed=9)
    found = infer(model, observation, key=key, **HOW, psf=other)
    expected = render(jnp.asarray(found.profile_mean), other, SCALE)
    np.testing.assert_allclose(found.image_mean, expected, rtol=1e-3, atol=1e-3)


def test_intervals_cover_the_truth(key, model, make_psf):
    """Galaxies of the model itself, close to where the guide starts: nearly linear, and so nearly exact.

    68 % intervals of 200 galaxies hold the truth within five standard errors, 16 points, for each of the latents that
    the image shows; intervals half as wide do not.
    """
    n = 200
    z = 0.2 * jax.random.normal(key, (n, 8))
    psf = make_psf(1)
    psf = psf.replace(stamp=np.repeat(psf.stamp, n, axis=0))
    model = tiny_model(plain_recipe(SHAPE))
    generator = model.params["generator$params"]
    smooth = generator | {"Dense_3": jax.tree.map(lambda leaf: 1e-3 * leaf, generator["Dense_3"])}  # ellipses
    silent = jax.tree.map(jnp.zeros_like, model.params["encoder$params"])  # a guide that says zero
    model = model.replace(params={"generator$params": smooth, "encoder$params": silent})
    noise = WhiteNoise(np.full(n, 0.1, np.float32))
    image = render(model.decode(z), psf, SCALE)
    image = np.asarray(image + noise.sample(jax.random.fold_in(key, 1), image.shape))
    observation = Observation(image, psf, noise, None, {}, np.arange(n), SCALE)
    posterior = infer(model, observation, key=key, **HOW | {"batch": 50})
    low, high = interval(posterior.latents[..., :7], 0.68)

    def off(low, high):
        return np.abs(((low <= z[:, :7]) & (z[:, :7] <= high)).mean(axis=0) - 0.68)

    middle, half = (low + high) / 2, (high - low) / 4
    assert np.all(off(low, high) < 0.16)
    assert np.all(off(middle - half, middle + half) > 0.16)
    assert np.all(posterior.latents.std(axis=0).mean(axis=0)[:7] < 0.4), (
        "the data should decide, not the prior"
    )
    assert abs(np.median(posterior.chi_square) - 1) < 0.05


def test_amortised_posterior_is_the_guide(key, model, observation):
    guide = posterior_from(jax.jit(GalaxyModel.encode)(model, observation), "full")
    found = infer(model, observation, key=key, **HOW | {"draws": 500, "method": "amortized"})
    error = np.sqrt(guide.variance / 500)
    assert np.all(np.abs(found.latents.mean(axis=0) - guide.mean) < 5 * error + 1e-3)
    assert np.all(np.isnan(found.misfit))  # nothing was fitted
    np.testing.assert_array_equal(found.variance_factor, 1)


def test_observations_that_do_not_fit(key, model, make_psf, observation):
    square = tiny_survey(2, (24, 16), make_psf(2))
    with pytest.raises(ValueError, match=r"image:.*\(16, 24\).*got \(24, 16\)"):
        infer(model, square, key=key)
    coarse = observation.replace(
        pixel_scale_arcsec=0.05, psf=observation.psf.replace(pixel_scale_arcsec=0.05)
    )
    with pytest.raises(ValueError, match="pixel_scale_arcsec:.*0.03.*got 0.05"):
        infer(model, coarse, key=key)
    image = observation.image.copy()
    image[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="image:.*got.*in 1 of 5 galaxies"):
        infer(model, observation.replace(image=image), key=key)
    with pytest.raises(ValueError, match="method: expected one of laplace, amortized, .*, auto, got 'mcmc'"):
        infer.__wrapped__(model, observation, key=key, method="mcmc")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": 0}, "draws: expected at least 1, got 0"),
        ({"batch": 0}, "batch: expected at least 1, got 0"),
        ({"proposals": 0, "method": "importance"}, "proposals: expected at least 1, got 0"),
        ({"draws": 7, "method": "nuts"}, "draws: expected at least 8 for 'nuts'"),
        ({"draws": 7, "method": "auto"}, "draws: expected at least 8 for 'auto'"),
        ({"rows": np.arange(3)}, r"rows: expected a number for each of 5 galaxies, got shape \(3,\)"),
        (
            {"psf": awkward_psf(2)},
            r"psf.stamp: expected shape \[5, py, px\] or \[1, py, px\], got \(2, 5, 9\)",
        ),
        (
            {"conditions": np.zeros((5, 2))},
            r"conditions: expected shape \(5, 3\) for mag_auto, .*, got \(5, 2\)",
        ),
    ],
)
def test_wrong_requests(key, model, observation, change, message):
    with pytest.raises(ValueError, match=message):
        infer(model, observation, key=key, **change)
    with pytest.raises(ValueError, match="galaxies: expected at least 1, got 0"):
        infer(model, observation[:0], key=key)


def test_a_psf_narrower_than_the_profiles_is_refused(key, observation):
    """Dividing by the profiles' own blur would only amplify what is not known."""
    model = tiny_model(msgspec.structs.replace(tiny_recipe(SHAPE), profile_fwhm_arcsec=3 * SCALE))
    sharp = gaussian_psf(2 * SCALE, SCALE)
    with pytest.raises(ValueError, match="psf: expected wider ones than the Gaussian of profile_fwhm_arcsec"):
        infer(model, observation, key=key, psf=sharp)
    with pytest.raises(ValueError, match="got 1 of 1 narrower"):
        posterior_images(model, bare_posterior(np.zeros((2, 5, 8)), observation), psf=sharp)


def test_one_psf_for_all(key, model, observation):
    """Shown at one PSF, all are shown at it."""
    one = gaussian_psf(4 * SCALE, SCALE)
    found = infer(model, observation, key=key, **HOW, psf=one)
    every = one.replace(stamp=np.repeat(one.stamp, 5, axis=0))
    np.testing.assert_allclose(
        found.image_mean, render(jnp.asarray(found.profile_mean), every, SCALE), atol=1e-3
    )


@pytest.mark.parametrize("scatter", [1.0, 1e-3])
def test_errors_of_well_measured_pixels(rng, model, scatter):
    """Draws that differ by a thousandth or less of the profile: their spread is found to a per cent."""
    z = (rng.normal(size=(1, 2, 8)) + scatter * rng.normal(size=(20, 2, 8))).astype(np.float32)
    z = jnp.asarray(z)
    profile = np.asarray(model.decode(z.reshape(-1, 8)), float).reshape(20, 2, *SHAPE)
    away, squares, _ = _measure(model, z, np.asarray(model.decode(z[0])))
    found = np.sqrt(np.maximum(squares / 20 - (away / 20) ** 2, 0))
    bright = profile.mean(axis=0) > 0.1 * profile.max()
    assert bright.sum() > 10
    if scatter < 1:
        assert np.median((profile.std(axis=0) / profile.mean(axis=0))[bright]) < 2e-3
    np.testing.assert_allclose(found[bright], profile.std(axis=0)[bright], rtol=0.01)
