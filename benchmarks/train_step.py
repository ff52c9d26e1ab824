"""Speed of a training step: hiergal's, and on CPUs the same step in PyTorch.

    python benchmarks/train_step.py                                        # the recipe of the quickstart
    python benchmarks/train_step.py models/lanusse2020/recipe.toml --steps 2 --json result.json

A step is all that :func:`hiergal.fit` does between two evaluations: encoder, draw, generator, convolution,
likelihood, penalties, gradient, update. Before anything is timed, both sides have to have the same number of
parameters and, with the same weights, the same outputs. Then they take turns, each with all cores, and
medians over the turns are printed with their range, as a row of a table in Markdown. On an accelerator
hiergal runs alone.

On a machine that does anything else the ratio means nothing: PyTorch's threads wait for each other at every
operation, and lose far more than XLA's do.
"""

import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import msgspec
import numpy as np
import typer
from numpyro.infer import SVI

from hiergal.model.architecture import encoder_of, generator_of, programs_of
from hiergal.observation import Observation
from hiergal.recipe.recipe import Recipe, load_recipe
from hiergal.runtime.devices import place, replicated
from hiergal.runtime.host_memory import keep_freed_memory
from hiergal.survey.mock.galaxies import draw_mock
from hiergal.training import svi
from hiergal.training.batches import batches_from, order_of

SEED, CHECKED, TOLERANCE = 1, 4, 1e-4
GIB, HOUR = 2**30, 3600
BUSY = 0.5  # load average
TRIED = 2  # steps by which a form of the other side is chosen

Take = Callable[[int], None]


class Ours(NamedTuple):
    """The step of hiergal, compiled.

    Attributes:
        take: Takes some steps, and waits for the last one.
        params: The parameters at the start.
        batch: Galaxies in a step.
        compile_s: Time that compiling took [s].
        flops: Floating-point operations of a step, as XLA counts them before it compiles.
        buffers_bytes: Memory of a step in addition to its state.
    """

    take: Take
    params: dict[str, Any]
    batch: int
    compile_s: float
    flops: float
    buffers_bytes: int


def main(
    path: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="default: that of the quickstart")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="galaxies in a step; default the recipe's")] = None,
    rounds: Annotated[int, typer.Option(help="turns of each side", min=1)] = 5,
    steps: Annotated[int, typer.Option(help="steps in a turn", min=1)] = 5,
    alone: Annotated[bool, typer.Option("--alone", help="leave PyTorch out")] = False,
    inductor: Annotated[bool, typer.Option("--inductor", help="try torch.compile too")] = False,
    peak_tflops: Annotated[float | None, typer.Option(help="of the device, to compare with")] = None,
    to: Annotated[Path | None, typer.Option("--json", help="file for the numbers")] = None,
) -> None:
    """Time a training step."""
    keep_freed_memory()  # as the command does; PyTorch gains by it too
    recipe = Recipe() if path is None else load_recipe(path)
    whole = (
        {"gradient_accumulation": 1} if batch is None else {"gradient_accumulation": 1, "batch": batch}
    )  # as PyTorch takes it
    recipe = msgspec.structs.replace(recipe, training=msgspec.structs.replace(recipe.training, **whole))
    galaxies = draw_mock(4 * recipe.training.batch, seed=SEED, stamp=recipe.shape).observation
    if os.getloadavg()[0] > BUSY:
        typer.echo(f"load {os.getloadavg()[0]:.1f}: the ratio will flatter hiergal", err=True)
    ours, device = our_step(recipe, galaxies), jax.devices()[0]
    result = {"recipe": recipe.name, "device": device_name(device), "jax": jax.__version__}
    takes, alone = {"hiergal": ours.take}, alone or device.platform != "cpu"
    if not alone:
        form, takes["pytorch"], versions = torch_step(recipe, galaxies, ours, inductor=inductor)
        result |= {"form": form} | versions
    ours.take(1)
    result |= timings(takes, ours.batch, rounds, steps) | costs(ours, recipe, device)
    result |= efficiency(result, recipe, peak_tflops)
    typer.echo(markdown(result, alone=alone))
    if to is not None:
        to.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def our_step(recipe: Recipe, galaxies: Observation) -> Ours:
    """Compile the step that :func:`hiergal.fit` runs, and bring its galaxies as it does."""
    config, key = recipe.training, jax.random.key(SEED)
    mesh, batch = svi._mesh(None, config, len(galaxies))
    optimizer = svi._optimizer(config, len(galaxies))
    programs = programs_of(recipe, plate_size=len(galaxies), training=True)
    inference = SVI(*programs, optimizer, svi._objective(recipe))
    state = svi._initial_state(inference, key, galaxies, averaged=config.ema_decay > 0)
    params = jax.tree.map(np.array, inference.get_params(state.svi))
    batches = batches_from(galaxies, order_of(SEED, len(galaxies), batch), 0, mesh)
    step = svi._compile_step(inference, recipe, len(galaxies), key, mesh)
    now = {"state": place(state, replicated(mesh)), "number": 0}
    began = time.perf_counter()
    lowered = step.lower(now["state"], 0, *next(batches))
    program = lowered.compile()
    compile_s, cpu = time.perf_counter() - began, jax.devices()[0].platform == "cpu"

    def take(steps: int) -> None:
        for _ in range(steps):
            now["state"] = program(now["state"], now["number"], *next(batches))
            now["number"] += 1
            if cpu:
                jax.block_until_ready(now["state"])  # as fit does
        jax.block_until_ready(now["state"])

    memory = program.memory_analysis().temp_size_in_bytes
    # As written: a compiled program's own count leaves out what it hands to a GPU's libraries.
    return Ours(take, params, batch, compile_s, lowered.cost_analysis()["flops"], memory)


