"""Posteriors of observed galaxies: latents, images and numbers, with errors (paper, Eqs. 2 and 8).

===============  =====================================================================================
method           draws come from
===============  =====================================================================================
``amortized``    the guide of the training, in one pass
``map``          no draws: the best-fitting galaxy
``laplace``      a Gaussian at the mode, by Gauss-Newton steps (:mod:`hiergal.posterior.samplers.laplace`)
``flow``         a flow at the mode, trained on simulations (:mod:`hiergal.posterior.samplers.posterior_flow`)
``importance``   that flow, weighted (:mod:`hiergal.posterior.samplers.importance`): exact if k-hat < 0.7
``nuts``         the No-U-Turn sampler (:mod:`hiergal.posterior.samplers.nuts`): exact if R-hat is near 1
``auto``         ``importance``, and ``nuts`` for galaxies whose k-hat is too large, or whose effective
                 proposals are fewer than the draws asked for
===============  =====================================================================================

The prior is the model's flow given conditions, if they are given, and its marginal if not (:mod:`hiergal.model.prior`);
``amortized`` alone knows nothing of it. Galaxies go through one compiled program in batches of one size, and only
summaries of the images are kept, so memory does not grow with the number of draws.
"""

from dataclasses import field, fields

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from hiergal.measure.profile import ProfileSummary
from hiergal.posterior.samplers.methods import METHODS, Method
from hiergal.runtime.pytree import Array, Record, record

__all__ = [
    "METHODS",
    "Method",
    "Posterior",
    "interval",
]

STATISTICS = ("k_hat", "ess", "r_hat", "ess_nuts", "divergences")
OF_DRAWS = ("latents", "summary", "diverging")  # fields whose first axis is that of draws


@record
class Posterior(Record):
    """Posteriors of a batch of galaxies: s draws each, and summaries of their images.

    Attributes:
        latents: Draws of z.
        summary: Flux, half-light radius, centroid and ellipticity of each draw's profile.
        profile_mean: Mean of the deconvolved profile (but for the recipe's ``profile_fwhm_arcsec``) [flux per pixel].
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
            posterior, None where nobody looked (``verdict=False``).
        checks: Statistics and p-values that it rests on (:mod:`hiergal.posterior.verdict`).
        diverging: Whether a draw of NUTS ended a trajectory that diverged; False of other methods.
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

    def __len__(self) -> int:
        """Return the number of galaxies."""
        return self.identifier.shape[0]

    def __getitem__(self, rows: slice | Array) -> "Posterior":
        """Return the posteriors of some of the galaxies."""
        of_draws = {n: jax.tree.map(lambda x: x[:, rows], getattr(self, n)) for n in OF_DRAWS}
        rest = {
            f.name: jax.tree.map(lambda x: x[rows], getattr(self, f.name))
            for f in fields(self)
            if f.name not in of_draws
        }
        return Posterior(**of_draws, **rest)


def interval(
    draws: Float[np.ndarray, "s *n"], probability: float
) -> tuple[Float[np.ndarray, "*n"], Float[np.ndarray, "*n"]]:
    """Return the central interval of a probability, for each quantity.

    Quantiles are taken at ranks i / (s + 1), so that a new draw of the same distribution falls inside with just that
    probability, however few the draws.

    Example:
        >>> low, high = interval(np.arange(1.0, 100.0)[:, None], 0.9)
        >>> low.round(6).tolist(), high.round(6).tolist()
        ([5.0], [95.0])
    """
    tail = (1 - probability) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0, method="weibull")
    return low, high


def _join(parts: list[Posterior]) -> Posterior:
    """Join batches along their axis of galaxies: the second of the draws, the first of the rest."""

    def join(name: str, axis: int):
        values = [getattr(part, name) for part in parts]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=axis), *values)

    return Posterior(**{f.name: join(f.name, 1 if f.name in OF_DRAWS else 0) for f in fields(Posterior)})
