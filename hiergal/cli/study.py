"""The folder of a study: what a script of ``inference/`` writes there it owns, as a command does its output."""

import argparse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hiergal.runtime.folder import RunFolder, owned_folder
from hiergal.runtime.log import say
from hiergal.runtime.version import __version__

__all__ = ["owned_study"]

NO_NUMBERS = ("out", "overwrite")  # arguments that decide none


@contextmanager
def owned_study(args: argparse.Namespace, kind: str, names: Iterable[str]) -> Iterator[RunFolder]:
    """Own names in the folder of a study while a block runs (:func:`hiergal.runtime.folder.owned_folder`).

    Args:
        args: Arguments of the script. ``out`` is the folder, ``overwrite`` whether another study of this kind there is
            replaced; all others decide the numbers, and paths among them are inputs: surveys, models or files.
        kind: What the study is, in one word.
        names: Files that it writes.

    Yields:
        The folder; a study that is ``finished`` already says so, and is not to be done again.

    Raises:
        FileExistsError: If one of the names is there, and not of such a study; or if another one's are.
        FileNotFoundError: If an input is missing.

    Example:
        >>> args = argparse.Namespace(out=Path("run"), overwrite=False, seed=0)
        >>> with owned_study(args, "calibration", ("calibration.json",)) as own:
        ...     if not own.finished:
        ...         own.done(passed=True)
    """
    given = {name: value for name, value in vars(args).items() if name not in NO_NUMBERS}
    inputs = [value for value in given.values() if isinstance(value, Path)]
    run = {name: _content_of(value) if isinstance(value, Path) else value for name, value in given.items()}
    run["version"] = __version__
    with owned_folder(args.out, kind, run=run, names=names, inputs=inputs, overwrite=args.overwrite) as own:
        if own.finished:
            say(f"{args.out}: is there already, of the same {kind}; nothing to do")
        yield own


def _content_of(path: Path) -> str:
    """Digest of a survey, a model, or a file."""
    from hiergal.hub.digest import digest_of_model
    from hiergal.hub.names import resolve
    from hiergal.survey.schema import MANIFEST, digest_of_store

    path = resolve(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected a survey, a model or a file, got nothing of that name")
    return digest_of_store(path) if (path / MANIFEST).is_file() else digest_of_model(path)
