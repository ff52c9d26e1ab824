"""Processes that draw the galaxies of a survey, a few at a time, for the one that writes them.

The processes are loky's, which start without the main script: no one needs ``if __name__ == "__main__"``. They leave
Ctrl-C to the process that started them, and end with it.
"""

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import joblib

from hiergal.runtime.workers import process_pool, signals_held
from hiergal.survey.arrays import Batch

__all__ = [
    "TASK_GALAXIES",
    "Draw",
    "Task",
    "choose_workers",
    "drawn",
]

TASK_GALAXIES = 64  # a quarter of a shard
GALAXIES_PER_WORKER = 512  # fewer are drawn before another process has started
EXECUTOR_TASKS = 64  # given ahead to an executor of unknown size
# One thread in each process. glibc shall keep the memory of stamps for the next ones, not hand it back each time.
WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
WORKER_ENVIRONMENT |= {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "268435456"}

Draw = Callable[[int, int], Batch]


class Task(NamedTuple):
    """Some galaxies to draw.

    Attributes:
        first: Number of the first one in the survey.
        count: How many.
    """

    first: int
    count: int


def choose_workers(workers: int | Executor | None, galaxies: int) -> int | Executor:
    """Return the number of processes for so many galaxies: the number asked for, unless there is less work.

    Args:
        workers: Number of processes; None for one per available core, or fewer for few galaxies; an executor stays.
        galaxies: Number of galaxies to draw.

    Example:
        >>> choose_workers(None, 100), choose_workers(3, 1000)
        (1, 3)
    """
    if isinstance(workers, Executor):
        return workers
    if workers is not None and workers < 1:
        raise ValueError(
            f"workers: expected at least 1 process, got {workers}; leave it out to use all cores"
        )
    share = GALAXIES_PER_WORKER if workers is None else TASK_GALAXIES
    return max(1, min(workers or joblib.cpu_count(), math.ceil(galaxies / share)))


def drawn(draw: Draw, tasks: Iterable[Task], workers: int | Executor) -> Iterator[Batch]:
    """Draw in order, no further ahead of what is taken than keeps everyone busy.

    Args:
        draw: Takes the number of the first galaxy and how many to draw.
        tasks: What to draw.
        workers: Number of processes, 1 for none but this one; or an executor.

    Yields:
        What was drawn; warnings of the workers are given again.
    """
    if workers == 1:
        for task in tasks:
            yield _complete(draw(*task), task)
        return
    with _pool(workers) if isinstance(workers, int) else nullcontext(workers) as pool:
        ahead = 2 * workers if isinstance(workers, int) else EXECUTOR_TASKS
        pending: deque[tuple[Future, Task]] = deque()
        try:
            for task in tasks:
                with signals_held():
                    pending.append((pool.submit(_draw_with_warnings, draw, *task), task))
                if len(pending) > ahead:
                    yield _received(*pending.popleft())
            while pending:
                yield _received(*pending.popleft())
        finally:
            for future, _ in pending:
                future.cancel()


def _received(future: Future, task: Task) -> Batch:
    batch, messages = future.result()
    for message in messages:
        warnings.warn(message, stacklevel=2)
    return _complete(batch, task)


def _complete(batch: Batch, task: Task) -> Batch:
    first, count = task
    if len(batch[0]) != count:
        raise ValueError(
            f"expected {count} galaxies from number {first} on, got {len(batch[0])}; fix what draws them"
        )
    return batch


def _draw_with_warnings(draw: Draw, first: int, count: int) -> tuple[Batch, list[Warning | str]]:
    """Draw in a worker, and pass its warnings on to the main process."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        batch = draw(first, count)
    return batch, [warning.message for warning in caught]


@contextmanager
def _pool(workers: int) -> Iterator[Executor]:
    """Hold processes for the time of one survey."""
    pool = process_pool(workers, WORKER_ENVIRONMENT)
    try:
        yield pool
    except KeyboardInterrupt:
        pool.shutdown(kill_workers=True)
        raise
    finally:
        pool.shutdown()
