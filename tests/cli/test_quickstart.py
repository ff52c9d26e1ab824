"""The numbers of the quickstart: that its errors are the scatter that repeating everything would show."""

import numpy as np
from astropy.table import Table

from hiergal.cli.quickstart.metrics import drawn_metrics

REPEATS, GALAXIES, DRAWS = 300, 200, 3


def test_the_error_of_the_drawn_means_is_their_scatter():
    """The spread of 300 estimates is known to 4 %; 15 % is almost four standard errors (one failure in 10,000)."""
    random = np.random.default_rng(5)
    ratios, errors = [], []
    for _ in range(REPEATS):
        shared = random.lognormal(-1.7, 0.5, GALAXIES)  # what the conditions fix
        survey = _moments(shared * random.lognormal(0.0, 0.1, GALAXIES), random)
        drawn = _moments(np.tile(shared, DRAWS) * random.lognormal(0.0, 0.2, GALAXIES * DRAWS), random)
        metrics = drawn_metrics(survey, drawn)["size_arcsec"]
        ratios.append(metrics["ratio"])
        errors.append(metrics["ratio_error"])
    assert abs(np.mean(errors) / np.std(ratios) - 1) < 0.15
    unpaired = 0.5 * np.sqrt((1 + 1 / DRAWS) / GALAXIES)
    assert np.mean(errors) < 0.7 * unpaired, "rows of the same conditions share their scatter"


def test_failed_moments_count_for_nothing():
    values = np.array([0.1, 0.2, 0.3])
    survey = Table({"sigma": values, "g": values, "flag": [0, 0, 1]})
    drawn = Table({"sigma": [0.3, np.nan, 0.1], "g": values, "flag": [0, 1, 0]})
    metrics = drawn_metrics(survey, drawn)
    np.testing.assert_allclose(metrics["size_arcsec"]["ratio"], 0.2 / 0.15)
    assert np.isfinite(metrics["size_arcsec"]["ratio_error"])
    assert metrics["failed_moments"] == {"survey": 1, "drawn": 1}


def _moments(sizes: np.ndarray, random: np.random.Generator) -> Table:
    flag = (random.random(len(sizes)) < 0.03).astype(int)
    return Table({"sigma": np.where(flag, np.nan, sizes), "g": sizes, "flag": flag})
