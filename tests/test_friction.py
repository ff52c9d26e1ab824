"""What users write when they have not read the manual: it works, or one line says what to write."""

import warnings
from functools import partial

import astropy.units as u
import jax
import jax.numpy as jnp
import jaxtyping
import msgspec
import numpy as np
import optax
import pandas as pd
import pytest
from astropy.table import QTable, Table
from numpyro.infer import SVI, Predictive, Trace_ELBO
from numpyro.infer.util import initialize_model, log_density
from toys import SCALE, bare_posterior, tiny_model, tiny_survey

import hiergal
from hiergal.hub.packing import digest_of, fill, flatten
from hiergal.model.architecture import programs_of
from hiergal.model.conditions import condition_names
from hiergal.observation import Photometry
from hiergal.observation.psf import PSF
from hiergal.posterior import METHODS, STATISTICS, Flag
from hiergal.posterior.fit_checks import FitChecks
from hiergal.posterior.images import posterior_images
from hiergal.posterior.input_checks import judge_conditions
from hiergal.posterior.samplers import nuts
from hiergal.posterior.samplers.target import LatentPosterior
from hiergal.posterior.scenes.deblend import deblend
from hiergal.posterior.stages import infer_to_arviz
from hiergal.posterior.survey import infer_survey
from hiergal.posterior.table import posterior_table, read_table, write_table
from hiergal.posterior.to_arviz import load_arviz, pixels_of, posterior_to_arviz, save_arviz
from hiergal.runtime.seeds import as_key
from hiergal.survey import StoreHeader, open_survey, write_store

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import arviz

SHAPE, N = (16, 24), 3
FAST = {"method": "amortized", "draws": 10, "batch": 4, "verdict": False}


@pytest.fixture(scope="module")
def model():
    model = tiny_model()
    units = {"mag_auto": "mag", "flux_radius": "0.03 arcsec pixels", "zphot": "1"}
    return model.replace(provenance=msgspec.structs.replace(model.provenance, condition_units=units))


@pytest.fixture(scope="module")
def galaxies():
    stamp = np.ones((N, 3, 3), np.float32) / 9
    return tiny_survey(N, SHAPE, PSF(stamp, pixel_scale_arcsec=SCALE))


@pytest.fixture(scope="module")
def survey(galaxies, tmp_path_factory):
    path = tmp_path_factory.mktemp("survey") / "survey.zarr"
    header = StoreHeader(
        survey="toy",
        band="F814W",
        pixel_scale_arcsec=SCALE,
        magnitude_zero_point=25.94,
        flux_unit="counts / s",
    )
    write_store(path, header, [(galaxies, None)])
    return path


@pytest.fixture(scope="module")
def posterior(model, galaxies):
    return hiergal.infer(model, galaxies, key=jax.random.key(3), **FAST)


