"""Parametric twins: profiles against GalSim, fits against what was drawn."""

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import awkward_psf

from hiergal.measure.parametric import fit_parametric
from hiergal.measure.sersic import sersic_profile
from hiergal.observation import Observation
from hiergal.observation.independent import WhiteNoise
from hiergal.observation.psf import PSF, convolve
from hiergal.survey.mock.profiles import Component, render

SHAPE, SCALE = (60, 71), 0.03
TRUTH = {
    "flux": [30.0, 8.0, 60.0, 20.0],
    "hlr_pix": [5.0, 3.5, 6.0, 4.0],
    "index": [1.0, 0.6, 2.5, 1.4],
    "g1": [0.3, -0.1, 0.0, -0.4],
    "g2": [-0.2, 0.2, 0.05, 0.1],
    "x_pix": [0.4, -0.3, 1.5, 0.0],
    "y_pix": [-0.2, 0.8, 0.1, -1.0],
}


def columns(**changes):
    return {name: np.array(values, np.float32) for name, values in (TRUTH | changes).items()}


@pytest.mark.parametrize(("index", "tolerance"), [(0.5, 2e-3), (1.0, 4e-3), (2.5, 0.01), (4.0, 0.025)])
def test_profiles_are_galsims(index, tolerance):
    """Through a PSF, on a non-square stamp, off centre; tolerances are parts of the peak."""
    import galsim

    width = 1.4  # of the effective PSF [pixels]
    y, x = np.mgrid[-12:13, -12:13]
    stamp = np.exp(-0.5 * (x**2 + y**2) / width**2)
    psf = PSF((stamp / stamp.sum())[None].astype(np.float32), pixel_scale_arcsec=SCALE)
    one = columns()
    profile = sersic_profile(SHAPE, *(one[name][:1] for name in ("flux", "hlr_pix")), np.array([index], np.float32),
                             *(one[name][:1] for name in ("g1", "g2", "x_pix", "y_pix")))  # fmt: skip
    found = np.asarray(convolve(profile, psf))[0]
    galaxy = galsim.Sersic(index, half_light_radius=5.0, flux=30.0).shear(g1=0.3, g2=-0.2).shift(0.4, -0.2)
    drawn = galsim.Convolve(galaxy, galsim.Gaussian(sigma=width)).drawImage(
        nx=71, ny=60, scale=1.0, method="no_pixel"
    )
    assert np.abs(found - drawn.array).max() < tolerance * drawn.array.max()


@pytest.mark.parametrize(("index", "tolerance"), [(0.5, 2e-3), (1.0, 5e-3), (2.5, 0.02), (4.0, 0.06)])
def test_mock_galaxies_have_the_same_law(index, tolerance):
    """Two drawings of one law: NumPy's without its arms and bends, and JAX's; tolerances are parts of the peak."""
    q, angle = 0.6, 0.7
    mock = render([Component(30.0, 6.0, index, q, angle, x=0.4, y=-0.2)], SHAPE)
    shear = (1 - q) / (1 + q)
    values = 30.0, 6.0 * np.sqrt(q), index, shear * np.cos(2 * angle), shear * np.sin(2 * angle), 0.4, -0.2
    profile = np.asarray(sersic_profile(SHAPE, *(np.array([value], np.float32) for value in values)))[0]
    assert np.abs(profile - mock).max() < tolerance * mock.max()
    assert abs(profile.sum() / mock.sum() - 1) < 0.2 * tolerance


def observed(sigma, seed=0, **changes):
    truth = columns(**changes)
    n = len(truth["flux"])
    profile = np.asarray(sersic_profile(SHAPE, *truth.values()))
    psf = awkward_psf(n)
    image = np.asarray(convolve(jnp.asarray(profile), psf))
    image = image + sigma * np.random.default_rng(seed).normal(size=image.shape).astype(np.float32)
    noise = WhiteNoise(np.full(n, sigma, np.float32))
    return Observation(image, psf, noise, None, {}, np.arange(n), SCALE), profile


