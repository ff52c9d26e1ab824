"""Each calibration test passes exact posteriors, as often as it says, and fails those that are narrow or shifted."""

from functools import partial

import numpy as np
import pytest

from hiergal.reports import figures
from hiergal.reports.calibration import calibrate
from hiergal.validation.calibration.checks import (
    calibration_tests,
    coverage_test,
    sbc_ranks,
    sbc_test,
    tarp_coverage,
    tarp_test,
    z_score_test,
    z_scores_and_contraction,
)
from hiergal.validation.calibration.ranks import checked_draws

REPETITIONS, ALPHA = 200, 0.05
# Five standard deviations above the mean of a binomial of 200 trials at 0.05; the chance of more is 1e-5.
MOST_ALARMS = REPETITIONS * ALPHA + 5 * np.sqrt(REPETITIONS * ALPHA * (1 - ALPHA))

PRIOR = np.array([[2.0, 1.1, -0.4], [1.1, 1.0, 0.2], [-0.4, 0.2, 0.7]])
SEEN = np.array([[1.0, 0.5, 0.0], [0.2, -1.0, 0.3], [0.4, 0.1, 0.6]])
NOISE = np.diag([0.5, 1.0, 2.0])


def linear_gaussian(n, s, seed, *, width=1.0, shift=0.0):
    """Draw truths of a correlated prior, data, and exact posteriors, made narrower or shifted by their own width."""
    rng = np.random.default_rng(seed)
    truth = rng.multivariate_normal(np.zeros(3), PRIOR, n)
    data = truth @ SEEN.T + rng.multivariate_normal(np.zeros(3), NOISE, n)
    precision = SEEN.T @ np.linalg.solve(NOISE, SEEN)
    posterior = np.linalg.inv(np.linalg.inv(PRIOR) + precision)
    mean = data @ np.linalg.solve(NOISE, SEEN) @ posterior
    around = rng.multivariate_normal(np.zeros(3), posterior, (s, n))
    return mean + width * around + shift * np.sqrt(np.diag(posterior)), truth


TESTS = {
    "ranks": lambda draws, truth, **k: sbc_test(draws[..., 1], truth[:, 1], "x", **k),
    "coverage": lambda draws, truth, seed=0, **k: coverage_test(draws[..., 1], truth[:, 1], "x", **k),
    "z-scores": lambda draws, truth, seed=0, **k: z_score_test(draws[..., 1], truth[:, 1], "x", **k),
    "tarp": lambda draws, truth, **k: tarp_test(draws, truth, **k),
}
WRONG = {
    "narrow": {"width": 0.8},
    "wide": {"width": 1.25},
    "high": {"shift": 0.3},
    "low": {"shift": -0.3},
    "far too high": {"shift": 0.6},
    "far too low": {"shift": -0.6},
}
# A shift changes these in second order only.
SHIFT_BLIND = {(name, wrong) for name in ("coverage", "tarp") for wrong in ("high", "low")}


@pytest.mark.parametrize("name", TESTS)
def test_exact_posteriors_pass(name):
    verdict = TESTS[name](*linear_gaussian(2000, 99, 1), seed=2)
    assert verdict.passed and verdict.p_value >= 0.01
    assert abs(verdict.statistic - verdict.expected) < 4 * verdict.error


@pytest.mark.parametrize(
    ("name", "wrong"),
    [(name, wrong) for name in TESTS for wrong in WRONG if (name, wrong) not in SHIFT_BLIND],
)
def test_wrong_posteriors_fail(name, wrong):
    """At 1 %, with 1000 galaxies, and a p-value of less than one in ten thousand."""
    verdict = TESTS[name](*linear_gaussian(1000, 99, 3, **WRONG[wrong]), seed=4)
    assert not verdict.passed and verdict.p_value < 1e-4
    if name == "ranks":
        assert verdict.words.count(f"too {wrong.split()[-1]}") == 1
    if name == "coverage" and wrong in ("narrow", "wide"):
        assert (verdict.statistic > 0) == (wrong == "wide") and abs(verdict.statistic) > 0.05
    if name == "z-scores" and wrong in ("narrow", "wide"):
        expected = {"narrow": 1 / 0.8**2, "wide": 0.8**2}[wrong]
        assert verdict.statistic == pytest.approx(expected, abs=0.2)


def test_tarp_sees_correlations_that_are_wrong():
    """Margins are exact, their correlation of 0.65 is lost: the draws of one quantity are shuffled."""
    draws, truth = linear_gaussian(4000, 99, 5)
    independent = draws.copy()
    independent[..., 1] = np.random.default_rng(6).permuted(draws[..., 1], axis=0)
    assert sbc_test(independent[..., 1], truth[:, 1], "x").passed
    assert tarp_test(draws[..., 1:], truth[:, 1:]).passed
    assert not tarp_test(independent[..., 1:], truth[:, 1:]).passed


