"""Manners of command and package: exit codes, messages, logs that grow, objects that print in a few lines."""

import importlib
import inspect
import logging
import os
import pkgutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import awkward_psf
from toys import bare_posterior, tiny_model, tiny_survey

import hiergal
from hiergal.cli import app as cli
from hiergal.model.flow.density import FlowFit
from hiergal.observation import Observation
from hiergal.reports.page import Finding, verdict_lines
from hiergal.runtime import progress
from hiergal.runtime.exits import exit_code_of
from hiergal.runtime.log import LOGGER, log_to_stderr
from hiergal.runtime.progress import Interrupted, Stopped, interruptions, progress_bar
from hiergal.runtime.pytree import Record, brief
from hiergal.training.svi import Fit

LINES = 30


def run_main(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["hiergal", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("expected a seed, got \x1b[31mred"), 2, "expected a seed, got  [31mred"),
        (TypeError("expected columns"), 2, "expected columns"),
        (FileExistsError("expected a free name"), 2, "expected a free name"),
        (FileNotFoundError("no such file"), 2, "no such file"),
        (BlockingIOError(11, "expected no one else at work"), 3, "no one else at work"),
        (OSError(28, "No space left on device"), 3, "No space left"),
        (FloatingPointError("the bound became nan"), 3, "the bound became nan"),
        (ModuleNotFoundError("expected matplotlib"), 3, "expected matplotlib"),
        (MemoryError(), 3, "expected more memory than there is"),
        (
            RuntimeError("boom\nin two lines"),
            3,
            "unexpected RuntimeError: boom in two lines; this is a fault of hiergal",
        ),
        (Stopped("stopped at step 3"), 130, "stopped at step 3"),
        (Interrupted(), 130, "stopped; the same command continues"),
    ],
)
def test_errors_are_one_message_and_an_exit_code(monkeypatch, capsys, error, code, said):
    def fail(**options):
        raise error

    monkeypatch.setattr("hiergal.survey.mock.survey.write_mock_survey", lambda *_, **__: fail())
    assert run_main(monkeypatch, "survey", "mock", "--out", "s.zarr") == code
    shown = capsys.readouterr()
    assert said in shown.err and shown.err.startswith("hiergal: ") and "Traceback" not in shown.err
    assert not shown.out and "\x1b" not in shown.err


