"""Shears that are put into galaxies of known shape come out again; samples that answer differently are told apart."""

import galsim
import numpy as np
import pytest
from astropy.table import Table

from hiergal.observation.psf import PSF, convolve
from hiergal.survey.mock.galaxies import draw_mock
from hiergal.validation.shear import ShearFlag, measure_shear, shear_bias, shear_tests

SCALE = 0.03
SHAPE = (55, 62)
REPETITIONS, ALPHA = 200, 0.05
# The chance that a binomial of 200 trials at 0.05 lies outside is 0.001; seeds are fixed.
MOST_ALARMS = 21

# No symmetry, and its centroid more than a pixel away from the origin.
ODD_PSF = galsim.Convolve(
    galsim.Gaussian(sigma=0.040, flux=0.6).shear(g1=0.1, g2=0.05).shift(0.03, -0.02)
    + galsim.Gaussian(sigma=0.055, flux=0.4).shear(g1=-0.05, g2=0.2).shift(0.085, 0.035),
    galsim.Pixel(SCALE),
)
GALAXIES = {
    "round Gaussian": galsim.Gaussian(sigma=0.15),
    "Gaussian": galsim.Gaussian(sigma=0.15).shear(g1=0.2, g2=0.3),
    "disc": galsim.Sersic(1, half_light_radius=0.12).shear(g1=-0.4, g2=0.1).shift(0.01, -0.02),
    "bulge": galsim.Sersic(4, half_light_radius=0.25, trunc=1.5).shear(g1=0.1, g2=-0.2),
    "merger": galsim.Sersic(1, half_light_radius=0.12).shift(-0.1, 0.05)
    + galsim.Gaussian(sigma=0.1, flux=0.4).shift(0.15, 0.0),
}


def drawn(profile, shape=SHAPE):
    return profile.drawImage(nx=shape[1], ny=shape[0], scale=SCALE, method="no_pixel", dtype=float).array


def psf_of(profile, n, shape=(41, 37)):
    return PSF(np.stack([drawn(profile, shape)] * n), pixel_scale_arcsec=SCALE)


def observed(psf=ODD_PSF):
    return np.stack([drawn(galsim.Convolve(galaxy, psf)) for galaxy in GALAXIES.values()])


@pytest.fixture(scope="module")
def noise_free():
    return measure_shear(
        observed(),
        psf_of(ODD_PSF, len(GALAXIES)),
        target_fwhm_arcsec=0.24,
        workers=1,
        pixel_scale_arcsec=0.03,
    )


@pytest.mark.parametrize("row", range(len(GALAXIES)), ids=list(GALAXIES))
def test_known_shears_are_recovered(noise_free, row):
    """Through a PSF without symmetry, away from the origin, on stamps with an odd and an even side."""
    table = noise_free[row]
    assert table["flag"] == 0
    assert table["difference"] / table["response"] / 0.04 - 1 == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("row", range(len(GALAXIES)), ids=list(GALAXIES))
def test_responses_and_shapes_are_those_of_the_galaxy_itself(noise_free, row):
    """The same galaxy, sheared before it meets the round PSF; GalSim draws it from its formula."""
    galaxy = list(GALAXIES.values())[row]
    round_psf = galsim.Gaussian(fwhm=0.24 * 1.02)
    g1 = {g: drawn(galsim.Convolve(galaxy.shear(g1=g), round_psf)) for g in (-0.03, -0.01, 0.0, 0.01, 0.03)}
    moments = {g: galsim.hsm.FindAdaptiveMom(galsim.Image(image)) for g, image in g1.items()}
    g1 = {g: found.observed_shape.g1 for g, found in moments.items()}
    response = (g1[0.03] - g1[0.01] + g1[-0.01] - g1[-0.03]) / 0.04
    assert noise_free["response"][row] == pytest.approx(response, rel=5e-3)
    assert noise_free["g1"][row] == pytest.approx(g1[0.0], abs=1e-3)
    assert noise_free["sigma"][row] == pytest.approx(moments[0.0].moments_sigma * SCALE, rel=2e-3)


def test_the_psf_is_taken_out_with_its_phase():
    """A PSF with a blob at its side makes one galaxy look like two; upside down, its conjugate, it would not help."""
    skew = galsim.Gaussian(sigma=0.045, flux=0.75)
    skew += galsim.Gaussian(sigma=0.045, flux=0.25).shift(0.15, 0.05)
    psf, images = psf_of(skew, len(GALAXIES)), observed(skew)
    true = measure_shear(images, psf, target_fwhm_arcsec=0.24, workers=1, pixel_scale_arcsec=0.03)
    odd = measure_shear(
        observed(),
        psf_of(ODD_PSF, len(GALAXIES)),
        target_fwhm_arcsec=0.24,
        workers=1,
        pixel_scale_arcsec=0.03,
    )
    np.testing.assert_allclose(true["g1"], odd["g1"], atol=1e-4)
    turned = psf.replace(stamp=psf.stamp[:, ::-1, ::-1])
    wrong = measure_shear(images, turned, target_fwhm_arcsec=0.24, workers=1, pixel_scale_arcsec=0.03)
    assert np.abs(wrong["g1"] - true["g1"]).max() > 5e-3


