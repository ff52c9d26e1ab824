"""Each comparison of samples passes what it must pass, as often as it says, and fails what it must fail."""

from functools import partial

import numpy as np
import pytest

from hiergal.runtime.verdict import Verdict, holm
from hiergal.validation.learned_tests import classifier_test, memorization_test, pqmass_test
from hiergal.validation.two_sample import energy_test, mean_test, wasserstein_test

REPETITIONS, ALPHA = 200, 0.05
# The chance that a binomial of 200 trials at 0.05 lies outside is 0.001; seeds are fixed.
MOST_ALARMS = 21


def population(n, seed, *, size=1.0, round_by=1.0):
    """Sizes, ellipticities and a structure statistic like those of galaxies: skewed, correlated, bounded."""
    rng = np.random.default_rng(seed)
    sigma = np.exp(rng.normal(-1.8, 0.35, n))
    g = rng.beta(1.6, 4.5, n) * round_by
    structure = 0.3 * np.log(sigma) + 0.5 * g + rng.gamma(2.0, 0.2, n)
    return np.stack([size * sigma, g, structure], axis=1)


ONE = {
    "mean": lambda a, b, **k: mean_test(a[:, 0], b[:, 0], "size", **k),
    "wasserstein": lambda a, b, **k: wasserstein_test(a[:, 0], b[:, 0], "size", **k),
    "energy": lambda a, b, **k: energy_test(a, b, "all", **k),
    "classifier": lambda a, b, **k: classifier_test(a, b, "all", **k),
    "pqmass": lambda a, b, **k: pqmass_test(a, b, "all", references=20, **k),
    "memorisation": lambda a, b, **k: memorization_test(
        population(200, 10_000 + k["seed"]), a, b, "all", **k
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE)
def test_false_alarms_are_as_rare_as_they_say(name):
    """Two halves of one population, of different sizes, 200 times at a level of 5 %."""
    p_values = []
    for seed in range(REPETITIONS):
        rows = population(500, seed)
        p_values.append(ONE[name](rows[:280], rows[280:], seed=seed, alpha=ALPHA).p_value)
    p_values = np.array(p_values)
    print(f"{name}: {(p_values < ALPHA).sum()} false alarms of {REPETITIONS}")
    assert (p_values < ALPHA).sum() <= MOST_ALARMS
    # Nor are they conservative: a test that never alarms would have no power. Mean of 200, 4 standard errors.
    assert abs(p_values.mean() - 0.5) < 4 / np.sqrt(12 * REPETITIONS) + (0.05 if name == "classifier" else 0)


@pytest.mark.parametrize("name", ONE)
def test_halves_of_one_population_pass(name):
    rows = population(1200, 3)
    verdict = ONE[name](rows[:600], rows[600:], seed=1)
    assert verdict.passed
    assert verdict.p_value >= 0.01


LARGER = partial(population, size=1.05)
ROUNDER = partial(population, round_by=0.9)


@pytest.mark.parametrize(
    ("change", "column"), [(LARGER, 0), (ROUNDER, 1)], ids=["5 % larger", "10 % rounder"]
)
def test_small_changes_of_size_and_shape_are_seen(change, column):
    """With 3,000 galaxies, in the mean and in the distribution of the quantity itself."""
    real, other = population(3000, 5), change(3000, 6)
    factor = np.mean(other[:, column]) / np.mean(real[:, column]) - 1
    verdict = mean_test(real[:, column], other[:, column], "it")
    assert not verdict.passed
    assert verdict.statistic == pytest.approx(factor)
    assert 0 < verdict.error < 0.03
    assert not wasserstein_test(real[:, column], other[:, column], "it").passed


def smoothed(n, seed):
    """The same sizes and shapes; structure is what a smooth galaxy of that size and shape would have."""
    rows = population(n, seed)
    rows[:, 2] = 0.3 * np.log(rows[:, 0]) + 0.5 * rows[:, 1] + 0.4
    return rows


@pytest.mark.parametrize("name", ["energy", "classifier", "pqmass"])
def test_structure_smoothed_away_is_seen(name):
    assert not ONE[name](population(1500, 7), smoothed(1500, 8), seed=1).passed


def test_a_model_that_copies_its_training_set_is_seen():
    """A tenth of the draws are copies, with a little noise, of training galaxies."""
    trained, held_out, drawn = population(4000, 11), population(1000, 12), population(1000, 13)
    rng = np.random.default_rng(1)
    assert memorization_test(drawn, trained, held_out, "all").passed
    drawn[:100] = trained[rng.choice(4000, 100, replace=False)] * (1 + 1e-3 * rng.normal(size=(100, 3)))
    weak = memorization_test(drawn, trained, held_out, "all")
    drawn[:] = trained[rng.choice(4000, 1000, replace=False)] * (1 + 1e-3 * rng.normal(size=(1000, 3)))
    verdict = memorization_test(drawn, trained, held_out, "all")
    assert not verdict.passed and verdict.statistic > 0.99
    assert weak.statistic < verdict.statistic


def test_statistics_and_errors_agree_with_definitions():
    from scipy import stats
    from scipy.spatial.distance import cdist

    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(150, 2)), rng.normal(0.4, 1.3, size=(170, 2))
    found = wasserstein_test(a[:, 0], b[:, 0], "it").statistic
    assert found == pytest.approx(stats.wasserstein_distance(a[:, 0], b[:, 0]) / a[:, 0].std())
    u, v = (a - a.mean(0)) / a.std(0), (b - a.mean(0)) / a.std(0)
    direct = 2 * cdist(u, v).mean() - cdist(u, u).mean() - cdist(v, v).mean()
    assert energy_test(a, b, "it").statistic == pytest.approx(direct)
    # The error is the scatter of repetitions, to a third.
    repeated = [mean_test(rng.gamma(2, 1, 300), rng.gamma(2, 1, 300), "it").statistic for _ in range(100)]
    assert mean_test(rng.gamma(2, 1, 300), rng.gamma(2, 1, 300), "it").error == pytest.approx(
        np.std(repeated), rel=0.33
    )


def test_holm_is_stricter_than_single_tests():
    verdicts = [Verdict(str(p), 0.0, 0.0, 0.0, p, p >= 0.05, "") for p in (0.04, 0.012, 0.6, 0.02)]
    assert [verdict.passed for verdict in holm(verdicts, alpha=0.05)] == [True, False, True, True]


def test_bad_samples_are_named():
    good = population(100, 1)
    bad = good.copy()
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match="other: expected finite values"):
        energy_test(good, bad, "all")
    with pytest.raises(ValueError, match="real: expected at least 20 galaxies, got 5"):
        classifier_test(good[:5], good, "all")
    with pytest.raises(ValueError, match="ask for fewer cells"):
        pqmass_test(good[:40], good[40:90], "all")
