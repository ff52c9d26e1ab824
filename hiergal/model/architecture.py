"""From a recipe to networks, and from networks to the two NumPyro programs that share them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Float
from msgspec.structs import replace

from hiergal.model.guide import Refine, galaxy_guide, output_count
from hiergal.model.nets.registry import build_network
from hiergal.model.profile_grid import ProfileGrid, check_grid, grid_of, grid_with_margin
from hiergal.model.program import Program, galaxy_model, render, without_margin
from hiergal.model.refinement import refined
from hiergal.model.weights import with_weights
from hiergal.observation.observation import Observation
from hiergal.observation.photometry import Photometry
from hiergal.observation.psf import FWHM_PER_SIGMA, PSF
from hiergal.recipe.config import FlowConfig
from hiergal.recipe.recipe import Recipe
from hiergal.runtime.pytree import Array

__all__ = [
    "Programs",
    "encode",
    "encoder_of",
    "generator_of",
    "image_of",
    "posterior_flow_cells",
    "posterior_flow_config",
    "prior_cells",
    "marginal_config",
    "programs_of",
    "renderer_of",
    "trained_programs",
]


class Programs(NamedTuple):
    """The model of Fig. 2 and its guide, ready for SVI, ``Predictive`` and NUTS."""

    model: Program
    guide: Program


def generator_of(recipe: Recipe, training: bool = False, grid: ProfileGrid | None = None) -> nn.Module:
    """Return the generator network that a recipe describes.

    Args:
        recipe: The recipe.
        training: Whether gradients take their fast forms, which have no forward mode. The paper's networks do so
            wherever they get their aids.
        grid: Pixels of the profiles; default the recipe's. The parameters are those of any.

    Raises:
        ValueError: If the generator has no other pixels than the recipe's, and others are asked for.
    """
    grid = grid_of(recipe) if grid is None else grid
    check_grid(recipe, grid)
    blur_pix = grid.profile_fwhm_arcsec / recipe.pixel_scale_arcsec / FWHM_PER_SIGMA
    step = grid.pixel_scale_arcsec / recipe.pixel_scale_arcsec
    about = {"shape": grid.shape, "dtype": _dtype(recipe), "training": training, "blur_pix": blur_pix}
    return build_network(recipe.generator, step=step, **about)


def encoder_of(recipe: Recipe, training: bool = False) -> nn.Module:
    """Return the network of the guide that a recipe describes; ``training`` as for :func:`generator_of`."""
    outputs = output_count(recipe.generator.latents, recipe.covariance)
    about = {"shape": recipe.shape, "outputs": outputs, "dtype": _dtype(recipe), "training": training}
    return build_network(recipe.encoder, generator=recipe.generator, **about)


def encode(recipe: Recipe, params: dict[str, Any], observation: Observation) -> Float[jax.Array, "n outputs"]:
    """Return what the guide says of galaxies: the outputs of its network, refined if the recipe says so.

    Args:
        recipe: The recipe.
        params: Parameters of the networks, by NumPyro's site names.
        observation: The galaxies.
    """
    outputs = encoder_of(recipe).apply({"params": params["encoder$params"]}, observation)
    refine = _refinement_of(recipe)
    if refine is None:
        return outputs
    generator = generator_of(recipe, grid=grid_with_margin(recipe))
    return refine(outputs, observation, partial(generator.apply, {"params": params["generator$params"]}))


def _refinement_of(recipe: Recipe) -> Refine | None:
    steps = recipe.encoder.refinement_steps
    if not steps:
        return None
    rendered = renderer_of(recipe)

    def refine(
        outputs: jax.Array, observation: Observation, generate: Callable[[jax.Array], jax.Array]
    ) -> jax.Array:
        def stamps(z: jax.Array) -> jax.Array:
            return without_margin(rendered(generate(z), observation.psf), recipe.generator.margin_pix)

        return refined(outputs, observation, stamps, recipe.covariance, steps)

    return refine


def renderer_of(recipe: Recipe) -> Callable[..., jax.Array]:
    """Return :func:`hiergal.model.program.render` for the profiles of a recipe: a function of profiles and PSFs."""
    return partial(
        render,
        pixel_scale_arcsec=recipe.pixel_scale_arcsec,
        profile_fwhm_arcsec=recipe.profile_fwhm_arcsec,
        blur=recipe.objective.blur,
    )


def image_of(
    recipe: Recipe, params: dict[str, Any], z: Float[Array, "*n d"], psf: PSF
) -> Float[jax.Array, "*n y x"]:
    """Return noise-free stamps [flux per pixel], with the light that is scattered into them.

    Args:
        recipe: The recipe.
        params: Parameters of the networks, by NumPyro's site names.
        z: Latents.
        psf: PSFs of the galaxies.
    """
    margin = recipe.generator.margin_pix
    generator = generator_of(recipe, grid=grid_with_margin(recipe))
    profile = generator.apply({"params": params["generator$params"]}, z.reshape(-1, z.shape[-1]))
    profile = profile.reshape(*z.shape[:-1], *profile.shape[1:])
    return without_margin(renderer_of(recipe)(profile, psf), margin)


def marginal_config(recipe: Recipe) -> FlowConfig:
    """Return the configuration of the flow over latents without conditions."""
    return replace(recipe.flow, conditions=())


def prior_cells(recipe: Recipe) -> tuple[int, int, int] | None:
    """Return the cells of the flow over the latents: see :class:`~hiergal.model.flow.density.ConditionalFlow`."""
    found = recipe.generator.cell_latents
    return None if found is None else (*found, 0)


def posterior_flow_cells(recipe: Recipe) -> tuple[int, int, int] | None:
    """Return the cells of the posterior flow, each of which is told the guide's means and scales of its latents."""
    found = recipe.generator.cell_latents
    return None if found is None else (*found, 2 * found[1])


