"""Conditional accuracy of drawn galaxies: bias and scatter of sizes and fluxes in bins of the conditions.

For each real galaxy and the one drawn for its conditions, both on stamps with PSF and noise (Fig. 7 of Lanusse et al.
2020): the relative difference of sizes, (sigma_drawn - sigma_real) / sigma_real, against the half-light radius, and
that of fluxes, against the magnitude. The scatter holds that of nature, too: conditions do not fix a galaxy.

Conditions fix most of it, though, so that pairs see far smaller differences than two samples do:
:func:`conditional_test` asks whether the two of a pair could be exchanged.
"""

from typing import NamedTuple

import numpy as np
from astropy.table import Table
from jaxtyping import Float
from scipy import stats

from hiergal.runtime.pytree import brief
from hiergal.runtime.verdict import ALPHA, Verdict, verdict_of

__all__ = ["Residuals", "binned", "conditional_residuals", "conditional_test"]

BOOTSTRAPS = 400
QUANTITIES = {"size": "sigma", "flux": "amplitude"}
FEWEST_GALAXIES = 2  # galaxies of a bin that has an error


class Residuals(NamedTuple):
    """Relative differences of the galaxies of which both moments are good, and the condition that they belong to."""

    condition: Float[np.ndarray, "n"]
    residual: Float[np.ndarray, "n"]

    __repr__ = brief


def conditional_residuals(
    real: Table, drawn: Table, condition: Float[np.ndarray, "n"], quantity: str
) -> Residuals:
    """Compute relative differences between drawn galaxies and the real ones whose conditions they were drawn for.

    Args:
        real: Moments of real stamps, from :func:`~hiergal.measure.moments.measure_moments`.
        drawn: Moments of the drawn galaxies, row for row.
        condition: The condition of each row.
        quantity: ``size`` (adaptive sigma) or ``flux`` (amplitude of the adaptive moments).

    Raises:
        ValueError: If the tables have different lengths, or the quantity is unknown.

    Example:
        >>> real = Table({"sigma": [0.2, 0.2], "amplitude": [1.0, 2.0], "flag": [0, 0]})
        >>> drawn = Table({"sigma": [0.22, 0.1], "amplitude": [1.0, 2.0], "flag": [0, 1]})
        >>> conditional_residuals(real, drawn, np.array([22.0, 23.0]), "size").residual.round(3)
        array([0.1])
    """
    here, there, good = _pairs(real, drawn, quantity)
    if len(condition) != len(real):
        raise ValueError(f"condition: expected one for each of {len(real)} galaxies, got {len(condition)}")
    return Residuals(np.asarray(condition, float)[good], there / here - 1)


def conditional_test(
    real: Table, drawn: Table, quantity: str, *, seed: int = 0, alpha: float = ALPHA
) -> Verdict:
    """Compare drawn galaxies with the real ones whose conditions they were drawn for, pair by pair.

    The statistic is the median of drawn over real minus 1. If a drawn galaxy is what another real one with the same
    conditions might have been, the two can be exchanged, and ln(drawn / real) is symmetric about zero: the p-value is
    that of Wilcoxon's signed ranks (Wilcoxon 1945).

    Args:
        real: Moments of real stamps, from :func:`~hiergal.measure.moments.measure_moments`.
        drawn: Moments of the drawn galaxies, row for row.
        quantity: ``size`` or ``flux``.
        seed: Seed of the bootstrap that gives the error.
        alpha: Chance of a false alarm.

    Raises:
        ValueError: If the tables have different lengths, the quantity is unknown, or fewer than two pairs are good.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> tables = [Table({"sigma": rng.lognormal(-2, 0.2, 900), "flag": np.zeros(900, int)}) for _ in range(2)]
        >>> conditional_test(*tables, "size").passed
        True
        >>> tables[1]["sigma"] *= 1.1
        >>> conditional_test(*tables, "size").passed
        False
    """
    here, there, _ = _pairs(real, drawn, quantity)
    if len(here) < FEWEST_GALAXIES:
        raise ValueError(f"expected at least {FEWEST_GALAXIES} pairs with good moments, got {len(here)}")
    log_ratio = np.log(there / here)
    again = np.random.default_rng(seed).choice(log_ratio, (BOOTSTRAPS, len(log_ratio)))
    difference, error = np.expm1(np.median(log_ratio)), float(np.expm1(np.median(again, axis=1)).std())
    p_value = float(stats.wilcoxon(log_ratio).pvalue) if log_ratio.any() else 1.0
    name = f"{quantity} at given conditions"
    words = f"{name} differs by {100 * difference:+.2f} +- {100 * error:.2f} %"
    return verdict_of(name, difference, error, 0.0, p_value, alpha, words)


def binned(residuals: Residuals, edges: Float[np.ndarray, "edge"], *, seed: int = 0) -> Table:
    """Compute the median and the scatter of residuals in bins, with bootstrap errors.

    Args:
        residuals: Relative differences.
        edges: Edges of the bins, increasing; galaxies outside are left out.
        seed: Seed of the bootstrap.

    Returns:
        One row for each bin: ``low``, ``high``, ``galaxies``, ``bias`` (median) and ``bias_error``, ``scatter`` (half
        of the central 68 % range) and ``scatter_error``; NaN where there are fewer than two galaxies.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> residuals = Residuals(rng.uniform(20, 25, 4000), rng.normal(0.1, 0.3, 4000))
        >>> table = binned(residuals, np.array([20.0, 22.0, 25.0]))
        >>> bool(np.all(np.abs(table["bias"] - 0.1) < 4 * table["bias_error"]))
        True
    """
    rng = np.random.default_rng(seed)
    rows = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        values = residuals.residual[(residuals.condition >= low) & (residuals.condition < high)]
        if len(values) < FEWEST_GALAXIES:
            rows.append([low, high, len(values), *[np.nan] * 4])
            continue
        again = rng.choice(values, (BOOTSTRAPS, len(values)))
        median, spread = np.median(values), _spread(values)
        rows.append(
            [low, high, len(values), median, np.median(again, axis=1).std(), spread, _spread(again).std()]
        )
    names = ("low", "high", "galaxies", "bias", "bias_error", "scatter", "scatter_error")
    table = Table(np.array(rows), names=names)
    table["galaxies"] = table["galaxies"].astype(int)
    return table


def _spread(values: np.ndarray) -> np.ndarray | np.floating:
    low, high = np.percentile(values, [16, 84], axis=-1)
    return (high - low) / 2


def _pairs(real: Table, drawn: Table, quantity: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of the real and the drawn galaxies of which both are good, and which those are."""
    if quantity not in QUANTITIES:
        raise ValueError(f"quantity: expected one of {', '.join(QUANTITIES)}, got {quantity!r}")
    if len(real) != len(drawn):
        raise ValueError(
            f"expected as many drawn galaxies as real ones, got {len(real)} real and {len(drawn)} drawn; draw one for "
            "each row"
        )
    good = np.asarray((real["flag"] == 0) & (drawn["flag"] == 0))
    here, there = (np.asarray(table[QUANTITIES[quantity]], float)[good] for table in (real, drawn))
    return here, there, good
