"""What a run of inference over a survey depends on: another run must not go on with its parts."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

import hiergal
from hiergal.survey.schema import MANIFEST

__all__ = ["SurveyRun", "differences", "digest_of_model", "fingerprint"]


class SurveyRun(msgspec.Struct, frozen=True):
    """All that the result depends on, and where it goes.

    Attributes:
        model: Folder or file of the model.
        store: Folder of the survey.
        parts: Folder of the parts.
        images: Zarr group of the images, or None.
        galaxies: How many of the survey's galaxies, from its first.
        method: As for :func:`hiergal.posterior.infer`.
        draws: Posterior draws of each.
        conditions: Whether the catalogue informs the prior.
        seed: Seed of the draws.
        batch: Galaxies in one call of the compiled program.
    """

    model: str
    store: str
    parts: str
    images: str | None
    galaxies: int
    method: str
    draws: int
    conditions: bool
    seed: int
    batch: int


def fingerprint(run: SurveyRun) -> dict[str, Any]:
    """Return all that the rows of a run depend on, files of model and survey included.

    Raises:
        OSError: If one of these cannot be read.
    """
    return {"run": msgspec.to_builtins(run), "version": hiergal.__version__, "digests": _digests(run)}


def differences(before: Any, about: dict[str, Any]) -> str:
    """Return the names of what differs between two runs.

    Args:
        before: What was written down of the one that came first.
        about: :func:`fingerprint` of the other.
    """
    if not isinstance(before, dict):
        return "run.json, which cannot be read"

    def flat(of: dict) -> dict:
        files = {f"files of the {name}": digest for name, digest in of.get("digests", {}).items()}
        return of.get("run", {}) | files | {"version": of.get("version")}

    old, new = flat(before), flat(about)
    return ", ".join(name for name in new if old.get(name) != new[name])


def digest_of_model(path: str | Path) -> str:
    """Return the SHA-256 of the files of a model.

    Args:
        path: A folder or a file.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(one for one in path.iterdir() if one.is_file())
    return hashlib.sha256(b"".join(hashlib.sha256(one.read_bytes()).digest() for one in files)).hexdigest()


def _digests(run: SurveyRun) -> dict[str, str]:
    """What tells another model or survey of the same name."""
    names = ("zarr.json", MANIFEST)  # what it is, and the size of each of its files
    store = hashlib.sha256(b"".join((Path(run.store) / name).read_bytes() for name in names))
    return {"model": digest_of_model(run.model), "store": store.hexdigest()}
