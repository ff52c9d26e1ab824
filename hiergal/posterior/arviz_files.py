"""ArviZ data in files: netCDF (``.nc``) or zarr (``.zarr``), under either generation of ArviZ.

A netCDF file is one file, and what most programs read; a zarr store is a folder of compressed chunks, better for images
of many draws. Both are whole, or not there (:mod:`hiergal.runtime.output`). Neither format notices everything
that can be lost: a folder from which chunks are gone reads as fill values, so its root says how many files there are.
"""

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from hiergal.runtime.containers import check_hdf5, check_zarr
from hiergal.runtime.extras import require_extra
from hiergal.runtime.files import check_room
from hiergal.runtime.inputs import input_path
from hiergal.runtime.marks import KIND, RUN
from hiergal.runtime.output import Output, owned
from hiergal.runtime.work import settle

__all__ = ["DRAWS", "check_arviz_name", "for_arviz", "load_arviz", "save_arviz", "tree_of", "write_arviz"]

CHUNK_BYTES = 2**20
HDF5_OVERHEAD = 2**14  # bytes of each variable, more than there are
DRAWS = "posterior draws"  # what such a file says that it is
ENGINES = {".nc": "h5netcdf", ".zarr": "zarr"}
FILES = "files"  # attribute of the root of a zarr store
# What the libraries that read such files raise for damage.
DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, UserWarning)
TRAILER = b"\nhiergal sha256 "
CONTENT = "hiergal_content"  # digest of what a file holds, an attribute of the root
OURS = "hiergal_version"  # attribute of each group


def save_arviz(data: Any, path: str | Path, *, overwrite: bool = False) -> None:
    """Write posteriors to a netCDF file or a zarr store; it is whole, or not written.

    Args:
        data: What :func:`~hiergal.posterior.to_arviz.posterior_to_arviz` returned.
        path: The file, ``.nc``, or the folder, ``.zarr``.
        overwrite: Whether to replace posteriors that are there; anything else is never replaced.

    Raises:
        ValueError: If the name ends in neither.
        FileExistsError: If something is there that may not be replaced.
        OSError: If it cannot be written; what was there before stays.

    Example:
        >>> save_arviz(posterior.to_arviz(), "posterior.nc")
    """
    check_arviz_name(path)
    with owned(path, DRAWS, overwrite=overwrite) as own:
        write_arviz(data, own)
        own.put()


def write_arviz(data: Any, own: Output) -> None:
    """Write posteriors into the result of an output that the caller owns, with its mark."""
    tree = tree_of(data).copy(deep=False)
    tree.attrs = tree.attrs | {KIND: own.kind, RUN: own.digest, CONTENT: _content_digest(tree)}
    if _engine(own.target) == "h5netcdf":
        variables = [
            one for node in tree.subtree for one in node.to_dataset(inherit=False).variables.values()
        ]
        check_room(own.result, sum(one.nbytes + HDF5_OVERHEAD for one in variables))
        tree.to_netcdf(own.result, engine="h5netcdf", encoding=_encodings(tree, _checked_hdf5))
        _append_digest(own.result)
        return
    import zarr

    tree.to_zarr(own.result, mode="w", consolidated=False, encoding=_encodings(tree, _checked_zarr))
    zarr.open_group(own.result, mode="r+").attrs[FILES] = _count(own.result)


def _append_digest(path: Path) -> None:
    """Append the SHA-256 of a file to it, behind what HDF5 reads: damaged metadata can make HDF5 loop for ever."""
    with path.open("r+b") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0, os.SEEK_END)
        file.write(TRAILER + digest.encode())


def _check_digest(path: Path) -> None:
    """Compare a file with the digest at its end; files of older versions, and of other programs, have none."""
    length = len(TRAILER) + 64
    content = path.read_bytes()
    if content[-length:-64] != TRAILER:
        return
    if hashlib.sha256(memoryview(content)[:-length]).hexdigest().encode() != content[-64:]:
        raise ValueError("its SHA-256 is not the one at its end")


def _content_digest(tree: Any) -> str:
    """SHA-256 of names, numbers, units and other texts: what both formats give back as it was."""
    digest = hashlib.sha256()
    for node in sorted(tree.subtree, key=lambda node: node.path):
        dataset = node.to_dataset(inherit=False)
        for name in sorted(map(str, dataset.variables)):
            variable = dataset.variables[name]
            digest.update(f"{node.path}\0{name}\0{variable.dims}\0{variable.shape}\0".encode())
            if variable.dtype.kind in "OTUS":
                digest.update("\0".join(map(str, variable.values.ravel())).encode())
            else:
                digest.update(np.ascontiguousarray(variable.values).tobytes())
            digest.update(_in_words(variable.attrs))
        digest.update(_in_words(node.attrs) if node.path != "/" else b"")
    return digest.hexdigest()


