"""Posteriors of a whole survey: by parts, in any number of processes, from where an interrupted run stopped.

A survey is cut into parts of ``GALAXIES_PER_TASK`` consecutive rows, for any number of workers. Each is a task: its
galaxies are inferred, and its rows written, whole or not at all, into the folder of the run next to the output
(:mod:`hiergal.runtime.output`). What is there already is not done again, so that after a crash, or Ctrl-C, the same
command goes on. When all parts are there they become one table, and go.

The draws of a galaxy depend on the seed and on its row alone. Tasks run in this process, or on the workers of
dask.distributed: some of its own, or those of a cluster. A task whose worker dies is given to another one.
"""

import warnings
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import msgspec
import numpy as np
from astropy.table import Table, vstack

from hiergal.hub.bundle import load_model
from hiergal.hub.names import resolve
from hiergal.model.trained import GalaxyModel
from hiergal.posterior.image_store import create_images, write_images
from hiergal.posterior.infer import infer
from hiergal.posterior.input_checks import (
    bad_observations,
    catalog_conditions,
    check_catalog,
    check_counts,
    check_geometry,
    check_method,
)
from hiergal.posterior.provenance import cards_of, provenance_of
from hiergal.posterior.survey_run import SurveyRun, identity_of
from hiergal.posterior.table import (
    TABLE,
    add_sky,
    blank_rows,
    check_table_name,
    posterior_table,
    read_table,
    write_part,
    write_result,
)
from hiergal.runtime.fork import check_not_forked
from hiergal.runtime.output import Output, check_inputs, owned
from hiergal.runtime.progress import progress_bar
from hiergal.runtime.seeds import INFER, check_seed, key_for
from hiergal.runtime.workers import check_workers, finished_parts
from hiergal.survey.sky import SKY_COLUMNS
from hiergal.survey.store import SurveyStore, open_survey

__all__ = ["GALAXIES_PER_TASK", "SurveyRun", "infer_survey"]

GALAXIES_PER_TASK = 256  # galaxies of a task, and of a shard of images
GALAXIES_PER_CALL = {"cpu": 32}  # galaxies at once
GALAXIES_PER_CALL_ON_ACCELERATOR = 256
PARTS, IMAGES_KIND = "parts", "posterior images"


