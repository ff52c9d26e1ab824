"""Bias and scatter in bins: what was put in comes out, with errors that are the scatter of repetitions."""

import numpy as np
import pytest
from astropy.table import Table

from hiergal.validation.conditional import Residuals, binned, conditional_residuals, conditional_test
from hiergal.validation.two_sample import mean_test

EDGES = np.array([20.0, 22.0, 23.0, 25.0])


def pair(n, seed, *, bias=0.05, scatter=0.2):
    rng = np.random.default_rng(seed)
    magnitude = rng.uniform(20, 25, n)
    real = Table(
        {"sigma": rng.lognormal(-1.7, 0.3, n), "amplitude": rng.lognormal(1, 1, n), "flag": np.zeros(n, int)}
    )
    drawn = real.copy()
    drawn["sigma"] = real["sigma"] * (1 + bias * (magnitude > 23) + scatter * rng.normal(size=n))
    drawn["amplitude"] = 0.9 * real["amplitude"]
    return real, drawn, magnitude


def test_bias_and_scatter_are_found_where_they_are():
    real, drawn, magnitude = pair(6000, 1)
    table = binned(conditional_residuals(real, drawn, magnitude, "size"), EDGES)
    np.testing.assert_array_less(np.abs(table["bias"] - [0, 0, 0.05]), 4 * table["bias_error"])
    np.testing.assert_array_less(np.abs(table["scatter"] - 0.2 * 0.9945), 4 * table["scatter_error"])
    assert table["galaxies"].sum() == 6000
    flux = binned(conditional_residuals(real, drawn, magnitude, "flux"), EDGES)
    np.testing.assert_allclose(flux["bias"], -0.1)


def test_errors_are_the_scatter_of_repetitions():
    tables = [binned(conditional_residuals(*pair(600, seed), "size"), EDGES) for seed in range(60)]
    for name in ("bias", "scatter"):
        repeated = np.std([table[name] for table in tables], axis=0)
        claimed = np.mean([table[f"{name}_error"] for table in tables], axis=0)
        # The scatter of 60 values is known to 9 %.
        np.testing.assert_allclose(claimed, repeated, rtol=0.4)


def test_flagged_galaxies_and_empty_bins_stay_out():
    real, drawn, magnitude = pair(50, 2)
    drawn["flag"][:10] = 1
    real["flag"][10:15] = 1
    residuals = conditional_residuals(real, drawn, magnitude, "size")
    assert len(residuals.residual) == 35
    table = binned(residuals, np.array([10.0, 12.0, 30.0]))
    assert table["galaxies"].tolist() == [0, 35]
    assert np.isnan(table["bias"][0])


def alike(seed, *, n=400, scatter=0.3, factor=1.0, noise=0.1):
    """Real and drawn galaxies of the same conditions, which say most of a size, measured with errors."""
    rng = np.random.default_rng(seed)
    expected = rng.lognormal(-1.7, 0.5, n)
    sizes = [expected * rng.lognormal(0, scatter, n) * f * rng.lognormal(0, noise, n) for f in (1, factor)]
    return [Table({"sigma": size, "flag": np.zeros(n, int)}) for size in sizes]


def test_false_alarms_of_pairs_are_as_rare_as_promised():
    alarms = sum(not conditional_test(*alike(seed), "size", alpha=0.05).passed for seed in range(200))
    assert 2 <= alarms <= 20  # 10 expected; 99.7 % of binomial counts lie there


def test_pairs_see_a_bias_that_two_samples_do_not():
    real, drawn = alike(1, n=2000, factor=1.05)
    verdict = conditional_test(real, drawn, "size")
    assert not verdict.passed and abs(verdict.statistic - 0.05) < 4 * verdict.error < 0.06
    assert mean_test(np.asarray(real["sigma"]), np.asarray(drawn["sigma"]), "size", alpha=1e-3).passed
    assert conditional_test(real, real, "size").passed


def test_bad_input_is_named():
    real, drawn, magnitude = pair(10, 3)
    with pytest.raises(ValueError, match="draw one for each row"):
        conditional_residuals(real, drawn[:5], magnitude, "size")
    with pytest.raises(ValueError, match="condition:.*10.*got 3"):
        conditional_residuals(real, drawn, magnitude[:3], "size")
    with pytest.raises(ValueError, match="at least 2 pairs"):
        conditional_test(real[:1], drawn[:1], "size")
    with pytest.raises(ValueError, match="quantity: expected one of size, flux"):
        conditional_residuals(real, drawn, magnitude, "colour")
    assert len(binned(Residuals(magnitude, magnitude), EDGES)) == 3
