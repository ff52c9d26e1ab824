"""Work that is cut into numbered parts: done in this process, or by the workers of dask.distributed."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

__all__ = ["check_workers", "finished_parts"]

AHEAD = 3  # parts given to each thread of a worker before it is done with the first


def finished_parts(
    do: Callable[..., int], tasks: Iterable[tuple], *, workers: int, scheduler: str | None
) -> Iterator[int]:
    """Do the parts, and yield the number of each when it is done.

    Args:
        do: Does one part, and returns its number; what it writes has to be out of the way of the others.
        tasks: Arguments for each part, taken as they are needed.
        workers: Processes on this machine; one needs no dask.
        scheduler: Address of a running dask scheduler, to use its workers instead. A part whose worker dies is given to
            another one.
    """
    if workers == 1 and scheduler is None:
        yield from (do(*task) for task in tasks)
        return
    dask = _dask()
    options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
    local = None if scheduler else dask.LocalCluster(**options)
    try:
        with dask.Client(scheduler or local) as client:
            waiting, tasks = dask.as_completed(), iter(tasks)

            def give(count: int) -> None:
                for _, task in zip(range(count), tasks, strict=False):
                    waiting.add(client.submit(do, *task, pure=False))

            give(AHEAD * max(1, sum(client.nthreads().values())))
            for future in waiting:
                yield future.result()
                future.release()
                give(1)
    finally:
        if local is not None:
            local.close()


def check_workers(workers: int, scheduler: str | None) -> None:
    """See to it that so many processes can be had.

    Raises:
        ValueError: If there are none, or dask is needed and not installed.
    """
    if workers < 1:
        raise ValueError(f"workers: expected at least 1 process, got {workers}")
    if workers > 1 or scheduler is not None:
        _dask()


def _dask() -> Any:
    """Return dask.distributed, which few need."""
    try:
        import dask.distributed
    except ImportError:
        raise ValueError(
            "workers: expected dask for more than one process, which is not installed; `pip install "
            '"hiergal[distributed]"`'
        ) from None
    return dask.distributed
