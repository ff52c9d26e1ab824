"""Structure below the resolution of the training survey: the open test of Lanusse et al. (2020, Sec. 6).

    python inference/beyond_resolution.py survey.zarr --recipe standard --out runs/resolution

Blurs a mock survey, trains one recipe on it and on the sharp original, draws galaxies from both models for the
conditions of galaxies that neither has seen, and compares the power of their profiles with the truth: beyond the band
limit of the blurred survey, where only the sharp one's model can have learned anything, and beyond that of the sharp
one. Writes ``resolution.json`` and a figure, and keeps what it has finished: the same command after an interruption
goes on.
"""

import argparse
import json
from pathlib import Path

import msgspec
import numpy as np

from hiergal.cli.study import owned_study
from hiergal.hub import load_model
from hiergal.measure.power_spectrum import band_limit, mean_spectrum
from hiergal.model.trained import GalaxyModel
from hiergal.recipe.recipe import Recipe, load_recipe
from hiergal.reports import figures
from hiergal.runtime.host_memory import keep_freed_memory
from hiergal.runtime.seeds import key_for
from hiergal.simulate.profiles import draw_profiles
from hiergal.survey import SurveyStore, open_survey
from hiergal.survey.degrade import degrade_survey
from hiergal.survey.split import split_of
from hiergal.training.fit_prior import fit_prior
from hiergal.training.train_model import train_model
from hiergal.validation.spectra import beyond_band_test

NAMES = ("resolution.json", "resolution.png", "resolution.pdf")

DRAWN = 300  # purpose of a seed


def trained(store: SurveyStore, recipe: Recipe, folder: Path, seed: int, *, overwrite: bool) -> GalaxyModel:
    """Train a model and its flow, or load what an earlier run has finished."""
    if overwrite or not (folder / "model").exists():
        train_model(store, recipe, folder, seed=seed, overwrite=overwrite)
    model = load_model(folder / "model")
    return model if model.flow is not None else fit_prior(folder / "model", store, seed=seed)[0]


def main(words: list[str] | None = None) -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("survey", type=Path, help="a store of a mock survey, which knows the truth")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study")
    parser.add_argument("--recipe", help="name of a recipe, or a TOML file; default small")
    parser.add_argument("--steps", type=int, help="other than the recipe's number of steps")
    parser.add_argument(
        "--fwhm-arcsec", type=float, default=0.15, help="of the Gaussian that blurs the survey"
    )
    parser.add_argument("--galaxies", type=int, default=2000, help="unseen galaxies to compare with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace another study of this kind in that folder"
    )
    args = parser.parse_args(words)
    keep_freed_memory()
    if not open_survey(args.survey).has_truth:
        parser.error(
            f"{args.survey}: expected a survey with true profiles, as `hiergal survey mock` writes it"
        )
    with owned_study(args, "resolution", NAMES) as own:
        if not own.finished:
            study(args)
            own.done()


def study(args: argparse.Namespace) -> None:
    """Do it, and write it."""
    recipe = load_recipe(args.recipe) if args.recipe else Recipe()
    if args.steps:
        training = msgspec.structs.replace(recipe.training, steps=args.steps)
        recipe = msgspec.structs.replace(recipe, training=training)
    sharp = open_survey(args.survey)
    path = args.out / "blurred.zarr"
    how = {"fwhm_arcsec": args.fwhm_arcsec, "seed": args.seed, "overwrite": args.overwrite, "progress": True}
    surveys = {"sharp": sharp, "blurred": degrade_survey(args.survey, path, **how)}

    rows = split_of(sharp, recipe).test[: args.galaxies]
    catalog = {name: column[rows] for name, column in sharp.catalog.items()}
    limits = {name: band_limit(store.read(rows).psf) for name, store in surveys.items()}
    truth, key = sharp.truth(rows), key_for(args.seed, DRAWN)
    scale = recipe.pixel_scale_arcsec
    spectra, results = {"truth": mean_spectrum(truth, pixel_scale_arcsec=scale)}, {"limits": limits}
    for name, store in surveys.items():
        model = trained(store, recipe, args.out / name, args.seed, overwrite=args.overwrite)
        profiles = np.asarray(draw_profiles(model, catalog, key=key))
        spectra[f"trained on the {name} survey"] = mean_spectrum(profiles, pixel_scale_arcsec=scale)
        for where, limit in limits.items():
            verdict = beyond_band_test(truth, profiles, limit, pixel_scale_arcsec=scale, seed=args.seed)
            results[f"model of the {name} survey, beyond the limit of the {where} one"] = {
                "dex": verdict.statistic,
                "error": verdict.error,
                "p_value": verdict.p_value,
            }
            print(f"model of the {name} survey: {verdict.words}")
    (args.out / "resolution.json").write_text(json.dumps(results, indent=1))
    figure = figures.power_spectra(
        spectra,
        ylabel="mean power of profiles, over flux squared",
        title="What does a model make of what its survey cannot resolve?",
    )
    panel = figure.axes[0]
    for (name, limit), line in zip(limits.items(), ("--", ":"), strict=True):
        panel.axvline(limit, color="0.5", linestyle=line, label=f"band limit of the {name} survey")
    panel.legend(frameon=False, fontsize=8)
    for suffix in ("png", "pdf"):
        figure.savefig(args.out / f"resolution.{suffix}", dpi=200)


if __name__ == "__main__":
    main()
