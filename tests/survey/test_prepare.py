"""Preparing a survey: the same store whatever the number of processes and interruptions, no galaxy lost or doubled."""

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from places import TESTS

from hiergal.observation import Observation
from hiergal.observation.independent import WhiteNoise
from hiergal.observation.psf import PSF
from hiergal.observation.stationary import StationaryNoise
from hiergal.runtime.output import owned
from hiergal.runtime.progress import Stopped
from hiergal.survey import StoreHeader, open_survey, workers, write_store, writer
from hiergal.survey import prepare as prepare_module
from hiergal.survey.prepare import prepare_store

PATHS = [str(Path(__file__).parent), str(TESTS)]  # what other processes import from

HEADER = StoreHeader(
    survey="test", band="F814W", pixel_scale_arcsec=0.03, magnitude_zero_point=25.94, provenance={"seed": 1}
)
SHARD, TASK = 8, 4
TOTAL = 37  # five shards, the last one not full


def draw(first, count, *, noise="white", faulty=None, warn=False, seconds=0.0):
    """Galaxies that differ in everything, of their numbers alone."""
    time.sleep(seconds * count)
    rngs = [np.random.default_rng([7, i]) for i in range(first, first + count)]
    image = np.stack([rng.normal(size=(6, 9)) for rng in rngs])
    psf = np.stack([rng.uniform(size=(3, 5)) for rng in rngs])
    level = np.array([rng.uniform(1, 2) for rng in rngs])
    if faulty is not None and first <= faulty < first + count:
        image[faulty - first, 0, 0] = np.nan
    if warn and first == 0:
        warnings.warn("a draw that warns", UserWarning, stacklevel=1)
    identifier = np.arange(first, first + count)
    observation = Observation(
        image.astype(np.float32),
        PSF((psf / psf.sum((1, 2), keepdims=True)).astype(np.float32), pixel_scale_arcsec=0.03),
        WhiteNoise(level)
        if noise == "white"
        else StationaryNoise(level[:, None, None] * np.ones((6, 5)), width=9),
        None,
        {"mag_auto": 20 + level, "zphot": level / 3},
        identifier,
        0.03,
    )
    return observation, np.abs(image).astype(np.float32)


def wrong_count(first, count):
    return draw(first, count - 1)


