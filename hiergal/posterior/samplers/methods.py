"""Dispatch to the samplers: from the name of a method to draws of the latents of a batch of galaxies."""

from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from hiergal.model.guide import posterior_from
from hiergal.model.prior import LatentFlow
from hiergal.model.trained import GalaxyModel
from hiergal.observation.independent import WhiteNoise
from hiergal.observation.observation import Observation
from hiergal.posterior.samplers.around_guide import draw_around_guide
from hiergal.posterior.samplers.importance import sample_by_importance
from hiergal.posterior.samplers.laplace import misfit
from hiergal.posterior.samplers.nuts import sample_by_nuts
from hiergal.posterior.samplers.posterior_flow import draw_from_posterior_flow, laplace_of
from hiergal.posterior.samplers.target import Draws, LatentPosterior
from hiergal.runtime.least_squares import GaussianPosterior, widen
from hiergal.runtime.pytree import brief

__all__ = ["METHODS", "Drawn", "Method", "Mode", "draw_latents", "find_mode", "mode_of"]

Method = Literal["laplace", "amortized", "map", "flow", "importance", "nuts", "auto"]
METHODS: tuple[str, ...] = get_args(Method)
STEPS, MAP_STEPS = 3, 12
CLOSE = 4.0  # standard deviations from the mode: what coordinates of draws still set right
FEW = 2  # galaxies that get more steps at once: a batch rarely has more
PILOT = 100  # draws of the posterior flow that tell importance sampling where to look
NUTS_PILOT = 200  # and NUTS, which keeps to what they say
HEAVILY_MASKED = 0.2  # share of a stamp's pixels
LEAST_GAIN = 1.0  # of twice the logarithm of the posterior
SIGNIFICANT = 5.0  # standard errors of a misfit that counts


class Mode(NamedTuple):
    """Modes of the posteriors of a batch of galaxies.

    Attributes:
        density: Their posterior densities, with misfit counted as noise where it is significant.
        found: Their modes and scales.
        misfit: How far each fit is worse than noise explains.
        remaining: How far the mode still was after the last step [standard deviations].
    """

    density: LatentPosterior
    found: GaussianPosterior
    misfit: jax.Array
    remaining: jax.Array

    __repr__ = brief


class Drawn(NamedTuple):
    """Draws of a batch of galaxies, and how they were judged.

    Attributes:
        draws: The draws.
        misfit: How far each fit is worse than noise explains.
        variance_factor: What the variance of the noise was multiplied by.
        projection: Directions in which whitened residuals can move, [n, d, pixels]; None of ``amortized``.
        remaining: How far the mode still was after the last step [standard deviations]; NaN of ``amortized``.
    """

    draws: Draws
    misfit: jax.Array
    variance_factor: jax.Array
    projection: jax.Array | None = None
    remaining: jax.Array | None = None

    __repr__ = brief


def draw_latents(
    method: str,
    model: GalaxyModel,
    observation: Observation,
    prior: LatentFlow,
    keys: jax.Array,
    *,
    draws: int,
    proposals: int,
) -> Drawn:
    """Draw the latents of a batch of galaxies by one method, other than auto.

    Args:
        method: One of ``METHODS``.
        model: A trained model.
        observation: The galaxies.
        prior: Prior of the latents of each galaxy.
        keys: A PRNG key for each.
        draws: Number of draws.
        proposals: Draws that importance sampling picks from.

    Returns:
        The draws, and what was made of each galaxy's misfit.
    """
    if method == "amortized":
        unknown = jnp.full(len(observation), jnp.nan)
        made = Draws(_amortized(model, observation, keys, draws), {})
        return Drawn(made, unknown, jnp.ones_like(unknown), None, unknown)
    if method == "flow" and model.recipe.generator.cell_latents is not None:
        unknown = jnp.full(len(observation), jnp.nan)
        made = Draws(draw_around_guide(model, observation, prior, keys, draws), {})
        return Drawn(made, unknown, jnp.ones_like(unknown), None, unknown)
    if method in ("laplace", "flow"):
        density, found, excess, remaining = find_mode(model, observation, prior)
    else:
        density, found, excess, remaining = _best_mode(model, observation, prior)
    match method:
        case "map":
            made = Draws(found.mean[None], {})
        case "laplace":
            made = Draws(_gaussian(found, keys, draws), {})
        case "flow":
            made = Draws(_by_flow(density, found, keys, draws), {})
        case "importance":
            pilot = _by_flow(density, found, keys, PILOT)
            made = sample_by_importance(density, found, pilot, keys, draws=draws, proposals=proposals)
        case _:
            pilot = _by_flow(density, found, keys, NUTS_PILOT)
            made = sample_by_nuts(density, found, pilot, keys, draws=draws)
    pixels = found.residual.shape[-1]
    return Drawn(made, excess, density.variance_factor, found.projection[..., :pixels], remaining)


