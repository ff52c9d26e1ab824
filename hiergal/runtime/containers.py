"""Zarr and HDF5 from others: what a reader would follow out of a file, or run, is refused before it is opened.

Zarr of version 2 may name a codec that unpickles, which executes code; an HDF5 file may keep its numbers in any other
file of this machine. Results of hiergal do neither.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["check_hdf5", "check_zarr"]

CODECS = frozenset(
    "bytes zstd gzip blosc crc32c transpose sharding_indexed vlen-utf8 vlen-bytes".split()
)  # of Zarr 3 itself: none can run anything
LARGEST_METADATA = 2**24  # bytes of a zarr.json
LEAST_ROOM, LARGEST_RATIO = 2**28, 4096  # bytes that a file may declare, and times its own size
DEEPEST = 32  # groups inside groups
VERSION_2 = (".zgroup", ".zarray", ".zattrs", ".zmetadata")


def check_zarr(path: str | Path) -> None:
    """Refuse a Zarr folder that is not of version 3, names codecs of others, or leads out of itself.

    Args:
        path: A folder.

    Raises:
        ValueError: If it is one of these: which file, and why.
        OSError: If it cannot be read.
    """
    path = Path(path)
    written = declared = 0
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if file.is_symlink():
            raise ValueError(
                f"{path}: expected files, got a link out of it: {name}; copy the folder with its files"
            )
        if file.name in VERSION_2:
            raise ValueError(
                f"{path}: expected Zarr of version 3, got version 2 ({name}), whose codecs may execute code; it is not "
                "a result of hiergal"
            )
        if not file.is_dir() and not file.is_file():
            raise ValueError(f"{path}: expected files, got a pipe or a device: {name}")
        written += file.stat().st_size if file.is_file() else 0
        if file.name == "zarr.json":
            about = _metadata(file)
            declared += _declared(about, file)
            foreign = sorted({codec for codec in _codecs_in(about) if codec not in CODECS})
            if foreign:
                raise ValueError(
                    f"{path}: expected the codecs of Zarr itself, got {', '.join(map(repr, foreign))} in {name}; it is "
                    "not a result of hiergal"
                )
    _check_room(path, written, declared)


def check_hdf5(path: str | Path) -> None:
    """Refuse an HDF5 file that reads other files: external links, external storage, virtual datasets.

    Args:
        path: A file.

    Raises:
        ValueError: If it does: where.
        OSError: If it is no HDF5 file, or damaged.
    """
    import h5py

    declared = 0

    def look(group: h5py.Group, where: str, depth: int) -> None:
        nonlocal declared
        if depth > DEEPEST:
            raise ValueError(
                f"{path}: expected at most {DEEPEST} groups inside groups, got more: {where[:200]}"
            )
        for name in group:
            place, link = f"{where}/{name}", group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise ValueError(f"{path}: expected data inside the file, got a link at {place}")
            one = group[name]
            if isinstance(one, h5py.Group):
                look(one, place, depth + 1)
            elif isinstance(one, h5py.Dataset) and (one.external or one.is_virtual):
                raise ValueError(
                    f"{path}: expected data inside the file, got some of another file at {place}"
                )
            elif isinstance(one, h5py.Dataset):
                declared += (one.size or 0) * one.dtype.itemsize

    try:
        with h5py.File(path, "r") as file:
            look(file, "", 0)
    except (RuntimeError, KeyError) as error:  # h5py's words for damage
        raise OSError(f"{path}: expected an HDF5 file, got one that is damaged: {error}") from None
    _check_room(Path(path), Path(path).stat().st_size, declared)


def _declared(about: Any, file: Path) -> int:
    """Bytes that an array takes in memory."""
    if not isinstance(about, dict) or about.get("node_type") != "array":
        return 0
    grid = about.get("chunk_grid")
    grid = grid.get("configuration") if isinstance(grid, dict) else None
    sides = [about.get("shape"), grid.get("chunk_shape") if isinstance(grid, dict) else None]
    for side in sides:
        if not isinstance(side, list) or any(type(n) is not int or not 0 <= n < 2**63 for n in side):
            raise OSError(f"{file}: expected shapes of whole numbers, got {str(side)[:50]}: it is damaged")
    size = math.prod(about["shape"])
    digits = re.search(r"\d+\Z", str(about.get("data_type")))
    return size * (int(digits[0]) // 8 if digits and len(digits[0]) < 4 else 1)


def _check_room(path: Path, written: int, declared: int) -> None:
    if declared > LEAST_ROOM + LARGEST_RATIO * written:
        raise ValueError(
            f"{path}: expected arrays of about the size of the files, got {declared:,} bytes declared in {written:,}; "
            "it is damaged, or made to fill the memory"
        )


def _metadata(file: Path) -> Any:
    if file.stat().st_size > LARGEST_METADATA:
        raise ValueError(f"{file}: expected metadata of at most {LARGEST_METADATA:,} bytes, got more")
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise OSError(f"{file}: expected metadata in JSON: it is damaged ({error})") from None


def _codecs_in(metadata: Any) -> Iterator[str]:
    """Names of all codecs, those inside others and inside consolidated metadata too."""
    todo = [metadata]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            for key, value in one.items():
                if key in ("codecs", "index_codecs") and isinstance(value, list):
                    yield from (str(c.get("name")) if isinstance(c, dict) else str(c) for c in value)
                if key != "attributes":
                    todo.append(value)
        elif isinstance(one, list):
            todo.extend(one)
