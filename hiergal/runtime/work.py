"""The folder next to an output in which a run keeps its parts, until its result takes its place in one step."""

import contextlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from hiergal.runtime.files import exchange, locked, move_to_free_name, remove, resolved, write_whole

__all__ = [
    "LOCK",
    "READY",
    "RUN",
    "clear",
    "held",
    "note_ready",
    "noted",
    "place",
    "ready_result",
    "recover",
    "settle",
    "work_folder",
]

LOCK, RUN, READY, REPLACED = "lock", "run.json", "ready", "replaced"
TRIALS = 100


def work_folder(target: Path) -> Path:
    """Return the folder in which a run keeps its parts until the result is whole.

    Args:
        target: The output, without links (:func:`hiergal.runtime.files.resolved`).
    """
    return target.with_name(f".{target.name}.hiergal")


def settle(path: str | Path) -> Path:
    """Finish the last step of a run that was killed in it: for those who read. Returns the path.

    Where a result was whole, and its name is free, it takes its place; in every other case nothing happens.
    """
    path = Path(path)
    if os.path.lexists(path):
        return path
    with contextlib.suppress(OSError, ValueError):
        target = resolved(path)
        work = work_folder(target)
        if (work / READY).is_file() and _is_ours(work):
            with locked(work / LOCK, str(target)):
                if recover(work, target):
                    clear(work)
    return path


@contextmanager
def held(work: Path, target: Path) -> Iterator[None]:
    """Make the folder of a run, and hold it."""
    with contextlib.ExitStack() as lock:
        for _ in range(TRIALS):
            try:
                with contextlib.suppress(FileExistsError):
                    work.mkdir(mode=0o700)
                if not _is_ours(work):
                    raise FileExistsError(
                        f"{work}: expected this name to be free for the parts of {target.name}, got something that "
                        "hiergal did not make; move it away"
                    )
                lock.enter_context(locked(work / LOCK, str(target)))
                break
            except FileNotFoundError:
                if not work.parent.is_dir():
                    raise  # else it was removed by the one who held it, between two lines of ours
        else:
            raise BlockingIOError(f"{target}: expected to be alone with it for a moment; try again")
        yield


def recover(work: Path, target: Path) -> bool:
    """Finish what a run was killed in after its result was whole; tells whether its result is in its place now."""
    ready = ready_result(work)
    if ready is None:
        return False
    with contextlib.suppress(FileNotFoundError):
        about = os.stat(target)
        if (about.st_dev, about.st_ino) == (ready.device, ready.inode):
            clear(work, keep=(LOCK,))
            return True
    if not os.path.lexists(target) and os.path.lexists(work / ready.name):
        move_to_free_name(work / ready.name, target)
        clear(work, keep=(LOCK,))
        return True
    return False


def _is_ours(work: Path) -> bool:
    """Whether a folder is one that this user's hiergal made: a real one, with a lock in it, or nothing yet."""
    about = os.lstat(work)
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
        return False
    names = {child.name for child in work.iterdir()}
    return not names or (LOCK in names and not (work / LOCK).is_symlink())


def noted(work: Path) -> dict[str, Any]:
    """Return the description of the run that the parts belong to; empty if there is none."""
    try:
        return msgspec.json.decode((work / RUN).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError):
        return {}


class Ready(msgspec.Struct):
    """A result that is whole: its name among the parts, and what tells it from the one that it replaces."""

    name: str
    device: int
    inode: int


def ready_result(work: Path) -> Ready | None:
    """Return the result that only has to take its place, or None."""
    try:
        ready = msgspec.json.decode((work / READY).read_bytes(), type=Ready)
    except (OSError, msgspec.MsgspecError):
        return None
    return ready if ready.name.startswith("result") and "/" not in ready.name else None


def place(result: Path, target: Path, work: Path) -> None:
    """Rename a result to its target, whatever of ours is there."""
    if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
        move_to_free_name(result, target)
    elif result.is_file() and target.is_file():
        os.replace(result, target)
    elif not exchange(result, target):
        remove(work / REPLACED)
        os.rename(target, work / REPLACED)
        os.rename(result, target)


def clear(work: Path, keep: tuple[str, ...] = ()) -> None:
    """Empty the folder of a run: first what says whose the parts are, the lock last, then the folder itself."""
    (work / RUN).unlink(missing_ok=True)
    (work / READY).unlink(missing_ok=True)
    for child in list(work.iterdir()):
        if child.name != LOCK:
            remove(child)
    if LOCK not in keep:
        (work / LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another process waits for it
            work.rmdir()


def note_ready(work: Path, result: Path) -> None:
    """Note that a result is whole: from now on, whoever looks for it puts it in place."""
    if result.is_file():
        handle = os.open(result, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    about = os.stat(result)
    note = Ready(name=result.name, device=about.st_dev, inode=about.st_ino)
    write_whole(work / READY, msgspec.json.encode(note))
