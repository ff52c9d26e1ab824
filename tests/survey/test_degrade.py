"""A degraded survey is what a worse instrument would have seen: the truth through its PSF, with its noise."""

import numpy as np
import pytest
from conftest import awkward_psf
from toys import tiny_survey

import hiergal
from hiergal.observation.independent import PixelNoise
from hiergal.observation.psf import convolve
from hiergal.survey.degrade import degrade_observation, degrade_survey
from hiergal.survey.mock.galaxies import draw_mock
from hiergal.survey.mock.survey import write_mock_survey

FWHM, FACTOR = 0.12, 1.5


@pytest.mark.parametrize("noise", ["correlated", "white"])
def test_residuals_against_the_blurred_truth_are_the_noise_that_it_says(noise):
    batch = draw_mock(200, seed=3, stamp=48, noise=noise)
    worse = degrade_observation(
        batch.observation, fwhm_arcsec=FWHM, noise_factor=FACTOR, rng=np.random.default_rng(1)
    )
    residual = worse.image - np.asarray(convolve(batch.truth, worse.psf))
    whitened = np.asarray(worse.noise.whiten(residual))[
        :, 8:-8, 8:-8
    ]  # light that comes round is at the edges
    # 200 x 1,024 pixels: five standard errors.
    assert whitened.var() == pytest.approx(1, abs=5 * np.sqrt(2 / whitened.size))
    neighbours = (whitened[:, :, 1:] * whitened[:, :, :-1]).mean()
    assert abs(neighbours) < 5 / np.sqrt(whitened.size)
    np.testing.assert_allclose(worse.noise.rms(), FACTOR * batch.observation.noise.rms(), rtol=1e-4)


def test_psfs_are_convolved_and_stay_where_they_are():
    sharp = tiny_survey(4, (16, 24), awkward_psf(4))
    worse = degrade_observation(sharp, fwhm_arcsec=FWHM, rng=np.random.default_rng(2))
    y, x = (np.arange(n) - n // 2 for n in worse.psf.stamp.shape[1:])
    v, u = (np.arange(n) - n // 2 for n in sharp.psf.stamp.shape[1:])
    np.testing.assert_allclose(worse.psf.stamp.sum(axis=(1, 2)), 1, rtol=1e-5)
    total = sharp.psf.stamp.sum(axis=(1, 2))
    np.testing.assert_allclose(worse.psf.stamp.sum(1) @ x, sharp.psf.stamp.sum(1) @ u / total, atol=1e-3)
    np.testing.assert_allclose(worse.psf.stamp.sum(2) @ y, sharp.psf.stamp.sum(2) @ v / total, atol=1e-3)
    assert all(n % 2 == 1 for n in worse.psf.stamp.shape[1:])


def test_a_survey_is_degraded_alike_whatever_the_processes(tmp_path):
    store = write_mock_survey(tmp_path / "sharp.zarr", 70, seed=4, stamp=32, workers=1, progress=False)
    options = {"fwhm_arcsec": FWHM, "noise_factor": FACTOR, "seed": 2}
    one = degrade_survey(store.path, tmp_path / "one.zarr", workers=1, **options)
    two = degrade_survey(store.path, tmp_path / "two.zarr", workers=2, **options)
    np.testing.assert_array_equal(one.read().image, two.read().image)
    np.testing.assert_array_equal(one.truth(), store.truth())
    assert one.header.provenance["degraded_fwhm_arcsec"] == FWHM
    assert hiergal.open_survey(tmp_path / "one.zarr").catalog.keys() == store.catalog.keys()


@pytest.mark.parametrize(("fwhm", "factor"), [(0.0, 1.0), (np.nan, 1.0), (0.1, 0.5)])
def test_sharper_or_quieter_is_refused(fwhm, factor):
    sharp = tiny_survey(2, (16, 24), awkward_psf(2))
    with pytest.raises(ValueError, match="expected a positive fwhm_arcsec and a noise_factor of at least 1"):
        degrade_observation(sharp, fwhm_arcsec=fwhm, noise_factor=factor, rng=np.random.default_rng(0))


def test_noise_of_pixels_is_refused():
    sharp = tiny_survey(2, (16, 24), awkward_psf(2))
    uneven = sharp.replace(noise=PixelNoise(np.ones((2, 16, 24), np.float32)))
    with pytest.raises(ValueError, match="expected white or stationary noise"):
        degrade_observation(uneven, fwhm_arcsec=0.1, rng=np.random.default_rng(0))
