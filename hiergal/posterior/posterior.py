"""Posteriors of observed galaxies: latents, images and numbers, with errors (paper, Eqs. 2 and 8).

:func:`infer` describes the seven methods. The prior is the model's flow given conditions, if they are given, and its
marginal if not (:mod:`hiergal.model.prior`); ``amortized`` alone does not use it. Galaxies go through one compiled
program in batches of one size, and only summaries of the images are kept, so memory does not grow with the number of
draws.
"""

from dataclasses import field, fields
from dataclasses import replace as dataclasses_replace
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from hiergal.measure.profile import ProfileSummary
from hiergal.model.conditions import given_conditions
from hiergal.model.trained import GalaxyModel, check_model
from hiergal.observation.observation import Observation
from hiergal.observation.psf import PSF
from hiergal.posterior.origin import Origin
from hiergal.posterior.samplers.methods import METHODS, Method
from hiergal.runtime.pytree import Array, Record, Rows, record, rows_with_axis
from hiergal.runtime.upward import upward
from hiergal.survey.given import galaxies_of

__all__ = [
    "METHODS",
    "Method",
    "Posterior",
    "credible_interval",
    "interval",
]

STATISTICS = ("k_hat", "ess", "r_hat", "ess_nuts", "divergences")
OF_DRAWS = ("latents", "summary", "diverging")  # fields whose first axis is that of draws


