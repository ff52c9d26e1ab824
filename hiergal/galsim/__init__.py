"""Galaxies inside GalSim: what belongs to its configuration files."""

from hiergal.runtime.namespace import submodules

__all__: list[str] = []

__getattr__ = submodules(__name__)
