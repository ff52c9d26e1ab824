"""Noise models: the Gaussian n of Eq. (1), with its covariance Sigma (Lanusse et al. 2020, Eqs. 4 and 5).

Three covariances, one interface. Each model gives the *normalised* log-density (log-determinant and the constant of
2 pi included, so that galaxies with different noise can be compared), samples, and whitened residuals, which are
independent standard normals if the model is right.

=================  ======================================  =========================================
model              covariance of the pixels                likelihood
=================  ======================================  =========================================
WhiteNoise         sigma^2 times the identity              Eq. (4)
PixelNoise         diagonal, one sigma for each pixel      Eq. (4)
StationaryNoise    circulant, diagonal in Fourier space    Eq. (5): :mod:`hiergal.stationary_noise`
=================  ======================================  =========================================

Images are ``[..., y, x]``; parameters broadcast over the batch axes. A mask follows Astropy: True means that the
pixel is *excluded*.
"""

from abc import abstractmethod

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Bool, Float, Int

from hiergal.observation.arrays import native, native_mask
from hiergal.recipe_config import NoiseChoice
from hiergal.records import Array, Record, record
from hiergal.runtime.seeds import as_key

__all__ = [
    "NoiseModel",
    "NoisyImage",
    "PixelNoise",
    "WhiteNoise",
    "chosen_noise",
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

        Masked pixels are zero, but see :class:`~hiergal.stationary_noise.StationaryNoise`.
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


@record
class WhiteNoise(NoiseModel):
    """Independent pixels with one standard deviation for each galaxy.

    Attributes:
        sigma: Standard deviation [flux per pixel], [...].

    Example:
        >>> import numpy as np
        >>> float(WhiteNoise(np.array(2.0)).chi_square(np.full((3, 4), 2.0)))
        12.0
    """

    sigma: Float[Array, "*batch"]

    def __post_init__(self) -> None:
        """Make native what is foreign."""
        object.__setattr__(self, "sigma", native(self.sigma, "noise.sigma"))

    def scaled(self, factor):  # noqa: D102
        return WhiteNoise(self.sigma * np.float32(factor))

    def whiten(self, residual, mask=None):  # noqa: D102
        return unmasked(residual, mask) / jnp.broadcast_to(self.sigma[..., None, None], residual.shape)

    def unwhiten(self, whitened, mask=None):  # noqa: D102
        return self.whiten(whitened, mask)  # the square root is diagonal

    def log_determinant(self, shape, mask=None):  # noqa: D102
        log_variance = jnp.broadcast_to(2 * jnp.log(self.sigma)[..., None, None], shape)
        return jnp.sum(unmasked(log_variance, mask), axis=(-2, -1))

    def sample(self, key, shape):  # noqa: D102
        sigma = jnp.broadcast_to(self.sigma[..., None, None], shape)
        return sigma * jax.random.normal(as_key(key), shape, sigma.dtype)

    def level(self):  # noqa: D102
        return self.sigma


@record
class PixelNoise(NoiseModel):
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

    sigma: Float[Array, "*batch y x"]

    def __post_init__(self) -> None:
        """Make native what is foreign; what is masked is NaN, which a mask of the observation has to exclude."""
        object.__setattr__(self, "sigma", native(self.sigma, "noise.sigma", masked="nan"))

    def scaled(self, factor):  # noqa: D102
        return PixelNoise(self.sigma * np.float32(factor))

    def whiten(self, residual, mask=None):  # noqa: D102
        return unmasked(residual, mask) / jnp.broadcast_to(self._safe(mask), residual.shape)

    def unwhiten(self, whitened, mask=None):  # noqa: D102
        return self.whiten(whitened, mask)  # the square root is diagonal

    def log_determinant(self, shape, mask=None):  # noqa: D102
        log_variance = jnp.broadcast_to(2 * jnp.log(self._safe(mask)), shape)
        return jnp.sum(unmasked(log_variance, mask), axis=(-2, -1))

    def sample(self, key, shape):  # noqa: D102
        sigma = jnp.broadcast_to(self.sigma, shape)
        return sigma * jax.random.normal(as_key(key), shape, sigma.dtype)

    def level(self):  # noqa: D102
        return jnp.nanmedian(self.sigma, axis=(-2, -1))  # masked pixels may hold NaN

    def _safe(self, mask: Mask) -> Array:
        """Masked pixels may hold any value, NaN too: keep them out of values and gradients."""
        mask = native_mask(mask)
        if mask is None:
            return self.sigma
        return jnp.where(
            mask, 1.0, jnp.broadcast_to(self.sigma, jnp.broadcast_shapes(mask.shape, self.sigma.shape))
        )


class NoisyImage(dist.Distribution):
    """The distribution of an observed image around its noise-free mean: the likelihood p(x | z) of Eq. (3).

    No generator fits a galaxy of signal-to-noise 1000 to the noise, and without care the misfit of a few of them
    outweighs everything that thousands of others could teach. With ``inflate``, the noise of a galaxy whose
    reduced chi-square exceeds one is scaled up until it is one: the likelihood is maximised over a factor s >= 1 on
    each galaxy's Sigma^(1/2). Galaxies that the model fits keep the exact density.

    Args:
        mean: Noise-free images [flux per pixel], [..., y, x].
        noise: Noise model of each galaxy.
        mask: Pixels to exclude (True), or None.
        inflate: Whether to absorb misfit into the noise (for training only).
    """

    support = dist.constraints.real_matrix
    reparametrized_params = ("mean_image",)
    pytree_data_fields = ("mean_image", "noise", "excluded")  # not "mask": that is a method of Distribution
    pytree_aux_fields = ("inflate",)

    def __init__(
        self,
        mean: Array,
        noise: NoiseModel,
        mask: Mask = None,
        *,
        inflate: bool = False,
        validate_args: bool | None = None,
    ):
        self.mean_image, self.noise, self.excluded, self.inflate = mean, noise, mask, inflate
        super().__init__(mean.shape[:-2], mean.shape[-2:], validate_args=validate_args)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draw noisy images."""
        shape = (*sample_shape, *self.mean_image.shape)
        return jnp.broadcast_to(self.mean_image, shape) + self.noise.sample(key, shape)

    def log_prob(self, value: Array) -> jax.Array:
        """Return the log-density of images, one number for each galaxy."""
        value, mean = jnp.broadcast_arrays(value, self.mean_image)
        residual = value - mean
        if not self.inflate:
            return self.noise.log_prob(residual, self.excluded)
        pixels = used_pixels(residual.shape, self.excluded)
        chi_square = self.noise.chi_square(residual, self.excluded)
        scale_squared = jnp.maximum(1.0, chi_square / pixels)
        log_determinant = self.noise.log_determinant(residual.shape, self.excluded) + pixels * jnp.log(
            scale_squared
        )
        return -0.5 * (chi_square / scale_squared + log_determinant + pixels * LOG_2PI)


def chosen_noise(noise: NoiseModel, choice: NoiseChoice, sigma: float = 0.0) -> NoiseModel:
    """Return the noise that a likelihood takes, for what a survey knows.

    Args:
        noise: What the survey knows.
        choice: ``"survey"`` for just that (Eq. 5 for correlated noise); ``"pixel"`` for its variance alone, the
            diagonal approximation that the paper trained with (Eq. 4); ``"constant"`` for one standard deviation for
            every pixel of every galaxy, as the paper's code had it.
        sigma: That standard deviation [flux per pixel].

    Example:
        >>> from hiergal.stationary_noise import StationaryNoise
        >>> noise = StationaryNoise(np.full((1, 4, 3), 4.0), width=4)
        >>> chosen_noise(noise, "pixel").sigma.tolist()
        [2.0]
    """
    match choice:
        case "survey":
            return noise
        case "pixel":
            return noise if isinstance(noise, PixelNoise) else WhiteNoise(noise.level())
        case _:
            return WhiteNoise(jnp.full(noise.level().shape, sigma))


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
