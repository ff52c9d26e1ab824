"""The networks: what the generator draws at its start, its sign conventions, and what the encoder must not see."""

import galsim
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from toys import SCALE, tiny_model, tiny_recipe, tiny_survey

from hiergal.measure.profile import summarize_profile
from hiergal.model.nets.encoder import Encoder
from hiergal.model.nets.generator import Generator
from hiergal.model.nets.layers import PATCH_KERNEL, depth_to_space, smooth_patches, space_to_depth
from hiergal.model.nets.resampling import _drop_out
from hiergal.model.trained import GalaxyModel
from hiergal.observation.independent import PixelNoise
from hiergal.recipe.config import GeneratorConfig

encode = jax.jit(GalaxyModel.encode)
NAMES = ("log_flux", "x_pix", "y_pix", "log_radius_pix", "shear_1", "shear_2", "log_index")


@pytest.fixture(scope="module")
def start():
    """A generator as training starts it, on a stamp that is not square."""
    config = GeneratorConfig(latents=9, channels=4, blocks=0, log_flux_mean=3.0, log_flux_spread=0.5)
    generator = Generator(config, (40, 56))
    params = jax.jit(generator.init)(jax.random.key(0), jnp.zeros((1, 9)))
    return jax.jit(lambda z: generator.apply(params, z))


def latents(**values):
    z = np.zeros((1, 9), np.float32)
    for name, value in values.items():
        z[0, NAMES.index(name)] = value
    return jnp.asarray(z)


def measure(start, **values):
    return summarize_profile(start(latents(log_radius_pix=-1.5, **values)), SCALE)


def test_flux_is_explicit(start):
    """exp(mean + spread z) whatever the other latents do, and no negative light."""
    z = jax.random.normal(jax.random.key(1), (20, 9))
    profile = start(z)
    assert profile.shape == (20, 40, 56) and np.all(profile >= 0)
    np.testing.assert_allclose(profile.sum((1, 2)), np.exp(3.0 + 0.5 * z[:, 0]), rtol=1e-5)


def test_starts_centred_and_round(start):
    found = measure(start)
    np.testing.assert_allclose([found.x_pix, found.y_pix, found.g1, found.g2], 0, atol=0.02)


@pytest.mark.parametrize("name", ["x_pix", "y_pix"])
def test_centre_moves_along_its_axis(start, name):
    found = measure(start, **{name: 2.0})
    other = {"x_pix": "y_pix", "y_pix": "x_pix"}[name]
    np.testing.assert_allclose(getattr(found, name), 2.0, atol=0.05)
    np.testing.assert_allclose(getattr(found, other), 0.0, atol=0.02)