def contents(path: Path) -> dict[str, bytes]:
    """All files; of the root, what it says but for the mark of the run, and so of the list of files."""
    files = {
        str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()
    }
    root, listed = json.loads(files["zarr.json"]), json.loads(files["manifest.json"])["files"]
    for name in ("hiergal_kind", "hiergal_run"):
        root["attributes"].pop(name, None)
    del listed["zarr.json"]
    return files | {"zarr.json": json.dumps(root).encode(), "manifest.json": json.dumps(listed).encode()}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Shards and tasks of few galaxies: tests are quick, and have many of them."""
    monkeypatch.setattr(writer, "SHARD_GALAXIES", SHARD)
    for module in (workers, prepare_module):
        monkeypatch.setattr(module, "TASK_GALAXIES", TASK)


@pytest.fixture
def expected(tmp_path):
    """The store as it comes out in one go."""
    batches = [draw(first, min(5, TOTAL - first)) for first in range(0, TOTAL, 5)]
    return contents(write_store(tmp_path / "expected.zarr", HEADER, batches).path)


def assert_whole(path: Path, expected: dict[str, bytes]):
    assert contents(path) == expected
    assert open_survey(path).identifier.tolist() == list(range(TOTAL))
    assert not parts_of(path).exists()


def parts_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.hiergal")


# The same store


@pytest.mark.parametrize("noise", ["white", "stationary"])
def test_the_store_is_that_of_write_store(tmp_path, noise):
    made = functools.partial(draw, noise=noise)
    one = write_store(tmp_path / "one.zarr", HEADER, [made(0, TOTAL)])
    other = prepare_store(tmp_path / "other.zarr", HEADER, made, TOTAL, workers=1)
    assert contents(one.path) == contents(other.path)
    assert sorted(os.listdir(tmp_path)) == ["one.zarr", "other.zarr"]


def test_processes_change_nothing(tmp_path, expected, capfd, caplog):
    with caplog.at_level("INFO", "hiergal"):
        prepare_store(tmp_path / "s.zarr", HEADER, draw, TOTAL, workers=2, progress=True)
    assert_whole(tmp_path / "s.zarr", expected)
    assert f"writing s.zarr: {TOTAL} of {TOTAL}" in caplog.text and not capfd.readouterr().out


def test_any_executor_draws(tmp_path, expected):
    with ThreadPoolExecutor(3) as executor:
        prepare_store(tmp_path / "s.zarr", HEADER, draw, TOTAL, workers=executor)
    assert_whole(tmp_path / "s.zarr", expected)


def test_warnings_of_workers_are_given_here(tmp_path):
    with ThreadPoolExecutor(1) as executor, pytest.warns(UserWarning, match="a draw that warns"):
        prepare_store(tmp_path / "s.zarr", HEADER, functools.partial(draw, warn=True), 9, workers=executor)


def test_number_of_workers():
    assert workers.choose_workers(8, 2 * TASK) == 2
    assert workers.choose_workers(None, 100) == 1
    with pytest.raises(ValueError, match="expected at least 1 process, got 0"):
        workers.choose_workers(0, 10)


# Interruptions


def stop_at(monkeypatch, galaxy):
    """Ask for a stop, as Ctrl-C does, when a galaxy is drawn."""

    def stopping(first, count):
        if first <= galaxy < first + count:
            os.kill(os.getpid(), signal.SIGINT)
        return draw(first, count)

    monkeypatch.setattr(sys.modules[__name__], "current_draw", stopping)


def current_draw(first, count):
    return draw(first, count)


def drawn_now(first, count):
    """The same name for every draw of a test, so that its plan stays the same."""
    return current_draw(first, count)


def test_stopped_in_each_shard(tmp_path, expected, monkeypatch):
    path = tmp_path / "s.zarr"
    for galaxy in range(2, TOTAL - SHARD, SHARD):
        stop_at(monkeypatch, galaxy)
        with pytest.raises(
            Stopped, match=f"galaxy {galaxy + SHARD - 2} of {TOTAL}; the same command goes on"
        ):
            prepare_store(path, HEADER, drawn_now, TOTAL, workers=1)
        assert not path.exists()
        with pytest.raises(FileNotFoundError, match="run its command again"):
            open_survey(path)
    calls = []
    monkeypatch.setattr(
        sys.modules[__name__], "current_draw", lambda *task: calls.append(task) or draw(*task)
    )
    prepare_store(path, HEADER, drawn_now, TOTAL, workers=1)
    assert calls == [(32, 4), (36, 1)]
    assert_whole(path, expected)


def broken(path, monkeypatch, galaxy):
    """Break off when a galaxy is drawn, as a full disk would."""

    def breaking(first, count):
        if first <= galaxy < first + count:
            raise OSError("no space left")
        return draw(first, count)

    monkeypatch.setattr(sys.modules[__name__], "current_draw", breaking)
    with pytest.raises(OSError, match="no space left"):
        prepare_store(path, HEADER, drawn_now, TOTAL, workers=1)
    monkeypatch.setattr(sys.modules[__name__], "current_draw", draw)
    return parts_of(path)


def test_loose_ends_do_no_harm(tmp_path, expected, monkeypatch):
    """Shards beyond the journal, half a shard, what Zarr and the journal had not renamed yet."""
    path = tmp_path / "s.zarr"
    partial = broken(path, monkeypatch, 20)
    assert sorted(f.name for f in (partial / "journal").iterdir()) == ["000000000000.npz", "000000000008.npz"]
    whole = (partial / "result.zarr/image/c/1/0/0").read_bytes()
    for shard, content in (("2", whole[: len(whole) // 2]), ("3", b""), ("4", whole)):
        file = partial / "result.zarr/image/c" / shard / "0/0"
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
    (partial / "result.zarr/truth/c/2/0").mkdir(parents=True)
    (partial / "result.zarr/truth/c/2/0/0.0123.partial").write_bytes(b"half")
    (partial / "result.zarr/zarr.0123.partial").write_bytes(b"{")
    (partial / "result.zarr/identifier/c").mkdir()
    (partial / "result.zarr/identifier/c/0").write_bytes(b"half")
    (partial / f"journal/.000000000016.npz.{'0' * 12}.hiergal-new").write_bytes(b"half")
    prepare_store(path, HEADER, drawn_now, TOTAL, workers=1)
    assert_whole(path, expected)


@pytest.mark.parametrize("name", ["journal/000000000008.npz", "run.json"])
def test_a_damaged_journal_is_not_believed(tmp_path, expected, monkeypatch, name):
    path = tmp_path / "s.zarr"
    file = broken(path, monkeypatch, 30) / name
    file.write_bytes(file.read_bytes()[:-9])
    prepare_store(path, HEADER, drawn_now, TOTAL, workers=1)
    assert_whole(path, expected)


@pytest.mark.parametrize("step", ["hiergal.runtime.output.place", "hiergal.survey.prepare.open_survey"])
def test_broken_off_at_the_end(tmp_path, expected, monkeypatch, step):
    path = tmp_path / "s.zarr"
    with monkeypatch.context() as patched:
        patched.setattr(step, lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare_store(path, HEADER, draw, TOTAL, workers=1)
    if step.endswith("place"):
        prepare_store(path, HEADER, draw, TOTAL, workers=1)
    assert_whole(path, expected)


def test_killed_when_all_was_done(tmp_path, expected, monkeypatch):
    path = tmp_path / "s.zarr"
    with monkeypatch.context() as patched:
        patched.setattr("hiergal.runtime.output.clear", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare_store(path, HEADER, draw, TOTAL, workers=1)
    assert parts_of(path).exists()
    prepare_store(path, HEADER, current_draw, TOTAL, workers=1, overwrite=True)
    assert_whole(path, expected)


def test_a_finished_survey_is_recognised(tmp_path, expected, monkeypatch):
    path = tmp_path / "s.zarr"
    prepare_store(path, HEADER, drawn_now, TOTAL, workers=1)
    monkeypatch.setattr(sys.modules[__name__], "current_draw", lambda *_: pytest.fail("drawn again"))
    prepare_store(path, HEADER, drawn_now, TOTAL, workers=1)
    assert_whole(path, expected)


@pytest.mark.parametrize("change", ["header", "total", "draw", "write_store"])
def test_another_plan_is_refused_and_replaces_if_asked(tmp_path, monkeypatch, change):
    path = tmp_path / "s.zarr"
    broken(path, monkeypatch, 30)
    header = (
        HEADER
        if change != "header"
        else StoreHeader(survey="other", band="F814W", pixel_scale_arcsec=0.03, magnitude_zero_point=25.94)
    )
    total = TOTAL if change != "total" else 21
    made = drawn_now if change != "draw" else functools.partial(draw, noise="stationary")

    def write(overwrite):
        if change == "write_store":
            return write_store(path, header, [made(0, total)], overwrite=overwrite)
        return prepare_store(path, header, made, total, workers=1, overwrite=overwrite)

    with pytest.raises(FileExistsError, match="expected no unfinished run.*--overwrite"):
        write(overwrite=False)
    store = write(overwrite=True)
    reference = write_store(tmp_path / "r.zarr", header, [made(0, total)])
    assert contents(store.path) == contents(reference.path)
    assert sorted(os.listdir(tmp_path)) == ["r.zarr", "s.zarr"]


def test_the_old_store_stays_until_the_new_one_is_whole(tmp_path, expected, monkeypatch):
    path = tmp_path / "s.zarr"
    write_store(path, HEADER, [draw(0, 3)])
    with pytest.raises(FileExistsError, match="a finished survey of another run"):
        prepare_store(path, HEADER, draw, TOTAL, workers=1)
    stop_at(monkeypatch, 20)
    with pytest.raises(Stopped):
        prepare_store(path, HEADER, drawn_now, TOTAL, workers=1, overwrite=True)
    assert len(open_survey(path)) == 3
    monkeypatch.setattr(sys.modules[__name__], "current_draw", draw)
    prepare_store(path, HEADER, drawn_now, TOTAL, workers=1, overwrite=True)
    assert_whole(path, expected)


# Faults


@pytest.mark.parametrize("threads", [0, 2])
def test_faulty_galaxies_keep_the_shards_before_them(tmp_path, threads):
    path = tmp_path / "s.zarr"
    with (
        pytest.raises(ValueError, match="image: expected finite pixels.*first: 30"),
        ThreadPoolExecutor(threads) if threads else contextlib.nullcontext(1) as executor,
    ):
        prepare_store(path, HEADER, functools.partial(draw, faulty=30), TOTAL, workers=executor)
    journal = parts_of(path) / "journal"
    assert [int(file.stem) for file in sorted(journal.iterdir())] == [0, 8, 16]


def test_faults_from_the_start_leave_nothing(tmp_path):
    for made, words in (
        (functools.partial(draw, faulty=1), "mask those pixels"),
        (wrong_count, "expected 4 galaxies"),
    ):
        with pytest.raises(ValueError, match=words):
            prepare_store(tmp_path / "s.zarr", HEADER, made, TOTAL, workers=1)
    with pytest.raises(ValueError, match="at least one galaxy to write, got 0"):
        prepare_store(tmp_path / "s.zarr", HEADER, draw, 0)
    assert os.listdir(tmp_path) == []


def test_two_runs_do_not_meet(tmp_path, expected):
    path = tmp_path / "s.zarr"
    with owned(path, "survey", run={"another": "run"}):
        with pytest.raises(BlockingIOError, match="got process"):
            prepare_store(path, HEADER, draw, TOTAL, workers=1)
    prepare_store(path, HEADER, draw, TOTAL, workers=1)
    assert_whole(path, expected)


# Real processes and real signals

COMMAND = """
import functools, sys
sys.path[:0] = {tests!r}
from hiergal.survey import prepare, workers, writer
writer.SHARD_GALAXIES, prepare.TASK_GALAXIES, workers.TASK_GALAXIES = {shard}, {task}, {task}
import test_prepare
from hiergal.runtime.progress import Stopped
print("ready", flush=True)
draw = functools.partial(test_prepare.draw, seconds={seconds})
try:
    prepare.prepare_store({path!r}, test_prepare.HEADER, draw, {total}, workers={workers})
