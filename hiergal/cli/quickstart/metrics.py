"""The numbers of a quickstart: coverage of posteriors, and drawn galaxies against the survey's."""

from typing import Any, NamedTuple

import jax
import numpy as np
from astropy.table import Table

from hiergal.measure.profile import summarize_profile
from hiergal.observation.observation import Observation
from hiergal.posterior.posterior import Posterior, credible_interval
from hiergal.runtime.pytree import brief

__all__ = [
    "coverage",
    "drawn_metrics",
    "posterior_metrics",
]

PROBABILITIES = (0.5, 0.68, 0.9, 0.95)


QUANTITIES = ("flux", "hlr_arcsec", "g1", "g2")


FAINT_MAG = 23.0


class Drawn(NamedTuple):
    """Survey galaxies, and galaxies drawn for their conditions: noise-free stamps, noisy ones, moments of both."""

    survey: Observation
    survey_moments: Table
    clean: np.ndarray
    noisy: np.ndarray
    moments: Table

    __repr__ = brief


def posterior_metrics(observation: Observation, posterior: Posterior, truth: np.ndarray) -> dict[str, Any]:
    """Measure how well posteriors fit unseen galaxies, and how often they hold the truth.

    Args:
        observation: The galaxies.
        posterior: Their posteriors.
        truth: Their true profiles [flux per pixel], [n, y, x].
    """
    bright = observation.catalog["mag_auto"] <= np.quantile(observation.catalog["mag_auto"], 0.25)
    true = jax.tree.map(np.asarray, summarize_profile(truth, observation.pixel_scale_arcsec))
    return {
        "galaxies": len(posterior),
        "chi_square_median": float(np.median(posterior.chi_square)),
        "chi_square_median_brightest_quarter": float(np.median(posterior.chi_square[bright])),
        "coverage": {
            name: {
                f"{probability:.2f}": coverage(
                    getattr(posterior.summary, name), getattr(true, name), probability
                )
                for probability in PROBABILITIES
            }
            for name in QUANTITIES
        },
    }


def coverage(draws: np.ndarray, truth: np.ndarray, probability: float) -> dict[str, float]:
    """Return the fraction of truths inside the central interval, and its binomial standard error.

    Example:
        >>> draws = np.linspace(0.0, 1.0, 101)[:, None] * np.ones(4)
        >>> coverage(draws, np.array([0.5, 0.2, 0.01, 2.0]), 0.9)["fraction"]
        0.5
    """
    low, high = credible_interval(draws, probability)
    fraction = float(np.mean((low < truth) & (truth < high)))
    return {"fraction": fraction, "error": float(np.sqrt(probability * (1 - probability) / len(truth)))}


def drawn_metrics(survey: Table, drawn: Table) -> dict[str, Any]:
    """Compare mean size and ellipticity of drawn galaxies with the survey's, with errors (paper, Fig. 6).

    Args:
        survey: Moments of the survey's galaxies, one row each.
        drawn: Moments of galaxies drawn for the same conditions: the same number of rows, once or several times over.

    Returns:
        For size and ellipticity both means, their ratio and its standard error, to first order in the residuals of the
        rows: a survey galaxy and those drawn for its conditions share much of their scatter.

    Example:
        >>> survey = Table({"sigma": [0.1, 0.3], "g": [0.1, 0.2], "flag": [0, 0]})
        >>> metrics = drawn_metrics(survey, survey)
        >>> metrics["size_arcsec"]["ratio"], metrics["size_arcsec"]["ratio_error"]
        (1.0, 0.0)
    """
    result: dict[str, Any] = {}
    n = len(survey)
    for name, column in (("size_arcsec", "sigma"), ("ellipticity", "g")):
        used = [np.asarray(table["flag"] == 0).reshape(-1, n) for table in (drawn, survey)]
        values = [
            np.where(good, np.asarray(table[column]).reshape(-1, n), 0.0)
            for table, good in zip((drawn, survey), used, strict=True)
        ]
        ours, theirs = (value.sum() / good.sum() for value, good in zip(values, used, strict=True))
        ratio = ours / theirs
        # What each row adds to the ratio's departure from its expectation.
        parts = [
            np.where(good, value / mean - 1, 0.0).sum(0) / good.sum()
            for value, good, mean in zip(values, used, (ours, theirs), strict=True)
        ]
        error = ratio * np.sqrt(((parts[0] - parts[1]) ** 2).sum() * n / max(n - 1, 1))
        result[name] = {
            "survey": float(theirs),
            "drawn": float(ours),
            "ratio": float(ratio),
            "ratio_error": float(error),
        }
    result["failed_moments"] = {"survey": int(survey["flag"].sum()), "drawn": int(drawn["flag"].sum())}
    return result


def real_metrics(observation: Observation, posterior: Posterior) -> dict[str, Any]:
    """Summarise posteriors of real galaxies, whose truth is unknown."""
    faint = observation.catalog["mag_auto"] > FAINT_MAG
    numbers = (
        posterior.latents,
        posterior.profile_mean,
        posterior.profile_std,
        *jax.tree.leaves(posterior.summary),
    )
    finite = np.all(
        [
            np.isfinite(x).all(axis=tuple(a for a in range(x.ndim) if x.shape[a] != len(posterior)))
            for x in numbers
        ]
    )
    return {
        "galaxies": len(posterior),
        "all_finite": bool(finite),
        "chi_square_median": float(np.median(posterior.chi_square)),
        "chi_square_median_fainter_than_23": float(np.median(posterior.chi_square[faint])),
        "galaxies_fainter_than_23": int(faint.sum()),
    }
