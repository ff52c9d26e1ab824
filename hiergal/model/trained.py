"""A trained model: the networks of a recipe with their numbers, the densities over their latents, and its origin."""

import re
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
from jaxtyping import Float

from hiergal.model.architecture import (
    encoder_of,
    generator_of,
    guide_flow_config,
    marginal_config,
    renderer_of,
)
from hiergal.model.flow.density import ConditionalFlow
from hiergal.model.program import Program, galaxy_model
from hiergal.model.weights import with_weights
from hiergal.observation.independent import WhiteNoise
from hiergal.observation.observation import Observation
from hiergal.observation.photometry import Photometry
from hiergal.observation.psf import PSF
from hiergal.recipe.recipe import Recipe
from hiergal.runtime.pytree import Array, Record, record, static

__all__ = [
    "DENSITIES",
    "GalaxyModel",
    "ParameterCounts",
    "Provenance",
    "blank_model",
    "check_model",
    "parameter_counts",
]

DENSITIES = ("flow", "marginal", "guide_flow")


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model was trained on, and in which units it speaks.

    Attributes:
        survey: Name of the survey.
        band: Its filter.
        flux_unit: Unit of fluxes.
        magnitude_zero_point: Magnitude of a source of unit flux [mag].
        galaxies: Number of training galaxies.
        seed: Seed of the training.
        version: Version of hiergal that trained it.
        condition_ranges: Smallest and largest value of each condition among the training galaxies.
        survey_provenance: What the survey says of itself.
        condition_units: Unit of each condition in words.
        psf_fwhm_arcsec: Median full width at half maximum of the training galaxies' PSFs; None where nobody measured
            it [arcsec].
        runs: Digests of the fits of its flow and guide flow, and of its publication, by which the same is recognised.
        trained_ranges: Smallest and largest flux, half-light radius (``hlr_arcsec``) of the fits to its training
            galaxies, and their noise (``noise_level`` [flux per pixel]) and PSF widths (``psf_fwhm_arcsec``, of
            Gaussians of the same noise-equivalent area): :mod:`hiergal.training.ranges`; empty in models from before.
    """

    survey: str
    band: str
    flux_unit: str
    magnitude_zero_point: float
    galaxies: int
    seed: int
    version: str
    condition_ranges: dict[str, tuple[float, float]] = {}
    survey_provenance: dict[str, Any] = {}
    condition_units: dict[str, str] = {}
    psf_fwhm_arcsec: float | None = None
    runs: dict[str, str] = {}
    trained_ranges: dict[str, tuple[float, float]] = {}

    @property
    def photometry(self) -> Photometry:
        """Unit and zero point of the model's fluxes: those of the survey that it was trained on."""
        return Photometry(self.flux_unit, self.magnitude_zero_point)


@record
class GalaxyModel(Record):
    """A trained model: generator, guide, and the flow over its latents.

    Attributes:
        params: Parameters of the networks, by NumPyro's site names.
        flow: Density of the latents given conditions, or None before it is fitted.
        recipe: How the networks are built.
        provenance: What the model was trained on.
        marginal: Density of the latents where no conditions are known, or None before it is fitted.
        guide_flow: Shape of posteriors beyond their Laplace approximation
            (:mod:`hiergal.posterior.samplers.posterior_flow`), or None before it is fitted.
        population: Conditions of some of the training galaxies, a fair sample, columns as in
            ``flow.config.conditions``; None for a model without a flow, or of an old bundle.
    """

    params: dict[str, Any]
    flow: ConditionalFlow | None
    recipe: Recipe = static()
    provenance: Provenance = static()
    marginal: ConditionalFlow | None = None
    guide_flow: ConditionalFlow | None = None
    population: Float[Array, "k c"] | None = None

    def decode(self, z: Float[jax.Array, "n d"]) -> Float[jax.Array, "n y x"]:
        """Return the light profiles g(z) [flux per pixel]."""
        return generator_of(self.recipe).apply({"params": self.params["generator$params"]}, z)

    def render(self, profile: Float[Array, "*n y x"], psf: PSF) -> Float[jax.Array, "*n y x"]:
        """Return noise-free stamps of profiles at PSFs [flux per pixel]: see :func:`hiergal.model.program.render`."""
        return renderer_of(self.recipe)(profile, psf)

    def encode(self, observation: Observation) -> Float[jax.Array, "n outputs"]:
        """Return the outputs of the guide's network."""
        return encoder_of(self.recipe).apply({"params": self.params["encoder$params"]}, observation)

    def program(self) -> Program:
        """Return the NumPyro program (Fig. 2) with this model's generator in it, for NUTS and ``Predictive``.

        It is a function of an observation, whose stamps it conditions on, or simulates where ``image`` is None, in the
        model's unit of flux. Sites are ``z`` [n, d], ``profile`` and ``image``. The weights are constants. Noise and
        likelihood are those of :func:`hiergal.infer`, without what belongs to training alone. The prior of ``z`` is the
        unit normal of training; ``infer`` takes the model's flow, where it has one.

        Example:
            >>> from numpyro.infer import MCMC, NUTS, Predictive  # doctest: +SKIP
            >>> mcmc = MCMC(NUTS(model.program()), num_warmup=200, num_samples=200)  # doctest: +SKIP
            >>> mcmc.run(jax.random.key(0), observation)  # doctest: +SKIP
            >>> simulated = Predictive(model.program(), num_samples=5)  # doctest: +SKIP
            >>> simulated(jax.random.key(1), observation.replace(image=None))["image"]  # doctest: +SKIP
        """
        recipe = self.recipe
        bare = partial(
            galaxy_model,
            generator=generator_of(recipe),
            latents=recipe.generator.latents,
            pixel_scale_arcsec=recipe.pixel_scale_arcsec,
            profile_fwhm_arcsec=recipe.profile_fwhm_arcsec,
            blur=recipe.objective.blur,
        )
        trained = with_weights(bare, {"generator$params": self.params["generator$params"]})

        def program(observation: Observation) -> None:
            """State how galaxies come about, with the generator of a trained model."""
            trained(observation.in_photometry(self.provenance.photometry).bare())

        return program


def check_model(model: Any) -> GalaxyModel:
    """Check that something is a trained model, not the name of one, and return it.

    Args:
        model: What was given as a model.

    Raises:
        TypeError: If it is something else; the error says how a model is loaded.

    Example:
        >>> check_model("hub:mock-acs")
        Traceback (most recent call last):
        ...
        TypeError: model: expected a trained model, got 'hub:mock-acs'; load it: hiergal.load_model('hub:mock-acs')
    """
    if isinstance(model, GalaxyModel):
        return model
    if isinstance(model, str | Path):
        name = str(model)
        if re.fullmatch(r"[\w-]+", name) and not Path(name).exists():  # the name of a published model
            name = f"hub:{name}"
        raise TypeError(
            f"model: expected a trained model, got {str(model)!r}; load it: hiergal.load_model({name!r})"
        )
    inner = "; give its .model" if isinstance(getattr(model, "model", None), GalaxyModel) else ""
    raise TypeError(
        f"model: expected a trained model, as hiergal.load_model returns, got {type(model).__name__}{inner}"
    )


class ParameterCounts(NamedTuple):
    """How many numbers a model has.

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
        "guide_flow": guide_flow_config(recipe),
    }
    fitted = {name: ConditionalFlow.untrained(key, configs[name], d) for name in densities}
    rows = jnp.zeros((population, len(recipe.flow.conditions))) if population else None
    return GalaxyModel(params, fitted.pop("flow", None), recipe, provenance, population=rows, **fitted)
