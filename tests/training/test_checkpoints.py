"""Checkpoints: what was saved comes back, keys included; those of another run do not."""

from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiergal.training.checkpoints import Checkpoints

RUN = {"recipe": {"name": "toy", "shape": (16, 24)}, "key": [0, 1]}  # a tuple: JSON knows lists alone


def state(value: float):
    return {
        "key": jax.random.key(int(value)),
        "weights": jnp.full((2, 3), value),
        "count": jnp.array(int(value)),
    }


def test_round_trip(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run", RUN)
    assert checkpoints.latest is None
    for step in (10, 20, 30):
        checkpoints.save(step, state(step))
    checkpoints.save(30, state(99.0))  # that step has one already
    checkpoints.close()
    again = Checkpoints(tmp_path / "run", dict(RUN))
    assert again.latest == 30
    found = again.restore(state(0.0))
    np.testing.assert_array_equal(found["weights"], np.full((2, 3), 30.0))
    assert int(found["count"]) == 30 and found["key"] == jax.random.key(30)
    assert not (tmp_path / "run" / "10").exists(), "the oldest should go"


def saved(tmp_path):
    with closing(Checkpoints(tmp_path / "run", RUN)) as checkpoints:
        checkpoints.save(10, state(10.0))


def test_another_run_is_refused(tmp_path):
    saved(tmp_path)
    with pytest.raises(FileExistsError, match="those of one with other key; choose another folder"):
        Checkpoints(tmp_path / "run", RUN | {"key": [0, 2]})
    with closing(Checkpoints(tmp_path / "run", RUN)) as checkpoints:
        assert checkpoints.latest == 10


@pytest.mark.parametrize("fingerprint", ['{"recipe"', "[]", None])
def test_what_nobody_can_identify_is_refused(tmp_path, fingerprint):
    """Checkpoints with a damaged fingerprint, and a folder of somebody's."""
    saved(tmp_path)
    file = tmp_path / "run" / "fingerprint.json"
    file.unlink() if fingerprint is None else file.write_text(fingerprint)
    with pytest.raises(FileExistsError, match="got something else; choose another folder"):
        Checkpoints(tmp_path / "run", RUN)
    assert (tmp_path / "run" / "10").exists()


def test_a_history_without_checkpoints_is_somebody_elses(tmp_path):
    (tmp_path / "history.jsonl").write_text("mine")
    with pytest.raises(FileExistsError, match="expected no such file"):
        Checkpoints(tmp_path / "run", RUN, tmp_path / "history.jsonl")
    assert (tmp_path / "history.jsonl").read_text() == "mine"


def test_one_process_writes_checkpoints(tmp_path):
    with closing(Checkpoints(tmp_path / "run", RUN)), pytest.raises(BlockingIOError, match="process"):
        Checkpoints(tmp_path / "run", RUN)
    saved(tmp_path)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["10", "fingerprint.json"]