def posterior_flow_config(recipe: Recipe) -> FlowConfig:
    """Return the configuration of the posterior flow: see :mod:`hiergal.posterior.samplers.posterior_flow`.

    Its conditions are means and scales of the latents, and whether conditions were given; those of cells come last, one
    cell after the other.
    """
    d, cells = recipe.generator.latents, recipe.generator.cell_latents
    count = 0 if cells is None else cells[0] ** 2
    each = 0 if cells is None else cells[1]
    whole = d - count * each
    names = [*(f"mean_{i}" for i in range(whole)), *(f"log_scale_{i}" for i in range(whole)), "given"]
    for cell in range(count):
        own = range(whole + cell * each, whole + (cell + 1) * each)
        names += [*(f"mean_{i}" for i in own), *(f"log_scale_{i}" for i in own)]
    return replace(recipe.posterior_flow, conditions=tuple(names))


def programs_of(recipe: Recipe, plate_size: int | None = None, training: bool = False) -> Programs:
    """Return the model and the guide that a recipe describes.

    Args:
        recipe: The recipe.
        plate_size: Number of galaxies that a batch stands for; default the batch itself.
        training: As for :func:`generator_of`.

    Example:
        >>> model, guide = programs_of(Recipe())
    """
    model = partial(
        galaxy_model,
        generator=generator_of(recipe, training, grid_with_margin(recipe)),
        latents=recipe.generator.latents,
        pixel_scale_arcsec=recipe.pixel_scale_arcsec,
        profile_fwhm_arcsec=recipe.profile_fwhm_arcsec,
        plate_size=plate_size,
        total_variation_weight=recipe.objective.total_variation_weight,
        misfit_as_noise=recipe.objective.misfit_as_noise,
        blur=recipe.objective.blur,
        noise=recipe.objective.noise,
        noise_sigma=recipe.objective.noise_sigma,
        margin=recipe.generator.margin_pix,
    )
    guide = partial(
        galaxy_guide,
        encoder=encoder_of(recipe, training),
        covariance=recipe.covariance,
        plate_size=plate_size,
        refine=_refinement_of(recipe),
        generator=generator_of(recipe, training, grid_with_margin(recipe)),
        latents=recipe.generator.latents,
    )
    return Programs(cast(Program, model), cast(Any, guide))


def trained_programs(
    recipe: Recipe,
    generator: nn.Module,
    encoder: nn.Module,
    params: dict[str, Any],
    photometry: Photometry,
    prior: dist.Distribution | None = None,
) -> Programs:
    """Return model and guide with parameters as constants, for observations in any unit of flux.

    What belongs to training alone is left out of the likelihood. :meth:`hiergal.GalaxyModel.programs` says the rest.

    Args:
        recipe: The recipe.
        generator: Network from latents to light profiles.
        encoder: Network of the guide.
        params: Parameters of the networks, by NumPyro's site names.
        photometry: Unit and zero point of the fluxes that the networks know.
        prior: Prior of the latents; default unit normal.
    """
    stamps = partial(
        galaxy_model,
        generator=generator,
        latents=recipe.generator.latents,
        pixel_scale_arcsec=recipe.pixel_scale_arcsec,
        profile_fwhm_arcsec=recipe.profile_fwhm_arcsec,
        blur=recipe.objective.blur,
        prior=prior,
        margin=recipe.generator.margin_pix,
    )
    encoded = partial(
        galaxy_guide,
        encoder=encoder,
        covariance=recipe.covariance,
        refine=_refinement_of(recipe),
        generator=generator,
        latents=recipe.generator.latents,
    )
    trained = with_weights(stamps, {"generator$params": params["generator$params"]})
    amortised = with_weights(encoded, params)

    def model(
        observation: Observation,
        positions: Float[Array, "n k 2"] | None = None,
        *,
        position_error_pix: float = 0.0,
        shape: tuple[int, int] | None = None,
    ) -> None:
        """State how stamps come about, with the generator of a trained model."""
        sources = {"positions": positions, "position_error_pix": position_error_pix, "shape": shape}
        trained(observation.in_photometry(photometry).bare(), **sources)

    def guide(observation: Observation) -> None:
        """State the approximate posteriors of single galaxies, with the encoder of a trained model."""
        amortised(observation.in_photometry(photometry).bare())

    return Programs(cast(Program, model), cast(Any, guide))


def _dtype(recipe: Recipe) -> Any:
    """Floating-point type of the networks' computations; None for the type of their inputs."""
    return jnp.bfloat16 if recipe.training.precision == "bfloat16" else None
