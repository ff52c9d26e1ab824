"""Profiles at a standard resolution: what was blurred before is not blurred again."""

import galsim
import jax
import msgspec
import numpy as np
import pytest
from toys import SCALE, tiny_model, tiny_recipe

from hiergal.cli.quickstart.run import blurred_truth
from hiergal.model.program import render
from hiergal.observation.psf import PSF, check_wider, convolve, gaussian_transfer
from hiergal.simulate.profiles import draw_galsim, draw_profiles

FWHM_PIX, SHAPE = 2.2, (25, 32)


def gaussian(fwhm_pix: float, size: int, *, centre=(0.0, 0.0), stretch: float = 1.0) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - size // 2
    sigma = fwhm_pix / np.sqrt(8 * np.log(2))
    image = np.exp(-0.5 * (((y - centre[0]) / sigma) ** 2 + ((x - centre[1]) / (stretch * sigma)) ** 2))
    return image / image.sum()


@pytest.fixture
def wide_psf():
    """Two PSFs: round, and stretched off its centre."""
    stamps = [gaussian(4.0, 21), gaussian(3.0, 21, centre=(0.4, -0.7), stretch=1.4)]
    return PSF(np.stack(stamps), pixel_scale_arcsec=SCALE)


def test_the_transfer_function_is_that_of_a_gaussian():
    stamp = gaussian(4.0, 25)  # wide enough to be sampled without aliases
    dense = PSF(stamp[None], pixel_scale_arcsec=SCALE).transfer((32, 30))
    np.testing.assert_allclose(gaussian_transfer(4.0, (32, 30)), dense[0].real, atol=1e-3)


def test_blur_that_is_there_already_is_not_put_on_again(x64, wide_psf):
    profile = np.zeros((2, *SHAPE))
    profile[0, 10, 14], profile[1, 14, 13], profile[1, 11, 20] = 3.0, 1.0, 2.0
    grid = (64, 64)
    spectrum = np.fft.rfft2(profile, s=grid) * gaussian_transfer(FWHM_PIX, grid)
    blurred = np.fft.irfft2(spectrum, s=grid)[:, : SHAPE[0], : SHAPE[1]]
    found = render(blurred, wide_psf, SCALE, FWHM_PIX * SCALE)
    np.testing.assert_allclose(found, convolve(profile, wide_psf), atol=2e-4)
    assert np.abs(found - convolve(blurred, wide_psf)).max() > 0.02, "a test that could not fail"


def test_flux_stays(x64, wide_psf):
    profile = np.zeros((2, *SHAPE))
    profile[:, 12, 15] = 1.0
    np.testing.assert_allclose(render(profile, wide_psf, SCALE, FWHM_PIX * SCALE).sum((1, 2)), 1, atol=1e-3)


def test_a_standard_wider_than_a_psf_is_refused(wide_psf):
    check_wider(wide_psf, FWHM_PIX * SCALE)
    with pytest.raises(ValueError, match="got 1 of 2 narrower; train with a smaller profile_fwhm_arcsec"):
        check_wider(wide_psf, 3.5 * SCALE)


def test_truths_are_compared_at_the_same_resolution(rng):
    recipe, truth = tiny_recipe((40, 40)), rng.random((1, 40, 40))
    assert blurred_truth(truth, recipe) is truth
    blurred = blurred_truth(
        np.pad(truth, ((0, 0), (9, 9), (9, 9))), msgspec.structs.replace(recipe, profile_fwhm_arcsec=0.09)
    )
    np.testing.assert_allclose(blurred.sum(), truth.sum())
    assert blurred.max() < truth.max()


def test_galsim_objects_are_sharp(key, wide_psf):
    """Drawn with a wide PSF they are what the model renders."""
    recipe = msgspec.structs.replace(tiny_recipe((24, 24)), profile_fwhm_arcsec=FWHM_PIX * SCALE)
    model = tiny_model(recipe)
    catalog = {name: np.full(2, 20.0) for name in recipe.flow.conditions}
    profiles = draw_profiles(model, catalog, key=key)
    galaxies = draw_galsim(model, catalog, key=key)
    assert all(isinstance(galaxy, galsim.Convolution) for galaxy in galaxies)
    expected = np.asarray(jax.jit(model.render)(profiles, wide_psf))
    for galaxy, image, stamp in zip(galaxies, expected, wide_psf.stamp, strict=True):
        psf = galsim.InterpolatedImage(galsim.Image(stamp, scale=SCALE))
        drawn = galsim.Convolve(galaxy, psf).drawImage(nx=24, ny=24, scale=SCALE, method="no_pixel").array
        inside = np.s_[6:-6, 6:-6]
        np.testing.assert_allclose(drawn[inside], image[inside], atol=0.02 * image.max())