@pytest.mark.parametrize(("name", "index"), [("shear_1", 0), ("shear_2", 1)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_shear_has_the_sign_of_galsim(start, name, index, sign):
    """Elongation along x for shear_1 > 0 and along y = x for shear_2 > 0, as galsim.Shear has it."""
    found = measure(start, **{name: sign})
    shear = galsim.Shear(**{f"g{index + 1}": 0.3 * sign})
    twin = (
        galsim.Gaussian(sigma=4 * SCALE)
        .shear(shear)
        .drawImage(nx=56, ny=40, scale=SCALE)
        .array.astype(np.float32)
    )
    expected = summarize_profile(twin, SCALE)
    along, across = [(found.g1, expected.g1), (found.g2, expected.g2)][:: 1 - 2 * index]
    assert along[0] * along[1] > 0.02 and abs(float(across[0][0])) < 0.02


def test_size_grows(start):
    small, large = (
        summarize_profile(start(latents(log_radius_pix=v)), SCALE).hlr_arcsec for v in (-2.0, -1.0)
    )
    assert 1.4 < large[0] / small[0] < 1.8  # exp(0.5), less what the edge and the core take


@pytest.mark.parametrize("distance", [30.0, 1e4])
def test_latents_far_from_all_others_give_finite_profiles(start, distance, rng):
    """A guide that is far off for one galaxy must not make the bound of all of them infinite."""
    directions = np.concatenate([np.eye(9), -np.eye(9), rng.normal(size=(40, 9))]).astype(np.float32)
    z = jnp.asarray(distance * directions)
    profile = start(z)
    assert np.isfinite(profile).all() and (profile >= 0).all()
    flux = 3.0 + 0.5 * np.clip(z[:, 0], -6, 6)
    np.testing.assert_allclose(np.log(profile.sum((1, 2))), flux, atol=1e-4)
    gradient = jax.grad(lambda z: jnp.log(start(z).max((1, 2))).sum())(z)
    assert np.isfinite(gradient).all()


def test_shuffles_of_pixels_are_inverse(rng):
    image = rng.normal(size=(2, 8, 12, 3)).astype(np.float32)
    packed = space_to_depth(jnp.asarray(image), 4)
    assert packed.shape == (2, 2, 3, 48)
    np.testing.assert_array_equal(packed[1, 1, 2].reshape(4, 4, 3), image[1, 4:8, 8:12])
    np.testing.assert_array_equal(depth_to_space(packed, 4), image)


@pytest.fixture(scope="module")
def model():
    return tiny_model(tiny_recipe((16, 24)))


def test_encoder_ignores_masked_pixels(model, make_psf, rng):
    """NaN or anything else under the mask, in image and noise, changes nothing; what is not masked counts."""
    observation = tiny_survey(3, (16, 24), make_psf(3))
    mask = rng.uniform(size=(3, 16, 24)) < 0.2
    sigma = np.full((3, 16, 24), 0.5, np.float32)
    noise = PixelNoise(sigma)
    expected = encode(model, observation.replace(mask=mask, noise=noise))
    assert np.all(np.isfinite(expected))
    for nothing in (np.nan, 1e6):
        image = np.where(mask, nothing, observation.image).astype(np.float32)
        found = encode(model, observation.replace(mask=mask, noise=noise, image=image))
        np.testing.assert_array_equal(found, expected)
    hidden = PixelNoise(np.where(mask, np.nan, sigma).astype(np.float32))
    np.testing.assert_array_equal(encode(model, observation.replace(mask=mask, noise=hidden)), expected)
    assert np.abs(encode(model, observation.replace(mask=~mask, noise=noise)) - expected).max() > 1e-3


@pytest.mark.parametrize("shape", [(5, 9), (15, 15), (31, 17), (7, 41)])
def test_encoder_takes_psf_stamps_of_any_size(model, make_psf, shape):
    """Zeros around a PSF say nothing."""
    observation = tiny_survey(2, (16, 24), make_psf(2, (5, 9)))
    pad = [(max(0, (size - small) // 2),) * 2 for size, small in zip(shape, (5, 9), strict=True)]
    stamp = np.pad(observation.psf.stamp, [(0, 0), *pad])
    padded = observation.replace(psf=observation.psf.replace(stamp=stamp))
    np.testing.assert_allclose(encode(model, padded), encode(model, observation), rtol=1e-5, atol=1e-5)
    other = observation.replace(psf=observation.psf.replace(stamp=observation.psf.stamp[:, ::-1, ::-1]))
    assert np.abs(encode(model, other) - encode(model, observation)).max() > 1e-5, "the PSF should be seen"


def test_encoder_outputs_do_not_mix_galaxies(model, make_psf):
    observation = tiny_survey(4, (16, 24), make_psf(4))
    np.testing.assert_allclose(
        encode(model, observation)[2:], encode(model, observation[2:]), rtol=1e-4, atol=1e-5
    )


def test_number_of_outputs():
    assert Encoder(tiny_recipe().encoder, 17).outputs == 17


@pytest.mark.parametrize("channels", [3, 4])
def test_dropout_keeps_the_mean(channels):
    x = jnp.ones((50, 20, 20, channels))
    y = np.asarray(_drop_out(jax.random.key(0), x, 0.1))
    kept = y > 0
    assert abs(kept.mean() - 0.9) < 5 * (0.09 / y.size) ** 0.5
    np.testing.assert_allclose(y[kept], 1 / 0.9, rtol=1e-4)
    # No pixel decides for another: neighbours fall out together as often as chance says.
    together = (~kept[:, 1:] & ~kept[:, :-1]).mean()
    assert abs(together - 0.01) < 5 * (0.01 / y.size) ** 0.5


def test_smoothing_is_a_convolution_with_edges_that_go_on(rng):
    image = rng.normal(size=(2, 9, 12)).astype(np.float32)
    kernel = np.outer(PATCH_KERNEL, PATCH_KERNEL)
    expected = [ndimage.convolve(one, kernel, mode="nearest") for one in image]
    np.testing.assert_allclose(smooth_patches(jnp.asarray(image)), expected, atol=1e-5)
