"""Training of a model on a survey, from files to files: the first of the steps that commands and scripts run.

    survey -> train -> fit-prior -> infer (:mod:`hiergal.posterior.stages`)
                               `-> sample (:mod:`hiergal.simulate.catalog`)

Every step writes next to its target and renames, so that what lies on disk is whole; the same seed gives the same
files.
"""

from pathlib import Path
from typing import Any, cast

import jax
import msgspec
import numpy as np

from hiergal.hub.bundle import load_model, save_model
from hiergal.hub.packing import digest_of, flatten
from hiergal.model.blank import blank_model
from hiergal.model.provenance import Provenance
from hiergal.model.trained import GalaxyModel
from hiergal.observation.psf import check_wider, same_scale
from hiergal.recipe.recipe import Recipe
from hiergal.runtime.devices import is_first_process
from hiergal.runtime.extras import require_extra
from hiergal.runtime.files import write_whole
from hiergal.runtime.folder import is_finished, owned_folder
from hiergal.runtime.seeds import TRAIN, check_seed, key_for
from hiergal.runtime.version import __version__
from hiergal.runtime.work import settle
from hiergal.survey.schema import digest_of_store
from hiergal.survey.split import split_of
from hiergal.survey.store import SurveyStore
from hiergal.training.batches import Galaxies, rough_fluxes
from hiergal.training.fit_prior import GALAXIES_PER_CALL
from hiergal.training.history import read_history
from hiergal.training.ranges import measure_trained_ranges
from hiergal.training.svi import Fit, fit

__all__ = [
    "measure_flux_scale",
    "room_for_galaxies",
    "train_model",
]

TRAINING = (
    "model",
    "checkpoints",
    "history.jsonl",
    "training.png",
    "rate_and_distortion.png",
)  # of a run's folder
ROOM_OF_DEVICE, ROOM_OF_HOST = 0.4, 2**29  # a fraction of an accelerator's memory; bytes
WIDTHS = 64  # PSFs whose width is measured


