"""Extras: packages that only some of hiergal needs, and one clear error where they are not installed.

Drawing galaxies from a published model, and inferring galaxies of one's own arrays, need none of these:

============  ============================================================================================
extra         for
============  ============================================================================================
``survey``    surveys on disk (zarr), files in HDF5
``train``     training, the latent flow and the posterior flow; with ``survey``
``posterior`` posteriors for ArviZ (netCDF, zarr), methods ``importance`` and ``auto``
``validate``  ``hiergal validate``; with ``survey``
``hub``       models from registries and addresses; those of the package need nothing
``presets``   surveys by name (LSST, Euclid, ...) for simulated images
``cluster``   dask schedulers, tables as parquet
============  ============================================================================================

The packages, with versions and sizes, are in ``pyproject.toml``; a test compares the two.
"""

import sys
from importlib.util import find_spec

__all__ = ["EXTRAS", "require_extra"]

# Name of the module, and of the package where that is another one.
EXTRAS: dict[str, dict[str, str]] = {
    "survey": {"zarr": "", "numcodecs": "", "tensorstore": "", "h5py": ""},
    "train": {"grain": "", "orbax.checkpoint": "orbax-checkpoint"},
    "posterior": {"arviz": "", "xarray": "", "h5netcdf": "", "h5py": "", "zarr": ""},
    "validate": {"sklearn": "scikit-learn", "threadpoolctl": "", "photutils": ""},
    "hub": {"pooch": "", "requests": "", "filelock": ""},
    "presets": {"surveycodex": ""},
    "cluster": {"dask": "", "distributed": "", "pyarrow": ""},
}


def require_extra(extra: str, what: str) -> None:
    """Check, before any work, that the packages of an extra are installed.

    Args:
        extra: A key of ``EXTRAS``.
        what: What needs them, as the subject of the error.

    Raises:
        ModuleNotFoundError: If one is missing: which, and how to install it.

    Example:
        >>> require_extra("survey", "surveys on disk")
    """
    missing = [package or module for module, package in EXTRAS[extra].items() if not _is_there(module)]
    if missing:
        raise ModuleNotFoundError(
            f'{what}: expected {", ".join(missing)} to be installed; `pip install "hiergal[{extra}]"`'
        )


def _is_there(module: str) -> bool:
    if module in sys.modules:
        return True
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False
