"""Weights of networks in NumPyro programs: those of a trained model, or new ones where training begins.

A program that declares a network (``flax_module``) takes the network's parameters from the handlers around it. Where
there are none it draws new ones, as SVI needs at its start. For NUTS and ``Predictive`` that is a network that has
learnt nothing, and nothing in their results shows it.
"""

import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpyro
from numpyro.handlers import block, substitute

__all__ = ["warn_of_new_weights", "with_weights"]

INFERENCE = "numpyro.infer."
TRAINING = (
    "numpyro.infer.svi",
    "numpyro.infer.autoguide",
    "numpyro.infer.inspect",
)  # which only looks at programs


def with_weights(program: Callable[..., Any], weights: dict[str, Any]) -> Callable[..., Any]:
    """Return a program whose networks have these weights, as constants: nothing around it draws or learns others.

    Args:
        program: A NumPyro program.
        weights: Parameters by the names of their sites, such as ``generator$params``.

    Example:
        >>> def program():
        ...     return numpyro.param("scale", 1.0)
        >>> with_weights(program, {"scale": 2.0})()
        2.0
    """
    return block(substitute(program, data=weights), hide=list(weights))


def warn_of_new_weights(site: str, *, stacklevel: int = 2) -> None:
    """Warn if NumPyro is about to infer, or predict, with a network of new random weights; SVI begins with such.

    Args:
        site: Name of the network's parameters.
        stacklevel: As for ``warnings.warn``.
    """
    if numpyro.param(site) is not None:
        return
    frame, names = sys._getframe(1), set()
    while frame is not None:
        names.add(frame.f_globals.get("__name__", ""))
        frame = frame.f_back
    if any(name.startswith(TRAINING) for name in names) or not any(n.startswith(INFERENCE) for n in names):
        return
    warnings.warn(
        f"{site}: no weights were given, so that the network is a new, random one, which has learnt nothing; take "
        "model.program() of a trained model, or numpyro.handlers.substitute(program, data={...})",
        stacklevel=stacklevel + 1,
    )
