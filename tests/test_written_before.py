"""Files that version 0.1.0 wrote are read, and runs of it that were killed go on, or are refused in one line.

``data/written_by_0.1.0/files.tar.xz`` holds what its commands wrote (README.md there lists them), among it three runs
that were killed half-way; ``expected.json`` what that version read in them.
"""

import json
import shutil
import warnings

import jax
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from digests import OLD, unpacked
from typer.testing import CliRunner

import hiergal
from hiergal.cli.app import app
from hiergal.posterior.arviz_files import load_arviz
from hiergal.posterior.table import read_table

EXPECTED = json.loads((OLD / "expected.json").read_text())
CLOSE = {"rtol": 2e-3, "atol": 1e-3}  # other processors and compilers, in fits


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    return unpacked(tmp_path_factory.mktemp("old") / "files")


@pytest.fixture(scope="module")
def model(old):
    return hiergal.load_model(old / "model")


def command(*words) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, OSError):
        raise result.exception
    assert result.exit_code == 0, (result.output, result.exception)


def test_a_survey(old):
    store = hiergal.open_store(old / "mock.zarr")
    galaxies = store.read(np.arange(6))
    expected = EXPECTED["mock"]
    assert store.header.survey == "mock" and galaxies.image.shape == (6, 32, 32)
    np.testing.assert_allclose(np.asarray(galaxies.image)[:, 15, 16], expected["image"], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(galaxies.psf.stamp).max((1, 2)), expected["psf"], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(galaxies.noise.power).mean((1, 2)), expected["power"], rtol=1e-5)
    np.testing.assert_allclose(store.catalog["mag_auto"], expected["mag_auto"], rtol=1e-6)
    cutouts = hiergal.open_store(old / "cutouts.zarr").read(np.array([0, 259]))
    assert cutouts.identifier.tolist() == [1000, 1259] and np.asarray(cutouts.noise.sigma).max() == 0.5


@pytest.mark.parametrize("name", ["model", "model.safetensors"])
def test_a_model_in_both_forms(old, model, name):
    loaded = hiergal.load_model(old / name)
    assert loaded.recipe.name == "tiny" and loaded.provenance.version == "0.1.0"
    jax.tree.map(np.testing.assert_array_equal, loaded, model)
    parts = {{"guide_flow": "posterior_flow"}.get(name, name) for name in EXPECTED["parts"]}
    assert not {name for name in parts if getattr(loaded, name) is None}


def test_a_model_draws_what_it_drew(old, model):
    catalog = Table.read(old / "few.fits")
    drawn = hiergal.draw_profiles(model, catalog, key=jax.random.key(1), outside="ignore")
    np.testing.assert_allclose(drawn.sum((1, 2)), EXPECTED["drawn"], **CLOSE)


@pytest.mark.parametrize("method", ["amortized", pytest.param("flow", marks=pytest.mark.slow)])
def test_a_model_infers_what_it_inferred(old, model, method):
    galaxies = hiergal.open_store(old / "cutouts.zarr").read(np.arange(4))
    found = hiergal.infer(model, galaxies, key=jax.random.key(2), method=method, draws=10, verdict=False)
    np.testing.assert_allclose(found.image_mean.sum((1, 2)), EXPECTED["image_mean"][method], rtol=2e-2)


def test_posteriors(old):
    draws, table = load_arviz(old / "posterior.nc"), read_table(old / "posteriors.fits")
    posterior = draws.posterior
    assert posterior.sizes["draw"] * posterior.sizes["chain"] == 20 and posterior.sizes["galaxy"] == 6
    np.testing.assert_allclose(posterior["flux"].mean(("chain", "draw")), EXPECTED["flux"], rtol=1e-5)
    np.testing.assert_allclose(table["chi_square"], EXPECTED["chi_square"], rtol=1e-5)
    assert table["identifier"].tolist() == [1000, 1001, 1002, 1003, 1004, 1005]


def test_galaxies_are_those_that_are_drawn_today(old, tmp_path):
    with fits.open(old / "galaxies.fits") as file:
        images, columns = np.array(file[0].data), Table(file["CONDITIONS"].data)
    assert images.shape == (6, 16, 24) and columns["drawn"].all()
    command("sample", old / "few.fits", "--model", old / "model", "--out", tmp_path / "g.fits", "--seed", 7)
    with fits.open(tmp_path / "g.fits") as file:
        np.testing.assert_allclose(file[0].data, images, rtol=2e-3, atol=1e-4 * images.max())


