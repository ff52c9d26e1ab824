"""Tables of catalogues: any file or object with columns, units and identifiers."""

from hiergal.runtime.namespace import submodules

__all__: list[str] = []

__getattr__ = submodules(__name__)
