"""Surveys in GalSim's configuration files: PSF, pixels, sky and zero point from surveycodex, none typed in by hand.

::

    psf: {type: SurveyPSF, survey: LSST, band: i}
    image:
        pixel_scale: {type: Survey, survey: LSST, band: i, item: pixel_scale}
        sky_level_pixel: {type: Survey, survey: LSST, band: i, item: sky_level}
    gal:
        magnitude_zero_point: {type: Survey, survey: LSST, band: i, item: zero_point}

Fluxes are in electrons of the survey's full exposure. ``surveycodex`` knows the names of surveys and bands
(``python -m surveycodex``).
"""

from typing import Any

import galsim
import galsim.config as gc

from hiergal.simulate.survey_presets import survey_conditions, survey_psf

__all__ = [
    "register_survey_types",
]

ITEMS = ("pixel_scale", "psf_fwhm", "sky_level", "zero_point")


def register_survey_types() -> None:
    """Register the types ``Survey`` (a value) and ``SurveyPSF`` (an object) with GalSim."""
    gc.RegisterValueType("Survey", _build_value, [float])
    gc.RegisterObjectType("SurveyPSF", _build_psf)


def _build_value(config: dict[str, Any], base: dict[str, Any], value_type: type) -> tuple[float, bool]:
    kinds = {"survey": str, "band": str, "item": str}
    values, safe = gc.GetAllParams(config, base, req=kinds)
    if values["item"] not in ITEMS:
        raise galsim.GalSimConfigValueError("Invalid item of a Survey.", values["item"], ITEMS)
    return value_type(getattr(survey_conditions(values["survey"], values["band"]), values["item"])), safe


def _build_psf(
    config: dict[str, Any], base: dict[str, Any], ignore: list[str], gsparams: dict[str, Any], logger: Any
) -> tuple[galsim.GSObject, bool]:
    values, safe = gc.GetAllParams(config, base, req={"survey": str, "band": str}, ignore=[*ignore, "flux"])
    return survey_psf(**values, gsparams=galsim.GSParams(**gsparams) if gsparams else None), safe