def test_a_finished_file_is_recognised(old, tmp_path):
    shutil.copy(old / "galaxies.fits", tmp_path / "galaxies.fits")
    before = (tmp_path / "galaxies.fits").stat().st_mtime_ns
    words = ("sample", old / "few.fits", "--model", old / "model", "--seed", 7)
    command(*words, "--out", tmp_path / "galaxies.fits")
    assert (tmp_path / "galaxies.fits").stat().st_mtime_ns == before


def test_sampling_goes_on(old, tmp_path):
    import zarr

    work = tmp_path / ".stopped.zarr.hiergal"
    shutil.copytree(old / work.name, work)
    assert "0" in (work / "journal").read_text().split()
    marked = zarr.open_group(work / "result.zarr", mode="r+")["image"]
    marked[0, 0, 0] = 12345.0  # what is done is taken as it is
    words = ("sample", old / "catalog.fits", "--model", old / "model", "--seed", 7, "--out")
    command(*words, tmp_path / "stopped.zarr")
    command(*words, tmp_path / "whole.zarr")
    found, whole = (
        zarr.open_group(tmp_path / f"{n}.zarr", mode="r")["image"][:] for n in ("stopped", "whole")
    )
    assert found[0, 0, 0] == 12345.0 and not work.exists()
    found[0, 0, 0] = whole[0, 0, 0]
    assert np.isfinite(found[:, 0, 0]).sum() == 6
    np.testing.assert_allclose(found, whole, rtol=2e-3, atol=1e-4 * np.nanmax(whole))


def test_inference_goes_on(old, tmp_path):
    work = tmp_path / ".stopped.fits.hiergal"
    shutil.copytree(old / work.name, work)
    (part,) = (work / "parts").iterdir()
    with fits.open(part, mode="update") as file:
        file[1].data["chi_square"][3] = 12345.0  # what is done is taken as it is
    done = read_table(part)
    words = ("infer", old / "cutouts.zarr", "--model", old / "model", "--method", "amortized", "--draws", 5)
    command(*words, "--seed", 2, "--out", tmp_path / "stopped.fits")
    found = read_table(tmp_path / "stopped.fits")
    assert found["chi_square"][3] == 12345.0 and len(done) == 256 and not work.exists()
    assert found["identifier"].tolist() == list(range(1000, 1260))
    for name, whole in EXPECTED["whole"].items():  # the other rows, of a run that was not stopped
        np.testing.assert_array_equal(found[name][:256], done[name])
        np.testing.assert_allclose(found[name][256:], whole, rtol=1e-2, err_msg=name)


def test_a_training_that_was_stopped_is_refused_in_one_line(old, tmp_path):
    """Its recipe had other keys, and a training goes on with the very same recipe only."""
    run = tmp_path / "stopped"
    shutil.copytree(old / "stopped", run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    words = ("train", old / "cutouts.zarr", "--out", run, "--recipe", old / "stopped.toml", "--seed", 5)
    with pytest.raises(FileExistsError, match="an unfinished training with other recipe.*--overwrite"):
        command(*words)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_recipes():
    with pytest.warns(FutureWarning, match="write the new names"):
        recipe = hiergal.load_recipe(OLD / "recipe.toml")
    assert recipe.name == "all keys" and recipe.generator.latents == 8 and recipe.flow.draws == 4
    assert recipe.flow.conditions == ("mag_auto", "zphot") and recipe.objective.noise_sigma == 0.02
    assert recipe.objective.kl_weight == 1.5 and not recipe.objective.misfit_as_noise
    training = recipe.training
    assert (training.flux_sampling_power, training.ema_decay, training.gradient_accumulation) == (0.3, 0.5, 2)
    for flow in (recipe.flow, recipe.posterior_flow):
        assert (flow.fit_to, flow.log_scale_clamp) == ("means", "hard")
    with pytest.warns(FutureWarning, match="lanusse2020"):
        pyramid = hiergal.load_recipe(OLD / "recipe_pyramid.toml")
    assert pyramid.encoder.depths == (6, 8, 8) and pyramid.generator.taper_pix == 3
