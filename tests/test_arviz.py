"""Posteriors as ArviZ data: names, axes, units, files, and ArviZ's own functions on them."""

import warnings

import jax
import numpy as np
import pytest
from toys import tiny_model, tiny_recipe, tiny_survey

from hiergal.arviz_data import load_arviz, posterior_to_arviz, save_arviz
from hiergal.posterior import METHODS, infer
from hiergal.predictive import predict

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import arviz

SHAPE, DRAWS, N = (16, 24), 12, 3


@pytest.fixture(scope="module")
def model():
    return tiny_model(tiny_recipe(SHAPE))


@pytest.fixture
def observation(make_psf, rng):
    observation = tiny_survey(N, SHAPE, make_psf(N))
    mask = rng.uniform(size=(N, *SHAPE)) < 0.1
    return observation.replace(mask=mask, identifier=np.array([31, 7, 12]))


@pytest.fixture
def posterior(key, model, observation):
    return infer(model, observation, key=key, draws=DRAWS, batch=N)


def test_groups_dimensions_and_coordinates(model, observation, posterior):
    data = posterior_to_arviz(posterior, observation, model)
    assert dict(data["posterior"]["z"].sizes) == {"chain": 1, "draw": DRAWS, "galaxy": N, "latent": 8}
    names = {"z", "flux", "magnitude", "hlr_arcsec", "x_pix", "y_pix", "g1", "g2"}
    assert set(data["posterior"].data_vars) == names
    for name in names - {"z"}:
        assert data["posterior"][name].dims == ("chain", "draw", "galaxy")
    assert data["observed_data"]["image"].dims == ("galaxy", "y", "x")
    constants = data["constant_data"]
    expected = {"psf", "noise_level", "mask", "pixel_scale_arcsec", *observation.catalog}
    assert set(constants.data_vars) == expected
    assert dict(constants["psf"].sizes) == {"galaxy": N, "psf_y": 5, "psf_x": 9}
    statistics = data["sample_stats"]
    assert set(statistics.data_vars) == {"method", "k_hat", "ess", "r_hat", "ess_nuts", "divergences"}
    assert statistics["method"].values.tolist() == ["laplace"] * N
    predictions = data["predictions"]
    numbers = {"chi_square", "misfit", "variance_factor"}
    assert set(predictions.data_vars) == {"profile_mean", "profile_std", "image_mean", *numbers}
    np.testing.assert_array_equal(data["posterior"]["galaxy"], [31, 7, 12])
    for name, size in (("y", 16), ("x", 24)):
        axis = data["observed_data"][name]
        np.testing.assert_allclose(axis, 0.03 * (np.arange(size) - (size - 1) / 2))
        assert axis.attrs["units"] == "arcsec"
    assert float(constants["psf_x"][4]) == 0 and float(constants["pixel_scale_arcsec"]) == 0.03
    assert data["posterior"]["flux"].attrs["units"] == "counts / s"
    assert data["posterior"].attrs["magnitude_zero_point"] == 25.94


def test_values_are_those_of_the_records(model, observation, posterior):
    data = posterior_to_arviz(posterior, observation, model)
    np.testing.assert_array_equal(data["posterior"]["z"].sel(galaxy=7)[0], posterior.latents[:, 1])
    np.testing.assert_array_equal(data["posterior"]["g2"][0], posterior.summary.g2)
    magnitude = 25.94 - 2.5 * np.log10(posterior.summary.flux)
    np.testing.assert_allclose(data["posterior"]["magnitude"][0], magnitude, rtol=1e-6)
    np.testing.assert_array_equal(data["observed_data"]["image"], observation.image)
    np.testing.assert_array_equal(data["constant_data"]["mask"], observation.mask)
    np.testing.assert_array_equal(data["constant_data"]["zphot"], observation.catalog["zphot"])
    np.testing.assert_array_equal(data["predictions"]["profile_std"], posterior.profile_std)


def test_files_hold_everything(model, observation, posterior, tmp_path):
    data = posterior_to_arviz(posterior, observation, model)
    path = tmp_path / "posterior.nc"
    save_arviz(data, path)
    first = load_arviz(path)
    save_arviz(first, path)  # over a file that is there, from data that came from it
    again = load_arviz(path)
    assert type(again) is type(data)
    for group in ("posterior", "observed_data", "constant_data", "predictions"):
        assert set(again[group].data_vars) == set(data[group].data_vars)
        assert again[group].attrs == data[group].attrs
        for name in data[group].data_vars:
            np.testing.assert_array_equal(again[group][name], data[group][name])
            assert again[group][name].dtype == data[group][name].dtype
            assert again[group][name].attrs == data[group][name].attrs
    assert [p.name for p in tmp_path.iterdir()] == ["posterior.nc"]


def test_a_failed_write_leaves_the_old_file(model, observation, posterior, tmp_path, monkeypatch):
    import xarray

    path = tmp_path / "posterior.nc"
    save_arviz(posterior_to_arviz(posterior, observation, model), path)
    before = path.read_bytes()

    def broken(tree, target, **options):
        target.write_bytes(before[:100])
        raise OSError("no space left")

    monkeypatch.setattr(xarray.DataTree, "to_netcdf", broken)
    with pytest.raises(OSError, match="no space left"):
        save_arviz(posterior_to_arviz(posterior, observation, model), path)
    assert path.read_bytes() == before


