"""Forks: JAX and GalSim's threads hang in a process that was forked from one that had used them.

``multiprocessing`` forks by default on Linux before Python 3.14. A forked child has the memory of its parent, but not
the threads that JAX has started there, and waits for them for ever. So every public function that computes asks here
first, and says what to do instead.
"""

import os
import sys

__all__ = ["check_not_forked", "is_fork", "jax_is_in_use"]

MAKERS_OF_KEYS = ("key", "PRNGKey", "split", "fold_in")  # of jax.random
_is_fork = _forked_from_jax = False


def check_not_forked() -> None:
    """Refuse to compute in a fork of a process that has used JAX.

    Raises:
        RuntimeError: If this process is one: what it computes would never be done.

    Example:
        >>> check_not_forked()
    """
    if _forked_from_jax:
        _refuse()


def is_fork() -> bool:
    """Return whether this process was forked from one that had imported hiergal: OpenMP's threads hang there, too.

    Example:
        >>> is_fork()
        False
    """
    return _is_fork


def jax_is_in_use() -> bool:
    """Return whether this process (or the one that it was forked from) has used JAX.

    Example:
        >>> jax_is_in_use() in (True, False)
        True
    """
    # JAX has no public word for it; backends_are_initialized takes a lock that no thread may be left to free in a fork.
    return bool(getattr(sys.modules.get("jax._src.xla_bridge"), "_backends", None))


def _after_fork() -> None:
    global _is_fork, _forked_from_jax
    _is_fork = True
    _forked_from_jax = _forked_from_jax or jax_is_in_use()
    if _forked_from_jax:
        random = sys.modules[
            "jax.random"
        ]  # keys are made for our functions before these are called, and hang, too
        for name in MAKERS_OF_KEYS:
            setattr(random, name, _refuse)


def _refuse(*_: object, **__: object) -> None:
    raise RuntimeError(
        "expected a process that can use JAX, got a fork of one that has used it, where JAX waits for ever; start "
        'worker processes with multiprocessing.get_context("spawn") (or "forkserver"), '
        'multiprocessing.set_start_method("spawn") at the start of the program, or joblib\'s loky; or load and use the '
        "model in the workers only"
    )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
