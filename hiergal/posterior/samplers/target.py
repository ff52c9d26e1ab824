"""The posterior density of the latents, for samplers and mode finders: one galaxy on a stamp, or k sources on a scene.

With z the latents, p(z) their prior and g the generator, the posterior of a galaxy is

    p(z | x)  ~  p(z) Normal(x; PSF * g(z), f Sigma),

Eqs. (1)-(5) of Lanusse et al. (2020); for a scene, the sum over its sources takes the place of PSF * g(z). It is the
density of the NumPyro program (:func:`hiergal.model.program.galaxy_model`), up to a constant of each stamp, written
with the whitened residuals whose Jacobians Gauss-Newton steps need. The factor f is one, unless the generator cannot
reproduce the galaxy (:func:`hiergal.posterior.samplers.laplace.misfit`): its misfit then counts as noise.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from hiergal.model.prior import LatentFlow
from hiergal.model.trained import GalaxyModel
from hiergal.observation.observation import Observation
from hiergal.runtime.pytree import Array, Record, record, static

__all__ = ["Draws", "LatentPosterior"]


@record
class LatentPosterior(Record):
    """The posterior of n stamps as a function of one vector t for each.

    Of one galaxy, t are its latents. Of k sources, t are the latents of one after the other, followed by their offsets
    (x, y) in standard deviations where positions are uncertain.

    Attributes:
        model: A trained model.
        observation: The stamps.
        prior: Prior of the latents, batch shape [n], or [n, k] of k sources.
        variance_factor: Factor f on the noise variance of each stamp.
        positions: Where the sources are, from the centre of the stamp [pixels]; None for one galaxy, centred.
        position_error_pix: Standard deviation of the positions; 0 if they are known [pixels].
    """

    model: GalaxyModel
    observation: Observation
    prior: LatentFlow
    variance_factor: Float[Array, "n"]
    positions: Float[Array, "n k 2"] | None = None
    position_error_pix: float = static(default=0.0)

    def latents(self, t: Float[Array, "*s n t"]) -> Float[Array, "*s n d"] | Float[Array, "*s n k d"]:
        """Return the latents, of each source where there are positions."""
        if self.positions is None:
            return t
        k, d = self.positions.shape[1], self.model.recipe.generator.latents
        return t[..., : k * d].reshape(*t.shape[:-1], k, d)

    def positions_of(self, t: Float[Array, "*s n t"]) -> Float[jax.Array, "*s n k 2"]:
        """Return the position of each source of a scene [pixels]."""
        assert self.positions is not None
        k, d = self.positions.shape[1], self.model.recipe.generator.latents
        known = jnp.broadcast_to(jnp.asarray(self.positions), (*t.shape[:-1], k, 2))
        if not self.position_error_pix:
            return known
        return known + self.position_error_pix * t[..., k * d :].reshape(known.shape)

    def profiles(self, t: Float[Array, "*s n t"]) -> Float[jax.Array, "*each y x"]:
        """Return the light profiles, of each source where there are positions [flux per pixel]."""
        z = self.latents(t)
        profile = self.model.decode(z.reshape(-1, z.shape[-1]))
        return profile.reshape(*z.shape[:-1], *profile.shape[1:])

    def sources(self, t: Float[Array, "*s n t"]) -> Float[jax.Array, "*s n k v u"]:
        """Return the noise-free image of each source [flux per pixel]."""
        shape = self.observation.image.shape[1:]
        return self.model.render(self.profiles(t), self.observation.psf, self.positions_of(t), shape)

    def images(self, t: Float[Array, "*s n t"]) -> Float[jax.Array, "*s n v u"]:
        """Return the noise-free stamps [flux per pixel]."""
        if self.positions is None:
            return self.model.image(t, self.observation.psf)
        return self.sources(t).sum(axis=-3)

    def residual(self, t: Float[Array, "*s n t"]) -> Float[jax.Array, "*s n pixels"]:
        """Return whitened residuals; independent unit normals if the model is right."""
        image = self.images(t)
        difference = image - jnp.broadcast_to(self.observation.image, image.shape)
        return self.whitened(difference).reshape(*t.shape[:-1], -1)

    def whitened(self, image: Float[Array, "*s n v u"]) -> Float[jax.Array, "*s n v u"]:
        """Return images in units of the noise, masked pixels as zero: a linear map."""
        whitened = self.observation.noise.whiten(image, self.observation.mask)
        return whitened / jnp.broadcast_to(jnp.sqrt(self.variance_factor)[:, None, None], whitened.shape)

    def base(self, t: Float[Array, "*s n t"]) -> Float[Array, "*s n t"]:
        """Return variables that are unit normal a priori."""
        if self.positions is None:
            return self.prior.to_base(t)[0]
        z = self.latents(t)
        u = self.prior.to_base(z)[0].reshape(*t.shape[:-1], -1)
        return jnp.concatenate([u, t[..., u.shape[-1] :]], axis=-1)

    def log_likelihood(self, t: Float[Array, "*s n t"]) -> Float[jax.Array, "*s n"]:
        """Return -chi-square / 2: the log-likelihood, up to a constant of each stamp."""
        return -0.5 * jnp.sum(self.residual(t) ** 2, axis=-1)

    def log_prior(self, t: Float[Array, "*s n t"]) -> Float[jax.Array, "*s n"]:
        """Return the logarithm of the prior density of t, up to a constant."""
        z = self.latents(t)
        log_prob = self.prior.log_prob(z)
        if self.positions is None:
            return log_prob
        offsets = t[..., z.shape[-2] * z.shape[-1] :]
        return log_prob.sum(axis=-1) - 0.5 * jnp.sum(offsets**2, axis=-1)

    def log_density(self, t: Float[Array, "*s n t"]) -> Float[jax.Array, "*s n"]:
        """Return the logarithm of the posterior, up to a constant of each stamp."""
        return self.log_likelihood(t) + self.log_prior(t)


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
