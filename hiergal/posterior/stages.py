"""Posterior draws of a survey's galaxies in ArviZ's files: ``hiergal infer --out NAME.nc``."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hiergal.hub.packing import digest_of as digest_of_arrays
from hiergal.hub.packing import flatten
from hiergal.model.trained import GalaxyModel
from hiergal.observation.observation import Observation, check_observation
from hiergal.posterior.infer import infer
from hiergal.posterior.input_checks import bad_observations, catalog_conditions
from hiergal.posterior.posterior import OF_DRAWS, Method, Posterior
from hiergal.runtime.output import owned
from hiergal.runtime.seeds import INFER, check_seed, key_for
from hiergal.runtime.version import __version__
from hiergal.survey.schema import digest_of_store
from hiergal.survey.store import SurveyStore

__all__ = [
    "infer_to_arviz",
]


def infer_to_arviz(
    model: GalaxyModel,
    store: SurveyStore,
    out: str | Path,
    *,
    seed: int,
    rows: np.ndarray | None = None,
    method: Method | str = "laplace",
    use_conditions: bool = False,
    draws: int = 200,
    batch: int = 32,
    overwrite: bool = False,
    progress: bool = True,
) -> tuple[Observation, Posterior] | None:
    """Infer the posteriors of galaxies of a store, and save them as ArviZ data.

    Args:
        model: A trained model.
        store: The galaxies.
        out: The file, or for ``.zarr`` the folder, to write.
        seed: Seed of the draws.
        rows: Which galaxies; default all.
        method: As for :func:`~hiergal.posterior.infer`.
        use_conditions: Whether the catalogue's magnitudes, sizes and redshifts inform the prior.
        draws: Posterior draws of each galaxy.
        batch: Galaxies in one call of the compiled program.
        overwrite: Whether to replace posteriors that are there; anything else is never replaced.
        progress: Whether to show a progress bar.

    Returns:
        Observations and their posteriors; None if the same run has finished before, and nothing is to be done.

    Raises:
        ValueError: If the name ends in neither ``.nc`` nor ``.zarr``, or as for :func:`~hiergal.posterior.infer`.
        FileExistsError: If something is there that may not be replaced (:mod:`hiergal.runtime.output`).
        OSError: If it cannot be written.
    """
    from hiergal.posterior.arviz_files import DRAWS, check_arviz_name, write_arviz
    from hiergal.posterior.to_arviz import posterior_to_arviz

    check_seed(seed)

    check_arviz_name(out)  # better known now than after the work
    rows = np.arange(len(store)) if rows is None else np.asarray(rows)
    run = {
        "files": {"model": digest_of_arrays(flatten(model)), "survey": digest_of_store(store.path)},
        "choices": {
            "seed": seed,
            "method": method,
            "conditions": use_conditions,
            "draws": draws,
            "batch": batch,
        },
        "rows": rows.tolist(),
        "version": __version__,
    }
    with owned(out, DRAWS, run=run, inputs=(store.path,), overwrite=overwrite, resume=False) as own:
        if own.finished and not overwrite:
            return None
        choices = {"method": method, "draws": draws, "batch": batch, "progress": progress}
        observation, posterior = _inferred(model, store, rows, seed, use_conditions, **choices)
        if not own.finished:
            about = {"seed": seed, "method": method, "conditions": int(use_conditions)}
            write_arviz(posterior_to_arviz(posterior, observation, model, about=about), own)
            own.put()
    return observation, posterior


def _inferred(
    model: GalaxyModel, store: SurveyStore, rows: np.ndarray, seed: int, use_conditions: bool, **choices: Any
) -> tuple[Observation, Posterior]:
    observation = store.read(rows)
    flag = bad_observations(observation)
    good = np.flatnonzero(flag == 0)
    if not len(good):
        check_observation(observation)  # says what is wrong
    conditions = None
    if use_conditions:
        conditions = catalog_conditions(model, observation.catalog, store.header.unit_of)[good]
    posterior = infer(
        model,
        observation if len(good) == len(rows) else observation[good],
        key=key_for(seed, INFER),
        conditions=conditions,
        rows=good,
        **choices,
    )
    return observation, posterior if len(good) == len(rows) else _with_blanks(posterior, flag, observation)


def _with_blanks(posterior: Posterior, flag: np.ndarray, observation: Observation) -> Posterior:
    """Posteriors of all galaxies, NaN and flagged where nothing was inferred."""
    place = np.cumsum(flag == 0) - 1
    whole = posterior[np.clip(place, 0, len(posterior) - 1)]
    bad = flag != 0

    def blank(values: Any, axis: int) -> np.ndarray:
        where = bad.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
        if values.dtype.kind == "b":
            return ~where & values
        return np.where(where, np.float32(np.nan), values) if values.dtype.kind == "f" else values

    changes = {
        f.name: jax.tree.map(lambda x, axis=int(f.name in OF_DRAWS): blank(x, axis), getattr(whole, f.name))
        for f in fields(whole)
        if f.name not in ("identifier", "method", "flag")
    }
    flags = np.where(bad, flag, np.asarray(whole.flag)).astype(np.int32)
    whole = whole.replace(**changes, identifier=np.asarray(observation.identifier), flag=flags)
    return whole.attach(posterior.model, observation)
