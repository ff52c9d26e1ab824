"""Models without trained weights: what a recipe's arrays are, and how many numbers they hold."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hiergal.model.architecture import (
    encoder_of,
    generator_of,
    marginal_config,
    posterior_flow_cells,
    posterior_flow_config,
    prior_cells,
)
from hiergal.model.flow.density import ConditionalFlow
from hiergal.model.provenance import Provenance
from hiergal.model.trained import GalaxyModel
from hiergal.observation.independent import WhiteNoise
from hiergal.observation.observation import Observation
from hiergal.observation.psf import PSF
from hiergal.recipe.recipe import Recipe

__all__ = ["ParameterCounts", "blank_model", "parameter_counts"]


class ParameterCounts(NamedTuple):
    """Numbers of parameters of a model.

    Attributes:
        encoder: Of the guide's network.
        generator: Of the generator.
        flow: Of the flow over the latents.
    """

    encoder: int
    generator: int
    flow: int


def parameter_counts(recipe: Recipe) -> ParameterCounts:
    """Count the parameters of the networks that a recipe describes, without building them.

    Example:
        >>> parameter_counts(Recipe()).flow
        39200
    """
    nobody = Provenance("", "", "", 0.0, 0, 0, "")
    model = jax.eval_shape(lambda: blank_model(recipe, nobody, ("flow",)))
    parts = (model.params["encoder$params"], model.params["generator$params"], model.flow.params)
    return ParameterCounts(*(sum(leaf.size for leaf in jax.tree.leaves(part)) for part in parts))


def blank_model(
    recipe: Recipe, provenance: Provenance, densities: tuple[str, ...], population: int = 0
) -> GalaxyModel:
    """A model with untrained parameters: what a bundle of this recipe, with these densities, must hold."""
    key, (ny, nx), d = jax.random.key(0), recipe.shape, recipe.generator.latents
    psf = PSF(jnp.ones((1, 3, 3)) / 9, pixel_scale_arcsec=recipe.pixel_scale_arcsec)
    noise = WhiteNoise(jnp.ones(1))
    example = Observation(
        jnp.zeros((1, ny, nx)), psf, noise, None, {}, jnp.zeros(1, int), recipe.pixel_scale_arcsec
    )
    params = {
        "generator$params": generator_of(recipe).init(key, jnp.zeros((1, d)))["params"],
        "encoder$params": encoder_of(recipe).init(key, example)["params"],
    }
    configs = {
        "flow": recipe.flow,
        "marginal": marginal_config(recipe),
        "posterior_flow": posterior_flow_config(recipe),
    }
    cells = {
        name: posterior_flow_cells(recipe) if name == "posterior_flow" else prior_cells(recipe)
        for name in configs
    }
    fitted = {name: ConditionalFlow.untrained(key, configs[name], d, cells[name]) for name in densities}
    rows = jnp.zeros((population, len(recipe.flow.conditions))) if population else None
    return GalaxyModel(params, fitted.pop("flow", None), recipe, provenance, population=rows, **fitted)
