"""The owner of an output: the one place that decides what may be replaced, and makes files and folders whole.

One rule holds for every command and every function that writes:

===============================================  ====================================================================
at the output there is                           what happens
===============================================  ====================================================================
nothing, or an empty folder                      the run writes it
a finished result of the same run                it is recognised, and nothing is written
what the same run left when it was stopped       the run goes on from there
a result of hiergal of another run, finished     refused; ``overwrite`` replaces it
or not
anything else, a folder of ours with files       refused, always
of others in it, an input of the same run
===============================================  ====================================================================

A run is what decides its numbers (:mod:`hiergal.runtime.identity`). Until a result is whole, everything that belongs to
it lies in a folder next to it, ``.NAME.hiergal``, held by one process (:mod:`hiergal.runtime.work`):

============  =======================================================================================================
``lock``      who holds it; the mark that the folder is ours
``run.json``  what the run is; parts without it are never used
``ready``     the result is whole, and only has to take its place
...           parts, and the result
============  =======================================================================================================

A symbolic link is followed: the result takes the place of what it leads to.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from hiergal.runtime.files import resolved, write_whole
from hiergal.runtime.identity import differences, digest_of, plain
from hiergal.runtime.marks import Mark, foreign_files, mark_of
from hiergal.runtime.work import (
    LOCK,
    READY,
    RUN,
    clear,
    held,
    note_ready,
    noted,
    place,
    ready_result,
    recover,
    work_folder,
)

__all__ = [
    "Output",
    "check_inputs",
    "check_output",
    "owned",
]


class Output:
    """An output that this process owns; made by :func:`owned`.

    Attributes:
        target: Where the result goes, without links.
        work: Folder for the parts of the run.
        kind: What the result is, for its mark.
        digest: Of the run, for its mark.
        resumed: Whether an interrupted run goes on: its parts are in ``work``.
        finished: Whether the result was there already; then nothing is to be done.
    """

    def __init__(self, target: Path, kind: str, run: Mapping[str, Any], *, resume: bool) -> None:
        self.target, self.kind, self.digest = target, kind, digest_of(run)
        self.work = work_folder(target)
        self.resumed = self.finished = False
        self._run, self._resume, self._began = dict(run), resume, None
        self._of_another = False  # whether an unfinished run of another kind has its parts in ``work``

    @property
    def result(self) -> Path:
        """Path of the unfinished result: a name in ``work`` with the suffix of the target."""
        return self.work / f"result{self.target.suffix}"

    def ready(self) -> None:
        """Note that the result is whole: from now on, whoever looks for it puts it in place."""
        note_ready(self.work, self.result)

    def put(self) -> None:
        """Give the result its place, in one step.

        Raises:
            FileExistsError: If something else has come to the place in the meantime; the result is kept.
            OSError: If it cannot be renamed.
        """
        there = _standing(self.target)
        if there != self._began:
            raise FileExistsError(
                f"{self.target}: expected what was there when the run began, got something else; the result is "
                f"kept in {self.result}: move it to another name"
            )
        self.ready()
        self._place()

    def clear(self) -> None:
        """Remove the parts of an interrupted run."""
        clear(self.work, keep=(LOCK,))
        self.resumed = False
        self._note()

    def _place(self) -> None:
        place(self.result, self.target, self.work)
        self.finished = True

    def _note(self) -> None:
        about = {"kind": self.kind, "run": plain(self._run), "digest": self.digest, "resume": self._resume}
        write_whole(self.work / RUN, msgspec.json.format(msgspec.json.encode(about), indent=1))


@contextmanager
def owned(
    path: str | Path,
    kind: str,
    *,
    run: Mapping[str, Any] | None = None,
    inputs: Iterable[str | Path | None] = (),
    overwrite: bool = False,
    update: bool = False,
    resume: bool = True,
) -> Iterator[Output]:
    """Own an output while a block runs: the table at the top of this page defines what may be written.

    Args:
        path: The file or folder to write.
        kind: What it is, in words; a result says so inside (:mod:`hiergal.runtime.marks`).
        run: All that decides its numbers; None for functions that write what they are given, once.
        inputs: What the same run reads; none of it may be, hold, or lie in the output.
        overwrite: Whether a result of ours may be replaced, or an unfinished run of another one forgotten.
        update: Whether the result is made from the one that is there, and replaces it.
        resume: Whether the parts of a run that was stopped are kept.

    Yields:
        The output; call ``put`` when its result is whole, or return if it is ``finished``.

    Raises:
        FileExistsError: If something is there that may not be replaced.
        BlockingIOError: If another process is at work on the output.
        OSError: If it cannot be written.
    """
    target, resume = resolved(path), resume and run is not None
    output = Output(target, kind, run or {}, resume=resume)
    check_inputs(path, inputs)
    _check_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with held(output.work, target):
        begun = False
        try:
            _begin(output, overwrite=overwrite, update=update)
            begun = True
            yield output
        finally:
            parts = {child.name for child in output.work.iterdir()} - {LOCK, RUN}
            ours = begun and not output._of_another  # what is in the folder
            goes_on = not output.finished and (output._resume or READY in parts)
            if not parts or (ours and not goes_on):
                clear(output.work)


def check_output(
    path: str | Path, *, overwrite: bool = False, inputs: Iterable[str | Path | None] = ()
) -> Mark | None:
    """Refuse now what :func:`owned` would refuse later, except for runs: before long work, or before another output.

    Returns:
        What a result of ours that is there says of itself, or None.

    Raises:
        FileExistsError: If something is there that may not be replaced.
    """
    target = resolved(path)
    check_inputs(path, inputs)
    mark = _check_replaceable(target)
    if mark is not None and not overwrite:
        raise _exists(target, mark)
    return mark


def check_inputs(path: str | Path, inputs: Iterable[str | Path | None]) -> None:
    """Check that an output is no input, holds none, and lies in none.

    Raises:
        FileExistsError: If it does.
    """
    target = resolved(path)
    for one in inputs:
        if one is None or "://" in str(one) or str(one).startswith("hub:"):
            continue
        source = resolved(one)
        if source == target or source in target.parents or target in source.parents:
            where = "the same as" if source == target else "inside" if source in target.parents else "around"
            raise FileExistsError(
                f"{path}: expected an output apart from the inputs of the same command, got one {where} the input "
                f"{one}; choose another name"
            )


def _begin(output: Output, *, overwrite: bool, update: bool) -> None:
    target, work = output.target, output.work
    before = noted(work)
    known = bool(output._run) and (before.get("kind"), before.get("digest")) == (output.kind, output.digest)
    recovered = recover(work, target)
    mark = _check_replaceable(target)
    output._began = _standing(target)
    if recovered and known:
        output.finished = True
        return
    before = noted(work)  # empty, if a run was recovered
    if mark is not None and not update and not overwrite:
        if output._run and mark == (output.kind, output.digest):
            output.finished, output._of_another = True, bool(before) and not known
            return
        raise _exists(target, mark)
    if known and before and output._resume:
        output.resumed = True
        if ready_result(work) is not None:  # killed before its result took the place of another one
            output._place()
        return
    if before.get("resume") and not known and not overwrite:
        other = (
            differences(before.get("run", {}), output._run) if before.get("kind") == output.kind else "kind"
        )
        raise FileExistsError(
            f"{target}: expected no unfinished run, or one of this command, got one ({before.get('kind')}) with other "
            f"{other}; finish that one with its own command, choose another name, or pass overwrite=True "
            "(--overwrite) to forget it"
        )
    output.clear()


def _check_replaceable(target: Path) -> Mark | None:
    """Refuse what is not ours, or has something of others in it."""
    standing = _standing(target)
    if standing is None:
        return None
    mark = mark_of(target)
    if mark is None:
        raise FileExistsError(
            f"{target}: expected a free name, or a result of hiergal, got something else; it is left as it is: choose "
            "another name"
        )
    foreign = next(foreign_files(target), None)
    if foreign is not None:
        raise FileExistsError(
            f"{target}: expected nothing but a {mark.kind} of hiergal, got {foreign} in it; it is left as it is: move "
            "that away, or choose another name"
        )
    return mark


def _exists(target: Path, mark: Mark) -> FileExistsError:
    return FileExistsError(
        f"{target}: expected a free name, got a finished {mark.kind} of another run; choose another name, or pass "
        "overwrite=True (--overwrite) to replace it"
    )


def _standing(target: Path) -> tuple[int, int, int] | None:
    """Device, inode and time of what has a name, to notice replacements; None for nothing, or an empty folder."""
    try:
        about = os.stat(target)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(about.st_mode) and not any(target.iterdir()):
        return None
    return about.st_dev, about.st_ino, about.st_mtime_ns