def _in_words(attributes: Mapping[str, Any]) -> bytes:
    texts = {name: value for name, value in attributes.items() if isinstance(value, str)}
    numbers = {
        name: repr(float(cast(Any, value)))
        for name, value in attributes.items()
        if np.isscalar(value) and name not in texts
    }
    return repr(sorted((texts | numbers).items())).encode()


def _encodings(tree: Any, encoding: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """Encodings of the variables on disk: with a checksum, so that no changed byte is read as a number."""
    return {
        node.path: {name: encoding(one) for name, one in node.to_dataset(inherit=False).variables.items()}
        for node in tree.subtree
    }


def _checked_hdf5(variable: Any) -> dict[str, Any]:
    if variable.ndim == 0 or variable.size == 0 or variable.dtype.kind not in "biufc":
        return {}  # what has no chunks has no checksums
    return {"fletcher32": True, "chunksizes": variable.shape if variable.nbytes < CHUNK_BYTES else None}


def _checked_zarr(variable: Any) -> dict[str, Any]:
    from zarr.codecs import Crc32cCodec, ZstdCodec

    return {"compressors": (ZstdCodec(level=1), Crc32cCodec())}


def check_arviz_name(path: str | Path) -> None:
    """Check that a name is one of the formats of posteriors, and that it can be written here.

    Raises:
        ValueError: If it ends in neither ``.nc`` nor ``.zarr``.
        ModuleNotFoundError: If what writes it is not installed.
    """
    _engine(Path(path))
    require_extra("posterior", f"{path}")


def load_arviz(path: str | Path) -> Any:
    """Read posteriors from a netCDF file or a zarr store into memory.

    Args:
        path: What :func:`save_arviz` wrote, under either generation of ArviZ.

    Returns:
        ``arviz.InferenceData`` under ArviZ 0.23, ``xarray.DataTree`` under ArviZ 1.

    Raises:
        OSError: If it is missing, damaged or incomplete.
        ValueError: If it holds something else, or its name ends in neither ``.nc`` nor ``.zarr``.

    Example:
        >>> save_arviz(posterior.to_arviz(), "saved.nc")
        >>> data = load_arviz("saved.nc")
    """
    require_extra("posterior", "posteriors for ArviZ")
    import xarray as xr

    path = settle(input_path(path, "posteriors"))
    engine = _engine(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected posteriors that `save_arviz` wrote, got no such file")
    options = {} if engine == "h5netcdf" else {"consolidated": False}
    try:
        if engine == "zarr":
            check_zarr(path)
        else:
            _check_digest(path)
            check_hdf5(path)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # zarr's of files that it does not know
            with xr.open_datatree(path, engine=engine, **options) as opened:
                tree = opened.load().copy(deep=True)
    except DAMAGE as error:
        raise OSError(
            f"{path}: expected posteriors that `save_arviz` wrote, got a file that cannot be read: it is truncated, "
            f"damaged, or of another kind; write it again ({type(error).__name__}: {error})"
        ) from error
    if "posterior" not in tree.children or OURS not in tree["posterior"].attrs:
        there = ", ".join(tree.children) or "none"
        raise ValueError(
            f"{path}: expected posteriors that `save_arviz` wrote, got a file of something else (its groups: {there})"
        )
    content, expected = tree.attrs.pop(CONTENT, None), tree.attrs.pop(FILES, 0)
    if engine == "zarr" and _count(path) < expected:
        raise OSError(
            f"{path}: expected {expected} files, got {_count(path)}: it is incomplete; copy it again"
        )
    for group in tree.children.values():
        texts = [name for name, variable in group.data_vars.items() if variable.dtype.kind in "TU"]
        for (
            name
        ) in texts:  # as they were before the one format or the other made strings of a kind of its own
            group[name] = group[name].astype(object)
    if content not in (None, _content_digest(tree)):
        raise OSError(
            f"{path}: expected the numbers that were written, got others: the file is damaged; copy it again from its "
            "source, or write it again"
        )
    return for_arviz(tree)


def tree_of(data: Any) -> Any:
    """Return ArviZ data of either generation as a tree of xarray datasets."""
    import xarray as xr

    return data if isinstance(data, xr.DataTree) else data.to_datatree()


def for_arviz(tree: Any) -> Any:
    """Return the tree itself under ArviZ 1, and the older record of the same groups before."""
    with warnings.catch_warnings():  # 0.23 announces on import that 1.x is coming
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    major = int(arviz.__version__.partition(".")[0])
    return tree if major >= 1 else arviz.InferenceData.from_datatree(tree)


def _engine(path: Path) -> str:
    if path.suffix not in ENGINES:
        raise ValueError(f"{path}: expected a name that ends in .nc (netCDF) or .zarr, got {path.suffix!r}")
    return ENGINES[path.suffix]


def _count(folder: Path) -> int:
    return sum(file.is_file() for file in folder.rglob("*"))
