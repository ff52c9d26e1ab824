"""Identity of a run: all that decides its numbers, and the digest that its result and its parts are matched by."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

__all__ = ["differences", "digest_of", "digest_of_arrays", "digest_of_files", "plain"]


def digest_of(run: Mapping[str, Any]) -> str:
    """Return the digest of all that decides the numbers of a run.

    Args:
        run: Names and values: settings, seeds, digests of inputs, the version; whatever JSON can hold.

    Example:
        >>> digest_of({"seed": 1, "model": "a"}) == digest_of({"model": "a", "seed": 1})
        True
    """
    return hashlib.sha256(msgspec.json.encode(plain(run), order="sorted")).hexdigest()


def digest_of_files(path: str | Path, *, below: bool = True) -> str:
    """Return the digest of the names, sizes and times of change of a file, or of all files in a folder, or below it.

    It notices every change that a program makes in the usual way, and takes a moment where reading all would take
    minutes; a file that was only touched counts as another one.

    Raises:
        OSError: If there is no such thing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     len(digest_of_files(folder))
        64
    """
    path = Path(path)
    files = (
        sorted(one for one in path.glob("**/*" if below else "*") if one.is_file())
        if path.is_dir()
        else [path]
    )
    about = [(one.relative_to(path).as_posix(), one.stat()) for one in files]
    return digest_of({name: [entry.st_size, entry.st_mtime_ns] for name, entry in about})


def digest_of_arrays(arrays: Iterable[Any]) -> str:
    """Return the digest of arrays: types, shapes and bytes.

    Example:
        >>> digest_of_arrays([np.zeros(3)]) == digest_of_arrays([np.zeros(3, np.float32)])
        False
    """
    digest = hashlib.sha256()
    for array in map(np.ascontiguousarray, arrays):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the names of what differs between two runs.

    Example:
        >>> differences({"seed": 1, "draws": 2}, {"seed": 3, "draws": 2})
        'seed'
    """
    old, new = _flat(plain(before)), _flat(plain(now))
    names = [name for name in new if name not in old or old[name] != new[name]]
    return ", ".join(names + [name for name in old if name not in new]) or "content"


def plain(run: Mapping[str, Any]) -> Any:
    """Return a run as it comes back from JSON: tuples are lists, paths are texts.

    Example:
        >>> plain({"shape": (64, 64)})
        {'shape': [64, 64]}
    """
    return msgspec.json.decode(msgspec.json.encode(run, enc_hook=str))


def _flat(of: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in of.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
