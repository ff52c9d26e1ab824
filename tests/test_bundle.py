"""Bundles: bit for bit what was saved, or an error that says what is wrong."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from toys import tiny_model, tiny_recipe

from hiergal.hub import load_model, save_model
from hiergal.hub.bundle import _sha256


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model = tiny_model(tiny_recipe((16, 24)))
    folder = tmp_path_factory.mktemp("bundle") / "toy"
    save_model(model, folder)
    return model, folder


@pytest.fixture
def bundle(saved, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(saved[1], tmp_path / "toy")


def rewrite(folder, change):
    """Change model.json."""
    path = folder / "model.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def rewrite_weights(folder, change):
    """Change the arrays, with a checksum that is right."""
    arrays = load_file(folder / "weights.safetensors")
    change(arrays)
    save_file(arrays, folder / "weights.safetensors")
    rewrite(folder, lambda content: content.update(weights_sha256=_sha256(folder / "weights.safetensors")))


def flip_a_byte(folder):
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def truncate(folder):
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def not_safetensors(folder):
    (folder / "weights.safetensors").write_bytes(b"nothing of the kind")
    rewrite(folder, lambda content: content.update(weights_sha256=_sha256(folder / "weights.safetensors")))


FIRST = "params/generator$params/ellipse/bias"
DAMAGE = [
    (
        flip_a_byte,
        ValueError,
        "weights.safetensors: its SHA-256 is not the recorded one: the file is damaged",
    ),
    (truncate, ValueError, "weights.safetensors: its SHA-256 is not the recorded one: the file is damaged"),
    (not_safetensors, ValueError, "weights.safetensors: expected a safetensors file"),
    (lambda f: (f / "model.json").unlink(), OSError, "expected a trained model (a folder with model.json)"),
    (lambda f: (f / "recipe.toml").unlink(), OSError, "recipe.toml"),
    (lambda f: (f / "weights.safetensors").unlink(), OSError, "weights.safetensors"),
    (
        lambda f: (f / "model.json").write_text("{"),
        ValueError,
        "model.json: expected the description of a model",
    ),
    (
        lambda f: (f / "model.json").write_text("[]"),
        ValueError,
        "model.json: expected the description of a model",
    ),
    (
        lambda f: rewrite(f, lambda c: c.update(schema_version=99)),
        ValueError,
        "model.json: expected schema version 1, got 99; update hiergal to read it",
    ),
    (
        lambda f: rewrite(f, lambda c: c.pop("flow")),
        ValueError,
        "model.json: Object missing required field `flow`",
    ),
    (
        lambda f: rewrite(f, lambda c: c.update(more=1)),
        ValueError,
        "model.json: Object contains unknown field `more`",
    ),
    (
        lambda f: (f / "recipe.toml").write_text("[training]\nstep = 3\n"),
        ValueError,
        "recipe.toml: Object contains unknown field `step`",
    ),
    (
        lambda f: rewrite_weights(f, lambda a: a.update({FIRST: np.zeros(3, np.float32)})),
        ValueError,
        f"{FIRST}: expected float32 (7,), got float32 (3,)",
    ),
    (
        lambda f: rewrite_weights(f, lambda a: a.update({FIRST: np.zeros(7, np.float64)})),
        ValueError,
        f"{FIRST}: expected float32 (7,), got float64 (7,)",
    ),
    (
        lambda f: rewrite_weights(f, lambda a: a.update({"more": a.pop(FIRST)})),
        ValueError,
        f"expected the arrays of its recipe; missing: ['{FIRST}'], not known: ['more']",
    ),
]


@pytest.mark.parametrize(("damage", "error", "message"), DAMAGE)
def test_damage_is_named(bundle, damage, error, message):
    damage(bundle)
    with pytest.raises(error) as caught:
        load_model(bundle)
    assert message in str(caught.value)


def test_round_trip_is_exact(saved):
    model, folder = saved
    again = load_model(folder)
    assert (again.recipe, again.provenance) == (model.recipe, model.provenance)
    assert jax.tree.structure(again) == jax.tree.structure(model)
    jax.tree.map(np.testing.assert_array_equal, again, model)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["toy"]
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "recipe.toml", "weights.safetensors"]


def test_without_a_flow(tmp_path):
    save_model(tiny_model(flow=False), tmp_path / "toy")
    assert load_model(tmp_path / "toy").flow is None


def test_saving_over_a_bundle_replaces_it(bundle):
    other = tiny_model(tiny_recipe((16, 24)), seed=1)
    (bundle.parent / "toy.partial").mkdir()  # what a killed run may leave
    (bundle.parent / "toy.old").mkdir()
    save_model(other, bundle)
    jax.tree.map(np.testing.assert_array_equal, load_model(bundle), other)
    assert sorted(p.name for p in bundle.parent.iterdir()) == ["toy"]


def test_a_failed_save_leaves_what_was_there(saved, bundle, monkeypatch):
    monkeypatch.setattr("hiergal.hub.bundle.recipe_to_toml", lambda recipe: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_model(tiny_model(seed=1), bundle)
    jax.tree.map(np.testing.assert_array_equal, load_model(bundle), saved[0])
