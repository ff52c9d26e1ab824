"""Files from others: nothing in them runs, waits, fills the memory, or leads elsewhere; damage is noticed."""

import json
import os
import shutil
import time

import h5py
import msgspec
import numpy as np
import pytest
import zarr
from conftest import awkward_psf
from toys import bare_posterior, tiny_model, tiny_survey

from hiergal.hub import load_model, save_model
from hiergal.posterior.arviz_files import tree_of
from hiergal.posterior.to_arviz import load_arviz, posterior_to_arviz, save_arviz
from hiergal.recipe.recipe import load_recipe, parse_recipe
from hiergal.runtime.containers import check_hdf5, check_zarr
from hiergal.runtime.texts import parse_toml, read_text

SECONDS = 5.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[generator]\nblocks = 0", ">= 1 - at `$.generator.blocks`"),
        ("[generator]\nblocks = 1000000000", "<= 64 - at `$.generator.blocks`"),
        ("[encoder]\nchannels = 0", ">= 1 - at `$.encoder.channels`"),
        ("[encoder]\nfeatures = 100000000", "<= 16384 - at `$.encoder.features`"),
        ("[encoder]\nkind = 'lanusse2020'\ndepths = []", "length >= 1 - at `$.encoder.depths`"),
        ("[generator]\nkind = 'lanusse2020'\ndepths = [32, -1]", ">= 1 - at `$.generator.depths[1]`"),
        ("[generator]\nlog_flux_mean = inf", "at `$.generator.log_flux_mean`"),
        ("[generator]\nlog_flux_spread = 0.0", "> 0.0 - at `$.generator.log_flux_spread`"),
        ("[training]\nlearning_rate = inf", "at `$.training.learning_rate`"),
        ("[training]\nlearning_rate = nan", "at `$.training.learning_rate`"),
        ("[training]\nsteps = -1", ">= 1 - at `$.training.steps`"),
        ("[training.augmentation]\nshift_pix = -1.0", "at `$.training.augmentation.shift_pix`"),
        ("[flow]\nhidden = 0", ">= 1 - at `$.flow.hidden`"),
        ("[flow]\nbetas = [0.9, 1.0]", "< 1.0 - at `$.flow.betas[1]`"),
        ("shape = [64, 1000000000]", "<= 4096 - at `$.shape[1]`"),
        ("pixel_scale_arcsec = inf", "at `$.pixel_scale_arcsec`"),
        ("name = ''", "length >= 1 - at `$.name`"),
    ],
)
def test_numbers_of_recipes_are_bounded(text, message):
    with pytest.raises(ValueError) as error:
        parse_recipe(text, "mine.toml")
    assert message in str(error.value) and str(error.value).startswith("mine.toml: ")


@pytest.mark.parametrize(
    "text",
    [
        "a" + ".a" * 30_000 + " = 1",
        "[" + "a." * 30_000 + "a]",
        '"' + '"."'.join(["a"] * 30_000) + '" = 1',
        "x = { " + "a . " * 30_000 + "a = 1 }",
        "x = " + "[" * 100_000,
        "x = " + "{a = " * 5_000,
        "a" * 4_000_000,
        "x = '" + "a" * 9_000_000 + "'",
    ],
    ids=["dotted", "heading", "quoted", "inline", "brackets", "braces", "word", "large"],
)
def test_texts_that_would_fill_the_memory_are_refused(text):
    began = time.process_time()
    with pytest.raises(ValueError, match="^registry: expected a TOML file"):
        parse_toml(text, "registry")
    assert time.process_time() - began < SECONDS


def test_ordinary_texts_are_read():
    text = 'a.b.c = "x.y.z"\n"d.e" = [0.1, 0.2]\n[f.g]\nh = """\n' + "w." * 20 + '\n"""\n'
    assert parse_toml(text, "demo")["f"]["g"]["h"] == "w." * 20 + "\n"


def test_pipes_and_large_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "recipe.toml")
    with pytest.raises(OSError, match="expected a file, got a pipe"):
        load_recipe(tmp_path / "recipe.toml")
    (tmp_path / "large").write_bytes(b"a" * 1001)
    with pytest.raises(ValueError, match="at most 1,000 bytes"):
        read_text(tmp_path / "large", 1000)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="UTF-8"):
        read_text(tmp_path / "binary")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value):
    model = tiny_model()
    params = {name: dict(tree) for name, tree in model.params.items()}
    first = next(iter(params["encoder$params"]))
    leaf = next(iter(params["encoder$params"][first]))
    spoilt = np.array(params["encoder$params"][first][leaf])
    spoilt.flat[0] = value
    params["encoder$params"][first] = dict(params["encoder$params"][first]) | {leaf: spoilt}
    save_model(model.replace(params=params), tmp_path / "m")
    with pytest.raises(ValueError, match=rf"params/encoder\$params/{first}/{leaf}: expected finite numbers"):
        load_model(tmp_path / "m")