def test_arviz_summarises_it(model, observation, posterior):
    data = posterior_to_arviz(posterior, observation, model)
    table = arviz.summary(data, var_names=["magnitude", "hlr_arcsec"])
    assert len(table) == 2 * N
    expected = (25.94 - 2.5 * np.log10(posterior.summary.flux)).mean(axis=0)
    np.testing.assert_allclose(table["mean"].astype(float)[:N], expected, rtol=5e-3)


def test_without_a_mask_there_is_none(key, model, observation):
    observation = observation.replace(mask=None)
    data = posterior_to_arviz(infer(model, observation, key=key, draws=2, batch=N), observation, model)
    assert "mask" not in data["constant_data"]


def test_galaxies_have_to_be_the_same(model, observation, posterior):
    with pytest.raises(ValueError, match="expected the posterior and the observation of the same galaxies"):
        posterior_to_arviz(posterior, observation[np.array([1, 0, 2])], model)
    with pytest.raises(ValueError, match="got 3 and 2 galaxies"):
        posterior_to_arviz(posterior, observation[:2], model)


@pytest.fixture
def predicted(key, model, observation, posterior):
    return posterior_to_arviz(posterior, observation, model, predict(model, observation, posterior, key=key))


def test_predictions_have_groups_of_their_own(key, model, observation, posterior, predicted):
    sizes = {"chain": 1, "draw": DRAWS, "galaxy": N, "y": SHAPE[0], "x": SHAPE[1]}
    for group in ("posterior_predictive", "log_likelihood"):
        assert dict(predicted[group]["image"].sizes) == sizes
        assert predicted[group]["galaxy"].values.tolist() == [31, 7, 12]
    few = posterior_to_arviz(
        posterior, observation, model, predict(model, observation, posterior, key=key, draws=4)
    )
    assert few["posterior_predictive"]["draw"].values.tolist() == [0, 4, 7, 11]


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_predictions_survive_files(predicted, tmp_path, suffix):
    path = tmp_path / f"posterior{suffix}"
    for _ in range(2):  # the second replaces the first
        save_arviz(predicted, path)
    found = load_arviz(path)
    for group, name in (("log_likelihood", "image"), ("posterior", "z"), ("sample_stats", "method")):
        np.testing.assert_array_equal(found[group][name].values, predicted[group][name].values)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_chains_of_nuts_are_kept(model, observation, posterior):
    nuts = posterior.replace(method=np.full(N, METHODS.index("nuts")))
    z = posterior_to_arviz(nuts, observation, model)["posterior"]["z"]
    assert dict(z.sizes) == {"chain": 2, "draw": DRAWS // 2, "galaxy": N, "latent": 8}
    np.testing.assert_array_equal(z.values[1, 0], posterior.latents[DRAWS // 2])
    mixed = posterior.replace(method=np.array([METHODS.index("nuts"), 0, 0]))
    assert posterior_to_arviz(mixed, observation, model)["posterior"]["z"].sizes["chain"] == 1


def test_loo_of_a_galaxy_is_its_expected_log_density(predicted, observation):
    """Close to, and below, the mean log-likelihood at the posterior; masked pixels add nothing."""
    one = {name: predicted[name].sel(galaxy=[7]) for name in ("posterior", "log_likelihood", "observed_data")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that twelve draws are few
        found = arviz.loo(_tree_of(one), pointwise=True)
    inside = predicted["log_likelihood"]["image"].sel(galaxy=7).values[0].sum((1, 2))
    elpd = float(getattr(found, "elpd_loo", getattr(found, "elpd", np.nan)))
    assert inside.max() - 60 < elpd < inside.max() + 1


def test_arviz_plots_it(predicted):
    """The plots that people use first; each draws without a warning of ours."""
    import matplotlib.pyplot as plt

    one = _tree_of(
        {
            group: predicted[group].sel(galaxy=[7])
            for group in ("posterior", "posterior_predictive", "observed_data")
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arviz.plot_trace(one, var_names=["magnitude"])
        arviz.plot_forest(one, var_names=["hlr_arcsec"])
        (arviz.plot_ppc if hasattr(arviz, "plot_ppc") else arviz.plot_ppc_dist)(one)
    assert plt.get_fignums()
    plt.close("all")


def _tree_of(groups):
    """Groups that were cut to one galaxy, as the installed ArviZ takes them."""
    if hasattr(arviz, "InferenceData"):
        return arviz.InferenceData(**groups)
    import xarray

    return xarray.DataTree.from_dict({name: group.to_dataset() for name, group in groups.items()})


def test_missing_file(tmp_path):
    with pytest.raises(OSError):
        load_arviz(tmp_path / "nothing.nc")


def test_draws_count_as_one_chain_of_independent_draws(key, model, observation):
    """Effective sizes that ArviZ finds are about the number of draws at the median; those of repeated draws are not."""
    posterior = infer(model, observation, key=jax.random.fold_in(key, 1), draws=400, batch=N)
    z = np.asarray(posterior_to_arviz(posterior, observation, model)["posterior"]["z"]).reshape(1, 400, -1)

    def median_size(draws):
        return np.median([arviz.ess(draws[..., i]) for i in range(draws.shape[-1])])

    assert 300 < median_size(z) < 500
    assert median_size(np.repeat(z[:, :40], 10, axis=1)) < 100
