"""Coverage of posteriors of unseen galaxies, and errors of their images next to those of deconvolution.

    python inference/recover_mock.py runs/quickstart/model runs/quickstart/survey.zarr --out runs/recover

A mock survey knows its true profiles, and its galaxies are not the model's: a mismatch that calibration on simulations
of the model itself cannot see. Infers unseen galaxies and reports

- coverage of flux, size, ellipticity, and of pixels of the image deconvolved to half of the survey's PSF width, for all
  galaxies and by signal to noise and size;
- errors of that image, next to those of Richardson-Lucy and Wiener deconvolution (scikit-image), whose parameters are
  tuned on training galaxies;
- coverage of pixels hidden behind a mask (a random fifth, and a block of 10 x 10) of some of these galaxies, and of as
  many that the model itself drew.

Writes ``recovery.json``.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import galsim
import jax
import jax.numpy as jnp
import numpy as np

from hiergal.cli.study import owned_study
from hiergal.hub import load_model
from hiergal.measure.profile import summarize_profile
from hiergal.model.trained import GalaxyModel
from hiergal.observation import Observation
from hiergal.observation.independent import WhiteNoise
from hiergal.observation.psf import PSF, convolve, gaussian_psf
from hiergal.posterior import METHODS, credible_interval
from hiergal.posterior.images import posterior_images
from hiergal.posterior.infer import infer
from hiergal.posterior.samplers.posterior_flow import simulate
from hiergal.runtime.files import write_json
from hiergal.runtime.host_memory import keep_freed_memory
from hiergal.runtime.seeds import key_for
from hiergal.survey import open_survey
from hiergal.survey.split import split_of

NAMES = ("recovery.json",)

PROBABILITIES = (0.5, 0.68, 0.9, 0.95)
QUANTITIES = ("flux", "hlr_arcsec", "g1", "g2")
INFERRED, HIDDEN, RENEWED, SIMULATED = range(410, 414)  # purposes of the seed
MASKED = 128  # galaxies, at most
BLOCK_PIX = 10
ITERATIONS = (1, 2, 3, 5, 8, 12, 20, 35, 60)  # of Richardson-Lucy
BALANCES = tuple(10.0**power for power in np.arange(-4, 4.1, 0.5))  # of Wiener's filter


def half_width(psf: PSF) -> PSF:
    """Return a round Gaussian with half the median width of a survey's PSFs."""
    scale = psf.pixel_scale_arcsec
    widths = [galsim.Image(np.asarray(s, float), scale=scale).calculateFWHM() for s in psf.stamp[:50]]
    return gaussian_psf(max(1.5 * scale, float(np.median(widths)) / 2), scale)


def inside(draws: np.ndarray, truth: np.ndarray) -> dict[float, np.ndarray]:
    """Find the truths inside central intervals of each probability."""
    edges = {p: credible_interval(draws, p) for p in PROBABILITIES}
    return {p: (low <= truth) & (truth <= high) for p, (low, high) in edges.items()}


def share(flags: dict[float, np.ndarray], rows=slice(None)) -> dict[str, dict[str, float]]:
    """Return coverage with its error: galaxies are independent, their pixels are not."""
    table = {}
    for probability, flag in flags.items():
        each = np.asarray(flag, float)[rows]
        table[f"{probability:.2f}"] = {
            "fraction": float(np.nanmean(each)),
            "error": float(np.nanstd(each) / np.sqrt(max(1, np.isfinite(each).sum()))),
        }
    return table


def per_galaxy(flags: dict[float, np.ndarray], pixels: np.ndarray) -> dict[float, np.ndarray]:
    """Return the coverage of each galaxy's pixels, NaN where it has none."""
    count = pixels.sum((1, 2))
    return {
        p: np.where(count > 0, (flag & pixels).sum((1, 2)) / np.maximum(count, 1), np.nan)
        for p, flag in flags.items()
    }


def by_bins(flags: dict[float, np.ndarray], values: dict[str, np.ndarray]) -> dict:
    """Return the 68 % coverage in thirds of each of some properties."""
    table = {}
    for name, value in values.items():
        edges = np.quantile(value, [0, 1 / 3, 2 / 3, 1])
        place = np.clip(np.searchsorted(edges, value, side="right") - 1, 0, 2)
        table[name] = {
            f"{edges[i]:.3g} to {edges[i + 1]:.3g}": share({0.68: flags[0.68]}, place == i)["0.68"]
            for i in range(3)
        }
    return table


