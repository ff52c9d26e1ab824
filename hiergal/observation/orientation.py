"""Orientation: stamps mirrored about their centre, and with their axes exchanged, galaxy by galaxy."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from hiergal.runtime.pytree import Array, brief

__all__ = ["Orientation", "reorient_stamps", "select_galaxies"]


class Orientation(NamedTuple):
    """Reflections of the galaxies of a batch about the centre of their stamps, followed by transpositions.

    Attributes:
        flip_y: Which to turn upside down.
        flip_x: Which to mirror left to right.
        transpose: Whose axes to exchange; False unless stamps are square.
    """

    flip_y: Bool[Array, "n"]
    flip_x: Bool[Array, "n"]
    transpose: Bool[Array, "n"]

    __repr__ = brief


def reorient_stamps(
    images: Float[Array, "n y x"] | Bool[Array, "n y x"], orientation: Orientation
) -> jax.Array:
    """Mirror stamps, and exchange their axes if they are square.

    Args:
        images: Stamps.
        orientation: What to do with each.

    Example:
        >>> yes, no = jnp.array([True]), jnp.array([False])
        >>> reorient_stamps(jnp.array([[[1.0, 2.0], [3.0, 4.0]]]), Orientation(yes, no, no))[0].tolist()
        [[3.0, 4.0], [1.0, 2.0]]
    """
    images = select_galaxies(orientation.flip_y, images[:, ::-1], images)
    images = select_galaxies(orientation.flip_x, images[:, :, ::-1], images)
    square = images.shape[1] == images.shape[2]
    return select_galaxies(orientation.transpose, images.swapaxes(1, 2), images) if square else images


def select_galaxies(chosen: Bool[Array, "n"], new: Array, old: Array) -> jax.Array:
    """Take some galaxies from one array [n, y, x], and the others from another.

    Example:
        >>> select_galaxies(jnp.array([True, False]), jnp.ones((2, 1, 1)), jnp.zeros((2, 1, 1))).ravel().tolist()
        [1.0, 0.0]
    """
    return jnp.where(chosen[:, None, None], new, old)
