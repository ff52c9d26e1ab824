"""Importance sampling on top of the posterior flow, adaptive, self-normalised and Pareto-smoothed.

Everything happens in v = S^(-1) (z - m), with mode m and scale S of the galaxy's posterior. Draws of the guide say
where it lies and how wide it is; a first part of the proposals comes from a Student t distribution fitted to them,
the next parts from t distributions fitted to the weighted proposals so far. All are weighted together, each with p(x
| z) p(z) over the mixture of all distributions that were drawn from (adaptive multiple importance sampling, Cornuet
et al. 2012).

The largest weights are replaced by quantiles of a generalised Pareto distribution fitted to them, whose shape k-hat
tells whether the result can be trusted (Vehtari et al. 2024): below 0.7 it can. Draws of equal weight are then
picked, each proposal as often as its weight says, up to rounding (systematic resampling).
"""

import warnings
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from scipy.special import gammaln, logsumexp

from hiergal.posterior.samplers.target import Draws, LatentPosterior
from hiergal.runtime.least_squares import GaussianPosterior
from hiergal.runtime.pytree import Array, brief

__all__ = ["LARGEST_K_HAT", "Student", "fitted", "smooth_by_pareto", "resample", "sample_by_importance"]

LARGEST_K_HAT = 0.7
PROPOSALS_PER_CALL = 25  # proposals of each galaxy rendered together
PARTS = 4
FREEDOM = 8.0  # degrees of freedom of the t distributions
POWERS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15)  # of weights that a t distribution is fitted to


