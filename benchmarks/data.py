"""Speed of batches from disk, next to the rate of a training step, and memory of training from disk.

    python benchmarks/data.py survey.zarr [--recipe RECIPE.toml] [--steps 30]

First reading alone, in a shuffled order, from files that the page cache holds if it can: by zarr, one batch after the
other, and by the loader of training (tensorstore, some batches ahead); then ``hiergal.fit`` from the same store. Memory
is the largest resident set of this process, galaxies of the page cache not counted, before and after.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import jax
import msgspec
import numpy as np
import zarr

from hiergal.recipe.recipe import Recipe, load_recipe
from hiergal.runtime.devices import galaxy_mesh
from hiergal.survey import SurveyStore, open_survey
from hiergal.survey.split import split_of
from hiergal.training.batches import batches_from, order_of
from hiergal.training.history import read_history
from hiergal.training.svi import fit
from hiergal.training.train_model import measure_flux_scale

GIB = 2**30


def resident_gib() -> float:
    """Largest resident set of this process so far [GiB]."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB


def loader_rate(store: SurveyStore, rows: np.ndarray, batch: int, batches: int) -> float:
    """Galaxies a second that reach the devices, shuffled."""
    feed = batches_from(store.subset(rows), order_of(0, len(rows), batch), 0, galaxy_mesh())
    jax.block_until_ready(next(feed))
    began = time.perf_counter()
    for _ in range(batches):
        jax.block_until_ready(next(feed))
    return batch * batches / (time.perf_counter() - began)


def zarr_rate(store: SurveyStore, rows: np.ndarray, batch: int, batches: int) -> float:
    """The same read by zarr, images, PSFs and noise, one batch after the other."""
    root, rng = zarr.open_group(store.path, mode="r"), np.random.default_rng(0)
    began = time.perf_counter()
    for _ in range(batches):
        chosen = np.sort(rng.choice(rows, batch, replace=False))
        for name in ("image", "psf", "noise"):
            root[name].oindex[chosen]
    return batch * batches / (time.perf_counter() - began)


def main() -> None:
    """Run it, and print a row of a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--recipe", type=Path, help="default the small one, at the store's size of stamps")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    store = open_survey(args.store)
    recipe = load_recipe(args.recipe) if args.recipe else Recipe(name="small", shape=store.shape)
    training = msgspec.structs.replace(
        recipe.training, steps=args.steps, evaluate_every=max(1, args.steps // 3)
    )
    recipe = msgspec.structs.replace(recipe, training=training)
    split, batch = split_of(store, recipe), recipe.training.batch
    size_gib = sum(len(file.read_bytes()) for file in store.path.rglob("*") if file.is_file()) / GIB
    result = {"recipe": recipe.name, "galaxies": len(store), "store [GiB]": size_gib}
    result["zarr [galaxies/s]"] = zarr_rate(store, split.train, batch, args.batches // 6)
    result["loader [galaxies/s]"] = loader_rate(store, split.train, batch, args.batches)
    result["resident before training [GiB]"] = resident_gib()
    train, validation = store.subset(split.train), store.subset(split.validation[:256])
    recipe = measure_flux_scale(recipe, train[np.arange(256)])
    with tempfile.TemporaryDirectory() as folder:
        fit(jax.random.key(0), recipe, train, validation, folder=folder)
        times = [(row.step, row.seconds) for row in read_history(folder)]
    # Without the first third, which compiles.
    (first, began), (last, ended) = times[0], times[-1]
    result["step [galaxies/s]"] = batch * (last - first) / (ended - began)
    result["loader / step"] = result["loader [galaxies/s]"] / result["step [galaxies/s]"]
    result["resident in training [GiB]"] = resident_gib()
    print(f"| {' | '.join(result)} |\n|{'---|' * len(result)}")
    print("| " + " | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in result.values()) + " |")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
