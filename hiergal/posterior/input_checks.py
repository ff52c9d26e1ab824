"""Input checks of an inference, before anything is computed."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from hiergal.model.conditions import condition_factors, condition_names, given_conditions
from hiergal.model.trained import GalaxyModel
from hiergal.model.trained_range import check_range
from hiergal.observation.observation import Observation, check_observation
from hiergal.observation.psf import PSF, check_wider, same_scale
from hiergal.posterior.samplers.methods import METHODS
from hiergal.posterior.samplers.nuts import FEWEST_DRAWS
from hiergal.posterior.verdict import Flag
from hiergal.runtime.pytree import Array, brief

__all__ = [
    "JudgedConditions",
    "bad_observations",
    "catalog_conditions",
    "check_catalog",
    "check_counts",
    "check_geometry",
    "check_method",
    "check_psf",
    "judge_conditions",
    "rows_of_psf",
]


def check_method(model: GalaxyModel, method: str, draws: int) -> None:
    """Check that a model can be asked for posteriors by a method.

    Raises:
        ValueError: If there is no such method, the model lacks what it needs, or it needs more draws.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    if method == "flow" and model.posterior_flow is None:
        raise ValueError(
            "method: expected a model with a posterior flow for 'flow', got one without; fit it with "
            "`hiergal fit-posterior-flow`"
        )
    if method in ("nuts", "auto") and draws < FEWEST_DRAWS:
        raise ValueError(
            f"draws: expected at least {FEWEST_DRAWS} for {method!r}, whose chains are compared with each other, got "
            f"{draws}"
        )


def check_counts(**counts: int) -> None:
    """Check that numbers of things are one or more.

    Raises:
        ValueError: If one is not; it is named.

    Example:
        >>> check_counts(draws=0)
        Traceback (most recent call last):
        ...
        ValueError: draws: expected at least 1, got 0
    """
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}: expected at least 1, got {count}")


def check_geometry(
    model: GalaxyModel, pixel_scale_arcsec: float, shape: tuple[int, ...] | None = None
) -> None:
    """Check that stamps have the model's pixel scale, and its shape if that matters.

    Raises:
        ValueError: If they have not.
    """
    recipe = model.recipe
    if shape is not None and tuple(shape) != recipe.shape:
        raise ValueError(
            f"image: expected stamps of {recipe.shape} pixels, as the model has, got {tuple(shape)}"
        )
    if not same_scale(pixel_scale_arcsec, recipe.pixel_scale_arcsec):
        raise ValueError(
            f"pixel_scale_arcsec: expected the model's, {recipe.pixel_scale_arcsec}, got {pixel_scale_arcsec}"
        )


def check_psf(model: GalaxyModel, psf: PSF, n: int) -> None:
    """Check PSFs that galaxies of a model are seen, or shown, at.

    Raises:
        ValueError: If they are neither one nor n, on another pixel scale, or narrower than the model's profiles.
    """
    own = model.recipe.pixel_scale_arcsec
    if psf.stamp.ndim != 3 or len(psf.stamp) not in (1, n):
        raise ValueError(f"psf.stamp: expected shape [{n}, py, px] or [1, py, px], got {psf.stamp.shape}")
    if not same_scale(psf.pixel_scale_arcsec, own):
        raise ValueError(
            f"psf.pixel_scale_arcsec: expected the model's, {own}, got {psf.pixel_scale_arcsec}; resample the PSF"
        )
    if model.recipe.profile_fwhm_arcsec:
        check_wider(psf, model.recipe.profile_fwhm_arcsec)


def rows_of_psf(psf: PSF, rows: Array) -> PSF:
    """Return the PSF of each of some galaxies, of one for each or one for all."""
    stamp = np.asarray(psf.stamp)
    if len(stamp) == 1:
        return psf.replace(stamp=np.broadcast_to(stamp, (len(rows), *stamp.shape[1:])))
    return psf.replace(stamp=stamp[rows])


def bad_observations(observation: Observation) -> Int[np.ndarray, "n"]:
    """Find galaxies of a survey that cannot be inferred, so that they do not stop the others.

    Args:
        observation: The galaxies.

    Returns:
        ``Flag.BAD_OBSERVATION`` for each galaxy that :func:`~hiergal.observation.check_observation` refuses, else 0.
    """
    flag = np.zeros(len(observation), np.int32)
    try:
        check_observation(observation)
    except ValueError:  # look for the ones that are wrong
        for row in range(len(observation)):
            try:
                check_observation(observation[row : row + 1])
            except ValueError:
                flag[row] |= Flag.BAD_OBSERVATION
    return flag


class JudgedConditions(NamedTuple):
    """Division of galaxies into those with usable conditions and those without.

    Attributes:
        groups: Rows with conditions that can be used, and these; rows without, and None. Both together are all rows.
        flag: ``Flag.BAD_CONDITIONS`` where they are not used, ``Flag.CONDITIONS_OUTSIDE`` where the model has not been
            trained on them, else 0.
    """

    groups: list[tuple[Int[np.ndarray, "m"], Float[np.ndarray, "m c"] | None]]
    flag: Int[np.ndarray, "n"]

    __repr__ = brief


def judge_conditions(model: GalaxyModel, conditions: Any, n: int) -> JudgedConditions:
    """Compare the conditions of n galaxies with what a model was trained on; no row of them is an error.

    Args:
        model: A trained model.
        conditions: As for :func:`hiergal.model.conditions.given_conditions`; None where nothing is known.
        n: Number of galaxies.

    Raises:
        ValueError: If they are no conditions of the model, or not those of n galaxies.
    """
    if conditions is None:
        return JudgedConditions([(np.arange(n), None)], np.zeros(n, np.int32))
    conditions = given_conditions(model, conditions, n)
    found = check_range(model, conditions)
    flag = np.where(found.far, Flag.BAD_CONDITIONS, np.where(found.outside, Flag.CONDITIONS_OUTSIDE, 0))
    used, left = np.flatnonzero(~found.far), np.flatnonzero(found.far)
    groups = [(used, conditions[used]), (left, None)]
    return JudgedConditions([group for group in groups if len(group[0])], flag.astype(np.int32))


def check_catalog(model: GalaxyModel, catalog: Mapping[str, Array], units: Callable[[str], str]) -> None:
    """Check that a survey has the columns that a model is conditioned on, in units that can be converted.

    Args:
        model: A model with a latent flow.
        catalog: Columns of the survey.
        units: Returns the unit of a column in words, as ``StoreHeader.unit_of`` does.

    Raises:
        ValueError: If it lacks one, or one is of another kind.
    """
    names = condition_names(model)
    missing = [name for name in names if name not in catalog]
    if missing:
        raise ValueError(
            f"conditions: expected the columns {', '.join(names)}, missing: {', '.join(missing)}; there are: "
            f"{', '.join(catalog) or 'none'}"
        )
    condition_factors(model, units)


def catalog_conditions(
    model: GalaxyModel, catalog: Mapping[str, Array], units: Callable[[str], str]
) -> Float[np.ndarray, "n c"]:
    """Collect the conditions of a survey's galaxies in the model's units; :func:`hiergal.infer` judges them.

    Arguments and errors are those of :func:`check_catalog`.
    """
    check_catalog(model, catalog, units)
    with np.errstate(over="ignore"):
        columns = [np.asarray(catalog[name], np.float32) for name in condition_names(model)]
    return np.stack(columns, axis=-1) * condition_factors(model, units)
