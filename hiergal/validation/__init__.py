"""Validation: measurements of images, drawn or real, and their comparison with the real COSMOS population.

``moments`` measures sizes and ellipticities; ``reference`` holds the published COSMOS distributions and the distance
to them; ``population_figure`` shows both.
"""

from hiergal.validation.moments import measure_moments
from hiergal.validation.reference import cosmos_reference, ks_distance

__all__ = ["cosmos_reference", "ks_distance", "measure_moments"]
