"""Seeds: one range for every command and function, one line for what is out of it."""

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from hiergal.cli.app import app
from hiergal.runtime.seeds import SEEDS, as_key, check_seed, key_for
from hiergal.simulate.catalog import sample_catalog
from hiergal.survey.mock.population import draw_population

BAD = [-1, SEEDS, 2**63, 2**64, -(2**70)]
COMMANDS = {
    "survey mock": ["survey", "mock", "s.zarr"],
    "survey cosmos": ["survey", "cosmos", "s.zarr"],
    "survey degrade": ["survey", "degrade", "s.zarr", "t.zarr"],
    "train": ["train", "s.zarr", "--out", "run"],
    "fit-prior": ["fit-prior", "s.zarr", "--model", "model"],
    "fit-posterior-flow": ["fit-posterior-flow", "s.zarr", "--model", "model"],
    "infer": ["infer", "s.zarr", "--model", "model", "--out", "t.fits"],
    "sample": ["sample", "c.fits", "--model", "hub:mock-acs", "--out", "g.fits"],
    "validate": ["validate", "--survey", "s.zarr", "--model", "model"],
    "quickstart": ["quickstart"],
}


@pytest.mark.parametrize("seed", BAD)
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_refuse_seeds_out_of_range(command, seed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*COMMANDS[command], f"--seed={seed}"])
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit)
    assert "'--seed'" in done.output and "Traceback" not in done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", BAD)
def test_functions_refuse_them(seed):
    for call in (
        check_seed,
        as_key,
        lambda seed: key_for(seed, 1),
        lambda seed: draw_population(3, seed=seed),
        lambda seed: sample_catalog("hub:mock-acs", None, "g.fits", seed=seed),
    ):
        with pytest.raises(ValueError, match="seed: expected an integer from 0 to 4294967295, got"):
            call(seed)


@pytest.mark.parametrize("seed", [1.5, "7", None, [1]])
def test_only_integers_are_seeds(seed):
    with pytest.raises(TypeError, match="seed: expected an integer"):
        check_seed(seed)


def test_seeds_of_any_integer_type_are_the_same():
    assert check_seed(np.int64(7)) == check_seed(np.uint8(7)) == 7
    for one in (as_key(np.int32(7)), as_key(7), as_key(jax.random.key(7))):
        np.testing.assert_array_equal(jax.random.key_data(one), jax.random.key_data(jax.random.key(7)))
    with pytest.raises(TypeError, match="key: expected a key, such as jax.random.key"):
        as_key("seven")
