"""Stamps as large as their galaxies' light, for generators that give a function on the plane.

Each galaxy comes on the smallest of the stamps :data:`SIDES` that holds at least :data:`LIGHT` of its flux, and beyond
which it is nowhere brighter than :data:`FAINTEST_EDGE`: both are known from its latents before a pixel is drawn
(:meth:`hiergal.GalaxyModel.light_beyond`). Galaxies of one stamp are drawn together, in blocks whose size depends on
the stamp alone, so that one program is compiled for each stamp, and no galaxy depends on the others.

Generators whose light ends with their stamp draw on that, as ever.
"""

import warnings
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from hiergal.model.conditions import condition_names
from hiergal.model.profile_grid import ProfileGrid, scaled_grid
from hiergal.model.trained import GalaxyModel
from hiergal.runtime.fork import check_not_forked
from hiergal.runtime.pytree import Array
from hiergal.simulate.profiles import block_size, draw_rows, in_blocks

__all__ = [
    "FAINTEST_EDGE",
    "LIGHT",
    "SIDES",
    "LightStamps",
    "choose_stamps",
    "draw_whole_galaxies",
    "grid_for_galaxies",
    "latents_from_base",
    "stamp_groups",
]

SIDES = (32, 44, 64, 90, 128, 180, 256, 362, 512, 724, 1024)  # pixels: twice as many for every second one
LIGHT = 0.995  # share of a galaxy's light that its stamp holds at least
# A tenth of the noise of a pixel of LSST's i band at full depth is 29.6, of HSC, Roman and Euclid brighter
# [mag / arcsec^2].
FAINTEST_EDGE = 30.0
PIXELS_PER_GALAXY = 64 * 64  # of the galaxies that make up a full block


class LightStamps(NamedTuple):
    """Stamps of galaxies.

    Attributes:
        side: Pixels along each side, [n].
        lost: Share of the flux beyond, [n].
    """

    side: Int[np.ndarray, "n"]
    lost: Float[np.ndarray, "n"]


def choose_stamps(
    model: GalaxyModel, z: Float[Array, "n d"], pixel_scale_arcsec: float | None = None
) -> LightStamps:
    """Choose the stamp of each galaxy.

    Args:
        model: A model whose light is a function on the plane.
        z: Latents.
        pixel_scale_arcsec: Width of the pixels [arcsec]; default that of the model.

    Raises:
        ValueError: If the generator's light ends with its stamp.

    Example:
        >>> choose_stamps(model, np.zeros((1, model.recipe.generator.latents), np.float32))
        Traceback (most recent call last):
        ...
        ValueError: expected a generator whose light is a function on the plane, ...
    """
    own = model.recipe.pixel_scale_arcsec
    step = 1.0 if pixel_scale_arcsec is None else pixel_scale_arcsec / own
    half_sides = tuple(0.5 * step * side for side in SIDES)
    found = in_blocks(partial(_beyond, model, half_sides), (2, len(SIDES)), np.asarray(z, np.float32))
    share, brightness = found[:, 0], found[:, 1]
    zero_point = model.provenance.magnitude_zero_point
    faintest = 10 ** (0.4 * (zero_point - FAINTEST_EDGE)) * own**2  # flux per squared pixel of the model
    enough = (share <= 1 - LIGHT) & (brightness <= faintest)
    enough[:, -1] = True
    chosen = enough.argmax(axis=1)
    return LightStamps(np.array(SIDES)[chosen], share[np.arange(len(share)), chosen])


