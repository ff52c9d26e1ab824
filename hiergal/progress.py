"""Telling a person how long work will take, and letting that person stop it cleanly."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Stopped", "progress_bar", "stop_requested"]


class Stopped(Exception):  # noqa: N818 (a wish, not an error)
    """Work was stopped on request; what it wrote is whole, and the next run goes on from there."""


@contextmanager
def progress_bar(what: str, total: int | None, *, shown: bool = True) -> Iterator[Callable[..., None]]:
    """Show a progress bar while a block runs.

    Args:
        what: Name of the work.
        total: Number of units in all; None if nobody knows.
        shown: Whether to show anything.

    Yields:
        A function that takes the number of units done since its last call, and ``note=``, a text to show.

    Example:
        >>> with progress_bar("counting", 3, shown=False) as advance:
        ...     advance(1, note="one")
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, disable=not shown) as progress:
        task = progress.add_task(what, total=total, note="")

        def advance(done: int = 1, *, note: str | None = None) -> None:
            fields = {} if note is None else {"note": note}
            progress.update(task, advance=done, **fields)

        yield advance


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C (or SIGTERM) into a request, so that a loop can stop where its files are whole.

    A second one interrupts at once. Outside the main thread, where Python allows no handlers, nothing changes.

    Yields:
        A function that tells whether a stop was asked for.

    Example:
        >>> with stop_requested() as stop:
        ...     stop()
        False
    """
    asked = False

    def ask(signum, frame):
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        before = {}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
