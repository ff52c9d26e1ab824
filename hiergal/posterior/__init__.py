"""Posteriors of observed galaxies: inference, and the verdict on what it found."""

from hiergal.posterior.posterior import METHODS, STATISTICS, Method, Posterior, infer, interval
from hiergal.posterior.verdict import CHECKS, Flag

__all__ = ["CHECKS", "METHODS", "STATISTICS", "Flag", "Method", "Posterior", "infer", "interval"]
