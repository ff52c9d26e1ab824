"""A whole study of a survey: train, fit the flow, infer galaxies that nothing was chosen by, draw new ones.

    python inference/train_survey.py survey.zarr --recipe lanusse2020 --out runs/study
    srun python inference/train_survey.py survey.zarr --out runs/study --distributed      # see inference/study.slurm

Every step keeps what it has finished: the same command after an interruption goes on. With ``--distributed`` all
processes of the job train together, and the first one does the rest.
"""

import argparse
from pathlib import Path

import msgspec
import numpy as np

from hiergal.runtime.devices import is_first_process, join_processes
from hiergal.runtime.host_memory import keep_freed_memory


def main(words: list[str] | None = None) -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("survey", type=Path, help="a store written by `hiergal survey`")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study")
    parser.add_argument("--recipe", help="name of a recipe, or a TOML file; default small")
    parser.add_argument("--steps", type=int, help="other than the recipe's number of steps")
    parser.add_argument("--infer", type=int, default=100, help="test galaxies to infer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--distributed", action="store_true", help="join the processes of a job")
    args = parser.parse_args(words)
    keep_freed_memory()
    if args.distributed:
        join_processes()  # before anything else of JAX

    from hiergal.posterior.stages import infer_to_arviz
    from hiergal.recipe.recipe import Recipe, load_recipe
    from hiergal.simulate.catalog import sample_catalog
    from hiergal.survey import open_survey
    from hiergal.survey.split import split_of
    from hiergal.training.fit_prior import fit_prior
    from hiergal.training.train_model import train_model

    recipe = load_recipe(args.recipe) if args.recipe else Recipe()
    if args.steps:
        training = msgspec.structs.replace(recipe.training, steps=args.steps)
        recipe = msgspec.structs.replace(recipe, training=training)
    store, first = open_survey(args.survey), is_first_process()
    train_model(store, recipe, args.out, seed=args.seed)
    if not first:
        return

    model, _ = fit_prior(args.out / "model", store, seed=args.seed)
    rows = split_of(store, model.recipe).test[: args.infer]
    _, posterior = infer_to_arviz(
        model, store, args.out / "posterior.nc", seed=args.seed, rows=rows, overwrite=True
    )
    catalog = {name: column[rows] for name, column in store.catalog.items()}
    sample_catalog(
        args.out / "model",
        catalog,
        args.out / "galaxies.fits",
        seed=args.seed,
        outside="ignore",  # the survey's own galaxies
        overwrite=True,
    )
    print(
        f"{args.out}: median reduced chi-square of {len(rows)} test galaxies", np.median(posterior.chi_square)
    )


if __name__ == "__main__":
    main()
