"""The survey in which galaxies of a catalogue are observed, as data."""

from functools import lru_cache

import msgspec

__all__ = ["Observing", "psf_of"]


class Observing(msgspec.Struct, frozen=True):
    """Survey in which galaxies are observed.

    Attributes:
        survey: Name of a survey that ``surveycodex`` knows.
        band: Name of its filter.
        stamp: Pixels along each side of a stamp.
        noise: Whether noise of sky and source is added.
    """

    survey: str
    band: str
    stamp: int = 64
    noise: bool = True

    @property
    def about(self):
        """What is known of the survey in that filter."""
        from hiergal.simulate.survey_presets import survey_conditions

        return survey_conditions(self.survey, self.band)


@lru_cache(maxsize=2)
def psf_of(observing: Observing):
    """Return the PSF of a survey, made once."""
    from hiergal.simulate.survey_presets import survey_psf

    return survey_psf(observing.survey, observing.band)
