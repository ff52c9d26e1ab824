"""Checks of fits: p-values of galaxies of the model itself, and what is flagged, and what is not.

The truth of a simulated galaxy is one draw of its posterior: with it in place of draws, p-values are uniform, exactly.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from toys import SCALE, affine_flow, bare_posterior, covariance_matrix, double, exact_draws, linear_model

from hiergal.measure.power_spectrum import radial_power
from hiergal.observation import Observation
from hiergal.observation.independent import PixelNoise, WhiteNoise
from hiergal.posterior.fit_checks import COLUMNS, check_fits
from hiergal.posterior.fit_statistics import point_significance, statistics_of_draws, statistics_of_noise

SHAPE, N, D = (8, 16), 200, 8
P_VALUES = ["p_chi_square", "p_coherent", "p_spectrum", "p_prior"]
ALPHA = 1e-4  # false alarm of one test of uniformity
slow = partial(pytest.param, marks=pytest.mark.slow)


def simulated(psf, noise, masked=False, seed=5, z=None, factor=1.0):
    """Galaxies of the linear model, their latents, with noise that may be stronger than is said."""
    rng = np.random.default_rng(seed)
    model, n = linear_model(SHAPE), len(psf.stamp)
    z = rng.normal(size=(n, D)) if z is None else z
    image = model.render(model.decode(jnp.asarray(z, jnp.float32)), psf)
    image = np.asarray(image + factor * noise.sample(jax.random.key(seed), image.shape))
    mask = rng.uniform(size=image.shape) < 0.2 if masked else None
    if masked:
        image = np.where(mask, np.nan, image)
        if isinstance(noise, PixelNoise):
            noise = PixelNoise(np.where(mask, np.nan, noise.sigma))
    return z, Observation(image, psf, noise, mask, {}, 10 + np.arange(n), SCALE)


def uniformity(values) -> float:
    return stats.kstest(values, "uniform").pvalue


@pytest.mark.parametrize(
    ("kind", "masked", "flow"),
    [
        ("white", True, False),
        ("stationary", False, False),
        slow("white", False, False),
        slow("pixel", True, False),
        slow("pixel", True, True),
    ],
)
def test_p_values_of_the_truth_are_uniform(key, make_psf, make_noise, kind, masked, flow):
    """And those of noise 15 % too strong are not; of 20 tests, one fails by chance in 500 seeds."""
    model, z = linear_model(SHAPE), np.random.default_rng(2).normal(size=(N, D))
    if flow:
        center = np.stack([np.linspace(-0.5, 0.5, D), np.linspace(0.6, 1.2, D)])
        model, z = model.replace(marginal=affine_flow(model.recipe, center)), center[0] + center[1] * z
    psf, noise = make_psf(N, (5, 3)), make_noise(kind, N, SHAPE)
    for factor in (1.0, 1.15):
        _, observation = simulated(psf, noise, masked, z=z, factor=factor)
        checks = check_fits(
            model, observation, bare_posterior(z[None], observation), key=key, batch=100, replicates=200
        )
        found = [uniformity(getattr(checks, name)) for name in P_VALUES]
        if factor == 1:
            assert min(found) > ALPHA, found
            inside = ((checks.power_low < checks.power) & (checks.power < checks.power_high)).mean()
            assert abs(inside - 0.95) < 5 * np.sqrt(0.95 * 0.05 / checks.power.size) + 1 / 200
        else:
            assert max(found[:1]) < ALPHA and found[3] > ALPHA, found


def test_p_values_over_posteriors_are_conservative(key, make_psf, make_noise):
    """Fewer than 2 a are below a, within five binomial errors, and they are centred on one half."""
    model, n = linear_model(SHAPE), 120
    z, observation = simulated(make_psf(n, (5, 3)), make_noise("pixel", n, SHAPE), masked=True)
    posterior = bare_posterior(exact_draws(observation, model.linear, 20), observation)
    options = {"key": key, "batch": 60, "replicates": 200}
    checks = check_fits(model, observation, posterior, **options)
    for name in [*P_VALUES, "p_pixels"]:
        p = getattr(checks, name)
        for a in (0.01, 0.05, 0.2):
            assert (p < a).mean() < 2 * a + 5 * np.sqrt(2 * a * (1 - 2 * a) / n), (name, a)
        if name != "p_pixels":
            assert abs(p.mean() - 0.5) < 5 * np.sqrt(1 / 12 / n), name
            assert p.std() < 1.1 * np.sqrt(1 / 12), name
    # One draw of each posterior is as good as the truth.
    one = check_fits(model, observation, posterior.replace(latents=posterior.latents[:1]), **options)
    assert min(uniformity(getattr(one, name)) for name in P_VALUES) > ALPHA


def test_statistics_are_those_of_their_words(key, make_psf, make_noise):
    """Twins: chi-square by the noise model, power by the validation's rings, the PSF matched pixel by pixel."""
    model, n = linear_model(SHAPE), 4
    z, observation = simulated(make_psf(n, (5, 3)), make_noise("pixel", n, SHAPE), masked=True)
    draws = np.stack([z, z + 0.1])
    checks = check_fits(model, observation, bare_posterior(draws, observation), key=key, batch=3, bins=4)
    profile = model.decode(jnp.asarray(draws.reshape(-1, D), jnp.float32)).reshape(2, n, *SHAPE)
    residual = observation.image - np.asarray(model.render(profile, observation.psf))
    white = np.asarray(observation.noise.whiten(residual, observation.mask))
    used = ~observation.mask
    pixels = used.sum(axis=(1, 2))
    np.testing.assert_allclose(checks.chi_square, (white**2).sum((2, 3)).mean(0) / pixels, rtol=1e-4)
    p = stats.chi2.sf((white**2).sum((2, 3)), pixels).mean(axis=0)
    np.testing.assert_allclose(checks.p_chi_square, p, rtol=2e-3, atol=1e-6)
    rings = radial_power(white.reshape(-1, *SHAPE), pixel_scale_arcsec=SCALE, bins=4)
    power = rings.power.reshape(2, n, 4).mean(axis=0) / (pixels / 128)[:, None]
    np.testing.assert_allclose(checks.power, power, rtol=1e-3)
    np.testing.assert_allclose(checks.frequency, rings.frequency)
    largest, weights = np.zeros((2, n, *SHAPE)), np.zeros((n, *SHAPE))
    for i, y, x in np.ndindex(n, *SHAPE):
        for v, u in np.ndindex(5, 3):
            at = y + v - 2, x + u - 1
            if 0 <= at[0] < SHAPE[0] and 0 <= at[1] < SHAPE[1] and used[i][at]:
                share, sigma = observation.psf.stamp[i, v, u], observation.noise.sigma[i][at]
                largest[:, i, y, x] += white[:, i][:, *at] * share / sigma
                weights[i, y, x] += (share / sigma) ** 2
    seen = weights > 0.01 * weights.max(axis=(1, 2), keepdims=True)
    largest = np.abs(np.where(seen, largest / np.sqrt(np.where(seen, weights, 1)), 0)).max(axis=(2, 3))
    np.testing.assert_allclose(checks.coherent, largest.mean(axis=0), rtol=1e-3)


