"""Scenes: the joint posterior of several overlapping galaxies."""

from hiergal.runtime.namespace import submodules

__all__: list[str] = []

__getattr__ = submodules(__name__)