@pytest.fixture(scope="module")
def data():
    model, galaxies = tiny_model(), tiny_survey(3, (16, 24), awkward_psf(3))
    latents = np.random.default_rng(1).normal(size=(6, 3, model.recipe.generator.latents))
    return posterior_to_arviz(bare_posterior(latents, galaxies), galaxies, model)


@pytest.fixture(params=[".nc", ".zarr"])
def written(request, data, tmp_path):
    save_arviz(data, tmp_path / f"p{request.param}")
    return tmp_path / f"p{request.param}"


def test_every_flipped_bit_is_noticed_or_changes_nothing(written):
    """60 bits of each format: what is read is what was written, or nothing."""
    reference, rng = tree_of(load_arviz(written)), np.random.default_rng(0)
    files = [written] if written.is_file() else sorted(f for f in written.rglob("*") if f.is_file())
    sizes = np.array([file.stat().st_size for file in files], float)
    noticed = 0
    for _ in range(60):
        file = files[rng.choice(len(files), p=sizes / sizes.sum())]
        before = file.read_bytes()
        damaged = bytearray(before)
        damaged[rng.integers(len(before))] ^= 1 << rng.integers(8)
        file.write_bytes(damaged)
        try:
            assert tree_of(load_arviz(written)).identical(reference), file
        except (OSError, ValueError):
            noticed += 1
        file.write_bytes(before)
    assert noticed > 30


def test_old_files_have_no_digest_and_load(written):
    if written.is_file():
        with h5py.File(written, "r+") as file:
            del file.attrs["hiergal_content"]
    else:
        root = json.loads((written / "zarr.json").read_text())
        del root["attributes"]["hiergal_content"]
        (written / "zarr.json").write_text(json.dumps(root))
    assert "posterior" in tree_of(load_arviz(written)).children


def test_zarr_of_version_2_is_refused(tmp_path):
    """Its filters may unpickle."""
    zarr.open_group(tmp_path / "old.zarr", mode="w", zarr_format=2)
    with pytest.raises(OSError, match="got version 2 .*codecs may execute code"):
        load_arviz(tmp_path / "old.zarr")


def test_codecs_of_others_are_refused(data, tmp_path):
    save_arviz(data, tmp_path / "p.zarr")
    file = tmp_path / "p.zarr/posterior/z/zarr.json"
    about = json.loads(file.read_text())
    about["codecs"][0] = {"name": "numcodecs.pickle", "configuration": {}}
    file.write_text(json.dumps(about))
    with pytest.raises(OSError, match=r"got 'numcodecs.pickle' in posterior/z/zarr.json"):
        load_arviz(tmp_path / "p.zarr")


def test_links_out_of_a_store_are_refused(data, tmp_path):
    save_arviz(data, tmp_path / "p.zarr")
    chunk = next(f for f in (tmp_path / "p.zarr/posterior/z/c").rglob("*") if f.is_file())
    shutil.move(chunk, tmp_path / "secret")
    chunk.symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="got a link out of it: posterior/z/c"):
        check_zarr(tmp_path / "p.zarr")
    with pytest.raises(OSError, match="got a link out of it"):
        load_arviz(tmp_path / "p.zarr")


def external_storage(file, secret):
    file.create_dataset("d", (4,), "u1", external=[(str(secret), 0, 4)])


def external_link(file, secret):
    file["d"] = h5py.ExternalLink(str(secret), "/x")


def soft_link(file, secret):
    file["d"] = h5py.SoftLink("/elsewhere")


def virtual(file, secret):
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource(str(secret), "x", (4,))
    file.create_virtual_dataset("d", layout)


@pytest.mark.parametrize("make", [external_storage, external_link, soft_link, virtual])
def test_hdf5_that_reads_other_files_is_refused(tmp_path, make):
    (tmp_path / "secret").write_bytes(b"1234")
    with h5py.File(tmp_path / "p.nc", "w") as file:
        make(file.create_group("posterior"), tmp_path / "secret")
    with pytest.raises(ValueError, match="at /posterior/d"):
        check_hdf5(tmp_path / "p.nc")
    with pytest.raises(OSError, match="at /posterior/d"):
        load_arviz(tmp_path / "p.nc")


def test_models_from_before_keep_their_digest(tmp_path):
    """A field of a provenance that came later changes no digest, unless it says something."""
    from hiergal.hub.bundle import FIRST_FIELDS
    from hiergal.model.provenance import Provenance

    names = tuple(field.name for field in msgspec.structs.fields(Provenance))
    assert names[: len(FIRST_FIELDS)] == FIRST_FIELDS
    assert load_model("hub:mock-acs").provenance.survey == "mock"