def test_significance_of_a_point_source_in_correlated_noise(x64, make_psf, make_noise):
    """A twin of dense matrices: the flux that least squares give a source, over its error."""
    n, shape = 2, (9, 11)
    psf, noise = make_psf(n, (5, 3)), double(make_noise("stationary", n, shape))
    rng = np.random.default_rng(1)
    residual = rng.normal(size=(1, n, *shape))
    observation = Observation(residual[0], psf, noise, None, {}, np.arange(n), SCALE)
    found = point_significance(noise.whiten(residual), jnp.ones((n, *shape)), observation)
    for i in range(n):
        source = np.zeros(shape)
        source[2:7, 4:7] = psf.stamp[i]
        inverse = np.linalg.inv(covariance_matrix(noise, i, shape))
        weight = source.ravel() @ inverse
        expected = weight @ residual[0, i].ravel() / np.sqrt(weight @ source.ravel())
        np.testing.assert_allclose(found[0, i, 4, 5], expected, rtol=1e-6)


def test_flags_what_is_wrong_and_says_in_what_way(key, make_psf):
    """Each of five kinds of anomaly in the number it belongs to, and not in the other; five sound ones in neither."""
    model, sigma = linear_model(SHAPE), 0.3
    rng = np.random.default_rng(8)
    sound, far, source, artefact, loud, shifted = np.arange(30).reshape(6, 5)
    psf, z = make_psf(30, (5, 3)), rng.normal(size=(30, D))
    direction = rng.normal(size=(5, D)) * (np.arange(D) > 4)  # latents that data see
    z[far] = 6 * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    noise = WhiteNoise(np.full(30, sigma, np.float32))
    _, observation = simulated(psf, noise, z=z)
    image = observation.image.copy()
    stamps = psf.stamp / np.sqrt((psf.stamp**2).sum(axis=(1, 2), keepdims=True))
    image[source, 1:6, 10:13] += 10 * sigma * stamps[source]  # of ten standard deviations
    image[artefact, :, 3] -= 4 * sigma  # a bad column
    image[loud] += 1.2 * sigma * rng.normal(size=image[loud].shape)
    image[shifted] = np.roll(image[shifted], 2, axis=1)  # light that is not where the model can put it
    observation = observation.replace(image=image)
    posterior = bare_posterior(exact_draws(observation, model.linear, 30), observation)
    checks = check_fits(model, observation, posterior, key=key, batch=30)
    pixels = np.concatenate([source, artefact, loud, shifted])
    assert np.all(checks.p_pixels[pixels] < 0.01) and np.all(checks.p_coherent[source] < 0.005)
    assert np.all(checks.p_prior[far] < 0.01)
    assert np.all(checks.p_pixels[np.concatenate([sound, far])] > 0.01)
    assert np.all(checks.p_prior[np.concatenate([sound, source, artefact, loud])] > 0.01)
    assert np.all(checks.chi_square[loud] > 1.5) and np.all(checks.coherent[source] > 6)


