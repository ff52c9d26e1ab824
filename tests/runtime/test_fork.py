"""Forked workers: an error that names the cure at once, or galaxies; never a wait for ever."""

import subprocess
import sys
import time

import pytest

from hiergal.runtime.fork import check_not_forked, is_fork

START = """
import multiprocessing as mp, sys, warnings
import galsim, numpy as np
import hiergal

warnings.simplefilter("ignore")
CATALOG = {"mag_auto": [22.0, 23.0], "flux_radius": [9.0, 8.0], "zphot": [0.5, 0.6]}
"""

# As BlendingToolKit: a generator whose batches are drawn by a pool of workers.
GENERATOR = (
    START
    + """
class Generator:
    def __init__(self, name, jobs):
        self.model, self.jobs, self.seed = hiergal.GenerativeGalaxyModel(name), jobs, 0
        self.model.sample(CATALOG, rng=galsim.BaseDeviate(1))

    def mini_batch(self, seed):
        return [g.flux for g in self.model.sample(CATALOG, rng=galsim.BaseDeviate(seed))]

    def __next__(self):
        with mp.get_context(sys.argv[2]).Pool(self.jobs) as pool:
            return pool.map(self.mini_batch, range(1, 1 + self.jobs))

if __name__ == "__main__":
    generator = Generator(sys.argv[1], 2)
    import time
    start = time.monotonic()
    try:
        print("galaxies", next(generator))
    except RuntimeError as error:
        print("error", error)
    print("seconds", time.monotonic() - start)
"""
)

DOORS = (
    START
    + """
import os, jax
model = hiergal.load_model(sys.argv[1])
key = jax.random.key(0)
profiles = hiergal.draw_profiles(model, CATALOG, key=key)
doors = {
    "load_model": lambda: hiergal.load_model(sys.argv[1]),
    "GenerativeGalaxyModel": lambda: hiergal.GenerativeGalaxyModel(sys.argv[1]),
    "draw_profiles": lambda: hiergal.draw_profiles(model, CATALOG, key=key),
    "draw_galsim": lambda: hiergal.draw_galsim(model, CATALOG, key=key),
    "infer": lambda: hiergal.infer(model, None, key=key),
    "predict": lambda: hiergal.predict(model, None, None, key=key),
    "jax.random.key": lambda: jax.random.key(1),
    "check_fits": lambda: hiergal.check_fits(model, None, None, key=key),
}
if os.fork() == 0:
    for name, door in doors.items():
        try:
            door()
            print(name, "answered", flush=True)
        except RuntimeError as error:
            print(name, "spawn" in str(error), flush=True)
        except BaseException as error:
            print(name, repr(error), flush=True)
    os._exit(0)
os.wait()
"""
)

# Galaxies, where the parent has used GalSim's threads and not JAX.
LATE = (
    START
    + """
def work(seed):
    model = hiergal.GenerativeGalaxyModel(sys.argv[1])
    return [g.flux for g in model.sample(CATALOG, rng=galsim.BaseDeviate(seed))]

galsim.GaussianDeviate(1).generate(np.empty(100))
with mp.get_context("fork").Pool(2) as pool:
    found = pool.map(work, [1, 2])
assert found == [work(1), work(2)], found
print("same")
"""
)


def run(script, tmp_path, *words, seconds=120):
    path = tmp_path / "script.py"
    path.write_text(script)
    done = subprocess.run(
        [sys.executable, str(path), *map(str, words)], capture_output=True, text=True, timeout=seconds
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_generator_with_forked_workers_is_told_of_spawn_within_seconds(drawing_folder, tmp_path):
    said = run(GENERATOR, tmp_path, drawing_folder, "fork")
    assert 'multiprocessing.get_context("spawn")' in said
    assert float(said.split("seconds")[1]) < 5


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_the_cure_works(drawing_folder, tmp_path, method):
    assert "galaxies [[" in run(GENERATOR, tmp_path, drawing_folder, method)


def test_every_door_answers_in_a_fork(drawing_folder, tmp_path):
    start = time.monotonic()
    said = run(DOORS, tmp_path, drawing_folder).splitlines()
    assert time.monotonic() - start < 60
    assert len(said) == 8 and all(line.endswith(" True") for line in said), said


@pytest.mark.slow
def test_a_fork_that_loads_the_model_itself_draws(drawing_folder, tmp_path):
    assert "same" in run(LATE, tmp_path, drawing_folder)


def test_here_is_no_fork():
    assert not is_fork()
    check_not_forked()
