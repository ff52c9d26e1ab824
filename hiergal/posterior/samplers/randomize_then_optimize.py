"""Coordinates in which the posterior of any galaxy is nearly a unit normal.

With R(z) the whitened residuals of data and prior together, of which the posterior is exp(-R^2 / 2) (except for the
slow factor |du/dz|), and Q the orthonormal directions in which they change at the mode
(:mod:`hiergal.posterior.samplers.laplace`),

    w(z) = Q^T R(z)

is linear in z and exactly unit normal for a linear generator, and follows the bends of the posterior for any other:
what is curved in the latents, since ellipses turn and sizes are positive, is straight in the residuals. ("Randomise,
then optimise", Bardsley et al. 2014, SIAM J. Sci. Comput. 36, A1895, whose draws solve w(z) = noise.) From a given w,
Newton's steps with the slope at the mode, z -> z - S (w(z) - w), find z; one of them leaves a fifth of the error, and
each takes one pass of the generator: PSF, noise and projection are one linear filter, worked out once for each
galaxy.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from hiergal.model.prior import LatentFlow
from hiergal.model.trained import GalaxyModel
from hiergal.posterior.samplers.target import LatentPosterior
from hiergal.runtime.least_squares import GaussianPosterior
from hiergal.runtime.pytree import Array, Record, record

__all__ = ["RandomizeThenOptimize", "randomize_then_optimize"]

LONGEST_STEP = 6.0  # standard deviations


@record
class RandomizeThenOptimize(Record):
    """The map between latents and w, for n galaxies.

    Attributes:
        model: A trained model.
        prior: Prior of the latents of each galaxy.
        mean: Mode of each posterior.
        scale: Its scale S.
        filters: What each w sees of a profile: Q^T, noise and PSF as one [per flux].
        of_base: What each w sees of the base variables.
        offset: What each w sees of the data.
    """

    model: GalaxyModel
    prior: LatentFlow
    mean: Float[Array, "n d"]
    scale: Float[Array, "n d d"]
    filters: Float[Array, "n d y x"]
    of_base: Float[Array, "n d d"]
    offset: Float[Array, "n d"]

    def __call__(self, z: Float[Array, "*s n d"]) -> Float[jax.Array, "*s n d"]:
        """Return w of latents."""
        flat = z.reshape(-1, z.shape[-1])
        profile = self.model.decode(flat).reshape(-1, *self.filters.shape[:1], *self.filters.shape[2:])
        seen = jnp.einsum("ndyx,snyx->snd", self.filters, profile, precision="highest").reshape(z.shape)
        base = jnp.einsum("ndk,...nk->...nd", self.of_base, self.prior.to_base(z)[0], precision="highest")
        return seen + base - jnp.broadcast_to(self.offset, z.shape)

    def latents(self, w: Float[Array, "*s n d"], *, corrections: int = 1) -> Float[jax.Array, "*s n d"]:
        """Return latents for w: straight from the mode, then corrected several times."""

        def moved(by: jax.Array) -> jax.Array:
            return jnp.einsum("nij,...nj->...ni", self.scale, by)

        z = jnp.broadcast_to(self.mean, w.shape) + moved(w)
        for _ in range(corrections):
            step = w - self(z)
            length = jnp.linalg.norm(step, axis=-1, keepdims=True)
            z = z + moved(step * jnp.minimum(1.0, LONGEST_STEP / jnp.maximum(length, 1e-6)))
        return z


def randomize_then_optimize(density: LatentPosterior, found: GaussianPosterior) -> RandomizeThenOptimize:
    """Work out the coordinates of a batch of galaxies.

    Args:
        density: Their posterior densities.
        found: Mode and scale of each.

    Example:
        >>> from hiergal.posterior.samplers.posterior_flow import laplace_of
        >>> prior, unit = model.latent_flow().expand((4,)), np.ones(4, np.float32)
        >>> density = LatentPosterior(model, observation, prior, unit)
        >>> found = laplace_of(density)
        >>> randomize_then_optimize(density, found)(found.mean[None]).shape
        (1, 4, 16)
    """
    n, d = found.mean.shape
    shape = density.model.recipe.shape
    of_data, of_base = found.projection[..., :-d], found.projection[..., -d:]

    def whitened(profile: jax.Array) -> jax.Array:
        return density.whitened(density.model.render(profile, density.observation.psf)).reshape(n, -1)

    # Not linear_transpose, which cannot see through the solve that whitens masked stamps with correlated noise.
    _, backward = jax.vjp(whitened, jnp.zeros((n, *shape), found.mean.dtype))
    filters = jax.vmap(lambda row: backward(row)[0], in_axes=1, out_axes=1)(of_data)
    image = density.whitened(jnp.asarray(density.observation.image)).reshape(n, -1)
    return RandomizeThenOptimize(
        density.model,
        density.prior,
        found.mean,
        found.scale,
        filters,
        of_base,
        jnp.einsum("ndp,np->nd", of_data, image, precision="highest"),
    )
