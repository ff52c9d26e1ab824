"""The mock survey: the same galaxies however drawn, truths that explain the images, a population like COSMOS."""

import os
import runpy
from pathlib import Path

import numpy as np
import pytest
from places import ROOT

from hiergal.measure.moments import measure_moments
from hiergal.measure.morphology import measure_paper_morphology
from hiergal.observation import check_observation
from hiergal.observation.independent import WhiteNoise
from hiergal.observation.psf import convolve
from hiergal.observation.stationary import StationaryNoise
from hiergal.survey.mock.galaxies import cosmos_noise_power, draw_mock
from hiergal.survey.mock.optics import draw_psf, psf_bank
from hiergal.survey.mock.population import draw_population, population_parameters
from hiergal.survey.mock.profiles import Arms, Component, render
from hiergal.survey.mock.structure import build_galaxy
from hiergal.validation.morphology_reference import morphology_distances, morphology_reference
from hiergal.validation.reference import cosmos_reference, ks_distance, read_paper_curves

ODD = (48, 61)  # a stamp without symmetries that could hide a mistake


@pytest.fixture(scope="module")
def batch():
    return draw_mock(200, seed=11, stamp=128)


def test_batches_are_valid_observations(batch):
    observation = check_observation(batch.observation)
    assert isinstance(observation.noise, StationaryNoise)
    assert batch.truth.dtype == observation.image.dtype == np.float32
    assert (batch.truth >= 0).all()
    white = check_observation(draw_mock(3, seed=11, stamp=ODD, noise="white").observation)
    assert isinstance(white.noise, WhiteNoise)


def test_workers_and_batches_change_nothing():
    whole = draw_mock(6, seed=5, stamp=ODD, workers=1)
    parts = [draw_mock(2, seed=5, stamp=ODD, workers=3), draw_mock(4, seed=5, stamp=ODD, first=2)]
    for of in (lambda b: b.truth, lambda b: b.observation.image, lambda b: b.observation.psf.stamp):
        np.testing.assert_array_equal(of(whole), np.concatenate([of(part) for part in parts]))
    for name, column in whole.observation.catalog.items():
        np.testing.assert_array_equal(
            column, np.concatenate([part.observation.catalog[name] for part in parts])
        )
    assert whole.observation.identifier.tolist() == [i for part in parts for i in part.observation.identifier]
    assert np.abs(draw_mock(2, seed=6, stamp=ODD).truth - whole.truth[:2]).max() > 0.01


