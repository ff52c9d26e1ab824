"""A run of inference over a survey: all that its numbers depend on, and where its parts go."""

from typing import Any

import msgspec

from hiergal.hub.digest import digest_of_model
from hiergal.runtime.version import __version__
from hiergal.survey.schema import digest_of_store

__all__ = [
    "SurveyRun",
    "identity_of",
]

PLACES = ("model", "store", "parts", "images")  # where things lie decides no number


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


def identity_of(run: SurveyRun) -> dict[str, Any]:
    """Return all that the rows of a run depend on, contents of model and survey included.

    Raises:
        OSError: If one of these cannot be read.
    """
    choices = {name: value for name, value in msgspec.to_builtins(run).items() if name not in PLACES}
    files = {"model": digest_of_model(run.model), "survey": digest_of_store(run.store)}
    return choices | {"version": __version__, "files": files}
