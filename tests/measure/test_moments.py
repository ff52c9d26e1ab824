"""Moments against analytic Gaussians, failures that stay in the table, and the reference curves against themselves."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtr

from hiergal.measure.moments import measure_moments
from hiergal.validation.reference import (
    ReferenceCurve,
    cosmos_reference,
    ks_distance,
    read_paper_curves,
    smoothed_cdf,
)


def gaussian(shape: tuple[int, int], sigma: float, g: float, angle: float, flux: float) -> np.ndarray:
    """An elliptical Gaussian of determinant radius sigma [pixels], on a stamp of any shape."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    x, y = x - (shape[1] - 1) / 2 - 0.3, y - (shape[0] - 1) / 2 + 0.2
    q = (1 - g) / (1 + g)
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    return flux * np.exp(-0.5 * (u**2 * q + v**2 / q) / sigma**2) / (2 * np.pi * sigma**2)


@pytest.mark.parametrize(("g", "angle"), [(0.0, 0.0), (0.3, 0.4), (0.3, 2.0), (0.5, 1.2)])
def test_gaussians_are_recovered(g, angle):
    moments = measure_moments(gaussian((61, 70), 4.0, g, angle, 25.0)[None], pixel_scale_arcsec=0.05)[0]
    assert moments["sigma"] == pytest.approx(0.2, rel=2e-3)
    assert moments["g1"] == pytest.approx(g * np.cos(2 * angle), abs=2e-3)
    assert moments["g2"] == pytest.approx(g * np.sin(2 * angle), abs=2e-3)
    assert moments["g"] == pytest.approx(g, abs=2e-3)
    assert moments["rho4"] == pytest.approx(2.0, abs=5e-3)
    assert moments["amplitude"] == pytest.approx(25.0, rel=2e-3)


def knotty(g: complex = 0j, dilation: float = 1.0, angle: float = 0.0) -> np.ndarray:
    """A disc with bulge and two knots, then dilated, sheared and turned about the centre of an odd stamp by GalSim."""
    import galsim

    disc = galsim.Exponential(half_light_radius=0.4, flux=10.0).shear(g1=0.2, g2=-0.1)
    knots = galsim.Gaussian(sigma=0.08, flux=1.0).shift(0.3, 0.1) + galsim.Gaussian(
        sigma=0.08, flux=1.0
    ).shift(-0.3, -0.1)
    galaxy = disc + galsim.Gaussian(sigma=0.1, flux=3.0) + knots
    galaxy = galaxy.dilate(dilation).shear(g1=g.real, g2=g.imag).rotate(angle * galsim.radians)
    return galaxy.drawImage(nx=141, ny=151, scale=0.05, method="no_pixel", dtype=float).array


def moments_of(*images: np.ndarray):
    return measure_moments(np.stack(images), pixel_scale_arcsec=0.05)


@pytest.mark.parametrize("g", [0.05 + 0j, 0.05j, -0.2 + 0.1j])
def test_shear_adds_to_ellipticity_as_shears_do(g):
    """The adaptive weight is sheared along: g' = (g + e) / (1 + g* e), and the determinant stays (Bartelmann &
    Schneider 2001, Eq. 4.12)."""
    before, after = moments_of(knotty(), knotty(g))
    e = before["g1"] + 1j * before["g2"]
    expected = (e + g) / (1 + np.conj(g) * e)
    assert after["g1"] + 1j * after["g2"] == pytest.approx(expected, abs=5e-4)
    assert after["sigma"] == pytest.approx(before["sigma"], rel=1e-3)
    assert after["rho4"] == pytest.approx(before["rho4"], rel=2e-3)


@pytest.mark.parametrize("dilation", [0.8, 1.3])
def test_dilation_scales_sizes_and_nothing_else(dilation):
    before, after = moments_of(knotty(), knotty(dilation=dilation))
    assert after["sigma"] == pytest.approx(dilation * before["sigma"], rel=1e-3)
    for name in ("g1", "g2", "rho4"):
        assert after[name] == pytest.approx(before[name], abs=2e-3)
    assert after["amplitude"] == pytest.approx(before["amplitude"], rel=2e-3)


@pytest.mark.parametrize("angle", [0.3, np.pi / 2, 2.0])
def test_rotation_turns_ellipticity_twice_as_far(angle):
    before, after = moments_of(knotty(), knotty(angle=angle))
    turned = (before["g1"] + 1j * before["g2"]) * np.exp(2j * angle)
    assert after["g1"] + 1j * after["g2"] == pytest.approx(turned, abs=5e-4)
    for name in ("sigma", "g", "rho4"):
        assert after[name] == pytest.approx(before[name], rel=2e-3)