def stamp_groups(side: Int[np.ndarray, "n"]) -> Iterator[tuple[int, Int[np.ndarray, "k"], int]]:
    """Yield each stamp's side [pixels], the rows of its galaxies, and how many of them are computed together.

    Example:
        >>> [(side, rows.tolist()) for side, rows, _ in stamp_groups(np.array([64, 32, 64]))]
        [(32, [1]), (64, [0, 2])]
    """
    for one in np.unique(side):
        block = max(1, min(block_size(), block_size() * PIXELS_PER_GALAXY // int(one) ** 2))
        yield int(one), np.flatnonzero(side == one), block


def latents_from_base(
    model: GalaxyModel, base: Float[Array, "n d"], conditions: Float[Array, "n c"]
) -> Float[np.ndarray, "n d"]:
    """Compute the latents of base variables; arguments as for :func:`~hiergal.simulate.profiles.profiles_from_base`.

    Raises:
        ValueError: If the model has no flow.
    """
    check_not_forked()
    condition_names(model)
    columns = (np.asarray(column, np.float32) for column in (base, conditions))
    return in_blocks(partial(_latents, model), (model.recipe.generator.latents,), *columns)


def grid_for_galaxies(model: GalaxyModel, pixel_scale_arcsec: float | None = None) -> ProfileGrid:
    """Return the grid of a model's galaxies, with pixels of another width if these are asked for.

    The shape of galaxies that come as large as their light is not that of the grid.

    Args:
        model: A model.
        pixel_scale_arcsec: Width of the pixels [arcsec]; default that of the model.

    Raises:
        ValueError: If the model has no other pixels than its own.
    """
    return scaled_grid(model.recipe, pixel_scale_arcsec=pixel_scale_arcsec)


def draw_whole_galaxies(
    model: GalaxyModel,
    base: Float[Array, "n d"],
    conditions: Float[Array, "n c"],
    drawn: Bool[np.ndarray, "n"],
    *,
    pixel_scale_arcsec: float | None = None,
    stacklevel: int = 2,
) -> list[np.ndarray]:
    """Draw galaxies on stamps as large as their light, where the generator can.

    Args:
        model: A model with a latent flow.
        base: As for :func:`~hiergal.simulate.profiles.profiles_from_base`.
        conditions: As above.
        drawn: Which to draw; the others are NaN.
        pixel_scale_arcsec: Width of the pixels [arcsec]; default that of the model. Profiles are blurred in proportion
            to it.
        stacklevel: Of warnings, as for ``warnings.warn``.

    Returns:
        Unconvolved light profiles [flux per pixel], of a shape (y, x) each.

    Raises:
        ValueError: If the model has no flow, or no other pixels than its own, and others are asked for.
    """
    grid = grid_for_galaxies(model, pixel_scale_arcsec)
    if not model.recipe.generator.any_grid:
        return list(draw_rows(model, base, conditions, drawn, stacklevel=stacklevel + 2))
    profiles = [np.full((SIDES[0], SIDES[0]), np.nan, np.float32)] * len(drawn)
    z, rows = latents_from_base(model, base[drawn], conditions[drawn]), np.flatnonzero(drawn)
    stamps = choose_stamps(model, z, grid.pixel_scale_arcsec)
    warn_of_lost_light(stamps, stacklevel=stacklevel + 1)
    for side, members, block in stamp_groups(stamps.side):
        draw = partial(_decoded, model, grid._replace(shape=(side, side)))
        for row, profile in zip(
            rows[members], in_blocks(draw, (side, side), z[members], block=block), strict=True
        ):
            profiles[row] = profile
    return profiles


def warn_of_lost_light(stamps: LightStamps, *, stacklevel: int = 2) -> None:
    """Warn of galaxies that are larger than the largest stamp, and say how much of their light is lost."""
    cut = stamps.lost > 1 - LIGHT
    if cut.any():
        warnings.warn(
            f"{cut.sum()} of {len(cut)} galaxies are larger than {SIDES[-1]} pixels, the largest stamp: up to "
            f"{stamps.lost.max():.1%} of their light is lost; flux='catalog' imposes fluxes on shapes that stay cut",
            stacklevel=stacklevel + 1,
        )


@jax.jit
def _latents(model: GalaxyModel, base: jax.Array, conditions: jax.Array) -> jax.Array:
    return model.flow.from_base(base, conditions)


@partial(jax.jit, static_argnums=1)
def _beyond(model: GalaxyModel, half_sides: tuple[float, ...], z: jax.Array) -> jax.Array:
    return jax.numpy.stack(model.light_beyond(z, half_sides), axis=1)


@partial(jax.jit, static_argnums=1)
def _decoded(model: GalaxyModel, grid: ProfileGrid, z: jax.Array) -> jax.Array:
    return model.decode(z, grid)
