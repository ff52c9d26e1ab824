"""A multivariate normal whose leading variables are correlated, and all others independent."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Float
from numpyro.distributions.util import validate_sample

from hiergal.runtime.pytree import Array

__all__ = ["LeadingNormal"]


class LeadingNormal(dist.Distribution):
    """A normal in d variables, of which the first g have a full covariance and the others none.

    With hundreds of local latents a full covariance of the guide has more numbers than a stamp has pixels; size, flux
    and shape are where correlations matter.

    Args:
        mean: Means, [..., d].
        scale_tril: Lower triangular factor of the covariance of the first g, [..., g, g].
        scale: Standard deviations of the others, [..., d - g].
        validate_args: As for every distribution of NumPyro.

    Example:
        >>> q = LeadingNormal(jnp.zeros((2, 3)), jnp.stack([jnp.eye(2)] * 2), jnp.ones((2, 1)))
        >>> q.batch_shape, q.event_shape, q.sample(jax.random.key(0)).shape
        ((2,), (3,), (2, 3))
    """

    support = dist.constraints.real_vector
    reparametrized_params = ("location", "scale_tril", "scale")
    pytree_data_fields = ("location", "scale_tril", "scale")

    def __init__(
        self,
        mean: Float[Array, "*n d"],
        scale_tril: Float[Array, "*n g g"],
        scale: Float[Array, "*n l"],
        *,
        validate_args: bool | None = None,
    ):
        self.location, self.scale_tril, self.scale = mean, scale_tril, scale
        super().__init__(mean.shape[:-1], mean.shape[-1:], validate_args=validate_args)

    def from_base(self, noise: Float[Array, "*s d"]) -> Float[jax.Array, "*s d"]:
        """Return draws for unit-normal numbers."""
        g = self.scale_tril.shape[-1]
        scale_tril, scale, mean = (
            jnp.broadcast_to(a, (*noise.shape[:-1], *a.shape[-k:]))
            for a, k in ((self.scale_tril, 2), (self.scale, 1), (self.location, 1))
        )
        first = jnp.einsum("...ij,...j->...i", scale_tril, noise[..., :g])
        return mean + jnp.concatenate([first, scale * noise[..., g:]], axis=-1)

    def sample(self, key: jax.Array, sample_shape: Sequence[int] = ()) -> jax.Array:
        """Draw from it."""
        return self.from_base(
            jax.random.normal(key, (*sample_shape, *self.location.shape), self.location.dtype)
        )

    def to_base(self, value: Float[Array, "*s d"]) -> Float[jax.Array, "*s d"]:
        """Return the unit-normal numbers that :meth:`from_base` makes these draws of."""
        g = self.scale_tril.shape[-1]
        shape = jnp.broadcast_shapes(value.shape, self.location.shape)
        away = jnp.broadcast_to(value, shape) - jnp.broadcast_to(self.location, shape)
        factor = jnp.broadcast_to(self.scale_tril, (*shape[:-1], g, g))
        first = jax.scipy.linalg.solve_triangular(factor, away[..., :g, None], lower=True)[..., 0]
        others = away[..., g:] / jnp.broadcast_to(self.scale, (*shape[:-1], self.scale.shape[-1]))
        return jnp.concatenate([first, others], axis=-1)

    @validate_sample
    def log_prob(self, value: Float[Array, "*s d"]) -> Float[jax.Array, "*s"]:
        """Return the normalised log-density."""
        u = self.to_base(value)
        log_scales = jnp.broadcast_to(jnp.sum(self.log_scales, axis=-1), u.shape[:-1])
        return -0.5 * jnp.sum(u**2 + np.log(2 * np.pi), axis=-1) - log_scales

    @property
    def log_scales(self) -> Float[jax.Array, "*n d"]:
        """Logarithms of the diagonal of the triangular factor of the whole covariance."""
        first = jnp.diagonal(self.scale_tril, axis1=-2, axis2=-1)
        return jnp.log(jnp.concatenate([first, self.scale], axis=-1))

    @property
    def covariance_matrix(self) -> Float[jax.Array, "*n d d"]:
        """The whole covariance, dense."""
        g, d = self.scale_tril.shape[-1], self.location.shape[-1]
        dense = jnp.zeros((*self.location.shape, d), self.location.dtype)
        first = jnp.einsum("...ik,...jk->...ij", self.scale_tril, self.scale_tril, precision="highest")
        others = jnp.arange(g, d)
        return dense.at[..., :g, :g].set(first).at[..., others, others].set(self.scale**2)

    @property
    def mean(self) -> Float[jax.Array, "*n d"]:
        """Means."""
        return self.location

    @property
    def variance(self) -> Float[jax.Array, "*n d"]:
        """Variances."""
        return jnp.concatenate([jnp.sum(self.scale_tril**2, axis=-1), self.scale**2], axis=-1)
