"""Fit of the posterior flow: from simulated galaxies, and refined on those of the survey.

The flow of :mod:`hiergal.posterior.samplers.posterior_flow` learns where w lies. Galaxies that the model itself
simulates, with the PSFs, noise, masks and conditions of a survey, have a known z (neural posterior estimation,
Papamakarios & Murray 2016), and the faint, the bright, the crowded come as often as they do there. What no simulation
shows is a galaxy that the model cannot quite follow: for galaxies of the survey, draws by importance sampling, which
are right whatever the flow, take the place of the truth, where they can be trusted.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.model.architecture import posterior_flow_cells, posterior_flow_config
from hiergal.model.flow.density import FlowFit, fit_flow
from hiergal.model.prior import LatentFlow
from hiergal.model.trained import GalaxyModel
from hiergal.observation.observation import Observation
from hiergal.posterior.samplers.around_guide import seen_by_guide
from hiergal.posterior.samplers.importance import LARGEST_K_HAT
from hiergal.posterior.samplers.methods import draw_latents, find_mode
from hiergal.posterior.samplers.posterior_flow import flow_features, simulate
from hiergal.posterior.samplers.randomize_then_optimize import randomize_then_optimize
from hiergal.posterior.samplers.target import LatentPosterior
from hiergal.runtime.fork import check_not_forked
from hiergal.runtime.least_squares import GaussianPosterior
from hiergal.runtime.progress import progress_bar
from hiergal.runtime.pytree import Array, brief
from hiergal.runtime.seeds import as_key

__all__ = ["Shapes", "fit_posterior_flow", "shapes_of_simulations", "shapes_of_survey"]

GALAXIES_PER_CALL = 32
DRAWS, PROPOSALS = 8, 1000  # by importance sampling, of each galaxy of the survey
FARTHEST = (
    12.0  # of w of some tens of latents, and twice as far as usual of hundreds: no step had found the mode
)


class Shapes(NamedTuple):
    """Training set of the flow: places w of draws of each galaxy's posterior, and its features."""

    w: Float[np.ndarray, "s n d"]
    features: Float[np.ndarray, "n f"]

    __repr__ = brief


def fit_posterior_flow(
    key: jax.Array | int,
    model: GalaxyModel,
    survey: Observation,
    conditions: Float[np.ndarray, "n c"] | None,
    *,
    simulations: int,
    refine_on: int = 0,
    progress: bool = True,
) -> FlowFit:
    """Learn the shapes of posteriors.

    Args:
        key: PRNG key, or a seed.
        model: A model with flow and marginal.
        survey: Galaxies of the survey, whose PSFs, noise and masks simulations take in turn.
        conditions: Their conditions, for the half of the galaxies that has them; None for none at all.
        simulations: Number of galaxies to simulate.
        refine_on: Number of galaxies of the survey to refine on.
        progress: Whether to show progress bars.

    Example:
        >>> fitted = fit_posterior_flow(0, model, observation, None, simulations=64, progress=False)
        >>> model = model.replace(posterior_flow=fitted.flow)
    """
    check_not_forked()
    survey = survey.bare()
    of_simulations, of_survey, of_fit = jax.random.split(as_key(key), 3)
    simulated = shapes_of_simulations(
        of_simulations, model, survey, conditions, galaxies=simulations, progress=progress
    )
    fitted = _fit(of_fit, model, simulated, progress)
    if not refine_on:
        return fitted
    model = model.replace(posterior_flow=fitted.flow)
    seen = shapes_of_survey(of_survey, model, survey, conditions, galaxies=refine_on, progress=progress)
    together = Shapes(
        np.concatenate([np.repeat(simulated.w, len(seen.w), axis=0), seen.w], axis=1),
        np.concatenate([simulated.features, seen.features]),
    )
    return _fit(of_fit, model, together, progress)


