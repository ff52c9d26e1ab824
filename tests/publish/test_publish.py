"""Publishing: a complete model becomes a folder with a card; an incomplete one is refused, and leaves nothing."""

import json
import os

import jax
import msgspec
import numpy as np
import pytest
from published_run import ABOUT, CALIBRATION, VALIDATION, complete_model
from typer.testing import CliRunner

from hiergal.cli import app as cli
from hiergal.hub import load_model, read_card, read_metrics, save_model
from hiergal.hub.published import read_published
from hiergal.hub.registry import read_registry
from hiergal.publish.publish import add_to_registry, publish


@pytest.fixture
def parts(tmp_path):
    """A run, and all that was measured of it."""
    save_model(complete_model(), tmp_path / "run" / "model")
    (tmp_path / "about.toml").write_text(ABOUT)
    (tmp_path / "validation" / "figures").mkdir(parents=True)
    (tmp_path / "validation" / "figures" / "galaxies.png").write_bytes(b"picture")
    (tmp_path / "validation" / "metrics.json").write_text(json.dumps(VALIDATION))
    (tmp_path / "flow").mkdir()
    (tmp_path / "flow" / "coverage.png").write_bytes(b"picture")
    (tmp_path / "flow" / "calibration.json").write_text(json.dumps(CALIBRATION))
    return tmp_path


def published(parts, **changes):
    options = {"validation": parts / "validation", "calibrations": [parts / "flow"], "out": parts / "models"}
    return publish(parts / "run", parts / "about.toml", **(options | changes))


def test_a_published_model_is_whole(parts):
    folder = published(parts)
    assert folder == parts / "models" / "toy"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        (
            "CARD.md",
            "coverage.png",
            "galaxies.png",
            "metrics.json",
            "model.json",
            "published.toml",
            "recipe.toml",
        )
        + ("weights.safetensors",)
    )
    assert [path.name for path in (parts / "models").iterdir()] == ["toy"]
    model, before = load_model(folder), complete_model()
    assert list(model.provenance.runs) == ["published"]
    before = before.replace(provenance=model.provenance)
    jax.tree.map(np.testing.assert_array_equal, model, before)  # rounded before, nothing is lost
    metrics = read_metrics(folder)
    assert metrics["half_precision"]["largest_change_of_peak"] == 0
    assert metrics["calibration"]["flow"]["tests_passed"] == 1 and metrics["validation"] == VALIDATION
    assert read_published(folder).licence == "MIT"


def test_the_card_says_it_all(parts):
    card = (published(parts) / "CARD.md").read_text()
    for words in (
        "# toy 1.0",
        "Not for science.",
        "Nobody et al.",
        '`hiergal.GenerativeGalaxyModel("hub:toy")`'.strip("`"),
        "| galaxies | 64 |",
        "| PSF | 0.100 arcsec at the median",
        "magnitude zero point 25.94",
        "| `flux_radius` | 3 to 14 [0.03 arcsec pixels] |",
        "Stamps are 0.96 arcsec wide. Of 500 galaxies of the population, ",
        "1 of 2 tests see no difference",
        "| classifier | 0.5 | 0.7 ± 0.01 | **no** |  |",
        "`flow` on 200 galaxies drawn from the model itself, 99 draws each: 1 of 2 tests passed:\n- z1: too narrow",
        "| the worst latent | 51.0 | 67.0 | 80.0 | 96.0 |",
        "(errors: 3.5, 3.3, 2.1, 1.5)",
        "![Joint coverage](coverage.png)",
    ):
        assert words in card, words


def test_nothing_is_replaced_unasked(parts):
    """What is published is recognised, another model of that name refused."""
    before = (published(parts) / "model.json").stat().st_mtime_ns
    assert (published(parts) / "model.json").stat().st_mtime_ns == before
    (parts / "about.toml").write_text(ABOUT.replace("1.0", "1.1"))
    with pytest.raises(FileExistsError, match="--overwrite"):
        published(parts)
    published(parts, overwrite=True)
    assert read_published(parts / "models" / "toy").version == "1.1"


LACKS = {
    "flow": (lambda m: m.replace(flow=None, population=None), "lacks a latent flow .*; a population"),
    "marginal": (lambda m: m.replace(marginal=None), "marginal"),
    "guide": (lambda m: m.replace(posterior_flow=None), "a posterior flow"),
    "population": (lambda m: m.replace(population=None), "a population"),
    "units": (
        lambda m: m.replace(provenance=msgspec.structs.replace(m.provenance, condition_units={})),
        "units of its conditions",
    ),
    "PSF": (
        lambda m: m.replace(provenance=msgspec.structs.replace(m.provenance, psf_fwhm_arcsec=None)),
        "width of its survey's PSF",
    ),
}


