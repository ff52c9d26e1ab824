"""Exit codes of the command, one meaning each, and what to do when an extra is not installed.

====  ================================================================================================================
code  means
====  ================================================================================================================
0     done
1     a test failed (``hiergal validate``, ``hiergal models verify``)
2     wrong use: an option, a recipe or an input that is not what the command takes; an output that is in the way
3     could not run: files that cannot be read or written, another process at work, no memory, a missing extra
130   stopped by Ctrl-C or SIGTERM
====  ================================================================================================================
"""

from importlib.util import find_spec

__all__ = ["COULD_NOT_RUN", "DONE", "STOPPED", "TEST_FAILED", "WRONG_USE", "exit_code_of", "require_extra"]

DONE, TEST_FAILED, WRONG_USE, COULD_NOT_RUN = range(4)
STOPPED = 130  # what shells report after Ctrl-C

MISUSE = (ValueError, TypeError, FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError)
EXTRAS = {"plot": ("matplotlib", "jinja2"), "distributed": ("dask", "distributed", "pyarrow")}


def exit_code_of(error: BaseException) -> int:
    """Return the exit code that an error means.

    Example:
        >>> exit_code_of(ValueError("seed")), exit_code_of(OSError("disk full"))
        (2, 3)
    """
    return WRONG_USE if isinstance(error, MISUSE) else COULD_NOT_RUN


def require_extra(extra: str, what: str) -> None:
    """See to it, before any work, that the packages of an extra are there.

    Args:
        extra: A key of ``EXTRAS``.
        what: What needs them.

    Raises:
        ModuleNotFoundError: If one is missing: which, and how to install it.

    Example:
        >>> require_extra("plot", "the report")
    """
    missing = [name for name in EXTRAS[extra] if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f'{what}: expected {", ".join(missing)} to be installed; `pip install "hiergal[{extra}]"`'
        )
