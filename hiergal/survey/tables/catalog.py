"""Catalogues of any origin: the reader of all tables, with their units, masks, identifiers and names.

Files are told by their content (:mod:`hiergal.survey.tables.files`). Whatever the format, the same catalogue comes out
as the same table:

==============  ========================================================================================================
floats          float64; what is masked, null or empty is NaN
integers        int64; float64 with NaN if something is masked
text            Unicode, without blanks around it; what is masked is empty
units           as Astropy units; formats without units may have them in the name, ``flux_radius [arcsec]``
identifiers     64-bit integers or text, exactly; anything else is refused, by row (:func:`identifiers_from`)
names           found in any case: ``MAG_AUTO`` is ``mag_auto``, where no column is called just that
==============  ========================================================================================================
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Shaped

from hiergal.survey.tables.columns import _unknown, column_of, unit_from

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = [
    "IDENTIFIER",
    "identifiers_from",
    "parse_columns",
    "read_catalog",
]

IDENTIFIER = "identifier"
EXACT = 2**53  # floats are whole numbers up to there, one by one
NAME_WITH_UNIT = re.compile(r"(?P<name>[^\[\]()]*\w)\s*(?:\[(?P<square>[^\]]+)\]|\((?P<round>[^)]+)\))\s*")


def read_catalog(
    source: Any,
    names: Iterable[str] | None = None,
    *,
    columns: Mapping[str, str] | Sequence[str] | None = None,
    hdu: int | str | None = None,
) -> "Table":
    """Read a catalogue, or the columns of it that are needed.

    Args:
        source: A file (FITS, FITS_LDAC, ECSV, CSV, TSV and other text, parquet, HDF5, VOTable, ``.npz``, ``.npy``; text
            and FITS may be compressed), a survey's store, or columns with names in memory: an Astropy table, a pandas
            or polars frame, a pyarrow table, a structured array, a mapping.
        names: Columns that are needed; those that are not there are left out. None for all, under their own names.
        columns: Name of each column in the catalogue, and its unit if it has none:
            ``{"mag_auto": "MAG_BEST", "flux_radius": "FLUX_RADIUS:0.168 arcsec"}``, or a list of such pairs in words,
            ``mag_auto=MAG_BEST`` (:func:`parse_columns`).
        hdu: Table of a file with several: number or name of an HDU, path in an HDF5 file, number of a table in a
            VOTable. By default the one that has the columns.

    Returns:
        A table of native columns; see the top of this page.

    Raises:
        OSError: If the file is missing, damaged, or cannot be read.
        ValueError: If it holds no table, or several with these columns, or a name is not unique.
        TypeError: If these are no columns with names.

    Example:
        >>> table = read_catalog({"MAG_AUTO": [22, 23], "id": [7, 8]}, ["mag_auto"])
        >>> table.colnames, table["mag_auto"].tolist()
        (['mag_auto'], [22, 23])
    """
    from hiergal.survey.tables.files import Choice, read_file, table_from

    named = parse_columns(columns)
    wanted = None if names is None else tuple(dict.fromkeys(names))
    looked_for = None if wanted is None else tuple(named.get(name, (name, None))[0] for name in wanted)
    if isinstance(source, str | Path):
        where, raw = (
            str(source),
            read_file(source, Choice(looked_for, hdu, named.get(IDENTIFIER, (IDENTIFIER,))[0])),
        )
    else:
        where, raw = "catalog", table_from(source)
    raw = _with_units_of_names(raw)
    table = _table_of(raw, wanted, named, where)
    if wanted and not table.colnames and isinstance(source, str | Path):
        raise ValueError(
            f"{where}: expected the columns {', '.join(wanted)}, got {', '.join(raw.colnames[:30]) or 'none'}; say "
            "what they are called with --column NAME=COLUMN"
        )
    return table


def parse_columns(columns: Mapping[str, str] | Sequence[str] | None) -> dict[str, tuple[str, Any]]:
    """Return the names of columns in a catalogue, and their units where these are given.

    Args:
        columns: Names, as for :func:`read_catalog`.

    Raises:
        ValueError: If something is not ``NAME=COLUMN`` or ``NAME=COLUMN:UNIT``, or is no unit.

    Example:
        >>> parse_columns(["mag_auto=MAG_BEST", "flux_radius=FLUX_RADIUS:0.168 arcsec"])
        {'mag_auto': ('MAG_BEST', None), 'flux_radius': ('FLUX_RADIUS', Unit("0.168 arcsec"))}
    """
    if columns is None:
        return {}
    if not isinstance(columns, Mapping):
        pairs = [str(pair).partition("=") for pair in columns]
        wrong = ["".join(pair) for pair in pairs if not pair[0].strip() or not pair[2].strip()]
        if wrong:
            raise ValueError(f"column: expected NAME=COLUMN, such as mag_auto=MAG_BEST, got {wrong[0]!r}")
        columns = {name.strip(): value.strip() for name, _, value in pairs}
    result = {}
    for name, value in columns.items():
        column, colon, words = str(value).partition(":")
        unit = unit_from(words) if colon else None
        if colon and (unit is None or not hasattr(unit, "decompose") or _unknown(unit)):
            raise ValueError(f"column: expected a unit after the colon, got {words!r} in {name}={value}")
        result[name] = (column.strip(), unit)
    return result


def identifiers_from(column: Any, what: str = IDENTIFIER) -> Shaped[np.ndarray, "n"]:
    """Return identifiers exactly: int64, or text. Numbers in text that are whole are numbers, if no digit gets lost.

    Args:
        column: The column of a table, or an array.
        what: What to call it in errors.

    Raises:
        ValueError: If one is missing, empty, no whole number, or beyond 64 bits, or two are equal; rows are named.

    Example:
        >>> identifiers_from(["36411448540268969", "36411448540268970"]).tolist()
        [36411448540268969, 36411448540268970]
        >>> identifiers_from(["007", "8"]).tolist()
        ['007', '8']
    """
    hidden = np.ma.getmaskarray(column) if isinstance(column, np.ma.MaskedArray) else None
    values = np.asarray(np.ma.getdata(column) if hidden is not None else column)
    if hidden is not None and hidden.any():
        raise _refused(what, "none (empty or masked)", hidden)
    if values.ndim != 1:
        raise ValueError(f"{what}: expected one for each row, got shape {values.shape}")
    if values.dtype.kind == "O":
        values = _of_objects(values, what)
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    if values.dtype.kind == "U":
        values = _of_text(np.char.strip(values), what)
    if values.dtype.kind == "f":
        bad = ~(np.abs(values) <= EXACT) | (values != np.rint(values))
        if bad.any():
            got = f"{values[bad][0]!s}, which is no whole number that a float tells exactly,"
            raise _refused(what, got, bad)
    elif values.dtype.kind == "u":
        bad = np.asarray(values, np.uint64) > np.iinfo(np.int64).max
        if bad.any():
            raise _refused(what, f"{values[bad][0]}, beyond 64 bits with a sign,", bad)
    elif values.dtype.kind not in "iU":
        raise ValueError(f"{what}: expected 64-bit integers or text, got {values.dtype}")
    values = values if values.dtype.kind == "U" else values.astype(np.int64)
    _, first, counts = np.unique(values, return_index=True, return_counts=True)
    if len(first) < len(values):
        again = values[first[counts > 1].min()]
        rows = np.flatnonzero(values == again)
        raise ValueError(
            f"{what}: expected another one in each row, got {again} in rows {', '.join(map(str, rows[:5]))}; make them "
            "differ"
        )
    return values


def _of_objects(values: np.ndarray, what: str) -> np.ndarray:
    """Python's numbers and texts; a mixture is text."""
    missing = np.array([one is None or one != one for one in values], bool)  # NaN is not itself
    if missing.any():
        raise _refused(what, "none (empty or masked)", missing)
    whole = np.array(
        [isinstance(one, int | np.integer) and not isinstance(one, bool) for one in values], bool
    )
    if whole.all():
        limits = np.iinfo(np.int64)
        beyond = np.array([not limits.min <= int(one) <= limits.max for one in values], bool)
        if beyond.any():
            raise _refused(what, f"{values[beyond][0]}, beyond 64 bits,", beyond)
        return values.astype(np.int64)
    odd = ~whole & ~np.array([isinstance(one, str | bytes) for one in values], bool)
    if odd.any():
        if all(isinstance(one, int | float | np.number) and not isinstance(one, bool) for one in values):
            return values.astype(float)
        raise _refused(what, f"{values[odd][0]!r}", odd)
    return np.array([one.decode() if isinstance(one, bytes) else str(one) for one in values])


