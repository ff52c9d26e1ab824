"""Noise models against dense multivariate normals, and the laws of their densities.

The twin of a model is its covariance matrix, written out pixel by pixel. Statistical checks allow five standard
errors for each number compared: with at most 500 numbers, a right model fails one such test in 3,000 seeds.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import multivariate_normal
from toys import NOISE_KINDS as KINDS
from toys import covariance_matrix, double, scaled

from hiergal.model.likelihood import NoisyImage
from hiergal.observation.independent import PixelNoise, WhiteNoise
from hiergal.observation.stationary import StationaryNoise

SHAPES = [(4, 5), (5, 4), (3, 7), (1, 6), (6, 1)]
STANDARD_ERRORS = 5


def assert_covariance(draws: np.ndarray, expected: np.ndarray):
    """Mean zero and the covariance expected, each number within its standard errors."""
    m = len(draws)
    variance = np.diag(expected)
    assert np.all(np.abs(draws.mean(axis=0)) < STANDARD_ERRORS * np.sqrt(variance / m))
    error = np.sqrt((np.outer(variance, variance) + expected**2) / m)
    assert np.all(np.abs(draws.T @ draws / m - expected) < STANDARD_ERRORS * error)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_density_is_that_of_the_dense_normal(x64, rng, make_noise, kind, shape):
    noise = double(make_noise(kind, 2, shape))
    residual = rng.normal(size=(2, *shape))
    log_prob, chi_square = noise.log_prob(residual), noise.chi_square(residual)
    log_determinant = noise.log_determinant(residual.shape)
    for i in range(2):
        twin = covariance_matrix(noise, i, shape)
        flat = residual[i].ravel()
        np.testing.assert_allclose(log_prob[i], multivariate_normal(cov=twin).logpdf(flat), rtol=1e-10)
        np.testing.assert_allclose(chi_square[i], flat @ np.linalg.solve(twin, flat), rtol=1e-10)
        np.testing.assert_allclose(log_determinant[i], np.linalg.slogdet(twin)[1], atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_density_in_float32(rng, make_noise, kind):
    noise = make_noise(kind, 2, (11, 14))
    residual = rng.normal(size=(2, 11, 14)).astype(np.float32)
    expected = [
        multivariate_normal(cov=covariance_matrix(noise, i, (11, 14))).logpdf(residual[i].ravel())
        for i in range(2)
    ]
    assert noise.log_prob(residual).dtype == jnp.float32
    np.testing.assert_allclose(noise.log_prob(residual), expected, rtol=3e-6)


def test_stationary_twin_is_correlated_and_not_symmetric_under_a_flip(make_noise):
    """What the twin must be for the tests above to notice a wrong weight or a conjugated mode."""
    shape = (5, 7)
    noise = make_noise("stationary", 1, shape)
    twin = covariance_matrix(noise, 0, shape)
    assert np.all(np.linalg.eigvalsh(twin) > 0.1)
    assert twin[0, 1] > 0.2 * twin[0, 0]
    correlation = twin[0].reshape(shape)
    assert abs(correlation[1, 1] - correlation[1, -1]) > 0.05 * twin[0, 0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "share"), [((4, 5), 0.3), ((11, 14), 0.08)])
def test_density_of_the_pixels_that_are_not_masked(x64, rng, make_noise, kind, shape, share):
    """Marginal of the dense normal; a few hidden pixels of correlated noise take another path than many."""
    noise = double(make_noise(kind, 2, shape))
    residual, mask = rng.normal(size=(3, 2, *shape)), rng.uniform(size=(2, *shape)) < share
    log_prob, inverse = noise.log_prob(residual, mask), noise.unwhiten(noise.whiten(residual, mask), mask)
    for i in range(2):
        kept = ~mask[i].ravel()
        twin = covariance_matrix(noise, i, shape)[np.ix_(kept, kept)]
        seen = residual[:, i].reshape(3, -1)[:, kept]
        np.testing.assert_allclose(log_prob[:, i], multivariate_normal(cov=twin).logpdf(seen), rtol=1e-9)
        found = np.asarray(inverse[:, i]).reshape(3, -1)
        np.testing.assert_allclose(found[:, kept], np.linalg.solve(twin, seen.T).T, atol=1e-8)
        np.testing.assert_array_equal(found[:, ~kept], 0)
    assert len(set(mask.sum(axis=(1, 2)))) == 2, "the galaxies should differ in the number of pixels"


@pytest.mark.parametrize("kind", KINDS)
def test_whitening_of_a_masked_stamp_is_linear(x64, rng, make_noise, kind):
    """Forward, pushed forward and pulled back: it is a matrix, whatever computes it."""
    noise, mask = double(make_noise(kind, 2, (5, 6))), rng.uniform(size=(2, 5, 6)) < 0.3
    one, other = rng.normal(size=(2, 2, 5, 6))
    whiten = jax.jit(lambda image: noise.whiten(image, mask))
    white, pushed = jax.jvp(whiten, (one,), (other,))
    np.testing.assert_allclose(pushed, whiten(other), atol=1e-9)
    np.testing.assert_allclose(whiten(one + 2 * other), white + 2 * pushed, atol=1e-9)
    _, backward = jax.vjp(whiten, one)
    np.testing.assert_allclose(np.vdot(backward(other)[0], one), np.vdot(other, white), rtol=1e-9)
    np.testing.assert_allclose(noise.unwhiten(white, mask), backward(white)[0], atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_masked_pixels_may_hold_anything(rng, make_noise, kind):
    """NaN or infinity under the mask, in image and noise, changes no value and no gradient."""
    noise = make_noise(kind, 2, (11, 14))
    mask = rng.uniform(size=(2, 11, 14)) < 0.3
    image, mean = rng.normal(size=(2, 2, 11, 14)).astype(np.float32)

    def log_prob(mean, noise, image):
        return jnp.sum(noise.log_prob(image - mean, mask))

    expected = jax.value_and_grad(log_prob, argnums=(0, 1))(mean, noise, image)
    for nothing in (np.nan, np.inf):
        hidden = noise
        if kind == "pixel":
            hidden = noise.replace(sigma=np.where(mask, nothing, noise.sigma).astype(np.float32))
        found = jax.value_and_grad(log_prob, argnums=(0, 1))(mean, hidden, np.where(mask, nothing, image))
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        assert np.all(np.isfinite(hidden.rms()))
    assert np.all(expected[1][0][mask] == 0) and np.any(expected[1][0] != 0)


@pytest.mark.parametrize("kind", KINDS)
def test_whitening_matrix_undoes_the_covariance(x64, make_noise, kind):
    """W Sigma W^T is the identity: exact, where whitened draws would show it to some digits only."""
    shape = (4, 7)
    noise = double(make_noise(kind, 2, shape))
    basis = np.eye(28).reshape(28, 1, *shape) * np.ones((1, 2, 1, 1))
    matrices = np.asarray(noise.whiten(basis)).reshape(28, 2, 28)
    for i in range(2):
        whiten = matrices[:, i].T
        np.testing.assert_allclose(
            whiten @ covariance_matrix(noise, i, shape) @ whiten.T, np.eye(28), atol=1e-10
        )


@pytest.mark.parametrize("shape", [(3, 4), (4, 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_covariance(key, make_noise, kind, shape):
    noise = make_noise(kind, 2, shape)
    draws = np.asarray(noise.sample(key, (8000, 2, *shape)), float).reshape(8000, 2, -1)
    for i in range(2):
        assert_covariance(draws[:, i], covariance_matrix(noise, i, shape))


@pytest.mark.parametrize("kind", KINDS)
def test_whitened_samples_are_white(key, make_noise, kind):
    noise = make_noise(kind, 2, (3, 5))
    white = np.asarray(noise.whiten(noise.sample(key, (8000, 2, 3, 5))), float).reshape(8000, 2, -1)
    for i in range(2):
        assert_covariance(white[:, i], np.eye(15))


def test_statistical_check_rejects_wrong_covariances(rng, make_noise):
    """The check accepts its own covariance, and rejects noise 5 % too strong and noise that is flipped."""
    shape = (4, 5)
    twin = covariance_matrix(make_noise("stationary", 1, shape), 0, shape)
    draws = rng.multivariate_normal(np.zeros(20), twin, size=8000)
    assert_covariance(draws, twin)
    for wrong in (1.05 * draws, draws.reshape(-1, *shape)[:, :, ::-1].reshape(-1, 20)):
        with pytest.raises(AssertionError):
            assert_covariance(wrong, twin)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_minus_the_inverse_covariance_times_the_residual(x64, rng, make_noise, kind):
    shape = (4, 5)
    noise = double(make_noise(kind, 2, shape))
    residual = rng.normal(size=(2, *shape))
    gradient = jax.grad(lambda r: jnp.sum(noise.log_prob(r)))(residual)
    for i in range(2):
        expected = -np.linalg.solve(covariance_matrix(noise, i, shape), residual[i].ravel())
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(gradient[i].ravel(), expected, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_over_the_parameters_matches_finite_differences(x64, rng, make_noise, kind):
    noise = double(make_noise(kind, 2, (4, 5)))
    residual = rng.normal(size=(2, 4, 5))
    (value,), rebuild = jax.tree.flatten(noise)

    def log_prob(value):
        return jnp.sum(jax.tree.unflatten(rebuild, [value]).log_prob(residual))

    gradient = jax.grad(log_prob)(value)
    step = 1e-5 * rng.normal(size=value.shape)
    slope = (log_prob(value + step) - log_prob(value - step)) / 2
    assert np.abs(gradient).min() > 0 and abs(slope) > 1e-6
    np.testing.assert_allclose(np.vdot(gradient, step), slope, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [1e-3, 40.0])
def test_rescaling_the_unit_of_flux_shifts_the_density(x64, rng, make_noise, kind, factor):
    noise = double(make_noise(kind, 2, (5, 4)))
    residual = rng.normal(size=(2, 5, 4))
    mask = rng.uniform(size=(2, 5, 4)) < 0.3
    pixels = (~mask).sum(axis=(1, 2))
    found = scaled(noise, factor).log_prob(factor * residual, mask)
    np.testing.assert_allclose(found, noise.log_prob(residual, mask) - pixels * np.log(factor), rtol=1e-9)
    np.testing.assert_allclose(scaled(noise, factor).rms(), factor * noise.rms())


@pytest.mark.parametrize("shape", [(4, 5), (5, 4)])
def test_white_noise_is_the_flat_case_of_the_others(rng, shape):
    residual = rng.normal(size=(2, *shape)).astype(np.float32)
    sigma = np.array([0.5, 2.0], np.float32)
    flat = sigma[:, None, None] * np.ones((1, *shape), np.float32)
    white = WhiteNoise(sigma)
    power = (flat**2)[..., : shape[1] // 2 + 1]
    for other in (PixelNoise(flat), StationaryNoise(power, width=shape[1])):
        np.testing.assert_allclose(other.log_prob(residual), white.log_prob(residual), rtol=1e-5)
        np.testing.assert_allclose(other.whiten(residual), white.whiten(residual), atol=1e-5)
        np.testing.assert_allclose(other.rms(), sigma, rtol=1e-6)


def test_level_of_stationary_noise_is_the_standard_deviation_of_a_pixel(make_noise):
    for shape in SHAPES:
        noise = make_noise("stationary", 2, shape)
        expected = [np.sqrt(covariance_matrix(noise, i, shape)[0, 0]) for i in range(2)]
        np.testing.assert_allclose(noise.rms(), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_noisy_image_is_a_distribution(key, rng, make_noise, kind):
    shape = (11, 14)
    noise = make_noise(kind, 3, shape)
    mean = rng.normal(size=(3, *shape)).astype(np.float32)
    image = NoisyImage(mean, noise)
    assert (image.batch_shape, image.event_shape) == ((3,), shape)

    draws = image.sample(key, (4,))
    assert draws.shape == (4, 3, *shape)
    np.testing.assert_allclose(image.log_prob(draws), noise.log_prob(draws - mean[None]), rtol=1e-5)
    several = NoisyImage(draws, noise)
    np.testing.assert_allclose(several.log_prob(mean), noise.log_prob(mean[None] - draws), rtol=1e-5)
    by_row = jax.jit(jax.vmap(lambda m, n, x: NoisyImage(m, n).log_prob(x)))(mean, noise, draws[0])
    np.testing.assert_allclose(by_row, image.log_prob(draws[0]), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_inflated_density_is_the_highest_over_stronger_noise(x64, rng, make_noise, kind):
    """A galaxy that fits keeps the exact density; one that does not gets the best over a factor s >= 1 on the noise."""
    noise = double(make_noise(kind, 2, (5, 4)))
    mask = rng.uniform(size=(2, 5, 4)) < 0.3
    residual = np.array([0.3, 30.0])[:, None, None] * rng.normal(size=(2, 5, 4))
    inflated = NoisyImage(np.zeros((2, 5, 4)), noise, mask, misfit_as_noise=True).log_prob(residual)
    by_factor = np.array([scaled(noise, s).log_prob(residual, mask) for s in np.geomspace(1, 100, 1000)])
    np.testing.assert_allclose(inflated[0], by_factor[0, 0], rtol=1e-12)
    assert inflated[1] >= by_factor[:, 1].max() > by_factor[0, 1] + 100
    np.testing.assert_allclose(inflated[1], by_factor[:, 1].max(), rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "masked"),
    [
        ("white", False),
        ("white", True),
        ("pixel", False),
        ("pixel", True),
        ("stationary", False),
        ("stationary", True),
    ],
)
def test_noisy_image_in_a_plate(key, make_observation, kind, masked):
    """NumPyro scores it once for each galaxy, scales a minibatch, and simulates it when nothing is observed."""
    observation = make_observation(kind, masked=masked)

    def program(image):
        with numpyro.plate("galaxies", 12, subsample_size=3):
            amplitude = numpyro.sample("amplitude", dist.Normal(0, 1))
            mean = amplitude[:, None, None] * jnp.ones((1, 11, 14))
            numpyro.sample("image", NoisyImage(mean, observation.noise, observation.mask), obs=image)

    seeded = numpyro.handlers.seed(program, key)
    trace = numpyro.handlers.trace(seeded).get_trace(observation.image)
    mean = np.asarray(trace["amplitude"]["value"])[:, None, None]
    expected = observation.noise.log_prob(observation.image - mean, observation.mask)
    site = trace["image"]
    assert np.all(np.isfinite(expected))
    np.testing.assert_allclose(site["fn"].log_prob(site["value"]), expected, rtol=1e-5)
    total = numpyro.infer.util.log_density(seeded, (observation.image,), {}, {})[0]
    prior = dist.Normal(0, 1).log_prob(trace["amplitude"]["value"])
    np.testing.assert_allclose(total, 12 / 3 * np.sum(expected + prior), rtol=1e-5)
    simulated = numpyro.handlers.trace(seeded).get_trace(None)["image"]["value"]
    assert simulated.shape == (3, 11, 14) and np.all(np.isfinite(simulated))
