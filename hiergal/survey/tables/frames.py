"""Tables from parquet, Arrow and pandas, with their units and masks (see :mod:`hiergal.survey.tables.files`)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hiergal.runtime.extras import require_extra
from hiergal.survey.tables.columns import column_of

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = [
    "UNITS_OF_FRAMES",
    "in_short",
    "table_from_arrow",
    "table_from_pandas",
    "table_from_parquet",
    "table_of_columns",
]

UNITS_OF_FRAMES = ("units", "unit")


def table_from_parquet(path: Path, choice: Any) -> "Table":
    """Read a parquet file, or a folder of them; of the columns those that are asked for."""
    require_extra("cluster", f"{path}")
    import pyarrow.parquet as parquet

    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    schema = parquet.read_schema(files[0])
    needed = None
    if choice.names is not None:  # masks of Astropy's masked columns lie in columns of their own
        found = {column_of(name, schema.names) for name in choice.names} - {None}
        needed = [n for n in schema.names if n in found or n.removesuffix(".mask") in found]
        if not needed:
            return table_of_columns({name: (np.empty(0), None) for name in schema.names})
    return table_from_arrow(parquet.read_table(path, columns=needed), choice)


def table_from_arrow(table: Any, choice: Any = None) -> "Table":
    """A pyarrow table; units are in Astropy's metadata, in pandas' attributes, or in those of a field."""
    metadata = {key.decode(): value for key, value in (table.schema.metadata or {}).items()}
    units = _units_of_astropy(metadata.get("table_meta_yaml")) | _units_of_pandas(
        metadata.get("PANDAS_ATTRS")
    )
    columns, there = {}, set(table.column_names)
    for name in table.column_names:
        if name.endswith(".mask") and name.removesuffix(".mask") in there:
            continue
        values = _of_arrow_column(table[name])
        if f"{name}.mask" in there:
            values = np.ma.array(
                values, mask=_of_arrow_column(table[f"{name}.mask"]) | np.ma.getmaskarray(values)
            )
        own = {
            key.decode(): value.decode() for key, value in (table.schema.field(name).metadata or {}).items()
        }
        stated = next((own[word] for word in UNITS_OF_FRAMES if word in own), units.get(name))
        columns[name] = (values, stated)
    columns.pop("__index_level_0__", None)
    return table_of_columns(columns)


def _of_arrow_column(column: Any) -> np.ndarray:
    """Values and mask of a column, integers exactly."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    hidden = np.asarray(column.is_null().to_numpy(), bool)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        filled = pc.fill_null(column, False if pa.types.is_boolean(kind) else 0) if hidden.any() else column
        values = filled.to_numpy()
    else:
        values = np.array(column.to_pylist(), object)
    return np.ma.array(values, mask=hidden) if hidden.any() else np.asarray(values)


def _units_of_astropy(meta: bytes | None) -> dict[str, str]:
    if meta is None:
        return {}
    from astropy.table.meta import get_header_from_yaml

    header = get_header_from_yaml(meta.decode().splitlines())
    return {one["name"]: one["unit"] for one in header["datatype"] if one.get("unit") is not None}


def _units_of_pandas(attrs: bytes | None) -> dict[str, str]:
    if attrs is None:
        return {}
    return _units_in(json.loads(attrs))


def _units_in(attrs: Mapping[str, Any]) -> dict[str, str]:
    """Units in the attributes of a frame: a mapping from columns to units, under either word."""
    found = next((attrs[word] for word in UNITS_OF_FRAMES if isinstance(attrs.get(word), Mapping)), {})
    return {str(name): unit for name, unit in found.items()}


def table_from_pandas(frame: Any) -> "Table":
    """Return a pandas frame as a table; units are in its attributes, or in those of a column."""
    units, columns = _units_in(frame.attrs), {}
    index = frame.index.name
    if index is not None and index not in frame.columns:
        columns[str(index)] = (frame.index.to_numpy(), units.get(str(index)))
    for name in frame.columns:
        series = frame[name]
        hidden = series.isna().to_numpy()
        stated = next(
            (series.attrs[w] for w in UNITS_OF_FRAMES if isinstance(series.attrs.get(w), str)), None
        )
        if (
            str(series.dtype)[:3] in ("Int", "UIn") and hidden.any()
        ):  # pandas' own integers, with missing ones
            values = np.ma.array(series.fillna(0).to_numpy(str(series.dtype).lower()), mask=hidden)
        elif str(series.dtype)[:3] in ("Int", "UIn", "Flo", "boo"):
            values = series.to_numpy(
                str(series.dtype).lower(), **({"na_value": np.nan} if hidden.any() else {})
            )
        else:
            values = series.to_numpy()
        if values.dtype.kind == "O" and hidden.any():
            values = np.ma.array(values, mask=hidden)
        columns[str(name)] = (values, stated or units.get(str(name)))
    return table_of_columns(columns)


def table_of_columns(columns: Mapping[str, tuple[Any, Any]]) -> "Table":
    """A plain table of columns and their units, which may be words."""
    from astropy.table import Column, MaskedColumn, Table

    from hiergal.survey.tables.columns import unit_from

    table = Table()
    for name, (values, unit) in columns.items():
        hidden = getattr(values, "mask", None)
        if isinstance(values, np.ma.MaskedArray):
            column = MaskedColumn(np.ma.getdata(values), mask=np.ma.getmaskarray(values))
        elif hidden is not None and hasattr(values, "unmasked"):
            column = MaskedColumn(values.unmasked.value, mask=hidden)
        else:
            plain = getattr(values, "value", values) if hasattr(values, "unit") else values
            column = Column(np.atleast_1d(np.asarray(plain)))
        column.unit = unit_from(unit)
        table[str(name)] = column
    return table


def in_short(error: Exception) -> str:
    """Return the words of an error in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
