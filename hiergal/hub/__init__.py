"""Trained models as files: bundles that hold everything needed to use a model, and run nothing when loaded."""

from hiergal.hub.bundle import GalaxyModel, Provenance, load_model, save_model

__all__ = ["GalaxyModel", "Provenance", "load_model", "save_model"]
