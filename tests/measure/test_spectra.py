"""Spectra agree with direct sums; their tests pass noise, and fail what is missing or made up at its scale."""

import re

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from hiergal.measure.power_spectrum import band_limit, mean_spectrum, radial_power
from hiergal.observation.psf import PSF, convolve
from hiergal.survey.mock.galaxies import draw_mock
from hiergal.validation.spectra import beyond_band_test, residual_spectrum_test

SCALE = 0.03
REPETITIONS, ALPHA = 200, 0.05
# The chance that a binomial of 200 trials at 0.05 lies outside is 0.001; seeds are fixed.
MOST_ALARMS = 21


@pytest.fixture(scope="module")
def mock():
    return draw_mock(240, seed=1, stamp=(40, 48))


def direct_power(image, scale):
    """Frequency and power of each mode of the full plane, from the definition."""
    ny, nx = image.shape
    y, x = np.mgrid[:ny, :nx]
    modes = []
    for ky in range(ny):
        for kx in range(nx):
            amplitude = (image * np.exp(-2j * np.pi * (ky * y / ny + kx * x / nx))).sum()
            fy, fx = (min(k, n - k) / (n * scale) for k, n in ((ky, ny), (kx, nx)))
            modes.append((np.hypot(fy, fx), abs(amplitude) ** 2 / (ny * nx)))
    return np.array(modes).T


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (7, 3), (6, 6)])
def test_power_agrees_with_direct_sums(rng, shape):
    images = rng.normal(size=(2, *shape))
    found = radial_power(images, pixel_scale_arcsec=0.2, bins=4)
    for image, row in zip(images, found.power, strict=True):
        frequency, power = direct_power(image, 0.2)
        ring = np.minimum((frequency / frequency.max() * 4).astype(int), 3)
        count = np.bincount(ring, minlength=4)
        used = count > 0
        assert found.modes.tolist() == count[used].tolist()
        np.testing.assert_allclose(row, (np.bincount(ring, power, 4)[used] / count[used]), rtol=1e-10)
        np.testing.assert_allclose(
            found.frequency, np.bincount(ring, frequency, 4)[used] / count[used], rtol=1e-10
        )


@pytest.mark.parametrize("shape", [(9, 14), (12, 7)])
def test_modes_are_all_there_and_keep_the_sum_of_squares(rng, shape):
    images = rng.normal(size=(3, *shape))
    found = radial_power(images, bins=40, pixel_scale_arcsec=0.03)
    assert found.modes.sum() == shape[0] * shape[1]
    np.testing.assert_allclose(found.power @ found.modes, (images**2).sum(axis=(1, 2)))


def test_a_wave_is_found_at_its_frequency():
    """Five waves along the longer side of 40 pixels of 0.1 arcsec: 1.25 cycles per arcsec."""
    wave = np.sin(2 * np.pi * 5 * np.arange(40) / 40)[None, None] * np.ones((1, 21, 1))
    found = radial_power(wave, pixel_scale_arcsec=0.1, bins=30)
    peak = np.argmax(found.power[0] * found.modes)
    half_a_ring = np.hypot(5.0, 5.0) / 60
    assert found.frequency[peak] == pytest.approx(1.25, abs=half_a_ring)
    assert found.power[0, peak] * found.modes[peak] == pytest.approx((wave**2).sum())


def test_white_noise_has_unit_power(rng):
    found = radial_power(rng.normal(size=(400, 21, 16)), pixel_scale_arcsec=0.03)
    # The variance of a mode's power is 1, of one that is its own conjugate 2.
    error = np.sqrt(2 / (400 * found.modes))
    assert (np.abs(found.power.mean(axis=0) - 1) < 4 * error).all()


def frequency_of(verdict):
    return float(re.search(r"at ([\d.]+) cycles per arcsec", verdict.words)[1])


def residuals(mock, reconstruction):
    observation = mock.observation
    blurred = np.asarray(convolve(reconstruction.astype(np.float32), observation.psf))
    return np.asarray(observation.noise.whiten(observation.image - blurred))


def on_their_stamps(mock):
    """Galaxies whose light is all on their stamp."""
    level = np.asarray(mock.observation.noise.rms())[:, None, None]
    edge = np.ones(mock.truth.shape[1:], bool)
    edge[1:-1, 1:-1] = False
    whole = (mock.truth / level)[:, edge].max(axis=1) < 0.2
    assert whole.sum() > 60
    return whole


