"""Stages of a study that infer: the conditional-flow guide, and posteriors into files (see :mod:`hiergal.stages`)."""

from pathlib import Path

import numpy as np

from hiergal.conditions import condition_names, conditions_from
from hiergal.flow import FlowFit
from hiergal.guide_fitting import fit_guide_flow
from hiergal.hub import GalaxyModel, load_model, save_model
from hiergal.observation import Observation
from hiergal.posterior import Method, Posterior, infer
from hiergal.stages import GUIDE_FLOW, INFER, key_for, split_of
from hiergal.survey import Store

__all__ = ["fit_guide_flow_stage", "infer_stage"]

SIMULATED_LIKE = 4000  # survey galaxies whose PSFs and noise simulations take in turn


def fit_guide_flow_stage(
    model_path: str | Path,
    store: Store,
    *,
    seed: int,
    simulations: int = 16000,
    refine_on: int = 256,
    progress: bool = True,
) -> tuple[GalaxyModel, FlowFit]:
    """Fit the conditional-flow guide of a model with flows, and save it with the model.

    Args:
        model_path: The model's bundle, which is replaced by one with the guide flow.
        store: The survey that it was trained on, whose PSFs, noise and conditions simulated galaxies get.
        seed: Seed of the simulations and of the fit.
        simulations: Number of galaxies to simulate.
        refine_on: Number of its training galaxies to refine the guide on.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If the model has no flow yet.
    """
    model = load_model(model_path)
    if model.flow is None or model.marginal is None:
        raise ValueError(f"{model_path}: expected a model with a flow; fit it first with `hiergal flow`")
    train = split_of(store, model.recipe).train
    rows = np.random.default_rng(seed).permutation(train)[:SIMULATED_LIKE]
    survey = store.read(np.sort(rows))
    conditions = conditions_from(model.flow.config.conditions, survey.catalog)
    fitted = fit_guide_flow(
        key_for(seed, GUIDE_FLOW),
        model,
        survey,
        conditions,
        simulations=simulations,
        refine_on=refine_on,
        progress=progress,
    )
    model = model.replace(guide_flow=fitted.flow)
    save_model(model, model_path)
    return model, fitted


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
    progress: bool = True,
) -> tuple[Observation, Posterior]:
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
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If the name ends in neither ``.nc`` nor ``.zarr``, or as for :func:`~hiergal.posterior.infer`.
        OSError: If it cannot be written, or is a folder of something else.
    """
    from hiergal.arviz_data import posterior_to_arviz, save_arviz
    from hiergal.arviz_files import check_arviz_target

    check_arviz_target(out)  # better known now than after the work
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    observation = store.read(np.arange(len(store)) if rows is None else rows)
    key = key_for(seed, INFER)
    conditions = None
    if use_conditions:
        conditions = conditions_from(condition_names(model), observation.catalog)
    posterior = infer(
        model,
        observation,
        key=key,
        method=method,
        conditions=conditions,
        draws=draws,
        batch=batch,
        progress=progress,
    )
    save_arviz(posterior_to_arviz(posterior, observation, model), out)
    return observation, posterior
