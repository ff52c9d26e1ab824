"""Posteriors of observed galaxies: inference, and the verdict on what it found."""

from hiergal.posterior.infer import infer
from hiergal.posterior.posterior import METHODS, STATISTICS, Method, Posterior, credible_interval, interval
from hiergal.posterior.verdict import CHECKS, Flag
from hiergal.runtime.namespace import submodules

__all__ = [
    "CHECKS",
    "METHODS",
    "STATISTICS",
    "Flag",
    "Method",
    "Posterior",
    "credible_interval",
    "infer",
    "interval",
]

__getattr__ = submodules(__name__)
