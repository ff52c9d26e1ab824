"""From a recipe to networks, and from networks to the two NumPyro programs that share them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from msgspec.structs import replace

from hiergal.model.guide import galaxy_guide, output_count
from hiergal.model.nets.registry import build_network
from hiergal.model.program import Program, galaxy_model, render
from hiergal.observation.psf import PSF
from hiergal.recipe.config import FlowConfig
from hiergal.recipe.recipe import Recipe

__all__ = [
    "Programs",
    "encoder_of",
    "generator_of",
    "guide_flow_config",
    "marginal_config",
    "programs_of",
    "renderer_of",
]


class Programs(NamedTuple):
    """The model of Fig. 2 and its guide, ready for SVI, ``Predictive`` and NUTS."""

    model: Program
    guide: Program


def generator_of(recipe: Recipe, training: bool = False) -> nn.Module:
    """Return the generator network that a recipe describes.

    Args:
        recipe: The recipe.
        training: Whether gradients take their fast forms, which have no forward mode. The paper's networks do so
            wherever they get their aids.
    """
    return build_network(recipe.generator, shape=recipe.shape, dtype=_dtype(recipe), training=training)


def encoder_of(recipe: Recipe, training: bool = False) -> nn.Module:
    """Return the network of the guide that a recipe describes; ``training`` as for :func:`generator_of`."""
    outputs = output_count(recipe.generator.latents, recipe.covariance)
    about = {"shape": recipe.shape, "outputs": outputs, "dtype": _dtype(recipe), "training": training}
    return build_network(recipe.encoder, **about)


def renderer_of(recipe: Recipe) -> Callable[[jax.Array, PSF], jax.Array]:
    """Return :func:`hiergal.model.program.render` for the profiles of a recipe: a function of profiles and PSFs."""
    return partial(
        render,
        pixel_scale_arcsec=recipe.pixel_scale_arcsec,
        profile_fwhm_arcsec=recipe.profile_fwhm_arcsec,
        blur=recipe.objective.blur,
    )


def marginal_config(recipe: Recipe) -> FlowConfig:
    """Return how the density of latents without conditions is built."""
    return replace(recipe.flow, conditions=())


def guide_flow_config(recipe: Recipe) -> FlowConfig:
    """Return how the shape of posteriors is modelled: see :mod:`hiergal.posterior.samplers.posterior_flow`."""
    d = recipe.generator.latents
    names = (*(f"mean_{i}" for i in range(d)), *(f"log_scale_{i}" for i in range(d)), "given")
    return replace(recipe.guide_flow, conditions=names)


def programs_of(recipe: Recipe, population: int | None = None, training: bool = False) -> Programs:
    """Return the model and the guide that a recipe describes.

    Args:
        recipe: The recipe.
        population: Number of galaxies that a batch stands for; default the batch itself.
        training: As for :func:`generator_of`.

    Example:
        >>> model, guide = programs_of(Recipe())
    """
    model = partial(
        galaxy_model,
        generator=generator_of(recipe, training),
        latents=recipe.generator.latents,
        pixel_scale_arcsec=recipe.pixel_scale_arcsec,
        profile_fwhm_arcsec=recipe.profile_fwhm_arcsec,
        population=population,
        total_variation_weight=recipe.objective.total_variation_weight,
        misfit_as_noise=recipe.objective.misfit_as_noise,
        blur=recipe.objective.blur,
        noise=recipe.objective.noise,
        noise_sigma=recipe.objective.noise_sigma,
    )
    guide = partial(
        galaxy_guide,
        encoder=encoder_of(recipe, training),
        covariance=recipe.covariance,
        population=population,
    )
    return Programs(cast(Program, model), cast(Any, guide))


def _dtype(recipe: Recipe) -> Any:
    """What the networks compute in; None is the type of their inputs."""
    return jnp.bfloat16 if recipe.training.precision == "bfloat16" else None
