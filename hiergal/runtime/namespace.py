"""Modules as attributes of their package, loaded when they are first used.

``import hiergal`` is light, and ``hiergal.posterior.to_arviz`` resolves all the same.
"""

import pkgutil
from collections.abc import Callable
from importlib import import_module
from types import ModuleType

__all__ = ["import_modules", "submodules"]


def submodules(package: str) -> Callable[[str], ModuleType]:
    """Return the ``__getattr__`` of a package that imports its modules when they are asked for.

    Args:
        package: Name of the package.

    Example:
        >>> submodules("hiergal.runtime")("seeds").__name__
        'hiergal.runtime.seeds'
        >>> submodules("hiergal.runtime")("weather")
        Traceback (most recent call last):
        ...
        AttributeError: module 'hiergal.runtime' has no attribute 'weather'
    """

    def __getattr__(name: str) -> ModuleType:
        path = f"{package}.{name}"
        if not name.startswith("_"):
            try:
                return import_module(path)
            except ModuleNotFoundError as error:
                if error.name != path:  # what it needs is not installed
                    raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return __getattr__


def import_modules(package: str) -> None:
    """Import all modules of a package: each registers the kinds that it defines, so a further kind is a further file.

    Args:
        package: Name of the package.

    Example:
        >>> import_modules("hiergal.observation")
        >>> from hiergal.observation.noise import NoiseModel
        >>> NoiseModel.kinds["stationary"].__name__
        'StationaryNoise'
    """
    for module in pkgutil.iter_modules(import_module(package).__path__, f"{package}."):
        import_module(module.name)