def test_a_psf_with_pixels_of_its_own_and_no_target_gives_the_same_shear():
    fine = ODD_PSF.drawImage(nx=75, ny=73, scale=0.017, method="no_pixel", dtype=float).array * 1.0
    psf = PSF(np.stack([fine / fine.sum()] * len(GALAXIES)), pixel_scale_arcsec=0.017)
    table = measure_shear(observed(), psf, workers=1, pixel_scale_arcsec=0.03)
    np.testing.assert_allclose(table["difference"] / table["response"], 0.04, rtol=2e-3)
    coarse = measure_shear(observed(), psf_of(ODD_PSF, len(GALAXIES)), workers=1, pixel_scale_arcsec=0.03)
    # The narrowest targets differ by what the grids of frequencies leave open.
    np.testing.assert_allclose(table["sigma"], coarse["sigma"], rtol=0.02)


def test_the_target_amplifies_no_noise():
    """Noise alone, through both deconvolutions, is fainter than it was."""
    from hiergal.validation import shear

    setup = shear._Setup(SCALE, SCALE, 0.02, 0.01, None)
    stamp = drawn(ODD_PSF, (41, 37))
    sigma = shear._target_sigma(setup, stamp) / SCALE
    frequency = np.fft.fftfreq(64)[:, None] ** 2 + np.fft.fftfreq(64) ** 2
    target = np.exp(-2 * np.pi**2 * sigma**2 * frequency)
    ratio = target / np.abs(np.fft.fft2(stamp, s=(64, 64)))
    assert ratio[target > 1e-3].max() < 1.1
    assert 1.0 < sigma < 3.0


def mock(n, seed, *, louder=1.0):
    """Mock galaxies whose noise is as much louder than it should be, and their PSFs."""
    batch = draw_mock(n, seed=seed, stamp=48, workers=1)
    observation = batch.observation
    clean = np.asarray(convolve(batch.truth, observation.psf))
    return clean + louder * (observation.image - clean), observation.psf


def smoother(n, seed):
    """Mock galaxies, blurred once more, with a round Gaussian of 0.1 arcsec."""
    images, psf = mock(n, seed)
    blur = galsim.Gaussian(sigma=0.1)
    return convolve(images, psf.replace(stamp=np.stack([drawn(blur, (31, 31)).astype(np.float32)] * n))), psf


def failed(verdicts):
    return {verdict.name for verdict in verdicts if not verdict.passed}


@pytest.fixture(scope="module")
def real():
    return measure_shear(*mock(110, 1), workers=1, pixel_scale_arcsec=0.03)


def test_mock_galaxies_with_little_noise_answer_as_they_should():
    table = measure_shear(*mock(50, 4, louder=0.1), workers=1, pixel_scale_arcsec=0.03)
    bias, error = shear_bias(table)
    assert (table["flag"] != 0).mean() < 0.1
    # The answer to a shear of 2 % is linear to its square.
    assert abs(bias) < 4 * error + 0.02**2
    assert 0 < error < 2e-3


@pytest.mark.slow
def test_another_sample_of_the_population_passes(real):
    verdicts = shear_tests(real, measure_shear(*mock(100, 2), workers=1, pixel_scale_arcsec=0.03))
    assert not failed(verdicts), [verdict.words for verdict in verdicts if not verdict.passed]
    assert [verdict.name for verdict in verdicts] == [
        "shear bias (metacalibration)",
        "mean shear response",
        "shear response (Wasserstein)",
    ]
    assert all(np.isfinite([v.statistic, v.error, v.p_value]).all() and v.words for v in verdicts)


@pytest.mark.slow
def test_galaxies_that_are_smoother_fail_by_their_response(real):
    verdicts = shear_tests(real, measure_shear(*smoother(100, 3), workers=1, pixel_scale_arcsec=0.03))
    assert failed(verdicts) == {
        "mean shear response",
        "shear response (Wasserstein)",
    }


def test_a_wrong_psf_fails(real):
    """Taken for sharper than it is: galaxies look larger, and answer more."""
    images, psf = mock(100, 5)
    blur = np.stack([drawn(galsim.Gaussian(sigma=0.06), (31, 31)).astype(np.float32)] * len(images))
    wrong = measure_shear(
        np.asarray(convolve(images, psf.replace(stamp=blur))), psf, workers=1, pixel_scale_arcsec=0.03
    )
    verdicts = shear_tests(real, wrong)
    assert "mean shear response" in failed(verdicts)


