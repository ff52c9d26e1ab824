"""Presets of surveys: PSF, pixels, sky and zero point from surveycodex, none typed in by hand."""

from functools import lru_cache
from typing import NamedTuple

import galsim
import numpy as np

from hiergal.runtime.extras import require_extra

__all__ = [
    "BandComparison",
    "SurveyConditions",
    "compare_bands",
    "survey_conditions",
    "survey_psf",
]

ALIKE = 0.15  # in the logarithm of wavelengths: i, I, F814W and z are alike; g, r, y and F814W are not


class SurveyConditions(NamedTuple):
    """Observing conditions of a survey in one band.

    Attributes:
        pixel_scale: Width of a pixel [arcsec].
        psf_fwhm: Full width at half maximum of the PSF [arcsec].
        sky_level: Sky in a pixel, in the full exposure [electrons].
        zero_point: Magnitude that gives one electron in the full exposure [mag].
        wavelength_nm: Effective wavelength of the filter [nm].
        mirror_diameter: Of the primary [m].
        obscuration: Fraction of the primary's diameter that the secondary hides.
        ground: Whether light comes through the atmosphere.
    """

    pixel_scale: float
    psf_fwhm: float
    sky_level: float
    zero_point: float
    wavelength_nm: float
    mirror_diameter: float
    obscuration: float
    ground: bool


class BandComparison(NamedTuple):
    """A survey's filter and another one.

    Attributes:
        wavelength_nm: Effective wavelength of the survey's filter [nm].
        other_nm: Of the other one; None if not known [nm].
        differ: Whether galaxies have other magnitudes in the two.
    """

    wavelength_nm: float
    other_nm: float | None
    differ: bool


@lru_cache
def survey_conditions(survey: str, band: str) -> SurveyConditions:
    """Read the observing conditions of a survey from surveycodex.

    Args:
        survey: Name of the survey, such as ``LSST``, ``HSC``, ``Euclid_VIS``, ``Roman_WFI``.
        band: Name of the filter there.

    Raises:
        ValueError: If surveycodex has no such survey or filter.

    Example:
        >>> float(survey_conditions("LSST", "i").pixel_scale)
        0.2
    """
    require_extra("presets", "surveys by name")
    import surveycodex
    from surveycodex.utilities import mean_sky_level

    known = surveycodex.available_surveys
    if survey not in known:
        raise ValueError(f"survey: expected one of {', '.join(sorted(known))}, got {survey!r}")
    about = surveycodex.get_survey(survey)
    if band not in about.available_filters:
        raise ValueError(
            f"band: expected one of {', '.join(about.available_filters)} of {survey}, got {band!r}"
        )
    light = about.get_filter(band)
    exposure = light.full_exposure_time.to_value("s")
    return SurveyConditions(
        pixel_scale=about.pixel_scale.to_value("arcsec"),
        psf_fwhm=light.psf_fwhm.to_value("arcsec"),
        sky_level=float(mean_sky_level(about, light).value),
        zero_point=float(light.zeropoint.value + 2.5 * np.log10(exposure)),
        wavelength_nm=light.effective_wavelength.to_value("nm"),
        mirror_diameter=about.mirror_diameter.to_value("m"),
        obscuration=float(np.sqrt(about.obscuration)),
        ground=float(about.zeropoint_airmass) > 0,  # air masses
    )


def compare_bands(survey: str, band: str, other: str) -> BandComparison:
    """Compare a survey's filter with one of which the name alone is known.

    Args:
        survey: Name of the survey.
        band: Name of its filter.
        other: Name of a filter of any survey that surveycodex knows, in any case; of one that it does not know nothing
            is said.

    Raises:
        ValueError: If surveycodex has no such survey or filter.

    Example:
        >>> compare_bands("LSST", "i", "F814W").differ, compare_bands("LSST", "u", "F814W").differ
        (False, True)
    """
    here = survey_conditions(survey, band).wavelength_nm
    there = _wavelength_of(other)
    return BandComparison(here, there, there is not None and bool(abs(np.log(here / there)) > ALIKE))


@lru_cache
def _wavelength_of(band: str) -> float | None:
    """Mean effective wavelength of the filters with a name [nm]; as it is written, or else in any case."""
    require_extra("presets", "bands of surveys by name")
    import surveycodex

    lights = [
        (name, about.get_filter(name).effective_wavelength.to_value("nm"))
        for about in map(surveycodex.get_survey, surveycodex.available_surveys)
        for name in about.available_filters
    ]
    same = [light for name, light in lights if name == band]
    same = same or [light for name, light in lights if name.lower() == band.lower()]
    return float(np.mean(same)) if same else None


def survey_psf(survey: str, band: str, gsparams: galsim.GSParams | None = None) -> galsim.GSObject:
    """Make a round PSF of a survey's width: the telescope's Airy pattern, and the atmosphere or jitter.

    Args:
        survey: Name of the survey.
        band: Name of the filter.
        gsparams: As for any GalSim object.

    Returns:
        A PSF without the pixel response, whose full width at half maximum is that in surveycodex, where the telescope's
        diffraction alone is not wider.

    Raises:
        ValueError: If surveycodex has no such survey or filter.

    Example:
        >>> round(float(survey_psf("LSST", "i").calculateFWHM()), 2)
        0.79
    """
    about = survey_conditions(survey, band)
    optics = galsim.Airy(
        lam=about.wavelength_nm, diam=about.mirror_diameter, obscuration=about.obscuration, gsparams=gsparams
    )
    blur = galsim.Kolmogorov if about.ground else galsim.Gaussian

    def with_blur(fwhm: float) -> galsim.GSObject:
        return galsim.Convolve(optics, blur(fwhm=fwhm, gsparams=gsparams))

    low, high = 0.02 * about.psf_fwhm, about.psf_fwhm
    if with_blur(low).calculateFWHM() >= about.psf_fwhm:
        return with_blur(low)
    for _ in range(12):  # bisection, to a thousandth of the width
        middle = 0.5 * (low + high)
        low, high = (middle, high) if with_blur(middle).calculateFWHM() < about.psf_fwhm else (low, middle)
    return with_blur(0.5 * (low + high))
