"""What users write first: methods of posteriors and models, indexing, names that resolve, one page of a galaxy."""

import importlib
import json
import pickle
import re
from html.parser import HTMLParser
from pathlib import Path

import galsim
import jax
import numpy as np
import pytest
from astropy.table import QTable
from conftest import awkward_psf
from toys import drawing_model, tiny_model, tiny_survey

import hiergal
from hiergal.posterior.verdict import Flag, explain_flags
from hiergal.runtime.pytree import rows_with_axis

ROOT = Path(__file__).resolve().parent.parent
SHAPE = (16, 24)
CATALOG = {"mag_auto": [22.5, 23.0], "flux_radius": [9.0, 7.0], "zphot": [0.8, 0.5]}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def observation():
    return tiny_survey(3, SHAPE, awkward_psf(3))


@pytest.fixture(scope="module")
def posterior(model, observation):
    return hiergal.infer(model, observation, key=jax.random.key(0), method="amortized", draws=40)


def test_one_row_keeps_the_axis_of_galaxies(observation, posterior):
    for whole in (observation, posterior):
        one = whole[1]
        assert len(one) == 1 and one.identifier[0] == whole.identifier[1]
        assert whole[-1].identifier[0] == whole.identifier[2] and whole[np.int64(0)].identifier.shape == (1,)
        assert [len(part) for part in whole] == [1, 1, 1]  # a loop ends
        with pytest.raises(IndexError, match="3"):
            whole[3]
        assert whole[[]].identifier.shape == (0,)
    with pytest.raises(IndexError, match="flux"):
        rows_with_axis("flux", 3)
    assert observation[1].image.shape == (1, *SHAPE) and posterior[1].latents.shape[1] == 1
    np.testing.assert_array_equal(observation[1].image[0], observation.image[1])


def test_rows_may_be_traced(observation):
    galaxies = jax.tree.map(jax.numpy.asarray, observation)
    image = jax.jit(lambda row: galaxies[row].image)(2)
    np.testing.assert_array_equal(image, observation[2].image)


def test_methods_are_the_functions(model, observation, posterior):
    low, high = posterior.credible_interval("hlr_arcsec", 0.9)
    expected = hiergal.credible_interval(posterior.summary.hlr_arcsec, 0.9)
    np.testing.assert_array_equal((low, high), expected)
    magnitude = 25.94 - 2.5 * np.log10(posterior.summary.flux)
    np.testing.assert_allclose(posterior.draws_of("magnitude"), magnitude, rtol=1e-6)
    with pytest.raises(ValueError, match="radius"):
        posterior.draws_of("radius")
    images = posterior.images(psf=observation.psf, draws=5)
    expected = hiergal.posterior.images.posterior_images(model, posterior, psf=observation.psf, draws=5)
    np.testing.assert_array_equal(images, expected)
    checks = posterior.check(key=3, replicates=20)
    expected = hiergal.check_fits(model, observation, posterior, key=3, replicates=20)
    for name in ("p_pixels", "p_prior", "power_high"):
        np.testing.assert_array_equal(getattr(checks, name), getattr(expected, name))
    part = posterior[1:].check(key=3, replicates=20)
    np.testing.assert_array_equal(
        part.p_coherent, checks.p_coherent[1:]
    )  # of its galaxies, wherever they stand
    data = posterior.to_arviz(posterior.predict(key=1, draws=4))
    assert data["posterior_predictive"]["image"].sizes["draw"] == 4
    assert data["posterior"].attrs["conditions"] == 0


def test_conditions_are_remembered(model, observation):
    known = np.stack([observation.catalog[name] for name in model.flow.config.conditions], axis=-1)
    posterior = hiergal.infer(
        model, observation, key=0, method="amortized", draws=8, conditions=known, rows=np.array([5, 3, 9])
    )
    found = posterior[[2, 0]].check(key=3, replicates=20)
    expected = hiergal.check_fits(
        model,
        observation[[2, 0]],
        posterior[[2, 0]],
        key=3,
        replicates=20,
        conditions=known[[2, 0]],
        rows=np.array([9, 5]),
    )
    np.testing.assert_array_equal(found.p_prior, expected.p_prior)