def torch_step(
    recipe: Recipe, galaxies: Observation, ours: Ours, *, inductor: bool
) -> tuple[str, Take, dict[str, Any]]:
    """Return the fastest form of the step in PyTorch, by name, and PyTorch's version and threads."""
    try:
        import torch
    except ImportError:
        raise SystemExit(
            'expected PyTorch to compare with, found none: pip install "hiergal[bench]", or give --alone'
        ) from None
    from torch_step import TorchStep, stamps_from

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    forms = {"channels last": {"channels_last": True}, "contiguous": {"channels_last": False}}
    if inductor:
        forms |= {f"{name}, compiled": options | {"compiled": True} for name, options in forms.items()}
    stamps, rng, seconds = stamps_from(galaxies), np.random.default_rng(SEED), {}

    def taking(twin: TorchStep) -> Take:
        numbers = iter(range(10**9))

        def take(steps: int) -> None:
            for _ in range(steps):
                rows = torch.from_numpy(rng.integers(len(galaxies), size=ours.batch))
                twin.step(stamps[rows], next(numbers))

        return take

    best = None
    for name, options in forms.items():
        twin = TorchStep(recipe, len(galaxies), **options)
        twin.copy(ours.params)
        if not options.get("compiled"):
            check_same(recipe, galaxies[:CHECKED], ours.params, twin)
        take = taking(twin)
        take(1)
        seconds[name] = timed(take, TRIED) / TRIED
        typer.echo(f"PyTorch, {name}: {seconds[name]:.3g} s a step", err=True)
        if seconds[name] == min(seconds.values()):
            best = name, take
    return *best, {"torch": torch.__version__, "threads": torch.get_num_threads()}


def check_same(recipe: Recipe, galaxies: Observation, params: dict[str, Any], twin: Any) -> None:
    """Check that networks and twins have the same number of parameters, and give the same numbers.

    Raises:
        ValueError: If they do not.
    """
    import torch

    z = np.random.default_rng(SEED).normal(size=(len(galaxies), recipe.generator.latents)).astype(np.float32)
    level = np.array(galaxies.noise.rms())
    networks = {
        "encoder": (encoder_of(recipe), galaxies, (galaxies.image, galaxies.psf.stamp, level)),
        "generator": (generator_of(recipe), z, (z,)),
    }
    for name, (network, argument, arrays) in networks.items():
        other, weights = getattr(twin, name), params[f"{name}$params"]
        counts = [sum(leaf.size for leaf in leaves) for leaves in (jax.tree.leaves(weights), _numpy(other))]
        if counts[0] != counts[1]:
            raise ValueError(f"{name}: expected {counts[0]} parameters, got {counts[1]} in PyTorch")
        expected = np.asarray(jax.jit(network.apply)({"params": weights}, argument))
        with torch.no_grad():
            found = other.eval()(*(torch.tensor(array) for array in arrays)).numpy()
        other.train()
        off = np.abs(found - expected).max() / np.abs(expected).max()
        if not off < TOLERANCE:
            raise ValueError(f"{name}: expected the same numbers in PyTorch, got them {off:.1e} off")


