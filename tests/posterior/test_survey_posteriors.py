"""Posteriors of a survey by parts: the same rows whatever happens on the way."""

import os
import shutil
import signal
import subprocess
import time

import jax
import msgspec
import numpy as np
import psutil
import pyarrow.parquet
import pytest
import zarr
from conftest import awkward_psf
from places import COMMAND
from toys import SCALE, drawing_model, tiny_model, tiny_recipe, tiny_survey

from hiergal.hub import load_model, save_model
from hiergal.posterior import interval
from hiergal.posterior import stages as posterior_stages
from hiergal.posterior import survey as survey_posteriors
from hiergal.posterior.arviz_files import load_arviz
from hiergal.posterior.infer import infer
from hiergal.posterior.stages import infer_to_arviz
from hiergal.posterior.survey import infer_survey
from hiergal.posterior.table import Flag, read_table, write_table
from hiergal.runtime.seeds import INFER, key_for
from hiergal.survey import StoreHeader, open_survey, write_store

SHAPE, N, PART, DRAWS, BATCH = (16, 24), 11, 4, 9, 4
HEADER = StoreHeader(survey="tiny", band="F814W", pixel_scale_arcsec=SCALE, magnitude_zero_point=25.94)
HOW = {"seed": 3, "draws": DRAWS, "batch": BATCH, "progress": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, and a survey of eleven galaxies."""
    folder = tmp_path_factory.mktemp("survey")
    save_model(tiny_model(tiny_recipe(SHAPE)), folder / "model")
    galaxies = tiny_survey(N, SHAPE, awkward_psf(N)).replace(identifier=100 + np.arange(N))
    write_store(folder / "s.zarr", HEADER, [(galaxies, None)])
    return folder


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(survey_posteriors, "GALAXIES_PER_TASK", PART)


@pytest.fixture(scope="module")
def undisturbed(folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(survey_posteriors, "GALAXIES_PER_TASK", PART)
        out = tmp_path_factory.mktemp("out") / "t.fits"
        infer_survey(folder / "model", folder / "s.zarr", out, **HOW)
    return read_table(out)


def same(first, second) -> bool:
    """Whether two tables are the same, bit by bit; NaN is NaN."""
    names = first.colnames == second.colnames
    return names and all(
        np.array_equal(np.asarray(first[n]), np.asarray(second[n]), equal_nan=first[n].dtype.kind == "f")
        for n in first.colnames
    )


def test_rows_are_summaries_of_the_posteriors(folder, undisturbed):
    store, model = open_survey(folder / "s.zarr"), tiny_model(tiny_recipe(SHAPE))
    posterior = infer(model, store.read(), key=key_for(3, INFER), draws=DRAWS, batch=BATCH)
    np.testing.assert_array_equal(undisturbed["identifier"], 100 + np.arange(N))
    np.testing.assert_allclose(undisturbed["flux"], posterior.summary.flux.mean(0), rtol=1e-4)
    np.testing.assert_allclose(undisturbed["g1_std"], posterior.summary.g1.std(0), rtol=1e-2, atol=1e-5)
    np.testing.assert_allclose(
        undisturbed["magnitude_q500"],
        np.quantile(25.94 - 2.5 * np.log10(posterior.summary.flux), 0.5, axis=0),
        rtol=1e-4,
    )
    low, high = interval(posterior.summary.hlr_arcsec, 0.68)
    assert np.all(undisturbed["hlr_arcsec_q160"] >= low - 1e-3) and np.all(
        undisturbed["hlr_arcsec_q840"] <= high + 1e-3
    )
    for i in range(N):
        expected = np.corrcoef(posterior.summary.flux[:, i], posterior.summary.hlr_arcsec[:, i])[0, 1]
        assert undisturbed["corr_flux_hlr_arcsec"][i] == pytest.approx(expected, abs=0.02)
    assert set(undisturbed["method"]) == {"laplace"} and not (undisturbed["flag"] & 3).any()
    assert undisturbed["hlr_arcsec"].unit == "arcsec" and undisturbed["magnitude_q025"].unit == "mag"


def test_a_run_that_was_stopped_goes_on(folder, undisturbed, tmp_path, monkeypatch):
    """Parts that are there are not done again, a truncated one is, and the result is the same."""
    real, done = survey_posteriors.infer_part, []

    def stopping(run, number, digests):
        if number == 2:
            raise KeyboardInterrupt
        done.append(number)
        return real(run, number, digests)

    monkeypatch.setattr(survey_posteriors, "infer_part", stopping)
    out = tmp_path / "t.fits"
    with pytest.raises(KeyboardInterrupt):
        infer_survey(folder / "model", folder / "s.zarr", out, **HOW)
    assert done == [0, 1] and not out.exists()
    broken = tmp_path / ".t.fits.hiergal/parts/000000.fits"
    broken.write_bytes(broken.read_bytes()[:3000])
    monkeypatch.setattr(
        survey_posteriors,
        "infer_part",
        lambda run, number, digests: (done.append(number), real(run, number, digests))[1],
    )
    infer_survey(folder / "model", folder / "s.zarr", out, **HOW)
    assert done == [0, 1, 0, 2] and same(read_table(out), undisturbed)
    assert [path.name for path in tmp_path.iterdir()] == ["t.fits"]


def test_parts_of_another_run_are_refused(folder, tmp_path, monkeypatch):
    def stop(*task):
        raise KeyboardInterrupt

    monkeypatch.setattr(survey_posteriors, "infer_part", stop)
    out = tmp_path / "t.fits"
    with pytest.raises(KeyboardInterrupt):
        infer_survey(folder / "model", folder / "s.zarr", out, **HOW)
    with pytest.raises(FileExistsError, match="got one .posterior table. with other seed; finish that one"):
        infer_survey(folder / "model", folder / "s.zarr", out, **HOW | {"seed": 4})


def test_a_finished_table_is_recognised_or_refused(folder, undisturbed, tmp_path, monkeypatch):
    """With images as well: what lacks them is done again, and nothing else."""
    out, images = tmp_path / "t.fits", tmp_path / "i.zarr"
    paths = folder / "model", folder / "s.zarr", out
    infer_survey(*paths, **HOW)
    before = out.read_bytes()
    infer_survey(*paths, images=images, **HOW)
    assert np.isfinite(zarr.open_group(images, mode="r")["profile_mean"][:]).all()
    with pytest.raises(FileExistsError, match="a finished posterior table of another run.*--overwrite"):
        infer_survey(*paths, **HOW | {"draws": 11})
    monkeypatch.setattr(survey_posteriors, "infer_part", lambda *_: pytest.fail("work that was done before"))
    assert same(infer_survey(*paths, images=images, **HOW), undisturbed)
    assert out.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ["i.zarr", "t.fits"]
    monkeypatch.undo()
    monkeypatch.setattr(survey_posteriors, "GALAXIES_PER_TASK", PART)
    assert len(infer_survey(*paths, overwrite=True, **HOW | {"limit": 8})) == 8


@pytest.mark.parametrize("stop_at", ["write_result", "create_images"])
def test_images_and_table_come_from_one_inference(folder, undisturbed, tmp_path, monkeypatch, stop_at):
    """Stopped before the first image, or after the last: the same command gives both."""
    real = getattr(survey_posteriors, stop_at)

    def stop(*arguments, **options):
        real(*arguments, **options)
        raise KeyboardInterrupt

    out, images = tmp_path / "t.fits", tmp_path / "i.zarr"
    monkeypatch.setattr(survey_posteriors, stop_at, stop)
    with pytest.raises(KeyboardInterrupt):
        infer_survey(folder / "model", folder / "s.zarr", out, images=images, **HOW)
    monkeypatch.setattr(survey_posteriors, stop_at, real)
    assert same(infer_survey(folder / "model", folder / "s.zarr", out, images=images, **HOW), undisturbed)
    assert np.isfinite(zarr.open_group(images, mode="r")["profile_mean"][:]).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["i.zarr", "t.fits"]


def test_bad_galaxies_keep_their_rows(folder, undisturbed, tmp_path, monkeypatch):
    """NaN pixels and no noise level: flagged, with NaN; a part of bad galaxies alone is written too."""
    real = survey_posteriors._opened

    class Damaged:
        def __init__(self, store):
            self.store, self.catalog = store, store.catalog

        def read(self, rows):
            seen = self.store.read(rows)
            image = np.array(seen.image)
            image[np.isin(rows, [1, 4, 5, 6, 7]), 3, 3] = np.nan
            return seen.replace(image=image)

    monkeypatch.setattr(
        survey_posteriors, "_opened", lambda *paths: (real(*paths)[0], Damaged(real(*paths)[1]))
    )
    images = tmp_path / "images.zarr"
    table = infer_survey(folder / "model", folder / "s.zarr", tmp_path / "t.fits", images=images, **HOW)
    bad = np.isin(np.arange(N), [1, 4, 5, 6, 7])
    np.testing.assert_array_equal(table["flag"] == Flag.BAD_OBSERVATION, bad)
    assert not table.has_masked_columns
    np.testing.assert_array_equal(np.isnan(table["flux"]), bad)
    np.testing.assert_array_equal(table["identifier"], undisturbed["identifier"])
    np.testing.assert_allclose(table["flux"][~bad], undisturbed["flux"][~bad], rtol=1e-3)
    group = zarr.open_group(images, mode="r")
    np.testing.assert_array_equal(np.isnan(group["profile_mean"][:]).any((1, 2)), bad)
    assert group["identifier"][:].tolist() == [-1 if b else 100 + i for i, b in enumerate(bad)]


def test_images_are_those_of_the_posteriors(folder, tmp_path):
    images, out = tmp_path / "images.zarr", tmp_path / "t.fits"
    infer_survey(folder / "model", folder / "s.zarr", out, images=images, limit=2 * PART, **HOW)
    store, model = open_survey(folder / "s.zarr"), tiny_model(tiny_recipe(SHAPE))
    posterior = infer(model, store.read(), key=key_for(3, INFER), draws=DRAWS, batch=BATCH)
    group = zarr.open_group(images, mode="r")
    for name in ("profile_mean", "profile_std", "image_mean"):
        assert group[name].shape == (2 * PART, *SHAPE)
        np.testing.assert_allclose(group[name][:], getattr(posterior, name)[: 2 * PART], rtol=1e-2, atol=1e-2)
    assert group.attrs["pixel_scale_arcsec"] == SCALE


@pytest.mark.parametrize("suffix", [".fits", ".parquet"])
def test_tables_keep_their_units(undisturbed, tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    write_table(undisturbed, path)
    found = read_table(path)
    assert same(found, undisturbed) and found["hlr_arcsec_std"].unit == "arcsec"
    if suffix == ".parquet":  # as any other program reads it
        assert pyarrow.parquet.read_table(path).column_names == undisturbed.colnames


def test_wrong_requests_are_refused(folder, tmp_path):
    paths = folder / "model", folder / "s.zarr"
    with pytest.raises(ValueError, match=".fits.*.parquet.*got .csv"):
        infer_survey(*paths, tmp_path / "t.csv", **HOW)
    for change, message in [
        ({"workers": 0}, "workers: expected at least 1 process, got 0"),
        ({"limit": 0}, "limit: expected at least 1, got 0"),
        ({"method": "lapalce"}, "method: expected one of"),
        ({"method": "flow"}, "expected a model with a posterior flow"),
    ]:
        with pytest.raises(ValueError, match=message):
            infer_survey(*paths, tmp_path / "t.fits", images=tmp_path / "i.zarr", **HOW | change)
    save_model(tiny_model(tiny_recipe(SHAPE)).replace(flow=None), tmp_path / "bare")
    with pytest.raises(ValueError, match="conditions: expected a model with a latent flow"):
        infer_survey(tmp_path / "bare", paths[1], tmp_path / "t.fits", conditions=True, **HOW)
    shutil.rmtree(tmp_path / "bare")
    before = sorted(paths[0].rglob("*"))
    with pytest.raises(FileExistsError, match="apart from the inputs of the same command"):
        infer_survey(*paths, tmp_path / "t.fits", images=paths[0], **HOW)
    assert sorted(paths[0].rglob("*")) == before, "a model was taken for images"
    assert not list(tmp_path.iterdir()), "something was left behind"


def test_draws_go_into_a_new_folder_or_nothing_is_done(folder, tmp_path, monkeypatch):
    store, model = open_survey(folder / "s.zarr"), tiny_model(tiny_recipe(SHAPE))
    few = {"seed": 3, "rows": np.arange(BATCH), "draws": DRAWS, "batch": BATCH, "progress": False}
    infer_to_arviz(model, store, tmp_path / "new/draws.nc", **few)
    assert len(load_arviz(tmp_path / "new/draws.nc").posterior.galaxy) == BATCH
    monkeypatch.setattr(posterior_stages, "infer", lambda *_, **__: pytest.fail("work that will be lost"))
    for out, error in [("draws.fits", ValueError), ("new", ValueError), ("s.zarr", FileExistsError)]:
        (tmp_path / "s.zarr/image").mkdir(parents=True, exist_ok=True)
        with pytest.raises(error, match="expected a"):
            infer_to_arviz(model, store, tmp_path / out, **few)


def test_a_survey_that_was_rewritten_is_another_one(folder, tmp_path, monkeypatch):
    """The same galaxies with other pixels, under the same header: finished parts are not mixed with new ones."""

    def stop(*task):
        raise KeyboardInterrupt

    monkeypatch.setattr(survey_posteriors, "infer_part", stop)
    galaxies = open_survey(folder / "s.zarr").read()
    write_store(store := tmp_path / "s.zarr", HEADER, [(galaxies, None)])
    with pytest.raises(KeyboardInterrupt):
        infer_survey(folder / "model", store, tmp_path / "t.fits", **HOW)
    write_store(store, HEADER, [(galaxies.replace(image=galaxies.image - 0.1), None)], overwrite=True)
    with pytest.raises(FileExistsError, match="got one .posterior table. with other files.survey;"):
        infer_survey(folder / "model", store, tmp_path / "t.fits", **HOW)


def test_a_model_that_was_replaced_is_read_again(folder, undisturbed, tmp_path):
    """In the same process, by the same name."""
    model, path = load_model(folder / "model"), tmp_path / "model"
    save_model(model, path)
    first = infer_survey(path, folder / "s.zarr", tmp_path / "a.fits", **HOW)
    assert same(read_table(tmp_path / "a.fits"), undisturbed)
    save_model(
        model.replace(params=jax.tree.map(lambda leaf: 1.1 * leaf, model.params)), path, overwrite=True
    )
    second = infer_survey(path, folder / "s.zarr", tmp_path / "b.fits", **HOW)
    assert not np.any(first["flux"] == second["flux"])


def test_draws_depend_on_the_row(folder):
    """Not on which galaxies are inferred with it."""
    store, model = open_survey(folder / "s.zarr"), tiny_model(tiny_recipe(SHAPE))
    key = jax.random.key(1)
    everyone = infer(model, store.read(), key=key, draws=DRAWS, batch=BATCH)
    rows = np.array([8, 2, 5])
    few = infer(model, store.read(rows), key=key, draws=DRAWS, batch=BATCH, rows=rows)
    np.testing.assert_allclose(few.latents, everyone.latents[:, rows], rtol=0.02, atol=0.02)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A survey of 2,000 galaxies."""
    folder = tmp_path_factory.mktemp("large")
    save_model(tiny_model(tiny_recipe(SHAPE)), folder / "model")
    n = 2000
    write_store(folder / "s.zarr", HEADER, [(tiny_survey(n, SHAPE, awkward_psf(n)), None)])
    return folder


@pytest.mark.slow
def test_killed_workers_and_clients_change_no_row(large, tmp_path, monkeypatch):
    """A worker is killed in the middle of 2,000 galaxies, then the client; the same command gives the same table."""
    monkeypatch.undo()  # parts as they are
    words = ["--model", large / "model", "--draws", 40, "--seed", 5, "--workers", 2]

    def command(out):
        arguments = [*COMMAND, "infer", large / "s.zarr", *words, "--out", out]
        with (tmp_path / "log.txt").open("ab") as log:
            return subprocess.Popen(list(map(str, arguments)), stdout=log, stderr=log, start_new_session=True)

    assert command(tmp_path / "calm.fits").wait(timeout=300) == 0, (tmp_path / "log.txt").read_text()
    out, parts = tmp_path / "t.fits", tmp_path / ".t.fits.hiergal/parts"

    def wait_for(count, process):
        began = time.monotonic()
        while len(list(parts.glob("0*[0-9].fits"))) < count:
            assert process.poll() is None and time.monotonic() - began < 200, (
                tmp_path / "log.txt"
            ).read_text()
            time.sleep(0.02)

    client = command(out)
    wait_for(1, client)
    workers = [
        p
        for p in psutil.Process(client.pid).children(recursive=True)
        if "LokyProcess" in " ".join(p.cmdline())
    ]
    assert workers
    workers[0].send_signal(signal.SIGKILL)
    wait_for(3, client)
    orphans = psutil.Process(client.pid).children(recursive=True)
    os.kill(client.pid, signal.SIGKILL)
    client.wait()
    assert parts.exists() and not out.exists(), "nothing was left to do"
    assert not psutil.wait_procs(orphans, timeout=60)[1], "workers outlive their client"
    assert command(out).wait(timeout=300) == 0, (tmp_path / "log.txt").read_text()
    assert same(read_table(out), read_table(tmp_path / "calm.fits")) and len(read_table(out)) == 2000
    assert not parts.exists()


@pytest.mark.parametrize(
    ("unit", "per_pixel"), [("arcsec", 0.03), ("0.06 arcsec pixels", 0.5), ("0.03 arcsec pixels", 1.0)]
)
def test_conditions_are_in_the_units_of_the_model(tmp_path, unit, per_pixel):
    """Radii of a survey in other units inform the prior as the same radii in the model's do; others are refused."""
    model = drawing_model()
    n, rows = 3, np.asarray(model.population)[:3]
    catalog = dict(zip(("mag_auto", "flux_radius", "zphot"), rows.T.astype(float), strict=True))
    catalog["flux_radius"] = catalog["flux_radius"] * per_pixel
    galaxies = tiny_survey(n, model.recipe.shape, awkward_psf(n)).replace(catalog=catalog)
    header = msgspec.structs.replace(HEADER, catalog_units={"flux_radius": unit})
    store = write_store(tmp_path / "s.zarr", header, [(galaxies, None)])
    expected = infer(
        model,
        store.read(),
        key=key_for(3, INFER),
        draws=DRAWS,
        batch=BATCH,
        conditions=rows.astype(np.float32),
    )
    found = infer_to_arviz(
        model, store, tmp_path / "p.nc", seed=3, draws=DRAWS, batch=BATCH, use_conditions=True, progress=False
    )[1]
    np.testing.assert_allclose(found.latents, expected.latents, rtol=1e-3, atol=1e-3)
    save_model(model, tmp_path / "model")
    table = infer_survey(tmp_path / "model", store.path, tmp_path / "t.fits", conditions=True, **HOW)
    np.testing.assert_allclose(table["flux"], expected.summary.flux.mean(0), rtol=1e-3)


def test_conditions_in_units_of_something_else_are_refused(tmp_path):
    model, n = drawing_model(), 2
    catalog = {name: np.full(n, 9.0) for name in ("mag_auto", "flux_radius", "zphot")}
    galaxies = tiny_survey(n, model.recipe.shape, awkward_psf(n)).replace(catalog=catalog)
    header = msgspec.structs.replace(HEADER, catalog_units={"flux_radius": "kpc"})
    store = write_store(tmp_path / "s.zarr", header, [(galaxies, None)])
    save_model(model, tmp_path / "model")
    with pytest.raises(ValueError, match="flux_radius:.*got one in kpc"):
        infer_survey(tmp_path / "model", store.path, tmp_path / "t.fits", conditions=True, **HOW)
    assert not (tmp_path / "t.fits").exists()
