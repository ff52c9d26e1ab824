"""Exit codes of the command, one meaning each.

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

__all__ = ["COULD_NOT_RUN", "DONE", "STOPPED", "TEST_FAILED", "WRONG_USE", "exit_code_of"]

DONE, TEST_FAILED, WRONG_USE, COULD_NOT_RUN = range(4)
STOPPED = 130  # what shells report after Ctrl-C

MISUSE = (ValueError, TypeError, FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError)


def exit_code_of(error: BaseException) -> int:
    """Return the exit code that an error means.

    Example:
        >>> exit_code_of(ValueError("seed")), exit_code_of(OSError("disk full"))
        (2, 3)
    """
    return WRONG_USE if isinstance(error, MISUSE) else COULD_NOT_RUN
