"""Figures of a survey, of a training, and of what a model infers and draws.

Every function takes records or plain arrays and returns a ``matplotlib.figure.Figure``; nothing is shown, saved or
remembered, and matplotlib loads only when one is called. Stamps are drawn with pixel (0, 0) at the lower left, dark on
light, on an arcsinh stretch in units of the noise. Colours stay apart for colour-blind readers.
"""

from hiergal.reports.figures.brightest import brightest_posteriors
from hiergal.reports.figures.calibration import (
    coverage,
    expected_coverage,
    intervals,
    rank_histograms,
    z_scores,
)
from hiergal.reports.figures.deblending import deblended_scenes
from hiergal.reports.figures.fits import checked_fits
from hiergal.reports.figures.morphology import morphology_curves, morphology_planes
from hiergal.reports.figures.one_galaxy import posterior
from hiergal.reports.figures.population import latent_corner, sizes_and_ellipticities
from hiergal.reports.figures.reconstruction import reconstruction_pages, reconstructions
from hiergal.reports.figures.stamps import drawn_galaxies, survey_stamps
from hiergal.reports.figures.validation import (
    amplitudes_of_rings,
    conditional_scatter,
    fits_side_by_side,
    mean_ellipticity,
    power_spectra,
)
from hiergal.runtime.namespace import submodules
from hiergal.training.figures import rate_and_distortion, training_curves

__all__ = [
    "amplitudes_of_rings",
    "brightest_posteriors",
    "checked_fits",
    "conditional_scatter",
    "coverage",
    "deblended_scenes",
    "drawn_galaxies",
    "expected_coverage",
    "fits_side_by_side",
    "intervals",
    "latent_corner",
    "mean_ellipticity",
    "morphology_curves",
    "morphology_planes",
    "posterior",
    "power_spectra",
    "rank_histograms",
    "rate_and_distortion",
    "reconstruction_pages",
    "reconstructions",
    "sizes_and_ellipticities",
    "survey_stamps",
    "training_curves",
    "z_scores",
]

__getattr__ = submodules(__name__)