@record
class Posterior(Record):
    """Posteriors of a batch of galaxies: s draws each, and summaries of their images.

    ``posterior[0]``, ``posterior[10:20]`` and ``posterior[flags == 0]`` are posteriors of some of them, and a loop
    goes over one after the other. What :func:`infer` returns keeps its model and its galaxies, so that its methods need
    neither; :meth:`attach` gives them to others.

    Attributes:
        latents: Draws of z.
        summary: Flux, half-light radius, centroid and ellipticity of each draw's profile.
        profile_mean: Mean of the deconvolved profile (up to the recipe's ``profile_fwhm_arcsec``) [flux per pixel].
        profile_std: Its standard deviation [flux per pixel].
        image_mean: Mean of the profile convolved with the galaxy's PSF: the denoised image [flux per pixel].
        chi_square: Reduced chi-square of ``image_mean`` against the data.
        misfit: How far the fit is worse than noise explains (:func:`hiergal.posterior.samplers.laplace.misfit`); NaN
            for ``amortized``.
        variance_factor: What the variance of the noise was multiplied by: ``misfit`` where that exceeds one
            significantly, else one.
        method: Which method the draws of each galaxy come from, a place in ``METHODS``.
        statistics: Diagnostics of each galaxy, NaN where a method has none: ``k_hat`` and ``ess`` of importance
            sampling, ``r_hat``, ``ess_nuts`` (worst over the latents) and ``divergences`` of NUTS.
        identifier: Identifier of each galaxy.
        flag: The verdict, bits of :class:`hiergal.posterior.verdict.Flag`; 0 where nothing speaks against the
            posterior, None where not checked (``verdict=False``).
        checks: Statistics and p-values that it rests on (:mod:`hiergal.posterior.verdict`).
        diverging: Whether a draw of NUTS ended a trajectory that diverged; False of other methods.

    Example:
        >>> import hiergal
        >>> from hiergal.survey.mock.galaxies import draw_mock
        >>> model = hiergal.load_model("hub:mock-acs")
        >>> observation = draw_mock(2, seed=1).observation
        >>> posterior = hiergal.infer(model, observation, key=0, method="amortized", draws=40)
        >>> posterior
        Posterior(2 galaxies of 64 x 64 pixels, 40 draws of 16 latents by amortized, ... flagged)
        >>> posterior[0].draws_of("flux").shape
        (40, 1)
    """

    latents: Float[Array, "s n d"]
    summary: ProfileSummary
    profile_mean: Float[Array, "n y x"]
    profile_std: Float[Array, "n y x"]
    image_mean: Float[Array, "n y x"]
    chi_square: Float[Array, "n"]
    misfit: Float[Array, "n"]
    variance_factor: Float[Array, "n"]
    method: Int[Array, "n"]
    statistics: dict[str, Float[Array, "n"]]
    identifier: Int[Array, "n"] | Shaped[np.ndarray, "n"]
    flag: Int[Array, "n"] | None = None
    checks: dict[str, Float[Array, "n"]] = field(default_factory=dict)
    diverging: Bool[Array, "s n"] | None = None

    origin: ClassVar[Origin | None] = None  # of an instance; no field, which JAX and pickles would carry

    def __len__(self) -> int:
        """Return the number of galaxies."""
        return self.identifier.shape[0]

    def __getitem__(self, rows: Rows) -> "Posterior":
        """Take the posteriors of some of the galaxies; of one row, too, the axis of galaxies stays.

        Raises:
            IndexError: If there is no such galaxy.
        """
        rows = rows_with_axis(rows, len(self))
        of_draws = {n: jax.tree.map(lambda x: x[:, rows], getattr(self, n)) for n in OF_DRAWS}
        rest = {
            f.name: jax.tree.map(lambda x: x[rows], getattr(self, f.name))
            for f in fields(self)
            if f.name not in of_draws
        }
        origin = None if self.origin is None else self.origin.select(rows)
        return Posterior(**of_draws, **rest)._with(origin)

    def __repr__(self) -> str:
        """Describe it in one line."""
        draws, n, latents = self.latents.shape
        by = f" by {', '.join(self._methods())}" if isinstance(self.method, np.ndarray) else ""
        flagged = "not judged"
        if isinstance(self.flag, np.ndarray):
            flagged = f"{np.count_nonzero(self.flag)} flagged" if self.flag.any() else "none flagged"
        pixels = " x ".join(map(str, self.profile_mean.shape[-2:]))
        galaxies = "galaxy" if n == 1 else "galaxies"
        return (
            f"Posterior({n} {galaxies} of {pixels} pixels, {draws} draws of {latents} latents{by}, {flagged})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Pickle all but the model."""
        state = dict(self.__dict__)
        return state if self.origin is None else state | {"origin": self.origin._replace(model=None)}

    def replace(self, **changes: Any) -> "Posterior":
        """Return a copy with some fields changed."""
        return super().replace(**changes)._with(self.origin)

    def attach(
        self, model: GalaxyModel, observation: Observation | Any = None, *, conditions: Any = None
    ) -> "Posterior":
        """Return the same posteriors with the model and the galaxies that they were inferred from.

        Args:
            model: The model that inferred them.
            observation: The galaxies, in the same order; or a survey's store, or its path. None for those that it
                has (a posterior that was pickled lacks its model only).
            conditions: What was given to :func:`infer`.

        Raises:
            ValueError: If they are other galaxies.

        Example:
            >>> import pickle
            >>> copy = pickle.loads(pickle.dumps(posterior))
            >>> bool((copy.attach(model).draws_of("flux") == posterior.draws_of("flux")).all())
            True
        """
        check_model(model)
        n = len(self)
        if observation is None:
            return self._with(self._kept(model=False)._replace(model=model))
        observation = galaxies_of(observation).in_photometry(model.provenance.photometry)
        upward("hiergal.posterior.predictive.check_same_galaxies")(self, observation)
        known = None if conditions is None else given_conditions(model, conditions, n)
        return self._with(Origin(model, observation, known, np.arange(n)))

    @property
    def observation(self) -> Observation:
        """The galaxies, in the model's unit of flux."""
        return self._kept(model=False).observation

    @property
    def model(self) -> GalaxyModel:
        """The model that inferred them."""
        return self._kept().model

    def draws_of(self, quantity: str) -> Float[np.ndarray, "s n"]:
        """Return the draws of a quantity, one column for each galaxy.

        Args:
            quantity: ``"flux"`` [the model's unit], ``"magnitude"`` [mag], ``"hlr_arcsec"``, the half-light radius
                [arcsec], ``"x_pix"`` and ``"y_pix"``, the centroid from the centre of the stamp [pixels], ``"g1"`` and
                ``"g2"``, the ellipticity ``|g| = (1 - q) / (1 + q)`` of unweighted moments; all of the deconvolved
                profile.

        Raises:
            ValueError: If it is none of these.

        Example:
            >>> posterior.draws_of("magnitude").shape
            (40, 4)
        """
        names = [f.name for f in fields(self.summary)]
        if quantity in names:
            return np.asarray(getattr(self.summary, quantity))
        if quantity != "magnitude":
            raise ValueError(f"quantity: expected one of magnitude, {', '.join(names)}, got {quantity!r}")
        with np.errstate(divide="ignore", invalid="ignore"):  # no light at all has no magnitude
            return self.model.provenance.magnitude_zero_point - 2.5 * np.log10(self.summary.flux)

    def credible_interval(
        self, quantity: str, probability: float = 0.68
    ) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
        """Return the equal-tailed credible interval of a quantity, for each galaxy (:func:`credible_interval`).

        Args:
            quantity: As for :meth:`draws_of`, which also says the units.
            probability: Posterior probability inside.

        Returns:
            Lower and upper ends, in the unit of the quantity.

        Raises:
            ValueError: If there is no such quantity.

        Example:
            >>> low, high = posterior.credible_interval("hlr_arcsec", 0.68)
            >>> low.shape, bool((low < high).all())
            ((4,), True)
        """
        return credible_interval(self.draws_of(quantity), probability)

    def images(
        self,
        *,
        psf: PSF | None = None,
        pixel_scale_arcsec: float | None = None,
        shape: tuple[int, int] | None = None,
        draws: int | None = None,
    ) -> Float[np.ndarray, "s n y x"]:
        """Draw noise-free images: deconvolved, at any PSF, on any pixels.

        Arguments, units and errors are those of :func:`hiergal.posterior.images.posterior_images`.

        Example:
            >>> from hiergal.observation.psf import gaussian_psf
            >>> posterior[0].images().shape  # deconvolved
            (40, 1, 64, 64)
            >>> posterior[0].images(psf=gaussian_psf(0.2, 0.03), pixel_scale_arcsec=0.06, draws=8).shape
            (8, 1, 32, 32)
        """
        return upward("hiergal.posterior.images.posterior_images")(
            self.model, self, psf=psf, pixel_scale_arcsec=pixel_scale_arcsec, shape=shape, draws=draws
        )

    def predict(self, *, key: jax.Array | int, draws: int | None = None) -> Any:
        """Predict replicated stamps, and the log-likelihood of each pixel (:func:`hiergal.predict`).

        Example:
            >>> posterior.predict(key=1, draws=10).image.shape
            (10, 4, 64, 64)
        """
        return upward("hiergal.posterior.predictive.predict")(
            self.model, self.observation, self, key=key, draws=draws
        )

    def check(self, *, key: jax.Array | int, draws: int | None = None, replicates: int = 400) -> Any:
        """Check how well each galaxy is fitted, and how unusual it is (:func:`hiergal.check_fits`).

        Args:
            key: PRNG key of the replicates, or a seed.
            draws: How many draws of the posterior to take; default all.
            replicates: Noise stamps, and draws from the prior, that each galaxy is compared with.

        Returns:
            Statistics and p-values, :class:`hiergal.FitChecks`.

        Example:
            >>> posterior.check(key=1, replicates=50).p_pixels.shape
            (4,)
        """
        origin = self._kept()
        return upward("hiergal.posterior.fit_checks.check_fits")(
            origin.model,
            origin.observation,
            self,
            key=key,
            conditions=origin.conditions,
            draws=draws,
            replicates=replicates,
            rows=origin.rows,
        )

    def plot(self, **options: Any) -> Any:
        """Draw one galaxy on one page (:func:`hiergal.reports.figures.posterior`), or several as rows of stamps.

        Args:
            options: Of :func:`hiergal.reports.figures.posterior` for one galaxy, of
                :func:`hiergal.reports.figures.reconstructions` for several.

        Returns:
            A figure of matplotlib, which a notebook shows, and ``savefig`` writes.

        Example:
            >>> posterior[0].plot().savefig("galaxy.png")
        """
        if len(self) == 1:
            return upward("hiergal.reports.figures.one_galaxy.posterior")(self, **options)
        reconstructions = upward("hiergal.reports.figures.reconstruction.reconstructions")
        return reconstructions(self.observation, self.at_own_psf(), **options)

    def at_own_psf(self) -> "Posterior":
        """Return the same posteriors with denoised images at the galaxies' own PSFs."""
        origin = self._kept()
        if origin.own_psf:
            return self
        image = np.asarray(origin.model.render(self.profile_mean, origin.observation.psf))
        return self.replace(image_mean=image)._with(origin._replace(own_psf=True))

    def to_arviz(self, predictive: Any = None) -> Any:
        """Return it as data of ArviZ (:func:`hiergal.posterior.to_arviz.posterior_to_arviz`, which says what it holds).

        Args:
            predictive: What :meth:`predict` returned, for two more groups.

        Example:
            >>> posterior.to_arviz()["posterior"]["flux"].dims
            ('chain', 'draw', 'galaxy')
        """
        origin = self._kept()
        about = {"conditions": int(origin.conditions is not None)}
        return upward("hiergal.posterior.to_arviz.posterior_to_arviz")(
            self, origin.observation, origin.model, predictive, about=about
        )

    def to_table(self) -> Any:
        """Return a row for each galaxy as an ``astropy.table.QTable``: the columns of :mod:`hiergal.posterior.table`.

        Example:
            >>> posterior.to_table()["hlr_arcsec"].unit
            Unit("arcsec")
        """
        origin = self._kept()
        return upward("hiergal.posterior.table.table_with_units")(
            self, origin.model, origin.observation, known=origin.conditions is not None
        )

    def _with(self, origin: Origin | None) -> "Posterior":
        """Return the same fields with an origin."""
        made = dataclasses_replace(self)
        if origin is not None:
            object.__setattr__(made, "origin", origin)
        return made

    def _kept(self, *, model: bool = True) -> Origin:
        """Return its origin."""
        origin = self.origin
        if origin is None or (model and origin.model is None):
            lacks = "its model and its galaxies" if origin is None else "its model"
            raise ValueError(
                f"posterior: expected one that keeps {lacks}, got one without (files, pickles and JAX's tree functions "
                "keep the numbers alone); write posterior.attach(model"
                + (", observation)" if origin is None else ")")
            )
        return origin

    def _methods(self) -> list[str]:
        return [METHODS[place] for place in np.unique(self.method)]


def credible_interval(
    draws: Float[np.ndarray, "s *n"], probability: float
) -> tuple[Float[np.ndarray, "*n"], Float[np.ndarray, "*n"]]:
    """Return the equal-tailed credible interval of each quantity: as much probability is below it as above.

    Quantiles are taken at ranks i / (s + 1), so that a new draw of the same distribution falls inside with just that
    probability, however few the draws.

    Args:
        draws: Posterior draws of any quantities, along the first axis.
        probability: Posterior probability inside.

    Returns:
        Lower and upper ends, in the unit of the draws.

    Example:
        >>> low, high = credible_interval(np.arange(1.0, 100.0)[:, None], 0.9)
        >>> low.round(6).tolist(), high.round(6).tolist()
        ([5.0], [95.0])
    """
    tail = (1 - probability) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0, method="weibull")
    return low, high


interval = credible_interval  # its name before


def _join(parts: list[Posterior]) -> Posterior:
    """Join batches along their axis of galaxies: the second of the draws, the first of the rest."""

    def join(name: str, axis: int):
        values = [getattr(part, name) for part in parts]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=axis), *values)

    return Posterior(**{f.name: join(f.name, 1 if f.name in OF_DRAWS else 0) for f in fields(Posterior)})
