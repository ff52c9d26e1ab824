"""Training that goes on from a trained model."""

import jax
import msgspec
import numpy as np
import pytest
from toys import tiny_recipe

from hiergal.hub.bundle import load_model
from hiergal.survey.mock.survey import write_mock_survey
from hiergal.survey.store import open_survey
from hiergal.training.train import train


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A small mock survey."""
    path = tmp_path_factory.mktemp("survey") / "survey.zarr"
    return write_mock_survey(path, 60, seed=1, stamp=32, workers=1, progress=False)


@pytest.fixture(scope="module")
def first(store, tmp_path_factory):
    """A training of its own."""
    recipe = tiny_recipe((32, 32), steps=4, batch=8, evaluate_every=2, ema_decay=0.0)
    return train(store, recipe, out=tmp_path_factory.mktemp("first") / "run", seed=1, progress=False)


def still(model):
    """The recipe of a model, with steps that hardly change anything, and without the flux scale."""
    recipe = model.recipe
    training = msgspec.structs.replace(recipe.training, steps=1, learning_rate=1e-12)
    generator = msgspec.structs.replace(recipe.generator, log_flux_mean=None, log_flux_spread=None)
    return msgspec.structs.replace(recipe, training=training, generator=generator)


def test_training_begins_with_the_weights_of_the_model(store, first, tmp_path):
    again = train(store, still(first), out=tmp_path / "run", seed=2, start=first, progress=False)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), again.params, first.params)
    assert again.recipe.generator == first.recipe.generator, "the flux scale is that of the model"
    other = train(store, still(first), out=tmp_path / "other", seed=2, progress=False)
    leaves = zip(jax.tree.leaves(other.params), jax.tree.leaves(first.params), strict=True)
    assert max(np.abs(a - b).max() for a, b in leaves) > 1e-3


def test_a_start_is_a_part_of_the_run(store, first, tmp_path):
    """The same command finds its result; without the start it is another run, and refused."""
    out = tmp_path / "run"
    train(store, still(first), out=out, seed=2, start=first, progress=False)
    made = (out / "model").stat().st_mtime_ns
    train(store, still(first), out=out, seed=2, start=first, progress=False)
    assert (out / "model").stat().st_mtime_ns == made
    with pytest.raises(FileExistsError):
        train(store, still(first), out=out, seed=2, progress=False)
    assert load_model(out / "model").recipe.generator == first.recipe.generator


def test_other_networks_and_other_fluxes_are_refused(store, first, tmp_path):
    wider = msgspec.structs.replace(first.recipe.generator, channels=8)
    recipe = msgspec.structs.replace(first.recipe, generator=wider)
    with pytest.raises(ValueError, match=r"start: expected a model with the networks of the recipe"):
        train(store, recipe, out=tmp_path / "run", start=first, progress=False)
    provenance = msgspec.structs.replace(first.provenance, magnitude_zero_point=30.0)
    with pytest.raises(ValueError, match=r"start: expected a model of fluxes in .* with zero point"):
        train(
            open_survey(store.path),
            first.recipe,
            out=tmp_path / "run",
            start=first.replace(provenance=provenance),
        )
    assert not (tmp_path / "run" / "model").exists()
