"""Posteriors of observed galaxies: inference, and the verdict on what it found."""

from hiergal.posterior.infer import infer
from hiergal.posterior.posterior import METHODS, STATISTICS, Method, Posterior, interval
from hiergal.posterior.verdict import CHECKS, Flag

__all__ = ["CHECKS", "METHODS", "STATISTICS", "Flag", "Method", "Posterior", "infer", "interval"]
