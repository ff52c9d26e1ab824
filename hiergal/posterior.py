"""Posteriors of observed galaxies: latents, images and numbers, with errors (paper, Eqs. 2 and 8).

``infer`` starts from the guide. With ``method="laplace"`` (the default) it then takes Gauss-Newton steps through the
generator, the PSF and the noise (:mod:`hiergal.laplace`) and uses the curvature found there; ``"amortized"`` trusts
the guide alone. Galaxies go through one compiled program in batches of one size, and only summaries of the images
are kept, so memory does not grow with the number of draws.
"""

from dataclasses import fields
from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from hiergal.guide import posterior_from
from hiergal.hub import GalaxyModel
from hiergal.laplace import misfit, sharpen
from hiergal.morphology import ProfileSummary, summarize_profile
from hiergal.noise import used_pixels
from hiergal.observation import Observation, check_observation
from hiergal.progress import progress_bar
from hiergal.psf import PSF
from hiergal.records import Array, Record, record

__all__ = ["Method", "Posterior", "infer", "interval"]

Method = Literal["laplace", "amortized"]
SHARPENING_STEPS = 4
BLOCK = 10  # draws decoded together


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
        misfit: How far the fit is worse than noise explains (:func:`hiergal.laplace.misfit`); where it exceeds one, the
            covariance of the draws was multiplied by it.
        identifier: Identifier of each galaxy.
    """

    latents: Float[Array, "s n d"]
    summary: ProfileSummary
    profile_mean: Float[Array, "n y x"]
    profile_std: Float[Array, "n y x"]
    image_mean: Float[Array, "n y x"]
    chi_square: Float[Array, "n"]
    misfit: Float[Array, "n"]
    identifier: Int[Array, "n"]

    def __len__(self) -> int:
        """Return the number of galaxies."""
        return self.identifier.shape[0]

    def __getitem__(self, rows: slice | Array) -> "Posterior":
        """Return the posteriors of some of the galaxies."""
        of_draws = {
            "latents": self.latents[:, rows],
            "summary": jax.tree.map(lambda x: x[:, rows], self.summary),
        }
        rest = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name not in of_draws}
        return Posterior(**of_draws, **rest)


def infer(
    model: GalaxyModel,
    observation: Observation,
    *,
    key: jax.Array,
    method: Method | str = "laplace",
    draws: int = 200,
    psf: PSF | None = None,
    batch: int = 32,
    progress: bool = False,
) -> Posterior:
    """Infer what is behind observed stamps.

    Args:
        model: A trained model.
        observation: Galaxies on the model's stamp and pixel scale.
        key: PRNG key; the draws of a galaxy depend on its place in the batch, not on how many galaxies follow.
        method: ``"laplace"``, or ``"amortized"`` for the guide alone.
        draws: Posterior draws of each galaxy.
        psf: PSFs to show the denoised image at, one for each galaxy [n, py, px]; default the observation's own.
        batch: Galaxies in one call of the compiled program.
        progress: Whether to show a progress bar.

    Returns:
        Posteriors, as NumPy arrays.

    Raises:
        ValueError: If the observations are wrong, or do not fit the model.

    Example:
        >>> posterior = infer(model, observation, key=jax.random.key(0))  # doctest: +SKIP
        >>> low, high = interval(posterior.summary.flux, 0.68)  # doctest: +SKIP
    """
    _check(model, observation, method)
    n = len(observation)
    target = observation.psf if psf is None else psf
    parts = []
    with progress_bar("inference", n, shown=progress) as advance:
        for first in range(0, n, batch):
            rows = np.arange(first, first + batch)
            inside = np.minimum(
                rows, n - 1
            )  # the last batch repeats its last galaxy, so that one program serves all
            keys = jax.vmap(partial(jax.random.fold_in, key))(rows)
            here = target.replace(stamp=target.stamp[inside])
            parts.append(
                jax.tree.map(np.asarray, _infer_batch(model, observation[inside], here, keys, method, draws))
            )
            advance(min(batch, n - first))
    return _join(parts)[:n]


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


@partial(jax.jit, static_argnames=("method", "draws"))
def _latents(model: GalaxyModel, observation: Observation, keys: jax.Array, method: Method, draws: int):
    """Draw the latents of a batch, [s, n, d], and return the misfit of each galaxy."""

    def residual(z):
        difference = model.render(model.decode(z), observation.psf) - observation.image
        return observation.noise.whiten(difference, observation.mask).reshape(len(z), -1)

    guide = posterior_from(model.encode(observation), model.recipe.covariance)
    if method == "laplace":
        sharp = sharpen(residual, guide.mean, steps=SHARPENING_STEPS)
        mean, excess = sharp.mean, misfit(sharp, observation.psf, model.recipe.shape)
        scale = sharp.scale * jnp.sqrt(jnp.maximum(excess, 1.0))[:, None, None]
    else:
        mean, scale, excess = (
            guide.mean,
            jnp.linalg.cholesky(guide.covariance_matrix),
            jnp.ones(len(observation)),
        )
    noise = jax.vmap(lambda key: jax.random.normal(key, (draws, mean.shape[-1])), out_axes=1)(keys)
    return mean[None] + jnp.einsum("nij,snj->sni", scale, noise), excess


@jax.jit
def _measure(model: GalaxyModel, latents: Float[Array, "s n d"]):
    """Sum of the profiles of some draws, sum of their squares, and their summaries."""
    s, n, d = latents.shape
    profile = model.decode(latents.reshape(s * n, d))
    summary = summarize_profile(profile, model.recipe.pixel_scale_arcsec)
    profile = profile.reshape(s, n, *profile.shape[1:])
    return profile.sum(0), (profile**2).sum(0), jax.tree.map(lambda x: x.reshape(s, n), summary)


@jax.jit
def _compare(model: GalaxyModel, observation: Observation, target: PSF, profile: Float[Array, "n y x"]):
    """Denoised images at the target PSF, and the reduced chi-square at the observation's own."""
    mask = observation.mask
    residual = observation.image - model.render(profile, observation.psf)
    chi_square = observation.noise.chi_square(residual, mask) / used_pixels(residual.shape, mask)
    return model.render(profile, target), chi_square


