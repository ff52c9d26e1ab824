"""Tests of arms: another sample of the population passes, smooth and lopsided ones fail, few are not judged."""

import numpy as np
import pytest
from astropy.table import Table

from hiergal.measure.moments import measure_moments
from hiergal.survey.mock.galaxies import draw_mock
from hiergal.validation.arms import (
    BRIGHTER_THAN,
    FEWEST_BRIGHT,
    GOAL,
    arm_tests,
    arms_of,
    bright,
    times_floor,
)
from hiergal.validation.samples import halves

NAMES = [
    *(f"m = {m} of rings (Wasserstein)" for m in (1, 2, 3)),
    "winding of m = 2 (Wasserstein)",
    "phase drift of m = 2 (Wasserstein)",
    "arms (energy)",
]
SIZE, SIGMA = 64, 0.02  # pixels; noise, over the brightness of the centre


def discs(n, seed, *, strength=0.3, pitch=0.35, scatter=0.5, lopsided=0.0, magnitude=21.0):
    """Measurements of inclined discs with two arms, all of one pitch but for its sense, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    images = []
    for _ in range(n):
        angle, q, radius = rng.uniform(0, np.pi), rng.uniform(0.5, 1), rng.uniform(5, 7)
        u, v = np.cos(angle) * x + np.sin(angle) * y, (np.cos(angle) * y - np.sin(angle) * x) / q
        r, theta = np.hypot(u, v) + 1e-9, np.arctan2(v, u)
        winds = rng.choice([-1, 1]) * 2 / np.tan(pitch) * np.log(r)
        contrast = strength * np.exp(scatter * rng.normal())
        bright_side = lopsided / (1 + np.exp(12 - r)) * np.cos(theta - rng.uniform(0, 2 * np.pi))
        modes = 1 + np.clip(contrast, 0, 0.8) * np.cos(2 * theta - winds - rng.uniform(0, 7)) + bright_side
        images.append(np.exp(-r / radius) * modes + rng.normal(0, SIGMA, x.shape))
    images = np.array(images)
    moments = measure_moments(images, pixel_scale_arcsec=0.03)
    observation = draw_mock(1, seed=1, stamp=SIZE).observation[np.zeros(n, int)]
    observation = observation.replace(catalog={"mag_auto": np.full(n, magnitude)})
    return arms_of(images, moments, observation)


@pytest.fixture(scope="module")
def real():
    return discs(150, 1)


def failed(verdicts):
    assert [verdict.name for verdict in verdicts] == NAMES
    return {verdict.name for verdict in verdicts if not verdict.passed}


def test_another_sample_of_the_population_passes_and_keeps_to_the_goal(real):
    verdicts = arm_tests(real, discs(150, 2))
    assert not failed(verdicts)
    first, second = halves(len(real))
    ratios = times_floor({"drawn": verdicts, "floor": arm_tests(real[first], real[second])})
    # Statistics of whole samples scatter less than those of halves: beyond twice their mean is rare.
    assert list(ratios) == NAMES and max(ratios.values()) < GOAL


def test_galaxies_without_arms_fail(real):
    verdicts = arm_tests(real, discs(150, 3, strength=0.0))
    assert {NAMES[1], NAMES[3], NAMES[4], NAMES[5]} <= failed(verdicts)
    first, second = halves(len(real))
    ratios = times_floor({"drawn": verdicts, "floor": arm_tests(real[first], real[second])})
    assert ratios[NAMES[1]] > 2 * GOAL


def test_another_pitch_fails_where_amplitudes_pass(real):
    found = failed(arm_tests(real, discs(150, 4, pitch=0.6)))
    assert NAMES[4] in found and NAMES[0] not in found and NAMES[2] not in found


def test_lopsided_galaxies_fail_for_m_1(real):
    found = failed(arm_tests(real, discs(150, 5, lopsided=0.4)))
    assert NAMES[0] in found and NAMES[4] not in found


def test_only_bright_galaxies_count_and_words_say_how_many(real):
    faint = discs(60, 6, strength=0.0, magnitude=BRIGHTER_THAN + 1)
    both = Table({name: np.concatenate([real[name], faint[name]]) for name in real.colnames})
    assert len(bright(both)) == len(bright(real)) > 140
    alone, together = arm_tests(real, real[:100]), arm_tests(both, real[:100])
    assert [v.statistic for v in alone] == [v.statistic for v in together]
    counted = f"({len(bright(real))} and {len(bright(real[:100]))} galaxies brighter than 22.5)"
    assert all(verdict.words.endswith(counted) for verdict in alone)
    assert len(bright(both, brighter_than=BRIGHTER_THAN + 2)) > len(bright(both))


def test_too_few_or_unknown_magnitudes_give_no_verdict(real):
    few = bright(real)[: FEWEST_BRIGHT - 1]
    assert arm_tests(real, few) == [] and times_floor({"drawn": [], "floor": arm_tests(real, real)}) == {}
    assert len(arm_tests(real, bright(real)[:FEWEST_BRIGHT])) == len(NAMES)
    observation = draw_mock(2, seed=1, stamp=48).observation.replace(catalog={})
    moments = measure_moments(observation.image, pixel_scale_arcsec=0.03)
    unknown = arms_of(observation.image, moments, observation)
    assert np.isnan(unknown["magnitude"]).all() and len(bright(unknown)) == 0


def test_failed_measurements_do_not_count(real):
    broken = real.copy()
    broken["flag"][:50] = 1
    assert len(bright(broken)) == len(bright(real)) - (real["flag"][:50] == 0).sum()
