"""Galaxies for a catalogue: the same file whatever happens on the way."""

import os
import signal
import subprocess
import sys
import time

import h5py
import jax
import numpy as np
import psutil
import pytest
import zarr
from astropy.io import fits
from astropy.table import Table

from hiergal.hub import load_model, save_model
from hiergal.model.condition_columns import read_catalog
from hiergal.runtime.seeds import SAMPLE, key_for
from hiergal.simulate import catalog as catalog_sampling
from hiergal.simulate import files as galaxy_files
from hiergal.simulate.catalog import sample_catalog
from hiergal.simulate.observing import Observing
from hiergal.simulate.profiles import draw_profiles
from hiergal.simulate.renderer import renderer_for
from hiergal.simulate.survey_presets import survey_conditions, survey_psf

N, PART = 21, 8
HOW = {"seed": 4, "progress": False}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(catalog_sampling, "GALAXIES_PER_TASK", PART)
    monkeypatch.setattr(galaxy_files, "GALAXIES_PER_CHUNK", PART)


@pytest.fixture(scope="module")
def folder(drawing_folder):
    return drawing_folder


@pytest.fixture(scope="module")
def catalog(folder):
    rows = np.asarray(load_model(folder).population)[:N]
    return dict(zip(("mag_auto", "flux_radius", "zphot"), rows.T, strict=True))


@pytest.fixture(scope="module")
def profiles(folder, catalog):
    return draw_profiles(load_model(folder), catalog, key=key_for(4, SAMPLE))


def images(path):
    match path.suffix:
        case ".fits":
            with fits.open(path, memmap=False) as file:
                return np.array(file[0].data, np.float32)
        case ".hdf5":
            with h5py.File(path) as file:
                return file["image"][:]
    return zarr.open_group(path, mode="r")["image"][:]


@pytest.mark.parametrize("suffix", [".fits", ".hdf5", ".zarr"])
def test_files_hold_what_was_drawn(folder, catalog, profiles, tmp_path, suffix):
    out = sample_catalog(folder, catalog, tmp_path / f"galaxies{suffix}", **HOW)
    np.testing.assert_array_equal(images(out), profiles)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    before = out.stat().st_mtime_ns
    sample_catalog(folder, catalog, out, **HOW)
    assert out.stat().st_mtime_ns == before, "the same run is recognised"
    with pytest.raises(FileExistsError, match="a finished galaxies of another run.*--overwrite"):
        sample_catalog(folder, catalog, out, seed=5, progress=False)
    sample_catalog(folder, catalog, out, seed=5, progress=False, overwrite=True)
    assert not np.array_equal(images(out), profiles)


def test_conditions_and_units_lie_beside_the_images(folder, catalog, tmp_path):
    for suffix in (".fits", ".hdf5", ".zarr"):
        sample_catalog(folder, catalog, tmp_path / f"g{suffix}", **HOW)
    with fits.open(tmp_path / "g.fits") as file:
        file.verify("exception")
        header, table = file[0].header, Table(file["CONDITIONS"].data)
        assert (header["BUNIT"], header["PIXSCALE"], header["MAGZERO"]) == ("counts / s", 0.03, 25.94)
    with h5py.File(tmp_path / "g.hdf5") as file:
        attributes = dict(file.attrs)
        stored = {name: column[:] for name, column in file["conditions"].items()}
    group = zarr.open_group(tmp_path / "g.zarr", mode="r")
    other = dict(group.attrs)
    assert attributes.pop("hiergal_run") != other.pop("hiergal_run"), "of another format"
    assert attributes == other and other["hiergal_kind"] == "galaxies"
    assert (attributes["pixel_scale_arcsec"], attributes["seed"], attributes["unit"]) == (
        0.03,
        4,
        "counts / s",
    )
    for name, column in catalog.items():
        for found in (table[name], stored[name], group[f"conditions/{name}"][:]):
            np.testing.assert_array_equal(np.asarray(found), column)


class Cut(Exception):
    pass


