"""Memory that was freed stays with a process that asks for it."""

import subprocess
import sys

import pytest

FILL = """
import resource, sys
import numpy as np
from hiergal.runtime.host_memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    before = faults()
    np.ones(2**25)  # 256 MiB
print(kept, faults() - before)
"""


def run(way):
    done = subprocess.run([sys.executable, "-c", FILL, way], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="asks the C library of Linux")
def test_pages_are_not_cleared_again():
    kept, faults = run("keep")
    if kept == "False":
        pytest.skip("not the GNU C library")
    assert int(faults) < 100
    assert int(run("give back")[1]) > 100


def test_other_c_libraries_are_left_alone(monkeypatch):
    import ctypes

    from hiergal.runtime.host_memory import keep_freed_memory

    class Library:
        def __init__(self, name):
            pass

    monkeypatch.setattr(ctypes, "CDLL", Library)
    assert keep_freed_memory() is False
