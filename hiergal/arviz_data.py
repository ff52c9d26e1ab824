"""Posteriors as data with names, for ArviZ: one small adapter for both of its generations.

ArviZ 0.23 keeps groups of arrays in an ``InferenceData``, ArviZ 1 in xarray's ``DataTree``. Here everything is built,
written and read as a tree of xarray datasets, which is turned into an ``InferenceData`` where ArviZ asks for one; a
file written under one generation loads under the other. Random draws have the dimensions chain and draw. Those of
NUTS keep their chains if all galaxies were inferred by it; all others are independent, and count as one chain.

========================  ============================================================================
group                     holds
========================  ============================================================================
``posterior``             z [chain, draw, galaxy, latent]; flux, magnitude, hlr_arcsec, x_pix, y_pix,
                          g1, g2
``posterior_predictive``  image [chain, draw, galaxy, y, x]: stamps seen again, if there is a prediction
``log_likelihood``        image [chain, draw, galaxy, y, x]: of each pixel, likewise
``observed_data``         image [galaxy, y, x]
``constant_data``         psf, noise_level, mask if there is one, catalogue columns, pixel_scale_arcsec
``sample_stats``          method, k_hat, ess, r_hat, ess_nuts, divergences [galaxy]: where the draws
                          come from, and what is known of their quality
``predictions``           profile_mean, profile_std, image_mean [galaxy, y, x]; chi_square, misfit,
                          variance_factor [galaxy]
========================  ============================================================================

``az.loo`` works on one galaxy, whose pixels are the observations: ``az.loo(data.sel(galaxy=[identifier]))``; masked
pixels count as known (log-likelihood 0), and add nothing.

Axes y and x are offsets from the centre of the stamp [arcsec]; psf_y and psf_x are offsets from the central pixel of
the PSF's stamp [arcsec].
"""

import shutil
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from hiergal.hub import GalaxyModel
from hiergal.observation import Observation
from hiergal.posterior import METHODS, Posterior
from hiergal.predictive import Prediction
from hiergal.samplers.nuts import CHAINS

__all__ = ["load_arviz", "posterior_to_arviz", "save_arviz"]

ENGINE = "h5netcdf"
STAMP = ("galaxy", "y", "x")
DRAWS = ("chain", "draw", "galaxy")
DRAWN = (*DRAWS, "y", "x")


def posterior_to_arviz(
    posterior: Posterior, observation: Observation, model: GalaxyModel, prediction: Prediction | None = None
) -> Any:
    """Put posteriors, and what they were inferred from, into the form that ArviZ works on.

    Args:
        posterior: Posteriors of some galaxies.
        observation: The same galaxies, in the same order.
        model: The model that inferred them; its magnitude zero point turns fluxes into magnitudes.
        prediction: What :func:`hiergal.predictive.predict` returned, for the groups ``posterior_predictive`` and
            ``log_likelihood``.

    Returns:
        ``arviz.InferenceData`` under ArviZ 0.23, ``xarray.DataTree`` under ArviZ 1.

    Raises:
        ValueError: If posterior and observation are not of the same galaxies.

    Example:
        >>> data = posterior_to_arviz(infer(model, observation, key=key), observation, model)  # doctest: +SKIP
        >>> arviz.summary(data, var_names=["magnitude", "hlr_arcsec"])  # doctest: +SKIP
    """
    import xarray as xr

    if not np.array_equal(posterior.identifier, observation.identifier):
        raise ValueError(
            f"expected the posterior and the observation of the same galaxies in the same order, got "
            f"{len(posterior)} and {len(observation)} galaxies whose identifiers differ"
        )
    origin = model.provenance
    about = {
        "model": model.recipe.name,
        "survey": origin.survey,
        "band": origin.band,
        "flux_unit": origin.flux_unit,
        "magnitude_zero_point": origin.magnitude_zero_point,
        "hiergal_version": origin.version,
    }
    groups = {
        "posterior": _draws(posterior, origin.flux_unit, origin.magnitude_zero_point),
        "observed_data": {"image": _variable(STAMP, observation.image, f"{origin.flux_unit} / pixel")},
        "constant_data": _constants(observation, origin.flux_unit),
        "sample_stats": _statistics(posterior),
        "predictions": _predictions(posterior, origin.flux_unit),
    }
    if prediction is not None:
        unit = f"{origin.flux_unit} / pixel"
        chains = _chains(posterior) if len(prediction.draw) == len(posterior.latents) else 1
        groups["posterior_predictive"] = {"image": _variable(DRAWN, _split(prediction.image, chains), unit)}
        groups["log_likelihood"] = {
            "image": _variable(DRAWN, _split(prediction.log_likelihood, chains), "nat")
        }
    axes = _coordinates(posterior, observation)
    datasets = {}
    for name, variables in groups.items():
        used = {axis for variable in variables.values() for axis in variable.dims}
        there = {axis: axes[axis] for axis in axes if axis in used}
        if name in ("posterior_predictive", "log_likelihood"):
            there |= _draw_axes(prediction.draw, chains)
        datasets[name] = xr.Dataset(variables, there, attrs=about)
    return _for_arviz(xr.DataTree.from_dict(datasets))


