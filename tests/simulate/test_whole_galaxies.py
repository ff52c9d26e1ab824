"""Galaxies as large as their light: dense twins of what is beyond a stamp, and the same galaxy on every grid."""

import warnings

import galsim
import jax
import numpy as np
import pytest
from astropy.io import fits
from toys import SCALE, framed_model, plain_recipe, tiny_model

from hiergal.hub.bundle import save_model
from hiergal.model.architecture import generator_of
from hiergal.model.nets.framed.frame import ELLIPSE
from hiergal.model.profile_grid import ProfileGrid, grid_of, scaled_grid
from hiergal.runtime.seeds import SAMPLE, key_for
from hiergal.simulate import stamps as stamps_module
from hiergal.simulate.catalog import sample_catalog
from hiergal.simulate.observing import Observing
from hiergal.simulate.profiles import draw_profiles, light_profiles
from hiergal.simulate.row_numbers import base_for_rows
from hiergal.simulate.stamps import (
    FAINTEST_EDGE,
    LIGHT,
    SIDES,
    LightStamps,
    choose_stamps,
    draw_whole_galaxies,
    latents_from_base,
    warn_of_lost_light,
)
from hiergal.simulate.survey_presets import survey_conditions
from hiergal.simulate.survey_stamps import SurveyRenderers, _drawn, draw_survey_stamps

WIDE = 300  # pixels of the stamp that stands for the plane
N = 8
CONDITIONS = np.tile([[23.0, 8.0, 0.8]], (N, 1))
HALF_SIDES = (8.0, 11.0, 16.0, 22.0, 32.0)


@pytest.fixture(scope="module")
def model():
    return framed_model()


@pytest.fixture(scope="module")
def base(model):
    """Galaxies of radii of 2 to 5 pixels, bright and faint, with Sersic indices of 0.6 to 3, off centre."""
    rng = np.random.default_rng(4)
    z = rng.normal(size=(N, model.recipe.generator.latents)).astype(np.float32)
    for column, values in {
        3: np.geomspace(2.0, 5.0, N),
        6: rng.permutation(np.geomspace(0.6, 2.5, N)),
    }.items():
        offset, spread = list(ELLIPSE.values())[column][:2]
        z[:, column] = (np.log(values) - offset) / spread
    z[:, 0] = np.linspace(-1.5, 2.5, N)[::-1]
    return z


@pytest.fixture(scope="module")
def z(model, base):
    return latents_from_base(model, base, CONDITIONS)


@pytest.fixture(scope="module")
def dense(model, z):
    """Profiles on a stamp far larger than the light."""
    return np.asarray(decode(model, z, ProfileGrid((WIDE, WIDE), SCALE, 0.0353)), float)


@pytest.fixture(scope="module")
def whole(model, base):
    return draw_whole_galaxies(model, base, CONDITIONS, np.ones(N, bool))


def decode(model, z, grid):
    return jax.jit(lambda z: model.decode(z, grid))(z)


def flux_of(model, z):
    """The flux on the plane, by its definition."""
    generator = model.recipe.generator
    return np.exp(generator.log_flux_mean + generator.log_flux_spread * np.asarray(z, float)[:, 0])


def outside(half_side):
    """Pixels of the wide stamp whose middles are outside a square."""
    x = np.abs(np.arange(WIDE) - (WIDE - 1) / 2)
    return np.maximum(x[:, None], x) > half_side


def test_structure_is_there(model, z):
    """Or the tests of this file would be of smooth galaxies: a profile and its mirror image differ by much of it."""
    profile = np.asarray(
        decode(model, z * (np.arange(z.shape[1]) != 1) * (np.arange(z.shape[1]) != 2), grid_of(model.recipe))
    )
    odd = np.abs(profile - profile[:, ::-1, ::-1]).sum(axis=(1, 2)) / profile.sum(axis=(1, 2))
    assert np.median(odd) > 0.05


