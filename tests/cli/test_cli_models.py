"""The command ``hiergal models``: what it says of models, and what it does with them."""

import contextlib
import hashlib
import importlib
import io
import json
import shutil
import sys

import msgspec
import pytest
import tomli_w
from registry_server import serve
from toys import drawing_model, tiny_model, tiny_recipe
from typer.testing import CliRunner

from hiergal.cli import app as cli
from hiergal.hub import cache, load_model, save_model
from hiergal.hub.published import Published
from hiergal.recipe.recipe import recipe_to_toml

LOCATE = importlib.import_module("hiergal.hub.names")  # the package has a function of the same name
PUBLISHED = Published("packaged", "2.0", "CC-BY-4.0", "came with it", "tests", "all", "none")
METRICS = {"chi_square": 1.0234567, "validation": {"passed": True, "alpha": 0.01}, "figures": ["a.png"]}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A registry with one model, and the folder of a packaged one."""
    folder = tmp_path_factory.mktemp("files")
    save_model(drawing_model(), folder / "registry/toy.safetensors", metrics=METRICS)
    save_model(tiny_model(tiny_recipe((16, 24))), folder / "packaged")
    (folder / "packaged/published.toml").write_text(tomli_w.dumps(msgspec.to_builtins(PUBLISHED)))
    size = (folder / "registry/toy.safetensors").stat().st_size
    entry = {
        "name": "toy",
        "version": "1.0",
        "url": "toy.safetensors",
        "sha256": sha256(folder / "registry/toy.safetensors"),
        "size": size,
        "licence": "MIT",
        "description": "[bold]a \x1b[31mtoy",
    }
    (folder / "registry/index.toml").write_text(tomli_w.dumps({"schema_version": 1, "model": [entry]}))
    return folder


def flip_a_bit(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def home(files, tmp_path, monkeypatch):
    """A person with one registry and one packaged model, and an empty cache."""
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("HIERGAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HIERGAL_REGISTRIES", str(files / "registry"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    shutil.copytree(files / "packaged", tmp_path / "packaged")
    monkeypatch.setattr(LOCATE, "packaged_models", lambda *_: iter([(tmp_path / "packaged", PUBLISHED)]))
    return tmp_path


def models(*words, status=0):
    result = CliRunner().invoke(cli.app, ["models", *(str(word) for word in words)])
    assert result.exit_code == status, (result.output, result.exception)
    return result.output


def error_of(monkeypatch, *words):
    """What the command says as it fails."""
    monkeypatch.setattr(sys, "argv", ["hiergal", "models", *words])
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code in (2, 3)
    return said.getvalue()


def test_info_of_a_recipe(tmp_path):
    (tmp_path / "recipe.toml").write_text(recipe_to_toml(tiny_recipe((16, 24))))
    said = models("info", tmp_path / "recipe.toml")
    assert said.splitlines()[0] == "tiny: 16 x 24 pixels of 0.03 arcsec"
    assert "latents      8, full covariance" in said and "generator    " in said
    assert "survey" not in said and "zero point" not in said


@pytest.mark.parametrize("kind", ["folder", "file", "packaged", "cached", "registry"])
def test_info_of_a_model(files, tmp_path, kind):
    if kind == "folder":
        name = tmp_path / "model"
        save_model(drawing_model(), name, metrics=METRICS)
    else:
        name = {"file": files / "registry/toy.safetensors", "packaged": "hub:packaged"}.get(kind, "hub:toy")
    if kind == "cached":
        models("fetch", "toy")
    said = [line for line in models("info", name).splitlines() if not line.startswith("fetching")]
    assert "survey       toy, band F814W" in said
    assert "zero point   25.94 mag, fluxes in counts / s" in said
    assert any(line.startswith("trained on   64 galaxies") for line in said)
    assert "pixel scale  0.03 arcsec" in said
    if kind == "packaged":
        assert {"published    packaged 2.0", "licence      CC-BY-4.0", "description  came with it"} <= set(
            said
        )
        assert {
            "PSF width    not recorded",
            "mag_auto     20 to 25",
            "zphot        range not recorded",
        } <= set(said)
        assert {"densities    flow, marginal", "population   none"} <= set(said)
        return
    assert "PSF width    0.1 arcsec (median FWHM)" in said
    assert any(line.startswith("mag_auto     20.5") and line.endswith(" mag") for line in said)
    assert any(line.startswith("flux_radius  ") and line.endswith("0.03 arcsec pixels") for line in said)
    assert "population   conditions of 500 galaxies" in said
    assert {"measured     chi_square 1.023", "measured     validation.passed yes"} <= set(said)
    assert not any("a.png" in line for line in said)
    published = {"published    toy 1.0", "licence      MIT", "description  [bold]a  [31mtoy"}
    assert (published <= set(said)) == (kind in ("cached", "registry"))


def test_info_of_an_address_and_of_nothing(files, monkeypatch):
    path = files / "registry/toy.safetensors"
    with serve() as server:
        server.files["/toy.safetensors"] = path.read_bytes()
        said = models("info", f"{server.url}/toy.safetensors#sha256={sha256(path)}")
    assert "survey       toy, band F814W" in said
    assert "nowhere.toml" in error_of(monkeypatch, "info", "nowhere.toml")
    assert "hub:other: no such model" in error_of(monkeypatch, "info", "hub:other")


def test_list_says_what_is_where(files, monkeypatch):
    rows = [line.split() for line in models("list").splitlines()]
    assert rows[0] == ["name", "version", "where", "licence", "size", "description"]
    assert [row[:3] for row in rows[1:]] == [
        ["packaged", "2.0", "package"],
        ["toy", "1.0", str(files / "registry")],
    ]
    assert "[bold]a  [31mtoy" in models("list") and "\x1b" not in models("list")
    models("fetch", "toy")
    assert [line.split()[:3] for line in models("list").splitlines()][2] == ["toy", "1.0", "cache"]
    monkeypatch.setenv("HIERGAL_REGISTRIES", f"/nowhere {files / 'registry'}")
    said = models("list")
    assert "could not be read: " in said and "/nowhere" in said and "toy" in said
    found = json.loads(models("list", "--json"))
    size = (files / "registry/toy.safetensors").stat().st_size
    assert found["models"][1] == {
        "name": "toy",
        "version": "1.0",
        "where": "cache",
        "licence": "MIT",
        "size": size,
        "description": "[bold]a \x1b[31mtoy",
    }
    assert "/nowhere" in found["problems"][0] and len(found["problems"]) == 1


def test_list_of_nothing(monkeypatch):
    monkeypatch.setattr(LOCATE, "packaged_models", lambda *_: iter(()))
    monkeypatch.delenv("HIERGAL_REGISTRIES")
    assert models("list") == "no models; add a registry with `hiergal models registry add`\n"
    assert json.loads(models("list", "--json")) == {"models": [], "problems": []}


def test_fetch_says_where_a_model_is(home, monkeypatch):
    path = home / "cache/toy/1.0/model.safetensors"
    assert f"toy@1.0: fetched: {path}" in models("fetch", "toy@1.0")
    assert path.is_file()
    said = models("fetch", "toy", "hub:packaged")
    assert f"toy: was in the cache: {path}\n" in said
    assert f"hub:packaged: came with the package: {home / 'packaged'}\n" in said
    assert "hub:other: no such model" in error_of(monkeypatch, "fetch", "other")
    whole = path.read_bytes()
    path.write_bytes(b"<html>")
    with pytest.raises(ValueError, match="expected a safetensors file, got what looks like a page of HTML"):
        load_model("hub:toy")
    said = models("fetch", "toy")
    assert f"{path}: was damaged, and is fetched again" in said and f"toy: fetched: {path}" in said
    assert path.read_bytes() == whole


def test_verify_finds_what_was_changed(home, monkeypatch):
    models("fetch", "toy")
    assert models("verify") == "packaged@2.0 (package): right\ntoy@1.0 (cache): right\n"
    (found,) = cache.cached()
    flip_a_bit(found.path)
    said = models("verify", status=1)
    assert "packaged@2.0 (package): right" in said and "toy@1.0 (cache): wrong: " in said
    assert models("verify", "packaged") == "packaged@2.0 (package): right\n"
    assert "wrong" in models("verify", "hub:toy@1.0", status=1)
    flip_a_bit(home / "packaged/weights.safetensors")
    assert "packaged@2.0 (package): wrong: " in models("verify", "packaged@2.0", status=1)
    (found.path.parent / "entry.toml").unlink()
    assert "toy@1.0 (cache): wrong: " in models("verify", "toy", status=1)
    said = error_of(monkeypatch, "verify", "other")
    assert "other: expected a model in the package or in the cache (packaged@2.0, toy@1.0)" in said


def test_registries_are_added_listed_and_removed(home, files, monkeypatch):
    shutil.copytree(files / "registry", home / "second")
    assert models("registry", "add", home / "second") == f"{home / 'second'}: toy@1.0\n"
    assert models("registry", "list").split() == [str(files / "registry"), str(home / "second")]
    models("registry", "remove", home / "second")
    assert models("registry", "list").split() == [str(files / "registry")]
    assert "expected one of the registries" in error_of(monkeypatch, "registry", "remove", "other")
    assert "nowhere" in error_of(monkeypatch, "registry", "add", str(home / "nowhere"))


@pytest.mark.parametrize(
    "words", [(), ("list",), ("info",), ("fetch",), ("verify",), ("registry",), ("registry", "add")]
)
def test_help_is_there(words):
    assert "Usage" in models(*words, "--help")
