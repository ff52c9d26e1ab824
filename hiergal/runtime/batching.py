"""Batches of one size: a compiled program serves all of them, as the last one repeats its last row."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

__all__ = ["PaddedBatch", "join_batches", "padded_batches"]


class PaddedBatch(NamedTuple):
    """Rows of one batch.

    Attributes:
        rows: Numbers of the rows, the last one repeated where there are too few, [size].
        first: Number of the first row.
        kept: How many are not repeats.
    """

    rows: Int[np.ndarray, "size"]
    first: int
    kept: int

    @property
    def span(self) -> slice:
        """The rows that are not repeats, as a slice of all."""
        return slice(self.first, self.first + self.kept)


def padded_batches(n: int, size: int) -> Iterator[PaddedBatch]:
    """Divide n rows into batches of one size.

    Args:
        n: Number of rows.
        size: Rows in each batch.

    Example:
        >>> [(batch.rows.tolist(), batch.kept) for batch in padded_batches(5, 3)]
        [([0, 1, 2], 3), ([3, 4, 4], 2)]
    """
    for first in range(0, n, size):
        yield PaddedBatch(np.minimum(np.arange(first, first + size), n - 1), first, min(size, n - first))


def join_batches(parts: Sequence[Any], n: int, axis: int = 0) -> Any:
    """Join what was computed of padded batches, as NumPy arrays, without the repeats.

    Args:
        parts: Arrays, or pytrees of arrays, one for each batch.
        n: Number of rows.
        axis: Axis of the rows.

    Example:
        >>> batches = padded_batches(5, 3)
        >>> join_batches([batch.rows**2 for batch in batches], 5).tolist()
        [0, 1, 4, 9, 16]
    """

    def join(*leaves: Any) -> np.ndarray:
        whole = np.concatenate([np.asarray(leaf) for leaf in leaves], axis=axis)
        return whole[(slice(None),) * axis + (slice(n),)]

    return jax.tree.map(join, *parts)
