"""The conditional-flow guide: posteriors that a Gaussian does not describe, q(z | image, PSF, noise).

Gauss-Newton steps from the amortised guide (:mod:`hiergal.laplace`) give the mode and the scale of a galaxy's
posterior, and with them coordinates w(z) in which it is nearly a unit normal (:mod:`hiergal.coordinates`). What is
left is learnt: a masked autoregressive flow describes the distribution of w given the mode, the scales, and whether
conditions were known, from galaxies that the model itself simulates, whose z is known (neural posterior estimation,
Papamakarios & Murray 2016), with the PSFs, noise, masks and conditions of a survey. Galaxies of the survey need no
truth for that, and the faint, the bright, the crowded come as often as they do there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.architecture import guide_flow_config
from hiergal.coordinates import coordinates_of
from hiergal.flow import ConditionalFlow, FlowFit, fit_flow
from hiergal.guide import posterior_from
from hiergal.hub import GalaxyModel
from hiergal.laplace import GaussianPosterior, sharpen
from hiergal.observation import Observation
from hiergal.prior import Prior
from hiergal.progress import progress_bar
from hiergal.records import Array
from hiergal.samplers.problem import Problem

__all__ = ["Simulated", "draws_of_guide", "fit_guide_flow", "guide_features", "laplace_of", "simulate"]

SHARPENING_STEPS = 3
BATCH = 32
MODE_LIMIT, LOG_SCALE_LIMITS = 3.0, (-7.0, 0.5)
FARTHEST = 12.0  # of w: beyond, the steps had not found the mode
BLOCK = 5  # draws of each galaxy decoded together


class Simulated(NamedTuple):
    """Galaxies drawn from the prior and observed: their latents, and what was observed."""

    latents: Float[Array, "n d"]
    observation: Observation


def simulate(model: GalaxyModel, like: Observation, prior: Prior, *, key: jax.Array) -> Simulated:
    """Draw galaxies from a prior and observe each like a galaxy of a survey (Fig. 2).

    Args:
        model: A trained model.
        like: Galaxies whose PSFs, noise and masks are used; their images are not.
        prior: Prior of each.
        key: PRNG key.

    Example:
        >>> known = simulate(model, observation, prior_of(model, len(observation)), key=key)  # doctest: +SKIP
    """
    of_base, of_noise = jax.random.split(key)
    u = jax.random.normal(of_base, (len(like), model.recipe.generator.latents))
    z = prior.from_base(u)
    clean = model.render(model.decode(z), like.psf)
    return Simulated(z, like.replace(image=clean + like.noise.sample(of_noise, clean.shape)))


def laplace_of(problem: Problem, *, steps: int = SHARPENING_STEPS) -> GaussianPosterior:
    """Find mode and curvature of the posterior of each galaxy, from the guide's mean."""
    guide = posterior_from(problem.model.encode(problem.observation), problem.model.recipe.covariance)
    return sharpen(problem.residual, guide.mean, steps=steps, to_base=lambda z: problem.prior.to_base(z)[0])


def guide_features(found: GaussianPosterior, prior: Prior) -> Float[jax.Array, "n f"]:
    """Return what the shape of a posterior depends on: mode, logarithm of the scales, whether conditions were given.

    The first two are bounded, so that no galaxy is far from all that the flow was trained on.
    """
    mode = MODE_LIMIT * jnp.tanh(found.mean / MODE_LIMIT)
    scales = jnp.clip(jnp.log(jnp.diagonal(found.scale, axis1=-2, axis2=-1)), *LOG_SCALE_LIMITS)
    given = jnp.full((len(scales), 1), float(prior.conditions.shape[-1] > 0))
    return jnp.concatenate([mode, scales, given], axis=-1)


def draws_of_guide(
    flow: ConditionalFlow | None, problem: Problem, found: GaussianPosterior, noise: Float[Array, "s n d"]
) -> Float[jax.Array, "s n d"]:
    """Turn unit-normal noise into draws of the latents.

    Args:
        flow: The fitted distribution of w; None for a unit normal.
        problem: The posteriors of a batch of galaxies.
        found: Their modes and scales.
        noise: Unit-normal numbers.
    """
    w = noise
    if flow is not None:
        features = guide_features(found, problem.prior)
        rows = jnp.broadcast_to(features, (*noise.shape[:-1], features.shape[-1]))
        w = flow.from_base(noise.reshape(-1, noise.shape[-1]), rows.reshape(-1, rows.shape[-1]))
        w = w.reshape(noise.shape)
    coordinates = coordinates_of(problem, found)
    # A block of draws at a time: larger ones leave the cache.
    blocks = [coordinates.latents(w[i : i + BLOCK]) for i in range(0, len(w), BLOCK)]
    return jnp.concatenate(blocks)


def fit_guide_flow(
    key: jax.Array,
    model: GalaxyModel,
    survey: Observation,
    conditions: Float[np.ndarray, "n c"] | None,
    *,
    simulations: int,
    progress: bool = True,
) -> FlowFit:
    """Learn the shapes of posteriors from galaxies that the model simulates.

    Args:
        key: PRNG key.
        model: A model with flow and marginal.
        survey: Galaxies of the survey, whose PSFs, noise and masks are used in turn.
        conditions: Their conditions, for the half of the simulations that has them; None for none at all.
        simulations: Number of galaxies to simulate.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If the model lacks what is needed.

    Example:
        >>> fitted = fit_guide_flow(key, model, store.read(rows), None, simulations=8000)  # doctest: +SKIP
    """
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    shapes, features = [], []
    priors = [Prior(model.marginal, np.zeros((len(survey), 0), np.float32))]
    if conditions is not None:
        priors.append(Prior(model.flow, np.asarray(conditions, np.float32)))
    order = rng.permutation(len(survey))
    with progress_bar("simulations", simulations, shown=progress) as advance:
        for number in range(-(-simulations // BATCH)):
            rows = np.take(order, np.arange(number * BATCH, (number + 1) * BATCH), mode="wrap")
            prior = priors[number % len(priors)]
            w, c = _shape(model, survey[rows], prior[rows], jax.random.fold_in(key, number))
            shapes.append(np.asarray(w))
            features.append(np.asarray(c))
            advance(min(BATCH, simulations - number * BATCH))
    w, c = np.concatenate(shapes)[:simulations], np.concatenate(features)[:simulations]
    good = np.isfinite(w).all(axis=1) & np.isfinite(c).all(axis=1)
    good &= np.linalg.norm(w, axis=1) < FARTHEST
    config = guide_flow_config(model.recipe)
    return fit_flow(jax.random.fold_in(key, 2**31 - 1), config, w[None, good], c[good], progress=progress)


@jax.jit
def _shape(model: GalaxyModel, like: Observation, prior: Prior, key: jax.Array):
    known = simulate(model, like, prior, key=key)
    problem = Problem(model, known.observation, prior, jnp.ones(len(like)))
    found = laplace_of(problem)
    return coordinates_of(problem, found)(known.latents), guide_features(found, prior)
