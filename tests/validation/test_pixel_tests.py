"""Tests on pixels pass samples of one population, as often as they say, and fail smooth, noisy and copied galaxies."""

import copy

import jax
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from hiergal.survey.mock.galaxies import draw_mock
from hiergal.survey.mock.population import population_parameters
from hiergal.validation import pixel_tests
from hiergal.validation.learned_tests import memorization_test, pqmass_test
from hiergal.validation.pixel_tests import pixel_classifier_test, pixel_features
from hiergal.validation.samples import observe_again
from hiergal.validation.two_sample import energy_test

REPETITIONS, ALPHA = 200, 0.05
# The chance that a binomial of 200 trials at 0.05 lies outside is 0.001; seeds are fixed.
MOST_ALARMS = 21
SMOOTH = {
    "structure": {
        "arms": [0.0, 0.0],
        "lopsided": [0.0, 0.0],
        "bend": [0.0, 0.0],
        "knots_chance": [-1.0, 0.0],
        "companion_early": 0.0,
        "companion_late": [0.0, 0.0],
    }
}


def blobs(n, seed, *, size=1.0, shape=(16, 16), colour=0.0):
    """Round blobs in noise of unit variance, which may be correlated along x."""
    rng = np.random.default_rng(seed)
    y, x = (np.arange(s) - (s - 1) / 2 for s in shape)
    squared = (y[:, None] ** 2 + x**2) / (size * rng.uniform(1.0, 3.0, (n, 1, 1))) ** 2
    noise = rng.normal(size=(n, *shape))
    noise = (noise + colour * np.roll(noise, 1, axis=2)) / np.sqrt(1 + colour**2)
    return (rng.uniform(5, 20, (n, 1, 1)) * np.exp(-squared / 2) + noise).astype(np.float32)


def galaxies(n, seed, *, smooth=False, noise="correlated"):
    """Stamps of mock galaxies, and the standard deviation of their noise."""
    parameters = copy.deepcopy(dict(population_parameters()))
    for table, values in SMOOTH.items() if smooth else ():
        parameters[table] = dict(parameters[table]) | values
    observation = draw_mock(n, seed=seed, stamp=48, parameters=parameters, noise=noise).observation
    return observation.image, observation.catalog["noise_rms"]


@pytest.fixture(scope="module")
def real():
    return galaxies(800, 1)


def classified(real, other, **options):
    return pixel_classifier_test(real[0], other[0], real[1], other[1], **options)


@pytest.mark.parametrize("shape", [pytest.param((16, 16), marks=pytest.mark.slow), (11, 18)])
def test_halves_of_one_population_pass_and_the_seed_decides(shape):
    stamps = blobs(300, 1, shape=shape)
    verdict, again = (
        pixel_classifier_test(stamps[:160], stamps[160:], 1.0, np.ones(140), seed=3, epochs=4)
        for _ in range(2)
    )
    assert verdict == again
    assert verdict.name == "pixels (classifier)" and verdict.passed and verdict.p_value >= 0.01
    # 70 stamps of each are held out.
    assert verdict.error == pytest.approx(np.sqrt(verdict.statistic * (1 - verdict.statistic) / 140))


@pytest.mark.slow
def test_false_alarms_of_the_classifier_are_as_rare_as_they_say():
    p_values, compiled = [], []
    for seed in range(REPETITIONS):
        stamps = blobs(256, seed)
        verdict = pixel_classifier_test(
            stamps[:128], stamps[128:], 1.0, 1.0, seed=seed, alpha=ALPHA, epochs=3
        )
        p_values.append(verdict.p_value)
        compiled.append(pixel_tests._step._cache_size())
    assert compiled[-1] == compiled[0]
    p_values = np.array(p_values)
    print(f"{(p_values < ALPHA).sum()} false alarms of {REPETITIONS}")
    assert (p_values < ALPHA).sum() <= MOST_ALARMS
    # Mean of 200 uniform numbers, 4 standard errors; a hypergeometric of 64 each is discrete, which adds half a step.
    assert abs(p_values.mean() - 0.5) < 4 / np.sqrt(12 * REPETITIONS) + 0.05


@pytest.mark.slow
def test_stamps_that_a_network_sees_no_difference_between_are_named_at_random():
    """Six tests of 100 of each held out: the order that they come in must not decide."""
    stamps = np.ones((200, 8, 8))
    shares = [pixel_classifier_test(stamps, stamps, 1.0, 1.0, epochs=1, seed=s).statistic for s in range(6)]
    assert abs(np.mean(shares) - 0.5) < 4 * 0.5 / np.sqrt(6 * 200)


@pytest.mark.parametrize(
    ("change", "n"),
    [
        pytest.param({"size": 1.5}, 300, id="larger"),
        pytest.param({"colour": 0.5}, 800, id="correlated noise", marks=pytest.mark.slow),
    ],
)
def test_other_blobs_are_told_apart(change, n):
    verdict = pixel_classifier_test(blobs(n, 1), blobs(n, 2, **change), 1.0, 1.0)
    assert not verdict.passed and verdict.statistic > 0.6


