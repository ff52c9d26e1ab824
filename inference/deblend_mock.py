"""Bias and coverage of deblended galaxies, on scenes of overlapping galaxies with known truth.

    python inference/deblend_mock.py runs/quickstart/model runs/quickstart/survey.zarr --out runs/deblend

Puts two, and three, galaxies at separations of one to three half-light radii on a stamp, through PSFs and noise of the
survey, infers all of them together, and reports flux bias and coverage: for galaxies drawn from the model itself, and,
with ``--mock``, for those of a mock survey, which are not the model's. Sources with a signal to noise above 15 count.
Scenes that the fit itself says it has not fitted (misfit above two) are counted, and left out of the rest. Writes
``deblending.json`` and a figure.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from hiergal.cli.study import owned_study
from hiergal.hub import load_model
from hiergal.measure.profile import summarize_profile
from hiergal.model.sources import render_sources
from hiergal.posterior import credible_interval
from hiergal.posterior.scenes.deblend import deblend
from hiergal.reports import figures
from hiergal.runtime.files import write_json
from hiergal.runtime.host_memory import keep_freed_memory
from hiergal.runtime.seeds import key_for
from hiergal.survey import open_survey
from hiergal.survey.split import split_of

NAMES = ("deblending.json", "deblending_2.png", "deblending_3.png")

DRAWN, PLACED, NOISE, INFERRED = range(420, 424)  # purposes of the seed
PROBABILITIES = (0.5, 0.68, 0.9, 0.95)
SEPARATION = (1.0, 3.0)  # half-light radii
LARGEST_MISFIT = 2.0
BRIGHT = 15.0  # signal to noise of a source alone, above which it counts as seen


def places(rng: np.random.Generator, hlr_pix: np.ndarray) -> np.ndarray:
    """Return positions (x, y) of sources about the centre of their scenes, neighbours 1 to 3 half-light radii apart."""
    n, k = hlr_pix.shape
    apart = rng.uniform(*SEPARATION, n) * hlr_pix.mean(axis=1)
    turn = rng.uniform(0, 2 * np.pi, n)[:, None] + 2 * np.pi * np.arange(k) / k
    radius = apart[:, None] / (2 * np.sin(np.pi / k))
    return np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=-1).astype(np.float32)


def main(words: list[str] | None = None) -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="a trained model's folder")
    parser.add_argument("survey", type=Path, help="the store that it was trained on")
    parser.add_argument("--out", type=Path, required=True, help="folder for numbers and figure")
    parser.add_argument("--scenes", type=int, default=200, help="for each number of sources")
    parser.add_argument("--mock", action="store_true", help="galaxies of the mock survey, not of the model")
    parser.add_argument("--method", choices=("curved", "laplace"), default="curved")
    parser.add_argument("--draws", type=int, default=100, help="posterior draws of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace another study of this kind in that folder"
    )
    args = parser.parse_args(words)
    keep_freed_memory()
    with owned_study(args, "deblending", NAMES) as own:
        if not own.finished:
            study(args)
            own.done()


def study(args: argparse.Namespace) -> None:
    """Do it, and write it."""
    model = load_model(args.model)
    store = open_survey(args.survey).in_photometry(model.provenance.photometry)
    unseen, scale = split_of(store, model.recipe).test, model.recipe.pixel_scale_arcsec
    results, n = {"scenes": args.scenes, "mock": args.mock, "method": args.method}, args.scenes
    for k in (2, 3):
        rng = np.random.default_rng([args.seed, PLACED, k])
        like = store.read(np.resize(unseen, n)).replace(identifier=np.arange(n))
        if args.mock:
            profile = jnp.asarray(store.truth(rng.choice(unseen, n * k)), jnp.float32)
        else:
            key = jax.random.fold_in(key_for(args.seed, DRAWN), k)
            u = jax.random.normal(key, (n * k, model.recipe.generator.latents))
            profile = model.decode(model.latent_flow().expand((n * k,)).from_base(u))
        true = summarize_profile(profile.reshape(n, k, *profile.shape[1:]), scale)
        true = jax.tree.map(np.asarray, true)
        positions = places(rng, true.hlr_arcsec / scale)
        psf = like.psf.replace(profile_fwhm_arcsec=model.recipe.profile_fwhm_arcsec)
        alone = render_sources(profile.reshape(n, k, *profile.shape[1:]), positions, psf, model.recipe.shape)
        noise = np.asarray(like.noise.sample(key_for(args.seed, NOISE + k), alone[:, 0].shape))
        scenes = like.replace(image=np.asarray(alone.sum(axis=1)) + noise, mask=None)
        key = key_for(args.seed, INFERRED)
        found = deblend(
            model, scenes, positions, key=key, method=args.method, draws=args.draws, progress=True
        )
        level = np.asarray(like.noise.rms())[:, None]
        fitted = found.misfit < LARGEST_MISFIT
        seen = (np.sqrt((np.asarray(alone) ** 2).sum((2, 3))) / level > BRIGHT) & fitted[:, None]
        off = (found.summary.flux.mean(axis=0) - true.flux) / true.flux
        error = np.std(off[seen]) / np.sqrt(seen.sum())
        table = {
            "not_fitted": int((~fitted).sum()),
            "sources": int(seen.sum()),
            "flux_bias": float(off[seen].mean()),
            "flux_bias_error": float(error),
            "flux_bias_median": float(np.median(off[seen])),
            "flux_bias_total": float(
                (found.summary.flux.mean(axis=0) - true.flux)[seen].sum() / true.flux[seen].sum()
            ),
            "chi_square_median": float(np.median(found.chi_square)),
        }
        for name in ("flux", "hlr_arcsec", "g1", "g2"):
            for probability in PROBABILITIES:
                low, high = credible_interval(getattr(found.summary, name), probability)
                truth = getattr(true, name)
                table[f"{name}_{probability:.2f}"] = float(np.mean(((low <= truth) & (truth <= high))[seen]))
        results[f"{k} sources"] = table
        print(f"{k} sources:", {name: round(value, 4) for name, value in table.items()}, flush=True)
        figure = figures.deblended_scenes(scenes, found, np.asarray(alone), rows=4)
        figure.savefig(args.out / f"deblending_{k}.png", dpi=150)
    write_json(args.out / "deblending.json", results)


if __name__ == "__main__":
    main()
