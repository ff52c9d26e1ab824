"""Do the posteriors of a trained model hold the truth as often as they say? Simulation-based calibration.

    python inference/calibrate_posteriors.py runs/quickstart/model runs/quickstart/survey.zarr --method flow \
--out runs/calibration

Draws galaxies from the model's own prior, observes them with PSFs and noise of the survey's galaxies, infers their
posteriors, and tests ranks, coverage and z-scores of every latent, flux, size and ellipticity, and the coverage of
these four together (``hiergal.validation.calibration.checks``). Simulations depend on the seed alone, so that methods
are compared on the same galaxies. Writes ``calibration.json`` with each verdict, and three figures.
"""

import argparse
import sys
from pathlib import Path

import jax
import numpy as np

from hiergal.cli.study import owned_study
from hiergal.hub import load_model
from hiergal.measure.profile import summarize_profile
from hiergal.model.trained import GalaxyModel
from hiergal.posterior import METHODS, Posterior, interval
from hiergal.posterior.infer import infer
from hiergal.posterior.samplers.importance import LARGEST_K_HAT
from hiergal.posterior.samplers.posterior_flow import simulate
from hiergal.reports import figures
from hiergal.runtime.files import write_json
from hiergal.runtime.host_memory import keep_freed_memory
from hiergal.runtime.seeds import key_for
from hiergal.survey import SurveyStore, open_survey
from hiergal.survey.split import split_of
from hiergal.validation.calibration.checks import (
    PROBABILITIES,
    calibration_tests,
    sbc_ranks,
    tarp_coverage,
    z_scores_and_contraction,
)

NAMES = (
    "calibration.json",
    *(f"{name}.{kind}" for name in ("ranks", "coverage", "z_scores") for kind in ("png", "pdf")),
)

SIMULATED, INFERRED = 400, 401  # purposes of the seed
QUANTITIES = ("flux", "hlr_arcsec", "g1", "g2")


def simulated(model: GalaxyModel, store: SurveyStore, galaxies: int, seed: int):
    """Return galaxies of the model, observed like galaxies of the survey that it has not seen, and their truth."""
    unseen = split_of(store, model.recipe).test
    like = store.read(np.resize(unseen, galaxies)).replace(identifier=np.arange(galaxies))
    known = jax.jit(simulate)(
        model, like, model.latent_flow().expand((galaxies,)), key=key_for(seed, SIMULATED)
    )
    latents = np.asarray(known.latents)
    blocks = [model.decode(jax.numpy.asarray(latents[i : i + 200])) for i in range(0, galaxies, 200)]
    parts = [summarize_profile(profile, model.recipe.pixel_scale_arcsec) for profile in blocks]
    truth = {name: np.concatenate([np.asarray(getattr(part, name)) for part in parts]) for name in QUANTITIES}
    truth |= {f"z{i}": latents[:, i] for i in range(latents.shape[1])}
    return jax.tree.map(np.asarray, known.observation), truth


def drawn(posterior: Posterior) -> dict[str, np.ndarray]:
    """Return the draws of all quantities by name, [s, n]."""
    latents = np.asarray(posterior.latents)
    draws = {name: np.asarray(getattr(posterior.summary, name)) for name in QUANTITIES}
    return draws | {f"z{i}": latents[..., i] for i in range(latents.shape[-1])}


def coverages(draws: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Return how many truths lie in central intervals of each probability."""

    def share(name: str, probability: float) -> float:
        low, high = interval(draws[name], probability)
        return float(np.mean((low <= truth[name]) & (truth[name] <= high)))

    return {name: {f"{p:.2f}": share(name, p) for p in PROBABILITIES} for name in draws}


def main(words: list[str] | None = None) -> None:
    """Run the study; the exit status is 1 if a test fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="a trained model's folder")
    parser.add_argument("survey", type=Path, help="the store that it was trained on")
    parser.add_argument("--out", type=Path, required=True, help="folder for numbers and figures")
    parser.add_argument("--method", choices=METHODS, default="flow")
    parser.add_argument("--galaxies", type=int, default=2000, help="how many to simulate")
    parser.add_argument("--draws", type=int, default=199, help="posterior draws of each")
    parser.add_argument("--batch", type=int, default=32, help="galaxies in one call of the compiled program")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace another study of this kind in that folder"
    )
    args = parser.parse_args(words)
    keep_freed_memory()
    with owned_study(args, "calibration", NAMES) as own:
        if not own.finished:
            own.done(passed=study(args))
    sys.exit(0 if own.results["passed"] else 1)


def study(args: argparse.Namespace) -> bool:
    """Do it, write it, and tell whether all tests passed."""
    model = load_model(args.model)
    survey = open_survey(args.survey).in_photometry(model.provenance.photometry)
    observation, truth = simulated(model, survey, args.galaxies, args.seed)
    posterior = infer(
        model,
        observation,
        key=key_for(args.seed, INFERRED),
        method=args.method,
        draws=args.draws,
        batch=args.batch,
        progress=True,
    )
    draws = drawn(posterior)
    verdicts = calibration_tests(draws, truth, joint=QUANTITIES, seed=args.seed)
    for verdict in verdicts:
        print(f"{'passed' if verdict.passed else 'FAILED'}, p = {verdict.p_value:.3g}: {verdict.words}")

    shares = {"joint: " + ", ".join(QUANTITIES): _joint(draws, truth, QUANTITIES, args.seed)}
    latents = [name for name in truth if name not in QUANTITIES]
    shares[f"joint: {len(latents)} latents"] = _joint(draws, truth, latents, args.seed)
    found = posterior.statistics
    used = {name: int((posterior.method == i).sum()) for i, name in enumerate(METHODS)}
    numbers = {
        "method": args.method,
        "galaxies": args.galaxies,
        "draws": args.draws,
        "seed": args.seed,
        "passed": all(verdict.passed for verdict in verdicts),
        "used": {name: count for name, count in used.items() if count},
        "k_hat_below_0.7": float(np.mean(found["k_hat"] < LARGEST_K_HAT)),
        "ess_median": float(np.median(found["ess"])),
        "r_hat_largest": float(np.nanmax(found["r_hat"], initial=-np.inf)),
        "coverage": coverages(draws, truth),
        "joint_coverage": {
            name: {f"{p:.2f}": float(np.mean(share <= p)) for p in PROBABILITIES}
            for name, share in shares.items()
        },
        "verdicts": [verdict._asdict() for verdict in verdicts],
    }
    write_json(args.out / "calibration.json", numbers)
    title = f"{args.method}, {args.galaxies} galaxies of the model itself"
    ranks = {name: sbc_ranks(draws[name], truth[name]) for name in draws}
    flux, true = np.log(draws["flux"]), np.log(truth["flux"])
    scores = z_scores_and_contraction(flux, true, float(true.var()))
    pictures = {
        "ranks": figures.rank_histograms(ranks, args.draws, title=title),
        "coverage": figures.expected_coverage(shares, title=title),
        "z_scores": figures.z_scores(*scores, quantity="logarithm of the flux", title=title),
    }
    for name, figure in pictures.items():
        for suffix in ("png", "pdf"):
            figure.savefig(args.out / f"{name}.{suffix}", dpi=150)
    print(f"{args.out}: {sum(v.passed for v in verdicts)} of {len(verdicts)} tests passed")
    return numbers["passed"]


def _joint(draws: dict, truth: dict, names, seed: int) -> np.ndarray:
    together = [np.stack([kind[name] for name in names], axis=-1) for kind in (draws, truth)]
    return tarp_coverage(*together, seed=seed)


if __name__ == "__main__":
    main()
