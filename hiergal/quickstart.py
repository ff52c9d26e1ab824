"""The whole path on one page: survey, training, flow, posteriors, new galaxies, numbers, report.

Everything lies in one folder. What a stage has finished is not done again by a later run with the same recipe, seed
and size; a run with others is refused, unless it is to replace that one. The numbers are measured on galaxies that
neither the fit nor any choice has seen.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import msgspec
import numpy as np
from astropy.table import Table

from hiergal import __version__
from hiergal.history import read_history
from hiergal.hub import GalaxyModel
from hiergal.morphology import summarize_profile
from hiergal.observation import Observation
from hiergal.posterior import Posterior, interval
from hiergal.posterior_stages import infer_stage
from hiergal.psf import gaussian_transfer
from hiergal.recipe import Recipe
from hiergal.records import brief
from hiergal.report import verdict_lines
from hiergal.runtime.files import write_json
from hiergal.runtime.folder import owned_folder
from hiergal.runtime.seeds import check_seed, key_for
from hiergal.simulate import draw_profiles
from hiergal.stages import TRAINING, fit_flow_stage, split_of, train_stage, write_mock_survey
from hiergal.survey import Store
from hiergal.validation.moments import measure_moments

__all__ = ["coverage", "drawn_metrics", "posterior_metrics", "run_quickstart"]

PROBABILITIES = (0.5, 0.68, 0.9, 0.95)
QUANTITIES = ("flux", "hlr_arcsec", "g1", "g2")
DRAWN, NOISE = 100, 101  # purposes of the seed beyond those of the stages
DRAWS = 100
DRAWS_PER_ROW = 3
FAINT_MAG = 23.0
REAL = ("cosmos_dev.zarr", "cosmos_dev.nc")
REPORT = ("metrics.json", "report.html", "figures")
NAMES = ("survey.zarr", *TRAINING, "hiergal-training.json", "posterior.nc", *REAL, *REPORT)  # of its folder


class Drawn(NamedTuple):
    """Survey galaxies, and galaxies drawn for their conditions: noise-free stamps, noisy ones, moments of both."""

    survey: Observation
    survey_moments: Table
    clean: np.ndarray
    noisy: np.ndarray
    moments: Table

    __repr__ = brief


class Quickstart(NamedTuple):
    """What a quickstart leaves.

    Attributes:
        page: The report.
        verdict: What missed its goal and what to do about it, a line each; the first counts.
    """

    page: Path
    verdict: tuple[str, ...]


def run_quickstart(
    out: Path, recipe: Recipe, *, galaxies: int, seed: int, overwrite: bool = False, progress: bool = True
) -> Quickstart:
    """Run every stage, and write ``metrics.json``, the figures and ``report.html``.

    Args:
        out: Folder for everything.
        recipe: What to train.
        galaxies: Galaxies in the mock survey.
        seed: Seed of everything.
        overwrite: Whether another quickstart in this folder is replaced.
        progress: Whether to show progress bars.

    Returns:
        The page, and its verdict in words.

    Raises:
        FileExistsError: If one of :data:`NAMES` is in the folder, and not of this quickstart.
        BlockingIOError: If another process is at work there.
    """
    from hiergal.quickstart_report import findings_of

    run = {
        "recipe": msgspec.to_builtins(recipe),
        "seed": check_seed(seed),
        "galaxies": galaxies,
        "version": __version__,
    }
    with owned_folder(out, "quickstart", run=run, names=NAMES, overwrite=overwrite) as own:
        report, metrics = _run_stages(own.path, recipe, galaxies, seed, progress)
        own.done()
    return Quickstart(Path(out) / report.name, tuple(verdict_lines(findings_of(metrics))))


def _run_stages(
    out: Path, recipe: Recipe, galaxies: int, seed: int, progress: bool
) -> tuple[Path, dict[str, Any]]:
    from hiergal.quickstart_report import write_quickstart_report

    store = _survey(out / "survey.zarr", recipe, galaxies, seed, progress)
    train_stage(store, recipe, out, seed=seed, progress=progress)
    model, _ = fit_flow_stage(out / "model", store, seed=seed, progress=progress)

    rows = split_of(store, model.recipe).test
    observation, posterior = infer_stage(
        model,
        store,
        out / "posterior.nc",
        seed=seed,
        rows=rows,
        draws=DRAWS,
        overwrite=True,
        progress=progress,
    )
    truth = blurred_truth(store.truth(rows), model.recipe)
    drawn = _draw(model, _compared(store, model.recipe, observation), seed)
    metrics: dict[str, Any] = {
        "mock": posterior_metrics(observation, posterior, truth),
        "drawn": drawn_metrics(drawn.survey_moments, drawn.moments),
    }
    real = _cosmos_dev(model, out, seed, progress)
    if real is not None:
        metrics["cosmos_dev"] = real_metrics(*real)
    write_json(out / "metrics.json", metrics)
    page = write_quickstart_report(
        out,
        metrics=metrics,
        model=model,
        history=read_history(out),
        store=store,
        observation=observation,
        posterior=posterior,
        truth=truth,
        drawn=drawn,
        real=real,
    )
    return page, metrics


def blurred_truth(truth: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Return true profiles at the resolution of a recipe's, [n, y, x]."""
    fwhm_pix = recipe.profile_fwhm_arcsec / recipe.pixel_scale_arcsec
    if not fwhm_pix:
        return truth
    shape = truth.shape[1:]
    return np.fft.irfft2(np.fft.rfft2(truth) * gaussian_transfer(fwhm_pix, shape), s=shape)


