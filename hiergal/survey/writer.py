"""Writing a survey into a store, batch by batch, with bounded memory.

The other half of :mod:`hiergal.survey.store`, which says what a store looks like. Stamps are gathered until
they fill a shard and then leave memory; columns (one number for each galaxy) are kept until the end.
Everything is checked (:func:`~hiergal.observation.check_observation`) before it is written, in the precision
in which it is written.
"""

import contextlib
import importlib.metadata
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from hiergal.noise import NoiseModel, PixelNoise, StationaryNoise, WhiteNoise
from hiergal.observation import Observation, check_observation
from hiergal.records import Array
from hiergal.survey.schema import MANIFEST, SCHEMA, SCHEMA_VERSION, StoreHeader, is_store, manifest_of

if TYPE_CHECKING:
    from hiergal.survey.store import Store

__all__ = ["write_store"]

SHARD_GALAXIES = 256
CHUNK_GALAXIES = 4
COLUMN_CHUNK_GALAXIES = 65536

Batch = tuple[Observation, Array | None]


def write_store(
    path: str | Path,
    header: StoreHeader,
    batches: Iterable[Batch],
    *,
    total: int | None = None,
    progress: bool = False,
    overwrite: bool = False,
) -> "Store":
    """Write a survey, and open it.

    Args:
        path: Folder to write; everything happens in ``PATH.partial`` until the store is complete.
        header: What holds for the whole survey.
        batches: Pairs of observations and their true profiles (or None), any number of galaxies each, of one
            shape.
        total: Number of galaxies to expect, for the progress bar.
        progress: Show a progress bar.
        overwrite: Replace a store that is already there. Anything that is not a store is never replaced.

    Returns:
        The store, open for reading.

    Raises:
        FileExistsError: If something is at ``path`` that may not be replaced.
        ValueError: If the galaxies are faulty, or a batch differs in kind from the first.

    Example:
        >>> import tempfile
        >>> from hiergal.psf import PSF
        >>> psf = PSF(np.full((2, 3, 5), 1 / 15), pixel_scale_arcsec=0.03)
        >>> stamps, noise = np.ones((2, 8, 6)), WhiteNoise(np.array([0.1, 0.2]))
        >>> catalog, identifier = {"mag_auto": np.array([21.0, 24.5])}, np.array([7, 9])
        >>> two = Observation(stamps, psf, noise, None, catalog, identifier, pixel_scale_arcsec=0.03)
        >>> header = StoreHeader(
        ...     survey="demo", band="F814W", pixel_scale_arcsec=0.03, magnitude_zero_point=25.94
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = write_store(folder + "/demo.zarr", header, [(two, None)])
        ...     store, store.read([1]).identifier
        (<Store demo.zarr: 2 galaxies of demo F814W, 8 x 6 at 0.03 arcsec>, array([9]))
    """
    from hiergal.survey.store import open_store

    path = Path(path)
    partial, replaced = (path.with_name(path.name + suffix) for suffix in (".partial", ".replaced"))
    _check_target(path, overwrite)
    # A run that was killed may have left these: the one is incomplete, the other was about to go.
    shutil.rmtree(partial, ignore_errors=True)
    if path.exists():
        shutil.rmtree(replaced, ignore_errors=True)
    try:
        _write(partial, header, _with_bar(batches, total, path.name) if progress else batches)
        if path.exists():
            path.rename(replaced)
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(replaced, ignore_errors=True)
    return open_store(path)


def _check_target(path: Path, overwrite: bool) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not is_store(path):
        raise FileExistsError(
            f"expected a free path or a survey store to replace, got something else: {path}; choose "
            "another path"
        )
    elif not overwrite:
        raise FileExistsError(
            f"expected a free path, got a survey store: {path}; choose another path, or ask to overwrite it"
        )


def _write(partial: Path, header: StoreHeader, batches: Iterable[Batch]) -> None:
    import zarr

    root = zarr.create_group(partial, zarr_format=3)
    columns: dict[str, list[np.ndarray]] = {}
    layout: dict[str, Any] = {}
    n = 0
    for arrays, layout in _blocks(batches, header):
        for name, block in arrays.items():
            if n == 0:
                _create(root, name, block, _unit(name, header, layout["noise_kind"]))
            if block.ndim == 1:
                columns.setdefault(name, []).append(block)
            else:
                root[name].resize((n + len(block), *block.shape[1:]))
                root[name][n:] = block
        n += len(arrays["identifier"])
    if n == 0:
        raise ValueError("expected at least one galaxy to write, got none; check what the survey selects")
    for name, pieces in columns.items():
        root[name].resize((n,))
        root[name][:] = np.concatenate(pieces)
    versions = {"hiergal": _version("hiergal"), "numpy": np.__version__, "zarr": zarr.__version__}
    written = msgspec.to_builtins(header, enc_hook=_plain)
    written["provenance"] = {"versions": versions, **written["provenance"]}
    schema = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "number_of_galaxies": n}
    root.attrs.put({**schema, "header": written, **layout})
    (partial / MANIFEST).write_text(json.dumps({"files": manifest_of(partial)}, indent=1))


