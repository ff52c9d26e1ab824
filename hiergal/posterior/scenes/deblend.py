"""Deblending: the posteriors of several overlapping galaxies together, each with the learned prior.

The latents of all sources of a scene, and their offsets where positions are uncertain, are one vector. It is inferred
as one galaxy is (:mod:`hiergal.posterior.samplers.laplace`, :mod:`hiergal.posterior.samplers.randomize_then_optimize`):
Gauss-Newton steps find the mode of the joint posterior and its curvature; w = Q^T R, whitened residuals of scene and
prior projected on the directions that the fit can move in, is nearly unit normal, and draws of w are turned into draws
of the latents. So light that may belong to either of two sources is uncertain in both, and the draws say how.
"""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped

from hiergal.measure.profile import ProfileSummary, summarize_profile
from hiergal.model.condition_columns import has_columns
from hiergal.model.conditions import given_conditions
from hiergal.model.trained import GalaxyModel, check_model
from hiergal.observation.noise import count_unmasked
from hiergal.observation.observation import Observation, check_observation
from hiergal.posterior.input_checks import check_counts, check_geometry, check_psf
from hiergal.posterior.samplers.laplace import misfit
from hiergal.posterior.samplers.methods import SIGNIFICANT
from hiergal.posterior.samplers.target import LatentPosterior
from hiergal.posterior.scenes.start import start_of
from hiergal.runtime.batching import join_batches, padded_batches
from hiergal.runtime.fork import check_not_forked
from hiergal.runtime.least_squares import GaussianPosterior, levenberg_marquardt, widen
from hiergal.runtime.progress import progress_bar
from hiergal.runtime.pytree import Array, Record, record
from hiergal.runtime.seeds import as_key
from hiergal.survey.given import galaxies_of

__all__ = ["Deblended", "deblend"]

STEPS = 12
CORRECTIONS = 4
DRAWS_PER_CALL = 10  # draws decoded together
LONGEST_STEP = 6.0  # standard deviations
CLOSEST_PIX = 0.5
IN_DRAWS = ("latents", "positions", "summary")


@record
class Deblended(Record):
    """Posteriors of the k sources of each of n scenes: s draws, and summaries of their images.

    Attributes:
        latents: Draws of z.
        positions: Draws of the centres (x, y) of the profiles, from the centre of the scene [pixels].
        summary: Measurements of each draw's profile; centroids are from the centre of the profile.
        profile_mean: Mean of the deconvolved profile of each source [flux per pixel].
        profile_std: Its standard deviation [flux per pixel].
        image_mean: Mean of each source on the scene, at its PSF [flux per pixel].
        image_std: Its standard deviation [flux per pixel].
        chi_square: Reduced chi-square of the sum of ``image_mean`` against the data.
        misfit: How far the fit is worse than noise explains; where significant, it counted as noise.
        identifier: Identifier of each scene.

    Example:
        >>> positions = np.array([[[-8.0, 0.0], [8.0, 0.0]]])  # of two sources of one scene
        >>> found = deblend(model, observation[0], positions, key=0, draws=10)
        >>> found.summary.flux.shape
        (10, 1, 2)
    """

    latents: Float[Array, "s n k d"]
    positions: Float[Array, "s n k 2"]
    summary: ProfileSummary
    profile_mean: Float[Array, "n k y x"]
    profile_std: Float[Array, "n k y x"]
    image_mean: Float[Array, "n k v u"]
    image_std: Float[Array, "n k v u"]
    chi_square: Float[Array, "n"]
    misfit: Float[Array, "n"]
    identifier: Int[Array, "n"] | Shaped[np.ndarray, "n"]


