"""Modules as attributes of their package, loaded when they are first used.

``import hiergal`` is light, and ``hiergal.posterior.to_arviz`` resolves all the same.
"""

import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["exports", "import_modules", "submodules"]


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


def exports(
    package: str, names: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package whose names load when they are used.

    Args:
        package: Name of the package.
        names: What it exports, by the full name of the module that defines it. None may be the name of a module of the
            package, which hides it.

    Example:
        >>> load, _, exported = exports("hiergal.runtime", {"hiergal.runtime.formatting": ["format_share"]})
        >>> load("format_share")(1, 2), exported
        ('50.0 ± 35.4 %', ['format_share'])
    """
    module_of = {name: module for module, several in names.items() for name in several}
    otherwise = submodules(package)

    def __getattr__(name: str) -> Any:
        if name not in module_of:
            return otherwise(name)
        value = getattr(import_module(module_of[name]), name)
        sys.modules[package].__dict__[name] = value  # found at once the next time
        return value

    return __getattr__, lambda: sorted(module_of), sorted(module_of)


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
