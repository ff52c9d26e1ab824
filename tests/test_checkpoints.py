"""Checkpoints: what was saved comes back, keys included; those of another run do not."""

import jax
import jax.numpy as jnp
import numpy as np

from hiergal.checkpoints import Checkpoints

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


def test_another_run_starts_afresh(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run", RUN)
    checkpoints.save(10, state(10.0))
    checkpoints.close()
    assert Checkpoints(tmp_path / "run", RUN | {"key": [0, 2]}).latest is None
    assert Checkpoints(tmp_path / "run", RUN).latest is None


def test_a_damaged_fingerprint_starts_afresh(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run", RUN)
    checkpoints.save(10, state(10.0))
    checkpoints.close()
    (tmp_path / "run" / "fingerprint.json").write_text('{"recipe"')
    assert Checkpoints(tmp_path / "run", RUN).latest is None
