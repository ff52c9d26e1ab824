"""What galaxies are asked for: the columns of a catalogue that a model is conditioned on (paper, Sec. 4.2.2).

A catalogue is an Astropy table, a structured array, a pandas frame, or any mapping from names to columns. Columns with
units are converted to those that the model was trained with; plain numbers are taken to be in these. Conditions that
nobody knows are drawn from the model's population: galaxies of its training survey that are like what is known.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from hiergal.model.trained import GalaxyModel, check_model
from hiergal.survey.tables.columns import column_of, unit_from

__all__ = [
    "Catalog",
    "complete_conditions",
    "condition_factors",
    "condition_names",
    "conditions_for",
    "conditions_from",
    "given_conditions",
    "has_columns",
    "outside_range",
    "read_catalog",
]

Catalog = Any  # anything with named columns: not all of these are Mappings
DISTANCES_PER_CALL = 2**22  # distances computed together
PIXELS = r"(?:(?P<scale>[\d.]+) arcsec )?pixels"


def conditions_from(
    names: tuple[str, ...],
    catalog: Catalog,
    *,
    units: dict[str, str] | None = None,
    pixel_scale_arcsec: float = 1.0,
    unknown: str = "raise",
) -> Float[np.ndarray, "n c"]:
    """Collect the columns that a model is conditioned on.

    Args:
        names: Names of the conditions, in order.
        catalog: Columns with names; single values make one row.
        units: Unit of each condition in words; what has units in the catalogue is converted to these.
        pixel_scale_arcsec: Width of what such words call a pixel, unless they say it [arcsec].
        unknown: What to do with values that are masked, NaN or infinite: ``raise``, or ``keep`` them, as NaN or
            infinity.

    Raises:
        ValueError: If a column is missing or of another length, its unit does not fit, or a value is not finite.

    Example:
        >>> conditions_from(("mag_auto",), {"mag_auto": np.array([22.0, 23.0])}).shape
        (2, 1)
    """
    if _is_frame(catalog):  # whose units lie apart
        catalog = read_catalog(catalog, names)
    there = _names(catalog)
    found = {name: column_of(name, there) for name in names}
    missing = [name for name, column in found.items() if column is None]
    if missing:
        raise ValueError(
            f"catalog: expected the columns {', '.join(names)}, which the model is conditioned on; "
            f"missing: {', '.join(missing)}; there are: {', '.join(map(str, there)) or 'none'}"
        )
    units = units or {}
    columns = [
        _numbers(catalog[found[name]], name, units.get(name, ""), pixel_scale_arcsec) for name in names
    ]
    lengths = {name: len(column) for name, column in zip(names, columns, strict=True)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"catalog: expected columns of one length, got {lengths}")
    with np.errstate(over="ignore"):
        table = np.stack(columns, axis=-1).astype(np.float32)
    bad = ~np.isfinite(table).all(axis=-1)
    if bad.any() and unknown == "raise":
        raise ValueError(
            f"catalog: expected finite conditions, got NaN or infinity in {bad.sum()} of {len(table)} rows "
            f"(first: {np.flatnonzero(bad)[0]}); drop those rows"
        )
    return table


def read_catalog(
    path: str | Path | Catalog,
    names: tuple[str, ...] | None = None,
    *,
    columns: Mapping[str, str] | Sequence[str] | None = None,
    hdu: int | str | None = None,
) -> Catalog:
    r"""Read the columns of a catalogue that are needed, of any format (:mod:`hiergal.survey.tables.catalog`).

    Args:
        path: The catalogue's file, or a survey's store; or columns in memory.
        names: Columns; None for all.
        columns: What columns are called in it, ``{"mag_auto": "MAG_BEST"}``.
        hdu: Which table of a file with several.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no table.

    Example:
        >>> written = Path("galaxies.csv").write_text("mag_auto,zphot\n22.5,0.8\n23.0,0.5\n")
        >>> len(read_catalog("galaxies.csv", ("mag_auto",))["mag_auto"])
        2
    """
    from hiergal.survey.tables.catalog import read_catalog as read

    return read(path, names, columns=columns, hdu=hdu)


def condition_factors(model: GalaxyModel, units: Callable[[str], str]) -> Float[np.ndarray, "c"]:
    """Return what the columns of a survey are multiplied by to be conditions of a model.

    Args:
        model: A model with a flow.
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
    """How many of the expected unit one of the other is; units that nobody stated are taken to be the same."""
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
        model: A model with a flow.
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
    """Return what somebody gives as the conditions of n galaxies as numbers, in the model's units.

    Args:
        model: A model with a flow.
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
    if isinstance(conditions, str | Path):
        raise TypeError(
            f"conditions: expected numbers or columns with names, got {str(conditions)!r}; read it first: "
            f"hiergal.model.conditions.read_catalog({str(conditions)!r})"
        )
    if has_columns(conditions):
        conditions = conditions_for(model, conditions, unknown="keep")
    else:
        conditions = np.asarray(conditions, np.float32)
    if conditions.shape != (n, len(names)):
        raise ValueError(
            f"conditions: expected shape {(n, len(names))} for {', '.join(names)}, got {conditions.shape}"
        )
    return conditions


def has_columns(given: Any) -> bool:
    """Tell whether conditions are given as columns with names, and not as numbers alone.

    Args:
        given: Anything.

    Example:
        >>> has_columns({"zphot": [0.7]}), has_columns(np.zeros((1, 3)))
        (True, False)
    """
    if isinstance(given, np.ndarray | np.void) and given.dtype.names is not None:
        return True
    return isinstance(given, Mapping) or hasattr(given, "colnames") or _is_frame(given)


def condition_names(model: GalaxyModel) -> tuple[str, ...]:
    """Return the names of what a model's flow is conditioned on: its galaxies are drawn for these.

    Raises:
        TypeError: If it is no model.
        ValueError: If the model has no flow.
    """
    check_model(model)
    if model.flow is None:
        raise ValueError(
            "conditions: expected a model with a flow, got one without; fit it with `hiergal flow`"
        )
    return model.flow.config.conditions


def outside_range(model: GalaxyModel, conditions: Float[np.ndarray, "n c"]) -> Bool[np.ndarray, "n"]:
    """Tell which rows ask for what the model has not been trained on (:mod:`hiergal.model.trained_range`).

    Args:
        model: A model with a flow.
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
            "its flow again with `hiergal flow`"
        )
    population = np.asarray(model.population)
    there = [] if catalog is None else _names(catalog)
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


