"""Surveys: where observed stamps come from, and the store on disk that they all end in.

``mock`` makes a survey with GalSim; ``cosmos`` reads the real galaxies that GalSim knows; ``cutouts`` takes
images of any other instrument. Each writes a store (:mod:`hiergal.survey.store`), and everything downstream
reads nothing but stores. GalSim is imported only where it draws.
"""

from hiergal.runtime.namespace import submodules
from hiergal.survey.store import Split, StoreHeader, SurveyStore, open_store, open_survey
from hiergal.survey.writer import write_store

__all__ = ["Split", "SurveyStore", "StoreHeader", "open_store", "open_survey", "write_store"]

__getattr__ = submodules(__name__)
