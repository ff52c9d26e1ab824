"""Trained models as files: bundles that hold everything needed to use a model, and run nothing when loaded."""

from hiergal.hub.bundle import load_model, read_card, read_metrics, save_model
from hiergal.hub.names import resolve
from hiergal.model.provenance import Provenance
from hiergal.model.trained import GalaxyModel, ParameterCounts, check_model, parameter_counts
from hiergal.runtime.namespace import submodules

__all__ = [
    "GalaxyModel",
    "ParameterCounts",
    "Provenance",
    "check_model",
    "load_model",
    "resolve",
    "parameter_counts",
    "read_card",
    "read_metrics",
    "save_model",
]

__getattr__ = submodules(__name__)
