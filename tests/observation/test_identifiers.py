"""Identifiers that are text go through every door exactly: cutouts, surveys, training, posteriors, tables, files."""

import jax
import numpy as np
import pytest
import zarr
from conftest import awkward_psf
from toys import SCALE, tiny_model, tiny_recipe, tiny_survey

import hiergal
from hiergal.hub import save_model
from hiergal.posterior.arviz_files import tree_of
from hiergal.posterior.image_store import IMAGES
from hiergal.posterior.survey import infer_survey
from hiergal.posterior.table import posterior_table, read_table, write_table
from hiergal.posterior.to_arviz import load_arviz, posterior_to_arviz, save_arviz
from hiergal.survey import StoreHeader, write_store
from hiergal.survey.arrays import LONGEST_TEXT
from hiergal.training import train_model as stages

SHAPE = (16, 24)
NAMES = np.array(
    ["COSMOS J100020.6+022100", "7", "007", "a b", "NGC 4321", "Größe", "z" * LONGEST_TEXT, "x,y"]
)
HEADER = StoreHeader(survey="tiny", band="F814W", pixel_scale_arcsec=SCALE, magnitude_zero_point=25.94)


@pytest.fixture(scope="module")
def model():
    return tiny_model(tiny_recipe(SHAPE, steps=2, evaluate_every=2, batch=4))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    galaxies = tiny_survey(len(NAMES), SHAPE, awkward_psf(len(NAMES))).replace(identifier=NAMES)
    return write_store(
        tmp_path_factory.mktemp("s") / "s.zarr", HEADER, [(galaxies[:5], None), (galaxies[5:], None)]
    )


def test_a_survey_keeps_text(store):
    assert store.identifier.tolist() == NAMES.tolist()
    assert store.read([6, 1]).identifier.tolist() == [NAMES[6], "7"]
    assert len(set(zarr.open_group(store.path, mode="r")["identifier"][:].tolist())) == len(NAMES)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [("é" * 33, "at most 64 bytes, got 66"), (" a", "without blanks"), ("", "none in row 2")],
)
def test_what_would_not_come_back_is_refused(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        galaxies = tiny_survey(3, SHAPE, awkward_psf(3)).replace(identifier=np.array(["a", "b", wrong]))
        write_store(tmp_path / "s.zarr", HEADER, [(galaxies, None)])
    assert not list(tmp_path.iterdir())


def test_posteriors_are_those_of_numbered_galaxies(store, model, key):
    """To the bit, and each check takes them."""
    named, options = store.read(), {"key": key, "draws": 6, "verdict": False}
    numbered = named.replace(identifier=np.arange(len(NAMES)), catalog={}, photometry=None)
    one, other = (hiergal.infer(model, observation, **options) for observation in (named, numbered))
    np.testing.assert_array_equal(one.latents, other.latents)
    assert one.identifier.tolist() == NAMES.tolist() and other.identifier.tolist() == list(range(len(NAMES)))
    assert hiergal.predict(model, named, one, key=key).identifier.tolist() == NAMES.tolist()
    with pytest.raises(ValueError, match="identifiers differ"):
        hiergal.predict(model, numbered, one, key=key)


def test_names_and_columns_compile_nothing_again(store, model, key):
    from hiergal.posterior.samplers.methods import mode_of

    observation = store.read()
    hiergal.infer(model, observation, key=key, draws=6, verdict=False)
    size = mode_of._cache_size()
    other = observation.replace(catalog={"new": np.zeros(len(NAMES))}, identifier=np.arange(len(NAMES)))
    hiergal.infer(model, other, key=key, draws=6, verdict=False)
    assert mode_of._cache_size() == size


def test_every_output_has_them(store, model, tmp_path, key):
    save_model(model, tmp_path / "model")
    infer_survey(
        tmp_path / "model",
        store.path,
        tmp_path / "t.fits",
        images=tmp_path / "i.zarr",
        seed=1,
        draws=6,
        progress=False,
    )
    assert read_table(tmp_path / "t.fits")["identifier"].tolist() == NAMES.tolist()
    images = zarr.open_group(tmp_path / "i.zarr", mode="r")
    assert [bytes(row).rstrip(b"\0").decode() for row in images["identifier_text"][:]] == NAMES.tolist()
    assert set(IMAGES) <= set(images.array_keys())
    observation = store.read()
    posterior = hiergal.infer(model, observation, key=key, draws=6)
    write_table(posterior_table(posterior, magnitude_zero_point=25.94), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet")["identifier"].tolist() == NAMES.tolist()
    for name in ("d.nc", "d.zarr"):
        save_arviz(posterior_to_arviz(posterior, observation, model), tmp_path / name)
        found = tree_of(load_arviz(tmp_path / name))["posterior"]
        assert [str(one) for one in found["galaxy"].values] == NAMES.tolist()


@pytest.mark.slow
def test_training_takes_them(store, model, tmp_path):
    """In memory and from disk: the same steps as of numbered galaxies."""
    options = {"seed": 0, "progress": False}
    numbered = write_store(
        tmp_path / "n.zarr", HEADER, [(store.read().replace(identifier=np.arange(8)), None)]
    )
    found = [
        stages.train_model(one, model.recipe, tmp_path / f"run{i}", in_memory=i < 2, **options)[0]
        for i, one in enumerate((numbered, store, store))
    ]
    for other in found[1:]:
        for a, b in zip(jax.tree.leaves(found[0].params), jax.tree.leaves(other.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_tables_say_how_galaxies_lie_on_the_sky(model, tmp_path):
    """The same stamp, turned and mirrored on the sky by its WCS: ellipticities stay, position angles follow."""
    same = np.zeros(4, int)
    sky = {
        "ra_deg": np.array([150.1, 150.2, 150.3, 150.123456789]),
        "dec_deg": np.full(4, 2.2),
        "north_rad": np.array([0.0, 0.5, 0.0, 0.0]),
        "parity": np.array([1.0, 1.0, -1.0, 1.0]),
    }
    galaxies = tiny_survey(4, SHAPE, awkward_psf(4))[same].replace(identifier=np.arange(4), catalog=sky)
    store = write_store(tmp_path / "s.zarr", HEADER, [(galaxies, None)])
    save_model(model, tmp_path / "model")
    infer_survey(tmp_path / "model", store.path, tmp_path / "t.fits", seed=1, draws=200, progress=False)
    table = read_table(tmp_path / "t.fits")
    assert table["ra_deg"][3] == 150.123456789 and str(table["position_angle_deg"].unit) == "deg"
    angle, error = np.radians(table["position_angle_deg"]), np.radians(table["position_angle_deg_std"])
    within = 5 * np.max(error) / np.sqrt(200) + 1e-3  # draws of the four differ
    assert abs(np.sin(angle[1] - angle[0] - 0.5)) < within
    along = 0.5 * np.arctan2(table["g2"], table["g1"])
    expected = sky["north_rad"] + sky["parity"] * (along - np.pi / 2)
    np.testing.assert_allclose(np.sin(angle - expected), 0, atol=1e-5)
    assert np.all(error > 0)
