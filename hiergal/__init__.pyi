from .galsim.model import GenerativeGalaxyModel
from .hub import load_model, save_model
from .model.trained import GalaxyModel
from .observation import Observation, check_observation
from .observation.independent import PixelNoise, WhiteNoise
from .observation.psf import PSF, convolve
from .observation.stationary import StationaryNoise
from .posterior import Posterior, interval
from .posterior.fit_checks import FitChecks, check_fits
from .posterior.infer import infer
from .posterior.predictive import Prediction, predict
from .recipe.recipe import Recipe, load_recipe
from .simulate.profiles import draw_galsim, draw_profiles
from .survey import open_store

__all__ = [
    "PSF",
    "FitChecks",
    "GalaxyModel",
    "GenerativeGalaxyModel",
    "Observation",
    "PixelNoise",
    "Posterior",
    "Prediction",
    "Recipe",
    "StationaryNoise",
    "WhiteNoise",
    "check_fits",
    "check_observation",
    "convolve",
    "draw_galsim",
    "draw_profiles",
    "infer",
    "interval",
    "load_model",
    "load_recipe",
    "open_store",
    "predict",
    "save_model",
]
