"""The log of the package: ``logging.getLogger("hiergal")``, silent in a library, lines on stderr in the command.

A program that uses hiergal decides itself what becomes of the records (:mod:`logging`). The ``hiergal`` command writes
them to stderr, with the time, so that a job without a terminal leaves a log that grows; ``--quiet`` leaves warnings.
"""

import logging
import sys

__all__ = ["LOGGER", "is_quiet", "log_to_stderr"]

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
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.WARNING if quiet else logging.INFO)


def is_quiet() -> bool:
    """Tell whether progress is to be kept back."""
    return LOGGER.level > logging.INFO
