"""Tables of all formats, as Astropy tables with units and masks, for :mod:`hiergal.survey.tables.catalog`.

The content of a file says what it is, not its name. Columns come as the format has them; the catalogue makes them one.
"""

import bz2
import contextlib
import gzip
import io
import itertools
import lzma
import re
import warnings
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hiergal.runtime.extras import require_extra
from hiergal.runtime.inputs import input_path
from hiergal.survey.tables.columns import column_of
from hiergal.survey.tables.fits_files import open_fits
from hiergal.survey.tables.frames import (
    UNITS_OF_FRAMES,
    in_short,
    table_from_arrow,
    table_from_pandas,
    table_from_parquet,
    table_of_columns,
)

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["Choice", "read_file", "table_from"]

START = 4096  # bytes that tell a format
COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
KINDS = "a table (FITS, ECSV, CSV or other text, parquet, HDF5, VOTable, .npz, .npy) or a survey's store"
DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}


class Choice(NamedTuple):
    """Selection of a table of a file, and of its columns.

    Attributes:
        names: Columns that are needed; None for all.
        hdu: Table of a file that has several; None for the one with the columns.
        identifier: The column of identifiers, which text is read as text for.
    """

    names: tuple[str, ...] | None = None
    hdu: int | str | None = None
    identifier: str = "identifier"

    def fits(self, there: list[str]) -> bool:
        """Whether a table has one of the columns."""
        return self.names is None or any(column_of(name, there) is not None for name in self.names)


def read_file(path: str | Path, choice: Choice) -> "Table":
    r"""Read a file, or the catalogue of a survey's store.

    Args:
        path: Where it is.
        choice: What of it.

    Raises:
        OSError: If it is missing, damaged, or cannot be read.
        ValueError: If it is none of these, or it is not clear which table is meant.

    Example:
        >>> written = Path("galaxies.csv").write_text("mag_auto,zphot\n22.5,0.8\n")
        >>> read_file("galaxies.csv", Choice(("mag_auto",))).colnames
        ['mag_auto', 'zphot']
    """
    path = input_path(path, KINDS)
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected {KINDS}, got no such file")
    if path.is_dir():
        return _of_folder(path, choice)
    try:
        opener = _opener_of(path)
        with (opener or open)(path, "rb") as file:
            start = file.read(START)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise OSError(f"{path}: expected {KINDS}, got one that cannot be read: {error}") from None
    if not start:
        raise OSError(f"{path}: expected {KINDS}, got an empty file")
    reader = _reader_of(start)
    if reader is None:
        raise ValueError(
            f"{path}: expected {KINDS}, got a file of another kind (it starts with {start[:8]!r})"
        )
    if opener is not None and reader not in (_of_fits, _of_text, _of_votable):
        raise ValueError(f"{path}: expected {KINDS}, got a compressed one; decompress it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of units that Astropy does not know, several tables, and the like
            return reader(path, choice)
    except MemoryError:
        raise
    except OSError as error:
        if str(path) in str(error):
            raise
        raise OSError(f"{path}: expected {KINDS}, got one that cannot be read: {in_short(error)}") from None
    except Exception as error:  # of whatever library reads the format: one line, with the file
        if str(error).startswith(str(path)):
            raise
        raise ValueError(
            f"{path}: expected {KINDS}, got one that cannot be read: {in_short(error)}"
        ) from None


def table_from(source: Any) -> "Table":
    """Return columns in memory as a table with units and masks.

    Args:
        source: An Astropy table, a pandas or polars frame, a pyarrow table, an xarray dataset, a structured array, or a
            mapping from names to columns.

    Raises:
        TypeError: If these are no columns with names.

    Example:
        >>> table_from({"mag_auto": [22.0]})["mag_auto"].tolist()
        [22.0]
    """
    from astropy.table import Table

    if isinstance(source, Table):
        return source
    if hasattr(source, "combine_chunks") and hasattr(source, "schema"):
        return table_from_arrow(source)
    if hasattr(source, "iloc") and hasattr(source, "columns"):
        return table_from_pandas(source)
    if hasattr(source, "to_arrow") and hasattr(source, "columns"):  # polars
        return table_from_arrow(source.to_arrow())
    if hasattr(source, "data_vars"):  # xarray
        return table_of_columns(
            {name: (np.asarray(one), one.attrs.get("units")) for name, one in source.data_vars.items()}
        )
    if isinstance(source, np.void | np.ndarray):
        if source.dtype.names is None:
            raise TypeError(f"catalog: expected columns with names, got an array of {source.dtype}")
        return table_of_columns({name: (np.atleast_1d(source[name]), None) for name in source.dtype.names})
    try:
        names = list(getattr(source, "colnames", source))
        columns = {str(name): source[name] for name in names}
    except (TypeError, KeyError, IndexError):
        raise TypeError(f"catalog: expected columns with names, got {type(source).__name__}") from None
    return table_of_columns(
        {name: (column, getattr(column, "unit", None)) for name, column in columns.items()}
    )


def _reader_of(start: bytes) -> Callable[[Path, Choice], "Table"] | None:
    """Reader of files that start like this; None for what is no table."""
    head = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"SIMPLE  ="):
        return _of_fits
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return _of_hdf5
    if start.startswith(b"PAR1"):
        return table_from_parquet
    if start.startswith((b"PK\x03\x04", b"\x93NUMPY")):
        return _of_numpy
    if head.startswith((b"<?xml", b"<VOTABLE", b"<!--")):
        return _of_votable
    if b"\0" in start:
        return None
    with contextlib.suppress(UnicodeDecodeError):
        start[: START - 4].decode()  # without what may be cut in the middle of a letter
        return _of_text
    return None