def test_a_traceback_is_shown_to_those_who_ask(monkeypatch, capsys):
    monkeypatch.setenv("HIERGAL_DEBUG", "1")
    monkeypatch.setattr("hiergal.survey.mock.survey.write_mock_survey", lambda *_, **__: 1 / 0)
    assert run_main(monkeypatch, "survey", "mock", "--out", "s.zarr") == 3
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("survey", "mock", "--out", "s.zarr", "--seed", str(2**64)),
        ("survey", "mock", "--out", "s.zarr", "--seed", "-1"),
        ("survey", "mock", "--out", "s.zarr", "--galaxies", "0"),
        ("train", "s.zarr", "--out", "r", "--steps", "nan"),
        ("no-such-verb",),
        ("train",),
    ],
)
def test_wrong_use_is_two(monkeypatch, capsys, tmp_path, words):
    monkeypatch.chdir(tmp_path)
    assert run_main(monkeypatch, *words) == 2
    assert "Traceback" not in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_manual_tells_the_rules(monkeypatch, capsys):
    assert run_main(monkeypatch, "-h") == 0
    manual = " ".join(capsys.readouterr().out.split())
    assert "Exit codes: 0 done, 1 a test failed, 2 wrong use, 3 could not run, 130 stopped" in manual
    assert "never touched" in manual
    assert run_main(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"hiergal {hiergal.__version__}\n"


def test_codes_of_errors():
    assert [exit_code_of(e) for e in (ValueError(), OSError(), PermissionError(), KeyError())] == [2, 3, 3, 3]


# Progress


def test_lines_without_a_terminal(monkeypatch, caplog):
    """At the start, with each note, after some time, at the end: with counts, and a rate."""
    now = iter(np.arange(0.0, 1000.0, 10.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    with caplog.at_level(logging.INFO, "hiergal"), progress_bar("training", 1000) as advance:
        for _ in range(20):
            advance(50, note=None)
        advance(0, note="ELBO 3")
    lines = [record.message for record in caplog.records]
    assert lines[0] == "training begins, 1,000 in all"
    assert any("of 1,000, " in line and "per second" in line for line in lines[1:-2])
    assert lines[-2].endswith("; ELBO 3") and "done in" in lines[-1] and 5 <= len(lines) <= 12


def test_lines_come_once_whoever_configures_logging(capsys, monkeypatch):
    """Libraries that training needs give the root logger a handler of its own."""
    log_to_stderr()
    root = logging.StreamHandler(sys.stderr)
    monkeypatch.setattr(logging.getLogger(), "handlers", [root])
    LOGGER.info("step 3")
    assert capsys.readouterr().err.count("step 3") == 1


def test_nothing_is_shown_unasked(caplog, capsys, monkeypatch):
    with caplog.at_level(logging.INFO, "hiergal"), progress_bar("training", 3, shown=False) as advance:
        advance(3)
    monkeypatch.setattr(logging.getLogger("hiergal"), "level", logging.WARNING)  # --quiet
    with progress_bar("training", 3) as advance:
        advance(3, note="note")
    assert not caplog.records and capsys.readouterr() == ("", "")


LONG = """
import time
from hiergal.runtime.progress import progress_bar
from hiergal.runtime.log import log_to_stderr
from hiergal.runtime import progress
progress.LINE_SECONDS = 0.2
log_to_stderr(quiet={quiet})
with progress_bar("training", 20) as advance:
    for _ in range(20):
        time.sleep(0.1)
        advance(1)
"""


@pytest.mark.parametrize("quiet", [False, True])
def test_a_log_grows_while_the_work_goes_on(tmp_path, quiet):
    with (tmp_path / "log").open("wb") as log:
        run = subprocess.Popen([sys.executable, "-c", LONG.format(quiet=quiet)], stdout=log, stderr=log)
        sizes = set()
        while run.poll() is None:
            sizes.add((tmp_path / "log").stat().st_size)
            time.sleep(0.05)
    assert run.returncode == 0
    text = (tmp_path / "log").read_text()
    assert not text if quiet else len(sizes) > 4 and "training: 20 of 20" in text


def test_signals_interrupt_and_handlers_come_back():
    before = signal.getsignal(signal.SIGINT)
    for number in (signal.SIGINT, signal.SIGTERM):
        with pytest.raises(Interrupted), interruptions():
            os.kill(os.getpid(), number)
            time.sleep(5)
    assert signal.getsignal(signal.SIGINT) is before


# What failed stands first


def test_what_failed_stands_first():
    findings = [
        Finding("chi-square", "1.00", "0.97 to 1.05", True),
        Finding("intervals of g1 hold", "43 ± 2 %", "60 to 76 %", False, "Widen them."),
        Finding("intervals of g2 hold", "45 ± 2 %", "60 to 76 %", False, "Widen them."),
        Finding("galaxies", "400"),
    ]
    assert verdict_lines(findings) == [
        "2 of 3 numbers with a goal do not meet it:",
        "NOT MET: intervals of g1 hold 43 ± 2 % (goal: 60 to 76 %).",
        "NOT MET: intervals of g2 hold 45 ± 2 % (goal: 60 to 76 %). Widen them.",
    ]
    assert verdict_lines(findings[:1]) == ["All 1 numbers with a goal meet it."]
    assert verdict_lines(findings[3:]) == []


# Printing


@pytest.fixture(scope="module")
def objects():
    model, galaxies = tiny_model(), tiny_survey(3, (16, 24), awkward_psf(3))
    posterior = bare_posterior(np.zeros((4, 3, 8)), galaxies)
    fit = Fit(model.params, tuple(range(1000)))
    objects = [model, galaxies, posterior, posterior.summary, galaxies.psf, galaxies.noise, model.recipe]
    return [
        *objects,
        model.provenance,
        model.flow,
        fit,
        FlowFit(model.flow, (1.0,) * 500),
        model.replace(flow=None),
    ]


def test_objects_print_in_a_few_lines(objects):
    for one in objects:
        for text in (repr(one), str(one)):
            assert len(text.splitlines()) <= LINES and len(text) < 3000, type(one)
            assert not isinstance(one, Record) or len(text.splitlines()) == 1, type(one)


def test_records_are_equal_to_themselves_alone(objects):
    for one in (one for one in objects if isinstance(one, Record)):
        assert one == one and one != one.replace() and len({one, one.replace()}) == 2
    assert "image=float32[3, 16, 24]" in repr(objects[1])


def test_every_record_prints_so():
    """No record or named tuple of arrays has the representation that Python gives it."""
    found = 0
    for module in pkgutil.walk_packages(hiergal.__path__, "hiergal."):
        for _, cls in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(cls, Record):
                assert cls.__repr__ in (Record.__repr__, vars(cls).get("__repr__")), cls
                assert "__eq__" not in vars(cls), cls
                found += 1
    assert found > 10


def test_records_print_under_compilation():
    import jax

    seen = []

    @jax.jit
    def look(galaxies: Observation):
        seen.append(repr(galaxies))
        return galaxies.image.sum()

    look(tiny_survey(2, (16, 24), awkward_psf(2)))
    assert "image=float32[2, 16, 24]" in seen[0]
    assert brief({"a" * 200: 1, "b": (1,) * 50}).startswith("dict of 2")
