"""Azimuthal modes of rings: known arms come back, laws of turning and mirroring hold, smooth ellipses have none."""

import numpy as np
import pytest
from conftest import awkward_psf

from hiergal.measure.arms import RINGS, STEP, ArmFlag, measure_arms, ring_modes
from hiergal.measure.moments import measure_moments
from hiergal.measure.petrosian import Ellipse
from hiergal.observation.psf import convolve

SCALE = 0.03
SHAPE = (97, 110)


def spiral(
    m=2, pitch=0.35, strength=0.3, *, radius=8.0, axis_ratio=0.7, angle=0.4, x0=0.3, y0=-0.6, phase=0.5
):
    """An exponential disc with logarithmic arms, seen as an ellipse; a pitch of None is a bar (constant phase)."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    x, y = x - (SHAPE[1] - 1) / 2 - x0, y - (SHAPE[0] - 1) / 2 - y0
    u = np.cos(angle) * x + np.sin(angle) * y
    v = (np.cos(angle) * y - np.sin(angle) * x) / axis_ratio
    r, theta = np.hypot(u, v) + 1e-9, np.arctan2(v, u)
    winds = 0.0 if pitch is None else m / np.tan(pitch) * np.log(r / radius)
    return np.exp(-r / radius) * (1 + strength * np.cos(m * theta - winds - phase))


def measured(*images):
    images = np.stack(images)
    return measure_arms(images, measure_moments(images, pixel_scale_arcsec=SCALE), pixel_scale_arcsec=SCALE)


def noisy(image, sigma, seeds):
    return [image + np.random.default_rng(seed).normal(0, sigma, image.shape) for seed in range(seeds)]


@pytest.mark.parametrize(("m", "pitch"), [(2, 0.25), (2, -0.35), (3, 0.25), (3, 0.5), (3, -0.35)])
def test_arms_of_known_pitch_come_back(m, pitch):
    table = measured(spiral(m, pitch))
    drift = m / np.tan(pitch)
    # A ring is 0.2 of ln r wide, over which the arms turn.
    seen = 0.3 * np.sinc(drift * STEP / (2 * np.pi))
    for part in ("", "_inner", "_outer"):
        assert table[f"m{m}{part}"][0] == pytest.approx(seen, rel=0.06)
    assert table[f"drift{m}"][0] == pytest.approx(drift, rel=0.05)
    assert table[f"winding{m}"][0] == pytest.approx(seen * np.sqrt(abs(np.sin(drift * STEP))), rel=0.1)
    assert np.arctan(m / table[f"drift{m}"][0]) == pytest.approx(pitch, abs=0.02)
    for other in {1, 2, 3} - {m}:
        assert table[f"m{other}"][0] < 0.2 * seen


def test_the_ellipse_follows_two_open_arms():
    """Moments take a part of m = 2 for elongation: a drift that is 9 % too small at a pitch of 29 degrees."""
    table = measured(spiral(2, 0.5))
    assert table["drift2"][0] == pytest.approx(0.913 * 2 / np.tan(0.5), rel=0.02)
    assert table["m2"][0] == pytest.approx(0.3 * np.sinc(2 / np.tan(0.5) * STEP / (2 * np.pi)), rel=0.06)


def test_modes_of_rings_are_amplitude_and_phase():
    """In its own ellipse, ring by ring, with phases counted from the x axis of the stamp."""
    pitch, phase, angle = 0.4, 0.5, 0.4
    middle = (np.array(SHAPE[::-1]) - 1) / 2 + (0.3, -0.6)
    radii = RINGS * 12
    modes = ring_modes(spiral(2, pitch, angle=angle, phase=phase), Ellipse(*middle, 0.7, angle), radii)
    drift = 2 / np.tan(pitch)
    expected = (
        0.3
        * np.sinc(drift * STEP / (2 * np.pi))
        * np.exp(1j * (drift * np.log(radii / 8.0) + phase + 2 * angle))
    )
    np.testing.assert_allclose(2 * modes[:, 2] / modes[:, 0], expected, atol=0.02)


def test_noise_hides_neither_amplitude_nor_pitch():
    """40 noisy stamps of a signal to noise of 3 in the pixels at the half-light radius."""
    image, pitch = spiral(2, 0.35), 0.35
    sigma, stamps = np.exp(-1.68) / 3, 40
    clean, table = measured(image), measured(*noisy(image, sigma, stamps))
    assert (table["flag"] == 0).all()
    for name in ("m2", "drift2", "winding2"):
        values = np.asarray(table[name])
        error = values.std(ddof=1) / np.sqrt(stamps)
        # Noise adds a little power to an amplitude: 2 % of it here.
        assert values.mean() == pytest.approx(clean[name][0], abs=4 * error + 0.02 * abs(clean[name][0]))
    assert np.std(table["drift2"]) < 0.1 * 2 / np.tan(pitch)


def test_smooth_ellipses_have_the_modes_of_noise_alone():
    smooth, sigma = spiral(strength=0.0), np.exp(-1.68) / 10
    clean = measured(smooth)
    for m in (1, 2, 3):
        assert clean[f"m{m}"][0] < 3e-3
    table, louder = (measured(*noisy(smooth, factor * sigma, 60)) for factor in (1, 2))
    for m in (1, 3):  # the ellipse is fitted to noise, too, which takes m = 2 of the inner rings
        ratio = np.mean(louder[f"m{m}"]) / np.mean(table[f"m{m}"])
        assert ratio == pytest.approx(2, rel=0.25), "amplitudes are those of the noise"
    turns = np.asarray(table["drift3"]) * STEP
    assert abs(np.mean(np.sin(turns))) < 4 / np.sqrt(2 * 60), "no sense of winding"
    assert np.mean(table["m2"]) < 0.1 * 0.3


def test_bars_do_not_wind():
    bar, arms = measured(spiral(2, None)), measured(spiral(2, 0.35))
    assert bar["m2"][0] > 0.1
    assert bar["winding2"][0] < 0.1 * arms["winding2"][0]
    assert abs(bar["drift2"][0]) < 0.1


def test_turning_moves_no_number_and_mirroring_turns_the_drift():
    image = spiral(2, 0.3, x0=1.2) + 0.5 * spiral(3, -0.4, 0.2)
    here, turned, mirrored, brighter = measured(image), measured(np.rot90(image)), measured(image[:, ::-1]), measured(
        7 * image
    )  # fmt: skip
    names = [name for name in here.colnames if name != "flag"]
    for name in names:
        assert turned[name][0] == pytest.approx(here[name][0], rel=1e-3, abs=1e-3)
        assert brighter[name][0] == pytest.approx(here[name][0], rel=1e-6)
        sign = -1 if name.startswith("drift") else 1
        assert mirrored[name][0] == pytest.approx(sign * here[name][0], rel=1e-3, abs=1e-3)


def test_shear_of_the_disc_changes_no_arms():
    """The same disc seen face-on and inclined: rings are those of the disc."""
    face_on, inclined = (
        measured(spiral(axis_ratio=1.0, angle=0.0)),
        measured(spiral(axis_ratio=0.5, angle=0.0)),
    )
    for name in ("m2", "drift2", "winding2"):
        assert inclined[name][0] == pytest.approx(face_on[name][0], rel=0.08)


def test_lopsided_discs_have_m_1():
    """Discs are lopsided outside; what the light's centre follows is no mode of rings about it."""
    smooth = spiral(strength=0.0, axis_ratio=1.0)
    tilted = spiral(1, None, 0.4, axis_ratio=1.0) - smooth
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] - (np.array(SHAPE)[:, None, None] - 1) / 2
    outside = 1 / (1 + np.exp(16 - np.hypot(x, y)))
    lopsided, even = measured(smooth + outside * tilted), measured(smooth)
    assert lopsided["m1_outer"][0] > 0.08 > 20 * even["m1_outer"][0]
    assert lopsided["m1_inner"][0] < lopsided["m1_outer"][0] / 2


def test_psf_blurs_arms_and_leaves_their_sense():
    image = spiral(2, 0.3, radius=6.0)[None]
    blurred = np.asarray(convolve(image, awkward_psf(1)))[0]
    sharp, soft = measured(image[0]), measured(blurred)
    assert 0.02 < soft["m2"][0] < sharp["m2"][0]
    assert soft["drift2"][0] == pytest.approx(sharp["drift2"][0], rel=0.25)


def test_what_cannot_be_measured_is_said():
    image = spiral()
    broken = image.copy()
    broken[3, 4] = np.nan
    table = measured(image, np.zeros(SHAPE), broken)
    assert table["flag"].tolist() == [0, ArmFlag.NO_MOMENTS, ArmFlag.NO_MOMENTS]
    assert np.isnan(table["m2"][1:]).all() and np.isfinite(table["m2"][0])
    one = measure_moments(image[None], pixel_scale_arcsec=SCALE)
    empty = measure_arms(np.full((1, *SHAPE), -1.0), one, pixel_scale_arcsec=SCALE)
    assert empty["flag"][0] == ArmFlag.NO_RINGS
    with pytest.raises(ValueError, match="rows of moments"):
        measure_arms(image[None], one[:0], pixel_scale_arcsec=SCALE)