def test_light_beyond_squares_is_that_of_a_dense_integral(model, z, dense):
    found = jax.jit(lambda z: model.light_beyond(z, HALF_SIDES))(z)
    masks = [outside(half_side) for half_side in HALF_SIDES]
    flux = flux_of(model, z)[:, None]
    np.testing.assert_allclose(dense.sum(axis=(1, 2))[:, None], flux, rtol=3e-3)
    share = np.stack([(dense * mask).sum(axis=(1, 2)) for mask in masks], axis=1) / flux
    brightness = np.stack([(dense * mask).max(axis=(1, 2)) for mask in masks], axis=1)
    counts = share > 1e-4
    assert counts.sum() > 15
    for twin, bound, most in ((share, found.share, 1.3), (brightness, found.brightness, 1.5)):
        ratio = np.asarray(bound)[counts] / twin[counts]
        assert ratio.min() > 0.97 and ratio.max() < most


def test_stamps_are_the_smallest_that_hold_the_light(model, z, dense):
    stamps = choose_stamps(model, z)
    flux = flux_of(model, z)
    faintest = 10 ** (0.4 * (25.94 - FAINTEST_EDGE)) * SCALE**2
    assert len(set(stamps.side.tolist())) > 2
    for i, side in enumerate(stamps.side):
        lost = (dense[i] * outside(side / 2)).sum() / flux[i]
        assert lost < 1 - LIGHT and (dense[i] * outside(side / 2)).max() < 1.05 * faintest
        np.testing.assert_allclose(stamps.lost[i], lost, rtol=0.3, atol=2e-4)
        if side > SIDES[0]:
            mask = outside(SIDES[SIDES.index(side) - 1] / 2)
            too_little = (dense[i] * mask).sum() / flux[i] > 0.75 * (1 - LIGHT)
            assert too_little or (dense[i] * mask).max() > 0.65 * faintest


def test_a_large_stamp_holds_the_small_one(model, z, dense, whole):
    for i, profile in enumerate(whole):
        margin = (WIDE - len(profile)) // 2
        middle = dense[i, margin : margin + len(profile), margin : margin + len(profile)]
        np.testing.assert_allclose(profile, middle, atol=1e-5 * middle.max())
    own = np.asarray(decode(model, z, grid_of(model.recipe)))
    margin = (WIDE - 24) // 2
    np.testing.assert_allclose(own, dense[:, margin:-margin, margin:-margin], atol=1e-5 * own.max())


def test_light_in_apertures_is_that_of_a_dense_integral(model, z, whole):
    """Circles of several radii, integrated over pixels a quarter as wide, of light blurred with the same Gaussian."""
    i = N - 2
    side = 4 * len(whole[i])
    fine = np.asarray(decode(model, z[i : i + 1], ProfileGrid((side, side), SCALE / 4, 0.0353))[0], float)
    galaxy = light_profiles(model.recipe, [whole[i]])[0]
    smooth = galsim.Convolve(galaxy, galsim.Gaussian(fwhm=0.0353))
    drawn = smooth.drawImage(nx=side, ny=side, scale=SCALE / 4, method="no_pixel").array
    x = (np.arange(side) - (side - 1) / 2) / 4
    total = flux_of(model, z)[i]
    for radius in (4.0, 8.0, 16.0, 30.0):
        inside = np.hypot(x[:, None], x) < radius
        assert abs(drawn[inside].sum() - fine[inside].sum()) < 1e-3 * total


def test_galaxies_do_not_depend_on_the_others(model, base, whole):
    order = np.random.default_rng(0).permutation(N)[:5]
    found = draw_whole_galaxies(model, base[order], CONDITIONS[:5], np.ones(5, bool))
    for row, profile in zip(order, found, strict=True):
        np.testing.assert_array_equal(profile, whole[row])
    drawn = np.arange(N) != 3
    found = draw_whole_galaxies(model, base, CONDITIONS, drawn)
    assert np.isnan(found[3]).all()
    np.testing.assert_array_equal(found[4], whole[4])


