"""The prior of the latents as a NumPyro distribution: the latent flow given conditions, its marginal, or a unit normal.

A model is trained under z ~ Normal(0, 1), and its flow then learns where the latents of its survey really lie: p(z | y)
for magnitude, size and redshift y (Lanusse et al. 2020, Eqs. 11-15), and p(z) for galaxies of which nothing is known.
Each maps z to base variables u that are unit normal a priori. :meth:`hiergal.GalaxyModel.latent_flow` returns the prior
of a trained model.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Float
from numpyro.distributions.util import validate_sample

from hiergal.model.flow.density import ConditionalFlow
from hiergal.runtime.pytree import Array

__all__ = ["LatentFlow"]


class LatentFlow(dist.Distribution):
    """The density p(z | conditions) of latents, as a NumPyro distribution with the batch shape of the conditions.

    It is a pytree, and may be an argument of what is compiled; samples are differentiable in flow and conditions.

    Args:
        flow: Conditional density, or None for a unit normal.
        conditions: What each galaxy is conditioned on, [..., c]; [..., 0] for a density without conditions.
        latents: Number of latents d; default that of the flow.
        validate_args: As for every distribution of NumPyro.

    Attributes:
        flow: As given.
        conditions: As given.
        latents: Number of latents d.

    Raises:
        ValueError: If there is neither flow nor number of latents, or the flow takes other conditions.

    Example:
        >>> import hiergal
        >>> prior = hiergal.load_model("hub:mock-acs").latent_flow()
        >>> prior.batch_shape, prior.event_shape, prior.expand([3]).batch_shape
        ((), (16,), (3,))
        >>> jax.jit(prior.sample)(jax.random.key(0)).shape
        (16,)
    """

    support = dist.constraints.real_vector
    pytree_data_fields = ("flow", "conditions")
    pytree_aux_fields = ("latents",)

    def __init__(
        self,
        flow: ConditionalFlow | None,
        conditions: Float[Array, "*batch c"],
        *,
        latents: int | None = None,
        validate_args: bool | None = None,
    ):
        if latents is None:
            if flow is None:
                raise ValueError("latents: expected the number of latents of a unit normal, got None")
            latents = flow.center.shape[-1]
        expected = 0 if flow is None else len(flow.config.conditions)
        if conditions.shape[-1] != expected:
            raise ValueError(f"conditions: expected {expected} for each galaxy, got {conditions.shape[-1]}")
        self.flow, self.conditions = flow, conditions
        self.latents = int(latents)
        super().__init__(self.batch_shape, self.event_shape, validate_args=validate_args)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the galaxies: read from the conditions, so that it is right inside ``jax.vmap`` too."""
        return self.conditions.shape[:-1]

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of the latents of one galaxy, (d,)."""
        return (self.latents,)

    def sample(
        self, key: jax.Array, sample_shape: tuple[int, ...] = ()
    ) -> Float[jax.Array, "*s_and_batch d"]:
        """Draw latents: unit-normal numbers, mapped by the flow."""
        return self.from_base(jax.random.normal(key, self.shape(sample_shape)))

    @validate_sample
    def log_prob(self, value: Float[Array, "*s d"]) -> Float[jax.Array, "*s_and_batch"]:
        """Return the normalised log-density of latents."""
        shape = jnp.broadcast_shapes(value.shape[:-1], self.batch_shape)
        u, log_determinant = self.to_base(jnp.broadcast_to(value, (*shape, self.latents)))
        return -0.5 * jnp.sum(u**2 + np.log(2 * np.pi), axis=-1) + log_determinant

    def to_base(
        self, z: Float[Array, "*s_and_batch d"]
    ) -> tuple[Float[jax.Array, "*s_and_batch d"], Float[jax.Array, "*s_and_batch"]]:
        """Map latents to base variables u; return them and ``log |du/dz|``."""
        if self.flow is None:
            return z, jnp.zeros(z.shape[:-1], z.dtype)
        u, log_determinant = self.flow.to_base(*self._rows(z))
        return u.reshape(z.shape), log_determinant.reshape(z.shape[:-1])

    def from_base(self, u: Float[Array, "*s_and_batch d"]) -> Float[jax.Array, "*s_and_batch d"]:
        """Map base variables to latents."""
        return u if self.flow is None else self.flow.from_base(*self._rows(u)).reshape(u.shape)

    def expand(self, batch_shape: Sequence[int]) -> "LatentFlow":
        """Return the prior of more galaxies: conditions are broadcast."""
        batch_shape = tuple(batch_shape)
        if batch_shape == self.batch_shape:
            return self
        xp = np if isinstance(self.conditions, np.ndarray) else jnp
        conditions = xp.broadcast_to(self.conditions, (*batch_shape, self.conditions.shape[-1]))
        return LatentFlow(self.flow, conditions, latents=self.latents)

    def __getitem__(self, rows: slice | Array) -> "LatentFlow":
        """Return the prior of some of the galaxies."""
        return LatentFlow(self.flow, self.conditions[rows], latents=self.latents)

    def __repr__(self) -> str:
        if self.flow is None:
            given = "a unit normal"
        else:
            given = f"given {', '.join(self.flow.config.conditions) or 'nothing'}"
        return f"LatentFlow({given}, batch_shape={self.batch_shape}, event_shape={self.event_shape})"

    def tree_flatten(self):
        """Flatten it in an order that is the same in every process, as NumPyro's is not."""
        return (self.flow, self.conditions), (self.latents, self._validate_args)

    @classmethod
    def tree_unflatten(cls, aux, children) -> "LatentFlow":
        """Rebuild it, from placeholders too."""
        self = object.__new__(cls)
        self.flow, self.conditions = children
        self.latents, self._validate_args = aux
        return self

    def _rows(self, z: Array) -> tuple[Array, Array]:
        """Draws and galaxies on one axis, with their conditions."""
        conditions = jnp.broadcast_to(self.conditions, (*z.shape[:-1], self.conditions.shape[-1]))
        rows = int(np.prod(z.shape[:-1]))
        return z.reshape(rows, z.shape[-1]), conditions.reshape(rows, self.conditions.shape[-1])