def test_uncertainty_is_no_anomaly(key, make_psf):
    """The same galaxy far out in the prior, seen well and seen badly."""
    model = linear_model(SHAPE)
    z = np.full((2, D), 2.2)
    _, observation = simulated(make_psf(2, (5, 3)), WhiteNoise(np.array([0.1, 100.0], np.float32)), z=z)
    posterior = bare_posterior(exact_draws(observation, model.linear, 100), observation)
    checks = check_fits(model, observation, posterior, key=key, batch=2)
    assert checks.p_prior[0] < 0.01 and abs(checks.p_prior[1] - 0.5) < 0.25
    assert np.all(checks.p_pixels > 0.01)


def test_misfit_that_counted_as_noise_is_still_misfit(key, make_psf):
    model = linear_model(SHAPE)
    z, observation = simulated(make_psf(2, (5, 3)), WhiteNoise(np.full(2, 0.5, np.float32)))
    image = observation.image.copy()
    image[1, 2:5, 2:5] += 5.0
    draws = bare_posterior(z[None], observation, variance_factor=np.array([1.0, 50.0], np.float32))
    checks = check_fits(model, observation.replace(image=image), draws, key=key, batch=2)
    assert checks.p_pixels[1] < 0.01 < checks.p_pixels[0]


@pytest.mark.slow
def test_conditions_say_among_which_galaxies_one_is_unusual(key, make_psf):
    """Two standard deviations from the mean of its kind in each latent, and within one of that of all galaxies."""
    model = linear_model(SHAPE)
    narrow, wide = (np.stack([np.zeros(D), np.full(D, width)]) for width in (0.5, 1.5))
    model = model.replace(flow=affine_flow(model.recipe, narrow, 2), marginal=affine_flow(model.recipe, wide))
    z, observation = simulated(make_psf(3, (5, 3)), WhiteNoise(np.ones(3, np.float32)), z=np.ones((3, D)))
    posterior = bare_posterior(z[None], observation)
    options = {"key": key, "batch": 2}
    assert np.all(check_fits(model, observation, posterior, **options).p_prior > 0.5)
    given = np.zeros((3, 2), np.float32)
    found = check_fits(model, observation, posterior, conditions=given, replicates=1000, **options).p_prior
    expected = stats.chi2.sf(4 * D, D)
    assert np.all(np.abs(found - expected) < 5 * np.sqrt(expected / 1000) + 1e-3)
    with pytest.raises(ValueError, match=r"conditions: expected shape \(3, 2\)"):
        check_fits(model, observation, posterior, conditions=given[:, :1], **options)


def test_compiles_once_and_does_not_depend_on_the_batches(key, make_psf):
    model = linear_model(SHAPE)
    z, observation = simulated(make_psf(5, (5, 3)), WhiteNoise(np.ones(5, np.float32)))
    posterior = bare_posterior(np.repeat(z[None], 33, axis=0), observation)
    statistics_of_draws.clear_cache(), statistics_of_noise.clear_cache()
    some = check_fits(model, observation, posterior, key=key, replicates=50, batch=2)
    assert statistics_of_draws._cache_size() == statistics_of_noise._cache_size() == 1
    other = check_fits(model, observation, posterior, key=key, replicates=50, batch=5, draws=3)
    for name in ("chi_square", "coherent", "p_coherent", "p_spectrum", "p_prior", "power_low"):
        np.testing.assert_allclose(getattr(some, name), getattr(other, name), rtol=1e-4, atol=1e-4)


def test_table_has_units_and_descriptions(key, make_psf):
    z, observation = simulated(make_psf(3, (5, 3)), WhiteNoise(np.ones(3, np.float32)))
    checks = check_fits(
        linear_model(SHAPE), observation, bare_posterior(z[None], observation), key=key, batch=3
    )
    table = checks.to_table()
    assert len(table) == 3 and table.colnames == list(COLUMNS)
    np.testing.assert_array_equal(table["identifier"], [10, 11, 12])
    np.testing.assert_array_equal(table["power"], checks.power)
    assert all(table[name].description and table[name].unit == "" for name in table.colnames[1:])


def test_posteriors_that_do_not_fit(key, make_psf):
    z, observation = simulated(make_psf(3, (5, 3)), WhiteNoise(np.ones(3, np.float32)))
    posterior = bare_posterior(z[None], observation)
    model = linear_model(SHAPE)
    with pytest.raises(ValueError, match="expected the posterior and the observation of the same galaxies"):
        check_fits(model, observation[:2], posterior, key=key)
    with pytest.raises(ValueError, match="draws: expected between 1 and 1"):
        check_fits(model, observation, posterior, key=key, draws=2)
    with pytest.raises(ValueError, match="replicates, bins:.*1.*got 0 and 10"):
        check_fits(model, observation, posterior, key=key, replicates=0)
