"""The whole suite on stamps: a pair that it must pass, and pairs that it must fail, each for its own reason."""

import copy

import jax
import numpy as np
import pytest
from scipy import ndimage

from hiergal.measure.moments import measure_moments
from hiergal.measure.profile import summarize_profile
from hiergal.runtime.verdict import ALPHA
from hiergal.survey.mock.galaxies import draw_mock
from hiergal.survey.mock.population import population_parameters
from hiergal.validation.conditional import conditional_test
from hiergal.validation.samples import observe_again
from hiergal.validation.suite import compare, measure, statistics_of
from hiergal.validation.two_sample import mean_test, wasserstein_test

pytestmark = pytest.mark.slow  # hundreds of galaxies, with all of their statistics

STAMP = 48


def sample(n, seed, *, parameters=None, noise="correlated", louder=1.0):
    """Measurements of mock galaxies; the noise may be louder than what is said of it."""
    observation = draw_mock(n, seed=seed, stamp=STAMP, parameters=parameters, noise=noise).observation
    rms = observation.catalog["noise_rms"].astype(float)
    images = np.asarray(observation.image, float)
    extra = (
        np.sqrt(louder**2 - 1) * rms[:, None, None] * np.random.default_rng(seed).normal(size=images.shape)
    )
    return measure(images + extra, rms, pixel_scale_arcsec=0.03)


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
    ("changes", "reason"),
    [
        ({"louder": 1.1}, "sky rms"),
        ({"noise": "white"}, "sky correlation"),
    ],
)
def test_wrong_noise_fails(real, changes, reason):
    assert f"{reason} (Wasserstein)" in failed(compare(real, sample(400, 5, **changes)))


def test_copies_of_the_training_set_fail(real):
    trained = sample(300, 6)
    copies = [table[np.arange(300)] for table in trained]
    verdicts = compare(real, type(trained)(*copies), trained=trained)
    assert "all statistics (memorisation)" in failed(verdicts)


def stretched(truth, matrices):
    """Profiles stretched about their stamps' centres: the light at x goes to M x, and none is lost."""
    middle = (np.array(truth.shape[1:]) - 1) / 2
    stretched = [
        ndimage.affine_transform(image, inverse, middle - inverse @ middle, order=3) * np.linalg.det(inverse)
        for image, inverse in zip(truth, np.linalg.inv(matrices), strict=True)
    ]
    return np.maximum(stretched, 0).astype(np.float32)


def rounder(profiles, factor):
    """The shears, in y and x, that bring each profile's ellipticity to a part of itself."""
    found = summarize_profile(profiles, 0.03)
    e = np.asarray(found.g1) + 1j * np.asarray(found.g2)
    g = (factor - 1) * e / (1 - factor * np.abs(e) ** 2)
    matrices = np.array([[1 - g.real, g.imag], [g.imag, 1 + g.real]]) / np.sqrt(1 - np.abs(g) ** 2)
    return np.moveaxis(matrices, -1, 0)


def pairs_of(sizes, others, *, within=0.002):
    """Rows of two samples, each used once, whose sizes are the same to a part."""
    order, other_order = np.argsort(sizes), np.argsort(others)
    i, k, found = 0, 0, []
    while i < len(sizes) and k < len(others):
        apart = np.log(others[other_order[k]] / sizes[order[i]])
        if abs(apart) < within:
            found.append((order[i], other_order[k]))
        i, k = i + (apart > -within), k + (apart < within)
    return np.array(found).T


@pytest.fixture(scope="module")
def twins():
    """Galaxies of two surveys: those of a row have the same half-light radius, and nothing else in common."""
    surveys = [draw_mock(5000, seed=seed, stamp=STAMP) for seed in (7, 8)]
    rows = pairs_of(*(batch.observation.catalog["hlr_arcsec"] for batch in surveys))
    assert rows.shape[1] > 4000
    return [(batch.observation[row], batch.truth[row]) for batch, row in zip(surveys, rows, strict=True)]


def moments_of(profiles, observation):
    return measure_moments(
        observe_again(profiles, observation, key=jax.random.key(1)), pixel_scale_arcsec=0.03
    )


EACH = ALPHA / 30  # there are fewer tests in the suite


def test_sizes_that_are_5_percent_off_fail(twins):
    """PSF and noise leave half of the difference; pairs of one size see it, whatever else their galaxies are."""
    (base, _), (other, truth) = twins
    real = measure_moments(base.image, pixel_scale_arcsec=0.03)
    assert conditional_test(real, moments_of(truth, other), "size", alpha=EACH).passed
    larger = stretched(truth, np.broadcast_to(1.05 * np.eye(2), (len(truth), 2, 2)))
    verdict = conditional_test(real, moments_of(larger, other), "size", alpha=EACH)
    assert not verdict.passed and 0.01 < verdict.statistic < 0.05, verdict.words


def test_shapes_that_are_10_percent_rounder_fail(twins):
    (base, _), (other, truth) = twins
    tables = [
        measure_moments(base.image, pixel_scale_arcsec=0.03),
        moments_of(truth, other),
        moments_of(stretched(truth, rounder(truth, 0.9)), other),
    ]
    ours, alike, round_ones = (np.asarray(t["g"][t["flag"] == 0]) for t in tables)
    for test in (mean_test, wasserstein_test):
        assert test(ours, alike, "g", alpha=EACH).passed
        verdict = test(ours, round_ones, "g", alpha=EACH)
        assert not verdict.passed, verdict.words
    assert -0.12 < mean_test(ours, round_ones, "g").statistic < -0.02


def test_failures_are_counted_not_dropped(real):
    broken = real._replace(morphology=real.morphology.copy())
    broken.morphology["flag"][:100] |= 1
    verdict = compare(real, broken)[0]
    assert verdict.name == "failures" and not verdict.passed
    assert statistics_of(broken).good.sum() <= 300
