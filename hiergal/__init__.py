"""hiergal: learn what galaxies look like from survey images, infer what is behind a stamp, draw new galaxies.

A Bayesian hierarchical model with a neural generator (Lanusse et al. 2020), as a NumPyro program. The names below
are what most users need; the modules hold the rest::

    model = hiergal.load_model("runs/quickstart/model")
    posterior = hiergal.infer(model, observation, key=jax.random.key(0))
    checks = hiergal.check_fits(model, observation, posterior, key=jax.random.key(2))
    galaxies = hiergal.draw_galsim(model, catalog, key=jax.random.key(1))

GalSim, matplotlib and ArviZ are imported where they are used, not here.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("hiergal")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "unknown"

from hiergal.fit_checks import FitChecks, check_fits
from hiergal.galsim_model import GenerativeGalaxyModel
from hiergal.hub import GalaxyModel, load_model, save_model
from hiergal.noise import PixelNoise, WhiteNoise
from hiergal.observation import Observation, check_observation
from hiergal.posterior import Posterior, infer, interval
from hiergal.predictive import Prediction, predict
from hiergal.psf import PSF, convolve
from hiergal.recipe import Recipe, load_recipe
from hiergal.simulate import draw_galsim, draw_profiles
from hiergal.stationary_noise import StationaryNoise
from hiergal.survey import open_store

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
