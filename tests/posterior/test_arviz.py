"""Posteriors as ArviZ data: names, axes, units, files, and ArviZ's own functions on them."""

import errno
import shutil
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from toys import (
    SCALE,
    bare_posterior,
    convolution_matrix,
    exact_draws,
    full_posterior,
    linear_model,
    tiny_model,
    tiny_recipe,
    tiny_survey,
)

from hiergal.observation import Observation
from hiergal.posterior import CHECKS, METHODS
from hiergal.posterior.infer import infer
from hiergal.posterior.predictive import predict
from hiergal.posterior.to_arviz import load_arviz, pixels_of, posterior_to_arviz, save_arviz

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import arviz

GENERATION = int(arviz.__version__.partition(".")[0])
SHAPE, DRAWS, N = (16, 24), 12, 3
GROUPS = (
    "posterior", "observed_data", "constant_data", "sample_stats", "predictions",
    "posterior_predictive", "log_likelihood",
)  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return tiny_model(tiny_recipe(SHAPE))


@pytest.fixture
def observation(make_psf, rng):
    observation = tiny_survey(N, SHAPE, make_psf(N))
    mask = rng.uniform(size=(N, *SHAPE)) < 0.1
    return observation.replace(mask=mask, identifier=np.array([31, 7, 12]))


@pytest.fixture
def posterior(observation):
    return full_posterior(observation, DRAWS)


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
    quality = {"method", "k_hat", "ess", "r_hat", "ess_nuts", "divergences"}
    assert set(statistics.data_vars) == quality | {"flag", "diverging", *CHECKS}
    assert statistics["method"].values.tolist() == ["laplace"] * N
    predictions = data["predictions"]
    assert set(predictions.data_vars) == {
        "profile_mean",
        "profile_std",
        "image_mean",
        "chi_square",
        "misfit",
        "variance_factor",
    }
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


@pytest.mark.parametrize(("first", "second"), [(".nc", ".nc"), (".zarr", ".zarr"), (".zarr", ".nc")])
def test_files_hold_everything(key, model, observation, posterior, tmp_path, first, second):
    prediction = predict(model, observation, posterior, key=key, draws=5, batch=N)
    data = posterior_to_arviz(posterior, observation, model, prediction)
    once, path = tmp_path / f"posterior{first}", tmp_path / f"posterior{second}"
    save_arviz(data, once)
    save_arviz(
        load_arviz(once), path, overwrite=True
    )  # over a file that is there, from data that came from it
    again = load_arviz(path)
    assert type(again) is type(data)
    for group in GROUPS:
        assert set(again[group].data_vars) == set(data[group].data_vars)
        assert again[group].attrs == data[group].attrs
        for name in data[group].data_vars:
            np.testing.assert_array_equal(again[group][name], data[group][name])
            assert again[group][name].dtype == data[group][name].dtype
            assert again[group][name].attrs == data[group][name].attrs
    assert {p.name for p in tmp_path.iterdir()} == {once.name, path.name}


@pytest.mark.parametrize(("suffix", "method"), [(".nc", "to_netcdf"), (".zarr", "to_zarr")])
def test_a_failed_write_leaves_the_old_file(
    model, observation, posterior, tmp_path, monkeypatch, suffix, method
):
    import xarray

    path = tmp_path / f"posterior{suffix}"
    save_arviz(posterior_to_arviz(posterior, observation, model), path)
    before = contents(path)

    def broken(tree, target, **options):
        target = target if suffix == ".nc" else target / "zarr.json"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(xarray.DataTree, method, broken)
    with pytest.raises(OSError, match="no space left"):
        save_arviz(posterior_to_arviz(posterior, observation, model), path, overwrite=True)
    assert contents(path) == before
    monkeypatch.undo()
    again = posterior_to_arviz(posterior[:2], observation[:2], model)
    save_arviz(again, path, overwrite=True)  # what was left does no harm
    assert load_arviz(path)["posterior"].sizes["galaxy"] == 2


