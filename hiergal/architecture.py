"""From a recipe to networks, and from networks to the two NumPyro programs that share them."""

from functools import partial
from typing import NamedTuple

from hiergal.guide import galaxy_guide, output_count
from hiergal.model import Program, galaxy_model
from hiergal.nets import Encoder, Generator
from hiergal.recipe import Recipe

__all__ = ["Programs", "encoder_of", "generator_of", "programs_of"]


class Programs(NamedTuple):
    """The model of Fig. 2 and its guide, ready for SVI, ``Predictive`` and NUTS."""

    model: Program
    guide: Program


def generator_of(recipe: Recipe) -> Generator:
    """Return the generator network that a recipe describes."""
    return Generator(recipe.generator, recipe.shape)


def encoder_of(recipe: Recipe) -> Encoder:
    """Return the network of the guide that a recipe describes."""
    return Encoder(recipe.encoder, output_count(recipe.generator.latents, recipe.covariance))


def programs_of(recipe: Recipe, population: int | None = None) -> Programs:
    """Return the model and the guide that a recipe describes.

    Args:
        recipe: The recipe.
        population: Number of galaxies that a batch stands for; default the batch itself.

    Example:
        >>> model, guide = programs_of(Recipe())
    """
    model = partial(
        galaxy_model,
        generator=generator_of(recipe),
        latents=recipe.generator.latents,
        pixel_scale_arcsec=recipe.pixel_scale_arcsec,
        population=population,
        total_variation_weight=recipe.objective.total_variation_weight,
        inflate=recipe.objective.inflate,
    )
    guide = partial(
        galaxy_guide, encoder=encoder_of(recipe), covariance=recipe.covariance, population=population
    )
    return Programs(model, guide)
