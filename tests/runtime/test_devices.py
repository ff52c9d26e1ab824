"""One, two and four devices, one process or two: the same losses. Killed anywhere: the same parameters, to the bit."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from places import TESTS
from training_job import write_survey

from hiergal.training.history import read_history


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("survey") / "tiny.zarr"
    write_survey(path)
    return path


def start(folder: Path, store: Path, *words, devices: int = 1, environment: dict | None = None):
    folder.mkdir(exist_ok=True)
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    command = [sys.executable, str(TESTS / "training_job.py"), str(folder), str(store), *map(str, words)]
    variables = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": paths} | (environment or {})
    # Not a pipe: XLA says enough about each program that it finds in the cache to fill one that nobody reads.
    with open(folder.parent / f"{folder.name}-{time.monotonic_ns()}.log", "w") as log:
        process = subprocess.Popen(command, env=variables, stderr=log)
    process.log = Path(log.name)
    return process


def finish(*processes):
    for process in processes:
        assert process.wait(timeout=300) == 0, process.log.read_text()[-3000:]


def losses(folder: Path) -> np.ndarray:
    return np.array([(row.loss, row.elbo, row.chi_square) for row in read_history(folder)])


@pytest.fixture(scope="module")
def on_one_device(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    finish(start(folder, store, "tiny", 1, 50, 1))
    return losses(folder)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_many_devices_give_the_same_losses(on_one_device, store, tmp_path, devices):
    finish(start(tmp_path, store, "tiny", devices, 50, 1, devices=devices))
    assert on_one_device.shape == (50, 3)
    np.testing.assert_allclose(losses(tmp_path), on_one_device, rtol=1e-5)


@pytest.mark.slow
def test_two_processes_give_the_same_losses(on_one_device, store, tmp_path):
    """Joined as SLURM would have it: each reads its half of a batch, and the first alone writes."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    slurm = {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "JAX_COORDINATOR_PORT": str(port),
    }
    processes = [
        start(
            tmp_path,
            store,
            *("tiny", 2, 50, 1, "join"),
            environment=slurm | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)},
        )
        for i in range(2)
    ]
    finish(*processes)
    np.testing.assert_allclose(losses(tmp_path), on_one_device, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "devices"), [("tiny", 1), ("tiny", 4), ("lanusse2020", 4), ("parts", 1)])
def test_killed_at_any_step_it_ends_with_the_same_bits(store, tmp_path, kind, devices):
    """Three kills, at moments that a generator draws, then the rest; parameters, optimiser and order go on."""
    words = (kind, devices, 60, 5)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(whole, store, *words, devices=devices))
    rng = np.random.default_rng(devices)
    for evaluations in (2, 5, 8):
        process = start(killed, store, *words, devices=devices)
        while process.poll() is None and len(read_history(killed)) < evaluations:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.wait()
    finish(start(killed, store, *words, devices=devices))
    with np.load(whole / "params.npz") as expected, np.load(killed / "params.npz") as found:
        assert set(expected) == set(found)
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    np.testing.assert_array_equal(losses(killed), losses(whole))