def test_prior_as_posterior_passes_and_has_no_contraction(rng):
    draws, truth = 3 * rng.normal(size=(99, 1000)), 3 * rng.normal(size=1000)
    assert sbc_test(draws, truth, "x").passed
    assert z_scores_and_contraction(draws, truth, 9.0).contraction.mean() == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("name", TESTS)
def test_false_alarms_are_as_rare_as_they_say(name):
    """With 150 galaxies, 200 times; coverage and z-scores may alarm less often, for they bound the chance."""
    p_values = np.array(
        [
            TESTS[name](*linear_gaussian(150, 39, 100 + i), seed=i, alpha=ALPHA).p_value
            for i in range(REPETITIONS)
        ]
    )
    assert (p_values < ALPHA).sum() <= MOST_ALARMS
    assert (p_values < ALPHA).any()
    if name in ("ranks", "tarp"):  # a uniform p-value: its mean of 200 within five standard errors
        assert abs(p_values.mean() - 0.5) < 5 / np.sqrt(12 * REPETITIONS)


@pytest.mark.parametrize("test", [sbc_test, z_score_test])
@pytest.mark.parametrize(("n", "s"), [(10, 99), (40, 2), (150, 7)])
def test_few_galaxies_and_few_draws_of_skewed_posteriors_raise_no_alarm(test, n, s):
    """Lognormal posteriors of any scale, 400 times at 5 %, whose chance of more than 42 alarms is 3e-6."""
    rng, alarms = np.random.default_rng(7), 0
    for i in range(400):
        values = np.exp(rng.normal(size=(s + 1, n))) * np.exp(rng.normal(size=n))
        alarms += not test(
            values[1:], values[0], "x", alpha=ALPHA, **({"seed": i} if test is sbc_test else {})
        ).passed
    assert alarms <= 42


def test_coverage_alarms_are_rare_where_quantiles_fall_between_draws():
    """39 to 45 draws: the 95 % interval ends between the outermost draws, whose tails are long."""
    rng, alarms = np.random.default_rng(8), 0
    for i in range(200):
        values = np.exp(rng.normal(size=(40 + i % 7, 300)))
        alarms += not coverage_test(values[1:], values[0], "x", alpha=ALPHA).passed
    assert alarms <= MOST_ALARMS


def test_laws_of_z_scores_hold_exactly_over_the_choices_of_the_truth(rng):
    """Each of the values in turn as the truth: the mean square is 1, and its scatter that of the verdict."""
    values = rng.gamma(0.7, size=(6, 12)) * np.linspace(0.1, 9, 12)
    turns = [np.roll(values, j, axis=0) for j in range(6)]
    verdicts = [z_score_test(turn[1:], turn[0], "x") for turn in turns]
    assert np.mean([verdict.statistic for verdict in verdicts]) == pytest.approx(1)
    assert np.ptp([verdict.error for verdict in verdicts]) == pytest.approx(0, abs=1e-12)
    alike = values[:, :1] * np.ones(12)  # one galaxy twelve times: its own scatter, over the root of twelve
    squares = [
        z_score_test(turn[1:], turn[0], "x").statistic
        for turn in (np.roll(alike, j, axis=0) for j in range(6))
    ]
    assert z_score_test(alike[1:], alike[0], "x").error == pytest.approx(np.std(squares) / np.sqrt(12))


def test_ranks_count_smaller_draws(rng):
    draws, truth = rng.normal(size=(9, 4, 2)), rng.normal(size=(4, 2))
    direct = [[sum(draws[k, i, j] < truth[i, j] for k in range(9)) for j in range(2)] for i in range(4)]
    assert sbc_ranks(draws, truth).tolist() == direct


def test_ties_are_broken_evenly():
    """Counts of a Poisson law: with ties broken at random their ranks are uniform, and seeds repeat."""
    rng = np.random.default_rng(9)
    draws, truth = rng.poisson(0.7, (19, 4000)).astype(float), rng.poisson(0.7, 4000).astype(float)
    assert sbc_test(draws, truth, "count").passed
    assert not sbc_test(draws + 1, truth, "count").passed
    same = sbc_ranks(np.zeros((19, 4000)), np.zeros(4000), seed=3)
    assert set(same.tolist()) == set(range(20))
    counts = np.bincount(same)
    assert ((counts - 200) ** 2 / 200).sum() < 60  # chi-square of 19 degrees: chance 4e-6
    np.testing.assert_array_equal(same, sbc_ranks(np.zeros((19, 4000)), np.zeros(4000), seed=3))
    assert (same != sbc_ranks(np.zeros((19, 4000)), np.zeros(4000), seed=4)).any()