def _of_text(values: np.ndarray, what: str) -> np.ndarray:
    empty = values == ""
    if empty.any():
        raise _refused(what, "none (empty or masked)", empty)
    texts = values.tolist()
    if all(re.fullmatch(r"-?(0|[1-9]\d*)", text) for text in texts):
        return _of_objects(np.array([int(text) for text in texts], object), what)
    numbers = np.array(
        [bool(re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text)) for text in texts], bool
    )
    if numbers.all() and any(set(text) & set(".eE") for text in texts):
        return np.array([float(text) for text in texts])  # refused where they are not whole
    return values


def _refused(what: str, got: str, bad: np.ndarray) -> ValueError:
    rows = np.flatnonzero(bad)
    return ValueError(
        f"{what}: expected a 64-bit integer or text in each row, got {got} in row {rows[0]} ({len(rows)} of {bad.size} "
        "rows); rows count from 0"
    )


def _table_of(
    raw: "Table", wanted: tuple[str, ...] | None, named: Mapping[str, tuple[str, Any]], where: str
) -> "Table":
    """Choose, rename and convert columns."""
    from astropy.table import Column, Table

    there, table = raw.colnames, Table()
    chosen: dict[str, tuple[str, Any]] = {}
    for name in there if wanted is None else wanted:
        column, unit = named.get(name, (name, None))
        found = column_of(column, there, where)
        if found is None and name in named:
            raise ValueError(
                f"{where}: expected the column {column} for {name}; there are: {', '.join(there) or 'none'}"
            )
        if found is not None:
            chosen[name] = (found, unit)
    if wanted is None:
        for name, (column, unit) in named.items():
            found = column_of(column, there, where)
            if found is None:
                raise ValueError(
                    f"{where}: expected the column {column} for {name}; there are: {', '.join(there)}"
                )
            chosen.pop(found, None)
            chosen[name] = (found, unit)
    for name, (found, unit) in chosen.items():
        column = raw[found]
        own = unit_from(getattr(column, "unit", None))
        if unit is not None and own is not None and not _says_less(own, unit):
            raise ValueError(
                f"{where}: {name}: expected one unit, got {own} in the table and {unit} next to it"
            )
        values = identifiers_from(column, f"{where}: {name}") if name == IDENTIFIER else _native(column)
        table[name] = Column(values, unit=unit if unit is not None else own)
    return table


