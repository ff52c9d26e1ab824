"""Batches of training galaxies, and their transfer to the devices.

The order is a function of a seed and the number of the step alone: a run that was stopped goes on with just the
galaxies that it would have seen, on any number of devices and processes, from memory or from disk.
"""

import zlib
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from hiergal.model.nets.encoder import rough_flux
from hiergal.observation.observation import Observation
from hiergal.runtime.batching import join_batches, padded_batches
from hiergal.runtime.devices import batch_sharding, place, replicated
from hiergal.runtime.pytree import Array

if TYPE_CHECKING:
    import grain

__all__ = ["Galaxies", "bare", "batches_from", "sampling_weights", "checksum_of", "order_of", "rough_fluxes"]

FAINT_QUANTILE = 0.1
GALAXIES_PER_CALL = 512
THREADS, READ_AHEAD = 2, 4
CHECKED = 16


@runtime_checkable
class Galaxies(Protocol):
    """Galaxies that are there when they are asked for: an ``Observation``, or rows of a store on disk."""

    def __len__(self) -> int:
        """Return the number of galaxies."""

    def __getitem__(self, rows: Int[np.ndarray, "n"]) -> Observation:
        """Return some of the galaxies."""


class _Bare:
    def __init__(self, galaxies: Galaxies) -> None:
        self.galaxies = galaxies

    def __len__(self) -> int:
        return len(self.galaxies)

    def __getitem__(self, rows: Int[np.ndarray, "n"]) -> Observation:
        return self.galaxies[rows].bare()


def bare(galaxies: Galaxies) -> Galaxies:
    """Return galaxies without what compiled programs do not take: see :meth:`hiergal.observation.Observation.bare`."""
    return galaxies.bare() if isinstance(galaxies, Observation) else _Bare(galaxies)


def order_of(
    seed: int, galaxies: int, batch: int, weights: Float[np.ndarray, "n"] | None = None
) -> "grain.MapDataset":
    """Return the rows of each step, as a dataset of endless length.

    Args:
        seed: Seed of the order.
        galaxies: Number of galaxies; it need not be a multiple of the batch.
        batch: Galaxies in a step.
        weights: Sampling weight of each galaxy, drawn independently. Default each galaxy once before any comes again.

    Example:
        >>> order = order_of(0, 5, 2)
        >>> np.bincount(np.concatenate([order[step] for step in range(5)])).tolist()
        [2, 2, 2, 2, 2]
    """
    import grain

    rows = grain.MapDataset.range(galaxies).seed(seed)
    if weights is None:
        return rows.shuffle().repeat().batch(batch)
    cumulated = np.cumsum(weights / weights.sum())
    cumulated[-1] = 1.0

    def draw(_: int, rng: np.random.Generator) -> int:
        return int(np.searchsorted(cumulated, rng.random(), side="right"))

    return rows.repeat().random_map(draw).batch(batch)


def batches_from(
    galaxies: Galaxies, order: "grain.MapDataset", first: int, mesh: Mesh
) -> Iterator[tuple[Observation, Int[Array, "batch"] | None]]:
    """Yield the batch of each step, from step ``first`` on.

    A survey in memory goes to the devices once, and a step gets the numbers of its rows. One on disk is read ahead by
    threads, by each process its own part of a batch.

    Args:
        galaxies: All training galaxies.
        order: The rows of each step.
        first: The step to begin with.
        mesh: The devices.

    Yields:
        Galaxies on the devices, and the rows to take of them, or None for all.
    """
    layout = batch_sharding(mesh)
    batch = len(cast(Any, order[0]))
    if isinstance(galaxies, Observation) and jax.process_count() == 1:
        galaxies = place(galaxies, replicated(mesh))
        yield from ((galaxies, rows) for rows in _read_ahead(order, first))
    else:
        slices = layout.addressable_devices_indices_map((batch,)).values()
        own = np.concatenate(sorted((np.arange(batch)[part] for part in slices), key=lambda rows: rows[0]))
        assemble = partial(jax.make_array_from_process_local_data, layout)
        for part in _read_ahead(order.map(lambda rows: galaxies[rows[own]]), first):
            yield jax.tree.map(assemble, part), None


def _read_ahead(dataset: "grain.MapDataset", first: int) -> Iterator:
    import grain

    iterator = iter(dataset.to_iter_dataset(grain.ReadOptions(THREADS, READ_AHEAD)))
    iterator.set_state({"next_index": first})
    return iterator


def sampling_weights(galaxies: Galaxies, power: float) -> Float[np.ndarray, "n"]:
    """Return the chance of each galaxy: a power of its flux, or of that of the faintest tenth if larger.

    Args:
        galaxies: All training galaxies.
        power: Power of the flux.
    """
    flux = rough_fluxes(galaxies)
    weights = np.maximum(flux, np.quantile(flux, FAINT_QUANTILE)) ** power
    return weights / weights.sum()


def rough_fluxes(galaxies: Galaxies) -> Float[np.ndarray, "n"]:
    """Measure the flux of each galaxy under a wide aperture, some galaxies at a time."""
    galaxies, measure, n = bare(galaxies), jax.jit(rough_flux), len(galaxies)
    batches = padded_batches(n, min(GALAXIES_PER_CALL, n))
    return join_batches([np.asarray(measure(galaxies[batch.rows]), float) for batch in batches], n)


def checksum_of(galaxies: Galaxies) -> int:
    """Return a checksum of a set of galaxies: of the first ones, and of their number."""
    first = galaxies[np.arange(min(CHECKED, len(galaxies)))]
    return zlib.crc32(np.ascontiguousarray(first.image).tobytes(), zlib.crc32(str(len(galaxies)).encode()))
