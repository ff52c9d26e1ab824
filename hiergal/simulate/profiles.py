"""Drawing new galaxies: from conditions to light profiles, and to GalSim objects (paper, Sec. 4.4).

The flow turns each row's magnitude, size and redshift into latents, the generator turns those into an unconvolved
profile. In GalSim a profile is an ``InterpolatedImage``, to be convolved with an effective PSF and drawn with
``method="no_pixel"`` (or with an optical PSF, and GalSim's own pixel).

Galaxies are computed in blocks of one size, the last filled up, so that the pixels of a galaxy are the same to the last
bit however many are drawn with it: compilers order the sums of other sizes otherwise.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from hiergal.model.condition_columns import Catalog
from hiergal.model.conditions import condition_names, conditions_for
from hiergal.model.profile_grid import ProfileGrid, grid_of, scaled_grid
from hiergal.model.trained import GalaxyModel, check_model
from hiergal.model.trained_range import check_outside
from hiergal.recipe.recipe import Recipe
from hiergal.runtime.batching import padded_batches
from hiergal.runtime.fork import check_not_forked
from hiergal.runtime.identities import identities
from hiergal.runtime.pytree import Array
from hiergal.runtime.seeds import as_key
from hiergal.runtime.upward import upward
from hiergal.simulate.edge_light import warn_of_edge_light
from hiergal.simulate.renderer import Renderer, add_noise
from hiergal.simulate.row_numbers import base_for_rows, row_keys

if TYPE_CHECKING:
    import galsim

__all__ = [
    "add_noise_to",
    "block_size",
    "draw_galsim",
    "draw_profiles",
    "draw_rows",
    "in_blocks",
    "light_profiles",
    "profiles_from_base",
    "stamps_from_base",
    "stamps_of_profiles",
]

GALAXIES_PER_CALL_ON_CPU, GALAXIES_PER_CALL_ON_ACCELERATOR = 64, 256


def block_size() -> int:
    """Return the number of galaxies that are computed together: enough to keep the device busy."""
    return GALAXIES_PER_CALL_ON_CPU if jax.default_backend() == "cpu" else GALAXIES_PER_CALL_ON_ACCELERATOR


def draw_profiles(
    model: GalaxyModel,
    catalog: Catalog,
    *,
    key: jax.Array | int,
    outside: str = "warn",
    identifier: str | None = None,
    shape: tuple[int, int] | None = None,
    pixel_scale_arcsec: float | None = None,
) -> Float[np.ndarray, "n y x"]:
    """Draw one new galaxy for each row of a catalogue.

    Args:
        model: A trained model with a latent flow.
        catalog: Columns of conditions (:mod:`hiergal.model.conditions`), in the units of the training survey or with
            their own.
        key: PRNG key, or a seed; the galaxy of a row depends on the key, its conditions and the row's place alone.
        outside: What to do with rows outside the trained range (:mod:`hiergal.model.trained_range`): ``warn`` draws
            them with a warning, except those far outside, ``raise`` refuses them, ``ignore`` draws all.
        identifier: A column that tells galaxies apart, integers or text: a galaxy then depends on that in place of the
            row's place, and stays the same when other rows are dropped, added or sorted.
        shape: Pixels (ny, nx) of the stamp of all galaxies, for generators that give a function on the plane; default
            the model's.
        pixel_scale_arcsec: Width of the pixels, for the same [arcsec]; default the model's.

    Returns:
        Unconvolved light profiles [flux per pixel]; NaN for rows that are not drawn.

    Raises:
        ValueError: If the model has no flow, or no other pixels than its own, the catalogue lacks a column, or
            identifiers are missing or not unique.
        RuntimeError: In a fork of a process that has used JAX.

    Example:
        >>> catalog = {"mag_auto": [22.5], "flux_radius": [10.0], "zphot": [0.8]}
        >>> draw_profiles(model, catalog, key=0).shape
        (1, 64, 64)
    """
    check_model(model)
    grid = scaled_grid(model.recipe, shape=shape, pixel_scale_arcsec=pixel_scale_arcsec)
    return _draw(model, catalog, key, outside, identifier, grid)


def _draw(
    model: GalaxyModel,
    catalog: Catalog,
    key: jax.Array | int,
    outside: str,
    identifier: str | None,
    grid: ProfileGrid,
) -> np.ndarray:
    check_not_forked()
    key = as_key(key)
    conditions = conditions_for(model, catalog)
    drawn = check_outside(model, conditions, outside, stacklevel=4)
    rows = np.arange(len(conditions)) if identifier is None else identities(catalog, identifier)
    if len(rows) != len(conditions):
        raise ValueError(
            f"identifier: expected {identifier!r} to have {len(conditions)} rows, got {len(rows)}"
        )
    return draw_rows(model, base_for_rows(model, key, rows), conditions, drawn, grid=grid)


def draw_rows(
    model: GalaxyModel,
    base: Float[Array, "n d"],
    conditions: Float[Array, "n c"],
    drawn: Bool[np.ndarray, "n"],
    *,
    grid: ProfileGrid | None = None,
    stacklevel: int = 5,
) -> Float[np.ndarray, "n y x"]:
    """Compute galaxies as :func:`profiles_from_base` does, and NaN for rows that are not to be drawn."""
    if drawn.all():
        profiles = profiles_from_base(model, base, conditions, grid)
    else:
        shape = model.recipe.shape if grid is None else grid.shape
        profiles = np.full((len(drawn), *shape), np.nan, np.float32)
        profiles[drawn] = profiles_from_base(model, base[drawn], conditions[drawn], grid)
    warn_of_edge_light(profiles, stacklevel=stacklevel)
    return profiles


def profiles_from_base(
    model: GalaxyModel,
    base: Float[Array, "n d"],
    conditions: Float[Array, "n c"],
    grid: ProfileGrid | None = None,
) -> Float[np.ndarray, "n y x"]:
    """Compute the galaxies of base variables: unit-normal numbers that say everything but the conditions.

    Args:
        model: A model with a latent flow.
        base: Unit-normal numbers, as many for each galaxy as the model has latents.
        conditions: As :func:`~hiergal.model.conditions.conditions_for` gives them.
        grid: Pixels to draw them on; default the model's.

    Returns:
        Unconvolved light profiles [flux per pixel], in which no galaxy depends on the others.

    Raises:
        ValueError: If the model has no flow, or no other pixels than its own.

    Example:
        >>> profiles_from_base(model, np.zeros((1, 16)), np.array([[23.0, 9.0, 0.8]])).shape
        (1, 64, 64)
    """
    check_not_forked()
    condition_names(model)
    grid = grid_of(model.recipe) if grid is None else grid
    return in_blocks(partial(_profiles, model, grid), grid.shape, *_single(base, conditions))


def stamps_from_base(
    model: GalaxyModel,
    renderer: Renderer,
    base: Float[Array, "n d"],
    conditions: Float[Array, "n c"],
    *,
    flux_scale: float = 1.0,
    sky_level: float | None = None,
    key: jax.Array | int | None = None,
    rows: Array | None = None,
) -> Float[np.ndarray, "n v u"]:
    """Draw stamps of galaxies as a survey observes them, all on the device.

    Args:
        model: A model with a latent flow.
        renderer: What :func:`~hiergal.simulate.renderer.renderer_for` made for the survey's PSF and pixels.
        base: As for :func:`profiles_from_base`.
        conditions: As for :func:`profiles_from_base`.
        flux_scale: Factor on the fluxes, such as one that makes them electrons.
        sky_level: Sky whose noise, with the galaxy's own, is added [flux per pixel, in electrons]; None for no noise.
        key: PRNG key of the noise, or a seed.
        rows: The galaxies' places in their catalogue, [n], or their identities, [n, 2], which the noise depends on;
            default their places here.

    Returns:
        Stamps [flux per pixel of the stamp], in which no galaxy depends on the others.

    Raises:
        ValueError: If the model has no flow, the sky is negative, or noise is asked for without a key.

    Example:
        >>> import galsim
        >>> from hiergal.simulate.renderer import renderer_for
        >>> renderer = renderer_for(model, galsim.Gaussian(fwhm=0.7), pixel_scale_arcsec=0.2, shape=(24, 24))
        >>> conditions = np.array([[23.0, 9.0, 0.8]])
        >>> stamps_from_base(model, renderer, base_for_rows(model, 0, np.arange(1)), conditions).shape
        (1, 24, 24)
    """
    check_not_forked()
    condition_names(model)
    if sky_level is None:
        return in_blocks(
            partial(_stamps, model, renderer, np.float32(flux_scale)),
            renderer.shape,
            *_single(base, conditions),
        )
    if key is None or not sky_level >= 0:
        raise ValueError(f"expected a key and a sky of zero or more for noise, got {key} and {sky_level}")
    rows = np.arange(len(conditions)) if rows is None else rows
    noisy = partial(
        _noisy_stamps, model, renderer, np.float32(flux_scale), np.float32(sky_level), as_key(key)
    )
    return in_blocks(noisy, renderer.shape, *_single(base, conditions), rows)


def stamps_of_profiles(
    renderer: Renderer, profiles: Float[Array, "n y x"], factor: Float[Array, "n"]
) -> Float[np.ndarray, "n v u"]:
    """Draw noise-free stamps of profiles that are there, each with a factor on its flux.

    Args:
        renderer: Of a survey's PSF and pixels.
        profiles: Unconvolved light profiles [flux per pixel].
        factor: Of each.

    Example:
        >>> import galsim
        >>> from hiergal.simulate.renderer import renderer_for
        >>> renderer = renderer_for(model, galsim.Gaussian(fwhm=0.7), pixel_scale_arcsec=0.2, shape=(24, 24))
        >>> stamps_of_profiles(renderer, posterior.profile_mean, np.ones(len(posterior))).shape
        (4, 24, 24)
    """
    check_not_forked()
    return in_blocks(partial(_scaled_stamps, renderer), renderer.shape, *_single(profiles, factor))


def add_noise_to(
    images: Float[np.ndarray, "n v u"], sky_level: float, *, key: jax.Array | int, rows: Array
) -> Float[np.ndarray, "n v u"]:
    """Add the noise of sky and source, the same that :func:`stamps_from_base` adds to these rows.

    Args:
        images: Noise-free stamps [electrons per pixel].
        sky_level: Sky [electrons per pixel].
        key: PRNG key of the noise, or a seed.
        rows: Places in a catalogue, [n], or identities, [n, 2].

    Example:
        >>> add_noise_to(np.zeros((3, 16, 16)), 100.0, key=1, rows=np.arange(3)).shape
        (3, 16, 16)
    """
    check_not_forked()
    compute = partial(_with_noise, np.float32(sky_level), as_key(key))
    return in_blocks(compute, images.shape[1:], *_single(images), rows)


def draw_galsim(
    model: GalaxyModel,
    catalog: Catalog,
    *,
    key: jax.Array | int,
    outside: str = "warn",
    identifier: str | None = None,
    **options: Any,
) -> "list[galsim.GSObject]":
    """Draw one GalSim object for each row of a catalogue: an older name of ``model.sample(catalog, key=key)``.

    Args:
        model: A trained model with a latent flow.
        catalog: Columns of conditions.
        key: PRNG key, or a seed.
        outside: As for :func:`draw_profiles`.
        identifier: As for :func:`draw_profiles`.
        options: Further arguments of :meth:`hiergal.GalaxyModel.sample`, such as ``x_interpolant`` or ``gsparams``.

    Returns:
        Unconvolved profiles, whose flux is that of the drawn galaxy; always a list.

    Raises:
        ValueError: As for :func:`draw_profiles`.
        RuntimeError: In a fork of a process that has used JAX.

    Example:
        >>> catalog = {"mag_auto": [22.5], "flux_radius": [10.0], "zphot": [0.8]}
        >>> galaxies = draw_galsim(model, catalog, key=0)
    """
    draw = upward("hiergal.galsim.model.sample_galaxies")
    return draw(model, catalog, key=key, outside=outside, identifier=identifier, **options)


def light_profiles(
    recipe: Recipe,
    profiles: Float[np.ndarray, "n y x"] | list[np.ndarray],
    *,
    pixel_scale_arcsec: float | None = None,
    deconvolve: bool = True,
    **options,
) -> "list[galsim.GSObject]":
    """Turn profiles on a model's pixels, or on others, into GalSim objects.

    Args:
        recipe: Recipe of the model that drew them.
        profiles: Unconvolved light profiles [flux per pixel], of one shape or of several; NaN gives an object of
            flux 0.
        pixel_scale_arcsec: Width of the pixels [arcsec]; default that of the model.
        deconvolve: Whether the Gaussian that profiles are blurred with is taken off again; nothing that is deconvolved
            can be shot as photons.
        options: Further arguments of ``galsim.InterpolatedImage``.
    """
    import galsim

    _, scale, fwhm = scaled_grid(recipe, pixel_scale_arcsec=pixel_scale_arcsec)
    galaxies = []
    for profile in profiles:
        how = options
        if not np.isfinite(
            profile[0, 0]
        ):  # an object of flux 0, which can be sheared, convolved and drawn as any other
            profile, how = np.zeros(profile.shape), {"calculate_stepk": False, "calculate_maxk": False}
        galaxies.append(galsim.InterpolatedImage(galsim.Image(profile.astype(float), scale=scale), **how))
    if not fwhm or not deconvolve:
        return galaxies
    sharper = galsim.Deconvolve(galsim.Gaussian(fwhm=fwhm))
    return [galsim.Convolve(galaxy, sharper) if galaxy.flux else galaxy for galaxy in galaxies]


def _single(*columns: Array) -> list[np.ndarray]:
    return [np.asarray(column, np.float32) for column in columns]


def in_blocks(
    compute: Callable[..., jax.Array], shape: tuple[int, ...], *columns: Array, block: int | None = None
) -> np.ndarray:
    """Compute an array for each galaxy, block by block.

    Args:
        compute: From a block of the columns to its arrays.
        shape: Of the array of a galaxy.
        columns: A row for each galaxy.
        block: Galaxies that are computed together; default :func:`block_size`.
    """
    block, n = block_size() if block is None else block, len(columns[0])
    columns = tuple(np.asarray(column) for column in columns)
    images, waiting = np.empty((n, *shape), np.float32), []
    for batch in padded_batches(n, block):
        waiting.append((batch.first, compute(*(column[batch.rows] for column in columns))))
        if len(waiting) > 1:  # the device computes one block while the one before is copied
            _take(images, *waiting.pop(0))
    for first, computed in waiting:
        _take(images, first, computed)
    return images


def _take(out: np.ndarray, first: int, block: jax.Array) -> None:
    out[first : first + len(block)] = np.asarray(block)[: len(out) - first]


@partial(jax.jit, static_argnums=1)
def _profiles(model: GalaxyModel, grid: ProfileGrid, base: jax.Array, conditions: jax.Array) -> jax.Array:
    return model.decode(model.flow.from_base(base, conditions), grid)


@jax.jit
def _stamps(
    model: GalaxyModel, renderer: Renderer, scale, base: jax.Array, conditions: jax.Array
) -> jax.Array:
    return scale * renderer(model.decode(model.flow.from_base(base, conditions)))


@jax.jit
def _noisy_stamps(
    model: GalaxyModel, renderer: Renderer, scale, sky_level, key, base, conditions, rows
) -> jax.Array:
    clean = _stamps(model, renderer, scale, base, conditions)
    keys = row_keys(key, rows)
    return jax.vmap(add_noise, in_axes=(0, 0, None))(keys, clean, sky_level)


@jax.jit
def _scaled_stamps(renderer: Renderer, profiles: jax.Array, factor: jax.Array) -> jax.Array:
    return factor[:, None, None] * renderer(profiles)


@jax.jit
def _with_noise(sky_level, key, images, rows) -> jax.Array:
    return jax.vmap(add_noise, in_axes=(0, 0, None))(row_keys(key, rows), images, sky_level)
