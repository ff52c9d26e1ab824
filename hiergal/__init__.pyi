from . import (
    cli,
    galsim,
    galsim_config,
    hub,
    measure,
    model,
    observation,
    posterior,
    publish,
    recipe,
    reports,
    runtime,
    simulate,
    survey,
    training,
    validation,
)
from .galsim.model import GenerativeGalaxyModel
from .hub.bundle import load_model, save_model
from .model.trained import GalaxyModel
from .observation.independent import PixelNoise, WhiteNoise
from .observation.observation import Observation, check_observation
from .observation.psf import PSF, convolve, gaussian_psf
from .observation.stationary import StationaryNoise
from .posterior.fit_checks import FitChecks, check_fits
from .posterior.infer import infer
from .posterior.posterior import Posterior, credible_interval, interval
from .posterior.predictive import Prediction, predict
from .posterior.scenes.deblend import Deblended, deblend
from .recipe.recipe import Recipe, load_recipe
from .reports import figures
from .reports.posteriors import posterior_page
from .simulate.profiles import draw_galsim, draw_profiles
from .survey.store import open_store, open_survey
from .training.train import train
from .validation import calibration

__all__ = [
    "PSF",
    "Deblended",
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
    "calibration",
    "check_fits",
    "check_observation",
    "cli",
    "convolve",
    "credible_interval",
    "deblend",
    "draw_galsim",
    "draw_profiles",
    "figures",
    "galsim",
    "galsim_config",
    "gaussian_psf",
    "hub",
    "infer",
    "interval",
    "load_model",
    "load_recipe",
    "measure",
    "model",
    "observation",
    "open_store",
    "open_survey",
    "posterior",
    "posterior_page",
    "predict",
    "publish",
    "recipe",
    "reports",
    "runtime",
    "save_model",
    "simulate",
    "survey",
    "train",
    "training",
    "validation",
]
