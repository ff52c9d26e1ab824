"""Marks that distinguish results of hiergal from other files, and the foreign files in a folder of ours.

Every result says inside what it is, and of which run: ``HIERGAL`` and ``HGRUN`` in the header of a FITS file or in the
``meta`` of a table, the attributes ``hiergal_kind`` and ``hiergal_run`` in the root of HDF5, netCDF and zarr, the
description of a model in its bundle. Results of versions before these marks are known by what only they contain.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "IGNORED",
    "KIND",
    "KIND_CARD",
    "PUBLISHED_AS",
    "RUN",
    "RUN_CARD",
    "Mark",
    "foreign_files",
    "mark_of",
]

KIND, RUN = "hiergal_kind", "hiergal_run"  # attributes
PUBLISHED_AS = "published"  # among the runs of a model's provenance
KIND_CARD, RUN_CARD = "HIERGAL", "HGRUN"  # cards of FITS, keys of the meta of tables
BUNDLE = re.compile(
    r"recipe\.toml|weights\.safetensors|(model|metrics)\.json|CARD\.md|published\.toml|(galaxies|coverage)\.png"
)
CHUNK = re.compile(r"c(/\d+)*")
CHECKPOINT = re.compile(r"(\d+|[\w.-]*\.orbax-checkpoint-tmp[\w.-]*)/.*|fingerprint\.json|\.lock")
# Of the system, or of a writer of ours that was killed: worth nothing.
IGNORED = re.compile(r"\.DS_Store|\..*\.[0-9a-f]{12}\.hiergal-new")
LARGEST_JSON = 2**26


class Mark(NamedTuple):
    """Mark of a result of hiergal.

    Attributes:
        kind: What it is, such as "posterior table".
        run: Digest of the run that made it; empty for results of older versions, and of functions that are no runs.
    """

    kind: str
    run: str


def mark_of(path: Path) -> Mark | None:
    """Return the mark of a file or folder, or None if it is not ours (or damaged beyond that).

    Args:
        path: Something that is there.
    """
    try:
        return _mark_of_folder(path) if path.is_dir() else _mark_of_file(path)
    except Exception:  # every library has its own errors for what is not its format
        return None


def foreign_files(path: Path) -> Iterator[str]:
    """Yield the names of what lies in a folder of ours, and is not of its kind.

    Args:
        path: A folder that :func:`mark_of` knows, or one of checkpoints; of a file nothing is yielded.
    """
    if not path.is_dir():
        return
    zarr, bundle = (path / "zarr.json").is_file(), (path / "model.json").is_file()
    checkpoints = (path / "fingerprint.json").is_file()
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if IGNORED.fullmatch(file.name):
            continue
        if file.is_symlink():
            yield name
        elif file.is_dir():
            if bundle or not any(file.iterdir()) and not zarr and not checkpoints:
                yield name
        elif zarr:
            if not _is_of_zarr(path, name):
                yield name
        elif bundle:
            if not BUNDLE.fullmatch(name):
                yield name
        elif not (checkpoints and CHECKPOINT.fullmatch(name)):
            yield name


def _is_of_zarr(root: Path, name: str) -> bool:
    """Whether a file is metadata, or a chunk of an array, or what Zarr writes a chunk to."""
    name = re.sub(r"\.[0-9a-f]{32}\.partial$", "", name)
    if name == "manifest.json" or name == "zarr.json" or name.endswith("/zarr.json"):
        return True
    parts = name.split("/")
    for i in range(len(parts)):
        if CHUNK.fullmatch("/".join(parts[i:])):
            return (root.joinpath(*parts[:i]) / "zarr.json").is_file()
    return False


def _mark_of_folder(path: Path) -> Mark | None:
    if (path / "zarr.json").is_file():
        return _mark_of_zarr(path)
    if (path / "model.json").is_file():
        about = _json(path / "model.json")
        if {"schema_version", "provenance", "weights_sha256"} <= about.keys():
            runs = about["provenance"].get("runs", {})
            return Mark("model", str(runs.get(PUBLISHED_AS, "")))
    return None


def _mark_of_zarr(path: Path) -> Mark | None:
    there = _json(path / "zarr.json").get("attributes", {})
    if KIND in there:
        return Mark(str(there[KIND]), str(there.get(RUN, "")))
    if there.get("schema") == "hiergal.survey":
        return Mark("survey", "")
    draws = path / "posterior" / "zarr.json"
    if draws.is_file() and "hiergal_version" in _json(draws).get("attributes", {}):
        return Mark("posterior draws", "")
    images = ("profile_mean", "profile_std", "image_mean", "identifier")
    if all((path / name / "zarr.json").is_file() for name in images):
        return Mark("posterior images", "")
    if {"content", "model", "seed", "magnitude_zero_point"} <= there.keys() and (
        path / "conditions"
    ).is_dir():
        return Mark("galaxies", "")
    return None


def _mark_of_file(path: Path) -> Mark | None:
    if not path.is_file():  # a pipe, a device
        return None
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(b"SIMPLE"):
        from astropy.io import fits

        with fits.open(path, lazy_load_hdus=True, memmap=True) as hdus:
            for number in range(2):
                try:
                    header = hdus[number].header
                except IndexError:
                    break
                if KIND_CARD in header:
                    return _from(header, KIND_CARD, RUN_CARD)
        return None
    if start == b"\x89HDF\r\n\x1a\n":
        import h5py

        with h5py.File(path, "r") as file:
            if KIND in file.attrs:
                return _from(file.attrs, KIND, RUN)
            posterior = file.get("posterior")
            if posterior is not None and "hiergal_version" in posterior.attrs:
                return Mark("posterior draws", "")
            if {"content", "model", "seed"} <= file.attrs.keys() and "conditions" in file:
                return Mark("galaxies", "")
        return None
    if start.startswith(b"PAR1"):
        import pyarrow.parquet as parquet
        from astropy.table.meta import get_header_from_yaml

        text = (parquet.read_schema(path).metadata or {}).get(b"table_meta_yaml", b"")
        meta = get_header_from_yaml(text.decode().split("\n")).get("meta", {})
        return _from(meta, KIND_CARD, RUN_CARD) if KIND_CARD in meta else None
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="numpy") as file:
            return Mark("model", "") if "model.json" in (file.metadata() or {}) else None
    return None


def _from(where: Mapping[str, Any], kind: str, run: str) -> Mark:
    return Mark(str(where[kind]), str(where.get(run, "")))


def _json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LARGEST_JSON:
        raise ValueError(f"{path}: more than {LARGEST_JSON} bytes")
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object")
    return content
