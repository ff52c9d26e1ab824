"""GalSim's configuration files name this module: ``modules: [hiergal.galsim_config]``."""

from hiergal.galsim.config import GenerativeModel

__all__ = ["GenerativeModel"]
