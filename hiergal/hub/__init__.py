"""Trained models as files: bundles that hold everything needed to use a model, and run nothing when loaded."""

from hiergal.hub.bundle import (
    GalaxyModel,
    ParameterCounts,
    Provenance,
    load_model,
    parameter_counts,
    save_model,
)

__all__ = ["GalaxyModel", "ParameterCounts", "Provenance", "load_model", "parameter_counts", "save_model"]
