"""The framed generator g(z): a light profile on the plane, in the frame of its galaxy, rendered on pixels.

    g(z) = flux smooth(z_global) exp(T(z)) / ring means of exp(T)

``smooth`` is a sum of concentric Gaussians (:mod:`.gaussians`), T is a field on the canvas of the galaxy's frame
(:mod:`.structure`). Global latents are the ellipse and free numbers, from which a small network sets the shares of the
Gaussians and how strong the structure is. Local latents, a few in each cell of the canvas, become the field by a small
convolutional network, which the global ones steer.

The flux is that on the whole plane. Smooth Gaussians are blurred in closed form with the round Gaussian that profiles
are blurred with (``Recipe.profile_fwhm_arcsec``), so they are exact on pixels of any size; the structure that
multiplies them is taken at the middle of each pixel.

:meth:`FramedGenerator.__call__` with ``half_sides`` tells the light beyond squares without any pixel
(:mod:`.beyond`), so that galaxies can be drawn on stamps as large as their light.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.model.nets.framed.beyond import light_beyond
from hiergal.model.nets.framed.frame import Ellipse, ellipse_from, from_sky, keep, to_canvas, to_sky
from hiergal.model.nets.framed.gaussians import WIDTHS, gaussian_forms, gaussian_mixture, sersic_log_shares
from hiergal.model.nets.framed.structure import LARGEST, divide_by_ring_means, field, log_ring_means, rings
from hiergal.model.nets.layers import Conv, Dense, LayerNorm, ResidualBlock, depth_to_space
from hiergal.model.nets.registry import LightBeyond, register_network
from hiergal.recipe.framed_config import FramedGeneratorConfig
from hiergal.runtime.pytree import Array

__all__ = ["FramedGenerator", "pixel_centers"]

FREE = 7  # the first global latent that has no meaning of its own
LARGEST_NUMBER = 8.0  # of what the network sets, all logarithms
FINER = 4  # nodes of the field along each side of a cell


class Lattice(nn.Module):
    """From local latents to the coefficients of the field, :data:`FINER` times as many as cells along each side.

    Attributes:
        config: Architecture of the generator.
        dtype: Type to compute the convolutions in.
        training: Whether gradients take their fast forms, which have no forward mode.
    """

    config: FramedGeneratorConfig
    dtype: Any = None
    training: bool = False

    @nn.compact
    def __call__(
        self, w: Float[jax.Array, "n v u local"], whole: Float[jax.Array, "n f"]
    ) -> Float[jax.Array, "n t s"]:
        """Return the coefficients, for local latents and for features of the whole galaxy."""
        c, t = self.config, self.training
        place = self.param("place", nn.initializers.normal(0.02), (1, c.cells, c.cells, c.channels))
        k = (
            Dense(c.channels, name="cells")(w, t)
            + nn.Dense(c.channels, name="whole")(whole)[:, None, None]
            + place
        )
        for _ in range(c.blocks):
            k = ResidualBlock(self.dtype)(k, t)
        k = depth_to_space(Dense(2 * c.channels, dtype=self.dtype, name="half")(k, t), 2)
        k = ResidualBlock(self.dtype)(k, t)
        k = nn.gelu(LayerNorm(self.dtype)(k, t))
        k = depth_to_space(Dense(c.channels, dtype=self.dtype, name="quarter")(k, t), 2)
        field = Conv(1, kernel_init=nn.initializers.normal(3e-3), dtype=self.dtype, name="field")
        return field(nn.gelu(k), t).astype(w.dtype)[..., 0]


@register_network(FramedGeneratorConfig)
class FramedGenerator(nn.Module):
    """The network g.

    Attributes:
        config: Architecture.
        shape: (ny, nx) of the profiles.
        blur_pix: Standard deviation of the round Gaussian that profiles are blurred with [pixels of the model].
        step: Width of the pixels to render on [pixels of the model].
        dtype: Type to compute the convolutions in; the rest stays that of the latents.
        training: Whether gradients take their fast forms, which have no forward mode.
    """

    config: FramedGeneratorConfig
    shape: tuple[int, int]
    blur_pix: float = 0.0
    step: float = 1.0
    dtype: Any = None
    training: bool = False

    @nn.compact
    def __call__(
        self, z: Float[jax.Array, "n d"], half_sides: tuple[float, ...] | None = None
    ) -> Float[jax.Array, "n y x"] | LightBeyond:
        """Return light profiles [flux per pixel] for latents.

        With ``half_sides`` of squares around the centre of the stamp [pixels of the model] return the light beyond
        them in place of profiles.
        """
        c = self.config
        g = z[:, : c.global_latents]
        w = z[:, c.global_latents :].reshape(-1, c.cells, c.cells, c.local_latents)
        e = ellipse_from(g)
        seen = jnp.concatenate([g[:, :1], g[:, 3:]], axis=-1)  # where the centre is does not matter
        h = nn.gelu(nn.Dense(c.features, name="see")(seen))
        h = h + nn.gelu(nn.Dense(c.features, name="think")(h))
        numbers = nn.Dense(2 * len(WIDTHS) + 1, kernel_init=nn.initializers.normal(1e-2), name="numbers")(h)
        numbers = jnp.clip(numbers, -LARGEST_NUMBER, LARGEST_NUMBER)
        shares, rounder, strength = jnp.split(numbers, (len(WIDTHS), 2 * len(WIDTHS)), axis=-1)
        forms, peaks = gaussian_forms(e, 2 * nn.sigmoid(rounder), self.blur_pix)
        weights = nn.softmax(sersic_log_shares(e.log_index) + shares) * peaks
        lattice = Lattice(c, self.dtype, self.training, name="lattice")(w, h) * jnp.exp(strength)[..., None]

        def structure(s, t):
            return LARGEST * jnp.tanh(field(lattice, s, t) / LARGEST)

        x, y = (self.step * along for along in pixel_centers(self.shape))
        u, v = keep(*from_sky(e, x, y))
        s, t = keep(*to_canvas(u, v, c.reach))
        on = rings(c.reach)
        ring_t = keep(structure(on.s, on.t))[0]
        means = log_ring_means(ring_t)
        contrast = divide_by_ring_means(structure(s, t), means, _radius(s, t))
        smooth = gaussian_mixture(forms, weights, *_from_center(e, u, v)) * contrast
        # Rings of rounder Gaussians are no rings of the frame: what the structure adds to their flux.
        ring_smooth = gaussian_mixture(forms, weights, *_from_center(e, on.u, on.v))
        ring_contrast = divide_by_ring_means(ring_t, means, np.hypot(on.s, on.t))
        added = jnp.sum(ring_smooth * (ring_contrast - 1) * on.areas, axis=1)
        added = added * jnp.exp(2 * e.log_radius_pix)
        mean, spread = c.log_flux_mean or 0.0, c.log_flux_spread or 1.0
        if half_sides is not None:
            total = jnp.exp(mean + spread * e.log_flux)
            fine = rings(c.reach, 2)  # which miss no peak
            fine_t = divide_by_ring_means(structure(fine.s, fine.t), means, np.hypot(fine.s, fine.t))
            fine_smooth = gaussian_mixture(forms, weights, *_from_center(e, fine.u, fine.v))
            areas = jnp.exp(2 * e.log_radius_pix)[:, None] * fine.areas
            on_rings = (*to_sky(e, fine.u, fine.v), fine_smooth, fine_t, areas)
            return light_beyond(e, forms, weights, peaks, *on_rings, total, half_sides)
        flux = self.step**2 * jnp.exp(mean + spread * e.log_flux) / jnp.maximum(1 + added, 0.1)
        return (flux[:, None] * smooth).reshape(-1, *self.shape)


def pixel_centers(shape: tuple[int, int]) -> tuple[Float[np.ndarray, "1 p"], Float[np.ndarray, "1 p"]]:
    """Return x and y of the pixels of a stamp, row after row, from its centre [pixels]."""
    y, x = (np.arange(n, dtype=np.float32) - (n - 1) / 2 for n in shape)
    return np.tile(x, len(y))[None], np.repeat(y, len(x))[None]


def _radius(s: Array, t: Array) -> jax.Array:
    return jnp.sqrt(s * s + t * t + 1e-8)


def _from_center(e: Ellipse, u: Array, v: Array) -> tuple[jax.Array, jax.Array]:
    """Sky coordinates from the centre of the galaxy."""
    zero = jnp.zeros_like(e.x_pix)
    return to_sky(e._replace(x_pix=zero, y_pix=zero), u, v)
