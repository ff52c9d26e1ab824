"""Work in parts: done in this process, in threads, by other processes on this machine, or by a cluster of dask.

Processes on this machine are loky's: they talk through pipes, so that no other account of the machine can reach them,
and end with the process that started them. A part whose process dies is given to another one.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from joblib.externals.loky import ProcessPoolExecutor

from hiergal.runtime.extras import require_extra

__all__ = [
    "check_workers",
    "finished_parts",
    "in_order",
    "process_pool",
    "signals_held",
]

AHEAD = 3  # parts given to each thread of a worker before it is done with the first
DEATHS = 3  # of processes at work on one part, before it is taken to be the part that kills them


def finished_parts(
    do: Callable[..., int], tasks: Iterable[tuple], *, workers: int, scheduler: str | None
) -> Iterator[int]:
    """Compute the parts, and yield the number of each when it is done.

    Args:
        do: Does one part, and returns its number; what it writes has to be out of the way of the others.
        tasks: Arguments for each part, taken as they are needed.
        workers: Processes on this machine; one needs no others.
        scheduler: Address of a running dask scheduler, to use its workers instead. A part whose worker dies is given to
            another one.

    Raises:
        OSError: If a part kills one process after the other.
    """
    if scheduler is not None:
        yield from _by_dask(do, tasks, scheduler)
    elif workers == 1:
        yield from (do(*task) for task in tasks)
    else:
        yield from _by_processes(do, tasks, workers)


def in_order(
    do: Callable[..., Any], tasks: Sequence[tuple], *, workers: int | None = None, threads: bool = False
) -> Iterator[Any]:
    """Run tasks on this machine, and yield their results in the order of the tasks.

    Args:
        do: What to do with the arguments of a task.
        tasks: Arguments of each.
        workers: How many are done at once; default one on each available core.
        threads: Whether to use threads, which share compiled programs; else processes, kept for the next call.

    Example:
        >>> list(in_order(pow, [(2, 3), (3, 2)], threads=True))
        [8, 9]
    """
    import joblib

    count = max(1, min(workers or joblib.cpu_count(), len(tasks)))
    backend = "threading" if threads else "loky"
    parallel = joblib.Parallel(count, backend=backend, batch_size=1, return_as="generator")
    yield from parallel(joblib.delayed(do)(*task) for task in tasks)


def process_pool(workers: int, environment: Mapping[str, str] | None = None) -> "ProcessPoolExecutor":
    """Return processes that leave signals to this one, and end with it.

    They are loky's, which start without the main script: no ``if __name__ == "__main__"`` is needed.

    Args:
        workers: How many.
        environment: Variables that they get.

    Example:
        >>> with process_pool(1) as pool:
        ...     pool.submit(pow, 2, 3).result()
        8
    """
    from joblib.externals.loky import ProcessPoolExecutor

    resource_tracker.ensure_running()  # if it starts later, it lets the signals through that are held then
    start = {"initializer": follow_parent, "initargs": (os.getpid(),)}
    return ProcessPoolExecutor(workers, env=dict(environment or {}), **start)


def check_workers(workers: int, scheduler: str | None) -> None:
    """Check that a number of processes can be started.

    Raises:
        ValueError: If there are none, or dask is needed and not installed.
    """
    if workers < 1:
        raise ValueError(f"workers: expected at least 1 process, got {workers}")
    if scheduler is not None:
        _dask()


def _by_processes(do: Callable[..., int], tasks: Iterable[tuple], workers: int) -> Iterator[int]:
    tasks, lost, deaths = iter(tasks), [], {}
    while True:
        pool = process_pool(workers)
        running: dict[Future, tuple] = {}
        try:
            while True:
                while len(running) < AHEAD * workers:
                    task = lost.pop() if lost else next(tasks, None)
                    if task is None:
                        break
                    with signals_held():
                        running[pool.submit(do, *task)] = task
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    number = future.result()
                    del running[future]
                    yield number
        except BrokenProcessPool:  # a process was killed: what was running is begun again by others
            lost += [task for future, task in running.items() if not _is_done(future)]
            yield from [future.result() for future in running if _is_done(future)]
            for task in lost:
                deaths[id(task)] = deaths.get(id(task), 0) + 1
            if lost and max(deaths[id(task)] for task in lost) > DEATHS:
                raise OSError(
                    f"processes died {DEATHS + 1} times at the same work; is there memory for {workers} of them? Take "
                    "fewer (--workers), or fewer galaxies at once (--batch)"
                ) from None
        finally:
            for future in running:
                future.cancel()
            pool.shutdown(wait=True, kill_workers=True)


def _is_done(future: Future) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _by_dask(do: Callable[..., int], tasks: Iterable[tuple], scheduler: str) -> Iterator[int]:
    dask = _dask()
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(dask.Client(scheduler))
        waiting, tasks = dask.as_completed(), iter(tasks)

        def give(count: int) -> None:
            for _, task in zip(range(count), tasks, strict=False):
                waiting.add(client.submit(do, *task, pure=False))

        give(AHEAD * max(1, sum(client.nthreads().values())))
        for future in waiting:
            yield future.result()
            future.release()
            give(1)


def _dask() -> Any:
    """Return dask.distributed, which few need."""
    require_extra("cluster", "scheduler")
    import dask.distributed

    return dask.distributed


def follow_parent(parent: int) -> None:
    """Leave signals to the process that started this one, and end when it is gone: its results would be lost."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def signals_held() -> Iterator[None]:
    """Keep Ctrl-C, which a terminal sends to all processes, and SIGTERM from the processes that start meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