def timings(takes: dict[str, Take], batch: int, rounds: int, steps: int) -> dict[str, Any]:
    """Time the sides in turns: galaxies a second of each, and the ratio of the first to the second."""
    rates: dict[str, list[float]] = {name: [] for name in takes}
    for _ in range(rounds):
        for name, take in takes.items():
            rates[name].append(batch * steps / timed(take, steps))
    result = {name: spread_of(values) for name, values in rates.items()}
    if len(takes) == 2:
        result["ratio"] = spread_of(a / b for a, b in zip(*rates.values(), strict=True))
    return result | {"batch": batch, "rounds": rounds, "steps": steps}


def timed(take: Take, steps: int) -> float:
    """Measure the time of some steps [s]."""
    began = time.perf_counter()
    take(steps)
    return time.perf_counter() - began


def spread_of(values: Iterable[float]) -> dict[str, Any]:
    """Return median, extremes and all of some values."""
    values = list(values)
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "all": values}


def costs(ours: Ours, recipe: Recipe, device: jax.Device) -> dict[str, Any]:
    """Measure the cost of a step of hiergal: compile time [s], memory [bytes], operations."""
    in_use = (device.memory_stats() or {}) if device.platform != "cpu" else {}
    return {
        "compile_s": ours.compile_s,
        "flops_per_step": ours.flops,
        "buffers_bytes": ours.buffers_bytes,
        "device_bytes": {
            name: in_use[name] for name in ("bytes_in_use", "peak_bytes_in_use") if name in in_use
        },
        "process_peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "threads": len(os.sched_getaffinity(0)),
    }


def efficiency(result: dict[str, Any], recipe: Recipe, peak_tflops: float | None) -> dict[str, Any]:
    """Return operations a second, their part of the device's peak, and the time of the whole recipe."""
    rate = result["hiergal"]["median"]
    tflops = result["flops_per_step"] * rate / result["batch"] / 1e12
    hours = recipe.training.steps * result["batch"] / rate / HOUR
    return {
        "tflops": tflops,
        "of_peak": tflops / peak_tflops if peak_tflops else None,
        "hours_for_recipe": hours,
    }


def device_name(device: jax.Device) -> str:
    """Return the common name of the device."""
    if device.platform != "cpu":
        return device.device_kind
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def markdown(result: dict[str, Any], *, alone: bool) -> str:
    """Return the result as a table of one row; rates are galaxies a second, median (range)."""
    cells = {
        "recipe": result["recipe"],
        "device": result["device"] + ("" if result.get("device_bytes") else f", {result['threads']} threads"),
        "batch": str(result["batch"]),
        "hiergal [galaxies/s]": _ranged(result["hiergal"]),
    }
    if not alone:
        cells["PyTorch [galaxies/s]"] = f"{_ranged(result['pytorch'])}, {result['form']}"
        cells["hiergal / PyTorch"] = _ranged(result["ratio"])
    memory = result["device_bytes"].get("peak_bytes_in_use", result["buffers_bytes"])
    part = "" if result["of_peak"] is None else f" ({result['of_peak']:.1%} of peak)"
    cells |= {
        "compilation [s]": f"{result['compile_s']:.0f}",
        "TFLOP/s": f"{result['tflops']:.3g}{part}",
        "memory [GiB]": f"{memory / GIB:.2g}",
        "whole recipe [h]": f"{result['hours_for_recipe']:.3g}",
    }
    rows = (cells, ["---"] * len(cells), cells.values())
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _ranged(values: dict[str, Any]) -> str:
    return f"{values['median']:.3g} ({values['min']:.3g}–{values['max']:.3g})"


def _numpy(network: Any) -> list[np.ndarray]:
    return [parameter.detach().numpy() for parameter in network.parameters()]


if __name__ == "__main__":
    typer.run(main)