except Stopped as stop:
    print(stop, file=sys.stderr)
    sys.exit(130)
"""


def start(path: Path, *, workers: int, seconds: float) -> subprocess.Popen:
    """Run a script without the guard that other process pools need, in a process group of its own."""
    code = COMMAND.format(
        tests=PATHS, path=str(path), shard=SHARD, task=TASK, total=TOTAL,
        workers=workers, seconds=seconds,
    )  # fmt: skip
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert run.stdout.readline() == "ready\n", run.stderr.read()
    return run


def wait_for_shards(path: Path, count: int, run: subprocess.Popen):
    journal = parts_of(path) / "journal"
    while run.poll() is None and len(list(journal.glob("*.npz"))) < count:
        time.sleep(0.002)


def test_ctrl_c_reaches_all_processes_and_the_next_run_completes(tmp_path, expected):
    path = tmp_path / "s.zarr"
    run = start(path, workers=2, seconds=0.03)
    wait_for_shards(path, 1, run)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130, errors
    assert errors.startswith("stopped at galaxy ") and len(errors.splitlines()) == 1
    partial = parts_of(path)
    assert 1 <= len(list((partial / "journal").iterdir())) < 5
    prepare_store(path, HEADER, functools.partial(draw, seconds=0.03), TOTAL, workers=1)
    assert_whole(path, expected)


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tmp_path, expected):
    path = tmp_path / "s.zarr"
    run = start(path, workers=2, seconds=0.03)
    wait_for_shards(path, 1, run)
    run.kill()
    run.communicate(timeout=60)
    with pytest.raises(ProcessLookupError):
        for _ in range(1000):
            os.killpg(run.pid, 0)
            time.sleep(0.01)
    prepare_store(path, HEADER, functools.partial(draw, seconds=0.03), TOTAL, workers=1)
    assert_whole(path, expected)


KILLS = """
import functools, os, random, signal, sys, time
sys.path[:0] = {tests!r}
from hiergal.survey import prepare, workers, writer
writer.SHARD_GALAXIES, prepare.TASK_GALAXIES, workers.TASK_GALAXIES = {shard}, {task}, {task}
import test_prepare, zarr
random.seed(5)
kills = 0
while not os.path.exists({path!r}):
    child = os.fork()  # of a process that has imported everything
    if child == 0:
        prepare.prepare_store({path!r}, test_prepare.HEADER, test_prepare.draw, {total}, workers=1)
        os._exit(0)
    time.sleep(random.uniform(0, 0.02 * 1.1**kills))  # several kills on a fast machine, an end on a slow one
    os.kill(child, signal.SIGKILL)
    kills += os.waitpid(child, 0)[1] != 0
print(kills)
"""


def test_killed_at_any_moment(tmp_path, expected):
    path = tmp_path / "s.zarr"
    code = KILLS.format(tests=PATHS, path=str(path), shard=SHARD, task=TASK, total=TOTAL)
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 5 and not run.stderr
    shutil.rmtree(parts_of(path), ignore_errors=True)  # if the last kill came before its removal
    assert_whole(path, expected)