def test_tarp_counts_draws_inside_balls_in_any_units():
    draws, truth = linear_gaussian(12, 5, 10)
    found = tarp_coverage(draws, truth, seed=11)
    point = np.random.default_rng(11).uniform(truth.min(axis=0), truth.max(axis=0), truth.shape)
    for i in range(12):
        far = np.linalg.norm((truth[i] - point[i]) / truth.std(axis=0))
        nearer = sum(np.linalg.norm((draw[i] - point[i]) / truth.std(axis=0)) < far for draw in draws)
        assert nearer / 6 <= found[i] <= (nearer + 1) / 6
    units, zero = np.array([1e-3, 1.0, 1e4]), np.array([5.0, 0.0, -7e4])
    np.testing.assert_allclose(tarp_coverage(draws * units + zero, truth * units + zero, seed=11), found)
    constant = truth * np.array([1.0, 1.0, 0.0])
    assert np.isfinite(tarp_coverage(draws, constant)).all()


def test_coverage_counts_truths_inside(rng):
    """Draws 1 to 99: the 50 % interval goes from 25 to 75; 30 of 40 truths are in it."""
    draws = np.arange(1.0, 100.0)[:, None] * np.ones(40)
    truth = np.concatenate([np.linspace(25, 75, 30), np.full(10, 80.0)])
    verdict = coverage_test(draws, truth, "x", probabilities=(0.5,))
    assert verdict.statistic == pytest.approx(0.25)
    assert verdict.error == pytest.approx(0.5 / np.sqrt(40))
    assert "75.0 +- 7.9 % in 50 % intervals" in verdict.words


def test_z_scores_and_contraction_of_a_gaussian_are_known():
    draws, truth = linear_gaussian(3000, 400, 12)
    scores = z_scores_and_contraction(draws[..., 0], truth[:, 0], np.full(3000, PRIOR[0, 0]))
    posterior = np.linalg.inv(np.linalg.inv(PRIOR) + SEEN.T @ np.linalg.solve(NOISE, SEEN))
    # Five standard errors: of the mean and the mean square of 3000 normal numbers, of 3000 variances of 400 draws.
    assert abs(scores.z_score.mean()) < 5 / np.sqrt(3000)
    assert abs((scores.z_score**2).mean() - 1) < 5 * np.sqrt(2 / 3000) + 0.01
    assert scores.contraction.mean() == pytest.approx(1 - posterior[0, 0] / PRIOR[0, 0], abs=0.001)


def test_all_are_judged_together():
    draws, truth = linear_gaussian(1000, 99, 13)
    names = ("flux", "size", "ellipticity")

    def judge(draws, **kwargs):
        each = {name: draws[..., i] for i, name in enumerate(names)}
        return calibration_tests(each, {name: truth[:, i] for i, name in enumerate(names)}, **kwargs)

    verdicts = judge(draws, joint=names)
    assert len({verdict.name for verdict in verdicts}) == len(verdicts) == 10
    assert all(verdict.passed for verdict in verdicts)
    draws[..., 2] += 0.3
    failed = [verdict.name for verdict in judge(draws, joint=["flux", "size"]) if not verdict.passed]
    assert {"ellipticity (ranks)", "ellipticity (z-scores)"} <= set(failed)
    assert all("ellipticity" in name for name in failed)
    assert len(judge(draws)) == 9