def test_a_field_has_the_light_of_its_catalogue(model, z, whole):
    light = np.array([profile.sum(dtype=float) for profile in whole]) / flux_of(model, z)
    assert light.min() > LIGHT - 3e-3 and light.max() < 1.003
    assert 0.99 < (light * flux_of(model, z)).sum() / flux_of(model, z).sum() < 1.003


@pytest.mark.parametrize(
    ("survey", "band"), [("LSST", "i"), ("HSC", "i"), ("Roman_WFI", "F158"), ("Euclid_VIS", "IE")]
)
def test_no_edge_is_seen_over_the_noise(whole, survey, band):
    """Brightness at the edge below a tenth of a pixel's noise at full depth; without large stamps it is not."""
    pytest.importorskip("surveycodex")
    about = survey_conditions(survey, band)
    electrons = (
        10 ** (0.4 * (about.zero_point - 25.94)) * (about.pixel_scale / SCALE) ** 2 / np.sqrt(about.sky_level)
    )

    def edge(profile):
        return electrons * max(profile[0].max(), profile[-1].max(), profile[:, 0].max(), profile[:, -1].max())

    assert max(edge(profile) for profile in whole) < 0.1
    middles = [profile[len(profile) // 2 - 12 :][:24, len(profile) // 2 - 12 :][:, :24] for profile in whole]
    assert max(edge(profile) for profile in middles) > 1


def test_warns_of_galaxies_larger_than_all_stamps(model, base, monkeypatch):
    monkeypatch.setattr(stamps_module, "SIDES", (32, 44))
    with pytest.warns(
        UserWarning, match=r"of 8 galaxies are larger than 44 pixels, the largest stamp: up to"
    ):
        found = draw_whole_galaxies(model, base, CONDITIONS, np.ones(N, bool))
    assert max(len(profile) for profile in found) == 44
    warn_of_lost_light(LightStamps(np.array([32]), np.array([0.004])))  # of what fits, nothing is said


def galaxies_of(model, **options):
    catalog = {"mag_auto": [22.0, 23.0], "flux_radius": [9.0, 7.0], "zphot": [0.8, 0.9]}
    return model.sample(catalog, key=5, outside="ignore", **options)


def test_fluxes_and_sizes_are_exact(model):
    found = galaxies_of(model, flux=[10.0, 20.0], half_light_radius=[0.3, 0.2])
    np.testing.assert_allclose([galaxy.flux for galaxy in found], [10, 20], rtol=1e-6)
    np.testing.assert_allclose([galaxy.calculateHLR() for galaxy in found], [0.3, 0.2], rtol=2e-3)


def test_finer_pixels_show_the_same_galaxy_and_more(model):
    coarse, fine = galaxies_of(model), galaxies_of(model, pixel_scale_arcsec=SCALE / 2)
    psf, narrow = galsim.Gaussian(fwhm=0.15), galsim.Gaussian(fwhm=0.025)
    for one, other in zip(coarse, fine, strict=True):
        images = [
            galsim.Convolve(galaxy, psf).drawImage(nx=60, ny=60, scale=0.05, method="no_pixel").array
            for galaxy in (one, other)
        ]
        np.testing.assert_allclose(images[1], images[0], atol=5e-3 * images[0].max())
        np.testing.assert_allclose(other.flux, one.flux, rtol=5e-3)
        # A PSF that is narrower than the blur of the coarse profiles.
        sharp = galsim.Convolve(other, narrow).drawImage(nx=200, ny=200, scale=0.01, method="no_pixel").array
        assert sharp.min() > -0.05 * sharp.max()


def test_shear_and_lens_are_clean(model):
    psf = galsim.Gaussian(fwhm=0.3)
    galaxy, _ = galaxies_of(model, flux=1e5)
    size = {"nx": 400, "ny": 400, "scale": 0.05}
    for changed, flux in ((galaxy.shear(g1=0.3, g2=-0.1), 1e5), (galaxy.lens(0.1, 0.05, 1.25), 1.25e5)):
        image = galsim.Convolve(changed, psf).drawImage(**size, method="no_pixel").array
        np.testing.assert_allclose(image.sum(), flux, rtol=1e-4)
        border = np.concatenate(
            [image[:2].ravel(), image[-2:].ravel(), image[:, :2].ravel(), image[:, -2:].ravel()]
        )
        assert np.abs(border).max() < 1e-6 * image.max()


def test_photons_fall_where_the_light_is(model):
    """As many in each quadrant as the light drawn without photons has, to 5 standard errors; none is negative."""
    options = {"flux": 20_000.0, "pixel_scale_arcsec": SCALE / 2}
    psf, size = galsim.Gaussian(fwhm=0.1), {"nx": 120, "ny": 120, "scale": 0.05}
    galaxy, _ = galaxies_of(model, **options)
    shootable, _ = galaxies_of(model, **options, deconvolve=False, x_interpolant="linear")
    drawn = galsim.Convolve(galaxy, psf).drawImage(**size).array
    shot = galsim.Convolve(shootable, psf).drawImage(
        **size, method="phot", rng=galsim.BaseDeviate(3), poisson_flux=False
    )
    assert shot.array.min() >= 0
    for part in np.ndindex(2, 2):
        cut = tuple(slice(60) if first else slice(60, None) for first in part)
        assert abs(shot.array[cut].sum() - drawn[cut].sum()) < 5 * np.sqrt(20_000 * 3 / 16)


PSF, PIXEL = galsim.Kolmogorov(fwhm=0.7), 0.2


@pytest.fixture(scope="module")
def survey(model):
    return SurveyRenderers(model, PSF, pixel_scale_arcsec=PIXEL, shape=(40, 36))


def test_survey_stamps_are_galsims(model, base, whole, survey):
    found = draw_survey_stamps(model, survey, base, CONDITIONS, flux_scale=30.0)
    fine = galsim.GSParams(folding_threshold=1e-3, maximum_fft_size=16384)
    for i in (0, 5, N - 1):
        galaxy = light_profiles(model.recipe, [whole[i]], gsparams=fine)[0]
        expected = 30 * galsim.Convolve(galaxy, PSF, gsparams=fine).drawImage(nx=36, ny=40, scale=PIXEL).array
        np.testing.assert_allclose(found[i], expected, atol=1e-3 * expected.max())
        np.testing.assert_allclose(found[i].sum(), expected.sum(), rtol=2e-3)


def test_survey_stamps_do_not_depend_on_the_others(model, base, survey):
    options = {"sky_level": 50.0, "key": 3, "flux": np.linspace(50, 500, N)}
    found = draw_survey_stamps(model, survey, base, CONDITIONS, **options)
    some = np.array([7, 2, 4])
    again = draw_survey_stamps(
        model,
        survey,
        base[some],
        CONDITIONS[some],
        **(options | {"flux": options["flux"][some], "rows": some}),
    )
    np.testing.assert_array_equal(again, found[some])
    clean = draw_survey_stamps(model, survey, base, CONDITIONS, flux=options["flux"])
    np.testing.assert_allclose(
        clean.sum(axis=(1, 2)), options["flux"], rtol=0.03
    )  # wings of the PSF are outside
    with pytest.raises(ValueError, match="expected a key and a sky of zero or more"):
        draw_survey_stamps(model, survey, base, CONDITIONS, sky_level=1.0)


def test_programs_are_compiled_once_for_each_stamp(model, base, survey):
    draw_survey_stamps(model, survey, base, CONDITIONS)
    before = _drawn._cache_size()
    draw_survey_stamps(model, survey, base[::-1], CONDITIONS)
    draw_survey_stamps(model, survey, base[:3], CONDITIONS[:3])
    assert _drawn._cache_size() == before


def test_catalogues_of_a_survey_hold_all_the_light(model, tmp_path):
    """`hiergal sample --preset`: electrons on the stamp are those of the latents' flux, to the PSF's wings."""
    pytest.importorskip("surveycodex")
    save_model(model, tmp_path / "framed")
    catalog = {"mag_auto": [22.0, 23.0, 23.5], "flux_radius": [9.0, 7.0, 8.0], "zphot": [0.8, 0.9, 0.4]}
    about = {"seed": 5, "outside": "ignore", "progress": False}
    seen = Observing("LSST", "i", 72, noise=False)
    path = sample_catalog(str(tmp_path / "framed"), catalog, tmp_path / "a.fits", observing=seen, **about)
    found = fits.getdata(path).sum(axis=(1, 2), dtype=float)
    rows = np.stack([catalog[name] for name in catalog], axis=1)
    base = base_for_rows(model, key_for(5, SAMPLE), np.arange(3))
    flux = flux_of(model, latents_from_base(model, base, rows))
    electrons = flux * 10 ** (0.4 * (survey_conditions("LSST", "i").zero_point - 25.94))
    np.testing.assert_allclose(found, electrons, rtol=0.03)


def test_profiles_of_one_shape_on_any_grid(model, tmp_path):
    """Stamps of one size of one's own, in memory and in files; their middle is that of the model's stamp."""
    catalog = {"mag_auto": [22.0, 23.0], "flux_radius": [9.0, 7.0], "zphot": [0.8, 0.9]}
    about = {"key": key_for(5, SAMPLE), "outside": "ignore"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of light at the edge of small stamps
        own = draw_profiles(model, catalog, **about)
        large = draw_profiles(model, catalog, shape=(48, 52), **about)
        fine = draw_profiles(model, catalog, shape=(96, 104), pixel_scale_arcsec=SCALE / 2, **about)
    np.testing.assert_allclose(large[:, 12:36, 14:38], own, atol=1e-5 * own.max())
    np.testing.assert_allclose(fine.sum(axis=(1, 2)), large.sum(axis=(1, 2)), rtol=0.02)
    save_model(model, tmp_path / "framed")
    options = {"seed": 5, "outside": "ignore", "progress": False}
    path = sample_catalog(str(tmp_path / "framed"), catalog, tmp_path / "a.fits", stamp=48, **options)
    np.testing.assert_allclose(fits.getdata(path), large[:, :, 2:-2], atol=1e-5 * large.max())


def test_other_kinds_draw_on_their_own_pixels_alone():
    old = tiny_model(plain_recipe((16, 24)))
    z = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    np.testing.assert_array_equal(old.decode(z, grid_of(old.recipe)), old.decode(z))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of light at the edge
        profiles = draw_whole_galaxies(old, z, CONDITIONS[:3], np.ones(3, bool))
    assert [profile.shape for profile in profiles] == [(16, 24)] * 3
    for refused in (
        lambda: old.decode(z, ProfileGrid((32, 24), SCALE, 0.0)),
        lambda: generator_of(old.recipe, grid=ProfileGrid((16, 24), 0.01, 0.0)),
        lambda: old.sample({"mag_auto": [22.0]}, key=1, pixel_scale_arcsec=0.01),
    ):
        with pytest.raises(
            ValueError, match=r"expected \(16, 24\) pixels of 0.03 arcsec, the only ones that"
        ):
            refused()
    with pytest.raises(ValueError, match="expected a generator whose light is a function on the plane"):
        choose_stamps(old, z)
    with pytest.raises(ValueError, match="expected positive pixels"):
        scaled_grid(framed_model().recipe, pixel_scale_arcsec=0.0)


def test_requests_that_are_refused_take_no_random_numbers():
    old, rng = tiny_model(plain_recipe((16, 24))), galsim.BaseDeviate(4)
    with pytest.raises(ValueError, match="the only ones that"):
        old.sample(
            {"mag_auto": [22.0], "flux_radius": [9.0], "zphot": [0.5]}, rng=rng, pixel_scale_arcsec=0.01
        )
    assert rng.raw() == galsim.BaseDeviate(4).raw()