def _opener_of(path: Path) -> Callable[..., Any] | None:
    """Function that opens a compressed file; None for others."""
    with path.open("rb") as file:
        start = file.read(6)
    return next((opener for magic, opener in COMPRESSED.items() if start.startswith(magic)), None)


def _of_folder(path: Path, choice: Choice) -> "Table":
    from hiergal.survey.schema import is_store

    if not is_store(path) and any(path.glob("*.parquet")):
        return table_from_parquet(path, choice)
    from hiergal.survey.store import open_survey

    store = open_survey(path)
    columns = {name: (column, store.header.unit_of(name)) for name, column in store.catalog.items()}
    scale = f"{store.header.pixel_scale_arcsec!r} arcsec"
    columns = {
        name: (column, scale if unit in ("pix", "pixels", "pixel") else unit)
        for name, (column, unit) in columns.items()
    }
    return table_of_columns({"identifier": (store.identifier, None)} | columns)


def _of_fits(path: Path, choice: Choice) -> "Table":
    from astropy.io import fits
    from astropy.table import Table

    with open_fits(path, KINDS) as hdus:
        tables = {i: hdu for i, hdu in enumerate(hdus) if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)}
        tables = {i: hdu for i, hdu in tables.items() if not isinstance(hdu, fits.CompImageHDU)}
        names = {i: list(hdu.columns.names) for i, hdu in tables.items()}
        labels = {i: hdu.name for i, hdu in tables.items()}
        # SExtractor's LDAC has a table with the header of the image before the one of sources.
        sources = [i for i in tables if labels[i] != "LDAC_IMHEAD"] or list(tables)
        place = _chosen(path, choice, {i: names[i] for i in sources}, labels, "HDU", all_names=names)
        table = Table.read(tables[place], character_as_bytes=False)
        return table_of_columns({name: (table[name], table[name].unit) for name in table.colnames})


def _chosen(
    path: Path,
    choice: Choice,
    names: Mapping[Any, list[str]],
    labels: Mapping[Any, str],
    word: str,
    *,
    all_names: Mapping[Any, list[str]] | None = None,
) -> Any:
    """Selected table among several."""
    if choice.hdu is not None:
        for place in all_names or names:
            if (
                str(choice.hdu).strip() in (str(place), labels[place])
                or str(choice.hdu).upper() == labels[place]
            ):
                return place
        raise ValueError(
            f"{path}: expected a table in {word} {choice.hdu}, got tables in {_listed(labels) or 'none'}"
        )
    if not names:
        raise ValueError(f"{path}: expected a table, got a file without; there is none in any {word}")
    full = [
        p for p, there in names.items() if all(column_of(n, there) is not None for n in choice.names or ())
    ]
    there = full if choice.names and full else [place for place in names if choice.fits(names[place])]
    if len(there) > 1 and choice.names:
        listed = _listed({place: labels[place] for place in there})
        raise ValueError(f"{path}: expected one table with these columns, got {listed}; say which (--hdu)")
    return there[0] if there else next(iter(names))


def _listed(labels: Mapping[Any, str]) -> str:
    return ", ".join(f"{place} ({label})" if label else str(place) for place, label in labels.items())


def _of_votable(path: Path, choice: Choice) -> "Table":
    from astropy.io.votable import parse

    with contextlib.ExitStack() as opened:
        opener = _opener_of(path) or open
        file = opened.enter_context(opener(path, "rb"))
        tables = dict(enumerate(parse(io.BytesIO(file.read()), verify="ignore").iter_tables()))
    names = {i: [field.name or field.ID for field in table.fields] for i, table in tables.items()}
    labels = {i: str(table.ID or table.name or "").upper() for i, table in tables.items()}
    table = tables[_chosen(path, choice, names, labels, "table")].to_table(use_names_over_ids=True)
    return table_of_columns({name: (table[name], table[name].unit) for name in table.colnames})


