"""Layers that XLA runs fast on CPUs and GPUs alike.

Strided and transposed convolutions are slow on CPUs, so resolution changes by space-to-depth and depth-to-space
with dense layers; convolutions are plain 3x3 with stride one. Images are ``[..., y, x, channel]`` here.
"""

import flax.linen as nn
import jax
from jaxtyping import Float

__all__ = ["ResidualBlock", "depth_to_space", "space_to_depth"]


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
