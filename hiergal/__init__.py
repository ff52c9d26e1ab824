"""hiergal: learn what galaxies look like from survey images, infer what is behind a stamp, draw new galaxies.

A Bayesian hierarchical model with a neural generator (Lanusse et al. 2020), as a NumPyro program. The names in
this module are what most users need; the others hold the rest. Examples of functions start with these lines, which run
without a download, unless they make their own ``model``, ``observation``, ``posterior``, ``catalog`` and ``survey``:

>>> import jax
>>> import numpy as np
>>> import hiergal
>>> from hiergal.survey.mock.galaxies import draw_mock
>>> model = hiergal.load_model("hub:mock-acs")
>>> observation = draw_mock(4, seed=1).observation
>>> posterior = hiergal.infer(model, observation, key=jax.random.key(0), method="amortized", draws=40)
>>> low, high = posterior.credible_interval("magnitude", 0.68)
>>> catalog = {"mag_auto": [22.5, 23.0], "flux_radius": [10.0, 8.0], "zphot": [0.8, 0.6]}
>>> from hiergal.survey.mock.survey import write_mock_survey
>>> survey = write_mock_survey("survey.zarr", 40, seed=1, workers=1, progress=False)
>>> galaxies = model.sample(catalog, key=jax.random.key(1))  # GalSim objects

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
