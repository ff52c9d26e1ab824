"""Effects of weighting the training set: bright galaxies, and the population of the flow.

    python benchmarks/weighting.py --out runs/weighting

Trains the same recipe with and without ``training.flux_sampling_power``, with the same seed, steps and survey, and
compares on galaxies of another seed: the reduced chi-square of the brightest tenth, pairwise, of what is inferred (by
the guide alone, which is what training sees, and sharpened, which hides much of it), and the distributions of magnitude
and half-light radius of galaxies drawn for their conditions against their own. Errors are standard errors by bootstrap
over galaxies.
"""

import argparse
import json
from pathlib import Path

import jax
import msgspec
import numpy as np
from scipy import stats

from hiergal.hub import load_model
from hiergal.measure.profile import summarize_profile
from hiergal.model.trained import GalaxyModel
from hiergal.observation import Observation
from hiergal.posterior.infer import infer
from hiergal.recipe.recipe import Recipe, load_recipe
from hiergal.simulate.profiles import draw_profiles
from hiergal.survey import SurveyStore, open_survey
from hiergal.survey.mock.survey import write_mock_survey
from hiergal.training.fit_prior import fit_prior
from hiergal.training.train_model import train_model

RESAMPLINGS = 1000
METHODS = {"laplace": "sharpened", "amortized": "the guide alone"}


def trained(store: SurveyStore, recipe: Recipe, power: float, out: Path, seed: int) -> GalaxyModel:
    """Train with a weight, or load what an earlier run trained."""
    training = msgspec.structs.replace(recipe.training, flux_sampling_power=power, patience=10_000)
    if not (out / "model").exists():
        train_model(store, msgspec.structs.replace(recipe, training=training), out, seed=seed)
    model = load_model(out / "model")
    return model if model.flow is not None else fit_prior(out / "model", store, seed=seed)[0]


def bright_chi_square(model: GalaxyModel, bright: Observation, method: str, seed: int) -> np.ndarray:
    """Reduced chi-square of the posterior means."""
    return infer(model, bright, key=jax.random.key(seed), method=method, draws=40).chi_square


def population(profiles: np.ndarray, zero_point: float, scale: float) -> dict[str, np.ndarray]:
    """Magnitudes [mag] and half-light radii [arcsec] of noise-free profiles."""
    parts = [summarize_profile(profiles[i : i + 256], scale) for i in range(0, len(profiles), 256)]
    flux = np.concatenate([part.flux for part in parts])
    return {
        "magnitude": zero_point - 2.5 * np.log10(flux),
        "half-light radius": np.concatenate([part.hlr_arcsec for part in parts]),
    }


def bootstrapped(statistic, *samples: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """A statistic of samples that share their galaxies, and its standard error."""
    rng, n = np.random.default_rng(seed), len(samples[0])
    rows = rng.integers(n, size=(RESAMPLINGS, n))
    spread = np.std([statistic(*(sample[row] for sample in samples)) for row in rows])
    return float(statistic(*samples)), float(spread)


def main() -> None:
    """Run it, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/weighting"))
    parser.add_argument("--recipe", type=Path, help="default the small one")
    parser.add_argument(
        "--power", type=float, default=0.5, help="flux_sampling_power of the weighted training"
    )
    parser.add_argument("--galaxies", type=int, default=4000)
    parser.add_argument("--test-galaxies", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    recipe = load_recipe(args.recipe) if args.recipe else Recipe()
    args.out.mkdir(parents=True, exist_ok=True)

    def survey(name: str, galaxies: int, seed: int) -> SurveyStore:
        path = args.out / f"{name}.zarr"
        if not path.exists():
            write_mock_survey(path, galaxies, seed=seed, stamp=recipe.shape[0])
        return open_survey(path)

    store, test = (
        survey("train", args.galaxies, args.seed),
        survey("test", args.test_galaxies, args.seed + 1000),
    )
    models = {
        power: trained(store, recipe, power, args.out / f"power_{power}", args.seed)
        for power in (0.0, args.power)
    }
    bright = np.argsort(test.catalog["mag_auto"])[: len(test) // 10]
    observed = test.read(bright)
    chi = {
        method: {p: bright_chi_square(model, observed, method, args.seed) for p, model in models.items()}
        for method in METHODS
    }
    zero_point, scale = test.header.magnitude_zero_point, recipe.pixel_scale_arcsec
    truth = population(test.truth(), zero_point, scale)
    drawn = {
        power: population(
            draw_profiles(model, test.catalog, key=jax.random.key(args.seed)), zero_point, scale
        )
        for power, model in models.items()
    }

    rows: dict[str, dict] = {}
    for method, name in METHODS.items():
        for power in models:
            row = f"median chi-square of the brightest tenth, {name}, power {power}"
            rows[row] = bootstrapped(np.median, chi[method][power])
        ratio = np.log(chi[method][args.power] / chi[method][0.0])
        rows[f"median of ln(chi-square weighted / unweighted), {name}"] = bootstrapped(np.median, ratio)
        rows[f"mean of ln(chi-square weighted / unweighted), {name}"] = bootstrapped(np.mean, ratio)
        better = bootstrapped(lambda x: float(np.mean(x < 0)), ratio)
        rows[f"share of bright galaxies that fit better, {name}"] = better
    for power in models:
        for name in truth:
            distance = bootstrapped(
                lambda a, b: stats.ks_2samp(a, b).statistic, drawn[power][name], truth[name]
            )
            rows[f"KS distance of {name}, power {power}"] = distance
            shift = bootstrapped(lambda a, b: a.mean() - b.mean(), drawn[power][name], truth[name])
            rows[f"difference of mean {name}, power {power}"] = shift
    print("| quantity | value | standard error |\n|---|---|---|")
    for name, (value, error) in rows.items():
        print(f"| {name} | {value:.4f} | {error:.4f} |")
    (args.out / "weighting.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