def find_mode(model: GalaxyModel, observation: Observation, prior: LatentFlow) -> Mode:
    """Find modes and scales in as few steps as do: three for ordinary galaxies.

    The guide has not seen masked stamps, nor galaxies as bright as the few brightest: from its mean, their modes are
    farther away.
    """
    if observation.mask is not None:
        return _best_mode(model, observation, prior)
    mode = mode_of(model, observation, prior, STEPS)
    far = np.flatnonzero(np.asarray(mode.remaining) > CLOSE)
    for first in range(0, len(far), FEW):
        rows = np.resize(far[first : first + FEW], FEW)
        mode = _put(mode, rows, mode_of(model, observation[rows], prior[rows], MAP_STEPS, loop=True))
    return mode


def _best_mode(
    model: GalaxyModel, observation: Observation, prior: LatentFlow, steps: int = MAP_STEPS
) -> Mode:
    """Find modes in many steps; where much is masked, from several starts, of which the best counts.

    There, the guide's mean may lead to another mode: it has not seen masks. The other starts are its mean for the stamp
    with masked pixels as on the opposite side of the centre, and the middle of the prior.
    """
    mode = mode_of(model, observation, prior, steps)
    if observation.mask is None:
        return mode
    heavy = np.flatnonzero(np.asarray(observation.mask).mean(axis=(1, 2)) > HEAVILY_MASKED)
    if not len(heavy):
        return mode
    for start in _starts(model, observation, prior):
        other = mode_of(model, observation, prior, steps, start=start)
        best, found = (np.asarray(_depth(one)) for one in (mode, other))
        # NaN is never better.
        rows = heavy[found[heavy] < best[heavy] - LEAST_GAIN]
        if len(rows):
            part = jax.tree.map(lambda x, r=rows: x[r], (other.density.variance_factor, *other[1:]))
            mode = _replaced(mode, rows, part)
    return mode


@jax.jit
def _starts(model: GalaxyModel, observation: Observation, prior: LatentFlow) -> list[jax.Array]:
    """Other latents to start from."""
    mask = jnp.asarray(observation.mask)
    image = jnp.where(mask, 0.0, jnp.asarray(observation.image))
    filled = jnp.where(mask, image[:, ::-1, ::-1], image)
    guessed = observation.replace(image=filled, mask=None, noise=WhiteNoise(observation.noise.rms()))
    mirrored = posterior_from(model.encode(guessed), model.recipe.covariance).mean
    return [mirrored, prior.from_base(jnp.zeros((1, *mirrored.shape), mirrored.dtype))[0]]


@jax.jit
def _depth(mode: Mode) -> jax.Array:
    """Twice the negative logarithm of the posterior at the mode under the stated noise, up to a constant."""
    return mode.density.variance_factor * jnp.sum(mode.found.residual**2, -1) + jnp.sum(
        mode.found.base**2, -1
    )


def _put(mode: Mode, rows: np.ndarray, other: Mode) -> Mode:
    """Replace what was found of some galaxies."""
    return _replaced(mode, rows, (other.density.variance_factor, *other[1:]))


def _replaced(mode: Mode, rows: np.ndarray, other: tuple) -> Mode:
    """Replace variance factor, mode and scale, misfit and remaining steps of some galaxies."""

    def put(whole, part):
        return jax.tree.map(lambda a, b: a.at[rows].set(b), whole, part)

    factor = put(mode.density.variance_factor, other[0])
    return Mode(mode.density.replace(variance_factor=factor), *map(put, mode[1:], other[1:]))


@partial(jax.jit, static_argnames=("steps", "loop"))
def mode_of(
    model: GalaxyModel,
    observation: Observation,
    prior: LatentFlow,
    steps: int,
    loop: bool = False,
    start: jax.Array | None = None,
) -> Mode:
    """Find mode and scale of each posterior in some steps, with misfit counted as noise where it is significant."""
    density = LatentPosterior(model, observation, prior, jnp.ones(len(observation)))
    found = laplace_of(density, steps=steps, loop=loop, start=start)
    excess, error = misfit(found, observation.psf, model.recipe.shape)
    factor = jnp.where(excess > 1 + SIGNIFICANT * error, excess, 1.0)
    remaining = found.remaining / jnp.sqrt(factor)
    return Mode(density.replace(variance_factor=factor), widen(found, factor), excess, remaining)


@partial(jax.jit, static_argnames="draws")
def _amortized(model: GalaxyModel, observation: Observation, keys: jax.Array, draws: int):
    guide = posterior_from(model.encode(observation), model.recipe.covariance)
    scale = jnp.linalg.cholesky(guide.covariance_matrix)
    return guide.mean[None] + jnp.einsum("nij,snj->sni", scale, _normal(keys, draws, guide.mean.shape[-1]))


@partial(jax.jit, static_argnames="draws")
def _gaussian(found: GaussianPosterior, keys: jax.Array, draws: int):
    noise = _normal(keys, draws, found.mean.shape[-1])
    return found.latents(noise)


def _by_flow(density: LatentPosterior, found: GaussianPosterior, keys: jax.Array, draws: int):
    return draw_from_posterior_flow(density, found, _normal(keys, draws, found.mean.shape[-1]))


@partial(jax.jit, static_argnums=(1, 2))
def _normal(keys: jax.Array, draws: int, d: int) -> jax.Array:
    return jax.vmap(lambda key: jax.random.normal(key, (draws, d)), out_axes=1)(keys)