def _infer_batch(model, observation, target, keys, method, draws) -> Posterior:
    latents, excess = _latents(model, observation, keys, method, draws)
    first, second, summaries = 0.0, 0.0, []
    for start in range(0, draws, BLOCK):
        total, squares, summary = _measure(model, latents[start : start + BLOCK])
        first, second = first + total, second + squares
        summaries.append(summary)
    mean = first / draws
    image, chi_square = _compare(model, observation, target, mean)
    return Posterior(
        latents=latents,
        summary=jax.tree.map(lambda *values: jnp.concatenate(values), *summaries),
        profile_mean=mean,
        profile_std=jnp.sqrt(jnp.maximum(second / draws - mean**2, 0.0)),
        image_mean=image,
        chi_square=chi_square,
        misfit=excess,
        identifier=observation.identifier,
    )


def _check(model: GalaxyModel, observation: Observation, method: str) -> None:
    if method not in get_args(Method):
        raise ValueError(f"method: expected one of {', '.join(get_args(Method))}, got {method!r}")
    check_observation(observation)
    recipe = model.recipe
    if observation.image.shape[1:] != recipe.shape:
        raise ValueError(
            f"image: expected stamps of {recipe.shape} pixels, as the model has, got {observation.image.shape[1:]}"
        )
    if abs(observation.pixel_scale_arcsec / recipe.pixel_scale_arcsec - 1) > 1e-6:
        raise ValueError(
            f"pixel_scale_arcsec: expected the model's, {recipe.pixel_scale_arcsec}, got "
            f"{observation.pixel_scale_arcsec}"
        )


def _join(parts: list[Posterior]) -> Posterior:
    """Join batches along their axis of galaxies: the second of the draws, the first of the rest."""
    draws = ("latents", "summary")

    def join(name: str, axis: int):
        values = [getattr(part, name) for part in parts]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=axis), *values)

    return Posterior(**{f.name: join(f.name, 1 if f.name in draws else 0) for f in fields(Posterior)})
