"""Stages of a study that infer: the conditional-flow guide, and posteriors into files (see :mod:`hiergal.stages`)."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from hiergal import __version__
from hiergal.conditions import condition_factors, conditions_from
from hiergal.flow import FlowFit
from hiergal.guide_fitting import fit_guide_flow
from hiergal.hub import GalaxyModel
from hiergal.hub.packing import digest_of as digest_of_arrays
from hiergal.hub.packing import flatten
from hiergal.observation import Observation, check_observation
from hiergal.posterior import Method, Posterior, infer
from hiergal.posterior.posterior import OF_DRAWS
from hiergal.posterior_checks import bad_observations, catalog_conditions
from hiergal.runtime.output import owned
from hiergal.runtime.seeds import GUIDE_FLOW, INFER, check_seed, key_for
from hiergal.stages import split_of
from hiergal.survey import Store
from hiergal.survey.schema import digest_of_store
from hiergal.training.update import update_model

__all__ = ["fit_guide_flow_stage", "infer_stage"]

SIMULATED_LIKE = 4000  # survey galaxies whose PSFs and noise simulations take in turn


def fit_guide_flow_stage(
    model_path: str | Path,
    store: Store,
    *,
    seed: int,
    simulations: int = 16000,
    refine_on: int = 256,
    overwrite: bool = False,
    progress: bool = True,
) -> tuple[GalaxyModel, FlowFit | None]:
    """Fit the conditional-flow guide of a model with flows, and save it with the model.

    Args:
        model_path: The model's bundle, which is replaced by one with the guide flow.
        store: The survey that it was trained on, whose PSFs, noise and conditions simulated galaxies get.
        seed: Seed of the simulations and of the fit.
        simulations: Number of galaxies to simulate.
        refine_on: Number of its training galaxies to refine the guide on.
        overwrite: Whether to replace a guide flow that the model has.
        progress: Whether to show progress bars.

    Returns:
        The model, and the fit; None in its place if the same fit was done before.

    Raises:
        FileExistsError: If the model has a guide flow of another fit, or its folder is not a model's alone.
        ValueError: If the model has no flow yet.
    """
    choices = {"seed": check_seed(seed), "simulations": simulations, "refine_on": refine_on}

    def fit(model: GalaxyModel) -> tuple[GalaxyModel, FlowFit]:
        if model.flow is None or model.marginal is None:
            raise ValueError(f"{model_path}: expected a model with a flow; fit it first with `hiergal flow`")
        fitted = _fit_guide(model, store, **choices, progress=progress)
        return model.replace(guide_flow=fitted.flow), fitted

    return update_model(model_path, "guide_flow", store, choices, fit, overwrite=overwrite)


def _fit_guide(
    model: GalaxyModel, store: Store, *, seed: int, simulations: int, refine_on: int, progress: bool
) -> FlowFit:
    store = store.in_photometry(model.provenance.photometry)
    train = split_of(store, model.recipe).train
    rows = np.random.default_rng(seed).permutation(train)[:SIMULATED_LIKE]
    survey = store.read(np.sort(rows))
    conditions = conditions_from(model.flow.config.conditions, survey.catalog)
    conditions = conditions * condition_factors(model, store.header.unit_of)
    return fit_guide_flow(
        key_for(seed, GUIDE_FLOW),
        model,
        survey,
        conditions,
        simulations=simulations,
        refine_on=refine_on,
        progress=progress,
    )


def infer_stage(
    model: GalaxyModel,
    store: Store,
    out: str | Path,
    *,
    seed: int,
    rows: np.ndarray | None = None,
    method: Method | str = "laplace",
    use_conditions: bool = False,
    draws: int = 200,
    batch: int = 32,
    overwrite: bool = False,
    progress: bool = True,
) -> tuple[Observation, Posterior] | None:
    """Infer the posteriors of galaxies of a store, and save them as ArviZ data.

    Args:
        model: A trained model.
        store: The galaxies.
        out: The file, or for ``.zarr`` the folder, to write.
        seed: Seed of the draws.
        rows: Which galaxies; default all.
        method: As for :func:`~hiergal.posterior.infer`.
        use_conditions: Whether the catalogue's magnitudes, sizes and redshifts inform the prior.
        draws: Posterior draws of each galaxy.
        batch: Galaxies in one call of the compiled program.
        overwrite: Whether to replace posteriors that are there; anything else is never replaced.
        progress: Whether to show a progress bar.

    Returns:
        Observations and their posteriors; None if the same run has finished before, and nothing is to be done.

    Raises:
        ValueError: If the name ends in neither ``.nc`` nor ``.zarr``, or as for :func:`~hiergal.posterior.infer`.
        FileExistsError: If something is there that may not be replaced (:mod:`hiergal.runtime.output`).
        OSError: If it cannot be written.
    """
    from hiergal.arviz_data import posterior_to_arviz
    from hiergal.arviz_files import DRAWS, check_arviz_name, write_arviz

    check_seed(seed)

    check_arviz_name(out)  # better known now than after the work
    rows = np.arange(len(store)) if rows is None else np.asarray(rows)
    run = {
        "files": {"model": digest_of_arrays(flatten(model)), "survey": digest_of_store(store.path)},
        "choices": {
            "seed": seed,
            "method": method,
            "conditions": use_conditions,
            "draws": draws,
            "batch": batch,
        },
        "rows": rows.tolist(),
        "version": __version__,
    }
    with owned(out, DRAWS, run=run, inputs=(store.path,), overwrite=overwrite, resume=False) as own:
        if own.finished and not overwrite:
            return None
        choices = {"method": method, "draws": draws, "batch": batch, "progress": progress}
        observation, posterior = _inferred(model, store, rows, seed, use_conditions, **choices)
        if not own.finished:
            about = {"seed": seed, "method": method, "conditions": int(use_conditions)}
            write_arviz(posterior_to_arviz(posterior, observation, model, about=about), own)
            own.put()
    return observation, posterior


def _inferred(
    model: GalaxyModel, store: Store, rows: np.ndarray, seed: int, use_conditions: bool, **choices: Any
) -> tuple[Observation, Posterior]:
    observation = store.read(rows)
    flag = bad_observations(observation)
    good = np.flatnonzero(flag == 0)
    if not len(good):
        check_observation(observation)  # says what is wrong
    conditions = None
    if use_conditions:
        conditions = catalog_conditions(model, observation.catalog, store.header.unit_of)[good]
    posterior = infer(
        model,
        observation if len(good) == len(rows) else observation[good],
        key=key_for(seed, INFER),
        conditions=conditions,
        places=good,
        **choices,
    )
    return observation, posterior if len(good) == len(rows) else _with_blanks(posterior, flag, observation)


def _with_blanks(posterior: Posterior, flag: np.ndarray, observation: Observation) -> Posterior:
    """Posteriors of all galaxies, NaN and flagged where nothing was inferred."""
    place = np.cumsum(flag == 0) - 1
    whole = posterior[np.clip(place, 0, len(posterior) - 1)]
    bad = flag != 0

    def blank(values: np.ndarray, axis: int) -> np.ndarray:
        where = bad.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
        if values.dtype.kind == "b":
            return ~where & values
        return np.where(where, np.float32(np.nan), values) if values.dtype.kind == "f" else values

    changes = {
        name: jax.tree.map(lambda x, axis=int(name in OF_DRAWS): blank(x, axis), getattr(whole, name))
        for name in whole.__dataclass_fields__
        if name not in ("identifier", "method", "flag")
    }
    flags = np.where(bad, flag, whole.flag).astype(np.int32)
    return whole.replace(**changes, identifier=np.asarray(observation.identifier), flag=flags)