def _of_text(path: Path, choice: Choice) -> "Table":
    from astropy.table import Table

    with (_opener_of(path) or open)(path, "rt", encoding="utf-8-sig", newline="") as file:
        text = file.read()
    if text.lstrip().startswith("# %ECSV"):
        table = Table.read(text, format="ascii.ecsv")
        return table_of_columns({name: (table[name], table[name].unit) for name in table.colnames})
    suffix = next((s.lower() for s in reversed(path.suffixes) if s.lower() not in (".gz", ".bz2", ".xz")), "")
    options, table = _guessed(text, DELIMITERS.get(suffix))
    columns = {name: (table[name], table[name].unit) for name in table.colnames}
    # Numbers with zeros before them are names, such as 007: Astropy would make them 7.
    name = column_of(choice.identifier, table.colnames)
    if name is not None and table[name].dtype.kind == "i" and "ascii" != options.get("format"):
        again = Table.read(text, converters={name: str}, include_names=[name], **options)
        columns[name] = (again[name], None)
    return table_of_columns(columns)


def _guessed(text: str, delimiter: str | None) -> tuple[dict[str, Any], "Table"]:
    """Read text as the suffix says it is delimited, or as its lines look; how it was read, and the table."""
    from astropy.table import Table

    lines = [line for line in text[:START].splitlines() if line.strip()]
    notes = [line for line in itertools.takewhile(lambda line: line.startswith("#"), lines)]
    first = lines[len(notes)] if len(notes) < len(lines) else ""
    options: list[dict[str, Any]] = []
    if re.match(r"#\s+\d+\s+\w", text):
        options.append({"format": "ascii.sextractor", "guess": False})
    for one in (delimiter, ",", "\t", None):  # names in the last comment, above a line with numbers
        fields = [field.strip() for field in first.split(one)]
        if notes and len(notes[-1].lstrip("# ").split(one)) == len(fields) and any(map(_is_number, fields)):
            about = {"delimiter": one or " ", "header_start": len(notes) - 1}
            options.append({"format": "ascii.commented_header", "guess": False, **about})
            break
    if delimiter is not None and (delimiter in first or not set(first) & set("\t;, ")):
        options.append({"format": "ascii.basic", "delimiter": delimiter, "guess": False})
    options += [
        {"format": "ascii.basic", "delimiter": one, "guess": False} for one in "\t;,|" if one in first
    ]
    options.append({"format": "ascii.basic", "delimiter": " ", "guess": False})
    options.append({"format": "ascii.commented_header", "guess": False})
    options.append({"format": "ascii"})
    problem: Exception | None = None
    for option in options:
        try:
            table = Table.read(text, **option)
        except Exception as error:  # what Astropy's guessing raises is of many kinds
            problem = problem or error
            continue
        if not all(_is_number(name) for name in table.colnames):
            return option, table
    raise problem or ValueError("no line names the columns; write their names into the first line")


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def _of_hdf5(path: Path, choice: Choice) -> "Table":
    require_extra("survey", f"{path}")
    import h5py
    from astropy.table import Table

    tables: dict[str, list[str]] = {}
    with h5py.File(path, "r") as file:
        _find_tables(file, "", tables, path)
        labels = {name: "" for name in tables}
        place = _chosen(path, choice, tables, labels, "group or dataset")
        if isinstance(file[place], h5py.Group):
            group = file[place]
            return table_of_columns(
                {name: (group[name][()], _unit_of_dataset(group[name])) for name in tables[place]}
            )
    table = Table.read(path, format="hdf5", path=place, character_as_bytes=False)
    return table_of_columns({name: (table[name], table[name].unit) for name in table.colnames})


def _find_tables(group: Any, place: str, tables: dict[str, list[str]], path: Path) -> None:
    """Find compound datasets, and groups of columns; links to other files are not followed."""
    import h5py

    if "pandas_type" in group.attrs:
        raise ValueError(
            f"{path}: expected a table of HDF5, got a store of pandas; write it with DataFrame.to_parquet"
        )
    columns = []
    for name in group:
        if name.endswith("__table_column_meta__") or not isinstance(
            group.get(name, getlink=True), h5py.HardLink
        ):
            continue
        item, below = group[name], f"{place}/{name}" if place else name
        if isinstance(item, h5py.Group):
            _find_tables(item, below, tables, path)
        elif item.external is None and item.dtype.names is not None and item.ndim == 1:
            tables[below] = list(item.dtype.names)
        elif item.external is None and item.ndim == 1:
            columns.append((name, item.shape[0]))
    if columns and len({length for _, length in columns}) == 1:
        tables[place or "/"] = [name for name, _ in columns]


def _unit_of_dataset(dataset: Any) -> str | None:
    unit = next((dataset.attrs[word] for word in UNITS_OF_FRAMES if word in dataset.attrs), None)
    return unit.decode() if isinstance(unit, bytes) else unit


def _of_numpy(path: Path, choice: Choice) -> "Table":
    with path.open("rb") as file:  # which NumPy leaves open where it fails
        found = np.load(file, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return table_from(found)
        return table_of_columns({name: (found[name], None) for name in found.files if found[name].ndim == 1})