def test_a_sersic_profile_is_found_again():
    """At high signal to noise, behind asymmetric PSFs; the flux, a sum, is known best."""
    observation, profile = observed(1e-4)
    twins = fit_parametric(observation, kinds=("sersic",))
    truth = columns()
    for name, expected, tolerance in (
        ("flux", truth["flux"], 0.01),
        ("sersic_index", truth["index"], 0.02),
        ("g1", truth["g1"], 0.01),
        ("g2", truth["g2"], 0.01),
        ("x_pix", truth["x_pix"], 0.02),
        ("y_pix", truth["y_pix"], 0.02),
    ):
        np.testing.assert_allclose(twins.table[name], expected, rtol=tolerance, atol=tolerance, err_msg=name)
    np.testing.assert_allclose(twins.table["hlr_arcsec"], SCALE * truth["hlr_pix"], rtol=0.01)
    assert twins.table["hlr_arcsec"].unit == "arcsec"
    assert (twins.table["flag"] == 0).all()
    scale = np.abs(profile).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(twins.profile / scale, profile / scale, atol=0.02)


def test_chi_square_is_one_and_the_simpler_model_is_kept():
    """Noise that hides no more than structure: a Sersic profile is enough for Sersic galaxies."""
    observation, _ = observed(0.01, index=[1.0, 1.0, 1.0, 1.0])
    table = fit_parametric(observation).table
    # The chi-square of 4260 pixels has a relative standard deviation of 0.022.
    np.testing.assert_allclose(table["chi_square"], 1, atol=4 * np.sqrt(2 / np.prod(SHAPE)))
    assert (table["kind"] == "sersic").all()


def test_bulge_and_disc_are_told_apart_from_one_profile():
    truth = columns(
        index=[1.0, 1.0, 1.0, 1.0], hlr_pix=[9.0, 9.0, 8.0, 9.0], x_pix=[0.0] * 4, y_pix=[0.0] * 4
    )
    observation, profile = observed(2e-3, **{name: list(map(float, v)) for name, v in truth.items()})
    bulge = truth | {
        "flux": 0.5 * truth["flux"],
        "index": np.full(4, 4.0, np.float32),
        "hlr_pix": np.full(4, 2.0, np.float32),
    }
    extra = np.asarray(convolve(sersic_profile(SHAPE, *bulge.values()), observation.psf))
    table = fit_parametric(observation.replace(image=observation.image + extra)).table
    assert (table["kind"] == "bulge_disc").all()
    np.testing.assert_allclose(table["bulge_fraction"], 1 / 3, atol=0.06)
    np.testing.assert_allclose(table["flux"], 1.5 * truth["flux"], rtol=0.05)


def test_masked_pixels_do_not_count():
    observation, _ = observed(0.01)
    mask = np.zeros(observation.image.shape, bool)
    mask[:, 30:34, 40:43] = True
    spoilt = np.where(mask, 1e3, observation.image).astype(np.float32)
    plain = fit_parametric(observation.replace(mask=mask), kinds=("sersic",)).table
    other = fit_parametric(observation.replace(image=spoilt, mask=mask), kinds=("sersic",)).table
    np.testing.assert_allclose(other["flux"], plain["flux"], rtol=1e-3)


def test_nothing_there_is_flagged_and_does_not_spoil_the_others():
    observation, _ = observed(0.01)
    image = np.array(observation.image)
    image[1] = 0.01 * np.random.default_rng(3).normal(size=SHAPE)
    twins = fit_parametric(observation.replace(image=image), kinds=("sersic",))
    assert twins.table["flag"].tolist() == [0, 1, 0, 0]
    assert np.isfinite(twins.profile).all()


def test_unknown_kinds_are_named():
    observation, _ = observed(0.01)
    fit = getattr(fit_parametric, "__wrapped__", fit_parametric)
    with pytest.raises(ValueError, match="kinds: expected some of sersic, bulge_disc"):
        fit(observation, kinds=("spiral",))