def shapes_of_simulations(
    key: jax.Array | int,
    model: GalaxyModel,
    survey: Observation,
    conditions: Float[np.ndarray, "n c"] | None,
    *,
    galaxies: int,
    progress: bool = True,
) -> Shapes:
    """Return w of the truth of simulated galaxies; arguments as of :func:`fit_posterior_flow`."""

    def one(batch: Observation, prior: LatentFlow, key: jax.Array):
        known = _simulated(model, batch, prior, key=key)
        w, features = _seen(model, known.observation, prior, known.latents[None])
        return w, features, np.ones(len(batch), bool)

    return _shapes("simulations", one, key, model, survey, conditions, galaxies, progress)


def shapes_of_survey(
    key: jax.Array | int,
    model: GalaxyModel,
    survey: Observation,
    conditions: Float[np.ndarray, "n c"] | None,
    *,
    galaxies: int,
    progress: bool = True,
) -> Shapes:
    """Return w of importance draws of galaxies of the survey that can be trusted; arguments as above."""

    def one(batch: Observation, prior: LatentFlow, key: jax.Array):
        keys = jax.random.split(key, len(batch))
        draws = draw_latents("importance", model, batch, prior, keys, draws=DRAWS, proposals=PROPOSALS).draws
        w, features = _seen(model, batch, prior, draws.latents)
        return w, features, draws.statistics["k_hat"] < LARGEST_K_HAT

    return _shapes("survey", one, key, model, survey, conditions, min(galaxies, len(survey)), progress)


def _shapes(name, one, key, model, survey, conditions, galaxies: int, progress: bool) -> Shapes:
    """Gather w and features over batches, for one prior after the other, without those that cannot be right."""
    key = as_key(key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    priors = [model.latent_flow().expand((len(survey),))]
    if conditions is not None:
        priors.append(LatentFlow(model.flow, np.asarray(conditions, np.float32)))
    order, parts = rng.permutation(len(survey)), []
    with progress_bar(name, galaxies, shown=progress) as advance:
        for number in range(-(-galaxies // GALAXIES_PER_CALL)):
            rows = np.take(
                order, np.arange(number * GALAXIES_PER_CALL, (number + 1) * GALAXIES_PER_CALL), mode="wrap"
            )
            prior = priors[number % len(priors)]
            found = one(survey[rows], prior[rows], jax.random.fold_in(key, number))
            parts.append([np.asarray(part) for part in found])
            advance(min(GALAXIES_PER_CALL, galaxies - number * GALAXIES_PER_CALL))
    w = np.concatenate([part[0] for part in parts], axis=1)[:, :galaxies]
    features, good = (np.concatenate([part[i] for part in parts])[:galaxies] for i in (1, 2))
    good = good & np.isfinite(w).all(axis=(0, 2)) & np.isfinite(features).all(axis=1)
    good &= (np.linalg.norm(w, axis=-1) < max(FARTHEST, 2 * np.sqrt(w.shape[-1]))).all(axis=0)
    return Shapes(w[:, good], features[good])


def _fit(key: jax.Array, model: GalaxyModel, shapes: Shapes, progress: bool) -> FlowFit:
    config, cells = posterior_flow_config(model.recipe), posterior_flow_cells(model.recipe)
    return fit_flow(key, config, shapes.w, shapes.features, cells=cells, progress=progress)


_simulated = jax.jit(simulate)


def _seen(model: GalaxyModel, observation: Observation, prior: LatentFlow, z: Array):
    """Return w of draws [s, n, d] of the latents of galaxies, and the flow's features of these galaxies."""
    if model.recipe.generator.cell_latents is not None:
        return seen_by_guide(model, observation, prior, z)
    mode = find_mode(model, observation, prior)
    return _shape(mode.density, mode.found, jnp.asarray(z))


@jax.jit
def _shape(density: LatentPosterior, found: GaussianPosterior, z: jax.Array):
    return randomize_then_optimize(density, found)(z), flow_features(found, density.prior)
