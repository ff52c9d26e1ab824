"""Validation: measurements of images, drawn or real, comparisons of samples with verdicts, and the real population.

Measurements: ``moments`` (sizes, ellipticities) and ``morphology`` (Gini, M20, C, A, S, M, I, D, radii; its parts are
in ``segmentation``, ``petrosian``, ``gini_m20``, ``cas`` and ``mid``). Samples made alike: ``samples``, ``parametric``.
Comparisons: ``suite`` runs those of ``two_sample`` and ``learned_tests``; ``pixel_tests`` look at pixels, ``shear`` at
the response to shear, ``spectra`` (of ``power``) at residuals and beyond the band limit, ``model_tests`` at latents and
reconstructions; ``conditional`` asks whether drawn galaxies have what was asked for. A whole validation: ``run`` (of
``candidates``, or of a ``galaxy_folder``), ``report``, ``report_figures``. The published population: ``reference``,
``morphology_reference``, ``population_figure``.
"""

from hiergal.measure.moments import measure_moments
from hiergal.measure.morphology import measure_morphology, measure_paper_morphology
from hiergal.measure.parametric import fit_parametric
from hiergal.runtime.namespace import submodules
from hiergal.validation.morphology_reference import morphology_distances, morphology_reference
from hiergal.validation.reference import cosmos_reference, ks_distance

__all__ = [
    "cosmos_reference",
    "fit_parametric",
    "ks_distance",
    "measure_moments",
    "measure_morphology",
    "measure_paper_morphology",
    "morphology_distances",
    "morphology_reference",
]

__getattr__ = submodules(__name__)
