"""hiergal: learn what galaxies look like from survey images, infer what is behind a stamp, draw new galaxies.

A Bayesian hierarchical model with a neural generator (Lanusse et al. 2020), as a NumPyro program. The names in
this module are what most users need; the others hold the rest::

    model = hiergal.load_model("runs/quickstart/model")
    posterior = hiergal.infer(model, observation, key=jax.random.key(0))
    checks = hiergal.check_fits(model, observation, posterior, key=jax.random.key(2))
    galaxies = hiergal.draw_galsim(model, catalog, key=jax.random.key(1))

The names are listed in ``__init__.pyi``, for editors too; each is imported when it is first used (Scientific Python's
SPEC 1), so that importing the package takes no time.
"""

import sys

import lazy_loader

from hiergal.runtime import fork as _fork  # noqa: F401 (notes forks, from the beginning)
from hiergal.runtime.version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

if "galsim.config" in sys.modules:  # so that ``modules: [hiergal]`` of a GalSim configuration has its types
    from hiergal.galsim.registration import register_types

    register_types()
