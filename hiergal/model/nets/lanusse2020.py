"""The networks of Lanusse et al. (2020), Sec. 4.2.1 and Table 1: a residual pyramid down to one pixel, and back up.

The encoder embeds each pixel of the stamp, and with it an image of the PSF; seven stages halve the resolution, each
a strided convolution and a residual block of two separable convolutions; a dense layer ends in the posterior. The
generator mirrors it, and ends in a softplus. The counts agree with the published weights: 14.7 and 13.7 million.

The stages of the two face each other: what the encoder has at a resolution can stand in for what the generator should
have there (the transverse connections of the paper). Level 0 is the full resolution; the last level is the bottleneck.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.model.nets.encoder import centred, visible
from hiergal.model.nets.layers import Dense, LayerNorm
from hiergal.model.nets.registry import register_network
from hiergal.model.nets.resampling import DoublingConv, HalvingConv, SeparableBlock
from hiergal.observation.observation import Observation
from hiergal.recipe.config import PyramidEncoderConfig, PyramidGeneratorConfig
from hiergal.runtime.pytree import Array, brief

__all__ = [
    "WithPenalties",
    "PyramidEncoder",
    "PyramidGenerator",
    "Transverse",
    "tukey_taper",
]

START = -6.0  # before the softplus: a dark stamp, a hundredth of the noise of a bright survey


class Transverse(NamedTuple):
    """Feature maps that the encoder passes to the generator in training.

    Attributes:
        features: The encoder's image at each level, from the full resolution to the bottleneck.
        copied: Probability with which a map of each level is copied, [levels].
    """

    features: tuple[jax.Array, ...]
    copied: jax.Array

    __repr__ = brief


class WithPenalties(NamedTuple):
    """Output of the generator in training.

    Attributes:
        profile: Light profiles [flux per pixel], [n, y, x].
        bottleneck: Mean squared difference between what enters the bottleneck and what leaves it, [n].
        border: Light that the taper takes off the edge [flux], [n].
    """

    profile: jax.Array
    bottleneck: jax.Array
    border: jax.Array

    __repr__ = brief


@register_network(PyramidEncoderConfig)
class PyramidEncoder(nn.Module):
    """The paper's recognition network.

    Attributes:
        config: Architecture.
        outputs: Number of outputs.
        dtype: Type to compute in; parameters and outputs stay float32.
    """

    config: PyramidEncoderConfig
    outputs: int
    dtype: Any = None

    @nn.compact
    def __call__(self, observation: Observation, training: bool = False):
        """Return the outputs for each galaxy; in training also the features of each level."""
        c = self.config
        image = visible(observation)
        psf = centred(jnp.asarray(observation.psf.stamp), (image.shape[1], image.shape[2]))
        embedding = Dense(c.embedding, dtype=self.dtype, name="embedding")
        psf_embedding = Dense(c.psf_embedding, dtype=self.dtype, name="psf_embedding")
        # Both are linear, as is the convolution behind them, which takes them into its kernel.
        mixture = _side_by_side(embedding.weights(1), psf_embedding.weights(1))
        features = [embedding(image[..., None], training)]
        h = jnp.stack([image, psf, jnp.ones_like(image)], axis=-1)
        for i, depth in enumerate(c.depths):
            halve = HalvingConv(depth, dtype=self.dtype, name=f"halve_{i}")
            h = halve(h, training, None if i else mixture)
            h = SeparableBlock(c.dropout, dtype=self.dtype, name=f"block_{i}")(h, training)
            features.append(h)
        h = nn.relu(LayerNorm(self.dtype, name="norm")(h, training)).reshape(len(h), -1)
        start = nn.initializers.normal(1e-2)
        outputs = nn.Dense(self.outputs, kernel_init=start, name="posterior")(h.astype(jnp.float32))
        return (outputs, tuple(features)) if training else outputs


@register_network(PyramidGeneratorConfig)
class PyramidGenerator(nn.Module):
    """The paper's generator.

    Attributes:
        config: Architecture.
        shape: (ny, nx) of the profiles, multiples of two to the number of stages.
        dtype: Type to compute in; parameters and profiles stay float32.
    """

    config: PyramidGeneratorConfig
    shape: tuple[int, int]
    dtype: Any = None

    @nn.compact
    def __call__(self, z: Float[jax.Array, "n d"], transverse: Transverse | None = None):
        """Return light profiles [flux per pixel] for latents; with transverse connections, :class:`WithPenalties`."""
        c, training = self.config, transverse is not None
        ny, nx = (size >> len(c.depths) for size in self.shape)
        bottom = c.depths[0]
        h = nn.Dense(ny * nx * bottom, dtype=self.dtype, name="latents")(z).reshape(-1, ny, nx, bottom)
        level, left = len(c.depths), h
        if transverse is not None:
            h = self._copy(h, transverse, level)
        for i, depth in enumerate(c.depths):
            h = DoublingConv(depth, dtype=self.dtype, name=f"double_{i}")(h, training)
            h = SeparableBlock(c.dropout, dtype=self.dtype, name=f"block_{i}")(h, training)
            level -= 1
            if transverse is not None:
                h = self._copy(h, transverse, level)
        h = nn.relu(LayerNorm(self.dtype, name="norm")(h, training)).astype(jnp.float32)
        bias = nn.initializers.constant(START)
        bright = nn.softplus(Dense(1, bias_init=bias, name="brightness")(h, training)[..., 0])
        profile = bright * tukey_taper(self.shape, c.taper_pix)[None]
        if transverse is None:
            return profile
        entered = transverse.features[-1].astype(jnp.float32)
        bottleneck = jnp.mean((entered - left.astype(jnp.float32)) ** 2, axis=(1, 2, 3))
        return WithPenalties(profile, bottleneck, jnp.sum(bright - profile, axis=(1, 2)))

    def _copy(self, h: jax.Array, transverse: Transverse, level: int) -> jax.Array:
        """Put the encoder's maps in the place of a random part of the generator's."""
        maps = (len(h), 1, 1, h.shape[-1])
        copied = jax.random.bernoulli(self.make_rng("transverse"), transverse.copied[level], maps)
        return jnp.where(copied, transverse.features[level], h)


def _side_by_side(image: tuple[Array, Array], psf: tuple[Array, Array]) -> jax.Array:
    """The matrix by which an image, a PSF and a one become the embeddings of the first two, [3, channels]."""
    (of_image, image_bias), (of_psf, psf_bias) = image, psf
    rows = [
        [of_image[0], jnp.zeros_like(psf_bias)],
        [jnp.zeros_like(image_bias), of_psf[0]],
        [image_bias, psf_bias],
    ]
    return jnp.stack([jnp.concatenate(row) for row in rows])


def tukey_taper(shape: tuple[int, int], width: int) -> Float[np.ndarray, "y x"]:
    """Return a window that is 1 inside and falls as a cosine to zero beyond each edge, over ``width`` pixels.

    Example:
        >>> tukey_taper((8, 8), 2)[4].round(2).tolist()
        [0.25, 0.75, 1.0, 1.0, 1.0, 1.0, 0.75, 0.25]
    """

    def window(size: int) -> np.ndarray:
        inside = np.minimum(np.arange(size), np.arange(size)[::-1])
        return np.where(inside < width, 0.5 - 0.5 * np.cos(np.pi * (inside + 1) / (width + 1)), 1.0)

    return np.outer(window(shape[0]), window(shape[1])).astype(np.float32)
