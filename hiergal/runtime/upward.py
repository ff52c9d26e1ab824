"""Links to higher floors: methods of a class that are written on a floor above it.

A trained model draws GalSim objects, and a posterior makes figures and tables of itself: what does it stands on higher
floors, or imports the class. Such methods are a line, which looks up by name what it calls. The list of them is kept by
``tests/test_layout.py``; everything else imports downwards.
"""

from importlib import import_module
from typing import Any

__all__ = ["upward"]


def upward(path: str) -> Any:
    """Return an object of a module by its full name; the module is imported now.

    Args:
        path: Name with dots, such as ``hiergal.posterior.fit_checks.check_fits``.

    Example:
        >>> upward("hiergal.runtime.formatting.format_share")(1, 2)
        '50.0 ± 35.4 %'
    """
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)
