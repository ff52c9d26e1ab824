"""What an inference needs, checked before anything is computed."""

import numpy as np

from hiergal.hub import GalaxyModel
from hiergal.psf import PSF, check_wider
from hiergal.records import Array
from hiergal.samplers.methods import METHODS
from hiergal.samplers.nuts import FEWEST_DRAWS

__all__ = ["check_counts", "check_geometry", "check_method", "check_psf", "rows_of_psf"]


def check_method(model: GalaxyModel, method: str, draws: int) -> None:
    """Check that a model can be asked for posteriors by a method.

    Raises:
        ValueError: If there is no such method, the model lacks what it needs, or it needs more draws.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    if method == "flow" and model.guide_flow is None:
        raise ValueError(
            "method: expected a model with a guide flow for 'flow', got one without; fit it with `hiergal guide`"
        )
    if method in ("nuts", "auto") and draws < FEWEST_DRAWS:
        raise ValueError(
            f"draws: expected at least {FEWEST_DRAWS} for {method!r}, whose chains are compared with each other, got "
            f"{draws}"
        )


def check_counts(**counts: int) -> None:
    """Check that numbers of things are one or more.

    Raises:
        ValueError: If one is not; it is named.

    Example:
        >>> check_counts(draws=0)
        Traceback (most recent call last):
        ...
        ValueError: draws: expected at least 1, got 0
    """
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}: expected at least 1, got {count}")


def check_geometry(
    model: GalaxyModel, pixel_scale_arcsec: float, shape: tuple[int, ...] | None = None
) -> None:
    """Check that stamps have the model's pixel scale, and its shape if that matters.

    Raises:
        ValueError: If they have not.
    """
    recipe = model.recipe
    if shape is not None and tuple(shape) != recipe.shape:
        raise ValueError(
            f"image: expected stamps of {recipe.shape} pixels, as the model has, got {tuple(shape)}"
        )
    if abs(pixel_scale_arcsec / recipe.pixel_scale_arcsec - 1) > 1e-6:
        raise ValueError(
            f"pixel_scale_arcsec: expected the model's, {recipe.pixel_scale_arcsec}, got {pixel_scale_arcsec}"
        )


def check_psf(model: GalaxyModel, psf: PSF, n: int) -> None:
    """Check PSFs that galaxies of a model are seen, or shown, at.

    Raises:
        ValueError: If they are neither one nor n, on another pixel scale, or narrower than the model's profiles.
    """
    own = model.recipe.pixel_scale_arcsec
    if psf.stamp.ndim != 3 or len(psf.stamp) not in (1, n):
        raise ValueError(f"psf.stamp: expected shape [{n}, py, px] or [1, py, px], got {psf.stamp.shape}")
    if abs(psf.pixel_scale_arcsec / own - 1) > 1e-6:
        raise ValueError(
            f"psf.pixel_scale_arcsec: expected the model's, {own}, got {psf.pixel_scale_arcsec}; resample the PSF"
        )
    if model.recipe.profile_fwhm_arcsec:
        check_wider(psf, model.recipe.profile_fwhm_arcsec)


def rows_of_psf(psf: PSF, rows: Array) -> PSF:
    """Return the PSF of each of some galaxies, of one for each or one for all."""
    stamp = np.asarray(psf.stamp)
    if len(stamp) == 1:
        return psf.replace(stamp=np.broadcast_to(stamp, (len(rows), *stamp.shape[1:])))
    return psf.replace(stamp=stamp[rows])
