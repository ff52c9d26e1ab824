"""The quickstart: the whole path on a mock survey, and its report."""

from hiergal.runtime.namespace import submodules

__all__: list[str] = []

__getattr__ = submodules(__name__)