def deblend(
    model: GalaxyModel,
    observation: Observation | Any,
    positions: Float[Array, "..."],
    *,
    key: jax.Array | int,
    method: Literal["curved", "laplace"] | str = "curved",
    position_error_pix: float = 0.0,
    conditions: Any = None,
    draws: int = 200,
    batch: int = 4,
    progress: bool = False,
) -> Deblended:
    """Infer all sources of scenes together.

    Args:
        model: A trained model.
        observation: Scenes on the model's pixel scale, of any shape: one PSF and noise model for each; or a survey's
            store, or its path, for all of it.
        positions: Centres (x, y) of the k sources of each scene, from its centre [pixels], [n, k, 2].
        key: PRNG key, or a seed; the draws of a scene depend on its place, not on how many scenes follow.
        method: ``"curved"`` follows the bends of the posterior; ``"laplace"`` is a Gaussian at its mode.
        position_error_pix: Standard deviation of the positions along each axis; 0 if they are known [pixels].
        conditions: What is known of each source, [n, k, c], columns as in ``model.flow.config.conditions``; or a table
            with a row for each, the k sources of the first scene first; None for nothing.
        draws: Posterior draws.
        batch: Scenes in one call of the compiled program, which is compiled for each number of sources.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If scenes, positions or conditions are wrong.

    Example:
        >>> positions = np.array([[[-8.0, 0.0], [8.0, 0.0]]])  # of two sources of one scene
        >>> found = deblend(model, observation[0], positions, key=jax.random.key(0), draws=10)
        >>> low, high = hiergal.credible_interval(found.summary.flux, 0.68)
        >>> low.shape
        (1, 2)
    """
    check_not_forked()
    check_model(model)
    key, observation = as_key(key), galaxies_of(observation)
    check_counts(scenes=len(observation), draws=draws, batch=batch)
    observation = observation.in_photometry(model.provenance.photometry)
    positions = _checked(model, observation, positions, method, position_error_pix)
    names, observation = np.asarray(observation.identifier), observation.bare()
    n, k = positions.shape[:2]
    if conditions is not None:
        if not has_columns(conditions):
            conditions = np.asarray(conditions, np.float32)
            if conditions.ndim != 3 or conditions.shape[:2] != (n, k):
                raise ValueError(
                    f"conditions: expected shape [{n}, {k}, c], those of each source, got {conditions.shape}"
                )
            conditions = conditions.reshape(n * k, -1)
        conditions = given_conditions(model, conditions, n * k).reshape(n, k, -1)
    prior = model.latent_flow(conditions).expand((n, k))
    batch = min(batch, n)
    keys = jax.vmap(partial(jax.random.fold_in, key))(np.arange(n))
    parts = []
    with progress_bar("deblending", n, shown=progress) as advance:
        for here in padded_batches(n, batch):
            rows = here.rows
            density = LatentPosterior(
                model, observation[rows], prior[rows], np.ones(batch, np.float32), positions[rows],
                position_error_pix,
            )  # fmt: skip
            parts.append(jax.tree.map(np.asarray, _deblend(density, keys[rows], draws, method)))
            advance(here.kept)
    joined = {
        name: join_batches([part[name] for part in parts], n, axis=int(name in IN_DRAWS)) for name in parts[0]
    }
    return Deblended(**joined, identifier=names)


def _deblend(density: LatentPosterior, keys: jax.Array, draws: int, method: str) -> dict[str, Any]:
    """All that is inferred of a batch of scenes, by its name in :class:`Deblended`."""
    density, found, excess = _mode(density)
    about = _images(density, found.mean)
    blocks = [_draw(density, found, about, keys, start, method) for start in range(0, draws, DRAWS_PER_CALL)]
    draws_t = jnp.concatenate([block[0] for block in blocks])[:draws]
    summary = jax.tree.map(lambda *x: jnp.concatenate(x)[:draws], *(block[1] for block in blocks))
    # Blocks are whole: the last one's surplus draws count in the means, which are none the worse for it.
    count = len(blocks) * DRAWS_PER_CALL
    first, second = (jax.tree.map(lambda *x: sum(x) / count, *(block[i] for block in blocks)) for i in (2, 3))
    mean = jax.tree.map(jnp.add, about, first)
    spread = jax.tree.map(lambda square, away: jnp.sqrt(jnp.maximum(square - away**2, 0.0)), second, first)
    observation = density.observation
    residual = observation.image - mean[1].sum(axis=1)
    chi_square = observation.noise.chi_square(residual, observation.mask)
    return {
        "latents": density.latents(draws_t),
        "positions": density.positions_of(draws_t),
        "summary": summary,
        "profile_mean": mean[0],
        "profile_std": spread[0],
        "image_mean": mean[1],
        "image_std": spread[1],
        "chi_square": chi_square / count_unmasked(residual.shape, observation.mask),
        "misfit": excess,
    }


