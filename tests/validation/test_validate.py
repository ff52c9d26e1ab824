"""``hiergal validate``: a sample that passes, models that fail, somebody else's galaxies, few galaxies, bad folders."""

import json
import re

import jax
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from conftest import awkward_psf
from toys import tiny_model, tiny_recipe, tiny_survey
from typer.testing import CliRunner

import hiergal
from hiergal.cli import app as cli
from hiergal.hub import save_model
from hiergal.observation.psf import convolve
from hiergal.reports.figures.validation import conditional_scatter, mean_ellipticity
from hiergal.runtime.verdict import ALPHA
from hiergal.survey.mock.galaxies import draw_mock
from hiergal.survey.mock.survey import write_mock_survey
from hiergal.survey.split import split_of
from hiergal.validation.candidates import fit_chi_square
from hiergal.validation.conditional import Residuals
from hiergal.validation.galaxy_folder import read_galaxy_folder
from hiergal.validation.learned_tests import classifier_test
from hiergal.validation.model_tests import LatentSamples, latent_tests, reconstruction_test, sample_latents
from hiergal.validation.run import held_out, validate
from hiergal.validation.samples import observe_again

GALAXIES, STAMP = 80, 64
BINS = {"galaxies_bright", "galaxies_middle", "galaxies_faint"}
FIGURES = BINS | {"galaxies", "moments", "ellipticities", "conditions", "mid", "planes"}  # Figs. 1, 6 to 9
OF_A_MODEL = {"latents", "reconstructions", "residuals", "profiles", "brightest"}  # Figs. 4 and 5


def run(*words):
    return CliRunner().invoke(cli.app, ["validate", *(str(word) for word in words)])


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    path = tmp_path_factory.mktemp("survey") / "survey.zarr"
    write_mock_survey(path, GALAXIES, seed=5, stamp=STAMP, workers=2, progress=False)
    return path


def folder_of(path, images, identifiers, name="catalog.csv"):
    path.mkdir()
    fits.PrimaryHDU(np.asarray(images, np.float32)).writeto(path / "images.fits")
    Table({"identifier": identifiers}).write(path / name)
    return path


@pytest.fixture(scope="module")
def alike(survey, tmp_path_factory):
    """Other galaxies of the same population, seen as the survey's were: what a perfect generator gives."""
    profiles = draw_mock(GALAXIES, seed=6, stamp=STAMP).truth
    stamps = observe_again(profiles, hiergal.open_survey(survey).read(), key=jax.random.key(6))
    return folder_of(tmp_path_factory.mktemp("others") / "alike", stamps, np.arange(GALAXIES))


@pytest.fixture(scope="module")
def passed(survey, alike, tmp_path_factory):
    out = tmp_path_factory.mktemp("passed")
    return run(survey, "--images", alike, "--out", out, "--workers", 2), out


@pytest.mark.slow
def test_galaxies_of_the_same_population_pass(passed):
    result, out = passed
    assert result.exit_code == 0, (result.output, result.exception)
    assert (
        re.search(r"All \d+ tests passed", result.output)
        and "So few galaxies show large differences only" in result.output
    )
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["passed"] and metrics["galaxies"] == GALAXIES
    assert set(metrics["verdicts"]) == {"drawn", "parametric", "floor"}
    assert len(metrics["verdicts"]["drawn"]) > 25
    assert set(metrics["against_published_cosmos"]["drawn"]) == {
        "log10_m",
        "log10_i",
        "d",
        "m20_gini",
        "d_log10_i",
    }


@pytest.mark.slow
def test_everything_is_written(passed):
    _, out = passed
    assert {path.stem for path in (out / "figures").glob("*.png")} == FIGURES
    assert {path.stem for path in (out / "figures").glob("*.pdf")} == FIGURES
    assert (out / "figures/mid.pdf").read_bytes()[:4] == b"%PDF"
    page = (out / "report.html").read_text()
    assert 'src="http' not in page and "nothing was seen that tells them apart" in page
    table = Table.read(out / "verdicts.ecsv")
    assert set(table["sample"]) == {"drawn", "parametric", "floor"} and table["passed"].dtype == bool
    with fits.open(out / "measurements.fits") as file:
        assert len(file["SURVEY_MOMENTS"].data) == len(file["DRAWN_MORPHOLOGY"].data) == GALAXIES
    assert not list(out.rglob("*.partial"))


