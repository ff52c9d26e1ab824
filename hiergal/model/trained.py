"""A trained model: the networks of a recipe with their numbers, the densities over their latents, and its origin."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
from hiergal.runtime.upward import upward

if TYPE_CHECKING:
    import galsim

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


if TYPE_CHECKING:
    Fitted = Any
else:  # None before it is fitted: ``condition_names`` and ``prior_of`` refuse a model without
    Fitted = ConditionalFlow | None


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

    Example:
        >>> import hiergal
        >>> model = hiergal.load_model("hub:mock-acs")
        >>> model.recipe.shape, model.provenance.flux_unit
        ((64, 64), 'counts per second')
    """

    params: dict[str, Any]
    flow: Fitted
    recipe: Recipe = static()
    provenance: Provenance = static()
    marginal: Fitted = None
    guide_flow: Fitted = None
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

    def sample(
        self,
        catalog: Any = None,
        *,
        rng: "galsim.BaseDeviate | Sequence[galsim.BaseDeviate] | None" = None,
        key: jax.Array | int | None = None,
        n: int | None = None,
        flux: Any = None,
        half_light_radius: Any = None,
        magnitude_zero_point: float | None = None,
        psf: "galsim.GSObject | None" = None,
        outside: str = "warn",
        missing: str = "raise",
        identifier: str | None = None,
        **options: Any,
    ) -> "list[galsim.GSObject]":
        """Draw new galaxies as GalSim objects, one for each row of a catalogue.

        Args:
            catalog: Astropy table, structured array, pandas frame or mapping with the columns
                ``model.flow.config.conditions``; columns with units are converted. None for ``n`` galaxies of the
                model's population.
            rng: GalSim's generator of random numbers, or one for each galaxy; default a new one, seeded by the system.
                One generator gives the same galaxies, drawn together or one at a time (together is faster).
            key: In its place, a PRNG key of JAX, or a seed: the galaxy of a row then depends on the key, its conditions
                and the row's place alone, and its profile is that of :func:`hiergal.draw_profiles`.
            n: Number of galaxies, where no catalogue says it.
            flux: Exact flux of each, or of all; ``"catalog"`` for that of the catalogue's magnitudes; default what the
                model gives, which scatters about the magnitude, and lacks what is beyond the stamp.
            half_light_radius: Exact half-light radius as ``GSObject.calculateHLR`` measures it, of each or of all
                [arcsec].
            magnitude_zero_point: Zero point that fluxes shall have [mag]; default the model's. A ``flux`` stays as it
                is.
            psf: A PSF to convolve with; a warning is given if it is narrower than the training survey's.
            outside: What to do with conditions outside the trained range (:mod:`hiergal.model.trained_range`): ``warn``
                draws them with a warning, except those far outside (99 or -99 for "not measured"), which give objects
                of flux 0; ``raise`` refuses them, and takes no random numbers; ``ignore`` draws all.
            missing: What to do if the catalogue lacks a condition: ``raise``, or ``population`` to draw it from the
                model's population, of galaxies that are like what is known.
            identifier: A column that tells galaxies apart (integers or text): random numbers then follow it, and a
                galaxy stays the same when other rows are dropped, added or sorted. ``rng`` gives one number in all.
            options: Further arguments of ``galsim.InterpolatedImage``: ``x_interpolant`` (of photons that are shot,
                19 % are negative with GalSim's default, a quintic; none are with ``"linear"``, which changes sizes by
                3 %), ``k_interpolant``, ``pad_factor``, ``gsparams``; ``noise`` (a variance or a correlated noise) and
                ``noise_pad_size`` [arcsec], to continue noise around each stamp.

        Returns:
            Unconvolved galaxies (convolved, with ``psf``), in the order of the rows; always a list. Those of a model
            with a ``profile_fwhm_arcsec`` can be drawn with any PSF that is wider than that, and with no narrower one.

        Raises:
            TypeError: If the catalogue has no named columns.
            ValueError: If the model has no flow, columns are missing or not finite, or sizes do not match.
            RuntimeError: In a fork of a process that has used JAX (``multiprocessing`` without ``"spawn"``).

        Example:
            >>> import galsim
            >>> import hiergal
            >>> model = hiergal.load_model("hub:mock-acs")
            >>> catalog = {"mag_auto": [22.5], "flux_radius": [10.0], "zphot": [0.8]}
            >>> (galaxy,) = model.sample(catalog, rng=galsim.BaseDeviate(1))
            >>> image = galsim.Convolve(galaxy.shear(g1=0.05), galsim.Gaussian(fwhm=0.7)).drawImage(scale=0.2)
        """
        return upward("hiergal.galsim.model.sample_galaxies")(
            self,
            catalog,
            rng=rng,
            key=key,
            n=n,
            flux=flux,
            half_light_radius=half_light_radius,
            magnitude_zero_point=magnitude_zero_point,
            psf=psf,
            outside=outside,
            missing=missing,
            identifier=identifier,
            **options,
        )

    def __repr__(self) -> str:
        """Describe it in one line."""
        about, (ny, nx) = self.provenance, self.recipe.shape
        densities = ", ".join(name for name in DENSITIES if getattr(self, name) is not None) or "no flow"
        trained = f"{about.galaxies} galaxies of {about.survey} {about.band}"
        return (
            f"GalaxyModel({self.recipe.name!r}, trained on {trained}, {ny} x {nx} pixels of "
            f"{self.recipe.pixel_scale_arcsec} arcsec, {self.recipe.generator.latents} latents, {densities})"
        )


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