def contents(path):
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {str(file): file.read_bytes() for file in files}


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        (".nc", lambda path: cut(path, 0.9)),
        (".nc", lambda path: cut(path, 0.01)),
        (".nc", lambda path: path.write_bytes(b"SIMPLE  =                    T")),
        (".zarr", lambda path: cut(path / "posterior/z/c/0/0/0/0", 0.5)),
        (".zarr", lambda path: (path / "posterior/z/c/0/0/0/0").unlink()),
        (".zarr", lambda path: cut(path / "posterior/z/zarr.json", 0.5)),
        (".zarr", lambda path: shutil.rmtree(path / "posterior/z")),
    ],
)
def test_damaged_files(model, observation, posterior, tmp_path, suffix, damage):
    path = tmp_path / f"posterior{suffix}"
    save_arviz(posterior_to_arviz(posterior, observation, model), path)
    damage(path)
    with pytest.raises(
        OSError, match=rf"posterior\{suffix}: expected .*, got .*; (write it again|copy it again)"
    ):
        load_arviz(path)


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_files_of_something_else(tmp_path, suffix):
    import xarray

    path = tmp_path / f"other{suffix}"
    tree = xarray.DataTree.from_dict({"weather": xarray.Dataset({"rain": ("day", np.ones(3))})})
    if suffix == ".nc":
        tree.to_netcdf(path, engine="h5netcdf")
    else:
        tree.to_zarr(path, consolidated=False)
    with pytest.raises(ValueError, match=r"got a file of something else \(its groups: weather\)"):
        load_arviz(path)
    before = contents(path)
    with pytest.raises(FileExistsError, match="got something else; it is left as it is"):
        save_arviz(tree, path, overwrite=True)
    assert contents(path) == before
    for act in (load_arviz, lambda path: save_arviz(tree, path)):
        with pytest.raises(ValueError, match=r".nc.*\(netCDF\).*.zarr.*got '.fits'"):
            act(tmp_path / "posterior.fits")


def test_arviz_summarises_it(model, observation, posterior):
    data = posterior_to_arviz(posterior, observation, model)
    table = arviz.summary(data, var_names=["magnitude", "hlr_arcsec"])
    assert len(table) == 2 * N
    expected = (25.94 - 2.5 * np.log10(posterior.summary.flux)).mean(axis=0)
    np.testing.assert_allclose(table["mean"].astype(float)[:N], expected, rtol=5e-3)


def test_without_a_mask_there_is_none(model, observation):
    observation = observation.replace(mask=None)
    data = posterior_to_arviz(full_posterior(observation, 2), observation, model)
    assert "mask" not in data["constant_data"]


def test_galaxies_have_to_be_the_same(model, observation, posterior):
    with pytest.raises(ValueError, match="expected the posterior and the observation of the same galaxies"):
        posterior_to_arviz(posterior, observation[np.array([1, 0, 2])], model)
    with pytest.raises(ValueError, match="got 3 and 2 galaxies"):
        posterior_to_arviz(posterior, observation[:2], model)


def test_missing_file(tmp_path):
    for suffix in (".nc", ".zarr"):
        with pytest.raises(FileNotFoundError, match="nothing.*got no such file"):
            load_arviz(tmp_path / f"nothing{suffix}")


def test_draws_count_as_one_chain_of_independent_draws(key, model, observation):
    """Effective sizes that ArviZ finds are about the number of draws at the median; those of repeated draws are not."""
    observation = observation.replace(mask=None)  # masks would add steps to compile
    posterior = infer(model, observation, key=key, method="amortized", draws=400, batch=N, verdict=False)
    z = np.asarray(posterior_to_arviz(posterior, observation, model)["posterior"]["z"]).reshape(1, 400, -1)

    def median_size(draws):
        return np.median([arviz.ess(draws[..., i]) for i in range(draws.shape[-1])])

    assert 300 < median_size(z) < 500
    assert median_size(np.repeat(z[:, :40], 10, axis=1)) < 100


