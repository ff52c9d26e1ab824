"""Galaxies for a whole catalogue: by parts, in any number of processes, from where an interrupted run stopped.

Rows are cut into parts of ``GALAXIES_PER_TASK``. Each is a task: its galaxies are drawn, put into their rows of a file
(:mod:`hiergal.simulate.files`), which takes the output's name when it is whole (:mod:`hiergal.runtime.output`). What is
done is noted in a journal, so that the same command goes on. The galaxy of a row, and its noise, depend on the seed,
on the row (or on its identifier, where a column of these is named) and on what is asked of it alone
(:mod:`hiergal.simulate.catalog_request`). In memory are the conditions of all rows, and the images of some parts.
"""

import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hiergal.hub.bundle import load_model
from hiergal.hub.digest import digest_of_model
from hiergal.hub.names import resolve
from hiergal.model.condition_columns import Catalog, read_catalog
from hiergal.model.conditions import condition_names
from hiergal.model.profile_grid import scaled_grid
from hiergal.model.trained import GalaxyModel
from hiergal.runtime.files import remove
from hiergal.runtime.fork import check_not_forked
from hiergal.runtime.marks import KIND, RUN
from hiergal.runtime.output import Output, owned
from hiergal.runtime.progress import progress_bar
from hiergal.runtime.seeds import SAMPLE, check_seed, key_for
from hiergal.runtime.version import __version__
from hiergal.runtime.workers import check_workers, finished_parts
from hiergal.simulate.catalog_request import IDENTIFIERS, AskedGalaxies, Exact, asked_galaxies
from hiergal.simulate.exact_galaxies import Sky, exact_profiles, exact_stamps
from hiergal.simulate.files import (
    GALAXIES_PER_CHUNK,
    SUFFIXES,
    GalaxyHeader,
    create_galaxies,
    tidy_galaxies,
    write_galaxies,
)
from hiergal.simulate.observing import Observing, psf_of
from hiergal.simulate.profiles import profiles_from_base, stamps_from_base
from hiergal.simulate.renderer import Renderer, renderer_for
from hiergal.simulate.row_numbers import base_for_rows
from hiergal.simulate.stamps import draw_whole_galaxies
from hiergal.simulate.survey_stamps import SurveyRenderers, draw_survey_stamps

__all__ = ["GALAXIES_PER_TASK", "Observing", "sample_catalog"]

GALAXIES_PER_TASK = 4 * GALAXIES_PER_CHUNK  # galaxies of a task
GALAXIES = "galaxies"  # what such a file says that it is
NOISE = 1  # purpose of a key


class _Run(msgspec.Struct, frozen=True):
    model: str
    model_sha256: str
    file: str
    kind: str
    seed: int
    galaxies: int
    part: int
    observing: Observing | None
    stamp: int | None = None


