"""The owner of a folder of a run: a training, a report, a study, which have several outputs in one folder.

The folder may hold anything else; the run owns some names in it, and says so in a file, ``hiergal-KIND.json``. The rule
is that of :mod:`hiergal.runtime.output`: an existing name without that file is the user's, and nothing is touched;
a finished run is recognised; one that was stopped goes on; another one is refused, unless ``overwrite`` is given.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from hiergal.runtime.files import locked, remove, resolved, write_whole
from hiergal.runtime.identity import differences, digest_of, plain
from hiergal.runtime.marks import foreign_files, mark_of
from hiergal.runtime.output import check_inputs
from hiergal.runtime.work import clear, held, work_folder

__all__ = ["RunFolder", "is_finished", "owned_folder", "owned_names"]

FINGERPRINT = "fingerprint.json"  # in a folder of checkpoints


class RunFolder:
    """A folder in which this process owns some names; made by :func:`owned_folder`.

    Attributes:
        path: The folder, without links.
        resumed: Whether an interrupted run goes on.
        finished: Whether the run was finished already; then nothing is to be done.
    """

    def __init__(self, path: Path, mark: Path, about: dict[str, Any]) -> None:
        self.path, self._mark, self._about = path, mark, about
        self.resumed = self.finished = False

    def done(self, **results: Any) -> None:
        """Note that the run is finished.

        Args:
            results: What a later call of the same run wants to know, whatever JSON can hold.
        """
        self.finished = True
        _write(self._mark, self._about | {"finished": True, "results": results})

    @property
    def results(self) -> dict[str, Any]:
        """Results that a finished run noted."""
        return _read(self._mark).get("results", {})


@contextmanager
def owned_folder(
    folder: str | Path,
    kind: str,
    *,
    run: Mapping[str, Any],
    names: Iterable[str],
    inputs: Iterable[str | Path | None] = (),
    overwrite: bool = False,
) -> Iterator[RunFolder]:
    """Own names in a folder while a block runs.

    Args:
        folder: The folder; made if it is not there.
        kind: What the run is, in one word: ``training``, ``report``.
        run: All that decides its numbers.
        names: Files and folders that it writes, below the folder.
        inputs: What it reads; none of it may be, hold, or lie in one of these.
        overwrite: Whether another run of this kind is replaced, finished or not, and the same one repeated.

    Raises:
        FileExistsError: If one of the names is there, and not of such a run; or if another run's are.
        BlockingIOError: If another process is at work in the folder.
        OSError: If it cannot be written.
    """
    path, names = resolved(folder), tuple(names)
    for name in names:
        check_inputs(path / name, inputs)
    about = {"kind": kind, "run": plain(run), "digest": digest_of(run), "names": names, "finished": False}
    mark, lock = path / f"hiergal-{kind}.json", path / f".hiergal-{kind}.lock"
    _check_names(path, mark, kind, names)
    path.mkdir(parents=True, exist_ok=True)
    with locked(lock, f"{folder} ({kind})"):
        try:
            yield _begun(RunFolder(path, mark, about), names, overwrite)
        finally:
            lock.unlink(missing_ok=True)


def is_finished(folder: str | Path, kind: str, run: Mapping[str, Any]) -> bool:
    """Return whether a run is finished, without owning its folder: for the other processes of a job."""
    before = _read(resolved(folder) / f"hiergal-{kind}.json")
    return bool(before.get("finished")) and before.get("digest") == digest_of(run)


def owned_names(folder: str | Path) -> set[str]:
    """Return the names in a folder that runs own, by their marks."""
    marks = resolved(folder).glob("hiergal-*.json")
    return {str(name) for mark in marks for name in _read(mark).get("names", ())}


def _begun(own: RunFolder, names: tuple[str, ...], overwrite: bool) -> RunFolder:
    path, kind, before = own.path, own._about["kind"], _read(own._mark)
    _check_names(path, own._mark, kind, names)
    old = path / f".hiergal-{kind}.old"
    if before.get("kind") == kind:
        remove(old)  # of a run that was killed while it replaced another one
    same = before.get("digest") == own._about["digest"]
    if same and not (overwrite and before.get("finished")):
        own.finished, own.resumed = bool(before.get("finished")), not before.get("finished")
        return own
    if before and not overwrite and (before.get("finished") or _has_written(path, before)):
        state = "a finished" if before.get("finished") else "an unfinished"
        other = differences(before.get("run", {}), own._about["run"])
        raise FileExistsError(
            f"{path}: expected a free folder, or one of this run, got {state} {kind} with other {other}; choose "
            "another folder, or pass overwrite=True (--overwrite) to replace it"
        )
    if before:
        _clear(path, names, old)
    _write(own._mark, own._about)
    return own


def _check_names(path: Path, mark: Path, kind: str, names: tuple[str, ...]) -> None:
    """Refuse a folder in which names of ours are taken by another program."""
    if os.path.lexists(path) and not path.is_dir():
        raise FileExistsError(f"{path}: expected a folder, or a free name, got a file; choose another name")
    if _read(mark).get("kind") == kind:
        return
    taken = [name for name in (*names, mark.name) if not _is_free(path / name)]
    if taken and _read(mark).get("kind") != kind:  # else a run of ours began between the two looks
        raise FileExistsError(
            f"{path}: expected a folder without {taken[0]}, or one with {mark.name} of a {kind} of hiergal, got "
            f"{', '.join(taken)} of something else; nothing is touched: choose another folder"
        )


def _has_written(path: Path, before: Mapping[str, Any]) -> bool:
    """Whether an unfinished run has anything to lose: one that failed at once has not."""
    names = [path / name for name in before.get("names", ())]
    return any(not _is_free(one) or os.path.lexists(work_folder(one)) for one in names)


def _is_free(path: Path) -> bool:
    """Nothing, or an empty folder (or a link to one: checkpoints may lie on another disk)."""
    return not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir()))


def _clear(path: Path, names: tuple[str, ...], old: Path) -> None:
    """Remove what another run of this kind has written, if nothing of others is among it.

    A folder is known by what is in it: it gets another name before it goes, so that a half of it is never in the way.
    """
    there = [path / name for name in names if os.path.lexists(path / name)]
    folders = [one for one in there if one.is_dir() and (mark_of(one) or _of_checkpoints(one))]
    for one in folders:
        foreign = next(foreign_files(one), None)
        if foreign is not None:
            raise FileExistsError(
                f"{one}: expected nothing but what hiergal wrote, got {foreign} in it; move that away, or choose "
                "another folder"
            )
    for one in there:
        if one in folders and one.is_symlink():  # the link stays: checkpoints may lie on another disk
            for child in sorted(one.iterdir(), key=lambda child: child.name == FINGERPRINT):
                remove(child)
        elif one in folders:
            old.mkdir(exist_ok=True)
            os.rename(one, old / one.name)
        elif one.is_file() and not one.is_symlink():
            remove(one)
    remove(old)
    for work in (work_folder(path / name) for name in names):
        if os.path.lexists(work):  # parts of an output that was not finished
            with held(work, path):
                clear(work)


def _of_checkpoints(path: Path) -> bool:
    return (path / FINGERPRINT).is_file()


def _read(mark: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(mark.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError):
        return {}


def _write(mark: Path, about: Mapping[str, Any]) -> None:
    write_whole(mark, msgspec.json.format(msgspec.json.encode(about), indent=1) + b"\n")