def _blocks(
    batches: Iterable[Batch], header: StoreHeader
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, Any]]]:
    """Check batches of any size, and yield them again in pieces that fill a shard (the last one may not)."""
    pending: list[dict[str, np.ndarray]] = []
    first: dict[str, Any] = {}
    layout: dict[str, Any] = {}
    for observation, truth in batches:
        if len(observation) == 0:
            continue
        arrays, layout = _arrays(observation, truth, header)
        this = layout | {"shapes": {name: block.shape[1:] for name, block in arrays.items()}}
        first = first or this
        if this != first:
            differing = {key: (first[key], this[key]) for key in first if first[key] != this[key]}
            raise ValueError(
                "expected every batch to be like the first, got other values (first, this one): "
                f"{differing}; give all galaxies of a survey the same sizes, kind of noise and columns, and "
                "a mask to all or to none"
            )
        pending.append(arrays)
        while sum(len(piece["identifier"]) for piece in pending) >= SHARD_GALAXIES:
            joined = {name: np.concatenate([piece[name] for piece in pending]) for name in arrays}
            yield {name: block[:SHARD_GALAXIES] for name, block in joined.items()}, layout
            pending = [{name: block[SHARD_GALAXIES:] for name, block in joined.items()}]
    if any(len(piece["identifier"]) for piece in pending):
        yield {name: np.concatenate([piece[name] for piece in pending]) for name in pending[0]}, layout


def _arrays(
    observation: Observation, truth: Array | None, header: StoreHeader
) -> tuple[dict[str, np.ndarray], dict]:
    """Return the arrays of a batch as they go to disk, checked, and what kind of batch it is."""
    image, truth = (None if a is None else np.asarray(a, np.float32) for a in (observation.image, truth))
    noise, (kind, field) = observation.noise, _noise_kind(observation.noise)
    noise = noise.replace(**{field: np.asarray(getattr(noise, field), np.float32)}) if field else noise
    psf = observation.psf.replace(stamp=np.asarray(observation.psf.stamp, np.float32))
    check_observation(observation.replace(image=image, psf=psf, noise=noise))
    if not np.isclose(observation.pixel_scale_arcsec, header.pixel_scale_arcsec, rtol=1e-6):
        raise ValueError(
            f"expected the pixel scale of the header, {header.pixel_scale_arcsec} arcsec, got "
            f"{observation.pixel_scale_arcsec}; make them agree"
        )
    if truth is not None and (truth.shape != image.shape or not np.isfinite(truth).all()):
        raise ValueError(
            f"expected finite true profiles of the image's shape {image.shape}, got {truth.shape}"
        )
    names = sorted(observation.catalog)  # as JAX orders them, so that sliced batches fit others
    odd = [name for name in names if not name.isidentifier()]
    if odd:
        raise ValueError(
            f"expected columns named with letters, digits and underscores, got {odd}; rename them"
        )
    arrays = {"image": image, "psf": psf.stamp, "noise": getattr(noise, field), "truth": truth}
    arrays["mask"] = None if observation.mask is None else np.asarray(observation.mask)
    arrays["identifier"] = np.asarray(observation.identifier, np.int64)
    arrays |= {
        f"catalog/{name}": np.asarray(column, np.float64) for name, column in observation.catalog.items()
    }
    arrays = {name: block for name, block in arrays.items() if block is not None}
    return arrays, {
        "noise_kind": kind,
        "catalog": names,
        "has_mask": "mask" in arrays,
        "has_truth": "truth" in arrays,
    }


def _noise_kind(noise: NoiseModel) -> tuple[str, str]:
    """Return the name of a noise model on disk and the field to write; empty if it has none."""
    match noise:
        case WhiteNoise():
            return "white", "sigma"
        case PixelNoise():
            return "pixel", "sigma"
        case StationaryNoise():
            return "stationary", "power"
        case _:
            return "", ""


def _create(root: Any, name: str, block: np.ndarray, unit: str) -> None:
    """Create an empty array for blocks like this one."""
    from zarr.codecs import Crc32cCodec, ZstdCodec

    inner = block.shape[1:]
    root.create_array(
        name,
        shape=(0, *inner),
        dtype=block.dtype,
        chunks=(CHUNK_GALAXIES if inner else COLUMN_CHUNK_GALAXIES, *inner),
        shards=(SHARD_GALAXIES, *inner) if inner else None,
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
        fill_value=0,
        config={"write_empty_chunks": True},
        attributes={"unit": unit},
    )


def _unit(name: str, header: StoreHeader, kind: str) -> str:
    per_pixel = f"({header.flux_unit}) per pixel"
    match name:
        case "image" | "truth":
            return per_pixel
        case "noise":
            return f"({per_pixel})^2" if kind == "stationary" else per_pixel
        case "psf" | "mask" | "identifier":
            return "1"
        case _:
            return header.unit_of(name.removeprefix("catalog/"))


def _plain(value: Any) -> Any:
    """NumPy scalars become Python's; anything else that JSON cannot hold, its words."""
    return value.item() if isinstance(value, np.generic) else str(value)


def _version(package: str) -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return "not installed"


def _with_bar(batches: Iterable[Batch], total: int | None, name: str) -> Iterator[Batch]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task(f"writing {name}", total=total)
        for observation, truth in batches:
            yield observation, truth
            bar.advance(task, len(observation))