def infer_survey(
    model: str | Path,
    store: str | Path,
    out: str | Path,
    *,
    seed: int,
    method: str = "laplace",
    draws: int = 200,
    conditions: bool = False,
    images: str | Path | None = None,
    limit: int | None = None,
    batch: int | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Table:
    """Infer posteriors of the galaxies of a survey, and write a table with one row for each.

    Args:
        model: A trained model: ``hub:NAME``, a folder, a file or an address; all workers have to see its files, the
            store and the output.
        store: The survey.
        out: The table, ``.fits`` or ``.parquet``: see :mod:`hiergal.posterior.table`.
        seed: Seed of the draws.
        method: As for :func:`hiergal.posterior.infer`.
        draws: Posterior draws of each galaxy.
        conditions: Whether the catalogue's magnitudes, sizes and redshifts inform the prior.
        images: Zarr group to write mean and standard deviation of the deconvolved profiles, and the denoised stamps,
            into; default none.
        limit: Take only the first galaxies.
        batch: Galaxies in one call of the compiled program; default 32 on CPUs, 256 on accelerators.
        workers: Processes on this machine; one needs no dask.
        scheduler: Address of a running dask scheduler, to use its workers instead.
        overwrite: Whether to replace a table and images of another run; anything else is never replaced.
        progress: Whether to show a progress bar.

    Returns:
        The table.

    Raises:
        ValueError: If an argument is wrong.
        FileExistsError: If something is there that may not be replaced (:mod:`hiergal.runtime.output`).
        OSError: If something cannot be read or written; finished parts stay.

    Example:
        >>> choices = {"method": "amortized", "draws": 40, "limit": 4, "progress": False}
        >>> table = infer_survey("hub:mock-acs", survey.path, "posteriors.fits", seed=0, **choices)
        >>> len(table)
        4
    """
    check_seed(seed)
    check_not_forked()
    out, opened, loaded = Path(out), open_survey(store), load_model(model)
    check_counts(draws=draws, limit=1 if limit is None else limit)
    check_method(loaded, method, draws)
    check_geometry(loaded, opened.header.pixel_scale_arcsec, opened.shape)
    if conditions:
        check_catalog(loaded, opened.catalog, opened.header.unit_of)
    check_workers(workers, scheduler)
    check_table_name(out)
    choices = {"method": method, "draws": draws, "conditions": conditions, "seed": seed}
    run = SurveyRun(
        model=str(resolve(model).absolute()),
        store=str(opened.path.absolute()),
        parts="",
        images=None,
        galaxies=min(limit or len(opened), len(opened)),
        batch=batch or GALAXIES_PER_CALL.get(jax.default_backend(), GALAXIES_PER_CALL_ON_ACCELERATOR),
        **choices,
    )
    about = identity_of(run)
    options: dict[str, Any] = {"run": about, "inputs": (run.model, run.store), "overwrite": overwrite}
    if images is not None:
        check_inputs(images, (*options["inputs"], out))
    with ExitStack() as owners:
        table = owners.enter_context(owned(out, TABLE, **options))
        pictures = None if images is None else owners.enter_context(owned(images, IMAGES_KIND, **options))
        if table.finished and (pictures is None or pictures.finished):
            return read_table(out)
        run = _begin(run, loaded, opened, table, pictures)
        _infer_parts(run, tuple(about["files"].values()), workers, scheduler, progress)
        if not table.finished:
            parts = [read_table(_path(run, number)) for number in _numbers(run)]
            whole = vstack(parts, metadata_conflicts="silent")
            whole.meta.clear()
            whole.meta |= cards_of(provenance_of(loaded, **choices))
            write_result(whole, table)
            table.ready()
        if pictures is not None and run.images is not None:
            pictures.put()
        if not table.finished:
            table.put()
    return read_table(out)


def _begin(
    run: SurveyRun, model: GalaxyModel, store: SurveyStore, table: Output, pictures: Output | None
) -> SurveyRun:
    """Make room for the parts, in the folder of the images if there are any to make: both come from one inference."""
    if pictures is None or pictures.finished:
        parts = table.work / PARTS
    else:
        parts, made = pictures.work / PARTS, pictures.work / "made"
        if not made.exists():
            pictures.clear()
            create_images(
                pictures, run.galaxies, GALAXIES_PER_TASK, model, text=store.identifier.dtype.kind == "U"
            )
            made.touch()
        run = msgspec.structs.replace(run, images=str(pictures.result))
    parts.mkdir(exist_ok=True)
    return msgspec.structs.replace(run, parts=str(parts))


def _infer_parts(
    run: SurveyRun, digests: tuple[str, ...], workers: int, scheduler: str | None, progress: bool
) -> None:
    left = [number for number in _numbers(run) if not _is_whole(_path(run, number), len(_rows(run, number)))]
    with progress_bar(f"inference, {run.method}", run.galaxies, shown=progress) as advance:
        advance(run.galaxies - sum(len(_rows(run, number)) for number in left))
        tasks = ((run, number, digests) for number in left)
        for number in finished_parts(infer_part, tasks, workers=workers, scheduler=scheduler):
            advance(len(_rows(run, number)))


def infer_part(run: SurveyRun, number: int, digests: tuple[str, ...]) -> int:
    """Infer one part of a survey, and write its rows; what a worker does.

    Args:
        run: The run.
        number: Which part.
        digests: Of the files of model and survey when the run began; those of other digests are read again.

    Returns:
        The number of the part.
    """
    rows = _rows(run, number)
    model, store = _opened(run.model, run.store, digests)
    observation = store.read(rows)
    flag = bad_observations(observation)
    conditions = None
    if run.conditions:
        conditions = catalog_conditions(model, observation.catalog, store.header.unit_of)
    origin, good = model.provenance, flag == 0
    table = blank_rows(observation.identifier[~good], flag[~good], flux_unit=origin.flux_unit)
    posterior = (
        None
        if not good.any()
        else infer(
            model,
            observation[good],
            key=key_for(run.seed, INFER),
            method=run.method,
            conditions=None if conditions is None else conditions[good],
            draws=run.draws,
            batch=run.batch,
            rows=rows[good],
        )
    )
    if posterior is not None:
        found = posterior_table(
            posterior, magnitude_zero_point=origin.magnitude_zero_point, flux_unit=origin.flux_unit
        )
        order = np.argsort(np.concatenate([np.flatnonzero(good), np.flatnonzero(~good)]))
        table = vstack([found, table])[order]
        if run.images is not None:
            write_images(run.images, rows, good, posterior)
    if set(SKY_COLUMNS) <= set(store.catalog):
        add_sky(table, {name: store.catalog[name][rows] for name in SKY_COLUMNS}, posterior, good)
    write_part(table, _path(run, number))
    return number


def _numbers(run: SurveyRun) -> range:
    return range(-(-run.galaxies // GALAXIES_PER_TASK))


def _rows(run: SurveyRun, number: int) -> np.ndarray:
    return np.arange(number * GALAXIES_PER_TASK, min((number + 1) * GALAXIES_PER_TASK, run.galaxies))


def _path(run: SurveyRun, number: int) -> Path:
    return Path(run.parts) / f"{number:06d}.fits"


def _is_whole(path: Path, count: int) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of a file that is cut off
            return len(read_table(path)) == count
    except (OSError, ValueError, TypeError, LookupError, Warning):
        return False


@lru_cache(maxsize=2)
def _opened(model: str, store: str, digests: tuple[str, ...]) -> tuple[GalaxyModel, SurveyStore]:
    """Model and store, read once in each process, and again if their files are others by then."""
    return load_model(model), open_survey(store)
