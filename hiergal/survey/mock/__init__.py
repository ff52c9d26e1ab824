"""Mock surveys of HST/ACS, drawn with GalSim: a population, its structure, its optics."""

from hiergal.runtime.namespace import submodules

__all__: list[str] = []

__getattr__ = submodules(__name__)
