"""A sample of the malformed inputs of :mod:`fuzzing`, and that its judgement can fail."""

import collections
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from fuzzing import CASES, FAULTS, outcomes  # noqa: E402

SAMPLE = range(0, CASES, 20)  # two or three of each door
ACCEPTABLE = {"refused", "same", "faithful", "nameless"}


def assert_no_faults(found):
    assert {one["result"] for one in found} <= ACCEPTABLE | set(FAULTS)
    assert [one for one in found if one["result"] in FAULTS] == []


def test_a_sample_of_malformed_inputs_is_refused_in_words():
    found = list(outcomes(SAMPLE))
    assert_no_faults(found)
    assert len(found) == len(SAMPLE) and len({one["door"] for one in found}) == 19
    counts = collections.Counter(one["result"] for one in found)
    assert counts["refused"] > len(SAMPLE) // 2, counts  # most of what is done to them is no input


@pytest.mark.slow
def test_a_thousand_malformed_inputs():
    found = list(outcomes(range(CASES)))
    assert_no_faults(found)
    assert len(found) == CASES


def test_the_judgement_tells_faults(tmp_path):
    from worker import judged

    class Given:
        faithful = None

        def read(self, path):
            if isinstance(self.gives, Exception):
                raise self.gives
            return self.gives

    def result(gives, faithful=None):
        door = Given()
        door.gives, door.faithful = gives, faithful
        return judged(door, tmp_path / "input", "sound")["result"]

    def unreadable(path, found):
        raise ValueError

    assert result(ValueError("expected this, got that")) == "refused"
    assert result(OSError("input: no")) == "refused"
    assert result(ValueError("sorry")) == "nameless"
    assert result(KeyError("a")) == result(AssertionError()) == result(RecursionError()) == "traceback"
    assert result("sound") == "same"
    assert (
        result("other")
        == result("other", lambda path, found: False)
        == result("other", unreadable)
        == "wrong"
    )
    assert result("other", lambda path, found: True) == "faithful"


@pytest.mark.parametrize(("does", "expected"), [("hang", "hang"), ("memory", "memory"), ("crash", "crash")])
def test_a_process_is_watched(monkeypatch, tmp_path, does, expected):
    import fuzzing

    script = tmp_path / "worker.py"
    script.write_text(
        "import os, sys, time\nprint('{\"ready\": true}', flush=True)\nsys.stdin.readline()\n"
        + {"hang": "time.sleep(60)", "memory": "a = b'1' * 2**28\ntime.sleep(60)", "crash": "os._exit(3)"}[
            does
        ]
    )
    monkeypatch.setattr(fuzzing, "__file__", str(tmp_path / "fuzzing.py"))
    monkeypatch.setattr(fuzzing, "SECONDS", 1.0 if does == "hang" else 20.0)
    monkeypatch.setattr(fuzzing, "BYTES", 2**27)
    assert [one["result"] for one in fuzzing.outcomes([5])] == [expected]
