"""Galaxies for a whole catalogue: by parts, in any number of processes, from where an interrupted run stopped.

Rows are cut into parts of ``PART``. Each is one task: its galaxies are drawn, and put into their places in a file
(:mod:`hiergal.galaxy_files`), which takes the output's name when it is whole (:mod:`hiergal.runtime.output`). What is
done is noted in a journal, so that the same command goes on. The galaxy of a row, and its noise,
depend on the seed, on the row and on its conditions alone. In memory are the conditions of all rows, and the images of
some parts.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float

import hiergal
from hiergal.conditions import (
    Catalog,
    complete_conditions,
    condition_names,
    conditions_for,
    read_catalog,
)
from hiergal.galaxy_files import CHUNK, SUFFIXES, GalaxyHeader, create_galaxies, write_galaxies
from hiergal.hub import GalaxyModel, load_model, locate
from hiergal.parts import check_workers, finished_parts
from hiergal.progress import progress_bar
from hiergal.renderer import Renderer, renderer_for
from hiergal.runtime.files import remove
from hiergal.runtime.fork import check_not_forked
from hiergal.runtime.marks import KIND, RUN
from hiergal.runtime.output import Output, owned
from hiergal.runtime.seeds import check_seed
from hiergal.simulate import base_for_rows, profiles_from_base, stamps_from_base
from hiergal.stages import SAMPLE, key_for
from hiergal.survey_run import digest_of_model
from hiergal.trained_range import check_outside

__all__ = ["PART", "Observing", "sample_catalog"]

PART = 4 * CHUNK  # galaxies of a task
GALAXIES = "galaxies"  # what such a file says that it is
NOISE = 1  # purpose of a key


class Observing(msgspec.Struct, frozen=True):
    """How a survey sees the galaxies.

    Attributes:
        survey: Name of a survey that ``surveycodex`` knows.
        band: Name of its filter.
        stamp: Pixels along each side of a stamp.
        noise: Whether noise of sky and source is added.
    """

    survey: str
    band: str
    stamp: int = 64
    noise: bool = True


class _Run(msgspec.Struct, frozen=True):
    model: str
    model_sha256: str
    file: str
    kind: str
    seed: int
    galaxies: int
    part: int
    observing: Observing | None


def sample_catalog(
    model: str | Path,
    catalog: Catalog | str | Path | None,
    out: str | Path,
    *,
    seed: int,
    galaxies: int | None = None,
    observing: Observing | None = None,
    outside: str = "warn",
    columns: Mapping[str, str] | Sequence[str] | None = None,
    hdu: int | str | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Draw a galaxy for each row of a catalogue into a file.

    Args:
        model: ``hub:NAME``, a path or an address.
        catalog: Columns of conditions, or a file of them (:func:`~hiergal.conditions.read_catalog`); None for
            ``galaxies`` of the model's population.
        out: A file ``.fits`` or ``.hdf5``, or a folder ``.zarr``.
        seed: Seed of galaxies and noise.
        galaxies: How many, without a catalogue.
        observing: How a survey sees them, in electrons of its full exposure; default unconvolved light profiles.
        outside: What to do with conditions that the model was not trained on: ``warn``, ``raise`` or ``ignore``.
        columns: What columns are called in the catalogue (:func:`hiergal.survey.catalog.parse_columns`).
        hdu: Which table of a file with several.
        workers: Processes on this machine; one needs no dask. All have to see model and output.
        scheduler: Address of a running dask scheduler, to use its workers instead.
        overwrite: Whether to replace galaxies of another run; anything else is never replaced.
        progress: Whether to show a progress bar.

    Returns:
        The output.

    Raises:
        FileExistsError: If something is there that may not be replaced (:mod:`hiergal.runtime.output`).
        ValueError: If an argument is wrong.
        OSError: If something cannot be read or written; what is done stays.

    Example:
        >>> sample_catalog("hub:mock-acs", catalog, "galaxies.zarr", seed=1)  # doctest: +SKIP
    """
    check_not_forked()
    seed, out = check_seed(seed), Path(out)
    if out.suffix not in SUFFIXES:
        raise ValueError(f"out: expected a name that ends in {', '.join(SUFFIXES)}, got {out}")
    check_workers(workers, scheduler)
    path = locate(model)
    digest = digest_of_model(path)
    # With the renderer, so that a survey that cannot be drawn is refused before anything is written.
    loaded, _ = _loaded(str(path.absolute()), digest, observing)
    catalog_file = catalog if isinstance(catalog, str | Path) else None
    if catalog_file is not None or (columns and catalog is not None):
        catalog = read_catalog(catalog, condition_names(loaded), columns=columns, hdu=hdu)
    conditions = _conditions(loaded, catalog, galaxies, seed)
    check_outside(loaded, conditions, outside)
    run = _Run(str(path.absolute()), digest, "", out.suffix, seed, len(conditions), PART, observing)
    about = _identity(run, conditions)
    inputs = (path, catalog_file)
    with owned(out, GALAXIES, run=about, inputs=inputs, overwrite=overwrite) as own:
        if not own.finished:
            run = msgspec.structs.replace(run, file=str(own.result))
            _draw_parts(own, run, loaded, conditions, str(model), workers, scheduler, progress)
            own.put()
    return out


