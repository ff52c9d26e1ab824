"""The report of a validation says what was found: every number, table, figure and verdict, whether it passed or not."""

import json
import re

import jax
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from toys import full_posterior

from hiergal.measure.parametric import ParametricTwins
from hiergal.observation.psf import convolve
from hiergal.reports.validation import metrics_of, summary_of, write_validation
from hiergal.reports.validation_figures import figures_of
from hiergal.runtime.verdict import Verdict
from hiergal.survey.mock.galaxies import draw_mock
from hiergal.survey.store import StoreHeader
from hiergal.validation.candidates import candidate_of
from hiergal.validation.model_tests import LatentSamples
from hiergal.validation.run import Validation
from hiergal.validation.samples import Samples, observe_again

GALAXIES, FITTED, STAMP = 24, 12, 64
HEADER = StoreHeader(survey="mock", band="F814W", pixel_scale_arcsec=0.03, magnitude_zero_point=25.94)
OF_GALAXIES = {
    "galaxies",
    "galaxies_bright",
    "galaxies_middle",
    "galaxies_faint",
    "moments",
    "ellipticities",
    "conditions",
    "mid",
    "planes",
    "profiles",
}  # Figs. 1, 6 to 9
OF_A_MODEL = {"latents", "reconstructions", "residuals"}  # Figs. 4 and 5


def verdict(name, p_value, statistic=0.02):
    return Verdict(name, statistic, 0.01, 0.0, p_value, p_value > 0.01, f"{name} differs by {statistic}")


@pytest.fixture(scope="module")
def found():
    """A validation of few galaxies, whose verdicts are made up: one test of three failed."""
    real, other, fitted = (draw_mock(GALAXIES, seed=seed, stamp=STAMP, workers=1) for seed in (1, 2, 3))
    observation = real.observation
    drawn, parametric = (
        np.asarray(observe_again(batch.truth, observation, key=jax.random.key(4)))
        for batch in (other, fitted)
    )
    made = Samples(observation.image, drawn, parametric, other.truth, ParametricTwins(fitted.truth, Table()))
    samples = {
        name: candidate_of(name, images, profile, observation, workers=1, progress=False)
        for name, images, profile in (
            ("survey", observation.image, real.truth),
            ("drawn", drawn, other.truth),
            ("parametric", parametric, fitted.truth),
        )
    }
    names = ("mean sigma", "mean g", "all statistics (energy)")
    verdicts = {
        "drawn": [verdict(name, p) for name, p in zip(names, (0.5, 0.4, 1e-4), strict=True)],
        "parametric": [verdict(name, p) for name, p in zip(names, (0.001, 0.002, 0.3), strict=True)],
        "floor": [verdict(name, 0.6) for name in names[:2]],
    }
    part = observation[np.arange(FITTED)]
    image = np.asarray(convolve(real.truth[:FITTED], part.psf), np.float32)
    posterior = full_posterior(part, 5).replace(image_mean=image)
    rng = np.random.default_rng(3)
    latents = LatentSamples(*rng.normal(size=(2, GALAXIES, 8)), rng.normal(size=(GALAXIES, 3)))
    return Validation(observation, samples, verdicts, made, posterior, latents)


@pytest.fixture(scope="module")
def folder(found, tmp_path_factory):
    folder = tmp_path_factory.mktemp("validation")
    assert write_validation(folder, found, HEADER, name="toy", seed=7) == folder / "report.html"
    return folder


