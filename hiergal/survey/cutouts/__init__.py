"""Surveys of cutouts of any instrument: their files, layouts, masks and PSFs."""

from hiergal.runtime.namespace import submodules

__all__: list[str] = []

__getattr__ = submodules(__name__)
