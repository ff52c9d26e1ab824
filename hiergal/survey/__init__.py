"""Surveys: where observed stamps come from, and the store on disk that they all end in.

``mock`` makes a survey with GalSim; ``cosmos`` reads the real galaxies that GalSim knows; ``cutouts`` takes
images of any other instrument. Each writes a store (:mod:`hiergal.survey.store`), and everything downstream
reads nothing but stores. GalSim is imported only where it draws.
"""

from hiergal.runtime.namespace import exports

__getattr__, __dir__, __all__ = exports(
    __name__,
    {
        "hiergal.survey.schema": ["StoreHeader"],
        "hiergal.survey.store": ["Split", "SurveyStore", "open_store", "open_survey"],
        "hiergal.survey.writer": ["write_store"],
    },
)
