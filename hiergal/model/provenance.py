"""Provenance of a model: its training survey, its units, and the ranges of its training set."""

from typing import Any

import msgspec

from hiergal.observation.photometry import Photometry

__all__ = ["Provenance"]


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Training survey of a model, and the units of its fluxes and conditions.

    Attributes:
        survey: Name of the survey.
        band: Its filter.
        flux_unit: Unit of fluxes.
        magnitude_zero_point: Magnitude of a source of unit flux [mag].
        galaxies: Number of training galaxies.
        seed: Seed of the training.
        version: Version of hiergal that trained it.
        condition_ranges: Smallest and largest value of each condition among the training galaxies.
        survey_provenance: What the survey says of itself.
        condition_units: Unit of each condition in words.
        psf_fwhm_arcsec: Median full width at half maximum of the training galaxies' PSFs; None where not measured
            it [arcsec].
        runs: Digests of the fits of its latent flow and posterior flow, and of its publication, by which the same is
            recognised.
        trained_ranges: Smallest and largest flux, half-light radius (``hlr_arcsec``) of the fits to its training
            galaxies, and their noise (``noise_level`` [flux per pixel]) and PSF widths (``psf_fwhm_arcsec``, of
            Gaussians of the same noise-equivalent area): :mod:`hiergal.training.ranges`; empty in models from before.
    """

    survey: str
    band: str
    flux_unit: str
    magnitude_zero_point: float
    galaxies: int
    seed: int
    version: str
    condition_ranges: dict[str, tuple[float, float]] = {}
    survey_provenance: dict[str, Any] = {}
    condition_units: dict[str, str] = {}
    psf_fwhm_arcsec: float | None = None
    runs: dict[str, str] = {}
    trained_ranges: dict[str, tuple[float, float]] = {}

    @property
    def photometry(self) -> Photometry:
        """Unit and zero point of the model's fluxes: those of the survey that it was trained on."""
        return Photometry(self.flux_unit, self.magnitude_zero_point)
