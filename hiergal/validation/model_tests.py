"""Tests that need the model itself: draws of its flow, and quality of its reconstructions.

Latents: the flow against the aggregate posterior of galaxies that it was not fitted to (Lanusse et al. 2020, Fig. 4).
Reconstructions: the model's chi-square against that of the best parametric fit (Sec. 4.3, Fig. 5).
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from scipy import stats

from hiergal.model.condition_columns import conditions_from
from hiergal.model.conditions import condition_names
from hiergal.model.guide import posterior_from
from hiergal.model.trained import GalaxyModel
from hiergal.observation.observation import Observation
from hiergal.runtime.batching import join_batches, padded_batches
from hiergal.runtime.pytree import brief
from hiergal.runtime.seeds import as_key
from hiergal.runtime.verdict import ALPHA, Verdict, verdict_of
from hiergal.validation.learned_tests import FEWEST_CLASSIFIED, classifier_test
from hiergal.validation.two_sample import energy_test

__all__ = ["LatentSamples", "latent_tests", "reconstruction_test", "sample_latents"]

GALAXIES_PER_CALL = 128
BOOTSTRAPS = 400


class LatentSamples(NamedTuple):
    """A posterior draw of each galaxy, a draw of the flow for its conditions, and those conditions."""

    survey: Float[np.ndarray, "n d"]
    flow: Float[np.ndarray, "n d"]
    conditions: Float[np.ndarray, "n c"]

    __repr__ = brief


def sample_latents(model: GalaxyModel, observation: Observation, *, key: jax.Array | int) -> LatentSamples:
    """Draw latents of galaxies from the guide, whose samples the flow learns, and from the flow.

    Args:
        model: A trained model with a latent flow.
        observation: Galaxies with the model's conditions in their catalogue.
        key: PRNG key, or a seed; the draws of a galaxy depend on its place, not on how many follow.

    Raises:
        ValueError: If a condition is missing.

    Example:
        >>> latents = sample_latents(model, observation, key=jax.random.key(0))
    """
    key, conditions = as_key(key), conditions_from(condition_names(model), observation.catalog)

    @jax.jit
    def sample(model, observation, conditions, key):
        of_guide, of_flow = jax.random.split(key)
        guide = posterior_from(model.encode(observation), model.recipe.covariance)
        return guide.sample(of_guide), model.flow.sample(of_flow, conditions)

    observation = observation.bare()
    n, parts = len(observation), []
    for batch in padded_batches(n, GALAXIES_PER_CALL):
        key_of_batch = jax.random.fold_in(key, batch.first)
        parts.append(sample(model, observation[batch.rows], conditions[batch.rows], key_of_batch))
    survey, flow = join_batches(parts, n)
    return LatentSamples(survey, flow, conditions)


def latent_tests(latents: LatentSamples, *, seed: int = 0, alpha: float = ALPHA) -> list[Verdict]:
    """Compare the flow with the aggregate posterior, jointly with the conditions.

    Args:
        latents: Latents of galaxies that the flow was not fitted to, and draws of the flow for their conditions.
        seed: Seed of exchanges and classifier.
        alpha: Chance of a false alarm.

    Returns:
        Energy distance and, if there are enough galaxies, a classifier, on latents and conditions together: a flow that
        is right on average and wrong at given conditions is seen.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> latents = LatentSamples(*rng.normal(size=(2, 100, 3)), rng.normal(size=(100, 1)))
        >>> [verdict.passed for verdict in latent_tests(latents)]
        [True, True]
    """
    here, there = (
        np.concatenate([z, latents.conditions], axis=1).astype(float) for z in (latents.survey, latents.flow)
    )
    verdicts = [energy_test(here, there, "latents and conditions", seed=seed, alpha=alpha)]
    if len(here) >= FEWEST_CLASSIFIED:
        verdicts.append(classifier_test(here, there, "latents and conditions", seed=seed, alpha=alpha))
    return verdicts


def reconstruction_test(
    model: Float[np.ndarray, "n"],
    parametric: Float[np.ndarray, "n"],
    *,
    seed: int = 0,
    alpha: float = ALPHA,
) -> Verdict:
    """Compare the fits of a model's reconstructions with parametric ones, galaxy by galaxy.

    Args:
        model: Reduced chi-square of the model's reconstruction of each galaxy.
        parametric: Reduced chi-square of its best parametric fit.
        seed: Seed of the bootstrap.
        alpha: Chance of a false alarm.

    Returns:
        The verdict; the statistic is the mean of ln(model / parametric), and only a worse model fails (one-sided).

    Raises:
        ValueError: If chi-squares are not positive and finite, or their numbers differ.

    Example:
        >>> parametric = np.linspace(1.0, 3.0, 50)
        >>> reconstruction_test(0.9 * parametric, parametric).passed
        True
    """
    model, parametric = np.asarray(model, float), np.asarray(parametric, float)
    if model.shape != parametric.shape or len(model) < 2:
        raise ValueError(
            f"expected a chi-square of each kind for at least two galaxies, got {model.shape} and {parametric.shape}"
        )
    if not (np.isfinite(model) & np.isfinite(parametric) & (model > 0) & (parametric > 0)).all():
        raise ValueError("expected positive and finite chi-squares; leave out galaxies whose fit failed")
    ratio = np.log(model / parametric)
    rng = np.random.default_rng(seed)
    error = float(rng.choice(ratio, (BOOTSTRAPS, len(ratio))).mean(axis=1).std())
    found, better = float(ratio.mean()), float((ratio < 0).mean())
    p_value = float(stats.norm.sf(found / error)) if error > 0 else float(found <= 0)
    words = (
        f"chi-square of reconstructions is off by {100 * np.expm1(found):+.1f} +- {100 * error:.1f} % from that of "
        f"parametric fits (geometric mean), and {100 * better:.0f} % of them fit better"
    )
    return verdict_of("reconstruction (against parametric)", found, error, 0.0, p_value, alpha, words)