def _says_less(own: Any, unit: Any) -> bool:
    """Whether a table's unit may be replaced: it is the same, or pixels, of which another now says the width."""
    import astropy.units as u

    return own == unit or (own == u.pix and unit.is_equivalent(u.arcsec))


def _native(column: Any) -> np.ndarray:
    """A column in the one form of its kind."""
    values, hidden = np.ma.getdata(column), None
    if isinstance(column, np.ma.MaskedArray) and np.ma.getmaskarray(column).any():
        hidden = np.ma.getmaskarray(column)
    elif getattr(column, "mask", None) is not None and np.any(column.mask):  # a masked quantity
        values, hidden = column.unmasked.value, np.asarray(column.mask)
    values = np.asarray(getattr(values, "value", values))
    if values.dtype.kind == "O":
        values, missing = _of_mixed(values)
        hidden = missing if hidden is None else hidden | missing
        hidden = hidden if hidden.any() else None
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    if values.dtype.kind == "U":
        values = np.char.strip(values)
        return values if hidden is None else np.where(hidden, "", values)
    if values.dtype.kind in "iub" and hidden is not None:
        values = values.astype(float)
    if values.dtype.kind == "f":
        values = values.astype(np.float64)
        return values if hidden is None else np.where(hidden, np.nan, values)
    if values.dtype.kind in "iu":
        fits = values.dtype.kind == "i" or not values.size or values.max() <= np.iinfo(np.int64).max
        return values.astype(np.int64 if fits else np.uint64)
    return values.astype(values.dtype.newbyteorder("="))


def _of_mixed(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Python's objects as numbers if they are, else as text; and which are missing."""
    missing = np.array(
        [one is None or one is np.ma.masked or type(one).__name__ == "NAType" for one in values], bool
    )
    known = [one for one, none in zip(values, missing, strict=True) if not none]
    if known and all(isinstance(one, int | np.integer) and not isinstance(one, bool) for one in known):
        filled = np.array([0 if none else int(one) for one, none in zip(values, missing, strict=True)])
        return filled, missing
    if all(isinstance(one, int | float | np.number) for one in known) or not known:
        numbers = [np.nan if none else float(one) for one, none in zip(values, missing, strict=True)]
        return np.array(numbers), missing
    words = [one.decode() if isinstance(one, bytes) else str(one) for one in known]
    text = iter(words)
    return np.array(["" if none else next(text) for none in missing]), missing


def _with_units_of_names(raw: "Table") -> "Table":
    """Take units out of names, ``flux_radius [arcsec]``, where columns have none and Astropy knows them."""
    for name in raw.colnames:
        parts = NAME_WITH_UNIT.fullmatch(name)
        if parts is None or getattr(raw[name], "unit", None) is not None:
            continue
        unit = unit_from(parts["square"] or parts["round"])
        if unit is not None and not _unknown(unit) and parts["name"] not in raw.colnames:
            raw = raw.copy(copy_data=False)
            raw.rename_column(name, parts["name"])
            raw[parts["name"]].unit = unit
    return raw
