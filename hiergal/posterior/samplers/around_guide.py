"""Posteriors of generators with cells: a flow around the amortised guide.

With hundreds of latents a Jacobian at the mode of each galaxy is dear. The guide, whose means are refined through the
physics (:mod:`hiergal.model.refinement`), is a Gaussian near the posterior, and with its mean and factor

    w = L^-1 (z - m)

are coordinates in which posteriors of all galaxies are much alike. How w is distributed is learnt from galaxies that
the model simulates, whose z is known (neural posterior estimation, Papamakarios & Murray 2016, arXiv:1605.06376), by
the posterior flow: widths that the guide has wrong, since it knows nothing of correlations between cells, correlations,
bends and tails. The mean of a guide that stopped short of the mode is a statistic like another: it makes posteriors
wider, not wrong.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Float

from hiergal.model.guide import posterior_from
from hiergal.model.leading_normal import LeadingNormal
from hiergal.model.prior import LatentFlow
from hiergal.model.trained import GalaxyModel
from hiergal.observation.observation import Observation
from hiergal.posterior.samplers.posterior_flow import LOG_SCALE_LIMITS, MODE_LIMIT
from hiergal.runtime.pytree import Array

__all__ = ["draw_around_guide", "seen_by_guide"]


@jax.jit
def seen_by_guide(
    model: GalaxyModel, observation: Observation, prior: LatentFlow, z: Float[Array, "s n d"]
) -> tuple[Float[jax.Array, "s n d"], Float[jax.Array, "n f"]]:
    """Return w of latents of galaxies, and the flow's features of these galaxies.

    Args:
        model: A trained model with cells.
        observation: The galaxies.
        prior: Their prior, of which the features say whether conditions were given.
        z: Latents.
    """
    q = _guide(model, observation)
    return q.to_base(jnp.asarray(z)), _features(model, q, prior)


@partial(jax.jit, static_argnames="draws")
def draw_around_guide(
    model: GalaxyModel, observation: Observation, prior: LatentFlow, keys: jax.Array, draws: int
) -> Float[jax.Array, "s n d"]:
    """Draw latents from the posterior flow, or from the guide alone of a model that has none.

    Args:
        model: A trained model with cells.
        observation: The galaxies.
        prior: Their prior.
        keys: A PRNG key for each.
        draws: Number of draws.
    """
    q = _guide(model, observation)
    d = q.event_shape[0]
    w = jax.vmap(lambda key: jax.random.normal(key, (draws, d)), out_axes=1)(keys)
    flow = model.posterior_flow
    if flow is not None:
        features = _features(model, q, prior)
        rows = jnp.broadcast_to(features, (*w.shape[:2], features.shape[-1]))
        w = flow.from_base(w.reshape(-1, d), rows.reshape(-1, rows.shape[-1])).reshape(w.shape)
    return q.from_base(w)


def _guide(model: GalaxyModel, observation: Observation) -> LeadingNormal:
    q = posterior_from(model.encode(observation), model.recipe.covariance)
    assert isinstance(q, LeadingNormal)
    return q


def _features(model: GalaxyModel, q: LeadingNormal, prior: LatentFlow) -> jax.Array:
    """Means and scales, bounded, so that no galaxy is far from all that the flow was trained on."""
    mean = MODE_LIMIT * jnp.tanh(q.mean / MODE_LIMIT)
    scales = jnp.clip(q.log_scales, *LOG_SCALE_LIMITS)
    given = jnp.full((len(mean), 1), float(prior.conditions.shape[-1] > 0))
    cells = model.recipe.generator.cell_latents
    assert cells is not None
    count, each = cells[0] ** 2, cells[1]
    whole = mean.shape[-1] - count * each
    of_cells = [part[:, whole:].reshape(len(mean), count, each) for part in (mean, scales)]
    own = jnp.concatenate(of_cells, axis=-1).reshape(len(mean), -1)
    return jnp.concatenate([mean[:, :whole], scales[:, :whole], given, own], axis=-1)
