"""The framed generator g(z): a light profile on the plane, in the frame of its galaxy, rendered on pixels.

    g(z) = flux (smooth(z) exp(T(z)) / ring means + knots(z)) / (1 + shares of the knots)

``smooth`` is a sum of concentric Gaussians (:mod:`.gaussians`), T are arms, bars and a free field (:mod:`.structure`),
knots are round Gaussians, one in each cell of the frame. Global latents are the ellipse, winding, bend and phases of
the arms, and free numbers, from which a small network sets the shares of the Gaussians, and how strong each kind of
structure is. Local latents, eight in each cell, are the knot's share, place and size, and four values of the field.

The flux is that on the whole plane. Smooth Gaussians and knots are blurred in closed form with the round Gaussian that
profiles are blurred with (``Recipe.profile_fwhm_arcsec``), so they are exact on pixels of any size; the structure that
multiplies them is taken at the middle of each pixel.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.model.nets.framed.frame import Ellipse, ellipse_from, from_sky, keep, to_sky
from hiergal.model.nets.framed.gaussians import WIDTHS, gaussian_forms, gaussian_mixture, sersic_log_shares
from hiergal.model.nets.framed.structure import (
    LARGEST,
    MODES,
    NODES,
    RING_AREAS,
    RING_POINTS,
    divide_by_ring_means,
    field,
    log_ring_means,
    spiral_modes,
)
from hiergal.model.nets.layers import depth_to_space
from hiergal.model.nets.registry import register_network
from hiergal.recipe.config import FramedGeneratorConfig
from hiergal.runtime.pytree import Array

__all__ = ["FramedGenerator", "bend_of", "pixel_centers", "winding_of"]

# Places of the global latents after the ellipse; those from FREE on have no meaning of their own.
WINDING, BEND, ARMS, FREE = 7, slice(8, 10), slice(10, 10 + 2 * MODES), 10 + 2 * MODES
WINDING_SPREAD, BEND_SPREAD = 2.5, 0.15  # cotangent of the pitch angle; half-light radii
LIMIT = 3.0  # of winding and bend [spreads]
LARGEST_NUMBER = 8.0  # of what the network sets, mostly logarithms
# Before training. Arms fade towards the centre; knots are rare, each some thousandths of the light.
PATTERN = np.array([0.015, 0.08, 0.2, 0.3, 0.3, 0.25], np.float32)
FIELD_SPREAD = 0.1
# Most cells have no knot: the latent of its share counts from one spread on, linearly, which is learnt faster than a
# logarithm.
LOG_SHARE, KNOT_SLOPE, KNOT_THRESHOLD = -6.0, 3.0, 1.0
LOG_SIZE, LOG_SIZE_SPREAD = float(np.log(0.1)), 0.4
LOG_SIZE_LIMITS = (-3.0, 6.0)  # log(pixels)
LEAST_BLUR_PIX = 0.3  # of a knot: a narrower one would fall between pixels
NUMBERS = (len(WIDTHS), len(WIDTHS), MODES * NODES, 1, 5)


class Numbers(NamedTuple):
    """What the global latents say of each galaxy, whatever its place and direction.

    Attributes:
        shares: Shares of the Gaussians of the smooth profile, [n, j].
        roundness: Their shears, in units of the galaxy's, [n, j].
        pattern: How strong the modes of arms and bars may be at each radius, [n, nodes, modes].
        field_spread: Spread of the free field, [n, 1, 1].
        knots: Of the knots: offset of the logarithm of their shares, its slope with the squared radius, threshold,
            offset and spread of the logarithm of their sizes, [n, 5].
    """

    shares: Float[jax.Array, "n j"]
    roundness: Float[jax.Array, "n j"]
    pattern: Float[jax.Array, "n nodes modes"]
    field_spread: Float[jax.Array, "n 1 1"]
    knots: Float[jax.Array, "n 5"]


@register_network(FramedGeneratorConfig)
class FramedGenerator(nn.Module):
    """The network g.

    Attributes:
        config: Architecture.
        shape: (ny, nx) of the profiles.
        blur_pix: Standard deviation of the round Gaussian that profiles are blurred with [pixels of the model].
        step: Width of the pixels to render on [pixels of the model].
    """

    config: FramedGeneratorConfig
    shape: tuple[int, int]
    blur_pix: float = 0.0
    step: float = 1.0

    @nn.compact
    def __call__(self, z: Float[jax.Array, "n d"]) -> Float[jax.Array, "n y x"]:
        """Return light profiles [flux per pixel] for latents."""
        c = self.config
        g, cells = z[:, : c.global_latents], z[:, c.global_latents :].reshape(-1, c.cells, c.cells, 8)
        e, bend = ellipse_from(g), bend_of(g)
        numbers = self._numbers(e, g)
        forms, peaks = gaussian_forms(e, numbers.roundness, self.blur_pix)
        weights = numbers.shares * peaks

        place = self.param("field", nn.initializers.zeros, (2 * c.cells, 2 * c.cells))
        values = depth_to_space(cells[..., 4:], 2)[..., 0] * (numbers.field_spread * jnp.exp(place)[None])
        arms = jnp.repeat(numbers.pattern, 2, axis=-1) * g[:, None, ARMS]

        def structure(u, v, log_rho, cos, sin):
            t = spiral_modes(arms, winding_of(g), log_rho, cos, sin) + field(values, c.reach, u, v)
            return keep(LARGEST * jnp.tanh(t / LARGEST))[0]

        x, y = (self.step * along for along in pixel_centers(self.shape))
        u, v = keep(*from_sky(e, bend, x, y))
        rho_squared = u * u + v * v + 1e-4
        inverse = jax.lax.rsqrt(rho_squared)
        log_rho, cos, sin = keep(0.5 * jnp.log(rho_squared), u * inverse, v * inverse)
        ring_u, ring_v = (np.exp(RING_POINTS[0]) * along for along in RING_POINTS[1:])
        ring_t = structure(ring_u, ring_v, *RING_POINTS)
        means = log_ring_means(ring_t)
        contrast = divide_by_ring_means(structure(u, v, log_rho, cos, sin), means, log_rho)
        smooth = gaussian_mixture(forms, weights, *_unbent(e, u, v)) * contrast
        # Rings of rounder Gaussians are no rings of the frame: what the structure adds to their flux.
        ring_smooth = gaussian_mixture(forms, weights, *_unbent(e, ring_u, ring_v))
        ring_contrast = divide_by_ring_means(ring_t, means, RING_POINTS[0])
        added = jnp.sum(ring_smooth * (ring_contrast - 1) * RING_AREAS, axis=1)
        added = added * jnp.exp(2 * e.log_radius_pix)
        smooth = smooth / jnp.maximum(1 + added, 0.1)[:, None]

        knots, in_knots = self._knots(e, bend, cells.reshape(len(z), -1, 8)[..., :4], numbers.knots)
        mean, spread = c.log_flux_mean or 0.0, c.log_flux_spread or 1.0
        flux = self.step**2 * jnp.exp(mean + spread * e.log_flux)[:, None, None]
        return flux * (smooth.reshape(-1, *self.shape) + knots) / (1 + in_knots)[:, None, None]

    def _numbers(self, e: Ellipse, g: jax.Array) -> Numbers:
        c = self.config
        seen = jnp.stack([g[:, 0], g[:, 3], e.shear, g[:, 6]], axis=-1)
        h = nn.gelu(nn.Dense(c.features)(jnp.concatenate([seen, g[:, FREE:]], axis=-1)))
        h = h + nn.gelu(nn.Dense(c.features)(h))
        numbers = nn.Dense(sum(NUMBERS), kernel_init=nn.initializers.normal(1e-2))(h)
        numbers = jnp.clip(numbers, -LARGEST_NUMBER, LARGEST_NUMBER)
        shares, rounder, pattern, spread, knots = jnp.split(numbers, np.cumsum(NUMBERS)[:-1], axis=-1)
        pattern = jnp.exp(pattern).reshape(-1, NODES, MODES) * PATTERN[None, :, None]
        return Numbers(
            nn.softmax(sersic_log_shares(e.log_index) + shares),
            2 * nn.sigmoid(rounder),
            pattern,
            FIELD_SPREAD * jnp.exp(spread)[..., None],
            knots,
        )

    def _knots(
        self, e: Ellipse, bend: jax.Array, k: Float[jax.Array, "n cells 4"], numbers: jax.Array
    ) -> tuple[Float[jax.Array, "n y x"], Float[jax.Array, "n"]]:
        """Knots, and how much light is in them, relative to the smooth profile."""
        c = self.config
        cell = 2 * c.reach / c.cells
        middle = (np.arange(c.cells, dtype=np.float32) + 0.5) * cell - c.reach
        middle_v, middle_u = (a.reshape(1, -1) for a in np.meshgrid(middle, middle, indexing="ij"))
        # Neighbouring cells overlap a little, so that a knot on their border is in either.
        u, v = (m + 0.6 * cell * jnp.tanh(0.8 * k[..., i]) for i, m in ((1, middle_u), (2, middle_v)))
        place = self.param("knots", nn.initializers.zeros, (1, c.cells**2))
        offset, falling, threshold, log_size, size_spread = (numbers[:, i, None] for i in range(5))
        typical = LOG_SHARE + offset + place + falling * (middle_u**2 + middle_v**2) / 2
        share = jnp.exp(typical) * nn.softplus(KNOT_SLOPE * (k[..., 0] - KNOT_THRESHOLD - threshold))
        log_size = LOG_SIZE + log_size + LOG_SIZE_SPREAD * jnp.exp(size_spread / 2) * k[..., 3]
        variance = (
            jnp.exp(2 * jnp.clip(e.log_radius_pix[:, None] + log_size, *LOG_SIZE_LIMITS))
            + max(self.blur_pix, LEAST_BLUR_PIX) ** 2
        )
        x, y = to_sky(e, bend, u, v)
        # Round Gaussians are products of one along x and one along y.
        along_y, along_x = (
            jnp.exp(-0.5 * (self.step * _centers(n)[None, None] - at[..., None]) ** 2 / variance[..., None])
            for n, at in zip(self.shape, (y, x), strict=True)
        )
        peak = share / (2 * np.pi * variance)
        return jnp.einsum("ncy,ncx->nyx", peak[..., None] * along_y, along_x), share.sum(axis=-1)


def winding_of(g: Float[Array, "n g"]) -> Float[jax.Array, "n"]:
    """Return the cotangent of the pitch angle."""
    return WINDING_SPREAD * LIMIT * jnp.tanh(g[:, WINDING] / LIMIT)


def bend_of(g: Float[Array, "n g"]) -> Float[jax.Array, "n 2"]:
    """Return the bend of the frame [half-light radii]."""
    return BEND_SPREAD * LIMIT * jnp.tanh(g[:, BEND] / LIMIT)


def pixel_centers(shape: tuple[int, int]) -> tuple[Float[np.ndarray, "1 p"], Float[np.ndarray, "1 p"]]:
    """Return x and y of the pixels of a stamp, row after row, from its centre [pixels]."""
    y, x = (_centers(n) for n in shape)
    return np.tile(x, len(y))[None], np.repeat(y, len(x))[None]


def _centers(n: int) -> Float[np.ndarray, "n"]:
    return np.arange(n, dtype=np.float32) - (n - 1) / 2


def _unbent(e: Ellipse, u: Array, v: Array) -> tuple[jax.Array, jax.Array]:
    """Sky coordinates from the centre without the bend, in which Gaussians are ellipses."""
    zero = jnp.zeros_like(e.x_pix)
    return to_sky(e._replace(x_pix=zero, y_pix=zero), jnp.zeros((len(zero), 2), zero.dtype), u, v)
