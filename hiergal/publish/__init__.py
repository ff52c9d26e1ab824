"""Publication: a trained, measured run becomes a model for others."""

from hiergal.runtime.namespace import submodules

__all__: list[str] = []

__getattr__ = submodules(__name__)
