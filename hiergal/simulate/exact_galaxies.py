"""Galaxies of exact flux and size for the files of ``hiergal sample``: GalSim's numbers, on a survey's stamps.

A flux is a factor on a profile. A half-light radius is a dilation, which GalSim draws: on the model's own pixels (what
is wider than the stamp is cut off there), or through a survey's PSF; that takes some milliseconds for each galaxy.
"""

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from hiergal.model.trained import GalaxyModel
from hiergal.runtime.pytree import Array
from hiergal.simulate.galsim_objects import build_galaxies
from hiergal.simulate.profiles import add_noise_to, stamps_of_profiles
from hiergal.simulate.renderer import Renderer
from hiergal.simulate.survey_stamps import SurveyRenderers

if TYPE_CHECKING:
    import galsim

__all__ = ["Sky", "exact_profiles", "exact_stamps"]


class Sky(NamedTuple):
    """Noise of a survey's stamps.

    Attributes:
        level: Sky [flux per pixel, in electrons].
        key: PRNG key.
        rows: What the noise of each galaxy depends on, [n] or [n, 2].
    """

    level: float
    key: jax.Array
    rows: Array


def exact_profiles(
    model: GalaxyModel,
    profiles: Float[np.ndarray, "n y x"],
    *,
    flux: Float[np.ndarray, "n"] | None,
    half_light_radius: Float[np.ndarray, "n"] | None,
) -> Float[np.ndarray, "n y x"]:
    """Rescale light profiles to exact fluxes and sizes.

    Args:
        model: The model that drew them.
        profiles: Unconvolved light profiles [flux per pixel].
        flux: Total flux of each, in the model's unit; None to keep it.
        half_light_radius: Of each [arcsec]; None to keep it.

    Returns:
        Unconvolved light profiles; what is wider than the stamp is cut off.

    Example:
        >>> profiles = exact_profiles(model, posterior.profile_mean, flux=np.ones(4), half_light_radius=None)
        >>> profiles.sum(axis=(1, 2)).round(3).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    if half_light_radius is None:
        return _single(profiles * _factors(profiles, flux)[:, None, None])
    import galsim

    recipe, (ny, nx) = model.recipe, profiles.shape[1:]
    fwhm = recipe.profile_fwhm_arcsec
    galaxies = build_galaxies(
        recipe,
        model.provenance.magnitude_zero_point,
        profiles,
        flux=flux,
        half_light_radius=half_light_radius,
    )
    if fwhm:  # profiles of such a model have this resolution
        galaxies = [galsim.Convolve(galaxy, galsim.Gaussian(fwhm=fwhm)) for galaxy in galaxies]
    images = [
        galaxy.drawImage(nx=nx, ny=ny, scale=recipe.pixel_scale_arcsec, method="no_pixel").array
        for galaxy in galaxies
    ]
    return _single(np.reshape(images, profiles.shape))


def exact_stamps(
    model: GalaxyModel,
    renderer: Renderer | SurveyRenderers,
    psf: "galsim.GSObject",
    profiles: Float[np.ndarray, "n y x"] | list[np.ndarray],
    *,
    zero_point: float,
    flux: Float[np.ndarray, "n"] | None,
    half_light_radius: Float[np.ndarray, "n"] | None,
    sky: Sky | None,
) -> Float[np.ndarray, "n v u"]:
    """Draw galaxies of exact fluxes and sizes as a survey sees them.

    Args:
        model: The model that drew the profiles.
        renderer: Of the survey's PSF and pixels; several, for profiles of several shapes and sizes that are asked for.
        psf: The same PSF, for galaxies of exact size.
        profiles: Unconvolved light profiles [flux per pixel].
        zero_point: Of the stamps [mag].
        flux: Total flux of each on the stamps; None for the model's, at their zero point.
        half_light_radius: Of each, before the PSF [arcsec]; None to keep it.
        sky: Noise to add, or None.

    Returns:
        Stamps [flux per pixel of the stamp].

    Example:
        >>> import galsim
        >>> from hiergal.simulate.renderer import renderer_for
        >>> psf, profiles = galsim.Gaussian(fwhm=0.7), posterior.profile_mean
        >>> renderer = renderer_for(model, psf, pixel_scale_arcsec=0.2, shape=(24, 24))
        >>> exact = {"flux": np.full(4, 100.0), "half_light_radius": None, "sky": None}
        >>> exact_stamps(model, renderer, psf, profiles, zero_point=30.0, **exact).shape
        (4, 24, 24)
    """
    own = model.provenance.magnitude_zero_point
    if half_light_radius is None:
        assert isinstance(renderer, Renderer) and isinstance(profiles, np.ndarray)
        factor = (
            np.full(len(profiles), 10 ** (0.4 * (zero_point - own)))
            if flux is None
            else _factors(profiles, flux)
        )
        images = stamps_of_profiles(renderer, profiles, factor)
    else:
        import galsim

        galaxies = build_galaxies(
            model.recipe,
            own,
            profiles,
            flux=flux,
            half_light_radius=half_light_radius,
            magnitude_zero_point=zero_point,
        )
        (ny, nx), scale = renderer.shape, renderer.pixel_scale_arcsec
        drawn = [galsim.Convolve(galaxy, psf).drawImage(nx=nx, ny=ny, scale=scale) for galaxy in galaxies]
        images = _single(np.reshape([image.array for image in drawn], (len(profiles), ny, nx)))
    return images if sky is None else add_noise_to(images, sky.level, key=sky.key, rows=sky.rows)


def _factors(profiles: np.ndarray, flux: np.ndarray | None) -> np.ndarray:
    if flux is None:
        return np.ones(len(profiles))
    return flux / profiles.sum(axis=(1, 2), dtype=float)


_single = partial(np.asarray, dtype=np.float32)
