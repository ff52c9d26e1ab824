"""Layers that XLA runs fast on CPUs and GPUs alike.

Strided and transposed convolutions have slow gradients on CPUs, so resolution changes by space-to-depth and
depth-to-space; convolutions have stride one. Images are ``[..., y, x, channel]`` here.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

__all__ = [
    "DoublingConv",
    "HalvingConv",
    "ResidualBlock",
    "SeparableBlock",
    "SeparableConv",
    "depth_to_space",
    "smooth_patches",
    "space_to_depth",
]

SMALL_TAP = 4096  # weights; measured on CPUs, as the next
MANY_CHANNELS = 128  # beyond, matrix products with one row are slower than sums
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
    rows, columns = (_smoothing(size) for size in image.shape[1:])
    return jnp.einsum("yi,nij,xj->nyx", rows, image, columns, precision="highest")


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a skip connection, layer-normalised: no state, no batch statistics.

    Attributes:
        dtype: Type to compute in.
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[jax.Array, "n y x c"]) -> Float[jax.Array, "n y x c"]:
        """Return x plus a learned correction, small at first."""
        channels = x.shape[-1]
        h = nn.Conv(channels, (3, 3), dtype=self.dtype)(nn.gelu(nn.LayerNorm(dtype=self.dtype)(x)))
        small = nn.initializers.normal(1e-2 / channels**0.5)
        return x + nn.Conv(channels, (3, 3), kernel_init=small, dtype=self.dtype)(nn.gelu(h))


class HalvingConv(nn.Module):
    """A 4x4 convolution with stride 2 and one pixel of padding, which halves the resolution.

    The same numbers as ``nn.Conv(features, (4, 4), strides=2, padding=1)``: with each 2x2 patch of pixels in the
    channels of one, it is a plain 2x2 convolution.

    Attributes:
        features: Number of output channels.
        dtype: Type to compute in.
    """

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[jax.Array, "n y x c"]) -> Float[jax.Array, "n hy hx f"]:
        """Return the image at half the resolution."""
        channels = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (4, 4, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        patches = space_to_depth(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 2)
        taps = kernel.reshape(2, 2, 2, 2, channels, -1).transpose(0, 2, 1, 3, 4, 5)
        return _convolve_2x2(patches, taps.reshape(2, 2, 4 * channels, -1)) + bias[None, None, None]


class DoublingConv(nn.Module):
    """The transpose of a 4x4 convolution with stride 2 and one pixel of padding, which doubles the resolution.

    The same numbers as PyTorch's ``ConvTranspose2d(channels, features, 4, stride=2, padding=1)``: a plain 2x2
    convolution whose channels become patches of 2x2 pixels.

    Attributes:
        features: Number of output channels.
        dtype: Type to compute in.
    """

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[jax.Array, "n y x c"]) -> Float[jax.Array, "n dy dx f"]:
        """Return the image at twice the resolution."""
        channels = x.shape[-1]
        # Each output pixel sees 2 x 2 of the 4 x 4 taps.
        start = nn.initializers.variance_scaling(4.0, "fan_in", "truncated_normal")
        kernel = self.param("kernel", start, (4, 4, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        taps = kernel.reshape(2, 2, 2, 2, channels, -1)[::-1, :, ::-1].transpose(0, 2, 4, 1, 3, 5)
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        patches = _convolve_2x2(padded, taps.reshape(2, 2, channels, -1))
        return depth_to_space(patches, 2)[:, 1:-1, 1:-1] + bias[None, None, None]


class SeparableConv(nn.Module):
    """A 3x3 convolution of each channel, then a mixture of the channels of each pixel.

    Attributes:
        features: Number of output channels.
        kernel_init: Initialiser of the mixture.
        dtype: Type to compute in.
    """

    features: int
    kernel_init: Callable = nn.initializers.lecun_normal()
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[jax.Array, "n y x c"], training: bool = False) -> Float[jax.Array, "n y x f"]:
        """Return the mixed channels; in training, in a form with a fast gradient and no forward mode."""
        channels = x.shape[-1]
        start = nn.initializers.variance_scaling(
            1.0, "fan_in", "truncated_normal", in_axis=(0, 1), out_axis=()
        )
        kernel = self.param("kernel", start, (3, 3, channels))
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        mixed = (_trained_depthwise if training else _depthwise)(x, kernel)
        return nn.Dense(self.features, kernel_init=self.kernel_init, dtype=self.dtype)(mixed)


class SeparableBlock(nn.Module):
    """Two separable convolutions around a skip connection, with twice the channels inside, layer-normalised.

    Attributes:
        dropout: Fraction of its output that is left out in training.
        dtype: Type to compute in.
    """

    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[jax.Array, "n y x c"], training: bool = False) -> Float[jax.Array, "n y x c"]:
        """Return x plus a learned correction, small at first."""
        channels = x.shape[-1]
        h = nn.relu(nn.LayerNorm(dtype=self.dtype)(x))
        h = SeparableConv(2 * channels, dtype=self.dtype)(h, training)
        h = nn.relu(nn.LayerNorm(dtype=self.dtype)(h))
        small = nn.initializers.normal(1e-2 / channels**0.5)
        h = SeparableConv(channels, kernel_init=small, dtype=self.dtype)(h, training)
        if training and self.dropout:
            h = _drop_out(self.make_rng("dropout"), h, self.dropout)
        return x + h


def _smoothing(size: int) -> np.ndarray:
    """The matrix that convolves with the kernel of patches; the first and last pixel go on outside."""
    matrix, pixels = np.zeros((size, size), np.float32), np.arange(size)
    for i, weight in enumerate(PATCH_KERNEL):
        np.add.at(matrix, (pixels, np.clip(pixels + i - len(PATCH_KERNEL) // 2, 0, size - 1)), weight)
    return matrix


def _drop_out(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    """Leave out a part of the numbers and scale up the rest, as :class:`flax.linen.Dropout`, but with 16 bits each.

    Random bits are most of what dropout costs on CPUs.
    """
    *leading, channels = x.shape
    kept = round((1 - rate) * 2**16)
    words = jax.random.bits(key, (*leading, -(-channels // 2)))
    bits = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(*leading, -1)[..., :channels]
    return jnp.where(bits < kept, x * (2**16 / kept), jnp.zeros_like(x))


def _depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 3x3 convolution of each channel, zeros outside: sums of shifted images, as XLA has no fast one on CPUs."""
    padded, (ny, nx) = _bordered(x), x.shape[1:3]
    return sum(
        padded[:, i : i + ny, j : j + nx] * kernel[i, j][None, None, None] for i in range(3) for j in range(3)
    )


