"""Given galaxies: as an observation, or as the survey that they lie in."""

from pathlib import Path
from typing import Any

from hiergal.observation.observation import Observation
from hiergal.survey.store import Subset, SurveyStore, open_survey

__all__ = ["galaxies_of"]


def galaxies_of(observation: Any) -> Observation:
    """Return galaxies as an observation; those of a survey are read.

    Args:
        observation: An observation, which is returned as it is; or a survey's store, some galaxies of one
            (``SurveyStore.subset``), or the path of one, of which all galaxies are read.

    Raises:
        OSError: If there is no survey at the path, or it is damaged.
        ValueError: If there is something else.
        TypeError: If it is none of these.

    Example:
        >>> len(galaxies_of(survey.path))
        40
        >>> galaxies_of([1.0, 2.0])
        Traceback (most recent call last):
        ...
        TypeError: observation: expected a hiergal.Observation, a survey's store or its path, got list; ...
    """
    if isinstance(observation, Observation):
        return observation
    if isinstance(observation, str | Path):
        observation = open_survey(observation)
    if isinstance(observation, SurveyStore):
        return observation.read()
    if isinstance(observation, Subset):
        return observation[slice(None)]
    raise TypeError(
        "observation: expected a hiergal.Observation, a survey's store or its path, got "
        f"{type(observation).__name__}; put arrays into hiergal.Observation.from_arrays(image, psf=..., ...)"
    )