def save_arviz(data: Any, path: str | Path) -> None:
    """Write posteriors to a netCDF file or a zarr group, replacing one that is there; it is whole, or not written.

    Args:
        data: What :func:`posterior_to_arviz` returned.
        path: A folder if it ends in ``.zarr``, else a file, ``.nc`` by custom.

    Raises:
        OSError: If it cannot be written; what was there before stays.

    Example:
        >>> save_arviz(data, "posterior.nc")  # doctest: +SKIP
    """
    import xarray as xr

    path = Path(path)
    tree = data if isinstance(data, xr.DataTree) else data.to_datatree()
    partial = path.with_name(f"{path.name}.partial")
    if path.suffix != ".zarr":
        tree.to_netcdf(partial, engine=ENGINE)
        partial.replace(path)
        return
    shutil.rmtree(partial, ignore_errors=True)
    tree.to_zarr(partial, zarr_format=2)  # format 3 has no settled way to store strings yet
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)


def load_arviz(path: str | Path) -> Any:
    """Read posteriors into memory.

    Args:
        path: What :func:`save_arviz` wrote, under either generation of ArviZ.

    Raises:
        OSError: If it cannot be read.

    Example:
        >>> data = load_arviz("posterior.nc")  # doctest: +SKIP
    """
    import xarray as xr

    path = Path(path)
    with xr.open_datatree(path, engine="zarr" if path.suffix == ".zarr" else ENGINE) as tree:
        return _for_arviz(tree.load().copy(deep=True))


def _draws(posterior: Posterior, flux_unit: str, zero_point: float) -> dict[str, Any]:
    """Random variables, each with the axis of chains put first."""
    chains = _chains(posterior)
    units = {"flux": flux_unit, "hlr_arcsec": "arcsec", "x_pix": "pixel", "y_pix": "pixel"}
    summary = {f.name: np.asarray(getattr(posterior.summary, f.name)) for f in fields(posterior.summary)}
    variables = {
        n: _variable(DRAWS, _split(value, chains), units.get(n, "1")) for n, value in summary.items()
    }
    magnitude = zero_point - 2.5 * np.log10(summary["flux"])
    z = _variable((*DRAWS, "latent"), _split(np.asarray(posterior.latents), chains), "1")
    return {"z": z, "magnitude": _variable(DRAWS, _split(magnitude, chains), "mag"), **variables}


def _chains(posterior: Posterior) -> int:
    """How many chains the draws are of: they come one chain after the other."""
    draws = len(posterior.latents)
    nuts = len(posterior) and np.all(posterior.method == METHODS.index("nuts"))
    return CHAINS if nuts and draws % CHAINS == 0 else 1


def _split(values: np.ndarray, chains: int) -> np.ndarray:
    return values.reshape(chains, -1, *values.shape[1:])


def _draw_axes(draw: np.ndarray, chains: int) -> dict[str, Any]:
    number = draw if chains == 1 else np.arange(len(draw) // chains)
    return {"chain": _variable(("chain",), np.arange(chains)), "draw": _variable(("draw",), number)}


def _constants(observation: Observation, flux_unit: str) -> dict[str, Any]:
    columns = {name: _variable(("galaxy",), column) for name, column in observation.catalog.items()}
    own = {
        "psf": _variable(("galaxy", "psf_y", "psf_x"), observation.psf.stamp, "1 / pixel"),
        "noise_level": _variable(("galaxy",), observation.noise.level(), f"{flux_unit} / pixel"),
        "pixel_scale_arcsec": _variable((), observation.pixel_scale_arcsec, "arcsec"),
    }
    mask = {} if observation.mask is None else {"mask": _variable(STAMP, observation.mask)}
    return columns | own | mask


def _statistics(posterior: Posterior) -> dict[str, Any]:
    names = np.array(METHODS)[posterior.method].astype(object)  # files know strings of any length, not of one
    numbers = {name: _variable(("galaxy",), value, "1") for name, value in posterior.statistics.items()}
    return {"method": _variable(("galaxy",), names), **numbers}


def _predictions(posterior: Posterior, flux_unit: str) -> dict[str, Any]:
    images = {n: _variable(STAMP, getattr(posterior, n), f"{flux_unit} / pixel") for n in _IMAGES}
    return images | {n: _variable(("galaxy",), getattr(posterior, n), "1") for n in _NUMBERS}


_IMAGES = ("profile_mean", "profile_std", "image_mean")
_NUMBERS = ("chi_square", "misfit", "variance_factor")


def _coordinates(posterior: Posterior, observation: Observation) -> dict[str, Any]:
    draws, _, latents = posterior.latents.shape
    ny, nx = posterior.profile_mean.shape[-2:]
    py, px = observation.psf.stamp.shape[-2:]
    scales = (observation.pixel_scale_arcsec,) * 2 + (observation.psf.pixel_scale_arcsec,) * 2
    axes = {
        name: _variable((name,), (np.arange(size) - (size - 1) / 2) * scale, "arcsec")
        for name, size, scale in zip(("y", "x", "psf_y", "psf_x"), (ny, nx, py, px), scales, strict=True)
    }
    indices = _draw_axes(np.arange(draws), _chains(posterior)) | {
        "latent": _variable(("latent",), np.arange(latents))
    }
    return {**indices, "galaxy": _variable(("galaxy",), posterior.identifier), **axes}


def _variable(dims: tuple[str, ...], values: Any, units: str | None = None) -> Any:
    import xarray as xr

    return xr.Variable(dims, np.asarray(values), {} if units is None else {"units": units})


def _for_arviz(tree: Any) -> Any:
    """The tree itself under ArviZ 1, and the older record of the same groups before."""
    with warnings.catch_warnings():  # 0.23 announces on import that 1.x is coming
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    major = int(arviz.__version__.partition(".")[0])
    return tree if major >= 1 else arviz.InferenceData.from_datatree(tree)