@pytest.mark.parametrize("what", LACKS)
def test_incomplete_models_are_refused(parts, what):
    change, message = LACKS[what]
    save_model(change(complete_model()), parts / "run" / "model", overwrite=True)
    with pytest.raises(ValueError, match=message):
        published(parts)
    assert not (parts / "models").exists()


SPOILED = [
    (lambda p: (p / "validation" / "metrics.json").unlink(), FileNotFoundError, "metrics.json"),
    (lambda p: (p / "flow" / "coverage.png").unlink(), FileNotFoundError, "coverage.png"),
    (lambda p: os.utime(p / "flow" / "calibration.json", (1, 1)), ValueError, "after it was measured"),
    (
        lambda p: (p / "about.toml").write_text(ABOUT.replace('licence = "MIT"', "")),
        ValueError,
        "missing required field `licence`",
    ),
    (
        lambda p: (p / "about.toml").write_text(ABOUT.replace("Not for science.", "")),
        ValueError,
        r"limits",
    ),
    (lambda p: (p / "about.toml").write_text(ABOUT.replace("toy", "../toy")), ValueError, "name"),
    (lambda p: (p / "about.toml").write_text("name"), ValueError, "about.toml: expected the fields"),
]


@pytest.mark.parametrize(("spoil", "error", "message"), SPOILED)
def test_models_of_which_something_is_not_said_are_refused(parts, spoil, error, message):
    spoil(parts)
    with pytest.raises(error, match=message):
        published(parts)
    assert not (parts / "models").exists()


def test_unmeasured_models_are_refused(parts):
    with pytest.raises(ValueError, match="calibrations: expected at least one"):
        published(parts, calibrations=[])


@pytest.mark.parametrize("name", ["model", "model.safetensors"])
def test_models_that_are_not_published_have_no_card(tmp_path, name):
    save_model(complete_model(), tmp_path / name)
    with pytest.raises(FileNotFoundError, match="expected a published model with a card"):
        read_card(tmp_path / name)


def test_cards_do_not_command_terminals(tmp_path):
    save_model(complete_model(), tmp_path / "m.safetensors", card="# Model\n\x1b]0;title\x07 text\n")
    shown = CliRunner().invoke(cli.app, ["models", "card", str(tmp_path / "m.safetensors")])
    assert shown.exit_code == 0 and shown.output == "# Model\n ]0;title  text\n"


def test_weights_that_are_not_rounded_are_measured(parts):
    model = complete_model()
    params = jax.tree.map(lambda leaf: leaf * 1.0001, model.params)
    save_model(model.replace(params=params), parts / "run" / "model", overwrite=True)
    for file in (parts / "validation" / "metrics.json", parts / "flow" / "calibration.json"):
        os.utime(file)
    change = read_metrics(published(parts))["half_precision"]
    assert 0 < change["largest_change_of_peak"] < 0.05


def test_registries_offer_published_models(parts):
    folder = published(parts)
    entry = add_to_registry(folder, parts / "registry")
    (found,) = read_registry(str(parts / "registry"))
    assert found == msgspec.structs.replace(entry, url=str(parts / "registry" / entry.url))
    assert entry.size == (parts / "registry" / entry.url).stat().st_size
    jax.tree.map(
        np.testing.assert_array_equal, load_model(parts / "registry" / entry.url), load_model(folder)
    )
    card = (folder / "CARD.md").read_text()
    assert read_card(parts / "registry" / entry.url) == read_card(folder) == card
    assert add_to_registry(folder, parts / "registry") == found, "it is offered already"
    (parts / "about.toml").write_text(ABOUT.replace("MIT", "BSD"))
    published(parts, overwrite=True)
    with pytest.raises(ValueError, match=r"expected no toy 1\.0, or this very one, got another one"):
        add_to_registry(folder, parts / "registry")
    (parts / "about.toml").write_text(ABOUT.replace("1.0", "1.1"))
    add_to_registry(published(parts, overwrite=True), parts / "registry")
    assert [one.version for one in read_registry(str(parts / "registry"))] == ["1.0", "1.1"]