def test_units_of_flux_do_not_matter():
    real, other = blobs(80, 1), blobs(80, 2)
    first = pixel_classifier_test(real, other, 1.0, 1.0, epochs=1)
    second = pixel_classifier_test(real * 4, other * 0.5, 4.0, 0.5, epochs=1)
    assert first == second
    assert pixel_classifier_test(real, other * 3, 1.0, 1.0, epochs=5).statistic > first.statistic


@pytest.mark.slow
def test_another_sample_of_the_mock_survey_passes(real):
    verdict = classified(real, galaxies(800, 2))
    print(verdict.words)
    assert verdict.passed


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"smooth": True}, {"noise": "white"}], ids=["smooth", "white noise"])
def test_galaxies_without_structure_and_wrong_noise_fail(real, change):
    verdict = classified(real, galaxies(800, 3, **change))
    print(verdict.words)
    assert not verdict.passed


def test_features_are_principal_components_of_all_samples(rng):
    first, second = blobs(90, 1, shape=(7, 10)), blobs(70, 2, shape=(7, 10))
    rows = pixel_features((first, 1.0), (second, np.ones(70)), components=6)
    assert [part.shape for part in rows] == [(90, 6), (70, 6)]
    pooled = np.concatenate(rows)
    np.testing.assert_allclose(pooled.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(pooled.T), np.eye(6), atol=1e-3)
    stretched = np.arcsinh(np.concatenate([first, second]).reshape(160, -1) / 2)
    left, _, _ = np.linalg.svd(stretched - stretched.mean(axis=0), full_matrices=False)
    overlap = np.abs(left[:, :3].T @ pooled[:, :3]) / np.sqrt(159)
    np.testing.assert_allclose(overlap, np.eye(3), atol=1e-2)


def test_features_do_not_know_the_labels():
    """The same stamps, dealt out otherwise, have the same features, up to their signs."""
    stamps, order = blobs(120, 3), np.random.default_rng(1).permutation(120)
    one = np.concatenate(pixel_features((stamps[:60], 1.0), (stamps[60:], 1.0), components=3))
    dealt = stamps[order]
    other = np.concatenate(pixel_features((dealt[:60], 1.0), (dealt[60:], 1.0), components=3))
    np.testing.assert_allclose(np.abs(other), np.abs(one[order]), atol=2e-3)


def test_features_do_not_depend_on_threads():
    """Components of mere noise are nearly alike: single precision would differ in the third digit."""
    noise = np.random.default_rng(1).normal(size=(2, 24, 32, 32)).astype(np.float32)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            found.append(pixel_features(*((stamps, 1.0) for stamps in noise)))
    np.testing.assert_array_equal(*found)


def test_features_pass_one_population_and_fail_others():
    images, rms = galaxies(500, 1)
    halves = (images[:250], rms[:250]), (images[250:], rms[250:])
    same = pixel_features(*halves)
    assert energy_test(*same, "pixels").passed and pqmass_test(*same, "pixels", references=40).passed
    images, rms = galaxies(250, 4)
    wider = (images + np.roll(images, 2, axis=1) + np.roll(images, 2, axis=2)) / 3
    other = pixel_features(halves[0], (wider, rms))
    assert not energy_test(*other, "pixels").passed
    assert not pqmass_test(*other, "pixels", references=40).passed


def test_copies_of_the_training_set_fail_also_with_new_noise():
    trained, held_out = draw_mock(250, seed=5, stamp=48), draw_mock(250, seed=6, stamp=48)
    again = observe_again(trained.truth, trained.observation, key=jax.random.key(1))
    other = draw_mock(250, seed=7, stamp=48)
    survey = [(o.observation.image, o.observation.catalog["noise_rms"]) for o in (trained, held_out, other)]
    copied = memorization_test(*pixel_features(survey[0], *survey[:2]), "pixels")
    newly = memorization_test(*pixel_features((again, survey[0][1]), *survey[:2]), "pixels")
    new = memorization_test(*pixel_features(survey[2], *survey[:2]), "pixels")
    assert not copied.passed and copied.statistic > 0.99
    assert not newly.passed and newly.statistic > 0.65  # many galaxies are faint
    assert new.passed


def test_bad_input_is_named():
    good = blobs(60, 1)
    with pytest.raises(ValueError, match=r"other_images:.*\(16, 16\).*got \(16, 15\)"):
        pixel_classifier_test(good, good[:, :, 1:], 1.0, 1.0)
    with pytest.raises(ValueError, match="real: expected at least 20 galaxies, got 5"):
        pixel_classifier_test(good[:5], good, 1.0, 1.0)
    with pytest.raises(ValueError, match="other noise_rms: expected one positive standard deviation"):
        pixel_classifier_test(good, good, 1.0, np.zeros(60))
    bad = good.copy()
    bad[3, 1, 1] = np.nan
    with pytest.raises(ValueError, match="other: expected finite values"):
        pixel_classifier_test(good, bad, 1.0, 1.0)
    with pytest.raises(ValueError, match="sample 1: expected finite pixels"):
        pixel_features((good, 1.0), (bad, 1.0))
    with pytest.raises(ValueError, match="components:.*120.*120.*256.*got 120"):
        pixel_features((good, 1.0), (good, 1.0), components=120)
