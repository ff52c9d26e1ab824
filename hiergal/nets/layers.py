"""Layers that XLA runs fast on CPUs and GPUs alike.

Strided and transposed convolutions have slow gradients on CPUs, so resolution changes by space-to-depth and
depth-to-space; convolutions have stride one. What they are made of has gradients written out for training
(:mod:`hiergal.nets.gradients`), and then no forward mode. Images are ``[..., y, x, channel]`` here.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.nets.gradients import depthwise, layer_norm, product, shifted

__all__ = [
    "Conv",
    "Dense",
    "DoublingConv",
    "HalvingConv",
    "LayerNorm",
    "ResidualBlock",
    "SeparableBlock",
    "SeparableConv",
    "depth_to_space",
    "smooth_patches",
    "space_to_depth",
]

FEW_PIXELS = (
    4  # along a side of the smaller image; there a 2x2 convolution computes borders for the most part
)
BORDER = ((0, 0), (1, 1), (1, 1), (0, 0))
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
    def __call__(self, x: Float[jax.Array, "*n c"], training: bool = False) -> Float[jax.Array, "*n f"]:
        """Return the mixed channels; in training without forward mode."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", self.bias_init, (self.features,))
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
        return shifted(_convolve(x, kernel, "SAME"), bias, training)


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


class HalvingConv(nn.Module):
    """A 4x4 convolution with stride 2 and one pixel of padding, which halves the resolution.

    The same numbers as ``nn.Conv(features, (4, 4), strides=2, padding=1)``: with each 2x2 patch of pixels in the
    channels of one, it is a plain 2x2 convolution; of few pixels, a product with all they see.

    Attributes:
        features: Number of output channels.
        dtype: Type to compute in.
    """

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[jax.Array, "n y x c"], training: bool = False
    ) -> Float[jax.Array, "n hy hx f"]:
        """Return the image at half the resolution; in training without forward mode."""
        channels = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (4, 4, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        taps = kernel.reshape(2, 2, 2, 2, channels, -1).transpose(0, 2, 1, 3, 4, 5)
        taps = taps.reshape(2, 2, 4 * channels, -1)
        patches = space_to_depth(jnp.pad(x, BORDER), 2)
        if min(x.shape[1:3]) > 2 * FEW_PIXELS:
            return shifted(_convolve(patches, taps, "VALID"), bias, training)
        return shifted(_product_2x2(patches, taps, training), bias, training)


class DoublingConv(nn.Module):
    """The transpose of a 4x4 convolution with stride 2 and one pixel of padding, which doubles the resolution.

    The same numbers as PyTorch's ``ConvTranspose2d(channels, features, 4, stride=2, padding=1)``: a plain 2x2
    convolution whose channels become patches of 2x2 pixels; of few pixels, a product whose patches overlap.

    Attributes:
        features: Number of output channels.
        dtype: Type to compute in.
    """

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[jax.Array, "n y x c"], training: bool = False
    ) -> Float[jax.Array, "n dy dx f"]:
        """Return the image at twice the resolution; in training without forward mode."""
        n, ny, nx, channels = x.shape
        # Each output pixel sees 2 x 2 of the 4 x 4 taps.
        start = nn.initializers.variance_scaling(4.0, "fan_in", "truncated_normal")
        kernel = self.param("kernel", start, (4, 4, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        taps = kernel.reshape(2, 2, 2, 2, channels, -1).transpose(0, 2, 4, 1, 3, 5)
        taps = taps.reshape(2, 2, channels, -1)
        if min(ny, nx) > FEW_PIXELS:
            patches = _product_2x2(jnp.pad(x, BORDER), taps[::-1, ::-1], training)
        else:
            seen = taps.transpose(2, 0, 1, 3).reshape(channels, -1)
            parts = product(x.reshape(-1, channels), seen, training).reshape(n, ny, nx, 4, -1)
            borders = [((0, 0), (i, 1 - i), (j, 1 - j), (0, 0)) for i in range(2) for j in range(2)]
            patches = sum(jnp.pad(parts[..., k, :], border) for k, border in enumerate(borders))
        return shifted(depth_to_space(patches, 2)[:, 1:-1, 1:-1], bias, training)


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
        """Return the mixed channels; in training without forward mode."""
        start = nn.initializers.variance_scaling(
            1.0, "fan_in", "truncated_normal", in_axis=(0, 1), out_axis=()
        )
        kernel = self.param("kernel", start, (3, 3, x.shape[-1]))
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        mixture = Dense(self.features, kernel_init=self.kernel_init, dtype=self.dtype)
        return mixture(depthwise(x, kernel, training), training)


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
        """Return x plus a learned correction, small at first; in training without forward mode."""
        channels = x.shape[-1]
        h = nn.relu(LayerNorm(self.dtype)(x, training))
        h = SeparableConv(2 * channels, dtype=self.dtype)(h, training)
        h = nn.relu(LayerNorm(self.dtype)(h, training))
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
    """Leave out a part of the numbers and scale up the rest, as :class:`flax.linen.Dropout`.

    The bits are hashes of the position and the key: JAX's own, of cryptographic quality, are most of what dropout
    costs on CPUs. They do not depend on how the galaxies are spread over devices.
    """
    first, second = jax.random.bits(key, (2,))
    position = jax.lax.iota(jnp.uint32, x.size).reshape(x.shape)
    bits = _mixed(_mixed(position ^ first) ^ second)
    return jnp.where(bits < np.uint32((1 - rate) * 2**32), x / (1 - rate), jnp.zeros_like(x))


def _mixed(bits: jax.Array) -> jax.Array:
    """Return a bijective hash of 32 bits: the constants "lowbias32" of C. Wellons' search, revised (2018)."""
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        bits = (bits ^ (bits >> shift)) * np.uint32(factor)
    return bits ^ (bits >> 15)


def _product_2x2(x: jax.Array, kernel: jax.Array, training: bool) -> jax.Array:
    """A 2x2 convolution without padding, as a product with all four pixels that each pixel sees.

    On CPUs it is slower than :func:`_convolve` forwards, but has the faster gradient where there are fewer
    channels than features, or few pixels.
    """
    n, ny, nx = len(x), x.shape[1] - 1, x.shape[2] - 1
    seen = jnp.concatenate([x[:, i : i + ny, j : j + nx] for i in range(2) for j in range(2)], axis=-1)
    features = kernel.shape[-1]
    pixels = product(seen.reshape(n * ny * nx, -1), kernel.reshape(-1, features), training)
    return pixels.reshape(n, ny, nx, features)


def _convolve(x: jax.Array, kernel: jax.Array, padding: str) -> jax.Array:
    """A convolution of stride one, as XLA has it."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
