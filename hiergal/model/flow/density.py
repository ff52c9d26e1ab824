"""The conditional flow: a masked autoregressive density of the latents given magnitude, size and redshift.

Eqs. (11)-(15) of Lanusse et al. (2020). The flow learns the aggregate posterior of a trained model, from which a
unit-normal prior always departs, and makes it conditional; it is fitted in seconds, and again for other conditions,
without touching the rest. Latents and conditions are standardised inside.

Its layers are those of :mod:`hiergal.model.flow.autoregressive`; for local latents, those of
:mod:`hiergal.model.flow.cells` as well.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from hiergal.model.flow.autoregressive import AutoregressiveStack
from hiergal.model.flow.cells import GlobalAndLocalStack
from hiergal.recipe.config import FlowConfig
from hiergal.runtime.fork import check_not_forked
from hiergal.runtime.optimizer import learning_rate_at
from hiergal.runtime.progress import progress_bar
from hiergal.runtime.pytree import Array, Record, brief, record, static
from hiergal.runtime.seeds import as_key

__all__ = ["ConditionalFlow", "FlowFit", "fit_flow"]

VALIDATION_FRACTION = 0.1
EVALUATIONS = 20


@record
class ConditionalFlow(Record):
    """A fitted density of latents given conditions, p(z | y).

    Attributes:
        params: Weights of the layers.
        center: Mean and standard deviation of the latents, [2, d].
        conditions_center: Mean and standard deviation of the conditions, [2, c].
        config: How it is built; its ``conditions`` name the columns of y, in order.
        cells: Where the last latents are those of cells: cells along each side, latents of each, and how many of the
            last conditions each cell has for itself.
    """

    params: dict
    center: Float[Array, "2 d"]
    conditions_center: Float[Array, "2 c"]
    config: FlowConfig = static()
    cells: tuple[int, int, int] | None = static(default=None)

    @classmethod
    def untrained(
        cls, key: jax.Array, config: FlowConfig, latents: int, cells: tuple[int, int, int] | None = None
    ) -> "ConditionalFlow":
        """Return a flow near the identity, for latents and conditions that are standardised already."""
        given = len(config.conditions)
        if cells is None:
            stack = AutoregressiveStack(config, latents)
            params = stack.init(key, latents, given, method="weights")["params"]
        else:
            stack = GlobalAndLocalStack(config, latents, cells)
            params = stack.init(key, jnp.zeros((1, latents)), jnp.zeros((1, given)))["params"]
        unit = (jnp.stack([jnp.zeros(n), jnp.ones(n)]) for n in (latents, given))
        return cls(params, *unit, config, cells)

    def log_prob(self, z: Float[Array, "n d"], conditions: Float[Array, "n c"]) -> Float[jax.Array, "n"]:
        """Return log p(z | y), normalised over the latents."""
        u, log_determinant = self.to_base(z, conditions)
        return -0.5 * jnp.sum(u**2 + np.log(2 * np.pi), axis=-1) + log_determinant

    def sample(self, key: jax.Array | int, conditions: Float[Array, "n c"]) -> Float[jax.Array, "n d"]:
        """Draw one vector of latents for each row of conditions."""
        u = jax.random.normal(as_key(key), (len(conditions), self.center.shape[-1]), self.center.dtype)
        return self.from_base(u, conditions)

    def to_base(
        self, z: Float[Array, "n d"], conditions: Float[Array, "n c"]
    ) -> tuple[Float[jax.Array, "n d"], Float[jax.Array, "n"]]:
        """Map latents to unit-normal variables u, and return ``log |du/dz|`` with them (Eqs. 12 and 14)."""
        z, y = (z - self.center[:1]) / self.center[1:], self._standard(conditions)
        u, log_determinant = self._stack.apply({"params": self.params}, z, y, method="to_base")
        return u, log_determinant - jnp.sum(jnp.log(self.center[1]))

    def from_base(self, u: Float[Array, "n d"], conditions: Float[Array, "n c"]) -> Float[jax.Array, "n d"]:
        """Map unit-normal variables to latents."""
        z = self._stack.apply({"params": self.params}, u, self._standard(conditions), method="from_base")
        return z * self.center[1:] + self.center[:1]

    @property
    def _stack(self) -> AutoregressiveStack | GlobalAndLocalStack:
        if self.cells is None:
            return AutoregressiveStack(self.config, self.center.shape[-1])
        return GlobalAndLocalStack(self.config, self.center.shape[-1], self.cells)

    def _standard(self, conditions: Array) -> jax.Array:
        return (conditions - self.conditions_center[:1]) / self.conditions_center[1:]


class FlowFit(NamedTuple):
    """Result of fitting a flow.

    Attributes:
        flow: The flow with the best validation density.
        validation: Mean log p(z | y) of galaxies held out of the fit, at each evaluation [nats].
    """

    flow: ConditionalFlow
    validation: tuple[float, ...]

    __repr__ = brief


def fit_flow(
    key: jax.Array | int,
    config: FlowConfig,
    latents: Float[Array, "s n d"],
    conditions: Float[Array, "n c"],
    *,
    cells: tuple[int, int, int] | None = None,
    progress: bool = True,
) -> FlowFit:
    """Fit a flow to posterior samples of many galaxies, by maximum likelihood (Eq. 12).

    Args:
        key: PRNG key, or a seed.
        config: Its layers, and how to fit them.
        latents: s posterior samples of each of n galaxies: samples of the aggregate posterior.
        conditions: What each galaxy is conditioned on, in the order of ``config.conditions``; [n, 0] for a density
            without conditions.
        cells: Where the last latents are those of cells: cells along each side, latents of each, and how many of the
            last conditions each cell has for itself.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If conditions are not finite, or do not match the configuration or the latents.
    """
    check_not_forked()
    expected = (latents.shape[1], len(config.conditions))
    if conditions.shape != expected:
        raise ValueError(
            f"conditions: expected shape {expected} for {config.conditions}, got {conditions.shape}"
        )
    if not np.isfinite(conditions).all():
        raise ValueError("conditions: expected finite values, got NaN or infinity; drop those galaxies")
    start_key, order_key, split_key = jax.random.split(as_key(key), 3)
    latents, conditions = jnp.asarray(latents), jnp.asarray(conditions, latents.dtype)
    untrained = jax.jit(ConditionalFlow.untrained, static_argnums=(1, 2, 3))
    flow = untrained(start_key, config, latents.shape[-1], cells)
    flow, params = flow.replace(center=_center(latents), conditions_center=_center(conditions)), flow.params

    order = jax.random.permutation(split_key, len(conditions))
    held_out, used = jnp.split(order, [max(1, round(VALIDATION_FRACTION * len(conditions)))])
    rate = learning_rate_at(config.schedule, config.learning_rate, config.warmup, config.steps)
    optimizer = optax.chain(optax.clip_by_global_norm(2.0), optax.adam(rate, *config.betas))

    def loss(params, draw, rows):
        return -jnp.mean(flow.replace(params=params).log_prob(latents[draw, rows], conditions[rows]))

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, moments, key):
        row_key, draw_key = jax.random.split(key)
        rows = jax.random.choice(row_key, used, (min(config.batch, len(used)),))
        draw = jax.random.randint(draw_key, rows.shape, 0, len(latents))
        updates, moments = optimizer.update(jax.grad(loss)(params, draw, rows), moments, params)
        return optax.apply_updates(params, updates), moments

    @jax.jit
    def evaluate(params):
        return -jnp.mean(
            jnp.stack([loss(params, jnp.full(held_out.shape, s), held_out) for s in range(len(latents))])
        )

    moments, best, best_value, values = optimizer.init(params), params, -np.inf, []
    every = max(1, config.steps // EVALUATIONS)
    with progress_bar("flow", config.steps, shown=progress) as advance:
        for number in range(config.steps):
            params, moments = step(params, moments, jax.random.fold_in(order_key, number))
            advance(1)
            if (number + 1) % every == 0 or number + 1 == config.steps:
                values.append(float(evaluate(params)))
                advance(0, note=f"log p {values[-1]:.2f} nats")
                if values[-1] > best_value:
                    best, best_value = jax.tree.map(jnp.copy, params), values[-1]
    return FlowFit(flow.replace(params=best), tuple(values))


def _center(values: jax.Array) -> jax.Array:
    """Mean and standard deviation over everything but the last axis, [2, d]; one where all values are the same."""
    flat = values.reshape(np.prod(values.shape[:-1]), values.shape[-1])
    spread = flat.std(0)
    return jnp.stack([flat.mean(0), jnp.where(spread > 1e-6, spread, 1.0)])