def _names(catalog: Catalog) -> list[str]:
    if isinstance(catalog, np.ndarray):
        if catalog.dtype.names is None:
            raise TypeError(f"catalog: expected columns with names, got an array of {catalog.dtype}")
        return list(catalog.dtype.names)
    if isinstance(catalog, np.void) and catalog.dtype.names is not None:  # a row of a structured array
        return list(catalog.dtype.names)
    try:
        return list(getattr(catalog, "colnames", catalog))
    except TypeError:
        raise TypeError(f"catalog: expected columns with names, got {type(catalog).__name__}") from None


def _is_frame(catalog: Catalog) -> bool:
    """Whether this is a frame of pandas or polars, or a table of pyarrow, which keep units apart from columns."""
    return any(hasattr(catalog, name) for name in ("combine_chunks", "to_arrow", "to_parquet"))


def _numbers(column: Any, name: str, unit: str, pixel_scale_arcsec: float) -> Float[np.ndarray, "n"]:
    """A column as numbers in the unit that these words name; masked values as NaN."""
    if getattr(column, "unit", None) is not None:
        column = _converted(column, name, unit, pixel_scale_arcsec)
    try:
        if np.iscomplexobj(column):
            raise TypeError
        values = np.ma.filled(np.ma.asarray(column, float), np.nan)
    except (TypeError, ValueError):
        raise ValueError(f"catalog: {name}: expected numbers, got {np.asarray(column).dtype}") from None
    if values.ndim > 1:
        raise ValueError(f"catalog: {name}: expected one number for each row, got shape {values.shape}")
    return np.atleast_1d(values)


def _converted(column: Any, name: str, unit: str, pixel_scale_arcsec: float) -> Any:
    """A column with units in the unit that these words name; one without words stays as it is."""
    import astropy.units as u

    mask = np.ma.getmaskarray(np.ma.asarray(column)) if isinstance(column, np.ma.MaskedArray) else False
    pixels = re.fullmatch(PIXELS, unit)
    try:
        if pixels and pixels["scale"] and unit_from(getattr(column, "unit", None)) == u.pix:
            raise u.UnitConversionError(
                f"pixels of which survey? Give {name} in arcsec, or say how wide they are: "
                f"--column '{name}={name.upper()}:0.2 arcsec' where they are 0.2 arcsec wide; plain numbers are taken "
                f"to be {unit}"
            )
        # A column of a plain table, unlike one of a QTable, is no quantity; AB magnitudes make one of their own kind.
        quantity = (
            column if isinstance(column, u.Quantity) else np.asarray(column, float) * unit_from(column.unit)
        )
        if pixels:
            scale = float(pixels["scale"] or pixel_scale_arcsec)
            values = quantity.to_value(u.pix, u.pixel_scale(scale * u.arcsec / u.pix))
        elif unit == "mag":
            values = (quantity if quantity.unit == u.mag else quantity.to(u.ABmag)).value
        elif unit in ("", "not stated"):
            values = quantity.value
        else:
            values = quantity.to_value(u.dimensionless_unscaled if unit == "1" else u.Unit(unit))
    except (u.UnitConversionError, ValueError, TypeError) as error:
        raise ValueError(
            f"catalog: {name}: expected a column in {unit}, got {column.unit}: {error}"
        ) from None
    return np.where(mask, np.nan, values)