def test_failures_are_flagged_and_keep_their_row():
    good = gaussian((40, 40), 3.0, 0.1, 0.0, 1.0)
    moments = measure_moments(
        np.stack([good, np.full_like(good, np.nan), -good, good]), pixel_scale_arcsec=0.03
    )
    assert moments["flag"].tolist() == [0, 1, 1, 0]
    assert np.isnan(moments["sigma"][1:3]).all()


def test_processes_change_nothing(monkeypatch):
    monkeypatch.setattr("hiergal.measure.moments.GALAXIES_PER_TASK", 2)
    stamps = np.stack([gaussian((33, 35), 2.0 + 0.2 * i, 0.1, 0.3 * i, 1.0) for i in range(5)])
    alone, shared = (
        measure_moments(stamps, workers=1, pixel_scale_arcsec=0.03),
        measure_moments(stamps, workers=2, pixel_scale_arcsec=0.03),
    )
    for name in alone.colnames:
        np.testing.assert_array_equal(alone[name], shared[name])


def test_one_stamp_needs_an_axis():
    # The shape checks of the tests would come first.
    unchecked = getattr(measure_moments, "__wrapped__", measure_moments)
    with pytest.raises(ValueError, match=r"\[n, y, x\].*got \(8, 8\)"):
        unchecked(np.zeros((8, 8)), pixel_scale_arcsec=0.03)


def test_distance_accepts_the_parent_and_rejects_others():
    x = np.linspace(0, 1, 200)
    uniform = ReferenceCurve("mag_auto", x, x, 0.5)
    sample = np.random.default_rng(1).uniform(size=4000)
    # 1.63 / sqrt(n) is exceeded once in a hundred; the seed is fixed.
    assert ks_distance(sample, uniform) < 1.63 / np.sqrt(4000)
    assert ks_distance(sample**1.2, uniform) > 0.05
    assert ks_distance(0.2 + 0.6 * sample, uniform) > 0.15


def test_smoothing_follows_the_rule_of_the_paper():
    sample = np.random.default_rng(2).normal(size=20000)
    below = smoothed_cdf(sample, np.array([-2.0, 0.0, 1.0]))
    bandwidth = 1.059 * 20000**-0.2
    # A Gaussian stays one, wider by the bandwidth; 4 standard errors of a share.
    np.testing.assert_allclose(
        below, ndtr(np.array([-2.0, 0.0, 1.0]) / np.hypot(1, bandwidth)), atol=4 * 0.0036
    )


def test_distance_wants_finite_values():
    with pytest.raises(ValueError, match="leave out rows whose flag is not 0"):
        ks_distance(np.array([0.1, np.nan]), cosmos_reference()["g"])


def test_compact_reference_is_monotonic_and_has_the_published_means():
    curves = cosmos_reference()
    assert {name: curve.mean for name, curve in curves.items() if curve.smoothed} == {
        "sigma": 0.1888,
        "g": 0.2481,
    }
    for curve in curves.values():
        assert (np.diff(curve.x) > 0).all()
        assert (np.diff(curve.cdf) > 0).all()


@pytest.mark.skipif(
    "HIERGAL_DATA" not in os.environ, reason="HIERGAL_DATA is not set: no published curves to compare"
)
def test_compact_reference_agrees_with_the_full_curves():
    folder = Path(os.environ["HIERGAL_DATA"]) / "paper_figures"
    full, compact = read_paper_curves(folder), cosmos_reference()
    for name, curve in full.items():
        known = np.interp(curve.x, compact[name].x, compact[name].cdf)
        inside = (curve.x >= compact[name].x[0]) & (curve.x <= compact[name].x[-1])
        # Half a node of the table, where a curve is steep.
        assert np.abs(known - curve.cdf)[inside].max() < 0.006
    # The distance of the paper's own mock, from the curves: 0.030 in sigma, 0.048 in |g|.
    paper = read_paper_curves(folder, "mock")
    for name, expected in (("sigma", 0.030), ("g", 0.048)):
        other = np.interp(full[name].x, paper[name].x, paper[name].cdf)
        assert np.abs(other - full[name].cdf).max() == pytest.approx(expected, abs=0.002)
