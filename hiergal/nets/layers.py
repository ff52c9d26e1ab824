"""Layers that XLA runs fast on CPUs and GPUs alike.

Strided and transposed convolutions are slow on CPUs, so resolution changes by space-to-depth and depth-to-space
with dense layers; convolutions are plain 3x3 with stride one. Images are ``[..., y, x, channel]`` here.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

__all__ = ["ResidualBlock", "depth_to_space", "smooth_patches", "space_to_depth"]

PATCH_KERNEL = (0.125, 0.25, 0.25, 0.25, 0.125)  # no response at periods of 4 and 2 pixels


def space_to_depth(image: Float[jax.Array, "n y x c"], block: int) -> Float[jax.Array, "n by bx bc"]:
    """Move each block x block patch of pixels into the channels of one pixel.

    Example:
        >>> space_to_depth(jnp.zeros((2, 8, 4, 3)), 4).shape
        (2, 2, 1, 48)
    """
    n, ny, nx, channels = image.shape
    patches = image.reshape(n, ny // block, block, nx // block, block, channels)
    return patches.transpose(0, 1, 3, 2, 4, 5).reshape(n, ny // block, nx // block, -1)


def depth_to_space(image: Float[jax.Array, "n y x c"], block: int) -> Float[jax.Array, "n by bx bc"]:
    """Undo :func:`space_to_depth`.

    Example:
        >>> depth_to_space(jnp.zeros((2, 2, 1, 48)), 4).shape
        (2, 8, 4, 3)
    """
    n, ny, nx, channels = image.shape
    patches = image.reshape(n, ny, nx, block, block, channels // block**2)
    return patches.transpose(0, 1, 3, 2, 4, 5).reshape(n, ny * block, nx * block, -1)


def smooth_patches(image: Float[jax.Array, "n y x"]) -> Float[jax.Array, "n y x"]:
    """Smooth an image that was put together from 4x4 patches.

    The pixels of a patch come from different weights, so that any image carries their differences as a grid, which the
    PSF hides from the likelihood. The kernel removes just that grid, and is no wider than the PSF of a well-sampled
    survey.

    Example:
        >>> grid = jnp.tile(jnp.arange(16.0).reshape(4, 4), (1, 4, 4))
        >>> smooth = smooth_patches(grid)[:, 2:-2, 2:-2]
        >>> bool(jnp.allclose(smooth, 7.5))
        True
    """
    for axis in (1, 2):
        pad = [(2, 2) if i == axis else (0, 0) for i in range(3)]
        padded, size = jnp.pad(image, pad, mode="edge"), image.shape[axis]
        shifted = (jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(len(PATCH_KERNEL)))
        image = sum(weight * part for weight, part in zip(PATCH_KERNEL, shifted, strict=True))
    return image


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a skip connection, layer-normalised: no state, no batch statistics."""

    @nn.compact
    def __call__(self, x: Float[jax.Array, "n y x c"]) -> Float[jax.Array, "n y x c"]:
        """Return x plus a learned correction, small at first."""
        channels = x.shape[-1]
        h = nn.Conv(channels, (3, 3))(nn.gelu(nn.LayerNorm()(x)))
        return x + nn.Conv(channels, (3, 3), kernel_init=nn.initializers.normal(1e-2 / channels**0.5))(
            nn.gelu(h)
        )
