"""The prior of the latents at inference: the flow given a galaxy's conditions, or its marginal, or a unit normal.

A model is trained under z ~ Normal(0, 1), and its flow then learns where the latents of its survey really lie: p(z | y)
for magnitude, size and redshift y (Lanusse et al. 2020, Eqs. 11-15), and p(z) for galaxies of which nothing is known.
Each maps z to base variables u that are unit normal a priori.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.model.conditions import condition_names
from hiergal.model.flow.density import ConditionalFlow
from hiergal.model.trained import GalaxyModel
from hiergal.runtime.pytree import Array, Record, record

__all__ = ["Prior", "prior_of"]


@record
class Prior(Record):
    """Prior of the latents of each of n galaxies.

    Attributes:
        flow: Density of the latents, or None for a unit normal.
        conditions: What each galaxy is conditioned on, [n, 0] for a marginal density.
    """

    flow: ConditionalFlow | None
    conditions: Float[Array, "n c"]

    def __getitem__(self, rows: slice | Array) -> "Prior":
        """Return the prior of some of the galaxies."""
        return self.replace(conditions=self.conditions[rows])

    def to_base(
        self, z: Float[Array, "*s n d"]
    ) -> tuple[Float[jax.Array, "*s n d"], Float[jax.Array, "*s n"]]:
        """Map latents to base variables u; return them and log |du/dz|."""
        if self.flow is None:
            return z, jnp.zeros(z.shape[:-1], z.dtype)
        u, log_determinant = self.flow.to_base(*self._rows(z))
        return u.reshape(z.shape), log_determinant.reshape(z.shape[:-1])

    def from_base(self, u: Float[Array, "*s n d"]) -> Float[jax.Array, "*s n d"]:
        """Map base variables to latents."""
        return u if self.flow is None else self.flow.from_base(*self._rows(u)).reshape(u.shape)

    def log_prob(self, z: Float[Array, "*s n d"]) -> Float[jax.Array, "*s n"]:
        """Return the normalised log-density of latents."""
        u, log_determinant = self.to_base(z)
        return -0.5 * jnp.sum(u**2 + np.log(2 * np.pi), axis=-1) + log_determinant

    def _rows(self, z: Array) -> tuple[Array, Array]:
        """Draws and galaxies on one axis, with their conditions."""
        conditions = jnp.broadcast_to(self.conditions, (*z.shape[:-1], self.conditions.shape[-1]))
        rows = int(np.prod(z.shape[:-1]))
        return z.reshape(rows, z.shape[-1]), conditions.reshape(rows, self.conditions.shape[-1])


def prior_of(model: GalaxyModel, n: int, conditions: Float[Array, "n c"] | None = None) -> Prior:
    """Return the prior of n galaxies.

    Args:
        model: A trained model.
        n: Number of galaxies.
        conditions: Their conditions, columns as in ``model.flow.config.conditions``; None where nothing is known.

    Returns:
        The flow for these conditions; without them its marginal; a unit normal for a model without a flow.

    Raises:
        ValueError: If conditions are given that the model's flow does not take, or the model lacks what is needed.

    Example:
        >>> prior = prior_of(model, len(observation))
        >>> prior.to_base(posterior.latents)[0].shape
        (40, 4, 16)
    """
    if conditions is None:
        if model.flow is not None and model.marginal is None:
            raise ValueError(
                "expected a model whose flow has a marginal, got one that was fitted by an older hiergal; fit it again "
                "with `hiergal flow`, or give conditions"
            )
        return Prior(model.marginal, np.zeros((n, 0), np.float32))
    names = condition_names(model)
    conditions = np.asarray(conditions, np.float32)
    if conditions.shape != (n, len(names)):
        raise ValueError(
            f"conditions: expected shape {(n, len(names))} for {', '.join(names)}, got {conditions.shape}"
        )
    if not np.isfinite(conditions).all():
        bad = np.flatnonzero(~np.isfinite(conditions).all(axis=1))
        raise ValueError(
            f"conditions: expected finite values, got NaN or infinity for {len(bad)} of {n} galaxies (first: "
            f"{bad[0]}); infer those without conditions"
        )
    return Prior(model.flow, conditions)
