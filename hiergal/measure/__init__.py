"""Statistics of images: sizes, shapes, structure, power; each definition once."""

from hiergal.runtime.namespace import submodules

__all__: list[str] = []

__getattr__ = submodules(__name__)