def deconvolved(observation: Observation, target: PSF, method: Callable, parameter: float) -> np.ndarray:
    """Deconvolve each stamp with its own PSF by scikit-image, and convolve with the target PSF."""
    psfs = np.asarray(observation.psf.stamp, float)
    ny, nx = observation.image.shape[1:]
    cy, cx = (max(0, -(-(p - s) // 2)) for p, s in zip(psfs.shape[1:], (ny, nx), strict=True))
    psfs = psfs[
        :, cy : psfs.shape[1] - cy, cx : psfs.shape[2] - cx
    ]  # scikit-image wants them no larger than images
    sharp = [method(i, p, parameter) for i, p in zip(np.asarray(observation.image, float), psfs, strict=True)]
    return np.asarray(convolve(jnp.asarray(np.stack(sharp), jnp.float32), target))


def richardson_lucy(image: np.ndarray, psf: np.ndarray, iterations: float) -> np.ndarray:
    """Deconvolve one stamp; it works on what is positive, so negative pixels count as zero."""
    from skimage.restoration import richardson_lucy

    scale = image.max()
    return scale * richardson_lucy(np.maximum(image / scale, 1e-6), psf, int(iterations), clip=False)


def wiener(image: np.ndarray, psf: np.ndarray, balance: float) -> np.ndarray:
    """Deconvolve one stamp."""
    from skimage.restoration import wiener

    return wiener(image, psf, balance, clip=False)


def errors(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the root-mean-square error of each image [flux per pixel]."""
    return np.sqrt(((image - truth) ** 2).mean((1, 2)))


def pooled(errors_of_each: np.ndarray, level: np.ndarray) -> float:
    """Return the root-mean-square error over all pixels of all galaxies, in units of each one's noise."""
    return float(np.sqrt(((errors_of_each / level) ** 2).mean()))


def tuned(observation: Observation, truth: np.ndarray, target: PSF, level: np.ndarray) -> dict[str, tuple]:
    """Choose the parameter of each rival that has the smallest error on training galaxies."""
    rivals = {"Richardson-Lucy": (richardson_lucy, ITERATIONS), "Wiener": (wiener, BALANCES)}
    best = {}
    for name, (method, parameters) in rivals.items():
        found = [
            pooled(errors(deconvolved(observation, target, method, p), truth), level) for p in parameters
        ]
        best[name] = (method, parameters[int(np.argmin(found))])
    return best


def hidden(model: GalaxyModel, observation: Observation, clean: np.ndarray, args) -> dict:
    """Return the coverage of pixels behind masks, noise-free and with their noise.

    Stamps get white noise of the same level, so that hidden noise does not follow from that next to it.
    """
    n, ny, nx = clean.shape
    noise = WhiteNoise(np.asarray(observation.noise.rms(), np.float32))
    image = clean + np.asarray(noise.sample(key_for(args.seed, RENEWED), clean.shape))
    rng = np.random.default_rng([args.seed, HIDDEN])
    block = np.zeros((n, ny, nx), bool)
    block[:, (ny - BLOCK_PIX) // 2 :, (nx - BLOCK_PIX) // 2 :] = True
    block[:, (ny + BLOCK_PIX) // 2 :], block[:, :, (nx + BLOCK_PIX) // 2 :] = False, False
    masks = {"a random fifth": rng.random((n, ny, nx)) < 0.2, "the central block": block}
    table = {}
    for name, mask in masks.items():
        seen = observation.replace(image=np.where(mask, np.nan, image), noise=noise, mask=mask)
        posterior = infer(
            model,
            seen,
            key=key_for(args.seed, INFERRED),
            method=args.method,
            draws=args.draws,
            progress=True,
        )
        images = posterior_images(model, posterior, psf=observation.psf)
        # Where there is no light to speak of, intervals are about nothing.
        bright = mask & (clean > 0.5 * np.asarray(noise.sigma)[:, None, None])
        noisy = images + np.asarray(noise.sigma)[:, None, None] * rng.normal(size=images.shape)
        table[name] = {
            "noise-free, where brighter than half the noise": share(
                per_galaxy(inside(images, clean), bright)
            ),
            "with noise": share(per_galaxy(inside(noisy, image), mask)),
            "reduced misfit, median": float(np.median(posterior.misfit)),
        }
    return table


def main(words: list[str] | None = None) -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="a trained model's folder")
    parser.add_argument("survey", type=Path, help="the mock survey's store that it was trained on")
    parser.add_argument("--out", type=Path, required=True, help="folder for numbers")
    parser.add_argument("--method", choices=METHODS, default="auto")
    parser.add_argument("--galaxies", type=int, default=400, help="unseen galaxies")
    parser.add_argument(
        "--tuning", type=int, default=100, help="training galaxies for the rivals' parameters"
    )
    parser.add_argument("--draws", type=int, default=199, help="posterior draws of each")
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
    with owned_study(args, "recovery", NAMES) as own:
        if not own.finished:
            study(args)
            own.done()


def study(args: argparse.Namespace) -> None:
    """Do it, and write it."""
    model = load_model(args.model)
    store = open_survey(args.survey).in_photometry(model.provenance.photometry)
    split = split_of(store, model.recipe)
    rows, scale = split.test[: args.galaxies], model.recipe.pixel_scale_arcsec
    observation, truth = store.read(rows), np.asarray(store.truth(rows), np.float32)
    posterior = infer(
        model,
        observation,
        key=key_for(args.seed, INFERRED),
        method=args.method,
        draws=args.draws,
        progress=True,
    )

    true = jax.tree.map(np.asarray, summarize_profile(truth, scale))
    clean = np.asarray(convolve(jnp.asarray(truth), observation.psf))
    level = np.asarray(observation.noise.rms())
    properties = {
        "signal to noise": np.sqrt((clean**2).sum((1, 2))) / level,
        "half-light radius [arcsec]": true.hlr_arcsec,
        "misfit": posterior.misfit,
    }
    results: dict = {"method": args.method, "galaxies": len(rows), "coverage": {}}
    for name in QUANTITIES:
        flags = inside(getattr(posterior.summary, name), getattr(true, name))
        results["coverage"][name] = {"all": share(flags), "by thirds": by_bins(flags, properties)}

    target = half_width(observation.psf)
    images = posterior_images(model, posterior, psf=target)
    sharp = np.asarray(convolve(jnp.asarray(truth), target))
    radius = np.hypot(
        *(np.mgrid[: sharp.shape[1], : sharp.shape[2]] - np.reshape(sharp.shape[1:], (2, 1, 1)) / 2)
    )
    near = radius[None] < (2 * true.hlr_arcsec / scale)[:, None, None]  # within two half-light radii
    flags = per_galaxy(inside(images, sharp), near)
    results["coverage"]["deconvolved pixels"] = {"all": share(flags), "by thirds": by_bins(flags, properties)}

    training = split.train[: args.tuning]
    known = store.read(training)
    known_sharp = np.asarray(convolve(jnp.asarray(store.truth(training), jnp.float32), target))
    rivals = tuned(known, known_sharp, target, np.asarray(known.noise.rms()))
    found = {"hiergal": images.mean(axis=0)}
    found |= {name: deconvolved(observation, target, *rival) for name, rival in rivals.items()}
    wrong = {name: errors(image, sharp) for name, image in found.items()}
    results["deconvolution"] = {
        "target_fwhm_arcsec": float(
            galsim.Image(np.asarray(target.stamp[0], float), scale=scale).calculateFWHM()
        ),
        "parameters": {name: float(parameter) for name, (_, parameter) in rivals.items()},
        "rms_error_over_noise": {name: pooled(each, level) for name, each in wrong.items()},
        "ratio_to": {name: pooled(wrong["hiergal"], level) / pooled(wrong[name], level) for name in rivals},
        "median_ratio_to": {name: float(np.median(wrong["hiergal"] / wrong[name])) for name in rivals},
    }
    few = observation[:MASKED]
    own = jax.jit(simulate)(
        model, few, model.latent_flow().expand((len(few),)), key=key_for(args.seed, SIMULATED)
    )
    results["hidden pixels"] = {
        "mock galaxies": hidden(model, few, clean[:MASKED], args),
        "galaxies of the model": hidden(
            model, few, np.asarray(model.render(model.decode(own.latents), few.psf)), args
        ),
    }
    used = {name: int((posterior.method == i).sum()) for i, name in enumerate(METHODS)}
    results["used"] = {name: count for name, count in used.items() if count}
    write_json(args.out / "recovery.json", results)
    for name, table in results["coverage"].items():
        print(
            name,
            {p: f"{100 * v['fraction']:.1f} +- {100 * v['error']:.1f} %" for p, v in table["all"].items()},
        )
    for name in ("deconvolution", "hidden pixels"):
        print(name, results[name])


if __name__ == "__main__":
    main()
