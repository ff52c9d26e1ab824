"""hiergal: learn what galaxies look like from survey images, infer what is behind a stamp, draw new galaxies.

A Bayesian hierarchical model with a neural generator (Lanusse et al. 2020), as a NumPyro program. The names below
are what most users need; the modules hold the rest::

    model = hiergal.load_model("runs/quickstart/model")
    posterior = hiergal.infer(model, observation, key=jax.random.key(0))
    galaxies = hiergal.draw_galsim(model, catalog, key=jax.random.key(1))

GalSim, matplotlib and ArviZ are imported where they are used, not here.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("hiergal")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "unknown"

from hiergal.hub import GalaxyModel, load_model, save_model
from hiergal.noise import PixelNoise, StationaryNoise, WhiteNoise
from hiergal.observation import Observation, check_observation
from hiergal.posterior import Posterior, infer, interval
from hiergal.psf import PSF, convolve
from hiergal.recipe import Recipe, load_recipe
from hiergal.simulate import draw_galsim, draw_profiles
from hiergal.survey import open_store

__all__ = [
    "PSF",
    "GalaxyModel",
    "Observation",
    "PixelNoise",
    "Posterior",
    "Recipe",
    "StationaryNoise",
    "WhiteNoise",
    "check_observation",
    "convolve",
    "draw_galsim",
    "draw_profiles",
    "infer",
    "interval",
    "load_model",
    "load_recipe",
    "open_store",
    "save_model",
]
