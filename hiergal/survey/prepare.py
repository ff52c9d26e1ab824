"""Preparation of a survey in several processes; a stopped or killed run continues where it was.

While it is made, its parts lie in a folder next to it (:mod:`hiergal.runtime.output`):

===============================  ===========================================================================
``run.json``                     what is made: header, versions, number of galaxies, a hash of what draws them
``result.zarr``                  the store, its arrays at their final size
``journal/FIRST.npz``            the columns of one shard, written when its stamps are on disk
===============================  ===========================================================================

A shard counts when its file is in the journal; what lies beyond is drawn again. Galaxies depend on nothing but their
number in the survey, so the store is the same, byte for byte, whatever the number of processes and interruptions.
"""

import io
import os
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import joblib
import numpy as np

from hiergal.runtime.extras import require_extra
from hiergal.runtime.files import write_whole
from hiergal.runtime.output import Output, owned
from hiergal.runtime.progress import Stopped, progress_bar, stop_requested
from hiergal.survey import writer
from hiergal.survey.schema import StoreHeader
from hiergal.survey.store import SurveyStore, open_survey
from hiergal.survey.workers import TASK_GALAXIES, Draw, Task, choose_workers, drawn
from hiergal.survey.writer import Columns, StoreWriter, written_header

__all__ = ["prepare_store"]

JOURNAL = "journal"


def prepare_store(
    path: str | Path,
    header: StoreHeader,
    draw: Draw,
    total: int,
    *,
    workers: int | Executor | None = None,
    inputs: Mapping[str, str | Path | None] | None = None,
    progress: bool = False,
    overwrite: bool = False,
) -> SurveyStore:
    """Draw a survey into a store, and open it. The same call goes on with a run that was stopped or killed.

    Ctrl-C and SIGTERM stop the run as soon as the shard in hand is written. Processes are started by loky: a script
    needs no ``if __name__ == "__main__"``. On a cluster, pass the executor of its client, such as
    ``dask.distributed.Client(...).get_executor()`` (the extra ``distributed``).

    Args:
        path: Folder to write (:mod:`hiergal.runtime.output`).
        header: What holds for the whole survey.
        draw: Takes the number of the first galaxy and how many to draw, and returns observations and their true
            profiles (or None). It can be pickled, and its result depends on its arguments alone.
        total: Number of galaxies in the survey.
        workers: Number of processes, 1 for none but this one; None for one per available core, or fewer for small
            surveys; or an executor that draws.
        progress: Show a progress bar.
        inputs: Surveys that are drawn from, by their digests (:func:`~hiergal.survey.schema.digest_of_store`); none
            of them may be, hold, or lie in the output.
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
        >>> from hiergal.survey.mock.galaxies import draw_batch
        >>> draw = functools.partial(draw_batch, seed=1, stamp=32, noise="white")
        >>> header = StoreHeader(
        ...     survey="demo", band="F814W", pixel_scale_arcsec=0.03, magnitude_zero_point=25.94
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     prepare_store(folder + "/demo.zarr", header, draw, 20)
        SurveyStore(demo.zarr: 20 galaxies of demo F814W, 32 x 32 at 0.03 arcsec)
    """
    require_extra("survey", "surveys on disk")
    if total < 1:
        raise ValueError(f"expected at least one galaxy to write, got {total}; check what the survey selects")
    run = {
        "header": written_header(header),
        "total": total,
        "shard_galaxies": writer.SHARD_GALAXIES,
        "draw": joblib.hash(draw),
        "inputs": sorted(inputs or {}),
    }
    with owned(path, "survey", run=run, inputs=(inputs or {}).values(), overwrite=overwrite) as own:
        if not own.finished:
            _draw_into(own, header, draw, total, workers, progress)
    return open_survey(path)


def _draw_into(
    own: Output,
    header: StoreHeader,
    draw: Draw,
    total: int,
    workers: int | Executor | None,
    progress: bool,
) -> None:
    with (
        progress_bar(f"writing {own.target.name}", total, shown=progress) as advance,
        stop_requested() as stop,
    ):
        (own.work / JOURNAL).mkdir(exist_ok=True)
        store = StoreWriter(own.result, header, total=total, columns=_whole_shards(own))
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
            with closing(cast(Any, drawn(draw, tasks(), choose_workers(workers, total - start)))) as batches:
                for columns in store.add(batches, advance):
                    _record(own, columns, first=len(store) - _size(columns))
            if len(store) < total:
                raise Stopped(
                    f"stopped at galaxy {len(store)} of {total}; the same command goes on from there"
                )
        except BaseException:
            if not store.columns:
                own.clear()
            raise
        store.finish(own.digest)
        own.put()


def _whole_shards(own: Output) -> list[Columns]:
    """Return the columns of the shards that an earlier run has written."""
    shards: list[Columns] = []
    if own.result.exists():
        while shard := _recorded(own, sum(map(_size, shards))):
            shards.append(shard)
    return shards


def _recorded(own: Output, first: int) -> Columns | None:
    """Read the columns of the shard that starts with a galaxy, if it is whole."""
    try:
        with _journal_file(own, first).open("rb") as file, np.load(file) as columns:
            return dict(columns)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _record(own: Output, columns: Columns, *, first: int) -> None:
    """Put a shard on record, once its stamps are on the disk itself."""
    for file in own.result.glob(f"*/c/{first // writer.SHARD_GALAXIES}/**/*"):
        if file.is_file():
            _sync(file)
    content = io.BytesIO()
    np.savez(content, **cast(Any, columns))
    write_whole(_journal_file(own, first), content.getvalue())


def _journal_file(own: Output, first: int) -> Path:
    return own.work / JOURNAL / f"{first:012}.npz"


def _sync(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def _size(columns: Columns) -> int:
    return len(columns["identifier"])
