"""A noise model and networks from outside the package (tests/foreign.py) go the whole way, as the package's own do."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from conftest import SCALE, awkward_psf
from foreign import StripedNoise, TinyEncoderConfig, TinyGenerator, TinyGeneratorConfig
from scipy.stats import multivariate_normal
from toys import tiny_recipe, tiny_survey

import hiergal
from hiergal.model.nets.registry import build_network, register_network
from hiergal.observation.noise import NoiseModel
from hiergal.observation.stationary import StationaryNoise
from hiergal.posterior.predictive import pixel_log_prob
from hiergal.recipe.config import AugmentationConfig
from hiergal.recipe.network_kinds import GeneratorArchitecture
from hiergal.recipe.recipe import parse_recipe, recipe_to_toml
from hiergal.runtime.pytree import record
from hiergal.survey import StoreHeader, open_survey, write_store
from hiergal.survey.degrade import degrade_observation
from hiergal.training.augment import reorient
from hiergal.training.fit_prior import fit_prior
from hiergal.training.train_model import train_model

SHAPE = (8, 16)
HEADER = StoreHeader(survey="striped", band="V", pixel_scale_arcsec=SCALE, magnitude_zero_point=25.94)
KINDS = {"generator": TinyGeneratorConfig(), "encoder": TinyEncoderConfig()}


def striped(n: int, along: str = "row") -> StripedNoise:
    rng = np.random.default_rng(5)
    sigma, offset = rng.uniform(0.5, 1.5, (2, n)).astype(np.float32)
    return StripedNoise(sigma, offset, along=along)


def covariance_of(noise: StripedNoise, galaxy: int, shape: tuple[int, int]) -> np.ndarray:
    """Pixel by pixel, in C order."""
    stripe = np.indices(shape)[0 if noise.along == "row" else 1].ravel()
    same = stripe[:, None] == stripe[None]
    return noise.offset[galaxy] ** 2.0 * same + noise.sigma[galaxy] ** 2.0 * np.eye(stripe.size)


def survey(n: int):
    noise = striped(n)
    observation = tiny_survey(n, SHAPE, awkward_psf(n))
    image = observation.image + np.asarray(noise.sample(1, observation.image.shape))
    mask = np.random.default_rng(2).random(image.shape) < 0.03
    return observation.replace(image=image, noise=noise, mask=mask)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("survey") / "striped.zarr", HEADER, [(survey(64), None)])


@pytest.fixture(scope="module")
def bundle(store, tmp_path_factory):
    """A model of foreign networks, trained on foreign noise."""
    varied = AugmentationConfig(symmetries=True)
    recipe = tiny_recipe(SHAPE, steps=6, evaluate_every=3, batch=16, augmentation=varied)
    recipe = msgspec.structs.replace(recipe, **KINDS)
    assert parse_recipe(recipe_to_toml(recipe)) == recipe
    folder = tmp_path_factory.mktemp("run")
    model, fitted = train_model(store, recipe, folder, seed=1, progress=False)
    assert len(fitted.history) == 2 and np.isfinite(fitted.history[-1].elbo)
    fit_prior(folder / "model", store, seed=1, steps=5, progress=False)
    return folder / "model"


@pytest.mark.parametrize("along", ["row", "column"])
@pytest.mark.parametrize("masked", [False, True])
def test_foreign_noise_is_a_dense_normal(along, masked):
    noise, shape = striped(2, along), (3, 4)
    residual = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
    mask = np.zeros(residual.shape, bool)
    mask[:, 1] = mask[1, :, 2] = masked
    found = noise.log_prob(residual, mask if masked else None)
    for galaxy in range(2):
        used = ~mask[galaxy].ravel()
        dense = multivariate_normal(cov=covariance_of(noise, galaxy, shape)[used][:, used])
        assert float(found[galaxy]) == pytest.approx(dense.logpdf(residual[galaxy].ravel()[used]), rel=1e-5)
    terms = pixel_log_prob(noise, residual, mask if masked else None)
    np.testing.assert_allclose(terms.sum(axis=(1, 2)), found, rtol=1e-5)


@pytest.mark.parametrize("along", ["row", "column"])
def test_its_samples_spectrum_and_units_are_those_of_its_covariance(along):
    noise, shape = striped(1, along), (3, 4)
    draws = np.asarray(noise.sample(3, (40_000, *shape))).reshape(-1, 12)
    # 78 elements, of standard errors of at most (2 / 40000)^(1/2) C_max: one in 20,000 seeds fails.
    covariance = covariance_of(noise, 0, shape)
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=5 * covariance.max() * np.sqrt(2 / 40_000))
    residual = draws[:1].reshape(1, *shape)
    twin = StationaryNoise(noise.power_spectrum(shape), width=4)
    np.testing.assert_allclose(noise.log_prob(residual), twin.log_prob(residual), rtol=1e-4)
    np.testing.assert_allclose(noise.scaled(3.0).whiten(3 * residual), noise.whiten(residual), rtol=1e-5)


def test_a_survey_of_foreign_noise_is_read_as_it_was_written(store):
    written, read = survey(64), open_survey(store.path).read([7, 3])
    assert (
        isinstance(read.noise, StripedNoise) and read.noise.along == "row" and store.noise_kind == "striped"
    )
    np.testing.assert_array_equal(read.noise.sigma, written.noise.sigma[[7, 3]])
    np.testing.assert_array_equal(read.noise.offset, written.noise.offset[[7, 3]])
    assert store.galaxy_bytes == 4 * (np.prod(SHAPE) + 5 * 9 + 2) + np.prod(SHAPE)


def test_what_is_wrong_with_foreign_noise_is_named(tmp_path):
    galaxies = survey(3)
    bad = galaxies.replace(noise=galaxies.noise.replace(offset=np.array([1, np.nan, 1], np.float32)))
    with pytest.raises(
        ValueError, match="noise.offset: expected positive and finite values, got others in 1 of 3"
    ):
        hiergal.check_observation(bad)
    columns = galaxies.replace(noise=striped(3, "column"))
    with pytest.raises(ValueError, match="noise_header.*'row'.*'column'"):
        write_store(tmp_path / "both.zarr", HEADER, [(galaxies, None), (columns, None)])


def test_foreign_noise_is_mirrored_but_not_transposed():
    square = jax.tree.map(
        jnp.asarray, tiny_survey(2, (8, 8), awkward_psf(2, (5, 5))).replace(noise=striped(2))
    )
    yes, no = jnp.ones(2, bool), jnp.zeros(2, bool)
    assert jnp.array_equal(reorient(square, no, no, yes).image, square.image)
    assert jnp.array_equal(reorient(square, yes, no, yes).image, square.image[:, ::-1])


def test_foreign_noise_with_a_spectrum_is_blurred_by_it():
    galaxies = survey(2)
    worse = degrade_observation(galaxies, fwhm_arcsec=0.1, noise_factor=2.0, rng=np.random.default_rng(1))
    np.testing.assert_allclose(worse.noise.rms(), 2 * galaxies.noise.rms(), rtol=1e-4)


def test_foreign_networks_and_noise_go_the_whole_way(bundle, store):
    model, galaxies = hiergal.load_model(bundle), store.read([1, 2, 5])
    assert isinstance(build_network(model.recipe.generator, shape=SHAPE), TinyGenerator)
    posterior = hiergal.infer(model, galaxies, key=1, method="laplace", draws=8, verdict=False)
    assert posterior.latents.shape == (8, 3, 3) and np.isfinite(posterior.latents).all()
    assert np.isfinite(hiergal.predict(model, galaxies, posterior, key=2, draws=2).image).all()
    columns = {name: galaxies.catalog[name] for name in model.flow.config.conditions}
    profile = hiergal.draw_profiles(model, columns, key=3, outside="ignore")
    assert profile.shape == (3, *SHAPE) and (profile > 0).all()


def test_unknown_kinds_are_named_with_the_module_to_import(bundle, store):
    """In a process where nobody has imported that module; with it, both are read."""
    program = """
