"""The whole path on one page: survey, training, flow, posteriors, new galaxies, numbers, report.

Everything lies in one folder. What a stage has finished is not done again by a later run with the same recipe, seed
and size; a run with others is refused, unless it is to replace that one. The numbers are measured on galaxies that
neither the fit nor any choice has seen.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from hiergal.cli.quickstart.metrics import Drawn, drawn_metrics, posterior_metrics, real_metrics
from hiergal.measure.moments import measure_moments
from hiergal.model.trained import GalaxyModel
from hiergal.observation.observation import Observation
from hiergal.observation.psf import gaussian_transfer
from hiergal.posterior.posterior import Posterior
from hiergal.posterior.stages import infer_to_arviz
from hiergal.recipe.recipe import Recipe
from hiergal.reports.page import verdict_lines
from hiergal.runtime.extras import require_extra
from hiergal.runtime.files import write_json
from hiergal.runtime.folder import owned_folder
from hiergal.runtime.seeds import check_seed, key_for
from hiergal.runtime.version import __version__
from hiergal.simulate.profiles import draw_profiles
from hiergal.survey.mock.survey import write_mock_survey
from hiergal.survey.split import split_of
from hiergal.survey.store import SurveyStore
from hiergal.training.fit_prior import fit_prior
from hiergal.training.history import read_history
from hiergal.training.train_model import TRAINING, train_model

__all__ = [
    "run_quickstart",
]

DRAWN, NOISE = 100, 101  # purposes of the seed beyond those of the stages
DRAWS = 100
DRAWS_PER_ROW = 3
REAL = ("cosmos_dev.zarr", "cosmos_dev.nc")
REPORT = ("metrics.json", "report.html", "figures")
NAMES = ("survey.zarr", *TRAINING, "hiergal-training.json", "posterior.nc", *REAL, *REPORT)  # of its folder


class Quickstart(NamedTuple):
    """Results of a quickstart.

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
    from hiergal.cli.quickstart.report import findings_of

    for extra in ("survey", "train", "posterior"):
        require_extra(extra, "the quickstart")
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
    from hiergal.cli.quickstart.report import write_quickstart_report

    store = _survey(out / "survey.zarr", recipe, galaxies, seed, progress)
    train_model(store, recipe, out, seed=seed, progress=progress)
    model, _ = fit_prior(out / "model", store, seed=seed, progress=progress)

    rows = split_of(store, model.recipe).test
    inferred = infer_to_arviz(
        model,
        store,
        out / "posterior.nc",
        seed=seed,
        rows=rows,
        draws=DRAWS,
        overwrite=True,
        progress=progress,
    )
    assert inferred is not None  # it is overwritten, not recognised
    observation, posterior = inferred
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


def _survey(path: Path, recipe: Recipe, galaxies: int, seed: int, progress: bool) -> SurveyStore:
    ny, nx = recipe.shape
    if ny != nx:
        raise ValueError(f"shape: expected square stamps for the quickstart, got {recipe.shape}")
    return write_mock_survey(path, galaxies, seed=seed, stamp=ny, progress=progress)


def _compared(store: SurveyStore, recipe: Recipe, test: Observation) -> Observation:
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
    return infer_to_arviz(
        model, store, out / "cosmos_dev.nc", seed=seed, draws=DRAWS, overwrite=True, progress=progress
    )
