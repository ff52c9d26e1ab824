"""Writing a survey into a store, batch by batch, with bounded memory.

The other half of :mod:`hiergal.survey.store`, which says what a store looks like. Stamps are gathered until
they fill a shard and then leave memory; columns (one number for each galaxy) are kept until the end.
Everything is checked before it is written (:mod:`hiergal.survey.arrays`). :func:`write_store` writes what it
is given in one go; :func:`~hiergal.survey.prepare.prepare_store` draws in several processes, and goes on where
it was stopped.
"""

import contextlib
import importlib.metadata
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hiergal.runtime.extras import require_extra
from hiergal.runtime.marks import KIND, RUN
from hiergal.runtime.output import owned
from hiergal.runtime.progress import progress_bar
from hiergal.survey.arrays import Batch, arrays_of, unit_of
from hiergal.survey.schema import MANIFEST, SCHEMA, SCHEMA_VERSION, StoreHeader, manifest_of
from hiergal.survey.store import SurveyStore, open_survey

__all__ = ["Columns", "StoreWriter", "write_store", "written_header"]

SHARD_GALAXIES = 256
CHUNK_GALAXIES = 4
COLUMN_CHUNK_GALAXIES = 65536
# Attributes that say which arrays there are; those of the noise where it has any.
LAYOUT = ("noise_kind", "noise_header", "noise_module", "catalog", "has_mask", "has_truth")

Columns = dict[str, np.ndarray]


def write_store(
    path: str | Path,
    header: StoreHeader,
    batches: Iterable[Batch],
    *,
    total: int | None = None,
    run: Mapping[str, Any] | None = None,
    inputs: Iterable[str | Path | None] = (),
    progress: bool = False,
    overwrite: bool = False,
) -> SurveyStore:
    """Write a survey, and open it.

    Args:
        path: Folder to write (:mod:`hiergal.runtime.output`).
        header: What holds for the whole survey.
        batches: Pairs of observations and their true profiles (or None), any number of galaxies each, of one
            shape.
        total: Number of galaxies to expect, for the progress bar.
        run: What the galaxies depend on beyond the header, so that the same run is recognised; None if they are given.
        inputs: What they are read from, none of which may be, hold, or lie in the output.
        progress: Show a progress bar.
        overwrite: Replace a store that is already there. Anything that is not a store is never replaced.

    Returns:
        The store, open for reading.

    Raises:
        FileExistsError: If something is at ``path`` that may not be replaced.
        ValueError: If the galaxies are faulty, or a batch differs in kind from the first.

    Example:
        >>> import tempfile
        >>> from hiergal.observation.independent import WhiteNoise
        >>> from hiergal.observation import Observation
        >>> from hiergal.observation.psf import PSF
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
        (SurveyStore(demo.zarr: 2 galaxies of demo F814W, 8 x 6 at 0.03 arcsec), array([9]))
    """
    require_extra("survey", "surveys on disk")
    run = None if run is None else {"header": written_header(header), **run}
    with owned(path, "survey", run=run, inputs=inputs, overwrite=overwrite, resume=False) as own:
        if own.finished:
            return open_survey(path)
        with progress_bar(f"writing {own.target.name}", total, shown=progress) as advance:
            writer = StoreWriter(own.result, header)
            for _ in writer.add(batches, advance):
                pass
        writer.finish("" if run is None else own.digest)
        own.put()
    return open_survey(path)


