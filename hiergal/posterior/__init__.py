"""Posteriors of observed galaxies: inference, and the verdict on what it found."""

from hiergal.posterior.posterior import METHODS, STATISTICS, Method, Posterior, infer, interval

__all__ = ["METHODS", "STATISTICS", "Method", "Posterior", "infer", "interval"]