import sys, hiergal
for read, path in zip((hiergal.load_model, hiergal.open_store), sys.argv[1:3]):
    try:
        print("read", type(read(path)).__name__)
    except ValueError as error:
        print(error)
    if len(sys.argv) > 3:
        import foreign
"""
    words = [sys.executable, "-c", program, str(bundle), str(store.path)]
    here = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "check": True}
    assert subprocess.run(words, **here).stdout.splitlines() == [
        f"{bundle / 'recipe.toml'}: generator.kind: expected framed or lanusse2020 or sersic_residual, got 'tiny'; "
        "import foreign first",
        f"{store.path}: noise_kind: expected pixel, stationary, white, got 'striped'; import foreign before the survey "
        "is opened",
    ]
    assert subprocess.run([*words, "import"], **here).stdout.splitlines()[1] == "read SurveyStore"


@pytest.mark.parametrize("name", sorted(NoiseModel.__abstractmethods__))
def test_a_forgotten_method_is_refused_by_its_name(name):
    def nothing(*_):
        """Stand in for the other methods."""

    others = dict.fromkeys(NoiseModel.__abstractmethods__ - {name}, nothing)
    incomplete, complete = (
        record(type("Forgetful", (NoiseModel,), others | more)) for more in ({}, {name: nothing})
    )
    with pytest.raises(TypeError, match=f"abstract.* {name}$"):
        incomplete()
    assert complete().kind == ""


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="got 'striped', that of foreign.StripedNoise"):
        type("Other", (NoiseModel,), {}, kind="striped")
    assert NoiseModel.kinds["striped"] is StripedNoise


def test_a_kind_without_name_or_network_is_refused():
    with pytest.raises(TypeError, match="Nameless: expected a msgspec.Struct with tag_field='kind'"):
        register_network(type("Nameless", (GeneratorArchitecture,), {}))

    class Unbuilt(
        TinyGeneratorConfig, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="unbuilt"
    ):
        pass

    with pytest.raises(TypeError, match="kind 'unbuilt': expected a network for Unbuilt, got none"):
        build_network(Unbuilt(), shape=SHAPE)
    with pytest.raises(ValueError, match="generator.latents: expected at least 2, got 1"):
        parse_recipe('[generator]\nkind = "tiny"\nlatents = 1')
    with pytest.raises(ValueError, match=r"unknown field `widths` - at `\$.encoder`; known there: width"):
        parse_recipe('[encoder]\nkind = "tiny"\nwidths = 1')
