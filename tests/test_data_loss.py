"""No command and no function that writes touches anything but its own results, whatever stands at its output."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from conftest import awkward_psf
from toys import SCALE, bare_posterior, drawing_model, tiny_model, tiny_recipe, tiny_survey

from hiergal.cli import app as cli
from hiergal.hub import save_model
from hiergal.posterior.table import write_table
from hiergal.posterior.to_arviz import posterior_to_arviz, save_arviz
from hiergal.recipe.recipe import recipe_to_toml
from hiergal.reports.page import write_report
from hiergal.survey import StoreHeader, write_store

SHAPE = (16, 24)
HEADER = StoreHeader(survey="tiny", band="F814W", pixel_scale_arcsec=SCALE, magnitude_zero_point=25.94)


def state_of(folder: Path) -> dict:
    """Names, links and contents of all that is in a folder."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A survey, two models, a recipe, a catalogue."""
    folder = tmp_path_factory.mktemp("inputs")
    galaxies = tiny_survey(8, SHAPE, awkward_psf(8))
    write_store(folder / "s.zarr", HEADER, [(galaxies, None)])
    save_model(tiny_model(tiny_recipe(SHAPE)), folder / "model")
    drawing = drawing_model()
    save_model(drawing, folder / "drawing")
    rows = np.asarray(drawing.population)[:3]
    Table(rows, names=("mag_auto", "flux_radius", "zphot")).write(folder / "c.fits")
    (folder / "p.csv").write_text("scene,x_pix,y_pix\n0,0,0\n0,4,2\n")
    (folder / "r.toml").write_text(recipe_to_toml(tiny_recipe(SHAPE)))
    return folder


# Words of each command, with {out} for its output; the name of the output, and those it owns in a folder.
COMMANDS = {
    "mock": (("survey", "mock", "--out", "{out}", "-n", "4"), "o.zarr", None),
    "degrade": (("survey", "degrade", "{s}", "--out", "{out}"), "o.zarr", None),
    "infer fits": (("infer", "{s}", "--model", "{model}", "--out", "{out}"), "o.fits", None),
    "infer parquet": (("infer", "{s}", "--model", "{model}", "--out", "{out}"), "o.parquet", None),
    "infer nc": (("infer", "{s}", "--model", "{model}", "--out", "{out}"), "o.nc", None),
    "infer zarr": (("infer", "{s}", "--model", "{model}", "--out", "{out}"), "o.zarr", None),
    "images": (
        ("infer", "{s}", "--model", "{model}", "--out", "{free}", "--images", "{out}"),
        "o.zarr",
        None,
    ),
    "sample fits": (("sample", "{c}", "--model", "{drawing}", "--out", "{out}"), "o.fits", None),
    "sample hdf5": (("sample", "{c}", "--model", "{drawing}", "--out", "{out}"), "o.hdf5", None),
    "sample zarr": (("sample", "{c}", "--model", "{drawing}", "--out", "{out}"), "o.zarr", None),
    "train": (("train", "{s}", "--out", "{out}", "--recipe", "{r}"), "run", "checkpoints"),
    "train model": (("train", "{s}", "--out", "{out}", "--recipe", "{r}"), "run", "model"),
    "quickstart": (("quickstart", "--out", "{out}", "--recipe", "{r}"), "run", "survey.zarr"),
    "validate": (
        ("validate", "{s}", "--model", "{drawing}", "--out", "{out}"),
        "run",
        "report.html",
    ),
    "fit-prior": (("fit-prior", "{s}", "--model", "{out}"), "model", None),
    "deblend": (
        ("deblend", "{s}", "--sources", "{p}", "--model", "{model}", "--out", "{out}"),
        "o.fits",
        None,
    ),
    "calibrate": (("calibrate", "{s}", "--model", "{model}", "--out", "{out}"), "run", "calibration.json"),
}


def run(monkeypatch, inputs, out, words, *more):
    places = {
        "out": out,
        "free": out.parent / "free.fits",
        "s": inputs / "s.zarr",
        "model": inputs / "model",
        "drawing": inputs / "drawing",
        "c": inputs / "c.fits",
        "r": inputs / "r.toml",
        "p": inputs / "p.csv",
    }
    monkeypatch.setattr(sys, "argv", ["hiergal", *(word.format(**places) for word in words), *more])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


def foreign_file(place):
    place.write_text("thesis")


