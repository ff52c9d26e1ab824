"""Fit the latent flow to the latents of a survey: what ``hiergal fit-prior`` does."""

from pathlib import Path

import jax
import msgspec
import numpy as np

from hiergal.model.architecture import marginal_config, prior_cells
from hiergal.model.condition_columns import conditions_from
from hiergal.model.flow.density import FlowFit, fit_flow
from hiergal.model.guide import posterior_from
from hiergal.model.trained import GalaxyModel
from hiergal.runtime.batching import join_batches, padded_batches
from hiergal.runtime.seeds import FLOW, FLOW_DRAWS, MARGINAL, POPULATION_ROWS, check_seed, key_for
from hiergal.survey.split import split_of
from hiergal.survey.store import SurveyStore
from hiergal.training.update import update_model

__all__ = [
    "fit_prior",
]

GALAXIES_PER_CALL = 512
POPULATION = 4096  # galaxies whose conditions a model remembers


def fit_prior(
    model_path: str | Path,
    store: SurveyStore,
    *,
    seed: int,
    conditions: tuple[str, ...] | None = None,
    steps: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> tuple[GalaxyModel, FlowFit | None]:
    """Fit the flow of a trained model on the training galaxies of its survey, and save it with the model.

    Args:
        model_path: The model's bundle, which is replaced by one with the flow.
        store: The survey that it was trained on.
        seed: Seed of the fit.
        conditions: Columns to condition on; default the recipe's.
        steps: Steps of the fit; default the recipe's.
        overwrite: whether to replace a latent flow that the model has (and with it a posterior flow).
        progress: Whether to show a progress bar.

    Returns:
        The model, and the fit; None in its place if the same fit was done before.

    Raises:
        FileExistsError: If the model has a latent flow of another fit, or its folder is not a model's alone.
    """

    def fit(model: GalaxyModel) -> tuple[GalaxyModel, FlowFit]:
        return _fit_flows(model, store, seed=seed, conditions=conditions, steps=steps, progress=progress)

    choices = {"seed": check_seed(seed), "conditions": conditions, "steps": steps}
    return update_model(model_path, "flow", store, choices, fit, overwrite=overwrite)


def _fit_flows(
    model: GalaxyModel,
    store: SurveyStore,
    *,
    seed: int,
    conditions: tuple[str, ...] | None,
    steps: int | None,
    progress: bool,
) -> tuple[GalaxyModel, FlowFit]:
    recipe, store = model.recipe, store.in_photometry(model.provenance.photometry)
    changes = {"conditions": conditions, "steps": steps}
    changes = {name: value for name, value in changes.items() if value is not None}
    recipe = msgspec.structs.replace(recipe, flow=msgspec.structs.replace(recipe.flow, **changes))
    rows = split_of(store, recipe).train
    catalog = {name: column[rows] for name, column in store.catalog.items()}
    table = conditions_from(recipe.flow.conditions, catalog)
    draws = recipe.flow.draws if recipe.flow.fit_to == "samples" else None
    latents = aggregate_posterior(model, store, rows, key_for(seed, FLOW_DRAWS), draws)
    how = {"cells": prior_cells(recipe), "progress": progress}
    fitted = fit_flow(key_for(seed, FLOW), recipe.flow, latents, table, **how)
    marginal = fit_flow(key_for(seed, MARGINAL), marginal_config(recipe), latents, table[:, :0], **how)
    ranges = {
        name: (float(low), float(high))
        for name, low, high in zip(recipe.flow.conditions, table.min(0), table.max(0), strict=True)
    }
    units = {name: store.header.unit_of(name) for name in recipe.flow.conditions}
    provenance = msgspec.structs.replace(model.provenance, condition_ranges=ranges, condition_units=units)
    chosen = np.random.default_rng([seed, POPULATION_ROWS]).permutation(len(table))[:POPULATION]
    model = model.replace(
        flow=fitted.flow,
        marginal=marginal.flow,
        posterior_flow=None,
        recipe=recipe,
        provenance=provenance,
        population=table[chosen],
    )
    return model, fitted


def aggregate_posterior(
    model: GalaxyModel, store: SurveyStore, rows: np.ndarray, key: jax.Array, draws: int | None
) -> np.ndarray:
    """Draw latents of many galaxies from the guide, [s, n, d] (paper, Sec. 4.2.2); its means if ``draws`` is None."""

    @jax.jit
    def sample(key, observation):
        q = posterior_from(model.encode(observation), model.recipe.covariance)
        return q.mean[None] if draws is None else jax.vmap(q.sample)(jax.random.split(key, draws))

    parts = []
    for batch in padded_batches(len(rows), GALAXIES_PER_CALL):
        chunk = sample(jax.random.fold_in(key, batch.first), store.read(rows[batch.rows]).bare())
        parts.append(np.asarray(chunk))
    return join_batches(parts, len(rows), axis=1)