def sample_catalog(
    model: str | Path,
    catalog: Catalog | str | Path | None,
    out: str | Path,
    *,
    seed: int,
    galaxies: int | None = None,
    limit: int | None = None,
    observing: Observing | None = None,
    stamp: int | None = None,
    outside: str = "warn",
    columns: Mapping[str, str] | Sequence[str] | None = None,
    hdu: int | str | None = None,
    identifier: str | None = None,
    flux: str | None = None,
    magnitude: str | None = None,
    half_light_radius: str | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Draw a galaxy for each row of a catalogue into a file.

    Args:
        model: ``hub:NAME``, a path or an address.
        catalog: Columns of conditions, or a file of them (:func:`~hiergal.model.condition_columns.read_catalog`);
            None for ``galaxies`` of the model's population.
        out: A file ``.fits`` or ``.hdf5``, or a folder ``.zarr``.
        seed: Seed of galaxies and noise.
        galaxies: How many, without a catalogue.
        limit: Take only the first rows of a catalogue; None for all.
        observing: How a survey sees them, in electrons of its full exposure; default unconvolved light profiles.
        stamp: Pixels along each side of light profiles, for models that draw on others than their own; default those of
            the model.
        outside: What to do with galaxies outside the trained range (:mod:`hiergal.model.trained_range`): ``warn`` draws
            them, except those far outside, whose images are NaN; ``raise`` refuses them; ``ignore`` draws all. Rows
            whose conditions are no numbers are never drawn. The columns ``outside`` and ``drawn`` say which.
        identifier: A column that tells galaxies apart (integers or text): each galaxy, and its noise, follows that, and
            stays the same when other rows are dropped, added or sorted.
        flux: A column of exact total fluxes, in the unit of the output.
        magnitude: A column of exact total magnitudes [AB]; in the band of ``observing``, where that is another one than
            the model's.
        half_light_radius: A column of exact half-light radii, before the PSF [arcsec].
        columns: What columns are called in the catalogue (:func:`hiergal.survey.tables.catalog.parse_columns`).
        hdu: Table of a file with several.
        workers: Processes on this machine; one needs no dask. All have to see model and output.
        scheduler: Address of a running dask scheduler, to use its workers instead.
        overwrite: Whether to replace galaxies of another run; anything else is never replaced.
        progress: Whether to show a progress bar.

    Returns:
        The output.

    Raises:
        FileExistsError: If something is there that may not be replaced (:mod:`hiergal.runtime.output`).
        ValueError: If an argument is wrong, or the survey's band is not like the model's and no magnitudes in it are
            given.
        RuntimeError: In a fork of a process that has used JAX.
        OSError: If something cannot be read or written; what is done stays.

    Example:
        >>> sample_catalog("hub:mock-acs", catalog, "galaxies.zarr", seed=1, progress=False).name
        'galaxies.zarr'
    """
    check_not_forked()
    seed, out = check_seed(seed), Path(out)
    if out.suffix not in SUFFIXES:
        raise ValueError(f"out: expected a name that ends in {', '.join(SUFFIXES)}, got {out}")
    check_workers(workers, scheduler)
    path = resolve(model)
    digest = digest_of_model(path)
    # With the renderer, so that a survey that cannot be drawn is refused before anything is written.
    loaded, _ = _loaded(str(path.absolute()), digest, observing)
    catalog_file = catalog if isinstance(catalog, str | Path) else None
    exact = Exact(flux, magnitude, half_light_radius)
    if limit is not None and (catalog is None or limit < 1):
        raise ValueError(f"limit: expected a catalogue, and at least 1 of its rows, got {limit}")
    if catalog_file is not None or ((columns or limit) and catalog is not None):
        wanted = [name for name in (*exact, identifier) if name is not None]
        catalog = _read(catalog, (*condition_names(loaded), *wanted), identifier is None, columns, hdu)[
            :limit
        ]
    if observing is not None:
        _check_survey(loaded, observing, exact)
    _profile_shape(loaded, stamp)  # refuses what the model has not
    zero_point, unit = _photometry(loaded, observing)
    asked = asked_galaxies(
        loaded,
        catalog,
        galaxies=galaxies,
        seed=seed,
        outside=outside,
        identifier=identifier,
        exact=exact,
        zero_point=zero_point,
        flux_unit=unit,
    )
    run = _Run(
        str(path.absolute()),
        digest,
        "",
        out.suffix,
        seed,
        len(asked.conditions),
        GALAXIES_PER_TASK,
        observing,
        stamp,
    )
    about = _identity(run, asked)
    inputs = (path, catalog_file)
    with owned(out, GALAXIES, run=about, inputs=inputs, overwrite=overwrite) as own:
        if not own.finished:
            run = msgspec.structs.replace(run, file=str(own.result))
            _draw_parts(own, run, loaded, asked, str(model), workers, scheduler, progress)
            own.put()
    return out


def _draw_parts(
    own: Output,
    run: _Run,
    model: GalaxyModel,
    asked: AskedGalaxies,
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
            _create(own, run, model, asked, name)
        except BaseException:
            own.clear()
            raise
        journal.touch()
    numbers = [number for number in range(-(-run.galaxies // run.part)) if number not in done]
    tasks = ((run, number, asked.part(_rows(run, number))) for number in numbers)
    with progress_bar("galaxies", run.galaxies, shown=progress) as advance, journal.open("a") as notes:
        advance(sum(len(_rows(run, number)) for number in done))
        for number in finished_parts(sample_part, tasks, workers=workers, scheduler=scheduler):
            notes.write(f"{number}\n")
            notes.flush()
            advance(len(_rows(run, number)))
    tidy_galaxies(own.result, run.kind)


def sample_part(run: _Run, number: int, asked: AskedGalaxies) -> int:
    """Draw the galaxies of one part, and put them into the file; what a worker does.

    Args:
        run: The run.
        number: Which part.
        asked: Its galaxies.

    Returns:
        The number of the part.
    """
    model, renderer = _loaded(run.model, run.model_sha256, run.observing)
    shape = _profile_shape(model, run.stamp) if renderer is None else renderer.shape
    first, count = int(_rows(run, number)[0]), len(asked.conditions)
    images = np.full((count, *shape), np.nan, np.float32)
    if asked.drawn.any():
        images[asked.drawn] = _images(run, model, renderer, asked.part(np.flatnonzero(asked.drawn)))
    write_galaxies(Path(run.file), run.kind, first, images)
    return number


def _images(
    run: _Run, model: GalaxyModel, renderer: Renderer | SurveyRenderers | None, asked: AskedGalaxies
) -> np.ndarray:
    key = key_for(run.seed, SAMPLE)
    base = base_for_rows(model, key, asked.rows)
    exact = {"flux": asked.flux, "half_light_radius": asked.half_light_radius}
    is_exact = any(values is not None for values in exact.values())
    if renderer is None:
        grid = scaled_grid(model.recipe, shape=_profile_shape(model, run.stamp))
        profiles = profiles_from_base(model, base, asked.conditions, grid)
        return exact_profiles(model, profiles, **exact) if is_exact else profiles
    import jax

    assert run.observing is not None  # there is a renderer
    about, noise_key = run.observing.about, jax.random.fold_in(key, NOISE)
    flux_scale = 10 ** (0.4 * (about.zero_point - model.provenance.magnitude_zero_point))
    if isinstance(renderer, SurveyRenderers) and asked.half_light_radius is None:
        return draw_survey_stamps(
            model,
            renderer,
            base,
            asked.conditions,
            flux_scale=flux_scale,
            flux=asked.flux,
            sky_level=about.sky_level if run.observing.noise else None,
            key=noise_key,
            rows=asked.rows,
        )
    if is_exact or isinstance(renderer, SurveyRenderers):
        sky = Sky(about.sky_level, noise_key, asked.rows) if run.observing.noise else None
        if isinstance(renderer, SurveyRenderers):
            profiles = draw_whole_galaxies(model, base, asked.conditions, np.ones(len(base), bool))
        else:
            profiles = profiles_from_base(model, base, asked.conditions)
        psf = psf_of(run.observing)
        return exact_stamps(model, renderer, psf, profiles, zero_point=about.zero_point, **exact, sky=sky)
    return stamps_from_base(
        model,
        renderer,
        base,
        asked.conditions,
        flux_scale=flux_scale,
        sky_level=about.sky_level if run.observing.noise else None,
        key=noise_key,
        rows=asked.rows,
    )


def _read(source: Any, names: tuple[str, ...], with_identifiers: bool, columns: Any, hdu: Any) -> Catalog:
    """Read columns, and identifiers next to them where the same table has some: they do not decide which it is."""
    catalog = read_catalog(source, names, columns=columns, hdu=hdu)
    if not with_identifiers:
        return catalog
    try:
        more = read_catalog(source, (*names, *IDENTIFIERS), columns=columns, hdu=hdu)
        same = all(np.array_equal(catalog[name], more[name], equal_nan=True) for name in catalog.colnames)
    except (ValueError, KeyError, TypeError):
        return catalog
    return more if same else catalog


def _check_survey(model: GalaxyModel, observing: Observing, exact: Exact) -> None:
    """Compare the band and the PSF of a survey with those of the model; raise or warn where they differ."""
    from hiergal.simulate.galsim_objects import warn_of_narrow_psf
    from hiergal.simulate.survey_presets import compare_bands

    own = model.provenance.band
    bands = compare_bands(observing.survey, observing.band, own)
    if bands.differ:
        what = (
            f"band: {observing.survey} {observing.band} ({bands.wavelength_nm:.0f} nm) is not like {own} "
            f"({bands.other_nm:.0f} nm), in which the model knows magnitudes and shapes"
        )
        if exact.flux is None and exact.magnitude is None:
            raise ValueError(
                f"{what}; name a column of the catalogue with magnitudes in {observing.band}, --magnitude-column NAME "
                "(magnitude=), or with fluxes, --flux-column NAME (flux=); shapes remain those of "
                f"{own}; to take its magnitudes as they are, name that column, such as --magnitude-column mag_auto"
            )
        warnings.warn(f"{what}: fluxes are those of the catalogue, shapes those of {own}", stacklevel=4)
    if model.provenance.psf_fwhm_arcsec is not None:
        warn_of_narrow_psf(psf_of(observing), model.provenance.psf_fwhm_arcsec, stacklevel=4)


def _photometry(model: GalaxyModel, observing: Observing | None) -> tuple[float, str]:
    """Zero point and unit of the output."""
    if observing is None:
        return model.provenance.magnitude_zero_point, model.provenance.flux_unit
    return observing.about.zero_point, "electron"


def _identity(run: _Run, asked: AskedGalaxies) -> dict[str, Any]:
    """All that the galaxies depend on; where things lie decides nothing."""
    choices = {
        name: value for name, value in msgspec.to_builtins(run).items() if name not in ("model", "file")
    }
    if run.stamp is None:  # runs of earlier versions go on
        del choices["stamp"]
    return choices | {"version": __version__, "conditions": asked.digest()}


def _create(own: Output, run: _Run, model: GalaxyModel, asked: AskedGalaxies, name: str) -> None:
    origin = model.provenance
    if run.observing is None:
        header = GalaxyHeader(
            origin.flux_unit,
            "flux per pixel, not convolved",
            model.recipe.pixel_scale_arcsec,
            origin.magnitude_zero_point,
            name,
            run.seed,
        )
        shape = _profile_shape(model, run.stamp)
    else:
        survey = run.observing.about
        words = f"per pixel, {run.observing.survey} {run.observing.band}"
        header = GalaxyHeader("electron", words, survey.pixel_scale, survey.zero_point, name, run.seed)
        shape = (run.observing.stamp, run.observing.stamp)
    create_galaxies(
        own.result, run.kind, asked.columns, shape, header, mark={KIND: own.kind, RUN: own.digest}
    )


def _profile_shape(model: GalaxyModel, stamp: int | None) -> tuple[int, int]:
    """Pixels of light profiles."""
    return scaled_grid(model.recipe, shape=None if stamp is None else (stamp, stamp)).shape


def _rows(run: _Run, number: int) -> np.ndarray:
    return np.arange(number * run.part, min((number + 1) * run.part, run.galaxies))


@lru_cache(maxsize=2)
def _loaded(
    model: str, model_sha256: str, observing: Observing | None
) -> tuple[GalaxyModel, Renderer | SurveyRenderers | None]:
    """Model and renderer, or several of whole galaxies, made once in each process, and again for other files."""
    loaded = load_model(Path(model))
    if observing is None:
        return loaded, None
    scale = observing.about.pixel_scale
    shape = (observing.stamp, observing.stamp)
    make = SurveyRenderers if loaded.recipe.generator.any_grid else renderer_for
    return loaded, make(loaded, psf_of(observing), pixel_scale_arcsec=float(scale), shape=shape)