def foreign_folder(place):
    place.mkdir()
    (place / "chapter.tex").write_text("thesis")


def link_to_foreign(place):
    (place.parent / "precious").mkdir()
    (place.parent / "precious/chapter.tex").write_text("thesis")
    place.symlink_to(place.parent / "precious")


def result_with_foreign(place):
    """A survey of ours in which somebody keeps a file."""
    write_store(place, HEADER, [(tiny_survey(3, SHAPE, awkward_psf(3)), None)])
    (place / "chapter.tex").write_text("thesis")


@pytest.mark.parametrize("foreign", [foreign_file, foreign_folder, link_to_foreign, result_with_foreign])
@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_of_others_is_touched(inputs, tmp_path, monkeypatch, capsys, command, foreign):
    words, name, owned = COMMANDS[command]
    out = tmp_path / name
    if owned is not None:
        out.mkdir()
    foreign(out if owned is None else out / owned)
    before, given = state_of(tmp_path), state_of(inputs)
    for more in ((), ("--overwrite",)):
        code = run(monkeypatch, inputs, out, words, *more)
        said = capsys.readouterr().err
        assert code == 2 and "Traceback" not in said and said.count("hiergal: ") == 1, said
        assert state_of(tmp_path) == before, more
    assert state_of(inputs) == given


@pytest.mark.parametrize("where", ["s.zarr", "s.zarr/o{suffix}", "x/../s.zarr", "link"])
@pytest.mark.parametrize(
    "command", [name for name, (words, _, owned) in COMMANDS.items() if owned is None and "{s}" in words]
)
def test_inputs_are_never_outputs(inputs, tmp_path, monkeypatch, capsys, command, where):
    words, name, _ = COMMANDS[command]
    own = tmp_path / "inputs"
    shutil.copytree(inputs, own)
    (own / "x").mkdir()
    (own / "link").symlink_to(own / "s.zarr")
    before = state_of(own)
    out = own / where.format(suffix=Path(name).suffix)
    for more in ((), ("--overwrite",)):
        assert run(monkeypatch, own, out, words, *more) == 2
        assert "Traceback" not in capsys.readouterr().err
        state = state_of(own)
        assert state == before, set(state) ^ set(before)


def test_a_finished_result_is_recognised_and_another_replaced_if_asked(inputs, tmp_path, monkeypatch, capsys):
    words = ("sample", "{c}", "--model", "{drawing}", "--out", "{out}")
    out = tmp_path / "o.fits"
    assert run(monkeypatch, inputs, out, words) == 0
    before = state_of(tmp_path)
    assert run(monkeypatch, inputs, out, words) == 0 and state_of(tmp_path) == before
    assert run(monkeypatch, inputs, out, words, "--seed", "5") == 2 and state_of(tmp_path) == before
    assert "--overwrite" in capsys.readouterr().err
    assert run(monkeypatch, inputs, out, words, "--seed", "5", "--overwrite") == 0
    assert state_of(tmp_path) != before and list(state_of(tmp_path)) == ["o.fits"]


@pytest.mark.parametrize("foreign", [foreign_file, foreign_folder, link_to_foreign])
@pytest.mark.parametrize("write", ["model", "store", "draws.nc", "draws.zarr", "table.fits", "report"])
def test_functions_keep_the_rule(tmp_path, write, foreign):
    galaxies, model = tiny_survey(3, SHAPE, awkward_psf(3)), tiny_model(tiny_recipe(SHAPE))
    out = tmp_path / write
    if write == "report":
        out.mkdir()
    foreign(out if write != "report" else out / "report.html")
    before = state_of(tmp_path)

    def attempt():
        if write == "model":
            save_model(model, out, overwrite=True)
        elif write == "store":
            write_store(out, HEADER, [(galaxies, None)], overwrite=True)
        elif write.startswith("draws"):
            latents = np.zeros((2, 3, model.recipe.generator.latents))
            data = posterior_to_arviz(bare_posterior(latents, galaxies), galaxies, model)
            save_arviz(data, out, overwrite=True)
        elif write == "table.fits":
            write_table(Table({"a": [1]}), out, overwrite=True)
        else:
            write_report(out, title="T", figures={}, metrics={}, overwrite=True)

    with pytest.raises(FileExistsError):
        attempt()
    assert state_of(tmp_path) == before
