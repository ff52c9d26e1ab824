"""The conditional-flow guide: posteriors that a Gaussian does not describe, q(z | image, PSF, noise).

Gauss-Newton steps from the amortised guide (:mod:`hiergal.laplace`) give the mode m and the scale S of a galaxy's
posterior. What is left is its shape, v = S^(-1) (z - m): a unit normal if it is Gaussian, and much the same from galaxy
to galaxy if it is not. A masked autoregressive flow learns the distribution of v given m, the sizes of S, and whether
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
from hiergal.flow import ConditionalFlow, FlowFit, fit_flow
from hiergal.guide import posterior_from
from hiergal.hub import GalaxyModel
from hiergal.laplace import GaussianPosterior, sharpen
from hiergal.observation import Observation
from hiergal.prior import Prior
from hiergal.progress import progress_bar
from hiergal.records import Array
from hiergal.samplers.problem import Problem

__all__ = [
    "Simulated",
    "fit_guide_flow",
    "guide_features",
    "laplace_of",
    "latents_of",
    "log_prob_of_shapes",
    "shapes_from",
    "simulate",
]

SHARPENING_STEPS = 3
BATCH = 32
MODE_LIMIT, LOG_SCALE_LIMITS = 3.0, (-7.0, 0.5)
FARTHEST = 12.0  # of v: beyond, the steps had not found the mode


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


def shapes_from(
    flow: ConditionalFlow | None, found: GaussianPosterior, prior: Prior, noise: Float[Array, "s n d"]
) -> Float[jax.Array, "s n d"]:
    """Turn unit-normal noise into draws of v.

    Args:
        flow: The fitted distribution of v; None for a unit normal.
        found: Mode and scale of each galaxy's posterior.
        prior: Their prior.
        noise: Unit-normal numbers.
    """
    if flow is None:
        return noise
    return flow.from_base(*_rows(noise, guide_features(found, prior))).reshape(noise.shape)


def log_prob_of_shapes(
    flow: ConditionalFlow | None, found: GaussianPosterior, prior: Prior, v: Float[Array, "s n d"]
) -> Float[jax.Array, "s n"]:
    """Return the normalised log-density of v; arguments as for :func:`shapes_from`."""
    if flow is None:
        return -0.5 * jnp.sum(v**2 + np.log(2 * np.pi), axis=-1)
    return flow.log_prob(*_rows(v, guide_features(found, prior))).reshape(v.shape[:-1])


def latents_of(found: GaussianPosterior, v: Float[Array, "s n d"]) -> Float[jax.Array, "s n d"]:
    """Return latents z = m + S v."""
    return found.mean[None] + jnp.einsum("nij,snj->sni", found.scale, v)


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
            v, c = _shape(model, survey[rows], prior[rows], jax.random.fold_in(key, number))
            shapes.append(np.asarray(v))
            features.append(np.asarray(c))
            advance(min(BATCH, simulations - number * BATCH))
    v, c = np.concatenate(shapes)[:simulations], np.concatenate(features)[:simulations]
    good = np.isfinite(v).all(axis=1) & np.isfinite(c).all(axis=1)
    good &= np.linalg.norm(v, axis=1) < FARTHEST
    config = guide_flow_config(model.recipe)
    return fit_flow(jax.random.fold_in(key, 2**31 - 1), config, v[None, good], c[good], progress=progress)


@jax.jit
def _shape(model: GalaxyModel, like: Observation, prior: Prior, key: jax.Array):
    known = simulate(model, like, prior, key=key)
    found = laplace_of(Problem(model, known.observation, prior, jnp.ones(len(like))))
    v = jax.scipy.linalg.solve_triangular(found.scale, (known.latents - found.mean)[..., None])[..., 0]
    return v, guide_features(found, prior)


def _rows(v: Array, features: Array) -> tuple[Array, Array]:
    """Draws and galaxies on one axis, with their features."""
    rows = jnp.broadcast_to(features, (*v.shape[:-1], features.shape[-1]))
    return v.reshape(-1, v.shape[-1]), rows.reshape(-1, features.shape[-1])
