"""Validation: measurements of images, drawn or real, comparisons of samples with verdicts, and the real population.

Measurements are those of :mod:`hiergal.measure`. Samples that are observed alike: ``samples``. Comparisons: ``suite``
runs those of ``two_sample`` and ``learned_tests``; ``pixel_tests`` look at pixels, ``shear`` at the response to shear,
``arms`` at spiral arms of bright galaxies, ``spectra`` at residuals and beyond the band limit, ``model_tests`` at
latents and reconstructions, ``conditional`` at sizes and fluxes against the requested ones. A whole validation: ``run``
(of ``candidates``, or of a ``galaxy_folder``), written by :mod:`hiergal.reports.validation`. The published population:
``reference``, ``morphology_reference``.
"""

from hiergal.runtime.namespace import exports

__getattr__, __dir__, __all__ = exports(
    __name__,
    {
        "hiergal.measure.moments": ["measure_moments"],
        "hiergal.measure.morphology": ["measure_morphology", "measure_paper_morphology"],
        "hiergal.measure.parametric": ["fit_parametric"],
        "hiergal.validation.morphology_reference": ["morphology_distances"],
        "hiergal.validation.reference": ["cosmos_reference", "ks_distance"],
    },
)
