"""Preparing a survey in several processes, so that a run that was stopped or killed goes on where it was.

While it is made, a survey lies in ``PATH.partial``:

===============================  ===========================================================================
``plan.json``                    what is made: header, versions, number of galaxies, a hash of what draws them
``store``                        the store, its arrays at their final size
``journal/FIRST.npz``            the columns of one shard, renamed into place when its stamps are on disk
``lock``                         held by the process that works here
===============================  ===========================================================================

A shard counts when its file is in the journal; what lies beyond is drawn again. Galaxies depend on nothing but their
number in the survey, so the store is the same, byte for byte, whatever the number of processes and interruptions.
"""

import fcntl
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from hiergal.progress import Stopped, progress_bar, stop_requested
from hiergal.survey import writer
from hiergal.survey.schema import StoreHeader
from hiergal.survey.store import Store, open_store
from hiergal.survey.workers import TASK_GALAXIES, Draw, Task, choose_workers, drawn
from hiergal.survey.writer import Columns, StoreWriter, check_target, put_in_place, written_header

__all__ = ["prepare_store"]


def prepare_store(
    path: str | Path,
    header: StoreHeader,
    draw: Draw,
    total: int,
    *,
    workers: int | Executor | None = None,
    progress: bool = False,
    overwrite: bool = False,
) -> Store:
    """Draw a survey into a store, and open it. The same call goes on with a run that was stopped or killed.

    Ctrl-C and SIGTERM stop the run as soon as the shard in hand is written. Processes are started by loky: a script
    needs no ``if __name__ == "__main__"``. On a cluster, pass the executor of its client, such as
    ``dask.distributed.Client(...).get_executor()`` (the extra ``distributed``).

    Args:
        path: Folder to write; everything happens in ``PATH.partial`` until the store is complete.
        header: What holds for the whole survey.
        draw: Takes the number of the first galaxy and how many to draw, and returns observations and their true
            profiles (or None). It can be pickled, and its result depends on its arguments alone.
        total: Number of galaxies in the survey.
        workers: Number of processes, 1 for none but this one; None for one per available core, or fewer for small
            surveys; or an executor that draws.
        progress: Show a progress bar.
        overwrite: Replace a store that is already there. Anything that is not a store is never replaced.

    Returns:
        The store, open for reading.

    Raises:
        FileExistsError: If something is at ``path`` that may not be replaced.
        ValueError: If galaxies are faulty. Shards before them are kept.
        BlockingIOError: If another process prepares this very store.
        Stopped: If a stop was asked for.

    Example:
        >>> import functools, tempfile
        >>> from hiergal.survey.mock import draw_batch
        >>> draw = functools.partial(draw_batch, seed=1, stamp=32, noise="white")
        >>> header = StoreHeader(
        ...     survey="demo", band="F814W", pixel_scale_arcsec=0.03, magnitude_zero_point=25.94
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     prepare_store(folder + "/demo.zarr", header, draw, 20)
        <Store demo.zarr: 20 galaxies of demo F814W, 32 x 32 at 0.03 arcsec>
    """
    path = Path(path)
    if total < 1:
        raise ValueError(f"expected at least one galaxy to write, got {total}; check what the survey selects")
    check_target(path, overwrite)
    folder = path.with_name(f"{path.name}.partial")
    with (
        _locked(folder),
        progress_bar(f"writing {path.name}", total, shown=progress) as advance,
        stop_requested() as stop,
    ):
        plan = {
            "header": written_header(header),
            "total": total,
            "shard_galaxies": writer.SHARD_GALAXIES,
            "draw": joblib.hash(draw),
        }
        store = StoreWriter(folder / "store", header, total=total, columns=_resume(folder, plan))
        start = len(store)
        advance(start)

        def tasks() -> Iterator[Task]:
            for first in range(start, total, TASK_GALAXIES):
                if stop():
                    advance(0, note="stopping after this shard")
                    if (first - start) % writer.SHARD_GALAXIES == 0:
                        return
                yield Task(first, min(TASK_GALAXIES, total - first))

        try:
            with closing(drawn(draw, tasks(), choose_workers(workers, total - start))) as batches:
                for columns in store.add(batches, advance):
                    _record(folder, columns, first=len(store) - _size(columns))
            if len(store) < total:
                raise Stopped(
                    f"stopped at galaxy {len(store)} of {total}; the same command goes on from there"
                )
        except BaseException:
            if not store.columns:
                shutil.rmtree(folder)
            raise
        store.finish()
        put_in_place(folder / "store", path)
        shutil.rmtree(folder)
    return open_store(path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"expected nobody at work in {folder}, got another process that prepares the same survey; wait "
                "until it is done, or stop it"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield


def _resume(folder: Path, plan: dict[str, Any]) -> list[Columns]:
    """Return the columns of the shards that an earlier run of this plan has written; without one, start anew."""
    file, text = folder / "plan.json", json.dumps(plan, indent=1)
    shards: list[Columns] = []
    if (folder / "store").exists() and file.exists() and file.read_text() == text:
        while shard := _recorded(folder, sum(map(_size, shards))):
            shards.append(shard)
    if not shards:
        for other in folder.iterdir():
            if other.is_dir():
                shutil.rmtree(other)
        (folder / "journal").mkdir()
        file.write_text(text)
    return shards


def _recorded(folder: Path, first: int) -> Columns | None:
    """Read the columns of the shard that starts with a galaxy, if it is whole."""
    try:
        with _journal_file(folder, first).open("rb") as file, np.load(file) as columns:
            return dict(columns)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _record(folder: Path, columns: Columns, *, first: int) -> None:
    """Put a shard on record, once its stamps are on the disk itself."""
    for file in (folder / "store").glob(f"*/c/{first // writer.SHARD_GALAXIES}/**/*"):
        if file.is_file():
            _sync(file)
    file = _journal_file(folder, first)
    partial = file.with_suffix(".partial")
    with partial.open("wb") as opened:
        np.savez(opened, **columns)
    _sync(partial)
    partial.rename(file)


def _journal_file(folder: Path, first: int) -> Path:
    return folder / "journal" / f"{first:012}.npz"


def _sync(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def _size(columns: Columns) -> int:
    return len(columns["identifier"])