@pytest.mark.slow
def test_an_untrained_model_fails(survey, tmp_path):
    save_model(tiny_model(tiny_recipe((STAMP, STAMP))), tmp_path / "model")
    result = run(survey, "--model", tmp_path / "model", "--out", tmp_path / "out", "--limit", 40)
    assert result.exit_code == 1, (result.output, result.exception)
    assert re.search(r"\d+ of \d+ tests failed. Clearest: ", result.output)
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert not metrics["passed"] and metrics["galaxies"] == 40
    assert {"latents and conditions (energy)", "residuals (spectrum)"} <= set(metrics["verdicts"]["drawn"])
    made = {path.stem for path in (tmp_path / "out/figures").glob("*.png")}
    assert (
        OF_A_MODEL | {"galaxies", "mid", "planes"} <= made <= FIGURES | OF_A_MODEL
    )  # its galaxies have no moments


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(survey, alike):
    first, second = (
        validate(hiergal.open_survey(survey), images=alike, galaxies=24, seed=3, workers=2, progress=False)
        for _ in range(2)
    )
    assert first.verdicts == second.verdicts


@pytest.mark.slow
def test_profiles_of_others_are_observed(survey, tmp_path):
    """True profiles, with new noise: as real as can be."""
    store = hiergal.open_survey(survey)
    folder = folder_of(tmp_path / "profiles", store.truth()[:30], np.arange(30), "catalog.ecsv")
    found = validate(store, images=folder, profiles=True, workers=2, progress=False)
    assert found.passed
    assert found.samples["drawn"].profile is not None
    difference = found.samples["drawn"].images - found.observation.image
    sigma = found.samples["survey"].noise_rms[:, None, None]
    assert np.std(difference / sigma) == pytest.approx(np.sqrt(2), rel=0.05)


