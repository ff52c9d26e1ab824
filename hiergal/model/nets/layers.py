"""Layers that XLA runs fast on CPUs and GPUs alike.

Strided and transposed convolutions have slow gradients on CPUs, so resolution changes by space-to-depth and
depth-to-space; convolutions have stride one. What they are made of has gradients written out for training
(:mod:`hiergal.model.nets.fast_gradients`), and then no forward mode. Images are ``[..., y, x, channel]`` here.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from hiergal.model.nets.fast_gradients import layer_norm, product, shifted

__all__ = [
    "Conv",
    "Dense",
    "LayerNorm",
    "ResidualBlock",
    "convolve",
    "depth_to_space",
    "smooth_patches",
    "space_to_depth",
]

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


def convolve(
    x: Float[jax.Array, "n y x c"], kernel: Float[jax.Array, "ky kx c f"], padding: str
) -> jax.Array:
    """Return a convolution of stride one, as XLA has it.

    Example:
        >>> convolve(jnp.ones((1, 4, 5, 3)), jnp.ones((2, 2, 3, 1)), "VALID").shape
        (1, 3, 4, 1)
    """
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


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
    rows, columns = (_smoothing(size) for size in image.shape[1:])
    return jnp.einsum("yi,nij,xj->nyx", rows, image, columns, precision="highest")


class Dense(nn.Module):
    """A mixture of the channels of each pixel: Flax's layer, with gradients that are fast in training.

    Attributes:
        features: Number of output channels.
        kernel_init: Initialiser of the mixture.
        bias_init: Initialiser of the bias.
        dtype: Type to compute in.
    """

    features: int
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros
    dtype: Any = None

    @nn.compact
    def weights(self, channels: int) -> tuple[Float[ArrayLike, "c f"], Float[ArrayLike, "f"]]:
        """Return the kernel and the bias."""
        kernel = self.param("kernel", self.kernel_init, (channels, self.features))
        return kernel, self.param("bias", self.bias_init, (self.features,))

    def __call__(self, x: Float[jax.Array, "*n c"], training: bool = False) -> Float[jax.Array, "*n f"]:
        """Return the mixed channels; in training without forward mode."""
        kernel, bias = self.weights(x.shape[-1])
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        mixed = product(x.reshape(-1, x.shape[-1]), kernel, training)
        return shifted(mixed.reshape(*x.shape[:-1], self.features), bias, training)


class LayerNorm(nn.Module):
    """Layer norm over the channels of each pixel: Flax's layer, with gradients that are fast in training.

    Attributes:
        dtype: Type of the result.
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[jax.Array, "*n c"], training: bool = False) -> Float[jax.Array, "*n c"]:
        """Return the normalised channels; in training without forward mode."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        y = layer_norm(x, scale, bias, training)
        return y if self.dtype is None else y.astype(self.dtype)


class Conv(nn.Module):
    """A 3x3 convolution, zeros outside: Flax's layer, with a gradient of its bias that is fast in training.

    Attributes:
        features: Number of output channels.
        kernel_init: Initialiser of the kernel.
        dtype: Type to compute in.
    """

    features: int
    kernel_init: Callable = nn.initializers.lecun_normal()
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[jax.Array, "n y x c"], training: bool = False) -> Float[jax.Array, "n y x f"]:
        """Return the convolved image; in training without forward mode."""
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return shifted(convolve(x, kernel, "SAME"), bias, training)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a skip connection, layer-normalised: no state, no batch statistics.

    Attributes:
        dtype: Type to compute in.
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[jax.Array, "n y x c"], training: bool = False) -> Float[jax.Array, "n y x c"]:
        """Return x plus a learned correction, small at first; in training without forward mode."""
        channels = x.shape[-1]
        h = nn.gelu(LayerNorm(self.dtype)(x, training))
        h = nn.gelu(Conv(channels, dtype=self.dtype)(h, training))
        small = nn.initializers.normal(1e-2 / channels**0.5)
        return x + Conv(channels, kernel_init=small, dtype=self.dtype)(h, training)


def _smoothing(size: int) -> np.ndarray:
    """The matrix that convolves with the kernel of patches; the first and last pixel go on outside."""
    matrix, pixels = np.zeros((size, size), np.float32), np.arange(size)
    for i, weight in enumerate(PATCH_KERNEL):
        np.add.at(matrix, (pixels, np.clip(pixels + i - len(PATCH_KERNEL) // 2, 0, size - 1)), weight)
    return matrix
