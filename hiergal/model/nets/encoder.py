"""The encoder: from an observed stamp, its PSF and its noise level to features of the posterior (paper, Fig. 3).

The network sees the stamp three times: compressed by arcsinh in units of the noise, which shows structure at every
surface brightness; divided by a rough flux, on which learned linear templates measure what a bright galaxy's posterior
needs to the last per cent; and as moments under round Gaussian apertures, from which flux, position, size and shape
follow almost linearly, so that the guide is useful after a few steps.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.model.nets.layers import Dense, ResidualBlock, space_to_depth
from hiergal.model.nets.registry import register_network
from hiergal.observation.observation import Observation
from hiergal.recipe.config import EncoderConfig

__all__ = [
    "Encoder",
    "centred",
    "rough_flux",
    "visible",
]

APERTURES_PIX = (2.0, 3.5, 6.0, 10.0, 17.0)
PSF_WINDOW_PIX = 15


@register_network(EncoderConfig)
class Encoder(nn.Module):
    """Network of the guide.

    Attributes:
        config: Architecture.
        outputs: Number of outputs.
        dtype: Type to compute the convolutional part in; the rest stays float32.
        training: Whether gradients take their fast forms, which have no forward mode.
    """

    config: EncoderConfig
    outputs: int
    dtype: Any = None
    training: bool = False

    @nn.compact
    def __call__(self, observation: Observation) -> Float[jax.Array, "n outputs"]:
        """Return the outputs for each galaxy."""
        c = self.config
        image, level = visible(observation), jnp.asarray(observation.noise.rms())[:, None]
        moments, flux = _aperture_moments(image, level)
        templates = nn.Dense(c.templates, use_bias=False)((image / flux[..., None]).reshape(len(image), -1))
        numbers = [
            moments,
            templates,
            jnp.log(flux / level) - 4.0,
            jnp.log(flux),
            nn.gelu(nn.Dense(c.features // 4)(_psf_window(jnp.asarray(observation.psf.stamp)))),
        ]
        h = space_to_depth(jnp.arcsinh(image / level[..., None])[..., None], 4)
        h = Dense(c.channels, dtype=self.dtype)(h, self.training)
        for _ in range(c.blocks):
            h = ResidualBlock(self.dtype)(h, self.training)
        h = Dense(2 * c.channels, dtype=self.dtype)(space_to_depth(h, 2), self.training)
        for _ in range(c.blocks):
            h = ResidualBlock(self.dtype)(h, self.training)
        h = nn.gelu(nn.Dense(c.features, dtype=self.dtype)(nn.gelu(h).reshape(len(h), -1))).astype(
            image.dtype
        )
        h = jnp.concatenate([h, *numbers], axis=-1)
        h = nn.gelu(nn.Dense(c.features)(h))
        h = h + nn.gelu(nn.Dense(c.features)(h))
        return nn.Dense(self.outputs, kernel_init=nn.initializers.normal(1e-2))(
            jnp.concatenate([h, *numbers], axis=-1)
        )


def rough_flux(observation: Observation) -> Float[jax.Array, "n"]:
    """Return the flux under a wide aperture, at least that of its noise: positive, for scales and starts."""
    return _aperture_moments(visible(observation), observation.noise.rms()[:, None])[1][:, 0]


def _aperture_moments(image: jax.Array, level: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Moments under Gaussian apertures of several widths, [n, 6 a], and a rough, positive total flux, [n, 1].

    Six for each width: the logarithm of the flux relative to the widest aperture's, and first and second moments in
    units of the width, relative to the flux; each is held back where the flux drowns in the noise.
    """
    ny, nx = image.shape[-2:]
    y, x = jnp.meshgrid(jnp.arange(ny) - (ny - 1) / 2, jnp.arange(nx) - (nx - 1) / 2, indexing="ij")
    widths = jnp.array(APERTURES_PIX)[:, None, None]
    weight = jnp.exp(-0.5 * (x**2 + y**2)[None] / widths**2)[None]
    kinds = jnp.stack([jnp.ones_like(x), x, y, x * x - y * y, 2 * x * y, x * x + y * y])[:, None]
    order = jnp.array([0, 1, 1, 2, 2, 2])[:, None, None, None]
    raw = jnp.einsum("nyx,kayx->nka", image, kinds * weight / widths[None] ** order)
    noise = level * 2 * np.sqrt(np.pi) * jnp.array(APERTURES_PIX)[None]  # of white noise under each aperture
    flux = jnp.sqrt(jnp.maximum(raw[:, 0], 0.0) ** 2 + noise**2)
    ratios = raw[:, 1:] / flux[:, None]
    logs = jnp.log(flux / flux[:, -1:])
    return jnp.concatenate([logs, ratios.reshape(len(image), -1)], axis=-1), flux[:, -1:]


def visible(observation: Observation) -> Float[jax.Array, "n y x"]:
    """Return the image with masked pixels at zero, whatever they held."""
    image, mask = jnp.asarray(observation.image), observation.mask
    return image if mask is None else jnp.where(mask, 0.0, image)


def centred(stamp: Float[jax.Array, "n py px"], shape: tuple[int, int]) -> Float[jax.Array, "n y x"]:
    """Crop PSFs, or pad them with zeros, so that their central pixel is pixel (ny // 2, nx // 2) of another shape.

    Example:
        >>> centred(jnp.ones((1, 1, 3)), (2, 2))[0].tolist()
        [[0.0, 0.0], [1.0, 1.0]]
    """
    for axis, size in zip((-2, -1), shape, strict=True):
        has = stamp.shape[axis]
        before = size // 2 - has // 2
        after = size - has - before
        pad = [(0, 0)] * stamp.ndim
        pad[axis] = (max(before, 0), max(after, 0))
        start = max(-before, 0)
        stamp = jax.lax.slice_in_dim(stamp, start, has - max(-after, 0), axis=axis)
        stamp = jnp.pad(stamp, pad)
    return stamp


def _psf_window(stamp: jax.Array) -> Float[jax.Array, "n pixels"]:
    """The core of the PSF, in a window that does not depend on the survey's stamp."""
    window = centred(stamp, (PSF_WINDOW_PIX, PSF_WINDOW_PIX))
    return window.reshape(len(stamp), -1) * PSF_WINDOW_PIX
