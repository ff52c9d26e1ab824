"""Columns of conditions: a catalogue's values as the numbers that a flow takes, without any model."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from hiergal.runtime.pytree import Array
from hiergal.survey.tables.columns import column_of, unit_from

__all__ = [
    "Catalog",
    "check_numbers",
    "column_names",
    "conditions_from",
    "has_columns",
    "numbers_from",
    "read_catalog",
]

Catalog = Any  # anything with named columns: not all of these are Mappings
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
    there = column_names(catalog)
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
        hdu: Table of a file with several.

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


def numbers_from(
    names: tuple[str, ...],
    given: Any,
    *,
    units: dict[str, str] | None = None,
    pixel_scale_arcsec: float = 1.0,
) -> Float[Array, "*n c"]:
    """Return conditions that are given as columns with names, or as numbers, as numbers.

    Args:
        names: Names of the conditions, in order.
        given: Columns, as for :func:`conditions_from`; or numbers [..., c], also traced ones.
        units: As for :func:`conditions_from`.
        pixel_scale_arcsec: As for :func:`conditions_from`.

    Returns:
        The conditions; what is masked or missing in a table is NaN.

    Raises:
        TypeError: If they are the name of a file.
        ValueError: If a column is missing, or its unit does not fit.

    Example:
        >>> numbers_from(("mag_auto", "zphot"), [22.0, 0.7])
        array([22. ,  0.7], dtype=float32)
    """
    if isinstance(given, str | Path):
        raise TypeError(
            f"conditions: expected numbers or columns with names, got {str(given)!r}; read it first: "
            f"hiergal.model.condition_columns.read_catalog({str(given)!r})"
        )
    if has_columns(given):
        return conditions_from(
            names, given, units=units, pixel_scale_arcsec=pixel_scale_arcsec, unknown="keep"
        )
    return given if isinstance(given, jax.core.Tracer) else np.asarray(given, np.float32)


def check_numbers(names: tuple[str, ...], numbers: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
    """Check that conditions are as many as their names, and finite unless they are traced; return them.

    Raises:
        ValueError: If they are not.

    Example:
        >>> check_numbers(("mag_auto", "zphot"), np.array([[22.0, np.nan], [23.0, 0.5]]))
        Traceback (most recent call last):
        ...
        ValueError: conditions: expected finite values, got NaN or infinity for 1 of 2 galaxies; ...
    """
    if numbers.shape[-1:] != (len(names),):
        raise ValueError(
            f"conditions: expected shape (..., {len(names)}) for {', '.join(names)}, got {numbers.shape}"
        )
    bad = 0 if isinstance(numbers, jax.core.Tracer) else int((~np.isfinite(numbers).all(axis=-1)).sum())
    if bad:
        raise ValueError(
            f"conditions: expected finite values, got NaN or infinity for {bad} of {numbers[..., 0].size} galaxies; "
            "take the density without conditions for those"
        )
    return numbers


def has_columns(given: Any) -> bool:
    """Return whether conditions are given as columns with names, and not as numbers alone.

    Args:
        given: Anything.

    Example:
        >>> has_columns({"zphot": [0.7]}), has_columns(np.zeros((1, 3)))
        (True, False)
    """
    if isinstance(given, np.ndarray | np.void) and given.dtype.names is not None:
        return True
    return isinstance(given, Mapping) or hasattr(given, "colnames") or _is_frame(given)


def column_names(catalog: Catalog) -> list[str]:
    """Return the names of all columns of a catalogue.

    Raises:
        TypeError: If it has no columns with names.

    Example:
        >>> column_names({"mag_auto": [22.0]})
        ['mag_auto']
    """
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
