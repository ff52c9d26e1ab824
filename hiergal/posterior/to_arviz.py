"""Posteriors as data with names, for ArviZ: one small adapter for both of its generations.

ArviZ 0.23 keeps groups of arrays in an ``InferenceData``, ArviZ 1 in xarray's ``DataTree``. Here everything is built,
written and read (:mod:`hiergal.posterior.arviz_files`) as a tree of xarray datasets, which is turned into an
``InferenceData`` where ArviZ asks for one; a file written under one generation loads under the other.

Random draws have the dimensions chain and draw. If all galaxies were sampled by NUTS, there are its two chains (one, if
the number of draws is odd). The draws of other methods are independent, and count as one chain; so do those of
``auto``, where some galaxies may have two: ``r_hat`` and ``ess_nuts`` of these are in ``sample_stats``.

========================  ==========================================================================================
group                     holds
========================  ==========================================================================================
``posterior``             z [chain, draw, galaxy, latent]; flux, magnitude, hlr_arcsec, x_pix, y_pix, g1, g2
``posterior_predictive``  image [chain, draw, galaxy, y, x]: replicated stamps
``log_likelihood``        image [chain, draw, galaxy, y, x], NaN where masked; stamp [chain, draw, galaxy], its sum
``observed_data``         image [galaxy, y, x]
``constant_data``         psf, noise_level, mask if there is one, catalogue columns, pixel_scale_arcsec
``sample_stats``          method, k_hat, ess, r_hat, ess_nuts, divergences [galaxy]: where the draws come from,
                          and what is known of their quality (:class:`hiergal.posterior.Posterior`); flag, and the
                          statistics that it rests on (:mod:`hiergal.posterior.verdict`); diverging [chain, draw,
                          galaxy], of NUTS, which ArviZ's plots of one galaxy show
``predictions``           profile_mean, profile_std, image_mean [galaxy, y, x]; chi_square, misfit, variance_factor
                          [galaxy]
========================  ==========================================================================================

The second and the third are there with a prediction (:func:`hiergal.posterior.predictive.predict`), with the draws that
it took. Axes y and x are offsets from the centre of the stamp [arcsec]; psf_y and psf_x are offsets from the central
pixel of the PSF's stamp [arcsec]. Attributes of each group say where it comes from
(:mod:`hiergal.posterior.provenance`).

Leave-one-out: ``arviz.loo(pixels_of(data, galaxy))`` asks how well each pixel of a galaxy is predicted by all others,
masked ones left out; with correlated noise its terms are those of whitened residuals, and only their sum compares
models. ``arviz.loo(data, var_name="stamp")`` leaves out whole galaxies: since nothing but its stamp informs a galaxy's
latents, it warns of large k, and rightly.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from hiergal.model.trained import GalaxyModel
from hiergal.observation.observation import Observation
from hiergal.posterior.arviz_files import for_arviz, load_arviz, save_arviz, tree_of
from hiergal.posterior.posterior import METHODS, Posterior
from hiergal.posterior.predictive import Prediction, check_same_galaxies
from hiergal.posterior.provenance import provenance_of
from hiergal.posterior.samplers.nuts import CHAINS
from hiergal.runtime.extras import require_extra

__all__ = ["load_arviz", "pixels_of", "posterior_to_arviz", "save_arviz"]

STAMP = ("galaxy", "y", "x")
DRAWS = ("chain", "draw", "galaxy")


def posterior_to_arviz(
    posterior: Posterior,
    observation: Observation,
    model: GalaxyModel,
    predictive: Prediction | None = None,
    *,
    about: Mapping[str, str | int | float] | None = None,
) -> Any:
    """Put posteriors, and what they were inferred from, into the form that ArviZ works on.

    Args:
        posterior: Posteriors of some galaxies.
        observation: The same galaxies, in the same order.
        model: The model that inferred them; its magnitude zero point turns fluxes into magnitudes.
        predictive: What the posteriors predict (:func:`hiergal.posterior.predictive.predict`), for two more groups.
        about: Attributes of each group in addition to those of :mod:`hiergal.posterior.provenance`: the seed.

    Returns:
        ``arviz.InferenceData`` under ArviZ 0.23, ``xarray.DataTree`` under ArviZ 1.

    Raises:
        ValueError: If posterior, observation and prediction are not of the same galaxies, or the prediction has other
            draws of one chain of NUTS than of the other.

    Example:
        >>> prediction = hiergal.predict(model, observation, posterior, key=1, draws=10)
        >>> data = posterior_to_arviz(posterior, observation, model, prediction)
        >>> data["posterior"]["magnitude"].sizes["galaxy"]  # for arviz.summary, plot_pair, plot_ppc, ...
        4
    """
    require_extra("posterior", "posteriors for ArviZ")
    import xarray as xr

    check_same_galaxies(posterior, observation)
    observation = observation.in_photometry(model.provenance.photometry)
    origin, chains = model.provenance, _chains(posterior)
    methods = ", ".join(sorted({METHODS[place] for place in np.unique(posterior.method)}))
    own = provenance_of(model, method=methods, draws=len(posterior.latents))
    library = {"inference_library": "hiergal", "inference_library_version": own["hiergal_version"]}
    about = own | library | {"model_version": origin.version} | dict(about or {})
    groups = {
        "posterior": _draws(posterior, chains, origin.flux_unit, origin.magnitude_zero_point),
        "observed_data": {"image": _variable(STAMP, observation.image, f"{origin.flux_unit} / pixel")},
        "constant_data": _constants(observation, origin.flux_unit),
        "sample_stats": _statistics(posterior, chains),
        "predictions": _predictions(posterior, origin.flux_unit),
    }
    axes = _coordinates(posterior, observation, chains)
    taken = {}
    if predictive is not None:
        taken["draw"] = _variable(("draw",), _taken(predictive, posterior, chains))
        groups["posterior_predictive"], groups["log_likelihood"] = _predicted(
            predictive, observation.mask, chains, origin.flux_unit
        )
    datasets = {}
    for name, variables in groups.items():
        used = {axis for variable in variables.values() for axis in variable.dims}
        own = axes | taken if name in ("posterior_predictive", "log_likelihood") else axes
        datasets[name] = xr.Dataset(variables, {a: own[a] for a in own if a in used}, attrs=about)
    return for_arviz(xr.DataTree.from_dict(datasets))


def pixels_of(data: Any, galaxy: int) -> Any:
    """Return ArviZ data of one galaxy, with its pixels on one axis and the masked ones left out.

    Args:
        data: What :func:`posterior_to_arviz` returned.
        galaxy: Identifier of the galaxy.

    Returns:
        The same groups without the axis of galaxies, and with ``pixel`` instead of y and x, but without ``stamp``.

    Raises:
        ValueError: If there is no such galaxy.

    Example:
        >>> prediction = hiergal.predict(model, observation, posterior, key=1, draws=10)
        >>> data = posterior_to_arviz(posterior, observation, model, prediction)
        >>> one = pixels_of(data, posterior.identifier[0])
        >>> one["log_likelihood"]["image"].sizes["pixel"]  # arviz.loo: how well others predict each
        4096
    """
    import xarray as xr

    tree = tree_of(data)
    there = tree["posterior"]["galaxy"].values
    if galaxy not in there:
        raise ValueError(f"galaxy: expected the identifier of one of {len(there)} galaxies, got {galaxy}")
    constants = tree["constant_data"].to_dataset()
    kept = None if "mask" not in constants else ~constants["mask"].sel(galaxy=galaxy).values.ravel()
    groups = {}
    for name, node in tree.children.items():
        group = node.to_dataset()
        group = group.sel(galaxy=galaxy) if "galaxy" in group.dims else group
        if {"y", "x"} <= set(group.dims):
            group = group.stack(pixel=("y", "x")).reset_index("pixel")
            group = group.assign_coords(pixel=np.arange(group.sizes["pixel"]))
            group = group if kept is None else group.isel(pixel=kept)
        groups[name] = group.drop_vars("stamp", errors="ignore")
    return for_arviz(xr.DataTree.from_dict(groups))


def _chains(posterior: Posterior) -> int:
    """Chains of NUTS come one after the other; draws of other methods are independent."""
    nuts = np.all(posterior.method == METHODS.index("nuts"))
    return CHAINS if nuts and len(posterior.latents) % CHAINS == 0 else 1


def _by_chain(values: Any, chains: int) -> np.ndarray:
    values = np.asarray(values)
    return values.reshape(chains, -1, *values.shape[1:])


def _draws(posterior: Posterior, chains: int, flux_unit: str, zero_point: float) -> dict[str, Any]:
    """Random variables by chain and draw."""
    units = {"flux": flux_unit, "hlr_arcsec": "arcsec", "x_pix": "pixel", "y_pix": "pixel"}
    summary = {f.name: np.asarray(getattr(posterior.summary, f.name)) for f in fields(posterior.summary)}
    magnitude = zero_point - 2.5 * np.log10(summary["flux"])
    return {
        "z": _variable((*DRAWS, "latent"), _by_chain(posterior.latents, chains), "1"),
        "magnitude": _variable(DRAWS, _by_chain(magnitude, chains), "mag"),
        **{n: _variable(DRAWS, _by_chain(value, chains), units.get(n, "1")) for n, value in summary.items()},
    }


def _taken(predictive: Prediction, posterior: Posterior, chains: int) -> np.ndarray:
    """Indices of the draws of each chain that a prediction has."""
    if not np.array_equal(predictive.identifier, posterior.identifier):
        raise ValueError(
            "predictive: expected the galaxies of the posterior in the same order, got others; predict these"
        )
    length = len(posterior.latents) // chains
    if len(predictive.draw) % chains == 0:
        by_chain = _by_chain(predictive.draw, chains) - length * np.arange(chains)[:, None]
        if (by_chain == by_chain[0]).all() and by_chain.max() < length:
            return by_chain[0]
    raise ValueError(
        f"predictive: expected the same draws of each of the {chains} chains, got {len(predictive.draw)} draws of both "
        "together that are others; predict an even number of draws"
    )


def _predicted(
    predictive: Prediction, mask: Any, chains: int, flux_unit: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    axes = (*DRAWS, "y", "x")
    terms = _by_chain(predictive.log_likelihood, chains)
    stamp = terms.sum(axis=(-2, -1))
    terms = terms if mask is None else np.where(mask, np.nan, terms)
    images = {"image": _variable(axes, _by_chain(predictive.image, chains), f"{flux_unit} / pixel")}
    return images, {"image": _variable(axes, terms, "1"), "stamp": _variable(DRAWS, stamp, "1")}


def _constants(observation: Observation, flux_unit: str) -> dict[str, Any]:
    columns = {name: _variable(("galaxy",), column) for name, column in observation.catalog.items()}
    own = {
        "psf": _variable(("galaxy", "psf_y", "psf_x"), observation.psf.stamp, "1 / pixel"),
        "noise_level": _variable(("galaxy",), observation.noise.rms(), f"{flux_unit} / pixel"),
        "pixel_scale_arcsec": _variable((), observation.pixel_scale_arcsec, "arcsec"),
    }
    mask = {} if observation.mask is None else {"mask": _variable(STAMP, observation.mask)}
    return columns | own | mask


def _statistics(posterior: Posterior, chains: int) -> dict[str, Any]:
    names = np.array(METHODS)[posterior.method].astype(object)  # files know strings of any length, not of one
    numbers = {name: _variable(("galaxy",), value, "1") for name, value in posterior.statistics.items()}
    checks = {name: _variable(("galaxy",), value, "1") for name, value in posterior.checks.items()}
    judged = {} if posterior.flag is None else {"flag": _variable(("galaxy",), posterior.flag)}
    shape = posterior.latents.shape[:2]
    diverging = np.zeros(shape, bool) if posterior.diverging is None else posterior.diverging
    drawn = {"diverging": _variable(DRAWS, _by_chain(diverging, chains))}
    return {"method": _variable(("galaxy",), names), **judged, **numbers, **checks, **drawn}


def _predictions(posterior: Posterior, flux_unit: str) -> dict[str, Any]:
    images = {n: _variable(STAMP, getattr(posterior, n), f"{flux_unit} / pixel") for n in _IMAGES}
    return images | {n: _variable(("galaxy",), getattr(posterior, n), "1") for n in _NUMBERS}


_NUMBERS = ("chi_square", "misfit", "variance_factor")
_IMAGES = ("profile_mean", "profile_std", "image_mean")


def _coordinates(posterior: Posterior, observation: Observation, chains: int) -> dict[str, Any]:
    draws, _, latents = posterior.latents.shape
    ny, nx = posterior.profile_mean.shape[-2:]
    py, px = observation.psf.stamp.shape[-2:]
    scales = (observation.pixel_scale_arcsec,) * 2 + (observation.psf.pixel_scale_arcsec,) * 2
    axes = {
        name: _variable((name,), (np.arange(size) - (size - 1) / 2) * scale, "arcsec")
        for name, size, scale in zip(("y", "x", "psf_y", "psf_x"), (ny, nx, py, px), scales, strict=True)
    }
    counts = {"chain": chains, "draw": draws // chains, "latent": latents}
    indices = {name: _variable((name,), np.arange(count)) for name, count in counts.items()}
    names = np.asarray(posterior.identifier)
    names = names.astype(object) if names.dtype.kind == "U" else names  # of any length
    return {**indices, "galaxy": _variable(("galaxy",), names), **axes}


def _variable(dims: tuple[str, ...], values: Any, units: str | None = None) -> Any:
    import xarray as xr

    return xr.Variable(dims, np.asarray(values), {} if units is None else {"units": units})
