"""Samplers of the posteriors of batches of galaxies; :func:`hiergal.posterior.infer` chooses among them."""

from hiergal.posterior.samplers.target import Draws, LatentPosterior
from hiergal.runtime.namespace import submodules

__all__ = ["Draws", "LatentPosterior"]

__getattr__ = submodules(__name__)