class Student(NamedTuple):
    """A t distribution of each galaxy: centres [n, d], lower triangular scales [n, d, d]."""

    center: np.ndarray
    scale: np.ndarray

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Return draws, [count, n, d]."""
        n, d = self.center.shape
        normal = rng.normal(size=(count, n, d)) / np.sqrt(rng.chisquare(FREEDOM, (count, n, 1)) / FREEDOM)
        return self.center + np.einsum("nij,snj->sni", self.scale, normal)

    def log_prob(self, v: np.ndarray) -> np.ndarray:
        """Return the logarithm of the density, [s, n] of [s, n, d]."""
        d = v.shape[-1]
        away = np.linalg.solve(self.scale, np.moveaxis(v - self.center, 0, -1))  # [n, d, s]
        constant = gammaln((FREEDOM + d) / 2) - gammaln(FREEDOM / 2) - d / 2 * np.log(FREEDOM * np.pi)
        constant = constant - np.log(np.diagonal(self.scale, axis1=1, axis2=2)).sum(axis=1)
        return constant - (FREEDOM + d) / 2 * np.log1p((away**2).sum(axis=1).T / FREEDOM)

    __repr__ = brief


def sample_by_importance(
    density: LatentPosterior,
    found: GaussianPosterior,
    pilot: Float[Array, "k n d"],
    keys: jax.Array,
    *,
    draws: int,
    proposals: int,
) -> Draws:
    """Draw from the posteriors of a batch of galaxies.

    Args:
        density: Their posterior densities.
        found: Mode and scale of each.
        pilot: Latents drawn from the posterior flow.
        keys: A PRNG key for each galaxy.
        draws: Draws to pick.
        proposals: Number of proposals to pick them from.

    Returns:
        The draws, with ``k_hat`` and ``ess``, the effective number of proposals, as statistics.
    """
    blocks = -(-proposals // PROPOSALS_PER_CALL)
    sizes = [len(part) * PROPOSALS_PER_CALL for part in np.array_split(np.arange(blocks), min(PARTS, blocks))]
    rngs = [np.random.default_rng(np.asarray(seed)) for seed in np.asarray(jax.random.key_data(keys))]
    known = np.asarray(_standardized(found, pilot), float)
    components = [fitted(known, np.zeros(known.shape[:2]))]
    v, target = np.empty((0, *known.shape[1:])), np.empty((0, known.shape[1]))
    for size in sizes:
        if len(v):
            components.append(fitted(v, target - _mixture(v, components, sizes)))
        more = np.concatenate([_of(components[-1], i).draw(rng, size) for i, rng in enumerate(rngs)], axis=1)
        v, target = np.concatenate([v, more]), np.concatenate([target, _targets(density, found, more)])
    weight, k_hat = smooth_by_pareto(target - _mixture(v, components, sizes))
    picked = resample(weight, np.array([rng.uniform() for rng in rngs]), draws)
    # In random order: neighbours would be copies, or of one part, and look correlated.
    order = np.stack([rng.permutation(draws) for rng in rngs], axis=1)
    picked = np.take_along_axis(picked, order, axis=0)
    chosen = np.take_along_axis(v, picked[..., None], axis=0).astype(found.mean.dtype)
    return Draws(
        np.asarray(_latents(found, chosen)),
        {"k_hat": k_hat.astype(np.float32), "ess": (1 / np.sum(weight**2, axis=0)).astype(np.float32)},
    )


def smooth_by_pareto(
    log_weight: Float[np.ndarray, "m n"],
) -> tuple[Float[np.ndarray, "m n"], Float[np.ndarray, "n"]]:
    """Return smoothed, normalised weights, and k-hat, of m proposals for each of n galaxies.

    A galaxy of which a proposal has no finite weight gets an infinite k-hat, and equal weights.

    Example:
        >>> weight, k_hat = smooth_by_pareto(np.random.default_rng(1).normal(size=(1000, 2)))
        >>> weight.sum(axis=0).round(6).tolist(), bool((k_hat < 0.7).all())
        ([1.0, 1.0], True)
    """
    finite = ~np.isnan(log_weight).any(axis=0) & np.isfinite(log_weight.max(axis=0))
    safe = np.where(finite & np.isfinite(log_weight), log_weight, np.where(finite, -1e6, 0.0)).astype(float)
    smooth, k_hat = _psis(np.ascontiguousarray(safe.T))
    return np.exp(smooth).T, np.where(finite, k_hat, np.inf)


def resample(
    weight: Float[np.ndarray, "m n"], offset: Float[np.ndarray, "n"], draws: int
) -> Int[np.ndarray, "s n"]:
    """Pick rows with the chances of their weights, in their order: systematic resampling.

    Args:
        weight: Normalised weights.
        offset: A uniform number of each galaxy.
        draws: Number of rows to pick.

    Example:
        >>> resample(np.array([[0.5], [0.0], [0.5]]), np.array([0.5]), 4)[:, 0].tolist()
        [0, 0, 2, 2]
    """
    edges = np.cumsum(weight, axis=0)
    places = (np.arange(draws)[:, None] + offset) / draws * edges[-1]
    return np.stack(
        [np.searchsorted(edge, at, side="right") for edge, at in zip(edges.T, places.T, strict=True)], axis=1
    )


def _targets(density: LatentPosterior, found: GaussianPosterior, v: np.ndarray) -> np.ndarray:
    """Logarithm of the posterior at v, up to a constant, block by block."""
    parts = [
        _target(density, found, v[i : i + PROPOSALS_PER_CALL].astype(found.mean.dtype))
        for i in range(0, len(v), PROPOSALS_PER_CALL)
    ]
    return np.concatenate([np.asarray(part, float) for part in parts])


_latents = jax.jit(GaussianPosterior.latents)
_standardized = jax.jit(GaussianPosterior.standardized)


@jax.jit
def _target(density: LatentPosterior, found: GaussianPosterior, v: jax.Array) -> jax.Array:
    return density.log_density(found.latents(v))


def _mixture(v: np.ndarray, components: list[Student], sizes: list[int]) -> np.ndarray:
    """Logarithm of the density of all that proposals were drawn from."""
    densities = np.stack([component.log_prob(v) for component in components])
    share = np.array(sizes[: len(densities)], float)
    return logsumexp(densities, axis=0, b=(share / share.sum())[:, None, None])


def fitted(v: Float[np.ndarray, "m n d"], log_weight: Float[np.ndarray, "m n"]) -> Student:
    """Return centre and scale of weighted draws in standardised latents, shrunk to unit scale where few draws count.

    Weights are flattened until there are enough draws to tell.
    """
    d = v.shape[-1]
    log_weight = np.where(np.isfinite(log_weight), log_weight, -np.inf)
    log_weight = np.where(np.isfinite(log_weight).any(axis=0), log_weight, 0.0)
    for power in POWERS:
        flat = np.exp(power * (log_weight - log_weight.max(axis=0)))
        flat /= flat.sum(axis=0)
        weight = flat if power == POWERS[0] else np.where(1 / (weight**2).sum(axis=0) < 3 * d, flat, weight)
    effective = 1 / (weight**2).sum(axis=0)
    center = np.einsum("sn,sni->ni", weight, v)
    away = v - center
    covariance = np.einsum("sn,sni,snj->nij", weight, away, away)
    shrink = (d / (effective + d))[:, None, None]
    covariance = (1 - shrink) * covariance + shrink * np.eye(d)
    return Student(center, np.linalg.cholesky(covariance))


def _of(student: Student, galaxy: int) -> Student:
    return Student(student.center[galaxy : galaxy + 1], student.scale[galaxy : galaxy + 1])


def _psis(log_weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ArviZ's Pareto smoothing over the last axis, in either of its generations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 0.23 announces 1.x on import, and both warn of a large k-hat
        try:
            from arviz_stats.base import array_stats
        except ImportError:
            import arviz

            return arviz.psislw(log_weight)
        return array_stats.psislw(log_weight, axis=-1)
