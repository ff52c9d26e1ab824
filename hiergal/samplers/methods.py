"""One door to all samplers: from the name of a method to draws of the latents of a batch of galaxies."""

from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from hiergal.guide import posterior_from
from hiergal.guide_flow import laplace_of, latents_of, shapes_from
from hiergal.hub import GalaxyModel
from hiergal.laplace import GaussianPosterior, misfit
from hiergal.observation import Observation
from hiergal.prior import Prior
from hiergal.samplers.importance import sample_by_importance
from hiergal.samplers.nuts import sample_by_nuts
from hiergal.samplers.problem import Draws, Problem

__all__ = ["METHODS", "Method", "draw_latents"]

Method = Literal["laplace", "amortized", "map", "flow", "importance", "nuts", "auto"]
METHODS: tuple[str, ...] = get_args(Method)
MAP_STEPS = 12
SIGNIFICANT = 5.0  # standard errors of a misfit that counts


def draw_latents(
    method: str,
    model: GalaxyModel,
    observation: Observation,
    prior: Prior,
    keys: jax.Array,
    *,
    draws: int,
    proposals: int,
) -> tuple[Draws, jax.Array]:
    """Draw the latents of a batch of galaxies by one method, other than auto.

    Args:
        method: One of ``METHODS``.
        model: A trained model.
        observation: The galaxies.
        prior: Prior of each.
        keys: A PRNG key for each.
        draws: Number of draws.
        proposals: Draws that importance sampling picks from.

    Returns:
        The draws, and the misfit of each galaxy.
    """
    if method == "amortized":
        return Draws(_amortized(model, observation, keys, draws), {}), jnp.ones(len(observation))
    problem, found, excess = _prepare(model, observation, prior, "map" if method == "map" else "sharpen")
    match method:
        case "map":
            return Draws(found.mean[None], {}), excess
        case "laplace" | "flow":
            flow = model.guide_flow if method == "flow" else None
            return Draws(_propose(flow, found, prior, keys, draws), {}), excess
        case "importance":
            return sample_by_importance(problem, found, keys, draws=draws, proposals=proposals), excess
        case _:
            return sample_by_nuts(problem, found, keys, draws=draws), excess


@partial(jax.jit, static_argnames="how")
def _prepare(
    model: GalaxyModel, observation: Observation, prior: Prior, how: str
) -> tuple[Problem, GaussianPosterior, jax.Array]:
    """Mode and scale of each posterior, with misfit counted as noise where it is significant."""
    problem = Problem(model, observation, prior, jnp.ones(len(observation)))
    found = laplace_of(problem, **({"steps": MAP_STEPS} if how == "map" else {}))
    excess, error = misfit(found, observation.psf, model.recipe.shape)
    factor = jnp.where(excess > 1 + SIGNIFICANT * error, excess, 1.0)
    found = found.replace(scale=found.scale * jnp.sqrt(factor)[:, None, None])
    return problem.replace(variance_factor=factor), found, excess


@partial(jax.jit, static_argnames="draws")
def _amortized(model: GalaxyModel, observation: Observation, keys: jax.Array, draws: int):
    guide = posterior_from(model.encode(observation), model.recipe.covariance)
    scale = jnp.linalg.cholesky(guide.covariance_matrix)
    return guide.mean[None] + jnp.einsum("nij,snj->sni", scale, _normal(keys, draws, guide.mean.shape[-1]))


@partial(jax.jit, static_argnames="draws")
def _propose(flow, found: GaussianPosterior, prior: Prior, keys: jax.Array, draws: int):
    return latents_of(found, shapes_from(flow, found, prior, _normal(keys, draws, found.mean.shape[-1])))


def _normal(keys: jax.Array, draws: int, d: int) -> jax.Array:
    return jax.vmap(lambda key: jax.random.normal(key, (draws, d)), out_axes=1)(keys)