def _draw_parts(
    own: Output,
    run: _Run,
    model: GalaxyModel,
    conditions: Float[np.ndarray, "n c"],
    name: str,
    workers: int,
    scheduler: str | None,
    progress: bool,
) -> None:
    journal = own.work / "journal"
    if journal.exists():
        done = {int(line) for line in journal.read_text(encoding="utf-8").splitlines() if line.isdigit()}
    else:
        done = set()
        remove(own.result)
        try:
            _create(own, run, model, conditions, name)
        except BaseException:
            own.clear()
            raise
        journal.touch()
    numbers = [number for number in range(-(-run.galaxies // run.part)) if number not in done]
    tasks = ((run, number, conditions[_rows(run, number)]) for number in numbers)
    with progress_bar("galaxies", run.galaxies, shown=progress) as advance, journal.open("a") as notes:
        advance(sum(len(_rows(run, number)) for number in done))
        for number in finished_parts(sample_part, tasks, workers=workers, scheduler=scheduler):
            notes.write(f"{number}\n")
            notes.flush()
            advance(len(_rows(run, number)))


def sample_part(run: _Run, number: int, conditions: Float[np.ndarray, "k c"]) -> int:
    """Draw the galaxies of one part, and put them into the file; what a worker does.

    Args:
        run: The run.
        number: Which part.
        conditions: Of its galaxies.

    Returns:
        The number of the part.
    """
    model, renderer = _loaded(run.model, run.model_sha256, run.observing)
    rows, key = _rows(run, number), key_for(run.seed, SAMPLE)
    base = base_for_rows(model, key, rows)
    if renderer is None:
        images = profiles_from_base(model, base, conditions)
    else:
        import jax

        about = _survey(run.observing)
        images = stamps_from_base(
            model,
            renderer,
            base,
            conditions,
            flux_scale=10 ** (0.4 * (about.zero_point - model.provenance.magnitude_zero_point)),
            sky_level=about.sky_level if run.observing.noise else None,
            key=jax.random.fold_in(key, NOISE),
            rows=rows,
        )
    write_galaxies(Path(run.file), run.kind, int(rows[0]), images)
    return number


def _conditions(model: GalaxyModel, catalog: Catalog | None, galaxies: int | None, seed: int) -> np.ndarray:
    if catalog is None:
        if galaxies is None or galaxies < 1:
            raise ValueError(
                f"galaxies: expected a catalogue, or a positive number of galaxies, got {galaxies}"
            )
        return complete_conditions(model, None, np.random.default_rng(seed).random(galaxies))
    conditions = conditions_for(model, catalog)
    if galaxies is not None and galaxies != len(conditions):
        raise ValueError(
            f"galaxies: expected none with a catalogue of {len(conditions)} rows, got {galaxies}"
        )
    if not len(conditions):
        raise ValueError("catalog: expected rows, got none")
    return conditions


def _identity(run: _Run, conditions: np.ndarray) -> dict[str, Any]:
    """All that the galaxies depend on; where things lie decides nothing."""
    choices = {
        name: value for name, value in msgspec.to_builtins(run).items() if name not in ("model", "file")
    }
    content = hashlib.sha256(np.ascontiguousarray(conditions).tobytes()).hexdigest()
    return choices | {"version": hiergal.__version__, "conditions": content}


def _create(own: Output, run: _Run, model: GalaxyModel, conditions: np.ndarray, name: str) -> None:
    origin, names = model.provenance, condition_names(model)
    if run.observing is None:
        header = GalaxyHeader(
            origin.flux_unit,
            "flux per pixel, not convolved",
            model.recipe.pixel_scale_arcsec,
            origin.magnitude_zero_point,
            name,
            run.seed,
        )
        shape = model.recipe.shape
    else:
        survey = _survey(run.observing)
        words = f"per pixel, {run.observing.survey} {run.observing.band}"
        header = GalaxyHeader("electron", words, survey.pixel_scale, survey.zero_point, name, run.seed)
        shape = (run.observing.stamp, run.observing.stamp)
    columns = dict(zip(names, conditions.T, strict=True))
    create_galaxies(own.result, run.kind, columns, shape, header, mark={KIND: own.kind, RUN: own.digest})


def _rows(run: _Run, number: int) -> np.ndarray:
    return np.arange(number * run.part, min((number + 1) * run.part, run.galaxies))


def _survey(observing: Observing):
    from hiergal.galsim_surveys import survey_conditions

    return survey_conditions(observing.survey, observing.band)


@lru_cache(maxsize=2)
def _loaded(
    model: str, model_sha256: str, observing: Observing | None
) -> tuple[GalaxyModel, Renderer | None]:
    """Model and renderer, made once in each process, and again if the model's files are others by then."""
    loaded = load_model(Path(model))
    if observing is None:
        return loaded, None
    from hiergal.galsim_surveys import survey_psf

    scale = _survey(observing).pixel_scale
    psf = survey_psf(observing.survey, observing.band)
    shape = (observing.stamp, observing.stamp)
    return loaded, renderer_for(loaded, psf, pixel_scale_arcsec=float(scale), shape=shape)
