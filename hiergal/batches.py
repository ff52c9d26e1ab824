"""Which galaxies a step of training sees: a function of the key and the number of the step alone.

A run that was stopped therefore goes on with just the galaxies that it would have seen, and no state of an iterator has
to be kept.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from hiergal.nets.encoder import rough_flux
from hiergal.observation import Observation
from hiergal.records import Array

__all__ = ["chances_of", "favoured_rows", "shuffled_rows"]

FAINT_QUANTILE = 0.1


def shuffled_rows(
    key: jax.Array, step: jax.Array | int, galaxies: int, batch: int
) -> Int[jax.Array, "batch"]:
    """Return the rows of a step of shuffled epochs: each galaxy once before any comes again.

    Args:
        key: PRNG key of the order.
        step: Number of the step, from 0.
        galaxies: Number of galaxies; it need not be a multiple of the batch, nor as many.
        batch: Galaxies in a step.

    Example:
        >>> rows = jnp.stack([shuffled_rows(jax.random.key(0), step, 5, 2) for step in range(5)])
        >>> jnp.bincount(rows.ravel()).tolist()
        [2, 2, 2, 2, 2]
    """
    epoch, place = jnp.divmod(step * batch + jnp.arange(batch), galaxies)
    first = epoch[0]
    epochs = first + jnp.arange(batch // galaxies + 2)  # a batch touches no more than these
    orders = jax.vmap(lambda e: jax.random.permutation(jax.random.fold_in(key, e), galaxies))(epochs)
    return orders[epoch - first, place]


def favoured_rows(
    key: jax.Array, step: jax.Array | int, chances: Float[Array, "n"], batch: int
) -> Int[jax.Array, "batch"]:
    """Return the rows of a step in which each galaxy is drawn with a chance of its own, and independently.

    Args:
        key: PRNG key of the draws.
        step: Number of the step.
        chances: Cumulated chances of the galaxies, as :func:`chances_of` gives them.
        batch: Galaxies in a step.
    """
    draws = jax.random.uniform(jax.random.fold_in(key, step), (batch,), maxval=chances[-1])
    return jnp.minimum(jnp.searchsorted(chances, draws, side="right"), len(chances) - 1)


def chances_of(observation: Observation, power: float) -> Float[np.ndarray, "n"]:
    """Return cumulated chances of galaxies, each a power of its flux or of that of the faintest tenth, if larger.

    Args:
        observation: All training galaxies.
        power: Power of the flux.
    """
    flux = np.asarray(jax.jit(rough_flux)(observation), float)
    chances = np.maximum(flux, np.quantile(flux, FAINT_QUANTILE)) ** power
    return np.cumsum(chances / chances.sum()).astype(np.float32)