@jax.jit
def _images(density: LatentPosterior, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Profiles of all sources, and their images on the scene."""
    return density.profiles(t), density.sources(t)


@jax.jit
def _mode(density: LatentPosterior) -> tuple[LatentPosterior, GaussianPosterior, jax.Array]:
    """Mode and curvature of the joint posterior, with misfit counted as noise where it is significant."""
    observation = density.observation
    found = levenberg_marquardt(density.residual, start_of(density), steps=STEPS, to_base=density.base)
    excess, error = misfit(found, observation.psf, observation.image.shape[1:])
    factor = jnp.where(excess > 1 + SIGNIFICANT * error, excess, 1.0)
    return density.replace(variance_factor=factor), widen(found, factor), excess


@partial(jax.jit, static_argnames="method")
def _draw(
    density: LatentPosterior,
    found: GaussianPosterior,
    about: tuple[jax.Array, jax.Array],
    keys: jax.Array,
    start: jax.Array | int,
    method: str,
):
    """A block of draws, their measurements, and sums of their images less others, and of the squares of that."""
    n, size = found.mean.shape
    keys = jax.vmap(lambda key: jax.random.fold_in(key, start))(keys)
    w = jax.vmap(lambda key: jax.random.normal(key, (DRAWS_PER_CALL, size)), out_axes=1)(keys)

    def moved(by):
        return jnp.einsum("nij,snj->sni", found.scale, by)

    t = found.mean[None] + moved(w)
    for _ in range(CORRECTIONS if method == "curved" else 0):
        both = jnp.concatenate([density.residual(t), density.base(t)], axis=-1)
        step = w - jnp.einsum("nip,snp->sni", found.projection, both, precision="highest")
        length = jnp.linalg.norm(step, axis=-1, keepdims=True)
        t = t + moved(step * jnp.minimum(1.0, LONGEST_STEP / jnp.maximum(length, 1e-6)))
    images = _images(density, t)
    summary = summarize_profile(images[0], density.model.recipe.pixel_scale_arcsec)
    away = jax.tree.map(lambda image, other: image - other[None], images, about)
    first, second = (jax.tree.map(lambda x, p=p: (x**p).sum(axis=0), away) for p in (1, 2))
    return t, summary, first, second


def _checked(model, observation, positions, method, position_error_pix) -> np.ndarray:
    """Check scenes and positions; return the latter in single precision."""
    check_observation(observation)
    if method not in ("curved", "laplace"):
        raise ValueError(f"method: expected curved or laplace, got {method!r}")
    if not 0 <= position_error_pix < np.inf:
        raise ValueError(f"position_error_pix: expected zero or more, and finite, got {position_error_pix}")
    check_geometry(model, observation.pixel_scale_arcsec)
    check_psf(model, observation.psf, len(observation))
    if model.recipe.objective.blur != "exact":
        raise ValueError(
            f"model: expected one trained with objective.blur = 'exact', got {model.recipe.objective.blur!r}, which "
            "leaves out where PSFs are centred"
        )
    positions = np.asarray(positions, np.float32)
    n, (ny, nx) = len(observation), observation.image.shape[1:]
    if positions.ndim != 3 or positions.shape[0] != n or positions.shape[2] != 2 or not positions.shape[1]:
        raise ValueError(
            f"positions: expected shape [{n}, k, 2] for k sources of {n} scenes, got {positions.shape}"
        )
    if not np.isfinite(positions).all():
        raise ValueError("positions: expected finite numbers, got NaN or infinity; leave such sources out")
    outside = (np.abs(positions) > np.array([nx, ny]) / 2).any(axis=(1, 2))
    if outside.any():
        raise ValueError(
            f"positions: expected sources inside the scenes of {ny} x {nx} pixels, as (x, y) from their centres, got "
            f"others in {outside.sum()} of {n} scenes (first: {observation.identifier[outside][0]})"
        )
    apart = np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1)
    apart[:, np.arange(positions.shape[1]), np.arange(positions.shape[1])] = np.inf
    together = (apart < CLOSEST_PIX).any(axis=(1, 2))
    if together.any():
        raise ValueError(
            f"positions: expected sources at least {CLOSEST_PIX} pixels apart, got closer ones in {together.sum()} of "
            f"{n} scenes (first: {observation.identifier[together][0]}); take them as one"
        )
    return positions
