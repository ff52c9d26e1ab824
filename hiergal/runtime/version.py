"""The version of the package, as it is installed."""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("hiergal")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "unknown"
