"""Evaluation of a model in training on galaxies that it does not learn from."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.sharding import Mesh

from hiergal.model.architecture import encode, image_of
from hiergal.model.guide import posterior_from
from hiergal.model.likelihood import NoisyImage, choose_noise
from hiergal.observation.noise import count_unmasked
from hiergal.observation.observation import Observation
from hiergal.recipe.recipe import Recipe
from hiergal.runtime.batching import join_batches, padded_batches
from hiergal.runtime.devices import batch_sharding, place, replicated
from hiergal.training.batches import Galaxies
from hiergal.training.elbo import kl_per_latent

__all__ = ["Evaluation", "evaluator"]


class Evaluation(NamedTuple):
    """Means over a set of galaxies, as in :class:`~hiergal.training.history.TrainInfo`."""

    elbo: float
    distortion: float
    kl: float
    kl_per_latent: tuple[float, ...]
    chi_square: float


def evaluator(recipe: Recipe, key: jax.Array, mesh: Mesh) -> Callable[[dict[str, Any], Galaxies], Evaluation]:
    """Return a function of parameters and galaxies; it is compiled once, and takes some galaxies at a time.

    Args:
        recipe: What is trained.
        key: PRNG key of the posterior draws, the same ones in each evaluation.
        mesh: The devices to spread the galaxies over.
    """
    objective, config = recipe.objective, recipe.training
    at_once = config.batch // config.gradient_accumulation  # which take less memory than in training

    @partial(jax.jit, out_shardings=replicated(mesh))
    def evaluate_some(params: dict[str, Any], observation: Observation, key: jax.Array):
        q = posterior_from(encode(recipe, params, observation), recipe.covariance)
        z = q.sample(key)
        mask = observation.mask
        mean = image_of(recipe, params, z, observation.psf)
        # As it is trained: a mean over exact likelihoods is a statement about the few brightest galaxies.
        noise = choose_noise(observation.noise, objective.noise, objective.noise_sigma)
        likelihood = NoisyImage(mean, noise, mask, misfit_as_noise=objective.misfit_as_noise).log_prob(
            observation.image
        )
        kl = kl_per_latent(q, dist.Normal(jnp.zeros_like(q.mean), 1.0).to_event(1))
        chi_square = observation.noise.chi_square(observation.image - mean, mask)
        return likelihood, kl, chi_square / count_unmasked(mean.shape, mask)

    def evaluate(params: dict[str, Any], galaxies: Galaxies) -> Evaluation:
        n = len(galaxies)
        size = -(-min(n, at_once) // mesh.size) * mesh.size
        parts = []
        for batch in padded_batches(n, size):
            here = place(jax.tree.map(np.asarray, galaxies[batch.rows]), batch_sharding(mesh))
            part = evaluate_some(params, here, jax.random.fold_in(key, batch.first))
            parts.append(jax.tree.map(lambda x: np.asarray(x, float), part))
        likelihood, kl, chi_square = join_batches(parts, n)
        rate = kl.sum(-1).mean()
        return Evaluation(
            elbo=float(likelihood.mean() - rate),
            distortion=float(-likelihood.mean()),
            kl=float(rate),
            kl_per_latent=tuple(kl.mean(0).tolist()),
            chi_square=float(np.median(chi_square)),
        )

    return evaluate