def test_table_has_units_and_the_columns_of_the_file(posterior, observation):
    table = posterior.to_table()
    assert (
        isinstance(table, QTable)
        and table["hlr_arcsec"].unit == "arcsec"
        and table["magnitude"].unit == "mag"
    )
    plain = hiergal.posterior.table.posterior_table(posterior, magnitude_zero_point=25.94)
    assert table.colnames == plain.colnames and table.meta["MODEL"] == posterior.model.recipe.name
    sky = {name: np.full(3, 0.25) for name in ("ra_deg", "dec_deg", "north_rad")} | {"parity": np.ones(3)}
    somewhere = posterior.attach(posterior.model, observation.replace(catalog=sky)).to_table()
    assert {"ra_deg", "position_angle_deg_std"} <= set(somewhere.colnames) and somewhere[
        "ra_deg"
    ].unit == "deg"


def test_the_model_is_no_part_of_the_data(model, observation, posterior):
    """JAX's functions see the fields alone; a pickle has the galaxies, and not the model."""
    assert len(jax.tree.leaves(posterior)) == len(
        jax.tree.leaves(posterior.replace(chi_square=posterior.misfit))
    )
    assert jax.tree.map(np.asarray, posterior).origin is None
    assert posterior.replace(misfit=posterior.chi_square).model is model
    copy = pickle.loads(pickle.dumps(posterior))
    assert len(copy.observation) == 3 and len(pickle.dumps(posterior)) < 4 * posterior.latents.nbytes + 2**17
    with pytest.raises(ValueError, match=r"posterior.attach\(model\)"):
        copy.images()
    np.testing.assert_array_equal(copy.attach(model).images(), posterior.images())
    bare = jax.tree.map(np.asarray, posterior)
    with pytest.raises(ValueError, match=r"attach\(model, observation\)"):
        bare.check(key=0)
    assert bare.attach(model, observation).observation.identifier[0] == observation.identifier[0]
    with pytest.raises(ValueError, match="identifiers"):
        bare.attach(model, observation[::-1])


def test_galaxies_of_one_call_are_the_same_for_all_who_draw(model):
    model = drawing_model()

    def pixels(galaxies):
        return np.array([galaxy.image.array for galaxy in galaxies])

    expected = hiergal.draw_profiles(model, CATALOG, key=jax.random.key(1))
    np.testing.assert_array_equal(pixels(model.sample(CATALOG, key=jax.random.key(1))), expected)
    np.testing.assert_array_equal(
        pixels(hiergal.draw_galsim(model, CATALOG, key=jax.random.key(1))), expected
    )
    named = CATALOG | {"name": ["b", "a"]}
    swapped = {name: values[::-1] for name, values in named.items()}
    first, second = (pixels(model.sample(one, key=1, identifier="name")) for one in (named, swapped))
    np.testing.assert_array_equal(first, second[::-1])
    assert len(model.sample(n=3, key=1)) == 3
    assert model.sample(CATALOG, key=1, flux=5.0)[0].flux == pytest.approx(5.0)
    with pytest.raises(ValueError, match="both"):
        model.sample(CATALOG, key=1, rng=galsim.BaseDeviate(1))
    together = model.sample(CATALOG, rng=galsim.BaseDeviate(3))
    rng = galsim.BaseDeviate(3)
    alone = [model.sample({n: v[i : i + 1] for n, v in CATALOG.items()}, rng=rng)[0] for i in range(2)]
    np.testing.assert_array_equal(pixels(together), pixels(alone))


def test_train_is_the_command(model, tmp_path, monkeypatch):
    from hiergal.training import train

    asked = {}
    monkeypatch.setattr(train, "open_survey", lambda path: asked.setdefault("survey", path))
    monkeypatch.setattr(
        train, "train_model", lambda *args, **how: asked.update(args=args, how=how) or (model, 0)
    )
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "mine"\ntraining.steps = 7\n')
    assert hiergal.train("survey.zarr", recipe, out=tmp_path / "run", steps=3, seed=4) is model
    assert asked["survey"] == "survey.zarr" and asked["args"][1].name == "mine"
    assert asked["args"][1].training.steps == 3 and asked["how"]["seed"] == 4


