"""Speed of posteriors: galaxies a second by the flow, effective samples a second by importance sampling and NUTS.

    hiergal fit-posterior-flow runs/quickstart/survey.zarr --model runs/quickstart/model
    python benchmarks/posterior.py runs/quickstart/model runs/quickstart/survey.zarr

Galaxies that the model has not seen; programs are compiled before anything is timed. Effective samples of importance
sampling are those of its weights, of NUTS the smallest over the latents (by NumPyro, from autocorrelations). One
galaxy at a time, NumPyro's NUTS runs on the same posteriors with its own defaults, but starts at the guide's mean,
which favours it. Peak memory is that of a process of its own for each number of galaxies.
"""

import json
import multiprocessing
import os
import resource
import time
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import typer
from numpyro.infer import MCMC, NUTS

from hiergal.hub import load_model
from hiergal.model.guide import posterior_from
from hiergal.model.trained import GalaxyModel
from hiergal.observation import Observation
from hiergal.posterior.images import posterior_images
from hiergal.posterior.infer import infer
from hiergal.posterior.samplers.methods import MAP_STEPS, mode_of
from hiergal.posterior.samplers.nuts import smallest_ess
from hiergal.posterior.samplers.target import LatentPosterior
from hiergal.runtime.host_memory import keep_freed_memory
from hiergal.survey import open_survey
from hiergal.survey.split import split_of

SEED, BUSY, GIB = 1, 0.5, 2**30
WARMUP = 200  # of one galaxy at a time


def main(
    path: Annotated[Path, typer.Argument(metavar="MODEL", help="a model with a posterior flow")],
    survey: Annotated[Path, typer.Argument(help="the store that it was trained on")],
    galaxies: Annotated[int, typer.Option(help="galaxies by flow and importance", min=1)] = 128,
    few: Annotated[int, typer.Option(help="galaxies by NUTS in batch", min=1)] = 32,
    single: Annotated[int, typer.Option(help="galaxies by NUTS one at a time", min=1)] = 2,
    draws: Annotated[int, typer.Option(help="posterior draws of each", min=10)] = 100,
    rounds: Annotated[int, typer.Option(help="repetitions of flow and importance", min=1)] = 3,
    to: Annotated[Path | None, typer.Option("--json", help="file for the numbers")] = None,
) -> None:
    """Time all methods."""
    keep_freed_memory()
    if os.getloadavg()[0] > BUSY:
        typer.echo(f"load {os.getloadavg()[0]:.1f}: rates will be too low", err=True)
    model, store = load_model(path), open_survey(survey)
    unseen = split_of(store, model.recipe).test
    observation = store.read(np.resize(unseen, galaxies))
    result: dict[str, Any] = {
        "device": str(jax.devices()[0]),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
    }
    parts = {
        "flow": lambda: time_flow(model, observation, draws, rounds),
        "importance": lambda: time_importance(model, observation, draws, rounds),
        "nuts": lambda: time_nuts(model, observation[:few], observation[:single], draws),
    }
    for name, measure in parts.items():
        result[name] = measure()
        typer.echo(f"{name}: {json.dumps(result[name])}", err=True)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        peaks = pool.starmap(peak_gib, [(path, survey, n, draws) for n in (64, 256, 1024)], chunksize=1)
    result["peak_gib"] = dict(zip(("64", "256", "1024"), peaks, strict=True))
    typer.echo(markdown(result))
    if to is not None:
        to.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def time_flow(model: GalaxyModel, observation: Observation, draws: int, rounds: int) -> dict[str, float]:
    """Rates of draws with their summaries, and of these and an image of each draw [galaxies/s]."""

    def infer_once(key: jax.Array):
        return infer(model, observation, key=key, method="flow", draws=draws)

    def image_once(key: jax.Array):
        return posterior_images(model, infer_once(key))

    seconds, with_images = _median_time(infer_once, rounds), _median_time(image_once, rounds)
    return {"galaxies_per_s": len(observation) / seconds, "with_images": len(observation) / with_images}


def time_importance(
    model: GalaxyModel, observation: Observation, draws: int, rounds: int
) -> dict[str, float]:
    """Rate of galaxies, and of their effective samples [1/s]."""
    last = {}

    def once(key: jax.Array):
        last["posterior"] = infer(model, observation, key=key, method="importance", draws=draws)

    seconds = _median_time(once, rounds)
    ess = last["posterior"].statistics["ess"]
    return {
        "galaxies_per_s": len(observation) / seconds,
        "ess_median": float(np.median(ess)),
        "ess_per_s": float(ess.sum() / seconds),
        "k_hat_below_0.7": float((last["posterior"].statistics["k_hat"] < 0.7).mean()),
    }


