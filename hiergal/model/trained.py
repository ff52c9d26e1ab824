"""A trained model: the networks of a recipe with their numbers, the densities over their latents, and its origin."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Float

from hiergal.model.architecture import (
    Programs,
    encode,
    encoder_of,
    generator_of,
    image_of,
    renderer_of,
    trained_programs,
)
from hiergal.model.condition_columns import check_numbers, numbers_from
from hiergal.model.flow.density import ConditionalFlow
from hiergal.model.nets.registry import LightBeyond
from hiergal.model.prior import LatentFlow
from hiergal.model.profile_grid import ProfileGrid, grid_of
from hiergal.model.program import Program
from hiergal.model.provenance import Provenance
from hiergal.observation.observation import Observation
from hiergal.observation.psf import PSF
from hiergal.recipe.network_kinds import kind_of
from hiergal.recipe.recipe import Recipe
from hiergal.runtime.pytree import Array, Record, record, static
from hiergal.runtime.upward import upward

if TYPE_CHECKING:
    import galsim

__all__ = [
    "DENSITIES",
    "GalaxyModel",
    "check_model",
]

DENSITIES = ("flow", "marginal", "posterior_flow")


if TYPE_CHECKING:
    Fitted = Any
else:  # None before it is fitted: ``condition_names`` and ``latent_flow`` refuse a model without
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
        posterior_flow: Shape of posteriors beyond their Laplace approximation
            (:mod:`hiergal.posterior.samplers.posterior_flow`), or None before it is fitted.
        population: Conditions of some of the training galaxies, a fair sample, columns as in
            ``flow.config.conditions``; None for a model without a latent flow, or of an old bundle.

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
    posterior_flow: Fitted = None
    population: Float[Array, "k c"] | None = None

    @property
    def generator(self) -> nn.Module:
        """Network from latents [n, d] to light profiles; its parameters are ``params["generator$params"]``."""
        return generator_of(self.recipe)

    @property
    def encoder(self) -> nn.Module:
        """Network of the guide; its parameters are ``params["encoder$params"]``."""
        return encoder_of(self.recipe)

    @property
    def condition_names(self) -> tuple[str, ...]:
        """Names of what the flow is conditioned on, in order."""
        if self.flow is None:
            raise ValueError(
                "conditions: expected a model with a latent flow, got one without; fit it with `hiergal fit-prior`"
            )
        return self.flow.config.conditions

    def decode(self, z: Float[Array, "n d"], grid: ProfileGrid | None = None) -> Float[jax.Array, "n y x"]:
        """Return the light profiles g(z) [flux per pixel].

        Args:
            z: Latents.
            grid: Pixels to draw them on, for a generator whose light is a function on the plane
                (:func:`~hiergal.model.profile_grid.scaled_grid`); default those of training.

        Raises:
            ValueError: If the generator has no other pixels than those of training, and others are asked for.
        """
        if grid is None or grid == grid_of(self.recipe):
            generator = self.generator
        else:
            generator = generator_of(self.recipe, grid=grid)
        return generator.apply({"params": self.params["generator$params"]}, jnp.asarray(z))

    def light_beyond(self, z: Float[Array, "n d"], half_sides: tuple[float, ...]) -> LightBeyond:
        """Return the light of galaxies beyond squares around the centre of their stamp.

        Args:
            z: Latents.
            half_sides: Half the sides of the squares [pixels of the model].

        Raises:
            ValueError: If the generator's light ends with its stamp.
        """
        if not self.recipe.generator.any_grid:
            kind = kind_of(self.recipe.generator)
            raise ValueError(
                f"expected a generator whose light is a function on the plane, got one of kind {kind!r}"
            )
        params = {"params": self.params["generator$params"]}
        return self.generator.apply(params, jnp.asarray(z), half_sides=half_sides)

    def render(
        self,
        profile: Float[Array, "*n y x"],
        psf: PSF,
        positions: Float[Array, "*n 2"] | None = None,
        shape: tuple[int, int] | None = None,
    ) -> Float[jax.Array, "*n v u"]:
        """Return noise-free images of profiles at PSFs [flux per pixel]: see :func:`hiergal.model.program.render`."""
        return renderer_of(self.recipe)(profile, psf, positions=positions, shape=shape)

    def image(self, z: Float[Array, "*n d"], psf: PSF) -> Float[jax.Array, "*n y x"]:
        """Return noise-free stamps [flux per pixel]; unlike :meth:`render` with the light from around them.

        Args:
            z: Latents, [n, d], or of several draws of each galaxy [s, n, d].
            psf: PSFs of the n galaxies.
        """
        z, margin = jnp.asarray(z), self.recipe.generator.margin_pix
        if margin:
            return image_of(self.recipe, self.params, z, psf)
        profile = self.decode(z.reshape(-1, z.shape[-1]))
        return self.render(profile.reshape(*z.shape[:-1], *profile.shape[1:]), psf)

    def encode(self, observation: Observation) -> Float[jax.Array, "n outputs"]:
        """Return what the guide says of galaxies: see :func:`hiergal.model.guide.posterior_from`."""
        if self.recipe.encoder.refinement_steps:
            return encode(self.recipe, self.params, observation)
        return self.encoder.apply({"params": self.params["encoder$params"]}, observation)

    def programs(self, prior: dist.Distribution | None = None) -> Programs:
        """Return the NumPyro model (Fig. 2) and guide with the trained parameters in them.

        Both are functions of an observation in any unit of flux, for one's own NUTS, SVI and ``Predictive``. The model
        conditions on the stamps, or simulates them where ``image`` is None; its noise and likelihood are those of
        :func:`hiergal.infer`, without what belongs to training alone. It takes ``positions`` [n, k, 2], too, and
        ``position_error_pix`` and ``shape``, for stamps with k sources: all as in
        :func:`hiergal.model.program.galaxy_model`, which says what the sites are. The guide is the amortised one, for
        single galaxies.

        The parameters are constants: SVI around the model learns those of its guide alone. To go on training the
        networks, take ``hiergal.model.architecture.programs_of(model.recipe)``, and start SVI with
        ``init_params=model.params``.

        Args:
            prior: Prior of the latents, batch shape () or [n] ([n, k] for k sources), event shape [d]. Default the unit
                normal of training, under which the guide was learnt. :func:`hiergal.infer` takes the latent flow:
                ``model.programs(prior=model.latent_flow(conditions))`` has the posterior that it draws from.

        Returns:
            The programs, ``model`` and ``guide``.

        Example:
            >>> import hiergal
            >>> from numpyro.infer import Predictive
            >>> model = hiergal.load_model("hub:mock-acs")
            >>> about = {"psf": np.ones((3, 3)) / 9, "rms": 0.03, "pixel_scale_arcsec": 0.03}
            >>> stamp = Observation.from_arrays(np.zeros((64, 64)), **about)
            >>> program, guide = model.programs()
            >>> drawn = Predictive(program, num_samples=2)(jax.random.key(0), stamp.replace(image=None))
            >>> drawn["z"].shape, drawn["image"].shape
            ((2, 1, 16), (2, 1, 64, 64))
            >>> galaxy = stamp.replace(image=np.asarray(drawn["image"][0]))
            >>> Predictive(guide, num_samples=3)(jax.random.key(1), galaxy)["z"].shape
            (3, 1, 16)

            NumPyro's own sampler for its posterior, under the prior that :func:`hiergal.infer` takes;
            ``mcmc.run(jax.random.key(2), galaxy)`` draws:

            >>> from numpyro.infer import MCMC, NUTS
            >>> program = model.programs(prior=model.latent_flow()).model
            >>> mcmc = MCMC(NUTS(program), num_warmup=500, num_samples=500)
        """
        return trained_programs(
            self.recipe, self.generator, self.encoder, self.params, self.provenance.photometry, prior
        )

    def program(self) -> Program:
        """Return the NumPyro model alone, with the unit-normal prior of training: ``programs().model``."""
        return self.programs().model

    def latent_flow(self, conditions: Any = None) -> LatentFlow:
        """Return the prior that :func:`hiergal.infer` takes, p(z | conditions), as a NumPyro distribution.

        Args:
            conditions: What is known of each galaxy: a table, whose columns with units are converted, or numbers
                [..., c], columns as in ``model.flow.config.conditions``, also traced by JAX; None for nothing.

        Returns:
            The flow for these conditions, with the batch shape of the rows of a table, or [...]; without conditions its
            marginal, batch shape (); a unit normal for a model without flow. Event shape [d].

        Raises:
            ValueError: If conditions are not finite, or not those of the flow, or the model lacks what is needed.

        Example:
            >>> import hiergal
            >>> model = hiergal.load_model("hub:mock-acs")
            >>> prior = model.latent_flow({"mag_auto": [22.0, 24.0], "flux_radius": [12.0, 6.0], "zphot": [0.4, 1.0]})
            >>> prior
            LatentFlow(given mag_auto, flux_radius, zphot, batch_shape=(2,), event_shape=(16,))
            >>> z = jax.jit(prior.sample)(jax.random.key(0))
            >>> z.shape, jax.jit(prior.log_prob)(z).shape
            ((2, 16), (2,))
        """
        latents = self.recipe.generator.latents
        if conditions is None:
            if self.flow is not None and self.marginal is None:
                raise ValueError(
                    "expected a model whose flow has a marginal, got one that was fitted by an older hiergal; fit it "
                    "again with `hiergal fit-prior`, or give conditions"
                )
            return LatentFlow(self.marginal, np.zeros(0, np.float32), latents=latents)
        names, scale = self.condition_names, self.recipe.pixel_scale_arcsec
        units = self.provenance.condition_units
        numbers = numbers_from(names, conditions, units=units, pixel_scale_arcsec=scale)
        return LatentFlow(self.flow, check_numbers(names, numbers))

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
        pixel_scale_arcsec: float | None = None,
        **options: Any,
    ) -> "list[galsim.GSObject]":
        """Draw new galaxies as GalSim objects, one for each row of a catalogue.

        Where the generator gives a function on the plane (kind ``framed``), each galaxy comes on a stamp as large as
        its light (:mod:`hiergal.simulate.stamps`); where it does not, on that of the model.

        Args:
            catalog: Astropy table, structured array, pandas frame or mapping with the columns
                ``model.flow.config.conditions``; columns with units are converted. None for ``n`` galaxies of the
                model's population.
            rng: GalSim's generator of random numbers, or one for each galaxy; default a new one, seeded by the system.
                One generator gives the same galaxies, drawn together or one at a time (together is faster).
            key: In its place, a PRNG key of JAX, or a seed: the galaxy of a row then depends on the key, its conditions
                and the row's place alone, and its profile is that of :func:`hiergal.draw_profiles` (on a stamp as large
                as its light, where the generator can).
            n: Number of galaxies, where no catalogue says it.
            flux: Exact flux of each, or of all; ``"catalog"`` for that of the catalogue's magnitudes; default what the
                model gives, which scatters about the magnitude, and lacks what is beyond the stamp (at most 0.5 % where
                stamps are as large as the light).
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
            pixel_scale_arcsec: Width of the pixels that galaxies are drawn on, where the generator gives a function on
                the plane [arcsec]; default that of the model. Their ``profile_fwhm_arcsec`` shrinks with it, so that
                they can be drawn with narrower PSFs; memory and time grow as its inverse square.
            options: Further arguments of ``galsim.InterpolatedImage``: ``x_interpolant`` (of photons that are shot,
                19 % are negative with GalSim's default, a quintic; none are with ``"linear"``, which changes sizes by
                3 %), ``k_interpolant``, ``pad_factor``, ``gsparams``; ``deconvolve=False`` to keep the Gaussian of a
                ``profile_fwhm_arcsec``, as photons of what is deconvolved cannot be shot (with finer pixels it is
                narrower); ``noise`` (a variance or a correlated noise) and
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
            pixel_scale_arcsec=pixel_scale_arcsec,
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