def test_predictions_are_two_more_groups(key, model, observation, posterior):
    prediction = predict(model, observation, posterior, key=key, draws=4, batch=N)
    data = posterior_to_arviz(posterior, observation, model, prediction)
    replicated, terms = data["posterior_predictive"]["image"], data["log_likelihood"]["image"]
    assert dict(replicated.sizes) == {"chain": 1, "draw": 4, "galaxy": N, "y": 16, "x": 24}
    np.testing.assert_array_equal(replicated["draw"], [0, 3, 6, 9])
    np.testing.assert_array_equal(replicated[0], prediction.image)
    assert replicated.attrs["units"] == "counts / s / pixel"
    np.testing.assert_array_equal(np.isnan(terms[0, 0]), observation.mask)
    stamp = data["log_likelihood"]["stamp"]
    np.testing.assert_allclose(terms.sum(("y", "x")), stamp, rtol=1e-5)
    np.testing.assert_allclose(stamp[0], prediction.log_likelihood.sum(axis=(-2, -1)), rtol=1e-5)
    with pytest.raises(ValueError, match="predictive: expected the galaxies of the posterior"):
        posterior_to_arviz(posterior[:2], observation[:2], model, prediction)


def test_one_galaxy_has_its_pixels_without_the_masked_ones(key, model, observation, posterior):
    prediction = predict(model, observation, posterior, key=key, batch=N)
    one = pixels_of(posterior_to_arviz(posterior, observation, model, prediction), 7)
    used = ~observation.mask[1]
    np.testing.assert_array_equal(one["observed_data"]["image"], observation.image[1][used])
    np.testing.assert_array_equal(one["posterior_predictive"]["image"][0], prediction.image[:, 1][:, used])
    np.testing.assert_array_equal(one["log_likelihood"]["image"][0], prediction.log_likelihood[:, 1][:, used])
    assert list(one["log_likelihood"].data_vars) == ["image"]
    np.testing.assert_array_equal(one["posterior"]["z"][0], posterior.latents[:, 1])
    image = one["observed_data"]["image"]
    y, x = np.nonzero(used)
    np.testing.assert_allclose(image["y"], 0.03 * (y - 7.5), atol=1e-9)
    np.testing.assert_allclose(image["x"], 0.03 * (x - 11.5), atol=1e-9)
    np.testing.assert_array_equal(image["pixel"], 24 * y + x)
    with pytest.raises(ValueError, match="galaxy: expected the identifier of one of 3 galaxies, got 8"):
        pixels_of(posterior_to_arviz(posterior, observation, model), 8)


