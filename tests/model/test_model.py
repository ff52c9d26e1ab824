"""The program's parts: rendering, total variation, scaling of the plate, and the forgiving likelihood."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.handlers import seed, substitute, trace
from numpyro.infer.util import log_density
from toys import SCALE, LinearGenerator, convolution_matrix, linear_params

from hiergal.model.likelihood import NoisyImage
from hiergal.model.program import galaxy_model, render, total_variation
from hiergal.observation.independent import WhiteNoise

D, SHAPE = 3, (5, 8)
PARAMS = {"generator$params": jax.tree.map(lambda leaf: leaf.astype(np.float32), linear_params(D, SHAPE))}


def program(observation, **options):
    generator = LinearGenerator(SHAPE)
    model = partial(galaxy_model, generator=generator, latents=D, pixel_scale_arcsec=SCALE, **options)
    return substitute(model, data=PARAMS)(observation)


def test_total_variation_is_the_dense_sum(rng):
    profile = rng.normal(size=(2, 4, 7)).astype(np.float32)
    for i in range(2):
        expected = 0.0
        for y, x in np.ndindex(4, 7):
            expected += abs(profile[i, y + 1, x] - profile[i, y, x]) if y < 3 else 0
            expected += abs(profile[i, y, x + 1] - profile[i, y, x]) if x < 6 else 0
        np.testing.assert_allclose(total_variation(jnp.asarray(profile))[i], expected, rtol=1e-6)


def test_render_is_the_dense_convolution(x64, rng, make_psf):
    profile, psf = rng.uniform(size=(2, *SHAPE)), make_psf(2, (5, 3))
    found = render(jnp.asarray(profile), psf, SCALE)
    for i in range(2):
        expected = convolution_matrix(np.asarray(psf.stamp[i], float), SHAPE) @ profile[i].ravel()
        np.testing.assert_allclose(found[i].ravel(), expected, atol=1e-7)


def test_render_refuses_a_psf_on_another_scale(make_psf):
    with pytest.raises(
        ValueError, match="expected a PSF on the pixel scale of the profiles, 0.05 arcsec, got 0.03"
    ):
        render(jnp.ones((1, *SHAPE)), make_psf(1), 0.05)


@pytest.mark.parametrize(
    ("kind", "masked"), [("white", False), ("pixel", True), ("stationary", False), ("stationary", True)]
)
def test_density_is_prior_times_likelihood(key, make_observation, kind, masked):
    """Every term is scaled to the population, and the penalty enters as a factor."""
    observation = make_observation(kind, shape=SHAPE, masked=masked)
    z = np.asarray(jax.random.normal(key, (3, D)))

    def density(**options):
        model = seed(substitute(partial(program, **options), data={"z": jnp.asarray(z)}), key)
        return float(log_density(model, (observation,), {}, {})[0])

    profile = LinearGenerator(SHAPE).apply({"params": PARAMS["generator$params"]}, jnp.asarray(z))
    residual = observation.image - render(profile, observation.psf, SCALE)
    likelihood = observation.noise.log_prob(residual, observation.mask)
    expected = float(np.sum(likelihood)) - 0.5 * np.sum(z**2 + np.log(2 * np.pi))
    np.testing.assert_allclose(density(), expected, rtol=1e-5)
    np.testing.assert_allclose(density(plate_size=60), 20 * expected, rtol=1e-5)
    penalty = 0.5 * float(np.sum(total_variation(profile)))
    assert penalty > 0.01 * abs(expected)
    np.testing.assert_allclose(density(total_variation_weight=0.5), expected - penalty, rtol=1e-5)


def test_sites_have_their_names_and_shapes(key, make_observation):
    observation = make_observation(shape=SHAPE).replace(image=None)
    sites = trace(seed(program, key)).get_trace(observation)
    shapes = {name: np.shape(sites[name]["value"]) for name in ("z", "profile", "image")}
    assert shapes == {"z": (3, D), "profile": (3, *SHAPE), "image": (3, *SHAPE)}


@pytest.mark.parametrize(
    ("kind", "masked"), [("white", False), ("pixel", True), ("stationary", False), ("stationary", True)]
)
def test_inflated_likelihood_is_exact_where_the_fit_is_good(rng, make_noise, kind, masked):
    noise, mean = make_noise(kind, 2, SHAPE), np.zeros((2, *SHAPE), np.float32)
    mask = rng.uniform(size=(2, *SHAPE)) < 0.2 if masked else None
    image = np.asarray(noise.sample(jax.random.key(0), mean.shape))
    pixels = 40 if mask is None else (~mask).sum(axis=(1, 2))
    unit = np.sqrt(np.asarray(noise.chi_square(jnp.asarray(image), mask)) / pixels)[:, None, None]
    exact, forgiving = NoisyImage(mean, noise, mask), NoisyImage(mean, noise, mask, misfit_as_noise=True)
    good = jnp.asarray(0.99 * image / unit)
    np.testing.assert_allclose(forgiving.log_prob(good), exact.log_prob(good), rtol=1e-6)
    bad = jnp.asarray(1.5 * image / unit)
    assert np.all(forgiving.log_prob(bad) > exact.log_prob(bad) + 1)


def test_inflated_likelihood_maximises_over_the_noise(x64):
    """The best of many factors of the noise, and a gradient that does not grow with the misfit."""
    image = jnp.linspace(-3, 4, 40).reshape(1, *SHAPE)
    forgiving = NoisyImage(jnp.zeros((1, *SHAPE)), WhiteNoise(jnp.array([0.5])), misfit_as_noise=True)
    scales = np.geomspace(1, 50, 20001)
    best = max(float(WhiteNoise(jnp.array([0.5 * s])).log_prob(image)[0]) for s in scales[::100])
    np.testing.assert_allclose(forgiving.log_prob(image)[0], best, atol=0.02)

    def slope(factor):
        return np.linalg.norm(jax.grad(lambda x: forgiving.log_prob(x)[0])(factor * image))

    exact_slope = np.linalg.norm(image) / 0.25
    assert 0 < slope(100.0) < slope(10.0) < slope(1.0) < exact_slope
    np.testing.assert_allclose(slope(100.0), slope(10.0) / 10, rtol=1e-6)
