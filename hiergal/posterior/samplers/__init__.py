"""Samplers of the posteriors of batches of galaxies; :func:`hiergal.posterior.infer` chooses among them."""

from hiergal.posterior.samplers.target import Draws, Problem

__all__ = ["Draws", "Problem"]
