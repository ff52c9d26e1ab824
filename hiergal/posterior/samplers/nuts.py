"""The No-U-Turn sampler for many galaxies at once (Hoffman & Gelman 2014), by NumPyro's own kernel.

Chains run on w = L^(-1) (z - m), with centre m and scale L of draws of the galaxy's guide: there a posterior is nearly
a unit normal, whatever the galaxy's flux, so that one compiled kernel serves all, and warm-up has a step size alone to
find. Not on the base variables of the prior: the flow bends long, thin posteriors of bright galaxies, and Gaussian ones
become curved (see :mod:`hiergal.posterior.samplers.laplace`).

All chains of all galaxies take each step together, and wait for the longest trajectory. Trajectories of seven steps,
of half a standard deviation each, reach the other side of a unit normal; longer ones are not allowed, as some chain
would always take one (of 16 chains with up to 31 steps, a trajectory had 8.5 on average, and the longest 16.8).
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import joblib
import numpy as np
from jaxtyping import Float
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer.hmc import hmc

from hiergal.model.flow.density import ConditionalFlow
from hiergal.model.prior import LatentFlow
from hiergal.model.trained import GalaxyModel
from hiergal.observation.observation import Observation
from hiergal.posterior.samplers.importance import fitted
from hiergal.posterior.samplers.target import Draws, LatentPosterior
from hiergal.runtime.least_squares import GaussianPosterior
from hiergal.runtime.pytree import Array

__all__ = ["CHAINS", "FEWEST_DRAWS", "sample_by_nuts", "smallest_ess"]

CHAINS = 2
FEWEST_DRAWS = 4 * CHAINS  # R-hat compares halves of chains, of two draws at least
WARMUP = 60
TARGET_ACCEPTANCE = 0.8
TREE_DEPTH = 3  # at most


class _Shared(NamedTuple):
    """Part of the target that all galaxies have in common."""

    model: GalaxyModel
    flow: ConditionalFlow | None


class _Own(NamedTuple):
    """Part of the target that belongs to one galaxy."""

    observation: Observation
    conditions: jax.Array
    variance_factor: jax.Array
    mean: jax.Array
    scale: jax.Array


def sample_by_nuts(
    density: LatentPosterior,
    found: GaussianPosterior,
    pilot: Float[Array, "k n d"],
    keys: jax.Array,
    *,
    draws: int,
) -> Draws:
    """Draw from the posteriors of a batch of galaxies.

    Args:
        density: Their posterior densities.
        found: Mode and scale of each.
        pilot: Latents drawn from the posterior flow, to learn centre and scale from; chains start at the first of them.
        keys: A PRNG key for each galaxy.
        draws: Draws, of all chains together.

    Returns:
        The draws, one chain after the other, and which of them diverged, with the worst over the latents of ``r_hat``
        and ``ess_nuts``, and the number of ``divergences``.
    """
    length = -(-draws // CHAINS)
    shared = _Shared(density.model, density.prior.flow)
    conditions = jnp.asarray(density.prior.conditions)
    own = _Own(density.observation, conditions, density.variance_factor, *_centered(found, pilot))
    z, diverging = _in_parts(_start(jnp.asarray(pilot)[:CHAINS], keys, shared, own), shared, own, length)
    # From [draw, n, chain, ...] to [chain, draw, n, ...].
    z, diverging = (np.moveaxis(np.asarray(x), 2, 0) for x in (z, diverging))
    return Draws(
        z.reshape(CHAINS * length, *z.shape[2:])[:draws],
        {
            "r_hat": split_gelman_rubin(z).max(axis=-1).astype(np.float32),
            "ess_nuts": smallest_ess(z).astype(np.float32),
            "divergences": diverging.sum(axis=(0, 1)).astype(np.float32),
        },
        diverging.reshape(CHAINS * length, -1)[:draws],
    )


def smallest_ess(z: Float[np.ndarray, "chains s n d"]) -> Float[np.ndarray, "n"]:
    """Return the effective number of draws of the worst latent, by NumPyro, at most s log10(s) for s draws in all.

    Draws that alternate about the mean count for more than one, and their estimated number knows no bounds, or is
    negative; the limit is that of Vehtari et al. (2021, Bayesian Analysis 16, 667).
    """
    count = z.shape[0] * z.shape[1]
    limit = count * np.log10(count)
    ess = effective_sample_size(z)
    return np.where(ess > 0, np.minimum(ess, limit), limit).min(axis=-1)


def _centered(found: GaussianPosterior, pilot: Array) -> tuple[jax.Array, jax.Array]:
    """Centre [n, d] and scale [n, d, d] of draws of the posterior flow."""
    v = np.asarray(found.standardized(pilot), float)
    center, scale = fitted(v, np.zeros(v.shape[:2]))
    dtype = found.mean.dtype
    return found.latents(center[None].astype(dtype))[0], found.scale @ scale.astype(dtype)


def _in_parts(state, shared: _Shared, own: _Own, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Run a part of the galaxies on each core: XLA computes the convolutions of a loop on one core alone.

    Parts also wait for their own longest trajectories only. All have the same size, some of the first galaxies twice.
    """
    n = len(own.mean)
    parts = min(n, joblib.cpu_count() if jax.default_backend() == "cpu" else 1)
    rows = np.resize(np.arange(n), (parts, -(-n // parts)))
    double = cast(Any, jax.config).jax_enable_x64  # a thread does not know that it was asked for in another

    def run(take: np.ndarray):
        with jax.enable_x64(double):
            return _run(*_rows((state, own), take), shared, length)

    with ThreadPoolExecutor(parts) as threads:
        found = list(threads.map(run, rows))
    first, second = (
        np.concatenate([np.asarray(part) for part in kind], axis=1)[:, :n]
        for kind in zip(*found, strict=True)
    )
    return first, second


def _rows(tree, take: np.ndarray):
    return jax.tree.map(lambda leaf: leaf[take], tree)


def _potential(shared: _Shared, own: _Own):
    """Minus the log-posterior of one galaxy as a function of w."""
    galaxy = jax.tree.map(lambda leaf: leaf[None], own)
    prior = LatentFlow(shared.flow, galaxy.conditions, latents=own.mean.shape[-1])
    density = LatentPosterior(shared.model, galaxy.observation, prior, galaxy.variance_factor)

    def potential(w: jax.Array) -> jax.Array:
        return -density.log_density(_latents(own, w)[None])[0]

    return potential


def _latents(own: _Own, w: jax.Array) -> jax.Array:
    return own.mean + own.scale @ w


_init, _sample = hmc(potential_fn_gen=_potential, algo="NUTS")


@jax.jit
def _start(pilot: jax.Array, keys: jax.Array, shared: _Shared, own: _Own):
    """State of all chains, [n, chain, ...], at draws of the posterior flow."""
    w = jnp.linalg.solve(own.scale, jnp.moveaxis(pilot - own.mean[None], 0, -1)).swapaxes(1, 2)
    keys = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, 1), CHAINS))(keys)

    def init(w, key, shared, own):
        return _init(
            w,
            WARMUP,
            step_size=0.5,
            target_accept_prob=TARGET_ACCEPTANCE,
            max_tree_depth=TREE_DEPTH,
            adapt_mass_matrix=False,
            model_args=(shared, own),
            rng_key=key,
        )

    chains = jax.vmap(init, in_axes=(0, 0, None, None))
    return jax.vmap(chains, in_axes=(0, 0, None, 0))(w, keys, shared, own)


@partial(jax.jit, static_argnames="length")
def _run(state, own: _Own, shared: _Shared, length: int):
    """Warm up, and return draws of z [length, n, chain, d] and which of them diverged."""

    def step(state, shared, own):
        return _sample(state, (shared, own))

    chains = jax.vmap(step, in_axes=(0, None, None))
    galaxies = jax.vmap(chains, in_axes=(0, None, 0))
    state = jax.lax.fori_loop(0, WARMUP, lambda _, state: galaxies(state, shared, own), state)

    def one_draw(state, _):
        state = galaxies(state, shared, own)
        return state, (state.z, state.diverging)

    _, (w, diverging) = jax.lax.scan(one_draw, state, None, length=length)
    to_latents = jax.vmap(jax.vmap(_latents, in_axes=(None, 0)))  # galaxies, chains
    return jax.vmap(to_latents, in_axes=(None, 0))(own, w), diverging
