"""Galaxies as large as their light on the stamps of a survey, all on the device.

The stamp of the survey has one size; what is drawn on it are profiles of several (:mod:`hiergal.simulate.stamps`). A
renderer is made for each size of profile when it is first needed, and one program is compiled for each. Light that
falls outside the survey's stamp is not drawn: a profile needs to be no larger than the stamp and the PSF's reach.
"""

from functools import partial
from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Float

from hiergal.model.profile_grid import ProfileGrid, grid_of
from hiergal.model.trained import GalaxyModel
from hiergal.runtime.pytree import Array
from hiergal.simulate.profiles import add_noise_to, in_blocks
from hiergal.simulate.renderer import Renderer, renderer_for
from hiergal.simulate.stamps import choose_stamps, latents_from_base, stamp_groups, warn_of_lost_light

if TYPE_CHECKING:
    import galsim

__all__ = ["SurveyRenderers", "draw_survey_stamps"]


class SurveyRenderers:
    """Renderers of one survey, for profiles on stamps of any size.

    Args:
        model: The model whose profiles they draw.
        psf: Any GalSim object, without the pixel's response.
        pixel_scale_arcsec: Width of the survey's pixels [arcsec].
        shape: Pixels of its stamps (ny, nx).

    Attributes:
        shape: As given.
        pixel_scale_arcsec: As given.

    Raises:
        ValueError: If scale or shape is not positive.
    """

    def __init__(
        self, model: GalaxyModel, psf: "galsim.GSObject", *, pixel_scale_arcsec: float, shape: tuple[int, int]
    ) -> None:
        self._model, self._psf = model, psf
        self.pixel_scale_arcsec, self.shape = pixel_scale_arcsec, shape
        self._made: dict[ProfileGrid, Renderer] = {}
        self.of(grid_of(model.recipe))  # what is wrong is refused at once

    def of(self, grid: ProfileGrid) -> Renderer:
        """Return the renderer of profiles on a grid."""
        if grid not in self._made:
            scale, shape = self.pixel_scale_arcsec, self.shape
            self._made[grid] = renderer_for(
                self._model, self._psf, pixel_scale_arcsec=scale, shape=shape, grid=grid
            )
        return self._made[grid]


def draw_survey_stamps(
    model: GalaxyModel,
    renderers: SurveyRenderers,
    base: Float[Array, "n d"],
    conditions: Float[Array, "n c"],
    *,
    flux_scale: float = 1.0,
    flux: Float[np.ndarray, "n"] | None = None,
    sky_level: float | None = None,
    key: jax.Array | int | None = None,
    rows: Array | None = None,
) -> Float[np.ndarray, "n v u"]:
    """Draw stamps of galaxies that are as large as their light, as a survey observes them.

    Args:
        model: A model with a latent flow, whose light is a function on the plane.
        renderers: Of the survey.
        base: As for :func:`~hiergal.simulate.profiles.profiles_from_base`.
        conditions: As above.
        flux_scale: Factor on the fluxes, such as one that makes them electrons.
        flux: Exact flux of each in its place, in the unit of the stamps.
        sky_level: Sky whose noise, with the galaxy's own, is added [flux per pixel, in electrons]; None for no noise.
        key: PRNG key of the noise, or a seed.
        rows: What the noise of each depends on: places in a catalogue, [n], or identities, [n, 2].

    Returns:
        Stamps [flux per pixel of the stamp], in which no galaxy depends on the others.

    Raises:
        ValueError: If the model has no flow, or its light ends with its stamp, the sky is negative, or noise is asked
            for without a key.
    """
    if sky_level is not None and (key is None or not sky_level >= 0):
        raise ValueError(f"expected a key and a sky of zero or more for noise, got {key} and {sky_level}")
    z = latents_from_base(model, base, conditions)
    stamps = choose_stamps(model, z)
    warn_of_lost_light(stamps, stacklevel=3)
    images = np.empty((len(z), *renderers.shape), np.float32)
    exact = np.zeros(len(z), np.float32) if flux is None else np.asarray(flux, np.float32)
    for side, members, block in stamp_groups(stamps.side):
        grid = grid_of(model.recipe)._replace(shape=(side, side))
        draw = partial(_drawn, model, grid, flux is not None, renderers.of(grid), np.float32(flux_scale))
        images[members] = in_blocks(draw, renderers.shape, z[members], exact[members], block=block)
    if sky_level is None:
        return images
    assert key is not None
    return add_noise_to(images, sky_level, key=key, rows=np.arange(len(z)) if rows is None else rows)


@partial(jax.jit, static_argnums=(1, 2))
def _drawn(
    model: GalaxyModel,
    grid: ProfileGrid,
    exact: bool,
    renderer: Renderer,
    flux_scale: jax.Array,
    z: jax.Array,
    flux: jax.Array,
) -> jax.Array:
    profiles = model.decode(z, grid)
    factor = flux / profiles.sum(axis=(1, 2)) if exact else jax.numpy.full(len(z), flux_scale)
    return factor[:, None, None] * renderer(profiles)
