"""The likelihood of stamps: noisy images as a NumPyro distribution (Lanusse et al. 2020, Eqs. 4 and 5)."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from hiergal.observation.independent import WhiteNoise
from hiergal.observation.noise import LOG_2PI, Mask, NoiseModel, count_unmasked
from hiergal.recipe.config import NoiseChoice
from hiergal.runtime.pytree import Array

__all__ = [
    "NoisyImage",
    "choose_noise",
]


class NoisyImage(dist.Distribution):
    """The distribution of an observed image around its noise-free mean: the likelihood p(x | z) of Eq. (3).

    No generator fits a galaxy of signal-to-noise 1000 to the noise, and without care the misfit of a few of them
    outweighs everything that thousands of others could teach. With ``misfit_as_noise``, the noise of a galaxy whose
    reduced chi-square exceeds one is scaled up until it is one: the likelihood is maximised over a factor s >= 1 on
    each galaxy's Sigma^(1/2). Galaxies that the model fits keep the exact density.

    Args:
        mean: Noise-free images [flux per pixel], [..., y, x].
        noise: Noise model of each galaxy.
        mask: Pixels to exclude (True), or None.
        misfit_as_noise: Whether to absorb misfit into the noise (for training only).
    """

    support = dist.constraints.real_matrix
    reparametrized_params = ("mean_image",)
    pytree_data_fields = ("mean_image", "noise", "excluded")  # not "mask": that is a method of Distribution
    pytree_aux_fields = ("misfit_as_noise",)

    def __init__(
        self,
        mean: Array,
        noise: NoiseModel,
        mask: Mask = None,
        *,
        misfit_as_noise: bool = False,
        validate_args: bool | None = None,
    ):
        self.mean_image, self.noise, self.excluded, self.misfit_as_noise = mean, noise, mask, misfit_as_noise
        super().__init__(mean.shape[:-2], mean.shape[-2:], validate_args=validate_args)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draw noisy images."""
        shape = (*sample_shape, *self.mean_image.shape)
        return jnp.broadcast_to(self.mean_image, shape) + self.noise.sample(key, shape)

    def log_prob(self, value: Array) -> jax.Array:
        """Return the log-density of images, one number for each galaxy."""
        value, mean = jnp.broadcast_arrays(value, self.mean_image)
        residual = value - mean
        if not self.misfit_as_noise:
            return self.noise.log_prob(residual, self.excluded)
        pixels = count_unmasked(residual.shape, self.excluded)
        chi_square = self.noise.chi_square(residual, self.excluded)
        scale_squared = jnp.maximum(1.0, chi_square / pixels)
        log_determinant = self.noise.log_determinant(residual.shape, self.excluded) + pixels * jnp.log(
            scale_squared
        )
        return -0.5 * (chi_square / scale_squared + log_determinant + pixels * LOG_2PI)


def choose_noise(noise: NoiseModel, choice: NoiseChoice, sigma: float = 0.0) -> NoiseModel:
    """Return the noise of a likelihood, from that of a survey.

    Args:
        noise: What the survey knows.
        choice: ``"survey"`` for just that (Eq. 5 for correlated noise); ``"pixel"`` for its variance alone, the
            diagonal approximation that the paper trained with (Eq. 4); ``"constant"`` for one standard deviation for
            every pixel of every galaxy, as the paper's code had it.
        sigma: That standard deviation [flux per pixel].

    Example:
        >>> import numpy as np
        >>> from hiergal.observation.stationary import StationaryNoise
        >>> noise = StationaryNoise(np.full((1, 4, 3), 4.0), width=4)
        >>> choose_noise(noise, "pixel").sigma.tolist()
        [2.0]
    """
    match choice:
        case "survey":
            return noise
        case "pixel":
            return noise.uncorrelated()
        case _:
            return WhiteNoise(jnp.full(noise.rms().shape, sigma))
