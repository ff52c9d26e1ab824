"""The generator g(z): from latents to an unconvolved, non-negative light profile (Lanusse et al. 2020, Eq. 2).

Fluxes of galaxies span a factor of a thousand and their profiles a factor of ten thousand from centre to edge, which
a network with a softplus at its end learns slowly. Here the total flux is explicit, and the profile is modelled in
the logarithm:

    g(z) = flux(z) * softmax_pixels( ellipse(z) + network(z) )

``ellipse`` is the logarithm of an elliptical Sersic profile whose centre, size, shape and index are affine in z;
``network`` is a free convolutional image that starts at zero, and learns what galaxies look like beyond ellipses:
spiral arms, knots, bars, asymmetry. Both are trained together, from noisy, blurred stamps alone.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.model.nets.layers import Dense, LayerNorm, ResidualBlock, depth_to_space, smooth_patches
from hiergal.model.nets.registry import register_network
from hiergal.recipe.config import GeneratorConfig

__all__ = [
    "Generator",
    "ellipse_limits",
]

# Affine map from the first latents to the ellipse: name, offset, spread over unit-normal latents.
ELLIPSE = {
    "log_flux": (0.0, 1.0),
    "x_pix": (0.0, 1.0),
    "y_pix": (0.0, 1.0),
    "log_radius_pix": (np.log(8.0), 0.5),
    "shear_1": (0.0, 0.35),
    "shear_2": (0.0, 0.35),
    "log_index": (np.log(1.3), 0.4),
}
CORE_PIX = 0.5  # rounds off the cusp of a Sersic profile, which no pixel resolves
# No galaxy is beyond these, and float32 is not either: latents far from the others' give no infinite profile.
FLUX_LIMIT = 6.0  # spreads of log(flux) on either side of its mean
SHEAR_LIMIT = 2.0  # of each component: axis ratios down to exp(-4)
RADIUS_LIMITS = (np.log(0.1), 2.0)  # log(pixels) of the least, log(stamps) of the largest


@register_network(GeneratorConfig)
class Generator(nn.Module):
    """The network g.

    Attributes:
        config: Architecture.
        shape: (ny, nx) of the profiles, multiples of 8.
        dtype: Type to compute the network in; the ellipse and the profile stay float32.
        training: Whether gradients take their fast forms, which have no forward mode.
    """

    config: GeneratorConfig
    shape: tuple[int, int]
    dtype: Any = None
    training: bool = False

    @nn.compact
    def __call__(self, z: Float[jax.Array, "n d"]) -> Float[jax.Array, "n y x"]:
        """Return light profiles [flux per pixel] for latents."""
        ellipse = self._ellipse_parameters(z)
        log_profile = _log_sersic(ellipse, self.shape) + self._network(z)
        mean, spread = self.config.log_flux_mean, self.config.log_flux_spread
        mean, spread = 0.0 if mean is None else mean, 1.0 if spread is None else spread
        log_flux = mean + spread * ellipse["log_flux"]
        shape = nn.softmax(log_profile.reshape(len(z), -1)).reshape(log_profile.shape)
        return jnp.exp(log_flux)[:, None, None] * shape

    def _ellipse_parameters(self, z: jax.Array) -> dict[str, jax.Array]:
        offset, spread = (jnp.asarray(column, z.dtype) for column in zip(*ELLIPSE.values(), strict=True))
        start = lambda key, shape, dtype: jnp.eye(*shape, dtype=dtype)  # noqa: E731
        values = nn.Dense(len(ELLIPSE), kernel_init=start, name="ellipse")(z)
        found = dict(zip(ELLIPSE, (offset[None] + spread[None] * values).T, strict=True))
        return {name: jnp.clip(found[name], *limits) for name, limits in ellipse_limits(self.shape).items()}

    def _network(self, z: jax.Array) -> jax.Array:
        c = self.config
        ny, nx = self.shape
        h = nn.gelu(nn.Dense(4 * c.channels, dtype=self.dtype)(z))
        h = nn.Dense(ny // 8 * (nx // 8) * 2 * c.channels, dtype=self.dtype)(h).reshape(
            -1, ny // 8, nx // 8, 2 * c.channels
        )
        for _ in range(c.blocks):
            h = ResidualBlock(self.dtype)(h, self.training)
        h = depth_to_space(Dense(4 * c.channels, dtype=self.dtype)(h, self.training), 2)
        for _ in range(c.blocks):
            h = ResidualBlock(self.dtype)(h, self.training)
        h = nn.gelu(LayerNorm(self.dtype)(h, self.training)).astype(z.dtype)
        h = Dense(16, kernel_init=nn.initializers.normal(1e-3))(h, self.training)
        return smooth_patches(depth_to_space(h, 4)[..., 0])


def ellipse_limits(shape: tuple[int, int]) -> dict[str, tuple[float, float]]:
    """Return the range of each number of the ellipse.

    Args:
        shape: (ny, nx) of the profiles.

    Example:
        >>> ellipse_limits((64, 48))["x_pix"]
        (-64.0, 64.0)
    """
    side = float(max(shape))
    return {
        "log_flux": (-FLUX_LIMIT, FLUX_LIMIT),
        "x_pix": (-side, side),
        "y_pix": (-side, side),
        "log_radius_pix": (RADIUS_LIMITS[0], RADIUS_LIMITS[1] + np.log(side)),
        "shear_1": (-SHEAR_LIMIT, SHEAR_LIMIT),
        "shear_2": (-SHEAR_LIMIT, SHEAR_LIMIT),
        "log_index": (np.log(0.2), np.log(8.0)),
    }


def _log_sersic(ellipse: dict[str, jax.Array], shape: tuple[int, int]) -> Float[jax.Array, "n y x"]:
    """Logarithm of elliptical Sersic profiles, unnormalised; the area of the ellipse does not depend on its shear."""
    p = {name: value[:, None, None] for name, value in ellipse.items()}
    x = jnp.arange(shape[1])[None, None] - (shape[1] - 1) / 2 - p["x_pix"]
    y = jnp.arange(shape[0])[None, :, None] - (shape[0] - 1) / 2 - p["y_pix"]
    # The matrix exponential of the traceless symmetric matrix [[e1, e2], [e2, -e1]], in closed form.
    size = jnp.sqrt(p["shear_1"] ** 2 + p["shear_2"] ** 2 + 1e-8)
    cosh, sinh = jnp.cosh(size), jnp.sinh(size) / size
    u = (cosh - sinh * p["shear_1"]) * x - sinh * p["shear_2"] * y
    v = (cosh + sinh * p["shear_1"]) * y - sinh * p["shear_2"] * x
    index = jnp.exp(p["log_index"])
    radius_squared = (u**2 + v**2 + CORE_PIX**2) * jnp.exp(-2 * p["log_radius_pix"])
    # Not as a power: XLA has no fast one on CPUs.
    return -(2 * index - 1 / 3) * jnp.exp(0.5 / index * jnp.log(radius_squared))
