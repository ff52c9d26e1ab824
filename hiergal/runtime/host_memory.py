"""Keeping memory that was freed, for work that needs the same buffers again and again, or giving it back.

XLA asks for the buffers of a CPU program before each run and gives them back after it. The GNU C library returns
blocks as large as these to the system, which clears every page again at the next run: a fifth of a training step.
Compiling a large program, on the other hand, leaves a gigabyte in pieces too small for such buffers.
"""

import ctypes

__all__ = ["give_back_freed_memory", "keep_freed_memory"]

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8  # of mallopt(3)
STEP_BYTES = 2**26


def keep_freed_memory() -> bool:
    """Have this process keep memory that it frees, until it ends.

    Call it before the first computation: threads that have begun to allocate keep their ways with blocks beyond 64 MiB.
    The process then holds as much memory as it needed at its peak. The ``hiergal`` command does so.

    Returns:
        Whether the C library could be told; those that are not GNU's cannot.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no such function; Windows has no such library
        return False
    # One heap for all threads, that grows in large steps, never shrinks, and holds blocks of every size.
    options = ((ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, STEP_BYTES))
    return all([mallopt(option, value) == 1 for option, value in options])


def give_back_freed_memory() -> None:
    """Return to the system what this process has freed so far, where the C library is GNU's."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return
