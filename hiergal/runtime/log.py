"""The log of the package: ``logging.getLogger("hiergal")``, silent in a library, lines on stderr in the command.

A program that uses hiergal decides itself what becomes of the records (:mod:`logging`). The ``hiergal`` command writes
them to stderr, with the time, so that a job without a terminal leaves a log that grows; ``--quiet`` leaves warnings.
"""

import logging
import sys

__all__ = ["LOGGER", "is_quiet", "log_to_stderr", "say"]

LOGGER = logging.getLogger("hiergal")
LOGGER.addHandler(logging.NullHandler())


def log_to_stderr(*, quiet: bool = False) -> None:
    """Write the log to stderr: what the command does at its start.

    Args:
        quiet: Whether to leave out everything below warnings, progress bars too.
    """
    for handler in [one for one in LOGGER.handlers if isinstance(one, logging.StreamHandler)]:
        LOGGER.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    LOGGER.addHandler(handler)
    LOGGER.propagate = False  # libraries configure the root logger, which would write each line again
    LOGGER.setLevel(logging.WARNING if quiet else logging.INFO)


def say(text: object, *, err: bool = False) -> None:
    """Print lines of the command, without what a terminal would obey: names and texts in them may come from anyone."""
    import typer

    typer.echo(_plain_lines(str(text)), err=err)


class _Plain(logging.Formatter):
    """Lines without what a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        return _plain_lines(super().format(record))


def _plain_lines(text: str) -> str:
    from hiergal.runtime.formatting import plain

    return "\n".join(plain(line) for line in text.split("\n"))


def is_quiet() -> bool:
    """Return whether progress is hidden."""
    return LOGGER.level > logging.INFO