@pytest.mark.parametrize(
    "text",
    [
        'x = {y = """a"b""", ' + "a." * 20_000 + 'a = 1, z = "" }',
        "".join(f"{'a.' * 30}a{i} = 1\n" for i in range(60_000)),
        "a = " + "9" * 5_000,
        "a = " + '\\"' * 200_000,
    ],
    ids=["hidden behind a string", "many keys", "digits", "quotes"],
)
def test_keys_are_counted_wherever_they_stand(text):
    began = time.process_time()
    with pytest.raises(ValueError, match="^registry: expected a TOML file"):
        parse_toml(text, "registry")
    assert time.process_time() - began < SECONDS


@pytest.mark.parametrize("shape", [[2**40], [2**20, 2**20, 4], [-1], ["a"], None])
def test_zarr_that_declares_more_than_it_has_is_refused(data, tmp_path, shape):
    save_arviz(data, tmp_path / "p.zarr")
    file = tmp_path / "p.zarr/posterior/z/zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"shape": shape}))
    with pytest.raises((ValueError, OSError), match="expected (arrays of about|shapes of whole numbers)"):
        check_zarr(tmp_path / "p.zarr")
    with pytest.raises(OSError, match="expected"):
        load_arviz(tmp_path / "p.zarr")


def test_hdf5_that_declares_more_than_it_has_is_refused(tmp_path):
    with h5py.File(tmp_path / "p.nc", "w") as file:
        file.create_dataset("d", (2**40,), "f4", chunks=(2**20,))
    with pytest.raises(ValueError, match="expected arrays of about the size of the files"):
        check_hdf5(tmp_path / "p.nc")


@pytest.mark.parametrize(
    ("first", "target", "refused"),
    [
        ("https://8.8.8.8/index.toml", "http://127.0.0.1/m", "https address"),
        ("https://8.8.8.8/index.toml", "https://127.0.0.1/m", "public address"),
        ("https://8.8.8.8/index.toml", "https://10.0.0.7/m", "public address"),
        ("https://8.8.8.8/index.toml", "https://169.254.169.254/m", "public address"),
        ("https://8.8.8.8/index.toml", "https://[::1]/m", "public address"),
        ("https://8.8.8.8/index.toml", "https://[::ffff:127.0.0.1]/m", "public address"),
        ("https://8.8.8.8/index.toml", "https://localhost/m", "public address"),
        ("https://8.8.8.8/index.toml", "https://1.1.1.1/m", None),
        ("http://127.0.0.1:8000/index.toml", "http://127.0.0.1:8000/m", None),
        ("http://127.0.0.1:8000/index.toml", "https://1.1.1.1/m", None),
    ],
)
def test_a_registry_leads_to_no_address_of_this_machine(first, target, refused):
    from hiergal.hub.registry import _absolute, _check_same_side

    if refused is None:
        _check_same_side(first, target)
        assert _absolute(target, first) == target
        return
    with pytest.raises(ValueError, match=refused):
        _check_same_side(first, target)
    with pytest.raises(ValueError, match=refused):
        _absolute(target, first)


def test_downloads_do_not_follow_links(tmp_path):
    from hiergal.hub.cache import _own_file

    (tmp_path / "thesis").write_text("mine")
    (tmp_path / "m.part").symlink_to(tmp_path / "thesis")
    for mode in ("wb", "r+b"):
        with pytest.raises(OSError):
            _own_file(tmp_path / "m.part", mode)
    assert (tmp_path / "thesis").read_text() == "mine"


def test_lines_of_the_command_obey_nobody(capsys):
    from hiergal.runtime.log import LOGGER, log_to_stderr, say

    handlers, level = list(LOGGER.handlers), LOGGER.level
    try:
        log_to_stderr()
        say("model \x1b[2J\x1b]0;owned\x07\nsecond")
        LOGGER.info("column \x1b[31m")
    finally:
        LOGGER.handlers[:] = handlers
        LOGGER.setLevel(level)
    said = capsys.readouterr()
    assert said.out == "model  [2J ]0;owned \nsecond\n"
    assert "\x1b" not in said.err and "column  [31m" in said.err


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)], ids=["pipe", "device"]
)
@pytest.mark.parametrize("name", ["p.nc", "m.safetensors"])
def test_pipes_and_devices_keep_nobody_waiting(tmp_path, make, name):
    make(tmp_path / name)
    with pytest.raises(OSError, match="got (a named pipe|a device)"):
        (load_arviz if name == "p.nc" else load_model)(tmp_path / name)


def killed_once(number, marker):
    """A part whose first process dies."""
    import signal

    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return number
    os.kill(os.getpid(), signal.SIGKILL)


def killing(number):
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_parts_of_workers_that_are_killed_are_given_to_others(tmp_path):
    from hiergal.runtime.workers import finished_parts

    tasks = [(number, tmp_path / f"{number % 2}") for number in range(6)]
    assert sorted(finished_parts(killed_once, tasks, workers=2, scheduler=None)) == list(range(6))


@pytest.mark.slow
def test_a_part_that_kills_its_workers_is_told():
    from hiergal.runtime.workers import finished_parts

    with pytest.raises(OSError, match="processes died 4 times at the same work"):
        list(finished_parts(killing, [(0,)], workers=2, scheduler=None))
