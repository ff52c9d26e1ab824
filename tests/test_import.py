"""`import hiergal` is light: heavy libraries load where they are used."""

import os
import subprocess
import sys

HEAVY = ("arviz", "corner", "dask", "distributed", "galsim", "h5py", "matplotlib", "zarr")
SECONDS = 0.3
MEASURE = """
import time
import jax, flax, numpyro
start = time.process_time()
import hiergal
print(time.process_time() - start)
"""


def run(code: str) -> str:
    """What a fresh interpreter prints, without this one's coverage and import hook."""
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_import_loads_no_heavy_library():
    loaded = run("import sys, hiergal; print(*sys.modules)").split()
    assert "hiergal" in loaded
    assert not set(HEAVY) & set(loaded)


def test_import_takes_little_time():
    """Beyond jax, flax and numpyro: processor time, of the fastest of five, as other programs slow every one."""
    assert min(float(run(MEASURE)) for _ in range(5)) < SECONDS