GOOD, TRUTH = np.random.default_rng(1).normal(size=(50, 20)), np.random.default_rng(2).normal(size=20)
HOLED = np.where(np.arange(20) == 3, np.nan, GOOD)
BAD = {
    "transposed": (sbc_test, (GOOD.T, TRUTH, "flux"), r"flux: expected draws of shape \(draws, 20,\).* got \(20, 50\)"),
    "too few truths": (coverage_test, (GOOD, TRUTH[:9], "flux"), "the axis of draws comes first"),
    "one draw": (z_score_test, (GOOD[:1], TRUTH, "flux"), "flux: expected at least 2 draws, got 1"),
    "nine galaxies": (sbc_test, (GOOD[:, :9], TRUTH[:9], "flux"), "at least 10 galaxies, got 9; simulate more"),
    "NaN draws": (z_score_test, (HOLED, TRUTH, "flux"), "finite draws, got NaN or infinity for 1 of 20 galaxies"),
    "NaN truths": (sbc_ranks, (GOOD, HOLED[0]), "finite truths, got NaN or infinity for 1 of 20 galaxies"),
    "joint shapes": (tarp_test, (GOOD[..., None], np.ones((20, 2))), r"got \(50, 20, 1\)"),
    "joint NaN": (tarp_coverage, (HOLED[..., None], TRUTH[:, None]), "for 1 of 20 galaxies; leave these out"),
    "equal draws": (z_score_test, (0 * GOOD, TRUTH, "flux"), "expected draws that differ, got 20 galaxies"),
    "equal draws, scores": (z_scores_and_contraction, (0 * GOOD, TRUTH, 1.0), "leave them out"),
    "prior variance": (z_scores_and_contraction, (GOOD, TRUTH, 0.0), "expected one positive number or 20"),
    "prior variances": (z_scores_and_contraction, (GOOD, TRUTH, np.ones(3)), "expected one positive number or 20"),
    "draws for 95 %": (coverage_test, (GOOD[:38], TRUTH, "flux"), "at least 39 draws for intervals of 0.95, got 38"),
    "percents": (partial(coverage_test, probabilities=(68.0,)), (GOOD, TRUTH, "flux"), "expected some between 0 and 1"),
    "names": (calibration_tests, ({"flux": GOOD}, {"size": TRUTH}), r"expected the names of the draws, \['flux'\]"),
    "joint names": (
        partial(calibration_tests, joint=["z"]), ({"flux": GOOD}, {"flux": TRUTH}), r"joint: .* got \['z'\]"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_inputs_are_named(case):
    function, arguments, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        function(*arguments)


def test_single_precision_is_enough():
    draws, truth = checked_draws(GOOD.astype(np.float32), TRUTH.astype(np.float32))
    assert draws.dtype == truth.dtype == np.float64
    assert coverage_test(GOOD[:39].astype(np.float32), TRUTH.astype(np.float32), "flux").passed


def labelled(figure, panels):
    """Whether a figure draws without a warning, has so many panels, and says what is on its axes."""
    figure.canvas.draw()
    assert len(figure.axes) == panels
    assert all(axes.get_xlabel() for axes in figure.axes) and figure.axes[0].get_ylabel()
    return True


@pytest.mark.parametrize(("names", "s", "n"), [("a", 99, 1000), ("abcd", 12, 30), ("ab", 1, 25)])
def test_rank_histograms_show_shares_and_a_band(rng, names, s, n):
    ranks = {name: rng.integers(0, s, n, endpoint=True) for name in names}
    figure = figures.rank_histograms(ranks, s)
    assert labelled(figure, len(names))
    band, line = (patch.get_data() for patch in figure.axes[-1].patches)
    np.testing.assert_allclose((line.values * np.diff(line.edges)).sum(), 1)
    assert (band.baseline < 1).all() and (band.values > 1).all()
    if s == 99:
        inside = (band.baseline <= line.values) & (line.values <= band.values)
        assert len(inside) == 20 and inside.sum() >= 18
        assert band.values[0] - 1 == pytest.approx(2.576 * np.sqrt(0.05 * 0.95 * 1000) / 50, rel=0.1)


def test_expected_coverage_shows_the_largest_distance(rng):
    from scipy.stats import kstest

    share = rng.uniform(size=300) ** 1.2
    figure = figures.expected_coverage({"joint": share, "other": np.linspace(0.01, 0.99, 300)})
    assert labelled(figure, 1)
    axes = figure.axes[0]
    shown = next(line for line in axes.lines if line.get_label() == "joint")
    assert np.abs(shown.get_ydata()).max() == pytest.approx(100 * kstest(share, "uniform").statistic)
    outer, inner = (patch.get_height() / 2 for patch in axes.patches)
    assert inner == pytest.approx(100 * 1.358 / np.sqrt(300), rel=0.02)
    assert outer == pytest.approx(100 * 1.628 / np.sqrt(300), rel=0.02)


def test_z_scores_keep_what_lies_beyond_the_axes(rng):
    z, contraction = rng.normal(size=50), rng.uniform(0.3, 1, 50)
    z[7], contraction[8] = -40.0, -30.0
    figure = figures.z_scores(z, contraction, quantity="half-light radius")
    assert labelled(figure, 1)
    axes = figure.axes[0]
    inside, beyond = (points.get_offsets() for points in axes.collections)
    assert (len(inside), len(beyond)) == (48, 2)
    np.testing.assert_allclose(beyond, [[contraction[7], -5.0], [-1.0, z[8]]])
    assert "contraction" in axes.get_xlabel() and "z-score" in axes.get_ylabel()
    assert "half-light radius" in axes.texts[0].get_text()


def test_a_study_that_is_too_small_is_refused_before_it_begins(tmp_path):
    with pytest.raises(ValueError, match="at least 2 galaxies and 39 draws of each .*, got 20 and 19"):
        calibrate("hub:mock-acs", tmp_path / "never.zarr", tmp_path / "out", galaxies=20, draws=19)
    assert not list(tmp_path.iterdir())