def test_only_galaxies_that_the_model_has_not_seen_are_used(survey):
    store, recipe = hiergal.open_survey(survey), tiny_recipe((STAMP, STAMP))
    model = tiny_model(recipe)
    rows, trained = held_out(store, model)
    assert trained is None and len(rows) == len(store), "the toy was trained on another survey"
    split = split_of(store, recipe)
    provenance = model.provenance.__class__(
        **{f: getattr(model.provenance, f) for f in model.provenance.__struct_fields__}
        | {"survey_provenance": dict(store.header.provenance), "galaxies": len(split.train)}
    )
    rows, trained = held_out(store, model.replace(provenance=provenance))
    np.testing.assert_array_equal(rows, split.test)
    np.testing.assert_array_equal(trained, split.train)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: (path / "images.fits").unlink(), "expected images.fits"),
        (lambda path: (path / "catalog.csv").write_text("name\n1\n2\n3\n"), "expected the column identifier"),
        (lambda path: (path / "catalog.csv").write_text("identifier\n1\n"), "expected images of shape"),
        (lambda path: (path / "catalog.csv").write_text("identifier\n1\n2\n1234567\n"), "first: 1234567"),
        (lambda path: fits.PrimaryHDU(np.full((3, STAMP, STAMP), np.nan)).writeto(path / "images.fits", overwrite=True),
         "expected finite pixels"),
        (lambda path: fits.PrimaryHDU(np.zeros((3, 3))).writeto(path / "images.fits", overwrite=True), "got none"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_folder_is_said(survey, tmp_path, spoil, message):
    path = folder_of(tmp_path / "bad", np.zeros((3, STAMP, STAMP)), np.arange(3))
    spoil(path)
    with pytest.raises((OSError, ValueError), match=message):
        read_galaxy_folder(path, hiergal.open_survey(survey))


def test_a_model_or_a_folder_is_needed_and_enough_galaxies(survey, tmp_path):
    store = hiergal.open_survey(survey)
    with pytest.raises(ValueError, match="give one of the two"):
        validate(store)
    few = folder_of(tmp_path / "few", store.read([0, 1]).image, [0, 1])
    with pytest.raises(ValueError, match="expected at least 10 galaxies"):
        validate(store, images=few)


def test_identifiers_find_their_galaxies(survey, tmp_path):
    store = hiergal.open_survey(survey)
    wanted = store.identifier[[7, 3, 60]]
    found = read_galaxy_folder(folder_of(tmp_path / "some", store.read([7, 3, 60]).image, wanted), store)
    assert found.rows.tolist() == [7, 3, 60]


def test_latents_that_ignore_the_conditions_are_seen():
    """The same latents in another order: right on average, wrong at given conditions."""
    rng = np.random.default_rng(2)
    conditions = rng.normal(size=(600, 1))
    survey, flow = (conditions * [1.0, -0.5] + 0.5 * rng.normal(size=(600, 2)) for _ in range(2))
    assert all(verdict.passed for verdict in latent_tests(LatentSamples(survey, flow, conditions)))
    wrong = LatentSamples(survey, rng.permutation(flow), conditions)
    assert not any(verdict.passed for verdict in latent_tests(wrong))
    assert classifier_test(survey, wrong.flow, "latents alone").passed


def test_latents_of_a_galaxy_do_not_depend_on_how_many_follow():
    observation, model = tiny_survey(9, (16, 24), awkward_psf(9)), tiny_model()
    many = sample_latents(model, observation, key=jax.random.key(1))
    few = sample_latents(model, observation[np.arange(4)], key=jax.random.key(1))
    assert many.survey.shape == many.flow.shape == (9, 8) and many.conditions.shape == (9, 3)
    assert np.isfinite(many.flow).all() and np.isfinite(many.survey).all()
    assert few.survey.shape == (4, 8)


def test_only_worse_reconstructions_fail():
    rng = np.random.default_rng(3)
    parametric = rng.gamma(20, 0.06, 300)
    noise = np.exp(rng.normal(0, 0.05, 300))
    assert reconstruction_test(parametric * noise, parametric).passed
    assert reconstruction_test(0.9 * parametric * noise, parametric).passed
    worse = reconstruction_test(1.03 * parametric * noise, parametric)
    assert not worse.passed and worse.statistic == pytest.approx(np.log(1.03), abs=4 * worse.error)
    with pytest.raises(ValueError, match="positive and finite"):
        reconstruction_test(-parametric, parametric)


def test_false_alarms_of_the_reconstruction_test_are_rare():
    rng, level = np.random.default_rng(4), 0.05
    p_values = [
        reconstruction_test(*np.exp(rng.normal(0, 0.1, (2, 200))), seed=k).p_value for k in range(200)
    ]
    # 21 of 200 at 5 % happen once in a thousand times.
    assert (np.array(p_values) < level).sum() <= 21
    assert abs(np.mean(p_values) - 0.5) < 4 / np.sqrt(12 * 200)


def test_chi_squares_of_true_profiles_are_those_of_noise():
    batch = draw_mock(40, seed=8, stamp=48)
    mask = np.ones((40, 48, 48), bool)
    mask[:, 6:-6, 6:-6] = False  # closer to the edge there is light that is scattered in from outside
    observation = batch.observation.replace(mask=mask)
    image, chi_square = fit_chi_square(batch.truth, observation)
    np.testing.assert_allclose(image, convolve(batch.truth, batch.observation.psf), rtol=1e-5)
    # A mean over 40 stamps of 1,296 pixels, of variance 2 each.
    assert chi_square.mean() == pytest.approx(1, abs=4 * np.sqrt(2 / (40 * 36**2)))


def test_figures_take_few_galaxies():
    rng = np.random.default_rng(5)
    table = Table({"g": rng.random(12), "flag": np.zeros(12, int)})
    assert mean_ellipticity({"survey": table, "drawn": table}, {"magnitude": rng.uniform(20, 25, 12)}).axes
    residuals = Residuals(rng.uniform(20, 25, 12), rng.normal(size=12))
    assert len(conditional_scatter({"size": residuals, "flux": residuals}).axes) == 4
    assert 0 < ALPHA < 0.05