def posterior_metrics(observation: Observation, posterior: Posterior, truth: np.ndarray) -> dict[str, Any]:
    """Measure how well posteriors fit unseen galaxies, and how often they hold the truth.

    Args:
        observation: The galaxies.
        posterior: Their posteriors.
        truth: Their true profiles [flux per pixel], [n, y, x].
    """
    bright = observation.catalog["mag_auto"] <= np.quantile(observation.catalog["mag_auto"], 0.25)
    true = jax.tree.map(np.asarray, summarize_profile(truth, observation.pixel_scale_arcsec))
    return {
        "galaxies": len(posterior),
        "chi_square_median": float(np.median(posterior.chi_square)),
        "chi_square_median_brightest_quarter": float(np.median(posterior.chi_square[bright])),
        "coverage": {
            name: {
                f"{probability:.2f}": coverage(
                    getattr(posterior.summary, name), getattr(true, name), probability
                )
                for probability in PROBABILITIES
            }
            for name in QUANTITIES
        },
    }


def coverage(draws: np.ndarray, truth: np.ndarray, probability: float) -> dict[str, float]:
    """Return the fraction of truths inside the central interval, and its binomial standard error.

    Example:
        >>> draws = np.linspace(0.0, 1.0, 101)[:, None] * np.ones(4)
        >>> coverage(draws, np.array([0.5, 0.2, 0.01, 2.0]), 0.9)["fraction"]
        0.5
    """
    low, high = interval(draws, probability)
    fraction = float(np.mean((low < truth) & (truth < high)))
    return {"fraction": fraction, "error": float(np.sqrt(probability * (1 - probability) / len(truth)))}