@pytest.mark.parametrize("suffix", [".fits", ".hdf5", ".zarr"])
def test_an_interrupted_run_goes_on(folder, catalog, profiles, tmp_path, monkeypatch, suffix):
    out, write = tmp_path / f"g{suffix}", galaxy_files.write_galaxies
    parts = []

    def cut_short(path, kind, first, found):
        if len(parts) == 1:
            write(path, kind, first, np.full_like(found[:3], 7.0) if kind != ".zarr" else found)
            raise Cut  # in the middle of the second part
        parts.append(first)
        write(path, kind, first, found)

    monkeypatch.setattr(catalog_sampling, "write_galaxies", cut_short)
    with pytest.raises(Cut):
        sample_catalog(folder, catalog, out, **HOW)
    assert not out.exists()

    def count(path, kind, first, found):
        parts.append(first)
        write(path, kind, first, found)

    monkeypatch.setattr(catalog_sampling, "write_galaxies", count)
    sample_catalog(folder, catalog, out, **HOW)
    assert parts == [0, 8, 16]
    np.testing.assert_array_equal(images(out), profiles)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_journals_of_other_runs_are_refused(folder, catalog, tmp_path, monkeypatch):
    out = tmp_path / "g.zarr"
    monkeypatch.setattr(catalog_sampling, "sample_part", lambda *task: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sample_catalog(folder, catalog, out, **HOW)
    with pytest.raises(FileExistsError, match="with other seed; finish that one with its own command"):
        sample_catalog(folder, catalog, out, seed=5, progress=False)
    other = dict(catalog, zphot=catalog["zphot"] + 0.01)
    with pytest.raises(FileExistsError, match="other conditions"):
        sample_catalog(folder, other, out, outside="ignore", **HOW)
    (tmp_path / ".g.zarr.hiergal/run.json").write_text("nonsense\n")  # then nothing of it is used
    monkeypatch.undo()
    sample_catalog(folder, catalog, out, **HOW)


RUN = """
import sys
from hiergal.simulate import catalog as catalog_sampling, files as galaxy_files
catalog_sampling.GALAXIES_PER_TASK = galaxy_files.GALAXIES_PER_CHUNK = 8
if __name__ == "__main__":
    from hiergal.simulate.catalog import sample_catalog
    sample_catalog(sys.argv[1], None, sys.argv[2], seed=4, galaxies=1000, progress=False, workers=int(sys.argv[3]))
"""


def test_a_run_that_was_killed_goes_on(folder, tmp_path):
    out = tmp_path / "g.fits"
    whole = sample_catalog(folder, None, tmp_path / "whole.fits", galaxies=1000, **HOW)
    script = tmp_path / "run.py"
    script.write_text(RUN)
    process = subprocess.Popen([sys.executable, str(script), str(folder), str(out), "1"])
    journal = tmp_path / ".g.fits.hiergal/journal"
    deadline = time.monotonic() + 120
    while not journal.exists() or journal.read_text().count("\n") < 20:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists() and journal.read_text().count("\n") < 126
    sample_catalog(folder, None, out, galaxies=1000, **HOW)
    np.testing.assert_array_equal(images(out), images(whole))


def test_workers_write_the_same(folder, catalog, profiles, tmp_path):
    out = sample_catalog(folder, catalog, tmp_path / "g.hdf5", workers=2, **HOW)
    np.testing.assert_array_equal(images(out), profiles)


def test_memory_does_not_grow_with_the_catalogue(folder, tmp_path, monkeypatch):
    """From 2,000 galaxies to 10,000, of 33 MB: less than a third of what they take."""
    monkeypatch.setattr(catalog_sampling, "GALAXIES_PER_TASK", 512)
    monkeypatch.setattr(galaxy_files, "GALAXIES_PER_CHUNK", 512)
    process, rss = psutil.Process(), []
    for count in (2000, 2000, 10000):
        sample_catalog(folder, None, tmp_path / f"{len(rss)}.zarr", galaxies=count, **HOW)
        rss.append(process.memory_info().rss)
    assert rss[2] - rss[1] < 33e6 / 3


def test_stamps_as_a_survey_sees_them(folder, catalog, profiles, tmp_path):
    clean = sample_catalog(
        folder, catalog, tmp_path / "c.fits", observing=Observing("LSST", "i", 24, noise=False), **HOW
    )
    noisy = sample_catalog(folder, catalog, tmp_path / "n.fits", observing=Observing("LSST", "i", 24), **HOW)
    about, model = survey_conditions("LSST", "i"), load_model(folder)
    draw = renderer_for(model, survey_psf("LSST", "i"), pixel_scale_arcsec=about.pixel_scale, shape=(24, 24))
    electrons = 10 ** (0.4 * (about.zero_point - 25.94)) * np.asarray(draw(profiles))
    np.testing.assert_allclose(images(clean), electrons, rtol=1e-4, atol=1e-4 * electrons.max())
    scatter = (images(noisy) - images(clean)) / np.sqrt(images(clean) + about.sky_level)
    assert abs(scatter.var() - 1) < 4 * np.sqrt(2 / scatter.size)
    assert fits.getheader(noisy)["BUNIT"] == "electron" and fits.getheader(noisy)["PIXSCALE"] == 0.2


def test_a_model_that_was_replaced_is_read_again(folder, catalog, profiles, tmp_path):
    """In the same process, by the same name."""
    model, path = load_model(folder), tmp_path / "model"
    save_model(model, path)
    np.testing.assert_array_equal(
        images(sample_catalog(path, catalog, tmp_path / "first.zarr", **HOW)), profiles
    )
    other = model.replace(params=jax.tree.map(lambda leaf: leaf + 0.1, model.params))
    save_model(other, path, overwrite=True)
    found = images(sample_catalog(path, catalog, tmp_path / "second.zarr", **HOW))
    np.testing.assert_array_equal(found, draw_profiles(other, catalog, key=key_for(4, SAMPLE)))


@pytest.mark.parametrize("observing", [Observing("LSST", "i", 0), Observing("Nowhere", "i")])
def test_surveys_that_cannot_be_drawn_leave_nothing_behind(folder, catalog, tmp_path, observing):
    with pytest.raises(ValueError):
        sample_catalog(folder, catalog, tmp_path / "g.fits", observing=observing, **HOW)
    assert not list(tmp_path.iterdir())


def test_catalogues_on_disk(folder, catalog, profiles, tmp_path):
    table = Table(catalog | {"other": np.arange(N)})
    table.write(tmp_path / "c.fits")
    table.write(tmp_path / "c.ecsv")
    table.to_pandas().to_parquet(tmp_path / "c.parquet")
    for name in ("c.fits", "c.ecsv", "c.parquet"):
        found = read_catalog(tmp_path / name, tuple(catalog))
        for column in catalog:
            np.testing.assert_allclose(np.asarray(found[column]), catalog[column], rtol=1e-6)
    assert "other" not in read_catalog(tmp_path / "c.parquet", tuple(catalog)).colnames
    out = sample_catalog(folder, tmp_path / "c.fits", tmp_path / "g.zarr", **HOW)
    np.testing.assert_array_equal(images(out), profiles)
    for name in catalog:
        table.rename_column(name, f"{name.upper()}_X")
    table.write(tmp_path / "d.csv")
    named = [f"{name}={name}_x" for name in catalog]
    out = sample_catalog(folder, tmp_path / "d.csv", tmp_path / "h.zarr", columns=named, **HOW)
    np.testing.assert_array_equal(images(out), profiles)


BAD = [
    ({"out": "g.txt"}, ValueError, "out: expected a name that ends in .fits, .hdf5, .zarr"),
    ({"workers": 0}, ValueError, "workers: expected at least 1"),
    ({"catalog": None}, ValueError, "galaxies: expected a catalogue, or a positive number"),
    ({"galaxies": 3}, ValueError, "galaxies: expected none with a catalogue of 21 rows"),
    ({"catalog": {"mag_auto": [], "flux_radius": [], "zphot": []}}, ValueError, "expected rows, got none"),
    ({"observing": Observing("Hubble", "i")}, ValueError, "survey: expected one of"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_requests_leave_nothing(folder, catalog, tmp_path, change, error, message):
    options = {"catalog": catalog, "out": "g.fits"} | change
    with pytest.raises(error, match=message):
        sample_catalog(folder, options.pop("catalog"), tmp_path / options.pop("out"), **options, **HOW)
    assert not list(tmp_path.iterdir())


def test_galaxies_unlike_those_trained_on(folder, catalog, tmp_path):
    bright = dict(catalog, mag_auto=np.full(N, 12.0))
    with pytest.raises(ValueError, match="21 of 21 galaxies"):
        sample_catalog(folder, bright, tmp_path / "g.fits", outside="raise", **HOW)
    with pytest.warns(UserWarning, match="21 of 21 galaxies"):
        sample_catalog(folder, bright, tmp_path / "g.fits", **HOW)


def test_a_full_disk_is_known_before_anything_is_drawn(folder, catalog, tmp_path, monkeypatch):
    def full(file, offset, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    for suffix in (".fits", ".hdf5"):
        with pytest.raises(OSError, match="No space left"):
            sample_catalog(folder, catalog, tmp_path / f"g{suffix}", **HOW)
    assert not list(tmp_path.iterdir())


def test_keys_are_those_of_the_seed(folder, catalog):
    """The file of a seed can be drawn again in Python."""
    again = draw_profiles(load_model(folder), catalog, key=jax.random.fold_in(jax.random.key(4), SAMPLE))
    assert again.shape == (N, 32, 32)
