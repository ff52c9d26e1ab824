"""Bundles: bit for bit what was saved, or an error that says what is wrong."""

import hashlib
import json
import os
import pickle
import shutil
import zipfile

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from toys import tiny_model, tiny_recipe

from hiergal.hub import load_model, read_metrics, save_model
from hiergal.hub.packing import digest_of


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
    rewrite(folder, lambda content: content.update(weights_sha256=digest_of(arrays)))


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


class Trap:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def a_pickle(folder):
    (folder / "weights.safetensors").write_bytes(pickle.dumps({"weights": Trap()}))


def a_zip(folder):
    with zipfile.ZipFile(folder / "weights.safetensors", "w") as archive:
        archive.writestr("../../outside.txt", "nothing")


FIRST = "params/generator$params/ellipse/bias"
DAMAGE = [
    (
        flip_a_byte,
        ValueError,
        "weights.safetensors: its SHA-256 is not the recorded one: the file is damaged",
    ),
    (truncate, ValueError, "weights.safetensors: expected a safetensors file"),
    (a_pickle, ValueError, "weights.safetensors: expected a safetensors file, got what looks like a pickle"),
    (
        a_zip,
        ValueError,
        "weights.safetensors: expected a safetensors file, got what looks like a zip archive",
    ),
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
        "model.json: expected schema version 1 to 2, got 99; update hiergal to read it",
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
    with pytest.raises(FileExistsError, match="a finished model of another run.*--overwrite"):
        save_model(other, bundle)
    (bundle.parent / "toy.partial").mkdir()  # somebody else's
    save_model(other, bundle, overwrite=True)
    jax.tree.map(np.testing.assert_array_equal, load_model(bundle), other)
    assert sorted(p.name for p in bundle.parent.iterdir()) == ["toy", "toy.partial"]


def test_a_folder_with_files_of_others_is_not_replaced(bundle):
    (bundle / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="notes.txt in it; it is left as it is"):
        save_model(tiny_model(seed=1), bundle, overwrite=True)
    assert (bundle / "notes.txt").read_text() == "mine" and load_model(bundle)


def test_a_link_to_a_model_is_followed(saved, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "disk" / "real")
    save_model(saved[0], tmp_path / "model")
    save_model(tiny_model(tiny_recipe((16, 24)), seed=1), tmp_path / "model", overwrite=True)
    assert (tmp_path / "model").is_symlink() and [p.name for p in (tmp_path / "disk").iterdir()] == ["real"]
    assert load_model(tmp_path / "model").recipe == load_model(tmp_path / "disk" / "real").recipe


def test_a_model_that_a_killed_run_had_finished_is_found(saved, tmp_path, monkeypatch):
    """Killed before the last rename: whoever reads it first puts it in place."""
    monkeypatch.setattr("hiergal.runtime.output.place", lambda *names: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_model(saved[0], tmp_path / "toy")
    assert not (tmp_path / "toy").exists()
    jax.tree.map(np.testing.assert_array_equal, load_model(tmp_path / "toy"), saved[0])
    assert [p.name for p in tmp_path.iterdir()] == ["toy"]


def test_a_failed_save_leaves_what_was_there(saved, bundle, monkeypatch):
    monkeypatch.setattr("hiergal.hub.bundle.recipe_to_toml", lambda recipe: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_model(tiny_model(seed=1), bundle, overwrite=True)
    jax.tree.map(np.testing.assert_array_equal, load_model(bundle), saved[0])


def test_one_file_holds_the_same(saved, tmp_path):
    model, path = saved[0], tmp_path / "toy.safetensors"
    save_model(model, path, metrics={"chi_square": 1.02})
    again = load_model(path)
    jax.tree.map(np.testing.assert_array_equal, again, model)
    assert (again.recipe, again.provenance) == (model.recipe, model.provenance)
    assert read_metrics(path) == {"chi_square": 1.02}
    assert [p.name for p in tmp_path.iterdir()] == ["toy.safetensors"]


def test_metrics_lie_beside_the_weights(saved, tmp_path):
    save_model(saved[0], tmp_path / "toy", metrics={"k": [1, 2.5]})
    assert read_metrics(tmp_path / "toy") == {"k": [1, 2.5]}
    assert read_metrics(saved[1]) == {}
    (tmp_path / "toy" / "metrics.json").write_text("[1]")
    with pytest.raises(ValueError, match="expected metrics as a JSON object"):
        read_metrics(tmp_path / "toy")


@pytest.mark.parametrize("place", [-5, 200])  # a weight, the header
def test_a_flipped_byte_in_one_file_is_found(saved, tmp_path, place):
    path = tmp_path / "toy.safetensors"
    save_model(saved[0], path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="toy.safetensors"):
        load_model(path)


@pytest.mark.parametrize(
    ("name", "was", "becomes"),
    [
        ("recipe.toml", "pixel_scale_arcsec = 0.03", "pixel_scale_arcsec = 0.83"),
        ("model.json", '"magnitude_zero_point": 25.94', '"magnitude_zero_point": 25.84'),
        ("metrics.json", '"chi_square": 1.5', '"chi_square": 1.0'),
    ],
)
@pytest.mark.parametrize("target", ["toy", "toy.safetensors"])
def test_a_changed_text_is_found(saved, tmp_path, target, name, was, becomes):
    """One byte: such a model would load, and be wrong."""
    path = tmp_path / target
    save_model(saved[0], path, metrics={"chi_square": 1.5})
    file = path / name if path.is_dir() else path
    was, becomes = (text if path.is_dir() else text.replace('"', '\\"') for text in (was, becomes))
    content = file.read_bytes()
    assert content.count(was.encode()) == 1
    file.write_bytes(content.replace(was.encode(), becomes.encode()))
    with pytest.raises(ValueError, match="SHA-256 of recipe.toml, model.json and metrics.json is not"):
        load_model(path)


def test_others_may_read_a_bundle(bundle):
    assert {path.stat().st_mode & 0o777 for path in bundle.iterdir()} == {0o666 & ~umask()}


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_arrays_whose_names_were_exchanged_are_found(bundle):
    arrays = load_file(bundle / "weights.safetensors")
    first, second = [name for name in arrays if arrays[name].shape == (16, 16)][:2]
    arrays[first], arrays[second] = arrays[second], arrays[first]
    save_file(arrays, bundle / "weights.safetensors")
    with pytest.raises(ValueError, match="its SHA-256 is not the recorded one"):
        load_model(bundle)


def test_other_safetensors_are_no_model(saved, tmp_path):
    shutil.copy(saved[1] / "weights.safetensors", tmp_path)
    with pytest.raises(ValueError, match=r"expected a model with recipe.toml and model.json in its header"):
        load_model(tmp_path / "weights.safetensors")
    with pytest.raises(FileNotFoundError, match="nowhere.safetensors: no such file"):
        load_model(tmp_path / "nowhere.safetensors")


def test_half_precision_rounds_networks_alone(saved, tmp_path):
    model, path = saved[0], tmp_path / "half.safetensors"
    save_model(model, path, half_precision=True)
    with safe_open(path, framework="numpy") as file:
        stored = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert {stored[name] for name in stored if name.startswith("params/")} == {"F16"}
    assert {stored[name] for name in stored if not name.startswith("params/")} <= {"F32", "I32"}
    again = load_model(path)
    assert {leaf.dtype for leaf in jax.tree.leaves(again.params)} == {np.dtype("float32")}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-10, atol=1e-7), again.params, model.params
    )
    jax.tree.map(np.testing.assert_array_equal, again.flow, model.flow)
    huge = jax.tree.map(lambda leaf: leaf + 1e6, model.params)
    with pytest.raises(ValueError, match="expected numbers up to 65504 for half precision"):
        save_model(model.replace(params=huge), tmp_path / "huge", half_precision=True)
    assert not (tmp_path / "huge").exists()


def test_a_bundle_of_schema_version_1_loads(saved, bundle):
    def older(content):
        content["schema_version"] = 1
        content.pop("population")
        content.pop("texts_sha256")
        for name in ("condition_units", "psf_fwhm_arcsec"):
            content["provenance"].pop(name, None)
        weights = (bundle / "weights.safetensors").read_bytes()
        content["weights_sha256"] = hashlib.sha256(weights).hexdigest()

    arrays = load_file(bundle / "weights.safetensors")
    arrays.pop("population", None)
    save_file(arrays, bundle / "weights.safetensors")
    rewrite(bundle, older)
    again = load_model(bundle)
    assert again.population is None
    jax.tree.map(np.testing.assert_array_equal, again.flow, saved[0].flow)
    flip_a_byte(bundle)
    with pytest.raises(ValueError, match="its SHA-256 is not the recorded one"):
        load_model(bundle)
