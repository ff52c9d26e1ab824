"""Progress of long work, and its clean interruption."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hiergal.runtime.log import LOGGER, is_quiet

__all__ = ["Interrupted", "Stopped", "interruptions", "progress_bar", "stop_requested"]

LINE_SECONDS = 30


class Stopped(Exception):  # noqa: N818 (a wish, not an error)
    """Work stopped on request; its files are whole, and the next run goes on from there."""


class Interrupted(BaseException):  # noqa: N818 (a wish, not an error)
    """Stop that was requested where nothing waits for one: it ends all work at once, past all handlers of errors."""


@contextmanager
def interruptions() -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into :class:`Interrupted` while a block runs: what the command does around all it does.

    Example:
        >>> with interruptions():
        ...     pass
    """

    def interrupt(signum, frame):
        raise Interrupted

    try:
        before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # outside the main thread, where Python allows no handlers
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def progress_bar(what: str, total: int | None, *, shown: bool = True) -> Iterator[Callable[..., None]]:
    """Show the progress of a block: a bar on stderr in a terminal or notebook, lines in the log elsewhere.

    A line comes at the start, with each note (an evaluation of a training, say), every ``LINE_SECONDS`` and at the end.

    Args:
        what: Name of the work.
        total: Number of units in all; None if not known.
        shown: Whether to show anything.

    Yields:
        A function that takes the number of units done since its last call, and ``note=``, a text to show.

    Example:
        >>> with progress_bar("counting", 3, shown=False) as advance:
        ...     advance(1, note="one")
    """
    if not shown or is_quiet():
        yield lambda done=1, *, note=None: None
        return
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal or console.is_jupyter:
        with _bar(what, total, console) as advance:
            yield advance
    else:
        with _lines(what, total) as advance:
            yield advance


@contextmanager
def _bar(what: str, total: int | None, console) -> Iterator[Callable[..., None]]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<12}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total, note="")

        def advance(done: int = 1, *, note: str | None = None) -> None:
            fields: dict[str, Any] = {} if note is None else {"note": note}
            progress.update(task, advance=done, **fields)

        yield advance


@contextmanager
def _lines(what: str, total: int | None) -> Iterator[Callable[..., None]]:
    began = last = time.monotonic()
    count, first = 0, 0  # the first units may come from an interrupted run: they tell nothing of the speed

    def say(note: str) -> None:
        seconds = time.monotonic() - began
        of = "" if total is None else f" of {total:,}"
        rate = f", {(count - first) / seconds:.3g} per second" if count > first and seconds > 1 else ""
        LOGGER.info("%s: %s%s%s%s", what, f"{count:,}", of, rate, f"; {note}" if note else "")

    def advance(done: int = 1, *, note: str | None = None) -> None:
        nonlocal count, first, last
        if count == 0 and time.monotonic() - began < 0.5:
            first += done
        count += done
        if note or time.monotonic() - last > LINE_SECONDS:
            last = time.monotonic()
            say(note or "")

    LOGGER.info("%s begins%s", what, "" if total is None else f", {total:,} in all")
    yield advance
    say(f"done in {time.monotonic() - began:.0f} s")


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
            raise Interrupted
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
