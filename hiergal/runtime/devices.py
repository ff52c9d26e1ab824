"""The devices that a batch is spread over: of one process, or of many that were joined.

One code path serves all: galaxies are spread over a mesh of one axis, parameters are on each device.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

__all__ = [
    "any_process",
    "replicated",
    "galaxy_mesh",
    "is_first_process",
    "join_processes",
    "place",
    "batch_sharding",
    "wait",
]

AXIS = "galaxies"
T = TypeVar("T")


def join_processes() -> None:
    """Join the processes of a job into one computation, as the environment describes it (SLURM, Open MPI, Kubernetes).

    To be called before anything else of JAX; each process runs the same program.

    Raises:
        RuntimeError: If the environment describes no job of several processes.

    Example:
        The first lines of a script that ``srun -n 4 python script.py`` starts::

            from hiergal.runtime.devices import join_processes

            join_processes()
    """
    try:
        jax.distributed.initialize()
    except ValueError as error:
        raise RuntimeError(
            "expected a job of several processes (SLURM, Open MPI, Kubernetes), got none that JAX recognises: "
            f"{error}; start the program with srun or mpirun, or leave out --distributed"
        ) from error


def galaxy_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return the mesh that galaxies are spread over.

    Args:
        devices: What it consists of; default all there are, of all processes.

    Example:
        >>> galaxy_mesh(jax.devices()[:1]).size
        1
    """
    return Mesh(np.asarray(jax.devices() if devices is None else devices), (AXIS,))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the layout in which each device has its part of the galaxies."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the layout in which each device has all of it."""
    return NamedSharding(mesh, PartitionSpec())


def place(tree: T, layout: NamedSharding) -> T:
    """Put arrays that each process has whole onto the devices."""
    if jax.process_count() == 1:
        return jax.device_put(tree, layout)

    def place_leaf(leaf: Any) -> jax.Array:
        if jax.dtypes.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key):
            return jax.random.wrap_key_data(place_leaf(jax.random.key_data(leaf)))
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, layout, lambda index: whole[index])

    return jax.tree.map(place_leaf, tree)


def is_first_process() -> bool:
    """Whether this is the process that writes logs and models."""
    return jax.process_index() == 0


def any_process(wish: bool) -> bool:
    """Return whether any of the processes sets a flag; all of them have to call this."""
    return (
        wish if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.asarray(wish)).any())
    )


def wait(what: str) -> None:
    """Wait until all processes have arrived."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
