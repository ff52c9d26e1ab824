"""Fit the posterior flow of a trained model: what ``hiergal fit-posterior-flow`` does."""

from pathlib import Path

import numpy as np

from hiergal.model.condition_columns import conditions_from
from hiergal.model.conditions import condition_factors
from hiergal.model.flow.density import FlowFit
from hiergal.model.trained import GalaxyModel
from hiergal.runtime.seeds import POSTERIOR_FLOW, check_seed, key_for
from hiergal.survey.split import split_of
from hiergal.survey.store import SurveyStore
from hiergal.training.posterior_flow import fit_posterior_flow
from hiergal.training.update import update_model

__all__ = [
    "fit_posterior_flow_of_survey",
]

SIMULATED_LIKE = 4000  # survey galaxies whose PSFs and noise simulations take in turn


def fit_posterior_flow_of_survey(
    model_path: str | Path,
    store: SurveyStore,
    *,
    seed: int,
    simulations: int = 16000,
    refine_on: int = 256,
    overwrite: bool = False,
    progress: bool = True,
) -> tuple[GalaxyModel, FlowFit | None]:
    """Fit the posterior flow of a model with a latent flow, and save it with the model.

    Args:
        model_path: The model's bundle, which is replaced by one with the posterior flow.
        store: The survey that it was trained on, whose PSFs, noise and conditions simulated galaxies get.
        seed: Seed of the simulations and of the fit.
        simulations: Number of galaxies to simulate.
        refine_on: Number of its training galaxies to refine the fit on.
        overwrite: Whether to replace a posterior flow that the model has.
        progress: Whether to show progress bars.

    Returns:
        The model, and the fit; None in its place if the same fit was done before.

    Raises:
        FileExistsError: If the model has a posterior flow of another fit, or its folder is not a model's alone.
        ValueError: If the model has no flow yet.
    """
    choices = {"seed": check_seed(seed), "simulations": simulations, "refine_on": refine_on}

    def fit(model: GalaxyModel) -> tuple[GalaxyModel, FlowFit]:
        if model.flow is None or model.marginal is None:
            raise ValueError(
                f"{model_path}: expected a model with a latent flow; fit it first with `hiergal fit-prior`"
            )
        fitted = _fit_to_survey(model, store, **choices, progress=progress)
        return model.replace(posterior_flow=fitted.flow), fitted

    return update_model(model_path, "posterior_flow", store, choices, fit, overwrite=overwrite)


def _fit_to_survey(
    model: GalaxyModel, store: SurveyStore, *, seed: int, simulations: int, refine_on: int, progress: bool
) -> FlowFit:
    store = store.in_photometry(model.provenance.photometry)
    train = split_of(store, model.recipe).train
    rows = np.random.default_rng(seed).permutation(train)[:SIMULATED_LIKE]
    survey = store.read(np.sort(rows))
    conditions = conditions_from(model.flow.config.conditions, survey.catalog)
    conditions = conditions * condition_factors(model, store.header.unit_of)
    return fit_posterior_flow(
        key_for(seed, POSTERIOR_FLOW),
        model,
        survey,
        conditions,
        simulations=simulations,
        refine_on=refine_on,
        progress=progress,
    )
