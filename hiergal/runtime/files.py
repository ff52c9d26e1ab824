"""Locks, and files that are whole or not there: what owners of outputs are made of.

A file is written under a name that no one can know before, in the folder of its target, and renamed. A folder takes the
place of another one in one step where the system can exchange two names (Linux); elsewhere by two renames, which
:mod:`hiergal.runtime.output` finishes if they were interrupted.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

__all__ = [
    "check_room",
    "exchange",
    "locked",
    "move_to_free_name",
    "remove",
    "resolved",
    "write_json",
    "write_whole",
]

NO_REPLACE, EXCHANGE, HERE = 1, 2, -100  # flags of renameat2, and AT_FDCWD
UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM)
TOKEN_BYTES = 6


def resolved(path: str | Path) -> Path:
    """Return where a path leads, without ``..``, ``~`` and symbolic links, whether anything is there or not.

    Raises:
        OSError: If its links go round in a circle.
        ValueError: If it is no name of a file.

    Example:
        >>> resolved("/usr/../usr").name
        'usr'
    """
    text = os.fspath(path)
    if not text or "\0" in text:
        raise ValueError(f"expected the name of a file or folder, got {text!r}")
    real = os.path.realpath(os.path.expanduser(text))
    if os.path.islink(real):
        raise OSError(
            errno.ELOOP, f"expected a file or folder, got a symbolic link that leads to itself: {path}"
        )
    return Path(real)


@contextmanager
def locked(file: Path, what: str) -> Iterator[None]:
    """Hold a lock for this process alone while a block runs; the file stays, for its owner to remove.

    Args:
        file: The lock, in a folder that exists. Who holds it is written inside.
        what: What is locked, for the error.

    Raises:
        BlockingIOError: If another process holds it: which one, and what to do.
        OSError: If the file cannot be made, or is a link.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, locked(Path(folder) / "lock", "demo"):
        ...     (Path(folder) / "lock").exists()
        True
    """
    while True:
        held = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(held, 200, 0).decode("utf-8", "replace").strip() or "another process"
            os.close(held)
            raise BlockingIOError(
                errno.EAGAIN,
                f"{what}: expected no one else at work on it, got {holder}; wait until that one is done, or stop it",
            ) from None
        except OSError:  # a file system without locks
            pass
        # The one who held it before may have removed the file in the meantime: then it is no lock any more.
        with contextlib.suppress(FileNotFoundError):
            if os.stat(file, follow_symlinks=False).st_ino == os.fstat(held).st_ino:
                break
        os.close(held)
    try:
        os.ftruncate(held, 0)
        os.pwrite(held, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(held)


def check_room(path: Path, size: int) -> None:
    """Check the free space for a file, for libraries that do not survive a full disk.

    Args:
        path: Where the file will be; what is there goes.
        size: Its bytes, about.

    Raises:
        OSError: If the disk is full, or the quota is.
    """
    try:
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            elif shutil.disk_usage(path.parent).free < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return  # this file system reserves nothing; what writes says what is wrong
        path.unlink(missing_ok=True)
        raise OSError(f"the disk is full: it takes {size:,} bytes in {path.parent}; make room") from None
    path.unlink()


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file whole, or not at all; one that is there is replaced.

    It does not ask: the caller owns the path, see :mod:`hiergal.runtime.output`.

    Raises:
        OSError: If it cannot be written; what was there before stays.
    """
    path = Path(path)
    _remove_left_over(path)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(TOKEN_BYTES)}.hiergal-new")
    try:
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def move_to_free_name(source: Path, target: Path) -> None:
    """Rename to a name that nothing has; an empty folder there gives way.

    Raises:
        FileExistsError: If something is there by now.
        OSError: If it cannot be renamed.
    """
    with contextlib.suppress(OSError):
        target.rmdir()
    if _rename(source, target, NO_REPLACE):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, f"expected a free name, got something there: {target}")
    os.rename(source, target)


def exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step; False where the system cannot."""
    return _rename(first, second, EXCHANGE)


def remove(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or of a link the link alone.

    Raises:
        OSError: If it cannot be removed.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_left_over(path: Path) -> None:
    """Remove what writers of this file that were killed have left."""
    prefix, suffix = f".{path.name}.", ".hiergal-new"
    length = len(prefix) + 2 * TOKEN_BYTES + len(suffix)
    with contextlib.suppress(OSError), os.scandir(path.parent) as there:
        for entry in there:
            if entry.name.startswith(prefix) and entry.name.endswith(suffix) and len(entry.name) == length:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def _rename(source: Path, target: Path, flags: int) -> bool:
    """Linux's renameat2; False where there is none, or the file system does not support these flags."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(HERE, os.fsencode(source), HERE, os.fsencode(target), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(source), None, str(target))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write numbers as JSON, whole or not at all, into a folder that the caller owns; NaN becomes null."""
    write_whole(path, msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
