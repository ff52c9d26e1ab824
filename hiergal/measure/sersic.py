"""Sersic profiles: the constants of their law, and profiles in JAX, of which parametric fits are made.

Profiles are on the pixels of a stamp, without the PSF: surface brightness at the centre of a pixel times its area, as
the generator's profiles are; the effective PSF has the blur of the pixel in it.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import special

from hiergal.runtime.pytree import Array

__all__ = ["sersic_constants", "sersic_profile"]

# Sub-pixels along an axis, everywhere and in the core of the stamp: more of the former change nothing.
SAMPLES, CORE_SAMPLES, CORE_PIX = 2, 9, 12


@cache
def sersic_constants(index: float) -> tuple[float, float]:
    """Return b_n of I(r) = I_0 exp(-b_n r^(1/n)), and I_0, for unit flux and half-light radius (Ciotti & Bertin 1999).

    Args:
        index: Sersic index n.

    Example:
        >>> round(sersic_constants(4.0)[0], 4)
        7.6692
    """
    b = float(special.gammaincinv(2 * index, 0.5))
    return b, float(b ** (2 * index) / (2 * np.pi * index * special.gamma(2 * index)))


def sersic_profile(
    shape: tuple[int, int],
    flux: Float[Array, "n"],
    hlr_pix: Float[Array, "n"],
    index: Float[Array, "n"],
    g1: Float[Array, "n"],
    g2: Float[Array, "n"],
    x_pix: Float[Array, "n"],
    y_pix: Float[Array, "n"],
) -> Float[jax.Array, "n y x"]:
    """Draw Sersic profiles.

    Args:
        shape: (ny, nx) of the stamps.
        flux: Total fluxes.
        hlr_pix: Half-light radii, geometric means of the axes [pixels].
        index: Sersic indices.
        g1: Reduced shears of a round profile along the pixel axes.
        g2: The same along the diagonals.
        x_pix: Centres along x, from the centre of the stamp [pixels].
        y_pix: Centres along y [pixels].

    Example:
        >>> one = lambda value: np.array([value])
        >>> image = sersic_profile((64, 80), one(5.0), one(4.0), one(1.0), one(0.2), one(0.1), one(1.0), one(0.0))
        >>> round(float(image.sum()), 2)
        5.0
    """
    flux, hlr_pix, index, g1, g2, x_pix, y_pix = (
        jnp.asarray(v)[:, None, None] for v in (flux, hlr_pix, index, g1, g2, x_pix, y_pix)
    )
    b = _b(index)
    log_area = (
        jnp.log(2 * jnp.pi * index * hlr_pix**2) + b - 2 * index * jnp.log(b) + jax.lax.lgamma(2 * index)
    )
    stretch = 1 / jnp.sqrt(1 - g1**2 - g2**2)

    def brightness(y, x):
        dx, dy = x - x_pix, y - y_pix
        u, v = stretch * ((1 - g1) * dx - g2 * dy), stretch * ((1 + g1) * dy - g2 * dx)
        squared = jnp.maximum((u**2 + v**2) / hlr_pix**2, 1e-8)
        return flux * jnp.exp(-b * (squared ** (0.5 / index) - 1) - log_area)

    def averaged(rows, columns, samples):
        offsets = (np.arange(samples) + 0.5) / samples - 0.5
        y, x = ((axis[:, None] + offsets).ravel() for axis in (rows, columns))
        fine = brightness(y[None, :, None], x[None, None, :])
        return fine.reshape(-1, len(rows), samples, len(columns), samples).mean(axis=(2, 4))

    rows, columns = (np.arange(n) - (n - 1) / 2 for n in shape)
    image = averaged(rows, columns, SAMPLES)
    cut = [slice(max((n - CORE_PIX) // 2, 0), max((n - CORE_PIX) // 2, 0) + min(CORE_PIX, n)) for n in shape]
    image = image.at[:, cut[0], cut[1]].set(averaged(rows[cut[0]], columns[cut[1]], CORE_SAMPLES))
    # The effective PSF has the pixel in it: take the blur of the averages out again, to second order. Averages of k
    # samples have the variance (1 - 1 / k^2) / 12 along each axis, which differs between core and rest.
    blur = np.full(shape, 1 - SAMPLES**-2)
    blur[cut[0], cut[1]] = 1 - CORE_SAMPLES**-2
    around = jnp.pad(image, ((0, 0), (1, 1), (1, 1)), mode="edge")
    laplacian = (
        around[:, 2:, 1:-1] + around[:, :-2, 1:-1] + around[:, 1:-1, 2:] + around[:, 1:-1, :-2] - 4 * image
    )
    return image - (blur / 24)[None] * laplacian


def _b(index: jax.Array) -> jax.Array:
    """Half-light constant of a Sersic profile (Ciotti & Bertin 1999, Eq. 18): to 2e-3 at index 0.5, 1e-4 from 1 on."""
    return 2 * index - 1 / 3 + 4 / (405 * index) + 46 / (25515 * index**2) + 131 / (1148175 * index**3)