def synthetic(n, seed, *, bias=0.0):
    """Responses and differences like those of galaxies."""
    rng = np.random.default_rng(seed)
    response = rng.beta(4, 2, n) + rng.normal(0, 0.1, n)
    difference = 0.04 * (1 + bias) * response + rng.normal(0, 2e-3, n)
    columns = {"response": response, "difference": difference, "flag": np.zeros(n, int)}
    return Table(columns, meta={"shear": 0.02, "step": 0.01})


def test_another_bias_alone_is_seen():
    verdicts = shear_tests(synthetic(1000, 1), synthetic(1000, 2, bias=0.03))
    assert failed(verdicts) == {"shear bias (metacalibration)"}
    assert verdicts[0].statistic == pytest.approx(0.03, abs=4 * verdicts[0].error)


def test_the_error_of_the_bias_is_its_scatter():
    found = [shear_bias(synthetic(200, seed, bias=0.01)) for seed in range(300)]
    biases, errors = np.array(found).T
    # Standard error of a mean of 300, and of a standard deviation of 300: 1 / sqrt(600); four of each.
    assert biases.mean() == pytest.approx(0.01, abs=4 * biases.std() / np.sqrt(300))
    assert errors.mean() == pytest.approx(biases.std(), rel=4 / np.sqrt(600))


@pytest.mark.slow
def test_false_alarms_are_as_rare_as_they_say():
    """Two halves of one population, of different sizes, 200 times at a level of 5 %."""
    verdicts = []
    for seed in range(REPETITIONS):
        table = synthetic(500, seed)
        verdicts.append(shear_tests(table[:280], table[280:], seed=seed, alpha=ALPHA))
    p_values = np.array([[verdict.p_value for verdict in three] for three in verdicts])
    assert ((p_values < ALPHA).sum(axis=0) <= MOST_ALARMS).all()
    # Nor are they conservative: mean of 200 uniform numbers, 4 standard errors.
    assert (np.abs(p_values.mean(axis=0) - 0.5) < 4 / np.sqrt(12 * REPETITIONS)).all()


def test_failures_are_flagged_and_keep_their_row():
    psf = psf_of(ODD_PSF, 4)
    psf.stamp[3, 0, 0] = np.nan
    good = observed()[0]
    nothing = good.copy()
    nothing[3, 4] = np.nan
    table = measure_shear(np.stack([good, nothing, -good, good]), psf, workers=1, pixel_scale_arcsec=0.03)
    assert table["flag"].tolist() == [0, ShearFlag.NOT_FINITE, ShearFlag.NO_MOMENTS, ShearFlag.NOT_FINITE]
    for name in ("response", "difference", "g1", "sigma"):
        assert np.isfinite(table[name]).tolist() == [True, False, False, False]
    with pytest.raises(ValueError, match="at least 2 .*got 1"):
        shear_bias(table)


@pytest.mark.slow
def test_processes_change_nothing(monkeypatch):
    monkeypatch.setattr("hiergal.validation.shear.GALAXIES_PER_TASK", 1)
    images, psf = observed()[:2], psf_of(ODD_PSF, 2)
    done = []
    alone = measure_shear(images, psf, workers=1, pixel_scale_arcsec=0.03)
    shared = measure_shear(images, psf, workers=2, on_progress=done.append, pixel_scale_arcsec=0.03)
    for name in alone.colnames:
        np.testing.assert_array_equal(alone[name], shared[name])
    assert sum(done) == 2


def test_bad_input_is_named():
    images, psf = observed()[:2], psf_of(ODD_PSF, 2)
    # The shape checks of the tests would come first.
    unchecked = getattr(measure_shear, "__wrapped__", measure_shear)
    with pytest.raises(ValueError, match=r"\[n, y, x\].*got \(55, 62\)"):
        unchecked(images[0], psf, pixel_scale_arcsec=0.03)
    with pytest.raises(ValueError, match=r"psf:.*\[2, py, px\].*got \(3, 41, 37\)"):
        measure_shear(images, psf_of(ODD_PSF, 3), pixel_scale_arcsec=0.03)
    with pytest.raises(ValueError, match=r"shear: expected 0 to 0.1, got -0.02"):
        measure_shear(images, psf, shear=-0.02, pixel_scale_arcsec=0.03)
    with pytest.raises(ValueError, match=r"step: expected 0 to 0.1, got 0.5"):
        measure_shear(images, psf, step=0.5, pixel_scale_arcsec=0.03)
    with pytest.raises(ValueError, match="expected positive ones"):
        measure_shear(images, psf, target_fwhm_arcsec=0.0, pixel_scale_arcsec=0.03)
    one, two = synthetic(20, 1), synthetic(20, 2)
    two.meta["shear"] = 0.01
    with pytest.raises(ValueError, match="other: expected the shears of real"):
        shear_tests(one, two)