class StoreWriter:
    """A store that is being written, shard by shard.

    Args:
        folder: Where to write it.
        header: What holds for the whole survey.
        total: Number of galaxies, if it is known: the arrays have their final size from the start then.
        columns: Columns of the shards that are in the folder already; whatever else is there goes.

    Attributes:
        columns: Columns of each shard on disk.
    """

    def __init__(
        self,
        folder: Path,
        header: StoreHeader,
        *,
        total: int | None = None,
        columns: Iterable[Columns] = (),
    ) -> None:
        import zarr

        self.folder, self.header, self.total, self.columns = folder, header, total, list(columns)
        if self.columns:
            self._root = zarr.open_group(folder, mode="r+")
        else:
            shutil.rmtree(folder, ignore_errors=True)
            self._root = zarr.create_group(folder, zarr_format=3)
        self._kind: dict[str, Any] = dict(self._root.attrs)  # what every batch has to be like
        if self.columns:
            self._remove_loose_ends()

    def __len__(self) -> int:
        """Return the number of galaxies on disk."""
        return sum(map(_size, self.columns))

    def add(self, batches: Iterable[Batch], advance: Callable[..., None]) -> Iterator[Columns]:
        """Check and write batches of any size, and yield the columns of each shard once its stamps are on disk.

        Args:
            batches: Pairs of observations and their true profiles (or None).
            advance: Called with the number of galaxies of each batch.
        """
        pending: list[dict[str, np.ndarray]] = []
        for observation, truth in batches:
            if len(observation) == 0:
                continue
            arrays, kind = arrays_of(observation, truth, self.header)
            self._check_kind(kind)
            advance(len(observation))
            pending.append(arrays)
            while sum(map(_size, pending)) >= SHARD_GALAXIES:
                joined = _joined(pending)
                yield self._write({name: block[:SHARD_GALAXIES] for name, block in joined.items()})
                pending = [{name: block[SHARD_GALAXIES:] for name, block in joined.items()}]
        if any(map(_size, pending)):
            yield self._write(_joined(pending))

    def finish(self, run: str = "") -> None:
        """Write the columns, the attributes and the list of files.

        Args:
            run: Digest of the run that drew the galaxies, so that it is recognised.
        """
        n = len(self)
        if n == 0:
            raise ValueError("expected at least one galaxy to write, got none; check what the survey selects")
        for name, column in _joined(self.columns).items():
            self._root[name].resize((n,))
            self._root[name][:] = column
        schema = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "number_of_galaxies": n}
        layout = {name: self._kind[name] for name in LAYOUT if name in self._kind}
        mark = {KIND: "survey", RUN: run} if run else {}
        self._root.attrs.put({**schema, "header": written_header(self.header), **layout, **mark})
        (self.folder / MANIFEST).write_text(json.dumps({"files": manifest_of(self.folder)}, indent=1))

    def _check_kind(self, kind: dict[str, Any]) -> None:
        first = self._kind = self._kind or kind
        differing = {key: (first.get(key), kind[key]) for key in kind if first.get(key) != kind[key]}
        if differing:
            raise ValueError(
                "expected every batch to be like the first, got other values (first, this one): "
                f"{differing}; give all galaxies of a survey the same sizes, kind of noise and columns, and "
                "a mask to all or to none"
            )

    def _write(self, arrays: dict[str, np.ndarray]) -> Columns:
        start, stop = len(self), len(self) + _size(arrays)
        if not self.columns:
            for name, block in arrays.items():
                unit = unit_of(name, self.header, self._kind["noise_kind"])
                _create(self._root, name, (self.total or 0, *block.shape[1:]), block.dtype, unit)
            self._root.attrs.put(self._kind)
        for name, block in arrays.items():
            if block.ndim > 1:
                if self.total is None:
                    self._root[name].resize((stop, *block.shape[1:]))
                self._root[name][start:stop] = block
        self.columns.append({name: block for name, block in arrays.items() if block.ndim == 1})
        return self.columns[-1]

    def _remove_loose_ends(self) -> None:
        """Remove what a killed run has left beyond the shards that are known to be whole."""
        unfinished = self.folder.rglob("*.partial")  # Zarr's
        for file in (*unfinished, self.folder / MANIFEST):
            file.unlink(missing_ok=True)
        for name in self._kind.get("shapes", ()):
            chunks = self.folder / name / "c"
            whole = 0 if name in self.columns[0] else len(self.columns)
            for chunk in chunks.iterdir() if chunks.is_dir() else ():
                if int(chunk.name) >= whole:
                    shutil.rmtree(chunk) if chunk.is_dir() else chunk.unlink()


def written_header(header: StoreHeader) -> dict[str, Any]:
    """Return a header as it goes to disk, with the versions of what writes it."""
    import zarr

    written = msgspec.to_builtins(header, enc_hook=_plain)
    versions = {"hiergal": _version("hiergal"), "numpy": np.__version__, "zarr": zarr.__version__}
    return written | {"provenance": {"versions": versions, **written["provenance"]}}


def _create(root: Any, name: str, shape: tuple[int, ...], dtype: np.dtype, unit: str) -> None:
    """Create an array without content."""
    from zarr.codecs import Crc32cCodec, ZstdCodec

    inner = shape[1:]
    root.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=(CHUNK_GALAXIES if inner else COLUMN_CHUNK_GALAXIES, *inner),
        shards=(SHARD_GALAXIES, *inner) if inner else None,
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
        fill_value=0,
        config={"write_empty_chunks": True},
        attributes={"unit": unit},
    )


def _size(arrays: dict[str, np.ndarray]) -> int:
    return len(arrays["identifier"])


def _joined(pieces: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _plain(value: Any) -> Any:
    """NumPy scalars become Python's; anything else that JSON cannot hold, its words."""
    return value.item() if isinstance(value, np.generic) else str(value)


def _version(package: str) -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return "not installed"