def time_nuts(model: GalaxyModel, many: Observation, few: Observation, draws: int) -> dict[str, float]:
    """Effective samples a second of a batch, and of NumPyro's NUTS one galaxy at a time, warm-up included."""

    def batch(key: jax.Array):
        return infer(model, many, key=key, method="nuts", draws=draws, batch=len(many))

    batch(jax.random.key(SEED))
    began = time.perf_counter()
    found = batch(jax.random.key(SEED + 1))
    seconds = time.perf_counter() - began
    alone, alone_seconds = one_at_a_time(model, few, draws)
    in_batch, single = found.statistics["ess_nuts"].sum() / seconds, alone / alone_seconds
    return {
        "galaxies_per_s": len(many) / seconds,
        "ess_median": float(np.median(found.statistics["ess_nuts"])),
        "ess_per_s": float(in_batch),
        "ess_per_s_one_at_a_time": float(single),
        "ratio": float(in_batch / single),
    }


def one_at_a_time(model: GalaxyModel, observation: Observation, draws: int) -> tuple[float, float]:
    """Effective samples of NumPyro's NUTS on the same posteriors, and its time [s]."""
    latents = dist.ImproperUniform(dist.constraints.real_vector, (), (model.recipe.generator.latents,))

    def posterior(one: Observation, factor: jax.Array):
        z = numpyro.sample("z", latents)
        numpyro.factor(
            "density",
            LatentPosterior(model, one, model.latent_flow().expand((1,)), factor).log_density(z[None])[0],
        )

    factors = mode_of(
        model, observation, model.latent_flow().expand((len(observation),)), MAP_STEPS
    ).problem.variance_factor
    starts = posterior_from(model.encode(observation), model.recipe.covariance).mean
    options = {"progress_bar": False, "jit_model_args": True}
    chain = MCMC(NUTS(posterior), num_warmup=WARMUP, num_samples=draws, **options)

    def run(row: int) -> np.ndarray:
        one = slice(row, row + 1)
        chain.run(jax.random.key(row), observation[one], factors[one], init_params={"z": starts[row]})
        return np.asarray(chain.get_samples()["z"])

    run(0)
    total, seconds = 0.0, 0.0
    for row in range(len(observation)):
        began = time.perf_counter()
        z = run(row)
        seconds += time.perf_counter() - began
        total += float(smallest_ess(z[None, :, None])[0])
    return total, seconds


def peak_gib(path: Path, survey: Path, galaxies: int, draws: int) -> float:
    """Largest resident set of a process that infers some galaxies [GiB]."""
    keep_freed_memory()
    store = open_survey(survey)
    observation = store.read(np.resize(np.arange(len(store)), galaxies))
    infer(load_model(path), observation, key=jax.random.key(SEED), method="flow", draws=draws)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB


def markdown(result: dict[str, Any]) -> str:
    """Format the measurements as a table."""
    flow, weighted, nuts = result["flow"], result["importance"], result["nuts"]
    rows = [
        ("`flow`, draws and summaries [galaxies/s]", f"{flow['galaxies_per_s']:.1f}"),
        ("`flow`, an image of each draw as well [galaxies/s]", f"{flow['with_images']:.1f}"),
        ("`importance` [galaxies/s]", f"{weighted['galaxies_per_s']:.2f}"),
        ("`importance`, effective samples [1/s]", f"{weighted['ess_per_s']:.0f}"),
        ("`nuts` in batch, effective samples [1/s]", f"{nuts['ess_per_s']:.1f}"),
        ("NumPyro's NUTS, one galaxy at a time [1/s]", f"{nuts['ess_per_s_one_at_a_time']:.2f}"),
        ("ratio of the two", f"{nuts['ratio']:.0f}"),
        *(
            (f"peak memory, {n} galaxies by `flow` [GiB]", f"{peak:.2f}")
            for n, peak in result["peak_gib"].items()
        ),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"| {result['device']}, {result['cores']} cores | |\n|---|---|\n{table}"


def _median_time(run, rounds: int) -> float:
    """Median time of some runs [s], after one that compiles."""
    run(jax.random.key(SEED))
    times = []
    for number in range(rounds):
        began = time.perf_counter()
        run(jax.random.key(SEED + 1 + number))
        times.append(time.perf_counter() - began)
    return float(np.median(times))


if __name__ == "__main__":
    typer.run(main)
