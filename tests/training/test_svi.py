"""Training: it learns, it repeats, and an interrupted run ends where an uninterrupted one does."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import awkward_psf
from places import ROOT, TESTS
from toys import tiny_recipe, tiny_survey

from hiergal.runtime.progress import Stopped
from hiergal.training.history import read_history
from hiergal.training.svi import fit

PATHS = [str(Path(__file__).parent), str(TESTS)]  # what other processes import from

SHAPE, N = (16, 24), 64
RECIPE = tiny_recipe(SHAPE, learning_rate=5e-3)
SCRIPT = """
import sys
import jax
from test_svi import RECIPE, survey
from hiergal.training.svi import fit
fit(jax.random.key(4), RECIPE, *survey(), folder=sys.argv[1], progress=False)
"""


def survey():
    galaxies = tiny_survey(N + 16, SHAPE, awkward_psf(N + 16))
    return galaxies[:N], galaxies[N:]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    return fit(jax.random.key(4), RECIPE, *survey(), folder=folder, progress=False), folder


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    assert [row._replace(seconds=0) for row in found.history] == [
        row._replace(seconds=0) for row in expected.history
    ]


def assert_resumes(folder: Path, expected) -> None:
    """The next run keeps the evaluations that were done, does the rest, and ends where it should."""
    before = read_history(folder)
    found = fit(jax.random.key(4), RECIPE, *survey(), folder=folder, progress=False)
    assert len(before) > 0 and found.history[: len(before)] == before, "expected the times of the run before"
    assert_same(found, expected)


def wait_for_history(folder: Path, running) -> None:
    """Until the first evaluation is written."""
    while running() and not (folder / "history.jsonl").exists():
        time.sleep(0.005)
    while running() and not (folder / "history.jsonl").read_bytes():
        time.sleep(0.005)


def test_the_bound_rises(whole):
    history = whole[0].history
    assert [row.step for row in history] == [10, 20, 30, 40]
    assert history[-1].elbo > history[0].elbo and history[-1].chi_square < history[0].chi_square
    assert all(np.isfinite(np.hstack(row)).all() for row in history)
    last = history[-1]
    np.testing.assert_allclose(last.elbo, -last.distortion - last.kl, rtol=1e-6)
    np.testing.assert_allclose(sum(last.kl_per_latent), last.kl, rtol=1e-6)
    assert len(last.kl_per_latent) == RECIPE.generator.latents
    assert read_history(whole[1]) == history


def test_the_step_is_compiled_once(tmp_path, caplog):
    """Evaluations and checkpoints in between change nothing that it depends on."""
    recipe = tiny_recipe(SHAPE, steps=6, evaluate_every=2)
    with jax.log_compiles(), caplog.at_level("WARNING", logger="jax"):
        fit(jax.random.key(4), recipe, *survey(), folder=tmp_path, progress=False)
    names = ("jit(step)", "jit(evaluate_some)", "jit(_judge)")
    compiled = [m for m in caplog.messages if m.startswith("Finished tracing") or "XLA compilation" in m]
    for name in names:
        assert sum(f"XLA compilation of {name}" in m for m in compiled) == 1, (name, compiled)


def test_a_finished_run_is_not_repeated(whole):
    again = fit(jax.random.key(4), RECIPE, *survey(), folder=whole[1], progress=False)
    assert_same(again, whole[0])
    assert again.history[0].seconds == whole[0].history[0].seconds


@pytest.mark.slow
def test_same_key_same_result_after_ctrl_c(whole, tmp_path):
    """Stopped where it happened to be, it says so, and the next run ends where the uninterrupted one did."""
    done = threading.Event()

    def interrupt():
        wait_for_history(tmp_path, lambda: not done.is_set())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(Stopped, match=r"stopped at step \d+ of 40; the same command goes on from there"):
            fit(jax.random.key(4), RECIPE, *survey(), folder=tmp_path, progress=False)
    finally:
        done.set()
        thread.join()
    assert_resumes(tmp_path, whole[0])


@pytest.mark.slow
def test_same_result_after_kill(whole, tmp_path):
    paths = os.pathsep.join([*PATHS, str(ROOT)])
    environment = os.environ | {"PYTHONPATH": paths}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], env=environment)
    wait_for_history(tmp_path, lambda: process.poll() is None)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert_same(fit(jax.random.key(4), RECIPE, *survey(), folder=tmp_path, progress=False), whole[0])
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_no_galaxies(tmp_path):
    train, validation = survey()
    with pytest.raises(ValueError, match="got 64 and 0"):
        fit(jax.random.key(0), RECIPE, train, validation[:0], folder=tmp_path, progress=False)


@pytest.mark.slow
def test_a_survey_smaller_than_a_batch(tmp_path):
    train, validation = survey()
    recipe = tiny_recipe(SHAPE, steps=2, batch=16)
    found = fit(jax.random.key(0), recipe, train[:9], validation, folder=tmp_path, progress=False)
    assert np.isfinite(found.history[-1].elbo)


def test_a_batch_has_to_fit_the_devices(tmp_path):
    devices = jax.devices()[:1] * 3
    with pytest.raises(
        ValueError,
        match="3 devices .* 1 parts of training.gradient_accumulation, got 16",
    ):
        fit(jax.random.key(0), RECIPE, *survey(), folder=tmp_path, devices=devices, progress=False)


@pytest.mark.slow
def test_a_galaxy_that_overflows_costs_its_batch_not_the_training(tmp_path):
    train, validation = survey()
    image = train.image.copy()
    image[5, 3, 4] = 1e30  # its square is not a float32
    found = fit(
        jax.random.key(4), RECIPE, train.replace(image=image), validation, folder=tmp_path, progress=False
    )
    bounds = [info.elbo for info in found.history]
    assert np.isfinite([*bounds, *(info.loss for info in found.history)]).all()
    assert bounds[-1] > bounds[0] + 10
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.params))


def test_a_bound_that_is_not_finite(tmp_path):
    train, validation = survey()
    image = validation.image.copy()
    image[0, 3, 4] = np.inf
    with pytest.raises(
        FloatingPointError, match="at step 10: lower training.learning_rate, or check the data"
    ):
        fit(
            jax.random.key(4), RECIPE, train, validation.replace(image=image), folder=tmp_path, progress=False
        )
