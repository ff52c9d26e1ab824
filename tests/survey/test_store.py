"""The store: what goes in comes out, little is read for few galaxies, and damage is told in words."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from hiergal.runtime import work
from hiergal.survey import StoreHeader, open_survey, write_store
from hiergal.survey.schema import manifest_of

HEADER = StoreHeader(
    survey="test",
    band="F814W",
    pixel_scale_arcsec=0.03,
    magnitude_zero_point=25.94,
    provenance={"seed": np.int64(3)},
    catalog_units={"flux_radius": "pixels of 0.03 arcsec"},
)
FIELDS = {"white": "sigma", "pixel": "sigma", "stationary": "power"}


@pytest.fixture
def store(tmp_path, make_observation):
    """A store with two shards of galaxies in batches that do not fit into them."""
    observation = make_observation("stationary", n=300)
    batches = [
        (observation[first : first + 70], 2 * observation[first : first + 70].image)
        for first in range(0, 300, 70)
    ]
    return write_store(tmp_path / "survey.zarr", HEADER, batches, total=300)


def assert_same(one, other):
    """Compare two observations exactly."""
    for name in ("image", "mask", "identifier"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(one.psf.stamp, other.psf.stamp)
    assert type(one.noise) is type(other.noise)
    field = FIELDS[type(one.noise).__name__.removesuffix("Noise").lower()]
    np.testing.assert_array_equal(getattr(one.noise, field), getattr(other.noise, field))
    assert sorted(one.catalog) == sorted(other.catalog)
    for name in one.catalog:
        np.testing.assert_array_equal(one.catalog[name], other.catalog[name])
    assert one.pixel_scale_arcsec == other.pixel_scale_arcsec


@pytest.mark.parametrize(
    ("noise", "masked"),
    [("white", False), ("white", True), ("pixel", True), ("stationary", False), ("stationary", True)],
)
def test_round_trip(tmp_path, make_observation, noise, masked):
    observation = make_observation(noise, n=7, masked=masked)
    truth = np.abs(np.nan_to_num(observation.image))
    store = write_store(
        tmp_path / "s.zarr", HEADER, [(observation[:3], truth[:3]), (observation[3:], truth[3:])]
    )
    assert len(store) == 7 and store.shape == (11, 14) and store.noise_kind == noise and store.has_truth
    back = store.read()
    assert_same(back, observation)
    assert {np.asarray(a).dtype for a in (back.image, back.psf.stamp, back.catalog["zphot"])} == {
        np.dtype("float32")
    }
    np.testing.assert_array_equal(store.truth(), truth)
    if noise == "stationary":
        assert back.noise.width == 14


def test_any_rows_in_any_order(store):
    everything = store.read()
    for rows in (
        slice(250, 290),
        [299, 3, 3, 120],
        np.array([-1, 0]),
        5,
        np.arange(300) % 97 == 0,
        slice(5, 5),
    ):
        index = np.atleast_1d(np.arange(300)[rows])
        assert_same(store.read(rows), everything[index])
        np.testing.assert_array_equal(store.truth(rows), 2 * everything.image[index])
    with pytest.raises(IndexError, match="expected rows among the 300 galaxies"):
        store.read([300])


def test_columns_keep_their_precision_and_units(store):
    assert store.catalog["mag_auto"].dtype == np.float64 and store.identifier.dtype == np.int64
    units = {name: array.attrs["unit"] for name, array in store._arrays.items()}
    assert all(units.values())
    assert (
        units["image"] == "(counts per second) per pixel"
        and units["noise"] == "((counts per second) per pixel)^2"
    )
    assert units["catalog/mag_auto"] == "mag" and units["catalog/flux_radius"] == "pixels of 0.03 arcsec"
    assert (
        store.header.provenance["seed"] == 3
        and store.header.provenance["versions"]["numpy"] == np.__version__
    )
    assert "300 galaxies of test F814W, 11 x 14" in repr(store)


def test_split_keeps_the_catalogue_order(store):
    split = store.split(validation=0.1, test=50)
    assert [len(part) for part in split] == [220, 30, 50]
    np.testing.assert_array_equal(np.concatenate(split), np.arange(300))
    np.testing.assert_array_equal(split.test, store.split(validation=0.1, test=50).test)
    for wrong in (
        {"validation": 0.5, "test": 0.5},
        {"validation": -1, "test": 0},
        {"validation": 1.5, "test": 0},
    ):
        with pytest.raises(ValueError, match="to train with"):
            store.split(**wrong)


def test_few_galaxies_are_read_without_reading_everything(store):
    import tensorstore

    def bytes_read() -> int:
        metrics = tensorstore.experimental_collect_matching_metrics("/tensorstore/kvstore/file/bytes_read")
        return sum(value["value"] for metric in metrics for value in metric["values"])

    before = bytes_read()
    store.truth([3, 290])
    size = sum(entry[0] for name, entry in manifest_of(store.path).items() if name.startswith("truth/"))
    read = bytes_read() - before
    assert 0 < read < size / 4  # two chunks of four galaxies and two indices, out of 300 galaxies


def test_real_surveys_have_no_truth(tmp_path, make_observation):
    store = write_store(tmp_path / "s.zarr", HEADER, [(make_observation(), None)])
    with pytest.raises(ValueError, match="expected a simulated survey with true profiles"):
        store.truth()


def test_same_input_gives_the_same_bytes(tmp_path, make_observation):
    paths = [tmp_path / name for name in ("a.zarr", "b.zarr")]
    for path in paths:
        write_store(path, HEADER, [(make_observation("pixel", masked=True), None)])
    one, other = ({f.relative_to(p): f.read_bytes() for f in p.rglob("*") if f.is_file()} for p in paths)
    assert one == other


# Damage, each with the words that it gives


def shard_of(store, name):
    return min(file for file in (store.path / name / "c").rglob("*") if file.is_file())


def truncate(store):
    shard = shard_of(store, "psf")
    shard.write_bytes(shard.read_bytes()[:-100])


def remove_shard(store):
    shard_of(store, "image").unlink()


def remove_manifest(store):
    (store.path / "manifest.json").unlink()


def remove_root(store):
    (store.path / "zarr.json").unlink()


def foreign(store):
    (store.path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')


def edit_attributes(store, **changes):
    path = store.path / "zarr.json"
    root = json.loads(path.read_text())
    root["attributes"] |= changes
    path.write_text(json.dumps(root))


def future(store):
    edit_attributes(store, schema_version=99)


def ancient(store):
    edit_attributes(store, schema_version=0)


def edit_metadata(store):
    edit_attributes(store, number_of_galaxies=12)


def edit_consistently(store):
    edit_attributes(store, number_of_galaxies=12)
    (store.path / "manifest.json").write_text(json.dumps({"files": manifest_of(store.path)}))


def drop_column_consistently(store):
    edit_attributes(store, catalog=["mag_auto", "hlr_arcsec"])
    (store.path / "manifest.json").write_text(json.dumps({"files": manifest_of(store.path)}))


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (truncate, OSError, "1 missing, truncated or changed .*psf.*copy the store again"),
        (remove_shard, OSError, "1 missing, truncated or changed .*image.*no such file"),
        (remove_manifest, OSError, "expected a complete store with manifest.json"),
        (remove_root, OSError, "without zarr.json"),
        (foreign, ValueError, "got something else"),
        (future, ValueError, "got version 99 .*upgrade hiergal"),
        (ancient, ValueError, "got version 0 .*write the survey again"),
        (edit_metadata, OSError, "truncated or changed .*zarr.json"),
        (edit_consistently, ValueError, "image: expected 12 stamps"),
        (drop_column_consistently, ValueError, "got none of the name catalog/hlr_arcsec"),
    ],
)
def test_damage_is_seen_at_opening(store, damage, error, words):
    damage(store)
    with pytest.raises(error, match=f"(?s){words}"):
        open_survey(store.path)


@pytest.mark.parametrize("where", [50, -20])
def test_flipped_bytes_are_seen_at_reading(store, where):
    """In a chunk, and in the index at the end of the shard."""
    shard = shard_of(store, "image")
    data = bytearray(shard.read_bytes())
    data[where] ^= 0x10
    shard.write_bytes(data)
    damaged = open_survey(store.path)
    with pytest.raises(OSError, match="damaged array 'image'.*copy the store again"):
        damaged.read()


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder.*hiergal survey"):
        open_survey(tmp_path / "nowhere.zarr")


# Writing


def test_existing_things_are_replaced_only_when_asked(tmp_path, make_observation):
    path = tmp_path / "s.zarr"
    write_store(path, HEADER, [(make_observation(n=3), None)])
    with pytest.raises(FileExistsError, match="a finished survey of another run.*--overwrite"):
        write_store(path, HEADER, [(make_observation(n=4), None)])
    assert len(write_store(path, HEADER, [(make_observation(n=4), None)], overwrite=True)) == 4
    assert os.listdir(tmp_path) == ["s.zarr"]
    (path / "chapter.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="chapter.tex in it; it is left as it is"):
        write_store(path, HEADER, [(make_observation(), None)], overwrite=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="got something else"):
        write_store(tmp_path / "thesis", HEADER, [(make_observation(), None)], overwrite=True)
    assert (path / "chapter.tex").read_text() == (tmp_path / "thesis/chapter.tex").read_text() == "mine"


def test_a_failing_batch_leaves_nothing_and_keeps_the_old_store(tmp_path, make_observation):
    path = tmp_path / "s.zarr"
    write_store(path, HEADER, [(make_observation(n=3), None)])
    faulty = make_observation(n=3)
    faulty.image[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="mask those pixels"):
        write_store(path, HEADER, [(make_observation(n=300), None), (faulty, None)], overwrite=True)
    assert os.listdir(tmp_path) == ["s.zarr"] and len(open_survey(path)) == 3


def test_batches_that_do_not_fit_are_refused(tmp_path, make_observation):
    one = make_observation()
    others = {
        "like the first": make_observation(shape=(11, 13)),
        "noise_kind": make_observation("pixel"),
        "has_mask": make_observation(masked=True),
        "catalog": one.replace(catalog={}),
    }
    for words, other in others.items():
        with pytest.raises(ValueError, match=words):
            write_store(tmp_path / "s.zarr", HEADER, [(one, None), (other, None)])
    with pytest.raises(ValueError, match="pixel scale of the header"):
        psf = one.psf.replace(pixel_scale_arcsec=0.1)
        write_store(tmp_path / "s.zarr", HEADER, [(one.replace(psf=psf, pixel_scale_arcsec=0.1), None)])
    with pytest.raises(ValueError, match="columns named"):
        write_store(tmp_path / "s.zarr", HEADER, [(one.replace(catalog={"a/b": one.catalog["zphot"]}), None)])
    with pytest.raises(ValueError, match="true profiles of the image's shape"):
        write_store(tmp_path / "s.zarr", HEADER, [(one, one.image[:, :-1])])
    with pytest.raises(ValueError, match="at least one galaxy"):
        write_store(tmp_path / "s.zarr", HEADER, [(one[:0], None)])
    assert os.listdir(tmp_path) == []


def test_progress_is_logged(tmp_path, make_observation, caplog):
    with caplog.at_level("INFO", "hiergal"):
        write_store(tmp_path / "s.zarr", HEADER, [(make_observation(), None)], total=3, progress=True)
    assert [record.message for record in caplog.records][0] == "writing s.zarr begins, 3 in all"
    assert "writing s.zarr: 3 of 3; done in 0 s" in caplog.text


KILLED = """
    import time, numpy as np
    from hiergal.observation.independent import WhiteNoise
    from hiergal.observation import Observation
    from hiergal.observation.psf import PSF
    from hiergal.survey import StoreHeader, write_store

    def batches():
        for first in range(0, 10**9, 256):
            psf = PSF(np.full((256, 3, 5), 1 / 15), pixel_scale_arcsec=0.03)
            noise = WhiteNoise(np.ones(256))
            yield Observation(np.ones((256, 8, 6)), psf, noise, None, {}, np.arange(256), pixel_scale_arcsec=0.03), None
            print(first, flush=True)
            time.sleep(0.02)

    header = StoreHeader(survey="x", band="y", pixel_scale_arcsec=0.03, magnitude_zero_point=25.94)
    write_store(PATH, header, batches(), overwrite=True)
