"""Noise models: the Gaussian n of Eq. (1), with its covariance Sigma (Lanusse et al. 2020, Eqs. 4 and 5).

Three covariances, one interface. Each model gives the *normalised* log-density (log-determinant and the constant of
2 pi included, so that galaxies with different noise can be compared), samples, and whitened residuals, which are
independent standard normals if the model is right.

=================  ======================================  =========================================
model              covariance of the pixels                likelihood
=================  ======================================  =========================================
WhiteNoise         sigma^2 times the identity              Eq. (4)
PixelNoise         diagonal, one sigma for each pixel      Eq. (4)
StationaryNoise    circulant, diagonal in Fourier space    Eq. (5): :mod:`hiergal.observation.stationary`
=================  ======================================  =========================================

Images are ``[..., y, x]``; parameters broadcast over the batch axes. A mask follows Astropy: True means that the
pixel is *excluded*.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.observation.arrays import native, native_mask
from hiergal.observation.checks import Parameter
from hiergal.observation.noise import IndependentNoise, Mask, zero_masked
from hiergal.observation.orientation import reorient_stamps
from hiergal.runtime.pytree import Array, record
from hiergal.runtime.seeds import as_key

__all__ = [
    "PixelNoise",
    "WhiteNoise",
]


@record
class WhiteNoise(IndependentNoise, kind="white"):
    """Independent pixels with one standard deviation for each galaxy.

    Attributes:
        sigma: Standard deviation [flux per pixel], [...].

    Example:
        >>> import numpy as np
        >>> float(WhiteNoise(np.array(2.0)).chi_square(np.full((3, 4), 2.0)))
        12.0
    """

    sigma: Float[Array, "*batch"]  # ty: ignore[incompatible-attribute-override] (frozen)

    def __post_init__(self) -> None:
        """Convert arrays of other libraries to native ones."""
        object.__setattr__(self, "sigma", native(self.sigma, "noise.sigma"))

    @classmethod
    def parameters(cls, stamp):  # noqa: D102
        return {"sigma": Parameter(())}

    def whiten(self, residual, mask=None):  # noqa: D102
        return zero_masked(residual, mask) / jnp.broadcast_to(self.sigma[..., None, None], residual.shape)

    def log_determinant(self, shape, mask=None):  # noqa: D102
        log_variance = jnp.broadcast_to(2 * jnp.log(self.sigma)[..., None, None], shape)
        return jnp.sum(zero_masked(log_variance, mask), axis=(-2, -1))

    def sample(self, key, shape):  # noqa: D102
        sigma = jnp.broadcast_to(self.sigma[..., None, None], shape)
        return sigma * jax.random.normal(as_key(key), shape, sigma.dtype)

    def rms(self):  # noqa: D102
        return self.sigma

    def reorient(self, orientation):  # noqa: D102
        return self

    def power_spectrum(self, shape):  # noqa: D102
        half = (shape[0], shape[1] // 2 + 1)
        return np.broadcast_to(np.asarray(self.sigma, float)[:, None, None] ** 2, (len(self.sigma), *half))


@record
class PixelNoise(IndependentNoise, kind="pixel"):
    """Independent pixels, each with its own standard deviation.

    Attributes:
        sigma: Standard deviation of each pixel [flux per pixel], [..., y, x].

    Example:
        >>> import numpy as np
        >>> noise = PixelNoise(np.array([[1.0, 2.0], [1.0, 4.0]]))
        >>> mask = np.array([[False, False], [False, True]])
        >>> float(noise.chi_square(np.full((2, 2), 2.0), mask))
        9.0
    """

    sigma: Float[Array, "*batch y x"]  # ty: ignore[incompatible-attribute-override] (frozen)

    def __post_init__(self) -> None:
        """Convert arrays of other libraries to native ones; masked values become NaN, to be excluded by a mask."""
        object.__setattr__(self, "sigma", native(self.sigma, "noise.sigma", masked="nan"))

    @classmethod
    def parameters(cls, stamp):  # noqa: D102
        return {"sigma": Parameter(stamp, per_pixel=True)}

    def whiten(self, residual, mask=None):  # noqa: D102
        return zero_masked(residual, mask) / jnp.broadcast_to(self._safe(mask), residual.shape)

    def log_determinant(self, shape, mask=None):  # noqa: D102
        log_variance = jnp.broadcast_to(2 * jnp.log(self._safe(mask)), shape)
        return jnp.sum(zero_masked(log_variance, mask), axis=(-2, -1))

    def sample(self, key, shape):  # noqa: D102
        sigma = jnp.broadcast_to(self.sigma, shape)
        return sigma * jax.random.normal(as_key(key), shape, sigma.dtype)

    def rms(self):  # noqa: D102
        return jnp.nanmedian(self.sigma, axis=(-2, -1))  # masked pixels may hold NaN

    def reorient(self, orientation):  # noqa: D102
        return self.replace(sigma=reorient_stamps(self.sigma, orientation))

    def replace_rms(self, where, rms):  # noqa: D102
        sigma = np.asarray(self.sigma)
        return PixelNoise(np.where(where, np.asarray(rms)[:, None, None], sigma).astype(sigma.dtype))

    def log_variance(self, shape, mask=None):  # noqa: D102
        return jnp.broadcast_to(2 * jnp.log(self._safe(mask)), shape)

    def _safe(self, mask: Mask) -> Array:
        """Masked pixels may hold any value, NaN too: keep them out of values and gradients."""
        mask = native_mask(mask)
        if mask is None:
            return self.sigma
        return jnp.where(
            mask, 1.0, jnp.broadcast_to(self.sigma, jnp.broadcast_shapes(mask.shape, self.sigma.shape))
        )
