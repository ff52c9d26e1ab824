"""What every sampler works on: the posterior of the latents of a batch of galaxies.

With z the latents, p(z) their prior and g the generator, the posterior of a galaxy is

    p(z | x)  ~  p(z) Normal(x; PSF * g(z), f Sigma),

Eqs. (1)-(5) of Lanusse et al. (2020). The factor f is one, unless the generator cannot reproduce the galaxy
(:func:`hiergal.posterior.samplers.laplace.misfit`): its misfit then counts as noise.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from hiergal.model.prior import Prior
from hiergal.model.trained import GalaxyModel
from hiergal.observation.observation import Observation
from hiergal.runtime.pytree import Array, Record, record

__all__ = ["Draws", "Problem"]


@record
class Problem(Record):
    """The posterior of n galaxies.

    Attributes:
        model: A trained model.
        observation: The galaxies.
        prior: Prior of the latents of each.
        variance_factor: Factor f on the noise variance of each, [n].
    """

    model: GalaxyModel
    observation: Observation
    prior: Prior
    variance_factor: Float[Array, "n"]

    def residual(self, z: Float[Array, "*s n d"]) -> Float[jax.Array, "*s n pixels"]:
        """Return whitened residuals of latents; independent unit normals if the model is right."""
        shape = self.model.recipe.shape
        profile = self.model.decode(z.reshape(-1, z.shape[-1])).reshape(*z.shape[:-1], *shape)
        image = self.model.render(profile, self.observation.psf)
        difference = image - jnp.broadcast_to(self.observation.image, image.shape)
        return self.whitened(difference).reshape(*z.shape[:-1], -1)

    def whitened(self, image: Float[Array, "*s n y x"]) -> Float[jax.Array, "*s n y x"]:
        """Return images in units of the noise, masked pixels as zero: a linear map."""
        whitened = self.observation.noise.whiten(image, self.observation.mask)
        return whitened / jnp.broadcast_to(jnp.sqrt(self.variance_factor)[:, None, None], whitened.shape)

    def log_likelihood(self, z: Float[Array, "*s n d"]) -> Float[jax.Array, "*s n"]:
        """Return -chi-square / 2: the log-likelihood, but for a constant of each galaxy."""
        return -0.5 * jnp.sum(self.residual(z) ** 2, axis=-1)

    def log_density(self, z: Float[Array, "*s n d"]) -> Float[jax.Array, "*s n"]:
        """Return the logarithm of the posterior, but for a constant of each galaxy."""
        return self.log_likelihood(z) + self.prior.log_prob(z)


@record
class Draws(Record):
    """Posterior draws of a batch of galaxies, and what is known of their quality.

    Attributes:
        latents: Draws of z, of equal weight.
        statistics: Diagnostics of each galaxy by name.
        diverging: Whether the trajectory of a draw diverged; None of methods without trajectories.
    """

    latents: Float[Array, "s n d"]
    statistics: dict[str, Array]
    diverging: Bool[Array, "s n"] | None = None