def test_noise_that_is_correlated_but_whitened_passes(mock):
    level = np.asarray(mock.observation.noise.rms())[:, None, None]
    whole = on_their_stamps(mock)  # so that no light is scattered in from outside
    whitened = residuals(mock, mock.truth)[whole]
    verdict = residual_spectrum_test(whitened, pixel_scale_arcsec=0.03)
    assert verdict.name == "residuals (spectrum)" and verdict.passed
    assert abs(verdict.statistic) < 5 * verdict.error
    assert 0 < verdict.expected < 3 * verdict.error
    # The same noise as it is on the images is far from white.
    plain = mock.observation.image - np.asarray(convolve(mock.truth, mock.observation.psf))
    assert not residual_spectrum_test((plain / level)[whole], pixel_scale_arcsec=0.03).passed


def test_a_fit_that_absorbs_noise_passes(rng):
    verdict = residual_spectrum_test(0.95 * rng.normal(size=(300, 20, 24)), pixel_scale_arcsec=0.03)
    assert verdict.passed and verdict.p_value == 1 and verdict.statistic < 0


def test_a_blurred_reconstruction_fails_where_structure_is_missing(mock):
    """A blur of 1.5 pixels takes away waves of 0.3 arcsec and less, of which the PSF leaves the longer ones."""
    blurred = gaussian_filter(mock.truth, (0, 1.5, 1.5), mode="constant")
    verdict = residual_spectrum_test(residuals(mock, blurred), pixel_scale_arcsec=0.03)
    assert not verdict.passed and verdict.p_value < 1e-6 and verdict.statistic > 0
    assert 1 / 0.6 < frequency_of(verdict) < 1 / 0.15


@pytest.mark.parametrize("waves", [4, 9, 15])
def test_missing_structure_is_named_by_its_scale(rng, waves):
    """A fifth of the noise in waves of one length, of any phase."""
    noise, phase = rng.normal(size=(200, 36, 36)), rng.uniform(0, 2 * np.pi, (200, 1, 1))
    structure = 0.2 * np.sin(2 * np.pi * waves * np.arange(36) / 36 + phase)
    verdict = residual_spectrum_test(noise + structure, pixel_scale_arcsec=0.03)
    width = np.sqrt(0.5) / SCALE / 10
    assert not verdict.passed and frequency_of(verdict) == pytest.approx(waves / (36 * SCALE), abs=width)


def test_false_alarms_of_residuals_are_as_rare_as_they_say():
    """Also with few galaxies, whose noise is not known exactly and is not Gaussian."""
    alarms = np.zeros(2, int)
    for seed in range(REPETITIONS):
        rng = np.random.default_rng(seed)
        gaussian = rng.normal(size=(60, 14, 17))
        heavy = (
            rng.standard_t(5, size=(20, 14, 17)) / np.sqrt(5 / 3) * np.sqrt(rng.gamma(50, 1 / 50, (20, 1, 1)))
        )
        alarms += [
            not residual_spectrum_test(noise, alpha=ALPHA, pixel_scale_arcsec=0.03).passed
            for noise in (gaussian, heavy)
        ]
    assert (alarms <= MOST_ALARMS).all()
    assert alarms[0] > 0  # a test that never alarms would have no power


def test_band_limit_of_a_gaussian_is_known():
    """Where exp(-(2 pi sigma f)^2) is the threshold, on a stamp that is not square."""
    y, x = np.mgrid[-15:16, -20:21]
    for sigma, threshold in ((2.0, 0.01), (3.0, 0.1)):
        stamp = np.exp(-((y - 0.4) ** 2 + (x + 1.3) ** 2) / (2 * sigma**2))
        psf = PSF((stamp / stamp.sum())[None].astype(np.float32), pixel_scale_arcsec=SCALE)
        exact = np.sqrt(-np.log(threshold)) / (2 * np.pi * sigma * SCALE)
        assert band_limit(psf, threshold=threshold) == pytest.approx(exact, rel=0.01)
    sharper = psf.replace(profile_fwhm_arcsec=0.1)
    assert band_limit(sharper, threshold=0.1) == band_limit(psf, threshold=0.1)


def test_band_limit_of_the_mock_survey(mock):
    """Below the limit of diffraction of a mirror of 2.4 m at 814 nm, beyond that of its seeing from the ground."""
    limit = band_limit(mock.observation.psf)
    diffraction = 2.4 / 814e-9 * np.pi / 180 / 3600
    assert 0.3 * diffraction < limit < diffraction
    assert limit < band_limit(mock.observation.psf, threshold=0.001) < 1.2 * diffraction


