"""Permitted inputs: files and folders, never a pipe or a device, which can keep a command waiting for ever.

Every command and every reader of the package takes its inputs through :func:`input_path`; it opens nothing.
"""

import os
import stat
from pathlib import Path

__all__ = ["input_path"]

KINDS = (
    (stat.S_ISFIFO, "a named pipe (FIFO)"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def input_path(path: str | Path, what: str = "a file") -> Path:
    """Return a path from which something can be read; what is not there is left to the reader.

    Args:
        path: A file or folder; ``~`` is the home folder, unless something of that name is there.
        what: What was expected, in words, for the error.

    Raises:
        OSError: If it is a pipe, a device or a socket, or its name is none that files can have.

    Example:
        >>> input_path("survey.zarr").name
        'survey.zarr'
        >>> input_path("/dev/null", "a catalogue")
        Traceback (most recent call last):
        ...
        OSError: /dev/null: expected a catalogue, got a device; write the data to a file, and give that
    """
    path = Path(path)
    if "\0" in str(path):
        raise OSError(f"{str(path)!r}: expected {what}, got a name with a null byte")
    if path.parts[:1] and path.parts[0].startswith("~") and not os.path.lexists(path):
        try:
            path = path.expanduser()
        except RuntimeError:
            return path  # no such user: there is no such file either
    try:
        mode = path.stat().st_mode
    except OSError:
        return path
    for is_kind, words in KINDS:
        if is_kind(mode):
            raise OSError(f"{path}: expected {what}, got {words}; write the data to a file, and give that")
    return path
