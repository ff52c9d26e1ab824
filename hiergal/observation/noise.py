"""Noise models: the interface of the Gaussian n of Eq. (1) (Lanusse et al. 2020, Eqs. 4 and 5)."""

from abc import abstractmethod

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from hiergal.observation.arrays import native, native_mask
from hiergal.runtime.pytree import Array, Record

__all__ = [
    "NoiseModel",
    "unmasked",
    "used_pixels",
]

LOG_2PI = float(np.log(2 * np.pi))
Mask = Bool[Array, "*#batch y x"] | None


class NoiseModel(Record):
    """Gaussian noise of zero mean and known covariance."""

    @abstractmethod
    def whiten(self, residual: Float[Array, "*batch y x"], mask: Mask = None) -> Float[Array, "*batch y x"]:
        """Return W residual, with W^T W the inverse of Sigma: unit variance, uncorrelated.

        Masked pixels are zero, but see :class:`~hiergal.observation.stationary.StationaryNoise`.
        """

    @abstractmethod
    def unwhiten(self, whitened: Float[Array, "*batch y x"], mask: Mask = None) -> Float[Array, "*batch y x"]:
        """Return W^T whitened, zero where masked: Sigma^(-1) residual, if whitened residuals are given."""

    @abstractmethod
    def log_determinant(self, shape: tuple[int, ...], mask: Mask = None) -> Float[Array, "*batch"]:
        """Return log det Sigma over the pixels used, for images of this shape."""

    @abstractmethod
    def sample(self, key: jax.Array | int, shape: tuple[int, ...]) -> Float[Array, "*batch y x"]:
        """Draw noise images of this shape; the key may be a seed."""

    @abstractmethod
    def level(self) -> Float[Array, "*batch"]:
        """Return the standard deviation of a typical pixel of each galaxy [flux per pixel]."""

    @abstractmethod
    def scaled(self, factor: float) -> "NoiseModel":
        """Return the noise of images that are multiplied by a factor, such as those in another unit."""

    def chi_square(self, residual: Float[Array, "*batch y x"], mask: Mask = None) -> Float[Array, "*batch"]:
        """Return residual^T Sigma^(-1) residual for each galaxy; its mean is the number of pixels used."""
        return jnp.sum(self.whiten(residual, mask) ** 2, axis=(-2, -1))

    def log_prob(self, residual: Float[Array, "*batch y x"], mask: Mask = None) -> Float[Array, "*batch"]:
        """Return the normalised log-density of noise images, one number for each galaxy (Eqs. 4 and 5)."""
        pixels = used_pixels(residual.shape, mask)
        log_determinant = self.log_determinant(residual.shape, mask)
        return -0.5 * (self.chi_square(residual, mask) + log_determinant + pixels * LOG_2PI)


def used_pixels(shape: tuple[int, ...], mask: Mask) -> Int[Array, "*batch"]:
    """Return the number of pixels that are not masked, for each image of a batch.

    Example:
        >>> int(used_pixels((3, 4), None))
        12
    """
    mask = native_mask(mask)
    used = jnp.ones(shape, bool) if mask is None else ~jnp.broadcast_to(mask, shape)
    return jnp.sum(used, axis=(-2, -1))


def unmasked(values: Array, mask: Mask) -> Array:
    """Return values with zeros where masked; both may be arrays of any kind."""
    values, mask = native(values, "values"), native_mask(mask)
    return values if mask is None else jnp.where(jnp.broadcast_to(mask, values.shape), 0.0, values)