@pytest.fixture
def unchecked():
    """What users have: the package's own checks, and not those of types in signatures before them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def same(one, other):
    """Posteriors, or checks, are alike to the last bit."""
    leaves, others = jax.tree.leaves(one), jax.tree.leaves(other)
    assert len(leaves) == len(others)
    for a, b in zip(leaves, others, strict=True):
        np.testing.assert_array_equal(a, b)


def test_galaxies_may_be_a_survey(model, survey, posterior):
    key = jax.random.key(3)
    for given in (survey, str(survey), open_survey(survey), open_survey(survey).subset(np.arange(N))):
        same(hiergal.infer(model, given, key=key, **FAST), posterior)
    at_once = hiergal.predict(model, open_survey(survey).read(), posterior, key=key, draws=2, batch=4)
    same(hiergal.predict(model, survey, posterior, key=key, draws=2, batch=4), at_once)


def test_arrays_are_no_galaxies(model, unchecked):
    with pytest.raises(
        TypeError, match="observation: expected a hiergal.Observation, a survey's store .*from_arrays"
    ):
        hiergal.infer(model, np.zeros((2, *SHAPE)), key=0)
    with pytest.raises(OSError, match="no-such.zarr"):
        hiergal.infer(model, "no-such.zarr", key=0)


def test_a_seed_is_a_key(model, galaxies, posterior, unchecked):
    for key in (3, np.uint8(3), jax.random.PRNGKey(3), np.asarray(jax.random.PRNGKey(3))):
        same(hiergal.infer(model, galaxies, key=key, **FAST), posterior)
    calls = {
        "predict": lambda key: hiergal.predict(model, galaxies, posterior, key=key, draws=2, batch=4),
        "noise": lambda key: galaxies.noise.sample(key, galaxies.image.shape),
        "flow": lambda key: model.flow.sample(key, np.ones((2, 3), np.float32)),
    }
    for call in calls.values():
        same(call(4), call(jax.random.key(4)))


@pytest.mark.parametrize("key", ["seven", 1.5, None, np.random.default_rng(1)])
def test_what_is_no_key(model, galaxies, posterior, key, unchecked):
    positions = np.zeros((N, 1, 2))
    calls = {
        "infer": lambda: hiergal.infer(model, galaxies, key=key),
        "check_fits": lambda: hiergal.check_fits(model, galaxies, posterior, key=key),
        "predict": lambda: hiergal.predict(model, galaxies, posterior, key=key),
        "deblend": lambda: deblend(model, galaxies, positions, key=key),
        "draw_profiles": lambda: hiergal.draw_profiles(model, dict(galaxies.catalog), key=key),
        "noise": lambda: galaxies.noise.sample(key, galaxies.image.shape),
    }
    for call in calls.values():
        with pytest.raises(TypeError, match="key: expected a key, such as jax.random.key"):
            call()


def test_several_keys_are_no_key(unchecked):
    with pytest.raises(TypeError, match=r"key:.*got 3 of shape \(3,\); take one .*key\[0\]"):
        as_key(jax.random.split(jax.random.key(0), 3))
    with pytest.raises(TypeError, match="key: expected a key"):
        as_key(np.array([1, 2, 3], np.uint32))


def test_the_name_of_a_model_is_no_model(galaxies, posterior, unchecked):
    words = (
        r"model: expected a trained model, got 'hub:mock-acs'; load it: hiergal.load_model\('hub:mock-acs'\)"
    )
    name = "hub:mock-acs"
    calls = {
        "infer": lambda: hiergal.infer(name, galaxies, key=0),
        "check_fits": lambda: hiergal.check_fits(name, galaxies, posterior, key=0),
        "predict": lambda: hiergal.predict(name, galaxies, posterior, key=0),
        "posterior_images": lambda: posterior_images(name, posterior),
        "deblend": lambda: deblend(name, galaxies, np.zeros((N, 1, 2)), key=0),
        "draw_profiles": lambda: hiergal.draw_profiles(name, galaxies.catalog, key=0),
        "draw_galsim": lambda: hiergal.draw_galsim(name, galaxies.catalog, key=0),
        "save_model": lambda: hiergal.save_model(name, "somewhere"),
    }
    for call in calls.values():
        with pytest.raises(TypeError, match=words):
            call()


def tables(galaxies):
    """The same conditions in all kinds of tables; the first two have units to convert."""
    columns = {name: np.asarray(column, float) for name, column in galaxies.catalog.items()}
    radius = columns["flux_radius"] * SCALE * u.arcsec
    units = {"mag_auto": columns["mag_auto"] * u.mag, "flux_radius": radius, "zphot": columns["zphot"]}
    yield QTable(units)
    yield Table(units)
    yield pd.DataFrame(columns)[["zphot", "mag_auto", "flux_radius"]]
    yield columns
    yield Table(columns).as_array()


def test_conditions_may_be_a_table(model, galaxies, posterior):
    numbers = np.stack([galaxies.catalog[name] for name in condition_names(model)], axis=-1)
    for table in tables(galaxies):
        found = judge_conditions(model, table, N)
        assert len(found.groups) == 1 and not (found.flag & Flag.BAD_CONDITIONS).any()
        np.testing.assert_allclose(found.groups[0][1], numbers, rtol=1e-6)
        same(hiergal.infer(model, galaxies, key=3, conditions=table, **FAST).latents, posterior.latents)


def test_rows_that_nobody_knows_are_flagged_and_no_error(model, galaxies):
    table = Table({name: np.asarray(column, float) for name, column in galaxies.catalog.items()}, masked=True)
    table["zphot"].mask = [False, True, False]
    table["mag_auto"][2] = 99.0
    found = judge_conditions(model, table, N)
    np.testing.assert_array_equal(found.flag == Flag.BAD_CONDITIONS, [False, True, True])
    assert [rows.tolist() for rows, _ in found.groups] == [[0], [1, 2]] and found.groups[1][1] is None


def test_checks_leave_out_the_same_rows(model, galaxies, posterior, monkeypatch):
    table = Table({name: np.asarray(column, float) for name, column in galaxies.catalog.items()})
    table["mag_auto"][0] = np.nan
    names = [field for field in FitChecks.__dataclass_fields__ if field not in ("identifier", "frequency")]

    def check(model, observation, prior, *rest):
        """Which galaxy, and what is known of it, in place of p-values."""
        label = observation.identifier + (0.5 if prior.conditions.shape[1] else 0.0)
        return {name: np.tile(label[:, None], 10) if name.startswith("power") else label for name in names}

    monkeypatch.setattr("hiergal.posterior.fit_checks._check_batch", check)
    found = hiergal.check_fits(model, galaxies, posterior, key=5, conditions=table, batch=4)
    np.testing.assert_array_equal(found.p_prior, galaxies.identifier + np.array([0.0, 0.5, 0.5]))


def test_conditions_that_cannot_be_used_are_refused(model, galaxies):
    columns = dict(galaxies.catalog)
    wrong = {
        "missing: zphot": {name: columns[name] for name in ("mag_auto", "flux_radius")},
        r"expected shape \(3, 3\)": Table(columns)[:2],
        "flux_radius: expected a column in": QTable(columns | {"flux_radius": np.ones(N) * u.s}),
        "read it first: hiergal.model.condition_columns.read_catalog": "catalog.fits",
    }
    for words, given in wrong.items():
        with pytest.raises((ValueError, TypeError), match=words):
            hiergal.infer(model, galaxies, key=0, conditions=given, **FAST)


def test_sources_of_scenes_may_have_a_table(model, galaxies, monkeypatch):
    positions = np.array([[[-3.0, 0.0], [3.0, 1.0]]])
    numbers = np.stack([galaxies.catalog[name][:2] for name in condition_names(model)], axis=-1)[None]
    table = Table({name: column[:2] for name, column in galaxies.catalog.items()})
    asked = []

    def prior_of(_, conditions):
        asked.append(conditions)
        raise KeyboardInterrupt  # the rest takes half a minute to compile

    monkeypatch.setattr(type(model), "latent_flow", prior_of)
    for given in (numbers, table):
        with pytest.raises(KeyboardInterrupt):
            deblend(model, galaxies[:1], positions, key=2, conditions=given)
    same(*asked)


def test_a_published_model_is_named_where_its_prefix_was_forgotten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for load in (hiergal.load_model, hiergal.GenerativeGalaxyModel):
        with pytest.raises(FileNotFoundError, match='the hub has a model of this name: load "hub:mock-acs"'):
            load("mock-acs")
    with pytest.raises(FileNotFoundError, match="train one with `hiergal train`"):
        hiergal.load_model("no-such-model")


def test_a_models_program_is_what_infer_samples(model, galaxies):
    """Its density is likelihood and unit normal; the weights are no site, so that SVI around it learns none."""
    several = jnp.asarray(np.random.default_rng(5).normal(size=(2, N, 8)), np.float32)
    other = galaxies.replace(photometry=Photometry("nJy", 31.4), noise=galaxies.noise.scaled(2.0))
    plain = model.replace(flow=None, marginal=None)
    for given in (galaxies, other):
        here = given.in_photometry(model.provenance.photometry)
        density = LatentPosterior(plain, here, plain.latent_flow().expand((N,)), np.ones(N, np.float32))

        def densities(z, given=given, density=density):
            found, sites = log_density(model.program(), (given,), {}, {"z": z})
            assert set(sites) == {"galaxies", "z", "profile", "image"}
            return found, (density.log_likelihood(z) + density.prior.log_prob(z)).sum()

        found, expected = jax.jit(jax.vmap(densities))(several)
        difference = found[1] - found[0]  # but for a constant
        np.testing.assert_allclose(difference, expected[1] - expected[0], rtol=1e-3, atol=1e-2)


def test_programs_with_random_weights_say_so(model, galaxies, key):
    """To NUTS and Predictive, once; SVI begins with random weights."""
    bare, guide = programs_of(model.recipe)
    with pytest.warns(UserWarning, match=r"no weights were given.*model.program\(\)"):
        jax.eval_shape(lambda key: Predictive(bare, num_samples=1)(key, galaxies.replace(image=None)), key)
    with pytest.warns(UserWarning, match="no weights were given"):
        jax.eval_shape(lambda key: initialize_model(key, bare, model_args=(galaxies,)).param_info.z, key)
    run = SVI(bare, guide, optax.adam(1e-3), Trace_ELBO())
    jax.eval_shape(lambda key: run.get_params(run.init(key, galaxies)), key)
    jax.eval_shape(lambda key: Predictive(model.program(), num_samples=1)(key, galaxies), key)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(2):
            jax.eval_shape(lambda key: Predictive(bare, num_samples=1)(key, galaxies), key)
    assert len(said) == 1


def test_models_load_and_work_in_double_precision(model, galaxies, tmp_path):
    hiergal.save_model(model, tmp_path / "model")
    encode = jax.jit(type(model).encode)
    with jax.enable_x64(True):  # as numpyro.enable_x64() does
        loaded = hiergal.load_model(tmp_path / "model")
        assert {leaf.dtype.name for leaf in jax.tree.leaves(loaded)} == {"float32"}
        found = hiergal.infer(loaded, galaxies, key=3, **FAST)
        program = Predictive(loaded.program(), num_samples=2)
        made = jax.eval_shape(lambda: program(jax.random.key(0), galaxies.replace(image=None))["image"])
        assert made.shape == (2, *galaxies.image.shape)
        drawn = jax.eval_shape(lambda: loaded.decode(loaded.flow.sample(3, np.ones((2, 3), np.float32))))
        assert drawn.shape == (2, *model.recipe.shape)
        outputs = np.asarray(encode(loaded, galaxies))
    assert np.isfinite(found.profile_mean).all()
    np.testing.assert_allclose(outputs, encode(model, galaxies), rtol=1e-3, atol=1e-3)


def test_weights_in_double_precision_are_kept_where_jax_has_them(model):
    template = jax.eval_shape(lambda: model.flow.params)
    arrays = {name: array.astype(float) for name, array in flatten(model.flow.params).items()}
    with pytest.raises(ValueError, match="expected float32 .*, got float64"):
        fill(template, arrays, "here")
    with jax.enable_x64(True):
        assert {leaf.dtype.name for leaf in jax.tree.leaves(fill(template, arrays, "here"))} == {"float64"}


def test_which_draws_diverged_follows_the_draws(galaxies, monkeypatch, unchecked):
    """Draws of both chains, in order, with one too many left out; each value says whose it is."""
    draws, n = 9, N
    where = np.arange(5 * n * 2).reshape(5, n, 2)  # draw, galaxy, chain
    diverging = where % 4 == 0
    found = (where[..., None] + np.random.default_rng(1).uniform(0, 0.5, (5, n, 2, 8)), diverging)
    monkeypatch.setattr(nuts, "_in_parts", lambda *_: found)
    monkeypatch.setattr(nuts, "_centered", lambda *_: (None, None))
    monkeypatch.setattr(nuts, "_start", lambda *_: None)
    plain = tiny_model(flow=False)
    density = LatentPosterior(plain, galaxies, plain.latent_flow().expand((n,)), np.ones(n, np.float32))
    made = nuts.sample_by_nuts(density, None, np.zeros((2, n, 8)), None, draws=draws)
    assert made.diverging.dtype == bool and made.diverging.shape == (draws, n)
    np.testing.assert_array_equal(made.diverging, np.floor(made.latents[..., 0]) % 4 == 0)
    np.testing.assert_array_equal(made.statistics["divergences"], diverging.sum(axis=(0, 2)))


def test_arviz_finds_divergences(model, galaxies, tmp_path):
    draws, rng = 40, np.random.default_rng(2)
    diverging = rng.uniform(size=(draws, N)) < 0.2
    posterior = bare_posterior(
        rng.normal(size=(draws, N, 8)), galaxies, method=np.full(N, METHODS.index("nuts"))
    )
    summary = jax.tree.map(lambda x: x * rng.uniform(1, 2, x.shape).astype(x.dtype), posterior.summary)
    posterior = posterior.replace(diverging=diverging, summary=summary)
    save_arviz(posterior_to_arviz(posterior, galaxies, model), tmp_path / "draws.nc")
    data = load_arviz(tmp_path / "draws.nc")
    kept = data["sample_stats"]["diverging"]
    assert (
        kept.dims == ("chain", "draw", "galaxy") and kept.shape == (2, draws // 2, N) and kept.dtype == bool
    )
    np.testing.assert_array_equal(kept.values.reshape(draws, N), diverging)
    np.testing.assert_array_equal(posterior[np.array([2, 0])].diverging, diverging[:, [2, 0]])
    if int(arviz.__version__.partition(".")[0]) < 1:
        one = pixels_of(data, int(galaxies.identifier[1]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Matplotlib, about ArviZ
            axes = arviz.plot_pair(one, var_names=["flux", "hlr_arcsec"], divergences=True)
            arviz.plot_trace(data, var_names=["flux"])
        shown = [len(points.get_offsets()) for points in axes.collections] + [
            len(x.get_xdata()) for x in axes.lines
        ]
        assert diverging[:, 1].sum() in shown
    none = posterior_to_arviz(posterior.replace(diverging=None), galaxies, model)
    assert not none["sample_stats"]["diverging"].values.any()


def test_other_methods_have_no_divergences(posterior):
    assert posterior.diverging.shape == posterior.latents.shape[:2] and not posterior.diverging.any()


@pytest.mark.parametrize("suffix", [".fits", ".parquet"])
def test_tables_say_where_they_come_from(model, survey, suffix, tmp_path, monkeypatch):
    monkeypatch.setattr("hiergal.posterior.survey.infer", partial(hiergal.infer, verdict=False))
    hiergal.save_model(model, tmp_path / "model")
    out = tmp_path / f"table{suffix}"
    choices = {"method": "amortized", "draws": 10, "seed": 7}
    infer_survey(tmp_path / "model", survey, out, **choices, batch=4, progress=False)
    table = Table.read(out)  # by anybody
    expected = {
        "MODEL": "tiny", "MODELSHA": digest_of(flatten(model)), "SURVEY": "toy", "BAND": "F814W",
        "FLUXUNIT": "counts / s", "MAGZERO": 25.94, "HGVERS": hiergal.__version__,
        "METHOD": "amortized", "DRAWS": 10, "CONDIT": 0, "SEED": 7,
    }  # fmt: skip
    assert {name: table.meta[name] for name in expected} == expected
    for name in ("flux", "flux_std", "flux_q160"):
        assert u.Unit(table[name].unit) == u.ct / u.s
    assert table["hlr_arcsec"].unit == u.arcsec and table["magnitude"].unit == u.mag


@pytest.mark.parametrize(
    ("flux_unit", "inside", "in_fits"),
    [("nJy", u.nJy, u.nJy), ("nanomaggies", u.nmgy, None), ("Kübel", None, None), ("", None, None)],
)
def test_columns_have_units_where_files_can_hold_them(galaxies, flux_unit, inside, in_fits, tmp_path):
    draws = np.random.default_rng(2).normal(size=(5, N, 8))
    unknown = dict.fromkeys(STATISTICS, np.ones(N, np.float32))
    posterior = bare_posterior(draws, galaxies, statistics=unknown)
    table = posterior_table(posterior, magnitude_zero_point=22.5, flux_unit=flux_unit)
    assert table["flux"].unit == inside and table.meta["MAGZERO"] == 22.5
    write_table(table, tmp_path / "t.fits")
    write_table(table, tmp_path / "t.parquet")
    assert table["flux"].unit == inside  # still
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Table.read(tmp_path / "t.fits")["flux_std"].unit == in_fits
    for name in ("t.fits", "t.parquet"):
        again = read_table(tmp_path / name)
        assert again["flux_std"].unit == inside
    words = again.meta["FLUXUNIT"]
    assert words == (flux_unit or "not stated")


def test_arviz_files_say_where_they_come_from(model, survey, tmp_path, monkeypatch):
    monkeypatch.setattr("hiergal.posterior.stages.infer", partial(hiergal.infer, verdict=False))
    infer_to_arviz(
        model, open_survey(survey), tmp_path / "d.nc", seed=7, method="amortized", draws=10, progress=False
    )
    about = load_arviz(tmp_path / "d.nc")["posterior"].attrs
    expected = {
        "model": "tiny", "model_sha256": digest_of(flatten(model)), "flux_unit": "counts / s", "draws": 10,
        "magnitude_zero_point": 25.94, "hiergal_version": hiergal.__version__, "method": "amortized", "seed": 7,
        "conditions": 0, "inference_library": "hiergal", "model_version": "0.1.0",
    }  # fmt: skip
    assert {name: about[name] for name in expected} == expected


def test_a_bare_name_is_answered_with_its_prefix(galaxies, unchecked):
    with pytest.raises(TypeError, match=r"got 'mock-acs'; load it: hiergal.load_model\('hub:mock-acs'\)"):
        hiergal.infer("mock-acs", galaxies, key=0)


def test_a_seed_is_no_generator_of_galsim(drawing_folder, unchecked):
    generator = hiergal.GenerativeGalaxyModel(drawing_folder)
    catalog = {"mag_auto": [22.0], "flux_radius": [9.0], "zphot": [0.7]}
    with pytest.raises(
        TypeError, match=r"rng: expected a galsim.BaseDeviate.*got int; write galsim.BaseDeviate\(7\)"
    ):
        generator.sample(catalog, rng=7)