def test_profiles_of_the_same_population_pass_and_blurred_ones_fail(mock):
    limit = band_limit(mock.observation.psf)
    other = draw_mock(200, seed=2, stamp=(40, 48)).truth
    verdict = beyond_band_test(mock.truth, other, limit, pixel_scale_arcsec=0.03)
    assert verdict.name == "beyond the band limit (power)" and verdict.passed
    assert abs(verdict.statistic) < 4 * verdict.error
    blurred = gaussian_filter(other, (0, 0.7, 0.7), mode="constant")
    verdict = beyond_band_test(mock.truth, blurred, limit, pixel_scale_arcsec=0.03)
    assert not verdict.passed and verdict.statistic < -5 * verdict.error
    # Grain that no survey with this PSF could see.
    grain = 1 + 0.3 * np.random.default_rng(1).choice([-1.0, 1.0], other.shape)
    verdict = beyond_band_test(mock.truth, other * grain, limit, pixel_scale_arcsec=0.03)
    assert not verdict.passed and verdict.statistic > 5 * verdict.error


def test_power_beyond_the_limit_does_not_depend_on_flux_or_on_edges(mock):
    limit, other = 8.0, mock.truth[::-1] * 50
    assert beyond_band_test(mock.truth, other, limit, pixel_scale_arcsec=0.03).statistic == pytest.approx(
        0, abs=1e-5
    )
    truth = mock.truth[on_their_stamps(mock)]
    cut = truth.copy()
    cut[:, [0, -1]] = cut[:, :, [0, -1]] = 0
    statistic = beyond_band_test(truth, cut, limit, pixel_scale_arcsec=0.03).statistic
    assert abs(statistic) < 0.01


def test_false_alarms_beyond_the_limit_are_as_rare_as_they_say():
    p_values = []
    for seed in range(REPETITIONS):
        rng = np.random.default_rng(seed)
        profiles = rng.gamma(0.3, size=(50, 9, 12)) ** rng.uniform(0.5, 2.0, (50, 1, 1))
        p_values.append(
            beyond_band_test(
                profiles[:30], profiles[30:], 8.0, seed=seed, alpha=ALPHA, pixel_scale_arcsec=0.03
            ).p_value
        )
    p_values = np.array(p_values)
    assert (p_values < ALPHA).sum() <= MOST_ALARMS
    # Mean of 200 uniform numbers, 4 standard errors.
    assert abs(p_values.mean() - 0.5) < 4 / np.sqrt(12 * REPETITIONS)


def test_mean_spectra_have_the_scatter_of_repetitions(rng):
    samples = rng.gamma(0.3, size=(60, 40, 10, 13))
    spectra = [mean_spectrum(sample, bins=6, pixel_scale_arcsec=0.03) for sample in samples]
    scatter = np.std([spectrum.power for spectrum in spectra], axis=0)
    error = np.mean([spectrum.error for spectrum in spectra], axis=0)
    np.testing.assert_allclose(scatter[1:], error[1:], rtol=0.4)  # 60 repetitions: a tenth, and four of that
    assert (np.diff(spectra[0].frequency) > 0).all()


def test_bad_input_is_named():
    profiles = np.ones((9, 8, 8))
    with pytest.raises(ValueError, match="expected at least 8 galaxies, got 3"):
        residual_spectrum_test(profiles[:3], pixel_scale_arcsec=0.03)
    broken = profiles.copy()
    broken[2, 3, 3] = np.nan
    with pytest.raises(ValueError, match="whitened:.*got.*in 1 galaxies"):
        residual_spectrum_test(broken, pixel_scale_arcsec=0.03)
    with pytest.raises(ValueError, match=r"drawn:.*\(8, 8\).*got \(8, 7\)"):
        beyond_band_test(profiles, profiles[:, :, 1:], 8.0, pixel_scale_arcsec=0.03)
    with pytest.raises(ValueError, match="drawn:.*got.*in 9 of 9"):
        beyond_band_test(profiles, -profiles, 9.0, pixel_scale_arcsec=0.03)
    with pytest.raises(ValueError, match="limit:.*8.333.*16.67.*got 17.0"):
        beyond_band_test(profiles, profiles, 17.0, pixel_scale_arcsec=0.03)
    point = np.zeros((1, 5, 5), np.float32)
    point[0, 2, 2] = 1
    with pytest.raises(
        ValueError, match="psf: expected a squared transfer function below 0.01.*raise the thr"
    ):
        band_limit(PSF(point, pixel_scale_arcsec=SCALE))
