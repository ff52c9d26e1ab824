"""Addition of a latent flow or a posterior flow to a trained model, in place (see :mod:`hiergal.runtime.output`)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from hiergal.hub.bundle import load_model, save_model
from hiergal.hub.packing import IN_FILES, flatten
from hiergal.hub.packing import digest_of as digest_of_arrays
from hiergal.model.flow.density import FlowFit
from hiergal.model.trained import GalaxyModel
from hiergal.runtime.identity import digest_of
from hiergal.runtime.output import owned
from hiergal.runtime.version import __version__
from hiergal.runtime.work import settle
from hiergal.survey.schema import digest_of_store
from hiergal.survey.store import SurveyStore

__all__ = ["update_model"]


def update_model(
    path: str | Path,
    part: str,
    store: SurveyStore,
    choices: Mapping[str, Any],
    fit: Callable[[GalaxyModel], tuple[GalaxyModel, FlowFit]],
    *,
    overwrite: bool,
) -> tuple[GalaxyModel, FlowFit | None]:
    """Fit one more part of a model, and put the new model in place of the old one.

    Args:
        path: The model's bundle.
        part: Which part: ``flow`` or ``posterior_flow``.
        store: The survey that it is fitted on.
        choices: What else decides its numbers.
        fit: Fits the part: takes the model, returns it with the part, and the fit.
        overwrite: Whether to replace a part that the model has.

    Raises:
        FileExistsError: If the model has such a part of another fit.
    """
    path = settle(path)
    if not path.exists():
        load_model(path)  # says what was expected
    with owned(path, "model", inputs=(store.path,), update=True) as own:
        model = load_model(own.target)
        networks = digest_of_arrays(
            flatten(model.replace(flow=None, marginal=None, posterior_flow=None, population=None))
        )
        about = {
            "networks": networks,
            "after": model.provenance.runs.get("flow") if part != "flow" else None,
            "survey": digest_of_store(store.path),
            "choices": dict(choices),
            "version": __version__,
        }
        digest, run = digest_of(about), IN_FILES.get(part, part)
        if getattr(model, part) is not None and not overwrite:
            if model.provenance.runs.get(run) == digest:
                return model, None
            what = {"flow": "latent flow"}.get(part, part.replace("_", " "))
            raise FileExistsError(
                f"{path}: expected a model without a {what}, got one of another fit; pass "
                "overwrite=True (--overwrite) to replace it"
            )
        model, fitted = fit(model)
        runs = model.provenance.runs | {run: digest}
        if part == "flow":
            runs.pop(IN_FILES["posterior_flow"], None)
        model = model.replace(provenance=msgspec.structs.replace(model.provenance, runs=runs))
        save_model(model, own.result)
        own.put()
    return model, fitted
