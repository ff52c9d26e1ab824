"""Speed of drawing galaxies: from the flow to the stamp, next to GalSim's RealGalaxy, and for a whole catalogue.

    python benchmarks/sampling.py hub:mock-acs --real COSMOS_25.2_training_sample/real_galaxy_catalog_25.2.fits

Both sides make stamps of the same size, pixels and PSF, and have all cores: ours by XLA's threads, GalSim's by a
process for each core, started before anything is timed. A RealGalaxy is built from its catalogue, convolved and drawn,
which includes the deconvolution by its own PSF. The two sides take turns; rates are medians over rounds. The catalogue
of ``--rows`` is written to zarr by `hiergal sample`'s own function, in a process of its own, whose peak memory is told.
"""

import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import galsim
import jax
import joblib
import numpy as np
import typer

from hiergal.hub import load_model
from hiergal.model.trained import GalaxyModel
from hiergal.simulate.catalog import sample_catalog
from hiergal.simulate.profiles import (
    base_for_rows,
    block_size,
    light_profiles,
    profiles_from_base,
    stamps_from_base,
)
from hiergal.simulate.renderer import renderer_for
from hiergal.simulate.survey_presets import survey_conditions, survey_psf

BUSY, GIB, MILLION = 0.5, 2**30, 10**6
STAMPS = {"HST": ("COSMOS", "f814w", 64), "LSST": ("LSST", "i", 64)}


def main(
    model: Annotated[str, typer.Argument(help="a model with a latent flow and a population")],
    real: Annotated[Path | None, typer.Option(help="file of a RealGalaxyCatalog, to compare with")] = None,
    galaxies: Annotated[int, typer.Option(help="galaxies of ours in each round", min=16)] = 2048,
    theirs: Annotated[int, typer.Option(help="RealGalaxies in each round", min=2)] = 400,
    rows: Annotated[int, typer.Option(help="rows of the catalogue; 0 for none", min=0)] = 20_000,
    rounds: Annotated[int, typer.Option(help="repetitions", min=1)] = 3,
    to: Annotated[Path | None, typer.Option("--json", help="file for the numbers")] = None,
) -> None:
    """Time both sides."""
    if os.getloadavg()[0] > BUSY:
        typer.echo(f"load {os.getloadavg()[0]:.1f}: rates will be too low", err=True)
    cores, loaded = joblib.cpu_count(), load_model(model)
    result: dict[str, Any] = {"cores": cores, "jax": jax.__version__, "galsim": galsim.__version__}
    for name, (survey, band, stamp) in STAMPS.items():
        result[name] = time_stamps(loaded, survey, band, stamp, real, galaxies, theirs, rounds, cores)
        typer.echo(f"{name}: {json.dumps(result[name])}", err=True)
    if rows:
        with get_context("spawn").Pool(1) as pool:
            result["catalogue"] = [pool.apply(time_catalogue, (model, count)) for count in (rows // 10, rows)]
        last = result["catalogue"][-1]
        last["hours_for_a_million"] = MILLION / last["galaxies_per_s"] / 3600
    typer.echo(json.dumps(result, indent=2))
    if to is not None:
        to.write_text(json.dumps(result, indent=2))


def time_stamps(
    model: GalaxyModel,
    survey: str,
    band: str,
    stamp: int,
    real: Path | None,
    galaxies: int,
    theirs: int,
    rounds: int,
    cores: int,
) -> dict[str, Any]:
    """Time stamps of one survey [galaxies/s], and what ours take [ms for each galaxy]."""
    scale, psf = float(survey_conditions(survey, band).pixel_scale), survey_psf(survey, band)
    renderer = renderer_for(model, psf, pixel_scale_arcsec=scale, shape=(stamp, stamp))
    conditions = np.resize(np.asarray(model.population), (galaxies, len(model.flow.config.conditions)))
    base = base_for_rows(model, jax.random.key(0), np.arange(galaxies))
    ours = partial(stamps_from_base, model, renderer, base, conditions)
    few = light_profiles(model.recipe, profiles_from_base(model, base[:64], conditions[:64]))
    ours(), draw_all(few, psf, scale, stamp)
    times: dict[str, list[float]] = {"ours": [], "our galaxies, drawn by GalSim on one core": []}
    if real is not None:
        times["RealGalaxy"] = []
        shares = np.array_split(np.arange(theirs), cores)
        job = joblib.delayed(draw_real)
    with joblib.Parallel(cores, backend="loky") as parallel:
        if real is not None:
            parallel(job(str(real), share[:3], psf, scale, stamp) for share in shares)
        for _ in range(rounds):
            times["ours"].append(galaxies / seconds(ours))
            drawn = seconds(partial(draw_all, few, psf, scale, stamp))
            times["our galaxies, drawn by GalSim on one core"].append(len(few) / drawn)
            if real is not None:
                work = [job(str(real), share, psf, scale, stamp) for share in shares]
                times["RealGalaxy"].append(theirs / seconds(partial(parallel, work)))
    found: dict[str, Any] = {name: statistics.median(values) for name, values in times.items()}
    if real is not None:
        found["ratio"] = found["ours"] / found["RealGalaxy"]
    return found | {"ms_each": time_parts(model, renderer, base, conditions, rounds)}


def time_parts(model, renderer, base, conditions, rounds: int) -> dict[str, float]:
    """Time of each part alone, on blocks of the size that is used [ms for each galaxy]."""
    block = block_size()
    u, y = base[:block], conditions[:block]
    flow = jax.jit(lambda model, u, y: model.flow.from_base(u, y))
    decode = jax.jit(lambda model, z: model.decode(z))
    draw = jax.jit(lambda renderer, profile: renderer(profile))
    z = flow(model, u, y)
    profile = decode(model, z)
    parts = {"flow": (flow, model, u, y), "decode": (decode, model, z), "render": (draw, renderer, profile)}
    found = {}
    for name, (function, *arguments) in parts.items():
        function(*arguments).block_until_ready()

        def many(function=function, arguments=arguments):
            for _ in range(20):
                function(*arguments).block_until_ready()

        found[name] = 1e3 * statistics.median(seconds(many) for _ in range(rounds)) / (20 * block)
    return found


def time_catalogue(model: str, rows: int) -> dict[str, float]:
    """Write a catalogue's galaxies to zarr; how fast, and with how much memory."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        sample_catalog(model, None, Path(folder) / "galaxies.zarr", seed=0, galaxies=rows, progress=False)
        taken = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    return {"rows": rows, "galaxies_per_s": rows / taken, "peak_gib": peak}


def draw_real(file: str, rows: np.ndarray, psf: galsim.GSObject, scale: float, stamp: int) -> int:
    """Build, convolve and draw galaxies of a RealGalaxyCatalog, again and again from its first."""
    catalog = galsim.RealGalaxyCatalog(file)
    for row in rows:
        galaxy = galsim.RealGalaxy(catalog, index=int(row) % catalog.nobjects)
        galsim.Convolve(galaxy, psf).drawImage(nx=stamp, ny=stamp, scale=scale)
    return len(rows)


def draw_all(galaxies: list[galsim.GSObject], psf: galsim.GSObject, scale: float, stamp: int) -> None:
    """Convolve and draw with GalSim."""
    for galaxy in galaxies:
        galsim.Convolve(galaxy, psf).drawImage(nx=stamp, ny=stamp, scale=scale)


def seconds(work: Callable[[], Any]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