def test_chains_of_nuts(rng, key, model, observation):
    """One after the other in the posterior, two in ArviZ; as one for an odd number, or with other methods."""
    nuts = METHODS.index("nuts")
    latents = rng.normal(size=(DRAWS, N, 8)) + 10 * (np.arange(DRAWS) >= DRAWS // 2).reshape(-1, 1, 1)
    posterior = bare_posterior(latents, observation, method=np.full(N, nuts))
    prediction = predict(model, observation, posterior, key=key, draws=4, batch=N)
    data = posterior_to_arviz(posterior, observation, model, prediction)
    z = data["posterior"]["z"]
    assert z.sizes["chain"] == 2 and z.sizes["draw"] == DRAWS // 2
    np.testing.assert_array_equal(z[0], posterior.latents[: DRAWS // 2])
    np.testing.assert_array_equal(z[1], posterior.latents[DRAWS // 2 :])
    assert float(arviz.rhat(data, var_names=["z"])["z"].min()) > 1.5  # which one chain would not show
    replicated = data["posterior_predictive"]["image"]
    np.testing.assert_array_equal(replicated["draw"], [0, 3])
    np.testing.assert_array_equal(replicated[1], prediction.image[2:])
    mixed = posterior.replace(method=np.array([nuts, nuts, METHODS.index("importance")]))
    odd = bare_posterior(latents[1:], observation, method=np.full(N, nuts))
    for other in (mixed, odd):
        data = posterior_to_arviz(other, observation, model)
        assert data["posterior"].sizes["chain"] == 1
        np.testing.assert_array_equal(data["posterior"]["z"][0], other.latents)
    three = predict(model, observation, posterior, key=key, draws=3, batch=N)
    with pytest.raises(ValueError, match="predict an even number of draws"):
        posterior_to_arviz(posterior, observation, model, three)


@pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping")  # of ArviZ, by matplotlib
def test_arviz_works_on_it(key, model, observation, posterior, tmp_path):
    """Summary, trace, forest and predictive plots, and leave-one-out, on data that came from a file."""
    from matplotlib import pyplot

    prediction = predict(model, observation, posterior, key=key, batch=N)
    save_arviz(posterior_to_arviz(posterior, observation, model, prediction), tmp_path / "posterior.zarr")
    data = load_arviz(tmp_path / "posterior.zarr")
    one = pixels_of(data, 12)
    assert len(arviz.summary(one, var_names=["z", "flux"])) == 9
    for what in (data, one):
        arviz.plot_trace(what, var_names=["flux", "hlr_arcsec"])
        arviz.plot_forest(what, var_names=["magnitude"])
    if GENERATION < 1:
        arviz.plot_ppc(one, num_pp_samples=5)
    else:
        arviz.plot_ppc_dist(one, num_samples=5)
    pyplot.close("all")


def test_leave_one_out_is_exact_where_it_is_known(rng, key, make_psf, make_noise):
    """Log-density of each pixel given all others, in a linear model: five Monte-Carlo errors are 0.3 in their sum.

    A score of the pixels that were fitted is too high by more than one; masked pixels do not count.
    """
    model, shape, draws = linear_model((8, 16)), (8, 16), 2000
    noise, mask = make_noise("pixel", N, shape), rng.uniform(size=(N, *shape)) < 0.2
    image = model.render(model.decode(jnp.asarray(rng.normal(size=(N, 8)), jnp.float32)), make_psf(N))
    image = np.where(mask, np.nan, image + noise.sample(key, image.shape))
    observation = Observation(image, make_psf(N), noise, mask, {}, np.array([4, 2, 9]), SCALE)
    posterior = bare_posterior(exact_draws(observation, model.linear, draws), observation)
    prediction = predict(model, observation, posterior, key=key, batch=N)
    data = posterior_to_arviz(posterior, observation, model, prediction)
    for i, galaxy in enumerate(observation.identifier):
        kept = ~mask[i].ravel()
        blur = convolution_matrix(np.asarray(observation.psf.stamp[i], float), shape)
        design = (blur @ model.linear["weights"].T)[kept]
        covariance = design @ design.T + np.diag(noise.sigma[i].ravel()[kept].astype(float) ** 2)
        precision = np.linalg.inv(covariance)
        away = image[i].ravel()[kept] - (blur @ model.linear["offset"])[kept]
        off, variance = precision @ away / np.diag(precision), 1 / np.diag(precision)
        exact = norm.logpdf(off, scale=np.sqrt(variance)).sum()
        found = arviz.loo(pixels_of(data, int(galaxy)))
        assert found.n_data_points == kept.sum()
        elpd, p = (found.elpd_loo, found.p_loo) if GENERATION < 1 else (found.elpd, found.p)
        assert abs(elpd - exact) < 0.3 and p > 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whole galaxies left out: k is large, as it should be
        found = arviz.loo(data, var_name="stamp")
    assert found.n_data_points == N and found.warning


def test_a_full_disk_is_said_before_hdf5_meets_it(model, observation, posterior, tmp_path, monkeypatch):
    """HDF5 ends the process where it cannot write."""

    def full(file, start, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match=r"the disk is full: it takes [\d,]+ bytes in .*; make room"):
        save_arviz(posterior_to_arviz(posterior, observation, model), tmp_path / "d.nc")
    monkeypatch.undo()
    assert not (tmp_path / "d.nc").exists()
    save_arviz(posterior_to_arviz(posterior, observation, model), tmp_path / "d.nc")
    assert load_arviz(tmp_path / "d.nc") is not None
