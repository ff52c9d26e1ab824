"""Stages of the paper's networks: a change of resolution, and a residual block.

Images are ``[n, y, x, channel]``. With ``training=True`` gradients take the forms of
:mod:`hiergal.model.nets.fast_gradients`, and there is no forward mode.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.model.nets.fast_gradients import depthwise, product, shifted
from hiergal.model.nets.layers import Dense, LayerNorm, convolve, depth_to_space, space_to_depth

__all__ = ["DoublingConv", "HalvingConv", "SeparableBlock", "SeparableConv"]

FEW_PIXELS = (
    4  # along a side of the smaller image; there a 2x2 convolution computes borders for the most part
)
BORDER = ((0, 0), (1, 1), (1, 1), (0, 0))


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
        self,
        x: Float[jax.Array, "n y x c"],
        training: bool = False,
        mixture: Float[jax.Array, "c m"] | None = None,
    ) -> Float[jax.Array, "n hy hx f"]:
        """Return the image at half the resolution; in training without forward mode.

        Args:
            x: The image.
            training: Whether gradients are wanted.
            mixture: What the channels are to be multiplied with first. As nothing comes between, the kernel is, which
                costs less where the mixture widens.
        """
        channels, mixed = x.shape[-1], (x if mixture is None else mixture).shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (4, 4, mixed, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if mixture is not None:
            kernel = jnp.einsum("cm,ijmf->ijcf", mixture, kernel, precision="highest")
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        taps = kernel.reshape(2, 2, 2, 2, channels, -1).transpose(0, 2, 1, 3, 4, 5)
        taps = taps.reshape(2, 2, 4 * channels, -1)
        patches = space_to_depth(jnp.pad(x, BORDER), 2)
        if min(x.shape[1:3]) > 2 * FEW_PIXELS and 4 * channels > self.features:
            return shifted(convolve(patches, taps, "VALID"), bias, training)
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
            padded = (jnp.pad(parts[..., k, :], border) for k, border in enumerate(borders))
            patches = cast(jax.Array, sum(padded))
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


def _drop_out(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    """Leave out a part of the numbers and scale up the rest, as :class:`flax.linen.Dropout`.

    The bits are hashes of the position and the key: JAX's own, of cryptographic quality, are most of what dropout
    costs on CPUs. A pixel is hashed in full, its channels by a product with odd numbers. The bits do not depend on how
    the galaxies are spread over devices.
    """
    first, second = jax.random.bits(key, (2,))
    *pixels, channels = x.shape
    pixel = _mixed(_mixed(jax.lax.iota(jnp.uint32, math.prod(pixels)) ^ first) ^ second)
    channel = _mixed(jax.lax.iota(jnp.uint32, channels) ^ second) | np.uint32(1)
    bits = pixel.reshape(*pixels, 1) * channel.reshape((1,) * len(pixels) + (-1,))
    bits = (bits ^ (bits >> 16)) * np.uint32(0x21F0AAAD)
    return jnp.where(bits < np.uint32((1 - rate) * 2**32), x / (1 - rate), jnp.zeros_like(x))


def _mixed(bits: jax.Array) -> jax.Array:
    """Return a bijective hash of 32 bits: the constants "lowbias32" of C. Wellons' search, revised (2018)."""
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        bits = (bits ^ (bits >> shift)) * np.uint32(factor)
    return bits ^ (bits >> 15)


def _product_2x2(x: jax.Array, kernel: jax.Array, training: bool) -> jax.Array:
    """A 2x2 convolution without padding, as a product with all four pixels that each pixel sees.

    On CPUs it is slower than XLA's convolution forwards, but has the faster gradient where there are fewer channels
    than features, or few pixels.
    """
    n, ny, nx = len(x), x.shape[1] - 1, x.shape[2] - 1
    seen = jnp.concatenate([x[:, i : i + ny, j : j + nx] for i in range(2) for j in range(2)], axis=-1)
    features = kernel.shape[-1]
    pixels = product(seen.reshape(n * ny * nx, -1), kernel.reshape(-1, features), training)
    return pixels.reshape(n, ny, nx, features)