def train_model(
    store: SurveyStore,
    recipe: Recipe,
    folder: str | Path,
    *,
    seed: int,
    start: GalaxyModel | None = None,
    in_memory: bool | None = None,
    half_precision: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> tuple[GalaxyModel, Fit]:
    """Train a model on a store, and save it as ``folder/model`` (without a latent flow).

    The same call goes on with a training that was stopped, and recognises one that is finished.

    Args:
        store: The survey.
        recipe: What to train.
        folder: Where the model, its checkpoints and its history go.
        seed: Seed of the training.
        start: A model to go on from, whose networks are the recipe's; default networks that have learnt nothing.
        in_memory: Whether the training galaxies are kept on the devices, or read from the store as they are needed;
            default on the devices if they take little of their memory (:func:`room_for_galaxies`).
        half_precision: Whether the weights are rounded to half precision, as those of published models are: then what
            is fitted and measured later is what will be published.
        overwrite: Whether another training in this folder is replaced.
        progress: Whether to show a progress bar.

    Raises:
        FileExistsError: If one of :data:`TRAINING` is in the folder, and not of this training.
        BlockingIOError: If another process trains there.
        ValueError: If the store's stamps or pixels are not the recipe's, or its PSFs too narrow for it, or the networks
            of the model to start from are others.
    """
    require_extra("train", "training")
    check_seed(seed)
    _check_store(store, recipe)
    if start is not None:
        recipe = _with_fluxes_of(recipe, start, store)
    run = {
        "recipe": msgspec.to_builtins(recipe),
        "survey": digest_of_store(store.path),
        "seed": seed,
        "half_precision": half_precision,
        "version": __version__,
    }
    if start is not None:
        run["start"] = digest_of(flatten(start.params))
    if not is_first_process():  # only one of a job owns the folder
        if not overwrite and is_finished(folder, "training", run):
            return load_model(Path(folder) / "model"), _fit_of(folder)
        return _train(store, recipe, folder, seed, start, in_memory, half_precision, progress)
    options = {"names": TRAINING, "inputs": (store.path,), "overwrite": overwrite}
    with owned_folder(folder, "training", run=run, **options) as own:
        if own.finished and settle(own.path / "model").exists():
            return load_model(own.path / "model"), _fit_of(own.path)
        model, fitted = _train(store, recipe, own.path, seed, start, in_memory, half_precision, progress)
        save_model(model, own.path / "model", overwrite=True)
        _draw_history(own.path, fitted)
        own.done()
    return model, fitted


def _train(
    store: SurveyStore,
    recipe: Recipe,
    folder: str | Path,
    seed: int,
    start: GalaxyModel | None,
    in_memory: bool | None,
    half_precision: bool,
    progress: bool,
) -> tuple[GalaxyModel, Fit]:
    split = split_of(store, recipe)
    if in_memory is None:
        in_memory = store.galaxy_bytes * len(split.train) <= room_for_galaxies()
    train = store.read(split.train) if in_memory else store.subset(split.train)
    validation = store.subset(split.validation)
    if recipe.profile_fwhm_arcsec:
        check_wider(train[np.arange(min(GALAXIES_PER_CALL, len(train)))].psf, recipe.profile_fwhm_arcsec)
    recipe = measure_flux_scale(recipe, train)
    begun = None if start is None else start.params
    fitted = fit(
        key_for(seed, TRAIN), recipe, train, validation, folder=folder, start=begun, progress=progress
    )
    header = store.header
    provenance = Provenance(
        survey=header.survey,
        band=header.band,
        flux_unit=header.flux_unit,
        magnitude_zero_point=header.magnitude_zero_point,
        galaxies=len(train),
        seed=seed,
        version=__version__,
        survey_provenance=dict(header.provenance),
        psf_fwhm_arcsec=_psf_fwhm(train),
    )
    model = GalaxyModel(fitted.params, None, recipe, provenance)
    if half_precision:
        model = model.replace(params=jax.tree.map(_rounded, model.params))
    ranges = measure_trained_ranges(model, train)
    return model.replace(provenance=msgspec.structs.replace(provenance, trained_ranges=ranges)), fitted


def _fit_of(folder: str | Path) -> Fit:
    """Fit of a finished training."""
    return Fit(load_model(Path(folder) / "model").params, read_history(folder))


def _draw_history(folder: Path, fitted: Fit) -> None:
    """Draw the curves of a training."""
    from hiergal.runtime.plotting import png_of
    from hiergal.training.figures import rate_and_distortion, training_curves

    write_whole(folder / "training.png", png_of(training_curves(fitted.history)))
    write_whole(folder / "rate_and_distortion.png", png_of(rate_and_distortion(fitted.history)))


def _rounded(leaf: jax.Array) -> jax.Array:
    """Round to half precision; a weight beyond its range becomes infinite, which every use of the model shows."""
    return leaf.astype(np.float16).astype(leaf.dtype)


def _psf_fwhm(galaxies: Galaxies) -> float:
    """Median width of the PSFs of some galaxies [arcsec]."""
    import galsim

    psf = galaxies[np.linspace(0, len(galaxies) - 1, min(WIDTHS, len(galaxies))).astype(int)].psf
    stamps = np.asarray(psf.stamp, float)
    return float(
        np.median([galsim.Image(stamp, scale=psf.pixel_scale_arcsec).calculateFWHM() for stamp in stamps])
    )


def room_for_galaxies() -> int:
    """Return the memory for galaxies on the devices [bytes]: a part of theirs, half a GiB of the host's."""
    memory = jax.local_devices()[0].memory_stats() or {}
    return int(ROOM_OF_DEVICE * memory["bytes_limit"]) if "bytes_limit" in memory else ROOM_OF_HOST


def measure_flux_scale(recipe: Recipe, galaxies: Galaxies) -> Recipe:
    """Set the flux scale of a generator that has one from training galaxies, unless the recipe names it."""
    generator = recipe.generator.measure_flux(lambda: np.log(rough_fluxes(galaxies)))
    return msgspec.structs.replace(recipe, generator=generator)


def _with_fluxes_of(recipe: Recipe, start: GalaxyModel, store: SurveyStore) -> Recipe:
    """Return the recipe with the flux scale that a model to start from knows, after a look at its networks."""
    changes = {
        name: getattr(start.recipe.generator, name)
        for name in ("log_flux_mean", "log_flux_spread")
        if hasattr(recipe.generator, name) and hasattr(start.recipe.generator, name)
    }
    generator = msgspec.structs.replace(cast(Any, recipe.generator), **changes)
    recipe = msgspec.structs.replace(recipe, generator=generator)
    nobody = Provenance("", "", "", 0.0, 0, 0, "")
    wanted = jax.eval_shape(lambda: blank_model(recipe, nobody, ())).params
    found = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), start.params)
    if wanted != found:
        raise ValueError(
            f"start: expected a model with the networks of the recipe {recipe.name!r}, got {start.recipe.name!r}, "
            "which has other weights; take the tables [generator] and [encoder] of its recipe"
        )
    theirs, ours = start.provenance, store.header
    if (theirs.flux_unit, theirs.magnitude_zero_point) != (ours.flux_unit, ours.magnitude_zero_point):
        raise ValueError(
            f"start: expected a model of fluxes in {ours.flux_unit} with zero point {ours.magnitude_zero_point}, as "
            f"the survey has them, got {theirs.flux_unit} with {theirs.magnitude_zero_point}"
        )
    return recipe


def _check_store(store: SurveyStore, recipe: Recipe) -> None:
    if tuple(store.shape) != tuple(recipe.shape):
        raise ValueError(
            f"expected stamps of {recipe.shape} pixels, as the recipe {recipe.name!r} has, got {tuple(store.shape)}; "
            "set `shape` in the recipe, or make the survey at that size"
        )
    if not same_scale(store.header.pixel_scale_arcsec, recipe.pixel_scale_arcsec):
        raise ValueError(
            f"expected pixels of {recipe.pixel_scale_arcsec} arcsec, as the recipe {recipe.name!r} has, got "
            f"{store.header.pixel_scale_arcsec} arcsec"
        )
