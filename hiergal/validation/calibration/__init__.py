"""Calibration of posteriors: ranks, coverage, z-scores, each with a verdict."""

from hiergal.runtime.namespace import submodules

__all__: list[str] = []

__getattr__ = submodules(__name__)
