"""The posterior flow: posteriors that a Gaussian does not describe, q(z | image, PSF, noise).

Gauss-Newton steps from the amortised guide (:mod:`hiergal.posterior.samplers.laplace`) give the mode and the scale of a
galaxy's posterior, and with them coordinates w(z) in which it is nearly a unit normal
(:mod:`hiergal.posterior.samplers.randomize_then_optimize`). What is left is learnt
(:mod:`hiergal.training.posterior_flow`): a masked autoregressive flow describes the distribution of w given the mode,
the scales, and whether conditions were known.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from hiergal.model.guide import posterior_from
from hiergal.model.prior import LatentFlow
from hiergal.model.trained import GalaxyModel
from hiergal.observation.observation import Observation
from hiergal.posterior.samplers.randomize_then_optimize import RandomizeThenOptimize, randomize_then_optimize
from hiergal.posterior.samplers.target import LatentPosterior
from hiergal.runtime.batching import padded_batches
from hiergal.runtime.least_squares import GaussianPosterior, levenberg_marquardt
from hiergal.runtime.pytree import Array, brief
from hiergal.runtime.seeds import as_key

__all__ = ["Simulated", "draw_from_posterior_flow", "flow_features", "laplace_of", "simulate"]

SHARPENING_STEPS = 3
MODE_LIMIT, LOG_SCALE_LIMITS = 3.0, (-7.0, 0.5)
DRAWS_PER_CALL = 5  # draws of each galaxy decoded together


class Simulated(NamedTuple):
    """Galaxies drawn from the prior and observed: their latents, and what was observed."""

    latents: Float[Array, "n d"]
    observation: Observation

    __repr__ = brief


def simulate(model: GalaxyModel, like: Observation, prior: LatentFlow, *, key: jax.Array | int) -> Simulated:
    """Draw galaxies from a prior and observe each like a galaxy of a survey (Fig. 2).

    Args:
        model: A trained model.
        like: Galaxies whose PSFs, noise and masks are used; their images are not.
        prior: Prior of the latents of each galaxy.
        key: PRNG key, or a seed.

    Example:
        >>> known = simulate(model, observation, model.latent_flow().expand([4]), key=0)
        >>> known.latents.shape
        (4, 16)
    """
    of_base, of_noise = jax.random.split(as_key(key))
    z = prior.sample(of_base)
    clean = model.image(z, like.psf)
    return Simulated(z, like.replace(image=clean + like.noise.sample(of_noise, clean.shape)))


def laplace_of(
    density: LatentPosterior, *, steps: int = SHARPENING_STEPS, loop: bool = False, start: Array | None = None
) -> GaussianPosterior:
    """Find mode and curvature of the posterior of each galaxy, from the guide's mean or from latents to start from.

    Arguments as of :func:`hiergal.runtime.least_squares.levenberg_marquardt`.
    """
    if start is None:
        start = posterior_from(
            density.model.encode(density.observation), density.model.recipe.covariance
        ).mean
    return levenberg_marquardt(
        density.residual,
        start,
        steps=steps,
        to_base=density.base,
        loop=loop,
    )


def flow_features(found: GaussianPosterior, prior: LatentFlow) -> Float[jax.Array, "n f"]:
    """Return the features of a posterior: mode, logarithm of the scales, whether conditions were given.

    The first two are bounded, so that no galaxy is far from all that the flow was trained on.
    """
    mode = MODE_LIMIT * jnp.tanh(found.mean / MODE_LIMIT)
    scales = jnp.clip(jnp.log(jnp.diagonal(found.scale, axis1=-2, axis2=-1)), *LOG_SCALE_LIMITS)
    given = jnp.full((len(scales), 1), float(prior.conditions.shape[-1] > 0))
    return jnp.concatenate([mode, scales, given], axis=-1)


def draw_from_posterior_flow(
    density: LatentPosterior, found: GaussianPosterior, noise: Float[Array, "s n d"]
) -> Float[jax.Array, "s n d"]:
    """Turn unit-normal noise into draws of the latents, with w as the model's posterior flow has it, or unit normal.

    Args:
        density: Posterior densities of a batch of galaxies.
        found: Their modes and scales.
        noise: Unit-normal numbers.
    """
    w, coordinates = _shaped(density, found, jnp.asarray(noise))
    # A block of draws at a time: larger ones leave the cache.
    blocks = [_latents(coordinates, w[block.rows]) for block in padded_batches(len(w), DRAWS_PER_CALL)]
    return jnp.concatenate(blocks)[: len(w)]


@jax.jit
def _shaped(
    density: LatentPosterior, found: GaussianPosterior, noise: jax.Array
) -> tuple[jax.Array, RandomizeThenOptimize]:
    """Draws of w, and the coordinates that they are in."""
    w, flow = noise, density.model.posterior_flow
    if flow is not None:
        features = flow_features(found, density.prior)
        rows = jnp.broadcast_to(features, (*noise.shape[:-1], features.shape[-1]))
        w = flow.from_base(noise.reshape(-1, noise.shape[-1]), rows.reshape(-1, rows.shape[-1]))
        w = w.reshape(noise.shape)
    return w, randomize_then_optimize(density, found)


_latents = jax.jit(RandomizeThenOptimize.latents)