@jax.custom_vjp
def _trained_depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _depthwise(x, kernel)


def _depthwise_forward(x, kernel):
    return _depthwise(x, kernel), (x, kernel)


def _depthwise_backward(saved, cotangent):
    x, kernel = saved
    # Nine long sums: a galaxy at a time they stay in the cache, which is several times faster on CPUs.
    of_kernel = jax.lax.platform_dependent(
        _bordered(x), cotangent, cpu=_kernel_gradient_by_galaxy, default=_kernel_gradient
    )
    return _depthwise(cotangent, kernel[::-1, ::-1]), of_kernel.astype(kernel.dtype)


_trained_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _kernel_gradient(padded: jax.Array, cotangent: jax.Array) -> jax.Array:
    ny, nx, channels = cotangent.shape[1:]
    sums = [
        (padded[:, i : i + ny, j : j + nx] * cotangent).sum((0, 1, 2)) for i in range(3) for j in range(3)
    ]
    return jnp.stack(sums).reshape(3, 3, channels)


def _kernel_gradient_by_galaxy(padded: jax.Array, cotangent: jax.Array) -> jax.Array:
    ny, nx, channels = cotangent.shape[1:]
    ones = jnp.ones((1, ny * nx), cotangent.dtype)

    def partly_summed(product):
        if channels < MANY_CHANNELS:
            return ones @ product.reshape(-1, channels)
        return (
            product.reshape(ny, -1).sum(0).reshape(nx, channels)
        )  # of one loop with the rest it is not vectorised

    def of_one(galaxy):
        image, ct = galaxy
        products = (image[i : i + ny, j : j + nx] * ct for i in range(3) for j in range(3))
        return jnp.stack([partly_summed(product) for product in products])

    return jax.lax.map(of_one, (padded, cotangent)).sum((0, 2)).reshape(3, 3, channels)


def _bordered(x: jax.Array) -> jax.Array:
    # The barriers keep what comes before out of the loop over the taps, where it would be computed for each.
    padded = jnp.pad(jax.lax.optimization_barrier(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jax.lax.optimization_barrier(padded)


def _convolve_2x2(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 2x2 convolution without padding: as four matrix products, or XLA's own where these would mostly copy."""
    if kernel.shape[2] * kernel.shape[3] < SMALL_TAP:
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    ny, nx = x.shape[1] - 1, x.shape[2] - 1
    return sum(x[:, i : i + ny, j : j + nx] @ kernel[i, j] for i in range(2) for j in range(2))
