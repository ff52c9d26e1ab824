"""ArviZ data in files: netCDF (``.nc``) or zarr (``.zarr``), under either generation of ArviZ.

A netCDF file is one file, and what most programs read; a zarr store is a folder of compressed chunks, better for images
of many draws. Both are whole, or not there (:mod:`hiergal.runtime.output`). Neither format notices everything
that can be lost: a folder from which chunks are gone reads as fill values, so its root says how many files there are.
"""

import warnings
from pathlib import Path
from typing import Any

from hiergal.runtime.marks import KIND, RUN
from hiergal.runtime.output import Output, owned
from hiergal.runtime.work import settle

__all__ = ["DRAWS", "check_arviz_name", "for_arviz", "load_arviz", "save_arviz", "tree_of", "write_arviz"]

DRAWS = "posterior draws"  # what such a file says that it is
ENGINES = {".nc": "h5netcdf", ".zarr": "zarr"}
FILES = "files"  # attribute of the root of a zarr store
OURS = "hiergal_version"  # attribute of each group


def save_arviz(data: Any, path: str | Path, *, overwrite: bool = False) -> None:
    """Write posteriors to a netCDF file or a zarr store; it is whole, or not written.

    Args:
        data: What :func:`~hiergal.arviz_data.posterior_to_arviz` returned.
        path: The file, ``.nc``, or the folder, ``.zarr``.
        overwrite: Whether to replace posteriors that are there; anything else is never replaced.

    Raises:
        ValueError: If the name ends in neither.
        FileExistsError: If something is there that may not be replaced.
        OSError: If it cannot be written; what was there before stays.

    Example:
        >>> save_arviz(data, "posterior.nc")  # doctest: +SKIP
    """
    check_arviz_name(path)
    with owned(path, DRAWS, overwrite=overwrite) as own:
        write_arviz(data, own)
        own.put()


def write_arviz(data: Any, own: Output) -> None:
    """Write posteriors into the result of an output that the caller owns, with its mark."""
    tree = tree_of(data).copy(deep=False)
    tree.attrs = tree.attrs | {KIND: own.kind, RUN: own.digest}
    if _engine(own.target) == "h5netcdf":
        tree.to_netcdf(own.result, engine="h5netcdf")
        return
    import zarr

    tree.to_zarr(own.result, mode="w", consolidated=False)
    zarr.open_group(own.result, mode="r+").attrs[FILES] = _count(own.result)


def check_arviz_name(path: str | Path) -> None:
    """See to it that a name is one of the formats of posteriors.

    Raises:
        ValueError: If it ends in neither ``.nc`` nor ``.zarr``.
    """
    _engine(Path(path))


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
        >>> data = load_arviz("posterior.nc")  # doctest: +SKIP
    """
    import xarray as xr

    path = settle(path)
    engine = _engine(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected posteriors that `save_arviz` wrote, got no such file")
    options = {} if engine == "h5netcdf" else {"consolidated": False}
    try:
        with xr.open_datatree(path, engine=engine, **options) as opened:
            tree = opened.load().copy(deep=True)
    except (OSError, RuntimeError, KeyError, ValueError) as error:  # each library of the two has its own
        raise OSError(
            f"{path}: expected posteriors that `save_arviz` wrote, got a file that cannot be read: it is truncated, "
            f"damaged, or of another kind; write it anew ({type(error).__name__}: {error})"
        ) from error
    if "posterior" not in tree.children or OURS not in tree["posterior"].attrs:
        there = ", ".join(tree.children) or "none"
        raise ValueError(
            f"{path}: expected posteriors that `save_arviz` wrote, got a file of something else (its groups: {there})"
        )
    expected = tree.attrs.pop(FILES, 0)
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
