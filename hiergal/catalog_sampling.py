"""Galaxies for a whole catalogue: by parts, in any number of processes, from where an interrupted run stopped.

Rows are cut into parts of ``PART``. Each is one task: its galaxies are drawn, and put into their places in a file
beside the output (:mod:`hiergal.galaxy_files`), which takes the output's name when it is whole. What is done is noted
in a journal, so that the same command goes on; a journal of another run is refused. The galaxy of a row, and its noise,
depend on the seed, on the row and on its conditions alone. In memory are the conditions of all rows, and the images of
some parts.
"""

import hashlib
import shutil
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
from hiergal.galsim_requests import check_outside
from hiergal.hub import GalaxyModel, load_model, locate
from hiergal.parts import check_workers, finished_parts
from hiergal.progress import progress_bar
from hiergal.renderer import Renderer, renderer_for
from hiergal.simulate import base_for_rows, profiles_from_base, stamps_from_base
from hiergal.stages import SAMPLE, key_for
from hiergal.survey_run import digest_of_model

__all__ = ["PART", "Observing", "sample_catalog"]

PART = 4 * CHUNK  # galaxies of a task
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
        workers: Processes on this machine; one needs no dask. All have to see model and output.
        scheduler: Address of a running dask scheduler, to use its workers instead.
        overwrite: Whether to replace an output that is there.
        progress: Whether to show a progress bar.

    Returns:
        The output.

    Raises:
        FileExistsError: If the output is there, and is not to be replaced.
        ValueError: If an argument is wrong, or what an interrupted run left is of another one.
        OSError: If something cannot be read or written; what is done stays.

    Example:
        >>> sample_catalog("hub:mock-acs", catalog, "galaxies.zarr", seed=1)  # doctest: +SKIP
    """
    out = Path(out)
    if out.suffix not in SUFFIXES:
        raise ValueError(f"out: expected a name that ends in {', '.join(SUFFIXES)}, got {out}")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists: choose another name, or pass overwrite=True (--overwrite)")
    check_workers(workers, scheduler)
    path = locate(model)
    digest = digest_of_model(path)
    # With the renderer, so that a survey that cannot be drawn is refused before anything is written.
    loaded, _ = _loaded(str(path.absolute()), digest, observing)
    if isinstance(catalog, str | Path):
        catalog = read_catalog(catalog, condition_names(loaded))
    conditions = _conditions(loaded, catalog, galaxies, seed)
    check_outside(loaded, conditions, outside)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial, journal = out.with_name(f"{out.name}.partial"), out.with_name(f"{out.name}.journal")
    run = _Run(
        str(path.absolute()),
        digest,
        str(partial.absolute()),
        out.suffix,
        seed,
        len(conditions),
        PART,
        observing,
    )
    done = _begin(run, loaded, conditions, partial, journal, str(model))
    numbers = [number for number in range(-(-run.galaxies // run.part)) if number not in done]
    tasks = ((run, number, conditions[_rows(run, number)]) for number in numbers)
    with progress_bar("galaxies", run.galaxies, shown=progress) as advance, journal.open("a") as notes:
        advance(sum(len(_rows(run, number)) for number in done))
        for number in finished_parts(sample_part, tasks, workers=workers, scheduler=scheduler):
            notes.write(f"{number}\n")
            notes.flush()
            advance(len(_rows(run, number)))
    if out.is_dir():
        shutil.rmtree(out)
    partial.replace(out)
    journal.unlink()
    return out


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


def _begin(
    run: _Run, model: GalaxyModel, conditions: np.ndarray, partial: Path, journal: Path, name: str
) -> set[int]:
    """Make the file and its journal, or find out what an interrupted run has done."""
    about = msgspec.to_builtins(run) | {
        "version": hiergal.__version__,
        "conditions_sha256": hashlib.sha256(np.ascontiguousarray(conditions).tobytes()).hexdigest(),
    }
    first = msgspec.json.encode(about).decode()
    if journal.exists() and partial.exists():
        lines = journal.read_text(encoding="utf-8").splitlines()
        if not lines or lines[0] != first:
            raise ValueError(
                f"{journal}: expected the journal of this run, got that of another one, with other "
                f"{_differences(lines, about)}; finish that one, or delete {partial.name} and {journal.name}"
            )
        return {int(line) for line in lines[1:] if line.isdigit()}
    if partial.is_dir():
        shutil.rmtree(partial)
    else:
        partial.unlink(missing_ok=True)
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
    try:
        create_galaxies(partial, run.kind, dict(zip(names, conditions.T, strict=True)), shape, header)
    except OSError:
        if partial.is_file():
            partial.unlink()
        raise
    journal.write_text(first + "\n", encoding="utf-8")
    return set()


def _differences(lines: list[str], about: dict[str, Any]) -> str:
    try:
        before = msgspec.json.decode(lines[0], type=dict)
    except (IndexError, msgspec.MsgspecError):
        return "content, which cannot be read"
    return ", ".join(name for name in about if before.get(name) != about[name])


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