def test_stamps_of_any_size_show_the_same_galaxies(batch):
    small = draw_mock(20, seed=11, stamp=64)
    inner = batch.truth[:20, 32:96, 32:96]
    # The outermost pixel alone is sharpened with another neighbour.
    np.testing.assert_allclose(small.truth[:, 1:-1, 1:-1], inner[:, 1:-1, 1:-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("noise", ["correlated", "white"])
def test_image_is_truth_blurred_plus_noise_of_the_model(noise):
    batch = draw_mock(40, seed=3, stamp=ODD, noise=noise)
    observation = batch.observation
    residual = observation.image - np.asarray(convolve(batch.truth, observation.psf))
    pixels = ODD[0] * ODD[1]
    chi_square = np.asarray(observation.noise.chi_square(residual))
    # chi-square has variance 2 per pixel: 4.5 standard errors each (once in 4,000 runs for the worst of 40).
    assert np.abs(chi_square / pixels - 1).max() < 4.5 * np.sqrt(2 / pixels)
    assert abs(chi_square.mean() / pixels - 1) < 4 * np.sqrt(2 / pixels / 40)
    levels = np.asarray(observation.noise.rms())
    np.testing.assert_allclose(levels, observation.catalog["noise_rms"], rtol=1e-5)


def test_noise_is_correlated_as_in_cosmos():
    import galsim

    correlation = np.fft.irfft2(cosmos_noise_power((80, 93)), s=(80, 93))
    noise = galsim.getCOSMOSNoise()
    image = galsim.Image(9, 9, scale=0.03, dtype=float)
    noise.drawImage(image, scale=0.03)
    expected = image.array / image.array.max()
    for dy, dx in ((0, 1), (1, 0), (1, 1), (-1, 1), (2, 0), (0, 3)):
        # A stamp that is cut out of a field: few pairs of pixels have long lags.
        pairs = (1 - abs(dy) / 80) * (1 - abs(dx) / 93)
        assert correlation[dy, dx] == pytest.approx(pairs * expected[4 + dy, 4 + dx], abs=2e-3)


@pytest.mark.parametrize(
    ("index", "radius", "q", "tolerance"),
    [
        (1.0, 3.0, 0.5, 2e-3),
        (1.0, 9.0, 0.3, 2e-3),
        (0.5, 2.0, 1.0, 2e-3),
        (2.0, 6.0, 0.7, 6e-3),
        (4.0, 8.0, 0.7, 2e-2),
    ],
)
def test_blurred_profiles_agree_with_galsim(index, radius, q, tolerance):
    """The effective PSF acts once: no second pixel; the error is a share of the peak."""
    import galsim

    psf = psf_bank()[3]
    component = Component(5.0, radius, index, q, angle=0.7, x=0.3, y=-0.2)
    profile = galsim.Sersic(index, half_light_radius=0.03 * radius * np.sqrt(q), flux=5.0)
    profile = profile.shear(q=q, beta=0.7 * galsim.radians).shift(0.3 * 0.03, -0.2 * 0.03)
    effective = galsim.InterpolatedImage(galsim.Image(psf, scale=0.03), x_interpolant="lanczos15")
    image = galsim.Image(ODD[1], ODD[0], scale=0.03, dtype=float)
    galsim.Convolve([profile, effective]).drawImage(image, method="no_pixel")
    drawn = draw_with_psf(component, psf)
    assert np.abs(drawn - image.array).max() < tolerance * image.array.max()
    assert drawn.sum() == pytest.approx(image.array.sum(), rel=tolerance)


def draw_with_psf(component: Component, psf: np.ndarray) -> np.ndarray:
    """Blur a profile that extends beyond the stamp, so that light comes in over the edges."""
    from scipy.signal import fftconvolve

    margin = 40
    profile = render([component], (ODD[0] + 2 * margin, ODD[1] + 2 * margin))
    return fftconvolve(profile, psf, mode="same")[margin:-margin, margin:-margin]


@pytest.mark.parametrize(
    "change",
    [
        {"arms": Arms(2.0, 2, 0.3, 1.0)},
        {"lopsided": 0.8},
        {"bend": 0.2},
        {"arms": Arms(1.5, 3, -0.4), "bend": -0.1},
    ],
)
def test_structure_keeps_the_flux(change):
    drawn = render([Component(7.0, 8.0, 1.0, 0.7, 0.4, **change)], (160, 150))
    assert drawn.sum() == pytest.approx(7.0, rel=5e-3)
    smooth = render([Component(7.0, 8.0, 1.0, 0.7, 0.4)], (160, 150))
    assert np.abs(drawn - smooth).sum() > 0.1 * 7.0


def test_large_late_types_are_less_symmetric_than_smooth_ones():
    catalog = draw_population(4000, seed=8)
    large = np.flatnonzero(
        (catalog["late_type"] == 1) & (catalog["hlr_arcsec"] > 0.3) & (catalog["mag_auto"] < 23)
    )
    spheroids = np.flatnonzero((catalog["late_type"] == 0) & (catalog["mag_auto"] < 23))

    def asymmetry(rows: np.ndarray) -> np.ndarray:
        values = []
        for i in rows[:60]:
            row = {name: float(column[i]) for name, column in catalog.items()}
            parts = build_galaxy(row, np.random.default_rng(i))
            truth = render(parts, (128, 128))
            x, y = round(parts[0].x), round(parts[0].y)
            truth = np.roll(truth, (-y, -x), (0, 1))
            values.append(np.abs(truth - truth[::-1, ::-1]).sum() / truth.sum())
        return np.array(values)

    late, early = asymmetry(large), asymmetry(spheroids)
    assert np.median(late) > np.median(early) + 0.1
    assert np.mean(late > 0.3) > 0.25


def test_psfs_are_like_those_of_acs():
    import galsim

    bank, rng = psf_bank(), np.random.default_rng(4)
    stamps = np.stack([draw_psf(rng, bank) for _ in range(60)])
    np.testing.assert_allclose(stamps.sum((1, 2)), 1, atol=1e-6)
    assert np.abs(stamps[1] - stamps[0]).max() > 1e-3
    widths = np.array(
        [galsim.Image(np.ascontiguousarray(stamp), scale=0.03).calculateFWHM() for stamp in stamps]
    )
    assert 0.088 < widths.min() < widths.max() < 0.120
    moments = measure_moments(stamps, pixel_scale_arcsec=0.03)
    assert 0.0515 < np.mean(moments["sigma"]) < 0.0545  # the real ones: 0.0530
    assert np.mean(moments["g"]) < 0.03  # the real ones: 0.016


def test_catalogue_has_the_moments_of_the_training_set():
    catalog = draw_population(6000, seed=21)
    wanted = {"mag_auto": (23.876, 1.458), "flux_radius": (9.865, 28.16), "zphot": (1.081, 0.555)}
    for name, (mean, variance) in wanted.items():
        # 4 standard errors of the mean, and 3 % for what the compact form cannot follow; variances within 25 %.
        assert catalog[name].mean() == pytest.approx(mean, rel=0.03, abs=4 * np.sqrt(variance / 6000))
        assert catalog[name].var() == pytest.approx(variance, rel=0.25)
    curves = cosmos_reference()
    assert ks_distance(catalog["mag_auto"], curves["mag_auto"]) < 0.03
    assert ks_distance(catalog["flux_radius"] * 0.03, curves["flux_radius_arcsec"]) < 0.06


def test_population_is_like_cosmos(batch):
    moments = measure_moments(batch.observation.image, pixel_scale_arcsec=0.03)
    good = moments[moments["flag"] == 0]
    assert len(good) > 0.93 * len(moments)
    for name, spread in (("sigma", 0.11), ("g", 0.145)):
        curve = cosmos_reference()[name]
        # 200 galaxies: 1.95 / sqrt(n) is exceeded once in a thousand; 0.06 is what the population itself may be off.
        assert ks_distance(good[name], curve) < 0.06 + 1.95 / np.sqrt(len(good))
        tolerance = 0.03 * curve.mean + 3.3 * spread / np.sqrt(len(good))
        assert np.mean(good[name]) == pytest.approx(curve.mean, abs=tolerance)


def test_shipped_numbers_are_those_that_the_script_fits(hiergal_data):
    path = ROOT / "inference" / "fit_mock_population.py"
    script = runpy.run_path(str(path))
    fitted, shipped = script["fit"](hiergal_data), population_parameters()
    assert fitted.keys() == shipped.keys()
    refined = {("late", "log_size"), ("late", "face_on_ellipticity"), ("light", "flux_radius")}
    for table, rows in shipped.items():
        for name, value in rows.items():
            if (table, name) not in refined:
                np.testing.assert_allclose(fitted[table][name], value, rtol=2e-3, err_msg=f"{table}.{name}")


@pytest.mark.slow
def test_five_thousand_galaxies_are_like_cosmos():
    folder = os.environ.get("HIERGAL_DATA")
    curves = read_paper_curves(Path(folder) / "paper_figures") if folder else cosmos_reference()
    images = [
        draw_mock(1000, seed=2025, stamp=128, first=first).observation.image for first in range(0, 5000, 1000)
    ]
    moments = measure_moments(np.concatenate(images), pixel_scale_arcsec=0.03)
    good = moments[moments["flag"] == 0]
    for name in ("sigma", "g"):
        assert ks_distance(good[name], curves[name]) < 0.06
        assert np.mean(good[name]) == pytest.approx(curves[name].mean, rel=0.03)


@pytest.mark.slow
def test_morphology_is_nearer_to_real_galaxies_than_parametric_fits_are():
    """M, I, D, Gini-M20 and I-D of 5,000 galaxies that the structure was not fitted to, against the paper's twins."""
    images = np.asarray(draw_mock(5000, seed=2025, stamp=64).observation.image)
    good = np.asarray(measure_moments(images, pixel_scale_arcsec=0.03)["flag"] == 0)
    distances = morphology_distances(measure_paper_morphology(images), morphology_reference(), good=good)
    # Of the paper's parametric twins, and of its mocks: 0.031, 0.036, 0.055, 0.142, 0.181.
    twins = {"log10_m": 0.085, "log10_i": 0.083, "d": 0.222, "m20_gini": 0.224, "d_log10_i": 0.258}
    for name, found in distances.items():
        print(
            f"{name}: {found.distance:.3f} +- {found.error:.3f}, {found.floor:.3f} by chance; twins {twins[name]}"
        )
    assert all(found.distance < twins[name] for name, found in distances.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stamp": 16}, "at least 32 pixels"),
        ({"noise": "pink"}, "expected 'correlated' or 'white', got 'pink'"),
    ],
)
def test_bad_arguments_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_mock(1, seed=1, **arguments)
