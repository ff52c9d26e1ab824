"""Images of draws: at chosen PSFs and on chosen grids, against direct sums and analytic profiles."""

import galsim
import jax.numpy as jnp
import numpy as np
import pytest
from toys import SCALE, tiny_model, tiny_recipe, tiny_survey

from hiergal.observation.psf import gaussian_psf
from hiergal.posterior.images import posterior_images, view
from hiergal.posterior.infer import infer

SHAPE = (16, 24)


@pytest.fixture(scope="module")
def model():
    return tiny_model(tiny_recipe(SHAPE))


@pytest.fixture
def observation(make_psf):
    return tiny_survey(3, SHAPE, make_psf(3))


@pytest.fixture
def posterior(key, model, observation):
    return infer(model, observation, key=key, draws=9, batch=4, verdict=False)


def test_on_its_own_grid_it_is_the_convolution(rng, make_psf):
    from hiergal.observation.psf import convolve

    profile, psf = rng.uniform(size=(3, 13, 18)).astype(np.float32), make_psf(3)
    found = view(jnp.asarray(profile), psf, pixel_scale_arcsec=SCALE, shape=(13, 18))
    np.testing.assert_allclose(found, convolve(profile, psf), atol=2e-5)


@pytest.mark.parametrize("scale", [0.5, 0.7, 2.0])
@pytest.mark.parametrize("shape", [(40, 51), (9, 12)])
def test_other_grids_sample_the_smooth_image(scale, shape):
    """A point off the centre, under a Gaussian PSF that is well sampled, is that Gaussian on any grid."""
    profile = np.zeros((1, 21, 26))
    profile[0, 12, 9] = 3.0
    psf = gaussian_psf(4 * SCALE, SCALE)
    found = view(jnp.asarray(profile), psf, pixel_scale_arcsec=scale * SCALE, shape=shape)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    y, x = (y - (shape[0] - 1) / 2) * scale, (x - (shape[1] - 1) / 2) * scale
    sigma = 4 / np.sqrt(8 * np.log(2))
    squared = (y - (12 - 10)) ** 2 + (x - (9 - 12.5)) ** 2
    expected = 3 * scale**2 * np.exp(-0.5 * squared / sigma**2) / (2 * np.pi * sigma**2)
    np.testing.assert_allclose(found[0], expected, atol=2e-4 * expected.max())


def test_deconvolved_is_the_profile(model, posterior):
    images = posterior_images(model, posterior)
    assert images.shape == (9, 3, *SHAPE)
    np.testing.assert_allclose(images.mean(axis=0), posterior.profile_mean, rtol=1e-3, atol=1e-3)
    few = posterior_images(model, posterior, draws=3)
    np.testing.assert_allclose(few, images[[0, 4, 8]], rtol=1e-4, atol=1e-4)


def test_each_galaxy_has_its_own_psf(model, observation, posterior):
    images = posterior_images(model, posterior, psf=observation.psf)
    np.testing.assert_allclose(images.mean(axis=0), posterior.image_mean, rtol=2e-3, atol=2e-3)
    finer = posterior_images(
        model, posterior, psf=observation.psf, pixel_scale_arcsec=SCALE / 2, shape=(32, 48)
    )
    # A fine pixel and its neighbours hold what a coarse one does, where the image is smooth.
    together = finer.reshape(9, 3, 16, 2, 24, 2).sum((3, 5))
    np.testing.assert_allclose(together.sum((2, 3)), images.sum((2, 3)), rtol=0.02)


def test_one_psf_for_all_is_each_galaxys(model, posterior):
    one = gaussian_psf(2 * SCALE, SCALE)
    each = one.replace(stamp=np.repeat(one.stamp, 3, axis=0))
    np.testing.assert_array_equal(
        posterior_images(model, posterior, psf=one), posterior_images(model, posterior, psf=each)
    )


def test_gaussian_psf_is_galsims():
    stamp = gaussian_psf(3 * SCALE, SCALE).stamp[0]
    drawn = galsim.Gaussian(fwhm=3 * SCALE).drawImage(
        nx=stamp.shape[1], ny=stamp.shape[0], scale=SCALE, method="no_pixel"
    )
    np.testing.assert_allclose(stamp, drawn.array, atol=1e-5)


def test_wrong_requests_are_refused(model, posterior, make_psf):
    with pytest.raises(ValueError, match="no values between its pixels"):
        posterior_images(model, posterior, pixel_scale_arcsec=SCALE / 2)
    with pytest.raises(ValueError, match=r"expected shape \[3, py, px\] or \[1, py, px\], got"):
        posterior_images(model, posterior, psf=make_psf(2))
    with pytest.raises(ValueError, match="resample the PSF"):
        posterior_images(model, posterior, psf=gaussian_psf(0.1, 0.05))
    with pytest.raises(ValueError, match="expected a positive width, got -1"):
        posterior_images(model, posterior, psf=gaussian_psf(0.1, SCALE), pixel_scale_arcsec=-1.0)
    with pytest.raises(ValueError, match="at least 1.5 pixels"):
        gaussian_psf(0.03, SCALE)
