"""Samplers of the posteriors of batches of galaxies; :func:`hiergal.posterior.infer` chooses among them."""

from hiergal.runtime.namespace import exports

__getattr__, __dir__, __all__ = exports(
    __name__, {"hiergal.posterior.samplers.target": ["Draws", "LatentPosterior"]}
)
