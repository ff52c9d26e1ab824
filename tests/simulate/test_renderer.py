"""The JAX renderer against GalSim's own drawing, for PSFs and pixels of many surveys; and what must hold for both."""

import galsim
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from toys import drawing_model

from hiergal.simulate.profiles import (
    base_for_rows,
    draw_profiles,
    light_profiles,
    profiles_from_base,
    stamps_from_base,
)
from hiergal.simulate.renderer import add_noise, renderer_for
from hiergal.simulate.survey_presets import survey_conditions, survey_psf

N = 6
CATALOG = {
    "mag_auto": np.linspace(21, 24, N),
    "flux_radius": np.linspace(12, 4, N),
    "zphot": np.linspace(0.2, 1.4, N),
}
SPACE = galsim.Airy(lam=814, diam=2.4, obscuration=0.33)
PSFS = {
    "HST, drizzled": (SPACE, 0.03),
    "HST, native, asymmetric": (SPACE.shear(g1=0.1, g2=-0.2).shift(0.013, -0.04), 0.05),
    "Euclid": (
        galsim.Convolve(galsim.Airy(lam=750, diam=1.2, obscuration=0.36), galsim.Gaussian(fwhm=0.05)),
        0.1,
    ),
    "HSC": (galsim.Moffat(beta=3.5, fwhm=0.6).shear(g1=0.03), 0.168),
    "LSST": (galsim.Kolmogorov(fwhm=0.75), 0.2),
}


@pytest.fixture(scope="module")
def model():
    return drawing_model((32, 40))


@pytest.fixture(scope="module")
def profiles(model):
    return draw_profiles(model, CATALOG, key=jax.random.key(0))


@pytest.mark.parametrize("name", PSFS)
@pytest.mark.parametrize(
    ("shape", "method"),
    [((32, 32), "auto"), ((33, 31), "auto"), ((24, 41), "no_pixel")]
    + [
        pytest.param(*one, marks=pytest.mark.slow)
        for one in (((24, 41), "auto"), ((32, 32), "no_pixel"), ((33, 31), "no_pixel"))
    ],
)
def test_pixels_are_those_of_galsim(model, profiles, name, shape, method):
    psf, scale = PSFS[name]
    draw = renderer_for(model, psf, pixel_scale_arcsec=scale, shape=shape, method=method)
    found = np.asarray(draw(profiles))
    for image, galaxy in zip(found, light_profiles(model.recipe, profiles), strict=True):
        ours = galsim.Convolve(galaxy, psf)
        theirs = ours.drawImage(nx=shape[1], ny=shape[0], scale=scale, method=method).array
        np.testing.assert_allclose(image, theirs, atol=1e-3 * theirs.max(), rtol=0)


def test_partly_deconvolved_models(model, profiles):
    blurred = model.replace(recipe=msgspec.structs.replace(model.recipe, profile_fwhm_arcsec=0.06))
    draw = renderer_for(blurred, SPACE, pixel_scale_arcsec=0.05, shape=(24, 24))
    for image, galaxy in zip(
        np.asarray(draw(profiles)), light_profiles(blurred.recipe, profiles), strict=True
    ):
        theirs = galsim.Convolve(galaxy, SPACE).drawImage(nx=24, ny=24, scale=0.05).array
        np.testing.assert_allclose(image, theirs, atol=2e-3 * theirs.max(), rtol=0)


def test_a_shift_goes_the_right_way(model, profiles):
    draw = renderer_for(model, galsim.Gaussian(fwhm=0.2), pixel_scale_arcsec=0.1, shape=(40, 44))
    moved = renderer_for(
        model, galsim.Gaussian(fwhm=0.2).shift(0.3, -0.5), pixel_scale_arcsec=0.1, shape=(40, 44)
    )
    before, after = np.asarray(draw(profiles)), np.asarray(moved(profiles))
    np.testing.assert_allclose(after[:, 5:30, 8:40], before[:, 10:35, 5:37], atol=1e-3 * before.max())


def test_flux_is_kept(model, profiles):
    draw = renderer_for(model, galsim.Moffat(beta=4.0, fwhm=0.4), pixel_scale_arcsec=0.2, shape=(60, 60))
    np.testing.assert_allclose(
        np.asarray(draw(profiles)).sum(axis=(1, 2)), profiles.sum(axis=(1, 2)), rtol=5e-3
    )


