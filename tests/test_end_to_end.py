"""The whole path at toy size: the quickstart, the command, README's blocks, interruptions."""

import json
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from astropy.table import Table
from places import COMMAND, ROOT
from typer.testing import CliRunner

import hiergal
from hiergal.cli import app as cli
from hiergal.cli.quickstart.metrics import PROBABILITIES, QUANTITIES
from hiergal.cli.quickstart.run import run_quickstart
from hiergal.recipe.recipe import Recipe, recipe_from, recipe_to_toml
from hiergal.reports.calibration import NAMES
from hiergal.survey.split import split_of

GALAXIES, SEED = 120, 3
TINY = recipe_from(
    {
        "name": "tiny",
        "shape": [32, 32],
        "generator": {"latents": 8, "channels": 4, "blocks": 1},
        "encoder": {"channels": 4, "blocks": 1, "templates": 8, "features": 16},
        "training": {"steps": 30, "batch": 16, "evaluate_every": 10},
        "flow": {"layers": 2, "hidden": 20, "steps": 20, "batch": 64, "draws": 2},
    }
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished quickstart."""
    folder = tmp_path_factory.mktemp("run") / "quickstart"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HIERGAL_DATA", raising=False)
        found = run_quickstart(folder, TINY, galaxies=GALAXIES, seed=SEED, progress=False)
    assert found.page == folder / "report.html" and "with a goal" in found.verdict[0]
    return folder


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    path.write_text(recipe_to_toml(TINY))
    return path


def command(*words) -> str:
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_the_quickstart_leaves_everything_that_it_promises(run):
    for name in ("survey.zarr", "model/weights.safetensors", "metrics.json", "posterior.nc", "report.html"):
        assert (run / name).exists(), name
    assert len(list((run / "figures").glob("*.png"))) >= 7
    metrics = json.loads((run / "metrics.json").read_text())
    rows = split_of(hiergal.open_survey(run / "survey.zarr"), TINY).test
    assert metrics["mock"]["galaxies"] == len(rows)
    for quantity in QUANTITIES:
        for probability in PROBABILITIES:
            assert 0 <= metrics["mock"]["coverage"][quantity][f"{probability:.2f}"]["fraction"] <= 1
    assert 0.8 < metrics["mock"]["chi_square_median"] < 1.5
    assert np.isfinite(metrics["drawn"]["size_arcsec"]["ratio"])
    assert 'src="http' not in (run / "report.html").read_text()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_metrics_and_a_finished_stage_is_kept(run, tmp_path, monkeypatch):
    monkeypatch.delenv("HIERGAL_DATA", raising=False)
    run_quickstart(tmp_path / "again", TINY, galaxies=GALAXIES, seed=SEED, progress=False)
    assert (tmp_path / "again/metrics.json").read_bytes() == (run / "metrics.json").read_bytes()
    weights = run / "model/weights.safetensors"
    before = weights.stat().st_mtime_ns, (run / "metrics.json").read_bytes()
    run_quickstart(run, TINY, galaxies=GALAXIES, seed=SEED, progress=False)
    assert (weights.stat().st_mtime_ns, (run / "metrics.json").read_bytes()) == before


def test_the_verbs_work_on_each_others_files(tmp_path, recipe_file):
    survey, out = tmp_path / "survey.zarr", tmp_path / "run"
    command("survey", "mock", "--out", survey, "--galaxies", GALAXIES, "--stamp", 32, "--seed", 1)
    assert "chi-square" in command("train", survey, "--out", out, "--recipe", recipe_file)
    assert "log p(z | y)" in command("fit-prior", survey, "--model", out / "model", "--condition", "mag_auto")
    few = ("--limit", 12, "--draws", 100)  # as many as the quickstart's, whose programs are compiled
    command("infer", survey, "--model", out / "model", "--out", tmp_path / "p.nc", *few)
    command("sample", survey, "--model", out / "model", "--out", tmp_path / "g.fits", "--outside", "ignore")
    assert hiergal.load_model(out / "model").flow.config.conditions == ("mag_auto",)

    from astropy.io import fits

    with fits.open(tmp_path / "g.fits") as file:
        assert file[0].data.shape == (GALAXIES, 32, 32)
        assert file[0].header["PIXSCALE"] == 0.03
        assert file["CONDITIONS"].data["mag_auto"].shape == (GALAXIES,)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "{none}.zarr", "--out", "{out}"), "none.zarr"),
        (("train", "{survey}", "--out", "{out}", "--recipe", "{misspelt}"), "unknown field `step`"),
        (("train", "{survey}", "--out", "{out}"), "expected stamps of (64, 64) pixels"),
        (("infer", "{survey}", "--model", "{none}", "--out", "{out}/p.nc"), "expected a trained model"),
        (
            ("infer", "{survey}", "--model", "{model}", "--out", "{out}/p.nc", "--method", "magic"),
            "expected one of laplace, amortized",
        ),
        (
            ("fit-prior", "{survey}", "--model", "{model}", "--condition", "colour", "--overwrite"),
            "missing: colour",
        ),
        (("sample", "{table}", "--model", "{model}", "--out", "{out}/g.fits"), "missing: flux_radius, zphot"),
        (
            ("sample", "{survey}", "--model", "{model}", "--out", "{out}"),
            "expected a name that ends in .fits",
        ),
        (
            ("sample", "{survey}", "--model", "{model}", "--out", "{written}", "--overwrite"),
            "it is left as it is",
        ),
    ],
)
def test_what_goes_wrong_is_said_in_words(run, tmp_path, monkeypatch, capsys, words, message):
    (tmp_path / "misspelt.toml").write_text("[training]\nstep = 10\n")
    (tmp_path / "table.csv").write_text("mag_auto\n22.5\n")
    (tmp_path / "written.fits").write_text("something")
    places = {
        "none": tmp_path / "none",
        "written": tmp_path / "written.fits",
        "survey": run / "survey.zarr",
        "out": tmp_path / "out",
        "model": run / "model",
        "misspelt": tmp_path / "misspelt.toml",
        "table": tmp_path / "table.csv",
    }
    monkeypatch.setattr(sys, "argv", ["hiergal", *(word.format(**places) for word in words)])
    with pytest.raises(SystemExit) as error:
        cli.main()
    said = capsys.readouterr().err
    assert message in said and said.startswith("hiergal: ") and error.value.code == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_training_goes_on_to_the_same_weights(run, tmp_path, recipe_file, number):
    words = [
        *COMMAND,
        "train",
        str(run / "survey.zarr"),
        "--out",
        str(tmp_path),
        "--recipe",
    ]
    recipe = tmp_path / "long.toml"
    recipe.write_text(
        recipe_to_toml(TINY).replace("steps = 30", "steps = 600").replace("patience = 8", "patience = 99")
    )
    child = subprocess.Popen([*words, str(recipe)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    history = tmp_path / "history.jsonl"
    deadline = time.monotonic() + 180
    while not (history.exists() and len(history.read_bytes().splitlines()) >= 3):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(number)
    child.wait(timeout=60)
    assert child.returncode != 0
    assert not (tmp_path / "model").exists()

    result = subprocess.run([*words, str(recipe)], capture_output=True, text=True, check=True)
    assert "after 600 steps" in result.stdout
    steps = [json.loads(line)["step"] for line in history.read_text().splitlines()]
    assert steps == list(range(10, 601, 10))
    whole = tmp_path / "whole"
    subprocess.run([*words[:-2], str(whole), "--recipe", str(recipe)], capture_output=True, check=True)
    ours, theirs = (folder / "model/weights.safetensors" for folder in (tmp_path, whole))
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.slow
def test_readme_python_runs_as_printed(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 1
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(blocks[0], "README.md", "exec"), names)
    low, high = re.findall(r"\d+\.\d+", capsys.readouterr().out)
    assert 20 < float(low) < float(high) < 27
    assert (tmp_path / "galaxy.png").stat().st_size > 10_000
    (line,) = re.findall(r"`(model\.sample\(.*?\))`", (ROOT / "README.md").read_text())
    assert len(eval(line, names)) == 1


def test_the_published_recipe_is_the_default():
    assert hiergal.load_recipe(ROOT / "models/small/recipe.toml") == Recipe()


def test_drawing_depends_on_the_row_alone(run):
    model = hiergal.load_model(run / "model")
    catalog = {
        name: np.linspace(low, high, 5) for name, (low, high) in model.provenance.condition_ranges.items()
    }
    key = jax.random.key(0)
    five = hiergal.draw_profiles(model, catalog, key=key, outside="ignore")  # a diagonal of the ranges
    two = hiergal.draw_profiles(
        model, {name: column[:2] for name, column in catalog.items()}, key=key, outside="ignore"
    )
    np.testing.assert_array_equal(five[:2], two)


@pytest.mark.slow
def test_a_whole_study(run, tmp_path, recipe_file, capsys):
    """The script does every stage, and a second time none of them."""
    words = [str(run / "survey.zarr"), "--out", str(tmp_path), "--recipe", str(recipe_file), "--infer", "5"]
    study = runpy.run_path(str(ROOT / "inference/train_survey.py"))["main"]
    study(words)
    assert "median reduced chi-square of 5 test galaxies" in capsys.readouterr().out
    weights = tmp_path / "model/weights.safetensors"
    before = weights.stat().st_mtime_ns
    assert (tmp_path / "posterior.nc").exists() and (tmp_path / "galaxies.fits").exists()
    study(words)
    assert weights.stat().st_mtime_ns == before
    example = (ROOT / "inference/study.slurm").read_text()
    assert "inference/train_survey.py" in example and "--distributed" in example


@pytest.mark.slow
def test_a_study_of_what_a_survey_cannot_resolve(run, tmp_path, recipe_file, capsys):
    """A model of the blurred survey beside one of the sharp survey; a second time neither is trained."""
    shutil.copytree(run / "model", tmp_path / "sharp" / "model")
    words = [str(run / "survey.zarr"), "--out", str(tmp_path), "--recipe", str(recipe_file)]
    study = runpy.run_path(str(ROOT / "inference/beyond_resolution.py"))["main"]
    study(words)
    first = (tmp_path / "resolution.json").read_text()
    results = json.loads(first)
    limits = results.pop("limits")
    assert limits["blurred"] < 0.8 * limits["sharp"]
    assert len(results) == 4 and all(r["error"] > 0 and 0 < r["p_value"] <= 1 for r in results.values())
    assert (tmp_path / "resolution.pdf").exists()
    before = (tmp_path / "blurred/model/weights.safetensors").stat().st_mtime_ns
    study(words)
    assert (tmp_path / "resolution.json").read_text() == first
    assert (tmp_path / "blurred/model/weights.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_studies_of_posteriors(run, tmp_path, capsys):
    """The guide is learnt, auto says what it used, and each study writes what it promises."""
    shutil.copytree(run / "model", tmp_path / "model")
    model, survey = tmp_path / "model", run / "survey.zarr"
    assert "log q" in command("fit-posterior-flow", survey, "--model", model, "--simulations", 100)
    table = tmp_path / "t.fits"
    words = ("--model", model, "--out", table, "--method", "auto", "--draws", 10, "--limit", 3)
    assert "3 galaxies" in command("infer", survey, *words, "--conditions")
    assert set(Table.read(table)["method"]) <= {"importance", "nuts"}

    def study(name, *words):
        main = runpy.run_path(str(ROOT / f"inference/{name}.py"))["main"]
        main([str(word) for word in (model, survey, "--out", tmp_path / name, *words)])

    tests = (
        3 * (4 + TINY.generator.latents) + 1
    )  # ranks, coverage and z-scores of each quantity, and all together
    words = ("--galaxies", 60, "--draws", 39, "--out", tmp_path / "calibration")
    for _ in range(2):  # the second time it only says so
        result = CliRunner().invoke(
            cli.app, [str(w) for w in ("calibrate", survey, "--model", model, *words)]
        )
        assert result.exit_code in (0, 1)  # whether a tiny model passes is not the question
        assert f"of {tests} tests passed" in result.output
    assert {path.name for path in (tmp_path / "calibration").iterdir()} >= set(NAMES)
    found = json.loads((tmp_path / "calibration/calibration.json").read_text())
    assert len(found["verdicts"]) == tests and found["used"] == {"flow": 60}
    study("recover_mock", "--galaxies", 10, "--tuning", 4, "--draws", 39, "--method", "flow")
    found = json.loads((tmp_path / "recover_mock/recovery.json").read_text())
    assert set(found["deconvolution"]["ratio_to"]) == {"Richardson-Lucy", "Wiener"}
    for table in (found["hidden pixels"][kind] for kind in ("mock galaxies", "galaxies of the model")):
        assert set(table) == {"a random fifth", "the central block"}
    written = (tmp_path / "recover_mock/recovery.json").stat().st_mtime_ns
    study("recover_mock", "--galaxies", 10, "--tuning", 4, "--draws", 39, "--method", "flow")
    assert (tmp_path / "recover_mock/recovery.json").stat().st_mtime_ns == written
    with pytest.raises(FileExistsError, match="other galaxies.*--overwrite"):
        study("recover_mock", "--galaxies", 9, "--tuning", 4, "--draws", 39, "--method", "flow")
    study("deblend_mock", "--scenes", 2, "--draws", 10)
    assert {"2 sources", "3 sources"} <= set(
        json.loads((tmp_path / "deblend_mock/deblending.json").read_text())
    )
    study("inspect_posteriors", "--limit", 3, "--draws", 10, "--method", "importance")
    assert {path.name for path in (tmp_path / "inspect_posteriors").iterdir()} >= {
        "checks.ecsv",
        "posterior.nc",
        "galaxies.html",
        "galaxies_1.png",
        "brightest.png",
    }
    capsys.readouterr()