def test_numbers_are_those_of_the_validation(found, folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["galaxies"] == GALAXIES and not metrics["passed"]
    for sample, several in found.verdicts.items():
        assert {name: one["p_value"] for name, one in metrics["verdicts"][sample].items()} == {
            one.name: one.p_value for one in several
        }
    fitted = metrics["reconstruction"]
    assert fitted["galaxies"] == FITTED and fitted["parametric_chi_square_median"] > 0.5
    assert fitted["chi_square_median"] == pytest.approx(np.median(found.posterior.chi_square))
    assert set(metrics["against_published_cosmos"]) == set(metrics["shear"]) == set(found.samples)
    assert set(metrics["conditional"]) == {"size", "flux"}
    few = found._replace(posterior=None, latents=None)
    assert "reconstruction" not in metrics_of(few)


def test_tables_have_a_row_for_each_test_and_galaxy(found, folder):
    table = Table.read(folder / "verdicts.ecsv")
    assert list(table["sample"]) == ["drawn"] * 3 + ["parametric"] * 3 + ["floor"] * 2
    np.testing.assert_array_equal(table["passed"], [v.passed for s in found.verdicts.values() for v in s])
    with fits.open(folder / "measurements.fits") as file:
        kinds = ("MOMENTS", "MORPHOLOGY", "SKY", "SHEARED", "PAPER", "ARMS")
        assert {hdu.name for hdu in file[1:]} == {
            f"{sample}_{kind}".upper() for sample in found.samples for kind in kinds
        }
        assert {len(hdu.data) for hdu in file[1:]} == {GALAXIES}
        moments = found.samples["drawn"].measured.moments
        np.testing.assert_array_equal(file["DRAWN_MOMENTS"].data["sigma"], moments["sigma"])


def test_every_figure_is_there_in_both_formats(folder):
    for kind, first in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        files = list((folder / "figures").glob(f"*.{kind}"))
        assert {path.stem for path in files} == OF_GALAXIES | OF_A_MODEL
        assert all(path.read_bytes().startswith(first) for path in files)
    page = (folder / "report.html").read_text()
    assert 'src="http' not in page and page.count("data:image/png;base64,") == len(OF_GALAXIES | OF_A_MODEL)


def test_figures_need_what_they_show(found):
    """Without a model those of a model are left out, and without magnitudes and radii those that are against them."""
    bare = found._replace(posterior=None, latents=None, observation=found.observation.replace(catalog={}))
    assert set(figures_of(bare)) == OF_GALAXIES - {
        *("ellipticities", "conditions"),
        *("galaxies_bright", "galaxies_middle", "galaxies_faint"),
    }


def test_the_page_says_what_failed_and_what_so_few_cannot_show(found, folder):
    page = re.sub(r"<[^>]+>", " ", (folder / "report.html").read_text())
    assert "toy" in page and "all statistics (energy) differs by 0.02" in page
    summary = summary_of(found, name="toy")
    assert summary.startswith("1 of 3 tests failed") and f"{GALAXIES} galaxies" in summary
    assert "2 of 3 tests failed" in summary and "0 of 2 failed" in summary
    # 2.94 + 0.84 deviates of an error of 0.01: a two-sided level of 1 % shared by three tests, and a power of 80 %.
    assert re.findall(r"less than (\d\.\d) %", summary) == ["3.8", "3.8"]
    passing = found._replace(verdicts=found.verdicts | {"drawn": found.verdicts["floor"]})
    assert passing.passed and summary_of(passing, name="toy").startswith("All 2 tests passed")


def test_the_page_says_whether_arms_are_within_the_goal(found):
    """With few bright galaxies that there are too few, with many how each statistic compares with the floor."""
    assert "Arms were not tested: " in summary_of(found, name="toy")
    assert metrics_of(found)["arms"]["times_floor"] == {}
    lit = {}
    for name, sample in found.samples.items():
        arms = sample.arms.copy()
        arms["magnitude"], arms["flag"] = 21.0, 0
        for column in ("m1", "m2", "m3", "winding2", "drift2"):
            arms[column] = np.linspace(0.1, 0.2, GALAXIES)
        lit[name] = type(sample)(**sample._asdict() | {"arms": arms})
    many = found._replace(samples=lit)
    assert "Arms have no floor" in summary_of(many, name="toy")
    name = "m = 2 of rings (Wasserstein)"
    halved = [
        verdict(name, 0.5)._replace(expected=0.1),
        verdict("arms (energy)", 0.5)._replace(expected=0.01),
    ]
    seen = [verdict(name, 0.5, 0.15), verdict("arms (energy)", 0.5, 0.05)]
    verdicts = found.verdicts | {
        "drawn": found.verdicts["drawn"] + seen,
        "floor": found.verdicts["floor"] + halved,
    }
    many = many._replace(verdicts=verdicts)
    assert metrics_of(many)["arms"] == {
        "brighter_than": 22.5,
        "galaxies": dict.fromkeys(found.samples, GALAXIES),
        "times_floor": pytest.approx({name: 1.5, "arms (energy)": 5.0}),
        "goal": 2.0,
    }
    summary = summary_of(many, name="toy")
    assert f"Arms ({GALAXIES} of the survey's galaxies" in summary
    assert (
        "1 of 2 statistics are within 2 times the floor" in summary
        and "arms (energy) with 5.0 times" in summary
    )
    assert "arms" in figures_of(many._replace(posterior=None, latents=None))


def test_a_report_is_replaced_only_when_asked(found, folder):
    with pytest.raises(FileExistsError, match="--overwrite"):
        write_validation(folder, found, HEADER, name="toy")