@pytest.mark.parametrize(("survey", "band"), [("LSST", "i"), ("SDSS", "r"), ("Euclid_VIS", "IE")])
@pytest.mark.parametrize("size", [32, 65])
def test_wings_do_not_come_around(model, profiles, survey, band, size):
    """The light in a stamp is GalSim's to 1e-3, at a folding threshold that keeps GalSim's own wings out of it."""
    scale, psf = float(survey_conditions(survey, band).pixel_scale), survey_psf(survey, band)
    found = np.asarray(renderer_for(model, psf, pixel_scale_arcsec=scale, shape=(size, size))(profiles[:2]))
    fine = galsim.GSParams(folding_threshold=1e-3)
    for image, galaxy in zip(found, light_profiles(model.recipe, profiles[:2], gsparams=fine), strict=True):
        both = galsim.Convolve(galaxy, psf.withGSParams(fine))
        theirs = both.drawImage(nx=size, ny=size, scale=scale).array
        assert image.sum() == pytest.approx(theirs.sum(), rel=1e-3)


def test_stamps_do_not_depend_on_the_others(model):
    draw = renderer_for(model, galsim.Kolmogorov(fwhm=0.7), pixel_scale_arcsec=0.2, shape=(20, 20))
    rng, n = np.random.default_rng(0), 40
    conditions = np.asarray(model.population)[:n]
    base = rng.normal(size=(n, model.recipe.generator.latents))
    options = {"sky_level": 50.0, "key": jax.random.key(1), "flux_scale": 30.0}
    whole = stamps_from_base(model, draw, base, conditions, **options)
    parts = [
        stamps_from_base(model, draw, base[i:j], conditions[i:j], rows=np.arange(i, j), **options)
        for i, j in ((0, 1), (1, 8), (8, 40))
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    clean = stamps_from_base(model, draw, base, conditions, flux_scale=30.0)
    np.testing.assert_allclose(
        clean, 30 * np.asarray(draw(profiles_from_base(model, base, conditions))), rtol=1e-3, atol=1e-3
    )
    scatter = (whole - clean) / np.sqrt(np.maximum(clean, 0) + 50.0)
    # 16,000 unit normals: four standard errors.
    assert abs(scatter.mean()) < 4 / np.sqrt(scatter.size)
    assert abs(scatter.var() - 1) < 4 * np.sqrt(2 / scatter.size)


def test_rows_decide_random_numbers(model):
    key = jax.random.key(3)
    whole = base_for_rows(model, key, np.arange(2000))
    np.testing.assert_array_equal(base_for_rows(model, key, np.arange(1500, 1510)), whole[1500:1510])
    assert len(np.unique(whole)) > 0.99 * whole.size


def test_noise_of_photons():
    image = jnp.full((200, 200), 100.0)
    noisy = add_noise(jax.random.key(0), image, 300.0)
    np.testing.assert_allclose([noisy.mean(), noisy.var()], [100.0, 400.0], rtol=4 * np.sqrt(2 / 40000))


BAD = [
    ({"method": "phot"}, "method: expected 'auto' or 'no_pixel', got 'phot'"),
    ({"pixel_scale_arcsec": 0.0}, "expected positive pixels"),
    ({"shape": (0, 3)}, "expected positive pixels"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_renderers(model, change, message):
    options = {"pixel_scale_arcsec": 0.2, "shape": (8, 8)} | change
    with pytest.raises(ValueError, match=message):
        renderer_for(model, galsim.Gaussian(fwhm=1.0), **options)


def test_noise_wants_a_key(model):
    draw = renderer_for(model, galsim.Gaussian(fwhm=1.0), pixel_scale_arcsec=0.2, shape=(8, 8))
    conditions, base = np.asarray(model.population)[:2], np.zeros((2, model.recipe.generator.latents))
    with pytest.raises(ValueError, match="expected a key and a sky"):
        stamps_from_base(model, draw, base, conditions, sky_level=3.0)
    with pytest.raises(ValueError, match="expected a key and a sky"):
        stamps_from_base(model, draw, base, conditions, sky_level=-3.0, key=jax.random.key(0))
