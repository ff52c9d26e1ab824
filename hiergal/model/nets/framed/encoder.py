"""The framed encoder: from a stamp to the latents of a framed generator.

A trunk (:class:`~hiergal.model.nets.encoder.Encoder`) guesses the global latents. With the ellipse that they say, the
smooth profile of its Sersic index, blurred with the PSF's width, is taken off the stamp, and what is left is sampled in
the frame: on rings, where Fourier modes of the azimuth, as they are and unwound by the winding found so far, correct
the global latents; and on a grid, from which small convolutions find the local latents of each cell. The frame is where
the latents live, so what a network sees of a knot does not depend on the size or the tilt of its galaxy.

No gradient passes through the sampling: the frame only says where to look.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.model.nets.encoder import Encoder, visible
from hiergal.model.nets.framed.frame import ellipse_from, to_sky
from hiergal.model.nets.framed.gaussians import WIDTHS, gaussian_forms, gaussian_mixture, sersic_log_shares
from hiergal.model.nets.framed.generator import bend_of, pixel_centers, winding_of
from hiergal.model.nets.layers import Dense, LayerNorm, ResidualBlock, space_to_depth
from hiergal.model.nets.registry import register_network
from hiergal.observation.observation import Observation
from hiergal.recipe.config import EncoderConfig, FramedEncoderConfig, FramedGeneratorConfig
from hiergal.runtime.pytree import Array

__all__ = ["FramedEncoder"]

LOG_RINGS = np.linspace(np.log(0.08), np.log(5.0), 18).astype(np.float32)
ANGLES = ((np.arange(32) + 0.5) * 2 * np.pi / 32).astype(np.float32)
ORDERS = np.arange(5)  # of the modes, the mean included
WINDINGS = np.linspace(-8, 8, 17).astype(np.float32)  # cotangents of pitch angles that are tried
SCALE = 0.1  # of a thousand features, each of which a step of Adam weighs anew by as much as a single one
SAMPLES = 4  # along each side of a cell


class Modes(NamedTuple):
    """Fourier modes of the residuals on rings, [n, rings, m] from m = 1, and the light there, [n, rings]."""

    real: jax.Array
    imaginary: jax.Array
    light: jax.Array


@register_network(FramedEncoderConfig)
class FramedEncoder(nn.Module):
    """Network of the guide of a framed generator.

    Attributes:
        config: Architecture.
        generator: Architecture of the generator.
        outputs: Number of outputs.
        shape: (ny, nx) of the stamps.
        dtype: Type to compute the convolutional part in; the rest stays float32.
        training: Whether gradients take their fast forms, which have no forward mode.
    """

    config: FramedEncoderConfig
    generator: FramedGeneratorConfig
    outputs: int
    shape: tuple[int, int]
    dtype: Any = None
    training: bool = False

    @nn.compact
    def __call__(self, observation: Observation) -> Float[jax.Array, "n outputs"]:
        """Return the outputs for each galaxy."""
        c, g = self.config, self.generator.global_latents
        correlations = self.outputs - 2 * self.generator.latents
        trunk = EncoderConfig(c.channels, c.blocks, c.templates, c.features)
        out = Encoder(trunk, 2 * g + correlations + c.features, self.dtype, self.training)(observation)
        found, h = out[:, : -c.features], out[:, -c.features :]
        cells = jnp.zeros(())
        for i in range(c.passes):
            mean = jax.lax.stop_gradient(found[:, :g])
            rings, cells = self._sample(observation, mean)
            modes, features = _azimuthal(rings)
            seen = SCALE * jnp.concatenate([features, _unwound(modes, winding_of(mean))], axis=-1)
            h = nn.gelu(nn.Dense(c.features, name=f"look_{i}")(jnp.concatenate([seen, h], axis=-1)))
            h = h + nn.gelu(nn.Dense(c.features, name=f"think_{i}")(h))
            small = nn.initializers.normal(1e-3)
            change = nn.Dense(2 * g + correlations, kernel_init=small, name=f"change_{i}")
            found = found + change(jnp.concatenate([h, seen], axis=-1))
        mean, log_scale, below = jnp.split(found, (g, 2 * g), axis=-1)
        local = self._local(cells, h)
        means, log_scales = (part.reshape(len(mean), -1) for part in jnp.split(local, 2, axis=-1))
        return jnp.concatenate([mean, means, log_scale, log_scales, below], axis=-1)

    def _local(self, cells: Float[jax.Array, "n v u maps"], h: jax.Array) -> Float[jax.Array, "n cv cu 16"]:
        """Means and logarithms of the scales of the local latents of each cell."""
        c, t = self.config, self.training
        k = Dense(c.cell_channels // 2, dtype=self.dtype, name="pixels")(space_to_depth(cells, 2), t)
        k = ResidualBlock(self.dtype)(k, t)
        k = Dense(c.cell_channels, dtype=self.dtype, name="cells")(space_to_depth(k, SAMPLES // 2), t)
        k = k + Dense(c.cell_channels, name="whole")(h)[:, None, None]
        k = ResidualBlock(self.dtype)(k, t)
        k = nn.gelu(LayerNorm(self.dtype)(k, t)).astype(h.dtype)
        return Dense(16, kernel_init=nn.initializers.normal(1e-2), name="knots")(k, t)

    def _sample(self, observation: Observation, mean: jax.Array) -> list[jax.Array]:
        """Maps of residuals and light on rings, [n, rings, angles, 3], and on the cells, [n, v, u, 3]."""
        e, bend = ellipse_from(mean), bend_of(mean)
        image, rms = visible(observation), jnp.asarray(observation.noise.rms())[:, None, None]
        stamp = jnp.asarray(observation.psf.stamp)
        # Width of the Gaussian that is as sharp as the PSF.
        psf_width = 1 / jnp.sqrt(4 * np.pi * jnp.sum(stamp**2, axis=(-2, -1)))
        forms, peaks = gaussian_forms(e, jnp.ones((len(mean), len(WIDTHS)), mean.dtype), psf_width)
        x, y = pixel_centers(self.shape)
        shares = nn.softmax(sersic_log_shares(e.log_index))
        smooth = gaussian_mixture(forms, shares * peaks, x - e.x_pix[:, None], y - e.y_pix[:, None])
        smooth = smooth.reshape(image.shape)
        flux = jnp.sum(smooth * image, axis=(-2, -1)) / jnp.sum(smooth**2, axis=(-2, -1))  # that fits best
        smooth = smooth * jnp.maximum(flux[:, None, None], rms)
        rest = image - smooth
        maps = jnp.stack([rest / (smooth + rms), jnp.arcsinh(rest / rms), jnp.log1p(smooth / rms)], axis=-1)
        size, reach = SAMPLES * self.generator.cells, self.generator.reach
        along = ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32) * reach
        radius = np.exp(LOG_RINGS)[:, None]
        found = []
        for u, v in ((radius * np.cos(ANGLES), radius * np.sin(ANGLES)), np.meshgrid(along, along)):
            values = _interpolated(maps, *to_sky(e, bend, u.reshape(1, -1), v.reshape(1, -1)))
            found.append(jax.lax.stop_gradient(values.reshape(len(mean), *u.shape, -1)))
        return found


def _azimuthal(rings: Float[jax.Array, "n r a maps"]) -> tuple[Modes, Float[jax.Array, "n features"]]:
    """Modes of rings, and features: modes of both residuals, the light, and amplitudes by order and winding."""
    n = len(rings)
    waves = np.exp(-1j * ORDERS[:, None] * ANGLES) / len(ANGLES)
    waves = np.concatenate([waves.real, waves.imag[1:]]).astype(np.float32)
    every = jnp.einsum("nrac,wa->nrcw", rings[..., :2], waves)
    modes = Modes(every[:, :, 0, 1 : len(ORDERS)], every[:, :, 0, len(ORDERS) :], rings[..., 2].mean(axis=2))
    real, imaginary = (part * _strength(modes.light)[..., None] for part in modes[:2])
    turn = ORDERS[1:, None, None] * WINDINGS[:, None] * LOG_RINGS
    cos, sin = (f(turn).astype(np.float32) for f in (np.cos, np.sin))
    along = jnp.einsum("nrm,mkr->nmk", real, cos) - jnp.einsum("nrm,mkr->nmk", imaginary, sin)
    across = jnp.einsum("nrm,mkr->nmk", real, sin) + jnp.einsum("nrm,mkr->nmk", imaginary, cos)
    amplitude = jnp.sqrt(along**2 + across**2 + 1e-4)
    return modes, jnp.concatenate([every.reshape(n, -1), modes.light, amplitude.reshape(n, -1)], axis=-1)


def _unwound(modes: Modes, kappa: Float[Array, "n"]) -> Float[jax.Array, "n features"]:
    """The modes, as they are and turned back by the winding of the arms, weighted by the light and not."""
    turn = (LOG_RINGS[:, None] * ORDERS[1:])[None].astype(np.float32) * kappa[:, None, None]
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    re, im, light = modes
    every = jnp.concatenate([re * cos - im * sin, re * sin + im * cos, re, im], axis=-1)
    weighted = every * _strength(light)[..., None]
    return jnp.concatenate([weighted.reshape(len(re), -1), every.reshape(len(re), -1), light], axis=-1)


def _strength(light: jax.Array) -> jax.Array:
    """Weight of a ring: one where light is well above the noise, none where there is none."""
    return light / (1 + light)


def _interpolated(
    maps: Float[jax.Array, "n y x c"], x: Float[jax.Array, "n k"], y: Float[jax.Array, "n k"]
) -> Float[jax.Array, "n k c"]:
    """Interpolate maps at points, given from the centre of the stamp; zero outside."""
    n, ny, nx, channels = maps.shape
    flat = maps.reshape(n, ny * nx, channels)
    x, y = x + (nx - 1) / 2, y + (ny - 1) / 2
    first_x, first_y, total = jnp.floor(x), jnp.floor(y), jnp.zeros((*x.shape, channels), maps.dtype)
    for iy in (first_y, first_y + 1):
        for ix in (first_x, first_x + 1):
            inside = (iy >= 0) & (iy < ny) & (ix >= 0) & (ix < nx)
            weight = jnp.where(inside, (1 - jnp.abs(y - iy)) * (1 - jnp.abs(x - ix)), 0.0)
            place = (jnp.clip(iy, 0, ny - 1) * nx + jnp.clip(ix, 0, nx - 1)).astype(jnp.int32)
            total = total + weight[..., None] * jnp.take_along_axis(flat, place[..., None], axis=1)
    return total
