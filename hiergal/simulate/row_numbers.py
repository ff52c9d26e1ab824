"""Random numbers of the rows of a catalogue: each depends on its row, or on the identity of its galaxy, alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.model.trained import GalaxyModel
from hiergal.runtime.batching import padded_batches
from hiergal.runtime.fork import check_not_forked
from hiergal.runtime.pytree import Array
from hiergal.runtime.seeds import as_key

__all__ = ["base_for_rows", "normals_for_rows", "row_keys"]

ROWS_PER_CALL = 1024  # whose numbers are drawn together


def base_for_rows(model: GalaxyModel, key: jax.Array | int, rows: Array) -> Float[np.ndarray, "n d"]:
    """Draw the base variables of the galaxies in these rows of a catalogue: each depends on its row alone.

    Args:
        model: A model.
        key: PRNG key, or a seed.
        rows: Places in a catalogue, [n], or identities of galaxies (:func:`~hiergal.runtime.identities.identities`),
            [n, 2].
    """
    return normals_for_rows(key, rows, model.recipe.generator.latents)


def normals_for_rows(key: jax.Array | int, rows: Array, count: int) -> Float[np.ndarray, "n d"]:
    """Draw some unit-normal numbers for each row of a catalogue; arguments as for :func:`base_for_rows`."""
    check_not_forked()
    key, n = as_key(key), len(rows)
    numbers = np.empty((n, count), np.float32)
    for batch in padded_batches(n, ROWS_PER_CALL):
        block = _base(key, jnp.asarray(rows[batch.rows]), count)
        numbers[batch.first : batch.first + batch.kept] = np.asarray(block)[: batch.kept]
    return numbers


def row_keys(key: jax.Array, rows: jax.Array) -> jax.Array:
    """Keys of rows: of their places, or of identities, which take two numbers of 32 bits."""
    for number in jnp.atleast_2d(rows.T):
        key = jax.vmap(jax.random.fold_in, in_axes=(None if key.ndim == 0 else 0, 0))(key, number)
    return key


@partial(jax.jit, static_argnames="d")
def _base(key: jax.Array, rows: jax.Array, d: int) -> jax.Array:
    keys = row_keys(key, rows)
    return jax.vmap(lambda row_key: jax.random.normal(row_key, (d,)))(keys)