"""


@pytest.mark.parametrize("existing", [False, True])
def test_a_killed_run_trips_nobody(tmp_path, make_observation, existing):
    path = tmp_path / "s.zarr"
    if existing:
        write_store(path, HEADER, [(make_observation(n=3), None)])
    code = textwrap.dedent(KILLED).replace("PATH", repr(str(path)))
    run = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ | {"JAX_PLATFORMS": "cpu"}
    )
    for _ in range(3):
        run.stdout.readline()
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    run.stdout.close()
    assert path.with_name(".s.zarr.hiergal").exists()
    if existing:
        assert len(open_survey(path)) == 3
    else:
        with pytest.raises(FileNotFoundError, match="a run that was stopped left its parts"):
            open_survey(path)
    assert len(write_store(path, HEADER, [(make_observation(n=4), None)], overwrite=True)) == 4
    assert os.listdir(tmp_path) == ["s.zarr"]


def test_a_run_killed_between_the_two_renames(tmp_path, make_observation, monkeypatch):
    """Where two names cannot be exchanged in one step: who reads it next finds the new survey."""
    path = tmp_path / "s.zarr"
    write_store(path, HEADER, [(make_observation(n=3), None)])
    monkeypatch.setattr(work, "exchange", lambda *names: False)
    real = os.rename

    def killed(source, target):
        if str(target) == str(path):
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            write_store(path, HEADER, [(make_observation(n=4), None)], overwrite=True)
    assert not path.exists()
    assert len(open_survey(path)) == 4 and os.listdir(tmp_path) == ["s.zarr"]
