"""Conditions of galaxies: the columns of a catalogue that a model is conditioned on (paper, Sec. 4.2.2).

A catalogue is an Astropy table, a structured array, a pandas frame, or any mapping from names to columns. Columns with
units are converted to those that the model was trained with; plain numbers are taken to be in these. Conditions that
are not known are drawn from the model's population: galaxies of its training survey that are like what is known.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from hiergal.model.condition_columns import PIXELS, Catalog, column_names, conditions_from, numbers_from
from hiergal.model.trained import GalaxyModel, check_model
from hiergal.survey.tables.columns import column_of

__all__ = [
    "complete_conditions",
    "condition_factors",
    "condition_names",
    "conditions_for",
    "given_conditions",
    "outside_range",
]

DISTANCES_PER_CALL = 2**22  # distances computed together


def condition_factors(model: GalaxyModel, units: Callable[[str], str]) -> Float[np.ndarray, "c"]:
    """Return the factors from the columns of a survey to the conditions of a model.

    Args:
        model: A model with a latent flow.
        units: Returns the unit of a column of the survey in words, as ``StoreHeader.unit_of`` does.

    Raises:
        ValueError: If the unit of a column cannot be converted to that of the condition.

    Example:
        >>> condition_factors(model, survey.header.unit_of)
        array([1., 1., 1.], dtype=float32)
    """
    names, known = condition_names(model), model.provenance.condition_units
    return np.array([_factor(units(name), known.get(name, ""), name) for name in names], np.float32)


def _factor(words: str, expected: str, name: str) -> float:
    """Ratio of a unit to the expected one; units that are not stated are taken to be the same."""
    if words == expected or "not stated" in (words, expected) or not words or not expected:
        return 1.0
    import astropy.units as u

    def unit(text: str) -> u.UnitBase:
        pixels = re.fullmatch(PIXELS, text)
        return u.Unit(float(pixels["scale"]) * u.arcsec if pixels and pixels["scale"] else text)

    try:
        return float((1 * unit(words)).to_value(unit(expected)))
    except (u.UnitConversionError, ValueError, TypeError):
        raise ValueError(
            f"conditions: {name}: expected a column of the survey in {expected}, got one in {words}; convert it, and "
            "write the survey again"
        ) from None


def conditions_for(
    model: GalaxyModel, catalog: Catalog, *, unknown: str = "raise"
) -> Float[np.ndarray, "n c"]:
    """Collect the columns that a model is conditioned on, in its units.

    Args:
        model: A model with a latent flow.
        catalog: Columns with names.
        unknown: As for :func:`conditions_from`.

    Raises:
        ValueError: If the model has no flow, or as for :func:`conditions_from`.

    Example:
        >>> conditions_for(model, {"mag_auto": [22.0], "flux_radius": [8.0], "zphot": [0.7]}).shape
        (1, 3)
    """
    return conditions_from(condition_names(model), catalog, **_conventions(model), unknown=unknown)


def given_conditions(model: GalaxyModel, conditions: Any, n: int) -> Float[np.ndarray, "n c"]:
    """Return given conditions of n galaxies as numbers, in the model's units.

    Args:
        model: A model with a latent flow.
        conditions: A table of them (any catalogue, see the top of this page), with a row for each galaxy; or numbers
            [n, c], columns as in ``model.flow.config.conditions``.
        n: Number of galaxies.

    Returns:
        The conditions; what is masked or missing in a table is NaN.

    Raises:
        ValueError: If the model has no flow, a column is missing or its unit does not fit, or there are not n rows.

    Example:
        >>> given_conditions(model, {"mag_auto": [22.0], "flux_radius": [8.0], "zphot": [0.7]}, 1)
        array([[22. ,  8. ,  0.7]], dtype=float32)
    """
    names = condition_names(model)
    numbers = numbers_from(names, conditions, **_conventions(model))
    if numbers.shape != (n, len(names)):
        raise ValueError(
            f"conditions: expected shape {(n, len(names))} for {', '.join(names)}, got {numbers.shape}"
        )
    return numbers


def condition_names(model: GalaxyModel) -> tuple[str, ...]:
    """Return the names of what a model's flow is conditioned on: its galaxies are drawn for these.

    Raises:
        TypeError: If it is no model.
        ValueError: If the model has no flow.
    """
    return check_model(model).condition_names


def outside_range(model: GalaxyModel, conditions: Float[np.ndarray, "n c"]) -> Bool[np.ndarray, "n"]:
    """Find conditions outside the range of the training set (:mod:`hiergal.model.trained_range`).

    Args:
        model: A model with a latent flow.
        conditions: As :func:`conditions_for` gives them.
    """
    from hiergal.model.trained_range import check_range

    condition_names(model)
    return check_range(model, conditions).outside


def complete_conditions(
    model: GalaxyModel, catalog: Catalog | None, choice: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "n c"]:
    """Draw the conditions that a catalogue lacks from the model's population.

    Args:
        model: A model with a population.
        catalog: Columns with names, some of them conditions; or None.
        choice: A uniform number in [0, 1) for each row: which galaxy of the population lends its conditions. One like
            what is known is chosen, by a Gaussian kernel of the width of Scott (1992, Multivariate Density Estimation).

    Raises:
        ValueError: If the model has no population, or as for :func:`conditions_from`.

    Example:
        >>> complete_conditions(model, {"mag_auto": [22.0, 23.0]}, np.array([0.2, 0.7])).shape
        (2, 3)
    """
    names = condition_names(model)
    if model.population is None:
        raise ValueError(
            f"catalog: expected the columns {', '.join(names)}: this model has no population to draw them from; fit "
            "its flow again with `hiergal fit-prior`"
        )
    population = np.asarray(model.population)
    there = [] if catalog is None else column_names(catalog)
    known = [i for i, name in enumerate(names) if column_of(name, there) is not None]
    if not known:
        return population[(choice * len(population)).astype(int)]
    given = conditions_from(tuple(names[i] for i in known), catalog, **_conventions(model))
    if len(given) != len(choice):
        raise ValueError(f"catalog: expected {len(choice)} rows, got {len(given)}")
    width = population[:, known].std(axis=0) * len(population) ** (-1 / (len(known) + 4))
    width = np.where(width > 0, width, 1.0)
    result, rows = (
        np.empty((len(choice), len(names)), np.float32),
        max(1, DISTANCES_PER_CALL // len(population)),
    )
    for first in range(0, len(choice), rows):
        here = slice(first, first + rows)
        squared = (((given[here, None] - population[None, :, known]) / width) ** 2).sum(axis=-1)
        weight = np.exp(-0.5 * (squared - squared.min(axis=1, keepdims=True)))
        total = np.cumsum(weight, axis=1)
        chosen = (total < choice[here, None] * total[:, -1:]).sum(axis=1)
        result[here] = population[np.minimum(chosen, len(population) - 1)]
    result[:, known] = given
    return result


def _conventions(model: GalaxyModel) -> dict[str, Any]:
    return {
        "units": model.provenance.condition_units,
        "pixel_scale_arcsec": model.recipe.pixel_scale_arcsec,
    }
