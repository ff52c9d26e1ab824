"""The whole suite on stamps: a pair that it must pass, and pairs that it must fail, each for its own reason."""

import copy

import numpy as np
import pytest

from hiergal.survey.mock import draw_mock
from hiergal.survey.population import population_parameters
from hiergal.validation.suite import compare, measure, statistics_of

STAMP = 48


def sample(n, seed, *, parameters=None, noise="correlated", louder=1.0):
    """Measurements of mock galaxies; the noise may be louder than what is said of it."""
    observation = draw_mock(n, seed=seed, stamp=STAMP, parameters=parameters, noise=noise).observation
    rms = observation.catalog["noise_rms"].astype(float)
    images = np.asarray(observation.image, float)
    extra = (
        np.sqrt(louder**2 - 1) * rms[:, None, None] * np.random.default_rng(seed).normal(size=images.shape)
    )
    return measure(images + extra, rms)


def altered(**changes):
    parameters = copy.deepcopy(dict(population_parameters()))
    for place, value in changes.items():
        table, name = place.split("__")
        parameters[table] = dict(parameters[table]) | {name: value}
    return parameters


def smooth():
    """Galaxies of the same sizes and shapes without arms, knots, bends, lopsidedness and companions."""
    return altered(
        structure__arms=[0.0, 0.0],
        structure__lopsided=[0.0, 0.0],
        structure__bend=[0.0, 0.0],
        structure__knots_chance=[-1.0, 0.0],
        structure__companion_early=0.0,
        structure__companion_late=[0.0, 0.0],
    )


def failed(verdicts):
    return {verdict.name for verdict in verdicts if not verdict.passed}


@pytest.fixture(scope="module")
def real():
    return sample(400, 1)


def test_another_sample_of_the_population_passes(real):
    verdicts = compare(real, sample(400, 2), trained=sample(300, 3))
    assert not failed(verdicts), [verdict.words for verdict in verdicts if not verdict.passed]
    assert len({verdict.name for verdict in verdicts}) == len(verdicts) > 20
    assert all(np.isfinite([v.statistic, v.error, v.p_value]).all() and v.words for v in verdicts)


def test_structure_smoothed_away_fails(real):
    found = failed(compare(real, sample(400, 4, parameters=smooth())))
    assert {"all statistics (classifier)", "all statistics (energy)"} & found
    assert {"asymmetry (Wasserstein)", "deviation (Wasserstein)", "m20 (Wasserstein)"} & found
    assert "sky rms (Wasserstein)" not in found


@pytest.mark.parametrize(
    ("changes", "reason"), [({"noise": "white"}, "sky correlation"), ({"louder": 1.1}, "sky rms")]
)
def test_wrong_noise_fails(real, changes, reason):
    assert f"{reason} (Wasserstein)" in failed(compare(real, sample(400, 5, **changes)))


def test_copies_of_the_training_set_fail(real):
    trained = sample(300, 6)
    copies = [table[np.arange(300)] for table in trained]
    verdicts = compare(real, type(trained)(*copies), trained=trained)
    assert "all statistics (memorisation)" in failed(verdicts)


def test_failures_are_counted_not_dropped(real):
    broken = real._replace(morphology=real.morphology.copy())
    broken.morphology["flag"][:100] |= 1
    verdict = compare(real, broken)[0]
    assert verdict.name == "failures" and not verdict.passed
    assert statistics_of(broken).good.sum() <= 300
