"""Validation: measurements of images, drawn or real, and their comparison with the real COSMOS population.

``moments`` measures sizes and ellipticities, ``morphology`` everything that needs no profile: Gini, M20, C, A, S, M, I,
D, radii (``segmentation``, ``petrosian``, ``gini_m20``, ``cas`` and ``mid`` hold its parts). ``reference`` holds the
published COSMOS distributions and the distance to them; ``population_figure`` shows both.
"""

from hiergal.validation.moments import measure_moments
from hiergal.validation.morphology import measure_morphology, measure_paper_morphology
from hiergal.validation.reference import cosmos_reference, ks_distance

__all__ = [
    "cosmos_reference",
    "ks_distance",
    "measure_moments",
    "measure_morphology",
    "measure_paper_morphology",
]