def mentioned():
    """Names with dots that README, documentation and notebooks mention."""
    texts = [path.read_text() for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"))]
    for path in ROOT.glob("notebooks/*.ipynb"):
        texts += ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]]
    found = {
        name for text in texts for name in re.findall(r"(?<![\w./-])hiergal(?:\.[a-zA-Z_]+)+(?![\w/-])", text)
    }
    return sorted(
        name for name in found if name.rpartition(".")[2] not in ("toml", "json", "html", "md", "py")
    )


@pytest.mark.parametrize("name", [*mentioned(), *(f"hiergal.{name}" for name in hiergal.__all__)])
def test_every_name_that_is_mentioned_resolves(name):
    found = hiergal
    for part in name.split(".")[1:]:
        found = getattr(found, part)


def test_old_names_are_the_new_ones():
    assert hiergal.interval is hiergal.credible_interval and hiergal.open_survey is hiergal.open_survey
    with pytest.raises(AttributeError, match="nothing_such"):
        getattr(importlib.import_module("hiergal.posterior"), "nothing_such")  # noqa: B009


def test_every_flag_has_a_sentence():
    sentences = explain_flags(sum(Flag))
    assert len(set(sentences)) == len(Flag) and all(one.endswith(".") for one in sentences)
    assert explain_flags(0) == []


class Rows(HTMLParser):
    """What the cells of a page are sorted by, and where it looks outside."""

    def __init__(self):
        super().__init__()
        self.values, self.outside, self.pictures = [], [], 0

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "tr" and "data-flag" in attrs:
            self.values.append([])
        if tag == "td" and "data-value" in attrs:
            self.values[-1].append(attrs["data-value"])
        self.pictures += tag == "img" and attrs.get("src", "").startswith("data:image/png;base64,")
        self.outside += [v for k, v in attrs.items() if k in ("src", "href") and not v.startswith("data:")]


def test_page_of_many_galaxies(posterior, tmp_path):
    path = tmp_path / "galaxies.html"
    path.write_text("somebody's")
    with pytest.raises(FileExistsError, match="something else"):
        hiergal.posterior_page(posterior, path, overwrite=True)
    path.unlink()
    hiergal.posterior_page(posterior, path, title="<Three>")
    page = Rows()
    page.feed(text := path.read_text())
    assert "&lt;Three&gt;" in text and not page.outside and page.pictures == 3
    assert [row[0] for row in page.values] == [str(name) for name in posterior.identifier]
    magnitudes = posterior.draws_of("magnitude").mean(axis=0)  # after identifier, verdict and mag_auto
    np.testing.assert_allclose([float(row[3]) for row in page.values], magnitudes, rtol=1e-6)
    with pytest.raises(FileExistsError, match="overwrite"):
        hiergal.posterior_page(posterior, path)
    hiergal.posterior_page(posterior[0], path, overwrite=True, pages=True)
    assert "data-page=" in path.read_text()
    with pytest.raises(ValueError, match="html"):
        hiergal.posterior_page(posterior, tmp_path / "galaxies.txt")


def test_page_of_one_galaxy(posterior, model, observation):
    figure = posterior[0].plot(truth={"magnitude": 20.0}, title="Mine")
    assert len(figure.axes) >= 5 + 5 + 10 + 2 and any(text.get_text() == "Mine" for text in figure.texts)
    assert any("orange" in text.get_text() for text in figure.texts)
    labels = {axes.get_ylabel() for axes in figure.axes} | {axes.get_xlabel() for axes in figure.axes}
    assert any("arcsec$^2$" in label for label in labels) and any(
        "radius [arcsec]" in label for label in labels
    )
    with pytest.raises(ValueError, match="got 3"):
        hiergal.figures.posterior(posterior)
    assert len(posterior.plot().axes) > 10  # rows of stamps
    blurred = awkward_psf(3, (9, 9), seed=5)
    elsewhere = hiergal.infer(
        model, observation, key=0, method="amortized", draws=2, psf=blurred, verdict=False
    )
    own = elsewhere.at_own_psf()
    expected = np.asarray(model.render(elsewhere.profile_mean, observation.psf))
    np.testing.assert_allclose(own.image_mean, expected, rtol=1e-6)
    words = [text.get_text() for text in elsewhere[0].plot().texts]  # two draws are no distribution
    assert any("Not judged" in one for one in words)
