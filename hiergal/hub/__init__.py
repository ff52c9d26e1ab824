"""Trained models as files: bundles that hold everything needed to use a model, and run nothing when loaded."""

from hiergal.runtime.namespace import exports

__getattr__, __dir__, __all__ = exports(
    __name__,
    {
        "hiergal.hub.bundle": ["load_model", "read_card", "read_metrics", "save_model"],
        "hiergal.hub.names": ["resolve"],
        "hiergal.model.provenance": ["Provenance"],
        "hiergal.model.blank": ["ParameterCounts", "parameter_counts"],
        "hiergal.model.trained": ["GalaxyModel", "check_model"],
    },
)
