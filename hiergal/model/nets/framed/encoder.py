"""The framed encoder: from a stamp to the latents of a framed generator.

A trunk (:class:`~hiergal.model.nets.encoder.Encoder`) guesses the global latents. With the ellipse that they say, the
smooth profile of its Sersic index, blurred with the PSF's width, is taken off the stamp, and what is left is sampled in
the frame: on rings, where Fourier modes of the azimuth correct the global latents; and on the canvas, from which small
convolutions find the local latents of each cell. The frame is where the latents live, so what a network sees of a knot
does not depend on the size or the tilt of its galaxy.

No gradient passes through the sampling: the frame only says where to look.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.model.nets.encoder import Encoder, visible
from hiergal.model.nets.framed.frame import ellipse_from, from_canvas, to_sky
from hiergal.model.nets.framed.gaussians import WIDTHS, gaussian_forms, gaussian_mixture, sersic_log_shares
from hiergal.model.nets.framed.generator import pixel_centers
from hiergal.model.nets.layers import Dense, LayerNorm, ResidualBlock, space_to_depth
from hiergal.model.nets.registry import register_network
from hiergal.observation.observation import Observation
from hiergal.recipe.config import EncoderConfig
from hiergal.recipe.framed_config import FramedEncoderConfig, FramedGeneratorConfig

__all__ = ["FramedEncoder"]

LOG_RINGS = np.linspace(np.log(0.08), np.log(5.0), 18).astype(np.float32)
ANGLES = ((np.arange(32) + 0.5) * 2 * np.pi / 32).astype(np.float32)
ORDERS = np.arange(5)  # of the modes, the mean included
SCALE = 0.1  # of hundreds of features, each of which a step of Adam weighs anew by as much as a single one
SAMPLES = 4  # along each side of a cell


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
            seen = SCALE * _azimuthal(rings)
            h = nn.gelu(nn.Dense(c.features, name=f"look_{i}")(jnp.concatenate([seen, h], axis=-1)))
            h = h + nn.gelu(nn.Dense(c.features, name=f"think_{i}")(h))
            small = nn.initializers.normal(1e-3)
            change = nn.Dense(2 * g + correlations, kernel_init=small, name=f"change_{i}")
            found = found + change(jnp.concatenate([h, seen], axis=-1))
        mean, log_scale, below = jnp.split(found, (g, 2 * g), axis=-1)
        local = self._local(cells, h)
        means, log_scales = (part.reshape(len(mean), -1) for part in jnp.split(local, 2, axis=-1))
        return jnp.concatenate([mean, means, log_scale, log_scales, below], axis=-1)

    def _local(
        self, cells: Float[jax.Array, "n v u maps"], h: jax.Array
    ) -> Float[jax.Array, "n cv cu outputs"]:
        """Means and logarithms of the scales of the local latents of each cell."""
        c, t = self.config, self.training
        k = Dense(c.cell_channels // 2, dtype=self.dtype, name="pixels")(space_to_depth(cells, 2), t)
        k = ResidualBlock(self.dtype)(k, t)
        k = Dense(c.cell_channels, dtype=self.dtype, name="cells")(space_to_depth(k, SAMPLES // 2), t)
        k = k + Dense(c.cell_channels, name="whole")(h)[:, None, None]
        k = ResidualBlock(self.dtype)(k, t)
        k = nn.gelu(LayerNorm(self.dtype)(k, t)).astype(h.dtype)
        outputs = 2 * self.generator.local_latents
        return Dense(outputs, kernel_init=nn.initializers.normal(1e-2), name="local")(k, t)

    def _sample(self, observation: Observation, mean: jax.Array) -> list[jax.Array]:
        """Maps of residuals and light on rings, [n, rings, angles, 3], and on the cells, [n, v, u, 3]."""
        e = ellipse_from(mean)
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
        size = SAMPLES * self.generator.cells
        along = ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32)
        canvas = from_canvas(*np.meshgrid(along, along), self.generator.reach)
        radius = np.exp(LOG_RINGS)[:, None]
        found = []
        for u, v in ((radius * np.cos(ANGLES), radius * np.sin(ANGLES)), canvas):
            values = _interpolated(maps, *to_sky(e, u.reshape(1, -1), v.reshape(1, -1)))
            found.append(jax.lax.stop_gradient(values.reshape(len(mean), *u.shape, -1)))
        return found


def _azimuthal(rings: Float[jax.Array, "n r a maps"]) -> Float[jax.Array, "n features"]:
    """Modes of rings: of both residuals, weighted by the light and not, and the light."""
    waves = np.exp(-1j * ORDERS[:, None] * ANGLES) / len(ANGLES)
    waves = np.concatenate([waves.real, waves.imag[1:]]).astype(np.float32)
    modes = jnp.einsum("nrac,wa->nrcw", rings[..., :2], waves)
    light = rings[..., 2].mean(axis=2)
    strong = (
        modes[:, :, 0] * (light / (1 + light))[..., None]
    )  # a ring counts where light is well above the noise
    return jnp.concatenate([part.reshape(len(rings), -1) for part in (modes, strong, light)], axis=-1)


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
