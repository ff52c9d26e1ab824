"""Drawing new galaxies: from conditions to light profiles, and to GalSim objects (paper, Sec. 4.4).

The flow turns each row's magnitude, size and redshift into latents, the generator turns those into an unconvolved
profile. In GalSim a profile is an ``InterpolatedImage``, to be convolved with an effective PSF and drawn with
``method="no_pixel"`` (or with an optical PSF, and GalSim's own pixel).

Galaxies are computed in blocks of one size, the last filled up, so that the pixels of a galaxy are the same to the last
bit however many are drawn with it: compilers order the sums of other sizes otherwise.
"""

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.conditions import Catalog, condition_names, conditions_for
from hiergal.hub import GalaxyModel
from hiergal.records import Array

if TYPE_CHECKING:
    import galsim

__all__ = ["block_size", "draw_galsim", "draw_profiles", "light_profiles", "profiles_from_base"]

BLOCK_OF_CPU, BLOCK_OF_ACCELERATOR = 16, 256
ROWS = 1024  # whose random numbers are drawn together


def block_size() -> int:
    """Return how many galaxies are computed together: enough to keep the device busy."""
    return BLOCK_OF_CPU if jax.default_backend() == "cpu" else BLOCK_OF_ACCELERATOR


def draw_profiles(model: GalaxyModel, catalog: Catalog, *, key: jax.Array) -> Float[np.ndarray, "n y x"]:
    """Draw one new galaxy for each row of a catalogue.

    Args:
        model: A trained model with a flow.
        catalog: Columns of conditions (:mod:`hiergal.conditions`), in the units of the training survey or with their
            own.
        key: PRNG key; the galaxy of a row depends on the key and the row's place alone.

    Returns:
        Unconvolved light profiles [flux per pixel].

    Raises:
        ValueError: If the model has no flow, or the catalogue lacks a column.

    Example:
        >>> profiles = draw_profiles(model, store.catalog, key=jax.random.key(0))  # doctest: +SKIP
    """
    conditions = conditions_for(model, catalog)
    return profiles_from_base(model, base_for_rows(model, key, np.arange(len(conditions))), conditions)


def base_for_rows(model: GalaxyModel, key: jax.Array, rows: Array) -> Float[np.ndarray, "n d"]:
    """Draw the base variables of the galaxies in these rows of a catalogue: each depends on its row alone."""
    d, n = model.recipe.generator.latents, len(rows)
    base = np.empty((n, d), np.float32)
    for first in range(0, n, ROWS):
        inside = np.minimum(np.arange(first, first + ROWS), n - 1)
        _take(base, first, _base(key, jnp.asarray(rows[inside]), d))
    return base


def profiles_from_base(
    model: GalaxyModel, base: Float[Array, "n d"], conditions: Float[Array, "n c"]
) -> Float[np.ndarray, "n y x"]:
    """Compute the galaxies of base variables: unit-normal numbers that say everything but the conditions.

    Args:
        model: A model with a flow.
        base: Unit-normal numbers, as many for each galaxy as the model has latents.
        conditions: As :func:`~hiergal.conditions.conditions_for` gives them.

    Returns:
        Unconvolved light profiles [flux per pixel], in which no galaxy depends on the others.

    Raises:
        ValueError: If the model has no flow.

    Example:
        >>> profiles = profiles_from_base(model, np.zeros((1, 16)), np.array([[23.0, 9.0, 0.8]]))  # doctest: +SKIP
    """
    condition_names(model)
    block, n = block_size(), len(conditions)
    base, conditions = np.asarray(base, np.float32), np.asarray(conditions, np.float32)
    profiles, waiting = np.empty((n, *model.recipe.shape), np.float32), []
    for first in range(0, n, block):
        inside = np.minimum(np.arange(first, first + block), n - 1)
        waiting.append((first, _profiles(model, base[inside], conditions[inside])))
        if len(waiting) > 1:  # the device computes one block while the one before is copied
            _take(profiles, *waiting.pop(0))
    for first, computed in waiting:
        _take(profiles, first, computed)
    return profiles


def draw_galsim(
    model: GalaxyModel, catalog: Catalog, *, key: jax.Array, **options
) -> "list[galsim.GSObject]":
    """Draw one GalSim object for each row of a catalogue.

    With GalSim's own random numbers, and exact fluxes and sizes: :class:`hiergal.GenerativeGalaxyModel`.

    Args:
        model: A trained model with a flow.
        catalog: Columns of conditions.
        key: PRNG key.
        options: Further arguments of ``galsim.InterpolatedImage``, such as ``x_interpolant`` or ``gsparams``.

    Returns:
        Unconvolved profiles, whose flux is that of the drawn galaxy; always a list. Those of a model with a
        ``profile_fwhm_arcsec`` can be drawn with any PSF that is wider than that, and with no narrower one.

    Example:
        >>> catalog = {"mag_auto": [22.5], "flux_radius": [10.0], "zphot": [0.8]}  # doctest: +SKIP
        >>> galaxies = draw_galsim(model, catalog, key=jax.random.key(0))  # doctest: +SKIP
    """
    return light_profiles(model, draw_profiles(model, catalog, key=key), **options)


def light_profiles(
    model: GalaxyModel, profiles: Float[np.ndarray, "n y x"], **options
) -> "list[galsim.GSObject]":
    """Turn profiles on a model's pixels into GalSim objects.

    Args:
        model: The model that drew them.
        profiles: Unconvolved light profiles [flux per pixel].
        options: Further arguments of ``galsim.InterpolatedImage``.
    """
    import galsim

    scale, fwhm = model.recipe.pixel_scale_arcsec, model.recipe.profile_fwhm_arcsec
    galaxies = [
        galsim.InterpolatedImage(galsim.Image(profile, scale=scale), **options)
        for profile in profiles.astype(float)
    ]
    if not fwhm:
        return galaxies
    sharper = galsim.Deconvolve(galsim.Gaussian(fwhm=fwhm))
    return [galsim.Convolve(galaxy, sharper) for galaxy in galaxies]


def _take(out: np.ndarray, first: int, block: jax.Array) -> None:
    out[first : first + len(block)] = np.asarray(block)[: len(out) - first]


@partial(jax.jit, static_argnames="d")
def _base(key: jax.Array, rows: jax.Array, d: int) -> jax.Array:
    keys = jax.vmap(partial(jax.random.fold_in, key))(rows)
    return jax.vmap(lambda row_key: jax.random.normal(row_key, (d,)))(keys)


@jax.jit
def _profiles(model: GalaxyModel, base: jax.Array, conditions: jax.Array) -> jax.Array:
    return model.decode(model.flow.from_base(base, conditions))
