"""Seeds of everything random: one range for every command and every function."""

import contextlib
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import jax

__all__ = [
    "SEEDS",
    "as_key",
    "check_seed",
    "key_for",
]

SEEDS = 2**32  # JAX, in its default of 32 bits, drops what is beyond: 2**32 + 1 would be the seed 1 again
# Purposes of a seed.
TRAIN, FLOW, FLOW_DRAWS, INFER, SAMPLE, MARGINAL, POSTERIOR_FLOW, POPULATION_ROWS = range(8)


def check_seed(seed: Any) -> int:
    """Check a seed, and return it as Python's own integer.

    Args:
        seed: Seed, from 0 to 2**32 - 1.

    Raises:
        TypeError: If it is no integer.
        ValueError: If it is out of range.

    Example:
        >>> check_seed(7)
        7
    """
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(
            f"seed: expected an integer from 0 to {SEEDS - 1}, got {type(seed).__name__}"
        ) from None
    if isinstance(seed, bool) or not 0 <= number < SEEDS:
        raise ValueError(f"seed: expected an integer from 0 to {SEEDS - 1}, got {seed}")
    return number


def as_key(key: Any) -> "jax.Array":
    """Return a PRNG key; an integer is taken as its seed.

    Args:
        key: A key of ``jax.random``, typed or of the old kind, or a seed.

    Returns:
        A typed key.

    Raises:
        TypeError: If it is neither, or several keys.
        ValueError: If it is a seed out of range.

    Example:
        >>> import jax
        >>> as_key(7) == jax.random.key(7)
        Array(True, dtype=bool)
    """
    import jax

    of_old = isinstance(key, jax.Array | np.ndarray) and key.dtype == "uint32" and key.ndim == 1
    typed = isinstance(key, jax.Array) and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
    if typed and key.ndim == 0:
        return key
    if of_old:
        with contextlib.suppress(TypeError):  # numbers that are no key
            return jax.random.wrap_key_data(key)  # which draws the same numbers
    if typed:
        raise TypeError(
            f"key: expected one key, got {key.size} of shape {key.shape}; take one of them, such as "
            f"key{'[0]' * key.ndim}"
        )
    try:
        return jax.random.key(check_seed(key))
    except TypeError:
        raise TypeError(
            f"key: expected a key, such as jax.random.key(0), or a seed, got {type(key).__name__}"
        ) from None


def key_for(seed: int, purpose: int) -> "jax.Array":
    """Return the PRNG key of a purpose: purposes of one seed are independent.

    Raises:
        ValueError: If the seed is out of range.
    """
    import jax

    return jax.random.fold_in(jax.random.key(check_seed(seed)), purpose)