def drawn_metrics(survey: Table, drawn: Table) -> dict[str, Any]:
    """Compare mean size and ellipticity of drawn galaxies with the survey's, with errors (paper, Fig. 6).

    Args:
        survey: Moments of the survey's galaxies, one row each.
        drawn: Moments of galaxies drawn for the same conditions: the same number of rows, once or several times over.

    Returns:
        For size and ellipticity both means, their ratio and its standard error, to first order in the residuals of the
        rows: a survey galaxy and those drawn for its conditions share much of their scatter.

    Example:
        >>> survey = Table({"sigma": [0.1, 0.3], "g": [0.1, 0.2], "flag": [0, 0]})
        >>> metrics = drawn_metrics(survey, survey)
        >>> metrics["size_arcsec"]["ratio"], metrics["size_arcsec"]["ratio_error"]
        (1.0, 0.0)
    """
    result: dict[str, Any] = {}
    n = len(survey)
    for name, column in (("size_arcsec", "sigma"), ("ellipticity", "g")):
        used = [np.asarray(table["flag"] == 0).reshape(-1, n) for table in (drawn, survey)]
        values = [
            np.where(good, np.asarray(table[column]).reshape(-1, n), 0.0)
            for table, good in zip((drawn, survey), used, strict=True)
        ]
        ours, theirs = (value.sum() / good.sum() for value, good in zip(values, used, strict=True))
        ratio = ours / theirs
        # What each row adds to the ratio's departure from its expectation.
        parts = [
            np.where(good, value / mean - 1, 0.0).sum(0) / good.sum()
            for value, good, mean in zip(values, used, (ours, theirs), strict=True)
        ]
        error = ratio * np.sqrt(((parts[0] - parts[1]) ** 2).sum() * n / max(n - 1, 1))
        result[name] = {
            "survey": float(theirs),
            "drawn": float(ours),
            "ratio": float(ratio),
            "ratio_error": float(error),
        }
    result["failed_moments"] = {"survey": int(survey["flag"].sum()), "drawn": int(drawn["flag"].sum())}
    return result


def real_metrics(observation: Observation, posterior: Posterior) -> dict[str, Any]:
    """Summarise posteriors of real galaxies, whose truth nobody knows."""
    faint = observation.catalog["mag_auto"] > FAINT_MAG
    numbers = (
        posterior.latents,
        posterior.profile_mean,
        posterior.profile_std,
        *jax.tree.leaves(posterior.summary),
    )
    finite = np.all(
        [
            np.isfinite(x).all(axis=tuple(a for a in range(x.ndim) if x.shape[a] != len(posterior)))
            for x in numbers
        ]
    )
    return {
        "galaxies": len(posterior),
        "all_finite": bool(finite),
        "chi_square_median": float(np.median(posterior.chi_square)),
        "chi_square_median_fainter_than_23": float(np.median(posterior.chi_square[faint])),
        "galaxies_fainter_than_23": int(faint.sum()),
    }


def _survey(path: Path, recipe: Recipe, galaxies: int, seed: int, progress: bool) -> Store:
    ny, nx = recipe.shape
    if ny != nx:
        raise ValueError(f"shape: expected square stamps for the quickstart, got {recipe.shape}")
    return write_mock_survey(path, galaxies, seed=seed, stamp=ny, progress=progress)


def _compared(store: Store, recipe: Recipe, test: Observation) -> Observation:
    """Return the galaxies for whose conditions others are drawn: unseen ones, unless the recipe says otherwise."""
    if recipe.flow.compared_at == "test":
        return test
    return store.read(split_of(store, recipe).train[: len(test)])


def _draw(model: GalaxyModel, survey: Observation, seed: int) -> Drawn:
    """Draw galaxies for each row's conditions, and observe them with that row's PSF and noise."""
    rows = np.tile(np.arange(len(survey)), DRAWS_PER_ROW)
    alike, scale = survey[rows], model.recipe.pixel_scale_arcsec
    profiles = draw_profiles(model, alike.catalog, key=key_for(seed, DRAWN), outside="ignore")
    clean = np.asarray(model.render(profiles, alike.psf))
    noisy = clean + np.asarray(alike.noise.sample(key_for(seed, NOISE), clean.shape))
    ours, theirs = (measure_moments(images, pixel_scale_arcsec=scale) for images in (noisy, survey.image))
    return Drawn(survey, theirs, clean, noisy, ours)


def _cosmos_dev(
    model: GalaxyModel, out: Path, seed: int, progress: bool
) -> tuple[Observation, Posterior] | None:
    """Infer the real galaxies of HIERGAL_DATA, if it is set."""
    data = os.environ.get("HIERGAL_DATA")
    if not data:
        return None
    from hiergal.survey.cosmos import write_cosmos_survey

    store = write_cosmos_survey(
        Path(data) / "cosmos_dev",
        out / "cosmos_dev.zarr",
        stamp_shape=model.recipe.shape,
        spectrum="expected",
        seed=seed,
        overwrite=True,
    )
    return infer_stage(
        model, store, out / "cosmos_dev.nc", seed=seed, draws=DRAWS, overwrite=True, progress=progress
    )
