"""Noise of surveys: its power spectrum, measured in source-free pixels, and the choice of it."""

from hiergal.runtime.namespace import submodules

__all__: list[str] = []

__getattr__ = submodules(__name__)
