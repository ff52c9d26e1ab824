"""The conditional flow: a masked autoregressive density of the latents given magnitude, size and redshift.

Eqs. (11)-(15) of Lanusse et al. (2020). The flow learns the aggregate posterior of a trained model, from which a
unit-normal prior always departs, and makes it conditional; it is fitted in seconds, and again for other conditions,
without touching the rest. Latents and conditions are standardised inside.

A layer maps latents z to u = (z - shift(z, y)) exp(-log_scale(z, y)), where shift and scale of dimension i depend on
dimensions before i alone (Eq. 13, read from data to base). Between layers the dimensions are reversed and shuffled
in turn. Densities take one pass; drawing takes as many steps
as there are dimensions, which together are as much work.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from hiergal.nets.layers import Dense
from hiergal.optimizer import learning_rate_at
from hiergal.progress import progress_bar
from hiergal.recipe import FlowConfig
from hiergal.records import Array, Record, record, static

__all__ = ["ConditionalFlow", "FlowFit", "MaskedAutoregression", "fit_flow"]

LOG_SCALE_LIMIT = 3.0
VALIDATION_FRACTION = 0.1
EVALUATIONS = 20


class MaskedAutoregression(nn.Module):
    """Shift and log-scale of one layer: a masked dense network (Germain et al. 2015; paper, Sec. 3.3).

    Attributes:
        hidden: Width of the two hidden layers.
        limit: How log-scales are kept within +-3: ``"smooth"`` or ``"hard"``.
    """

    hidden: int
    limit: str = "smooth"

    def __call__(self, z: Float[jax.Array, "n d"], y: Float[jax.Array, "n c"]):
        """Return shift and log-scale, [n, d] each; element i depends on z before i, and on y."""
        weights = self.weights(z.shape[-1], y.shape[-1])
        h = nn.gelu(weights.first(z) + weights.first_of_y(y))
        h = nn.gelu(weights.second(h) + weights.second_of_y(y))
        return weights.shift(h), self.limited(weights.log_scale(h))

    @nn.compact
    def weights(self, d: int, c: int) -> "_Weights":
        """Return the matrices of a layer for d latents and c conditions, zero where they are masked.

        Hidden unit k has the degree k mod d: it depends on so many of the first latents, and acts on later ones.
        """
        inputs, hidden, outputs = np.arange(1, d + 1), np.arange(self.hidden) % d, np.arange(1, d + 1)
        first = _MaskedDense(hidden[None] >= inputs[:, None])()
        first_of_y = self._of_conditions(c)
        second = _MaskedDense(hidden[None] >= hidden[:, None])()
        second_of_y = self._of_conditions(c)
        last = outputs[None] > hidden[:, None]
        shift, log_scale = (_MaskedDense(last, scale=1e-2)() for _ in range(2))
        return _Weights(first, first_of_y, second, second_of_y, shift, log_scale)

    def limited(self, log_scale: jax.Array) -> jax.Array:
        """Keep log-scales within their limits."""
        if self.limit == "hard":
            return jnp.clip(log_scale, -LOG_SCALE_LIMIT, LOG_SCALE_LIMIT)
        return LOG_SCALE_LIMIT * jnp.tanh(log_scale / LOG_SCALE_LIMIT)

    def _of_conditions(self, c: int) -> "_Affine":
        """What conditions add to a hidden layer; nothing where there are none."""
        if c == 0:
            return _Affine(jnp.zeros((0, self.hidden)), jnp.zeros(self.hidden))
        return _Affine(*Dense(self.hidden).weights(c))


class _Affine(NamedTuple):
    """An affine map."""

    kernel: jax.Array
    bias: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel + self.bias[None]


class _Weights(NamedTuple):
    """The affine maps of one layer."""

    first: _Affine
    first_of_y: _Affine
    second: _Affine
    second_of_y: _Affine
    shift: _Affine
    log_scale: _Affine


class _MaskedDense(nn.Module):
    """A dense layer whose weights are zero where the mask is False."""

    mask: np.ndarray
    scale: float = 1.0

    @nn.compact
    def __call__(self) -> _Affine:
        start = nn.initializers.variance_scaling(self.scale, "fan_in", "truncated_normal")
        kernel = self.param("kernel", start, self.mask.shape)
        return _Affine(kernel * self.mask, self.param("bias", nn.initializers.zeros, self.mask.shape[1:]))


class _Stack(nn.Module):
    """All layers, with the permutations between them."""

    config: FlowConfig
    latents: int

    def setup(self) -> None:
        c = self.config
        self.masked = [MaskedAutoregression(c.hidden, c.limit) for _ in range(c.layers)]

    def to_base(self, z: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return base variables and log |du/dz| (Eqs. 12 and 14)."""
        log_determinant = jnp.zeros(z.shape[:-1], z.dtype)
        for layer, order in zip(self.masked, self._orders(), strict=True):
            shift, log_scale = layer(z, y)
            z = ((z - shift) * jnp.exp(-log_scale))[:, order]
            log_determinant -= log_scale.sum(-1)
        return z, log_determinant

    def weights(self, d: int, c: int) -> list[_Weights]:
        """Return the matrices of all layers; arguments as of :meth:`MaskedAutoregression.weights`."""
        return [layer.weights(d, c) for layer in self.masked]

    def from_base(self, u: jax.Array, y: jax.Array) -> jax.Array:
        """Invert :meth:`to_base`, layer after layer; a loop, as one program for all layers compiles faster."""
        layer, _ = self.masked[0].unbind()
        variables = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(m.variables for m in self.masked[::-1]))
        orders = np.stack([np.argsort(order) for order in self._orders()[::-1]])

        def undo(u, of_layer):
            variables, order = of_layer
            weights = layer.apply(variables, u.shape[-1], y.shape[-1], method="weights")
            return _invert(weights, layer.limited, u[:, order], y), None

        return jax.lax.scan(undo, u, (variables, jnp.asarray(orders)))[0]

    def _orders(self) -> list[np.ndarray]:
        """Reversals and fixed shuffles in turn (Sec. 4.2.2), or shuffles alone."""
        shuffle = np.random.default_rng(0)
        reverse = np.arange(self.latents)[::-1]
        alternate = self.config.permutations == "alternate"
        return [
            reverse if alternate and i % 2 == 0 else shuffle.permutation(self.latents)
            for i in range(self.config.layers)
        ]


def _invert(
    weights: _Weights, limited: Callable[[jax.Array], jax.Array], u: jax.Array, y: jax.Array
) -> jax.Array:
    """Invert a layer, one dimension after the other.

    Dimension i takes the hidden units up to the degree i, which depend on dimensions before i: each step has only those
    of degree i left to compute. All steps together are the work of one pass.
    """
    (n, d), hidden = u.shape, len(weights.second.kernel)
    each = -(-hidden // d)

    def by_degree(x: jax.Array) -> jax.Array:
        """Bring hidden units from the last axis, [..., hidden], to the front, [degree, ..., each]."""
        filled = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, each * d - hidden)])
        return jnp.moveaxis(filled.reshape(*x.shape[:-1], each, d), -1, 0)

    def from_units(kernel: jax.Array) -> jax.Array:
        """Order the rows of a kernel as the units come, [d * each, ...]."""
        return by_degree(kernel.T).swapaxes(1, 2).reshape(d * each, -1)

    shift_and_scale = jnp.concatenate([weights.shift.kernel, weights.log_scale.kernel], axis=1)
    first, second = by_degree(weights.first.kernel), by_degree(from_units(weights.second.kernel))
    last = from_units(shift_and_scale)
    first_bias = by_degree(weights.first.bias[None] + weights.first_of_y(y))
    second_bias = by_degree(weights.second.bias[None] + weights.second_of_y(y))

    def next_one(i, known):
        z, h1, h2 = known
        h1 = jax.lax.dynamic_update_slice(h1, nn.gelu(z @ first[i] + first_bias[i]), (0, i * each))
        h2 = jax.lax.dynamic_update_slice(h2, nn.gelu(h1 @ second[i] + second_bias[i]), (0, i * each))
        shift = h2 @ last[:, i] + weights.shift.bias[i]
        log_scale = limited(h2 @ last[:, d + i] + weights.log_scale.bias[i])
        return z.at[:, i].set(u[:, i] * jnp.exp(log_scale) + shift), h1, h2

    units = jnp.zeros((n, d * each), u.dtype)
    return jax.lax.fori_loop(0, d, next_one, (jnp.zeros_like(u), units, units))[0]


@record
class ConditionalFlow(Record):
    """A fitted density of latents given conditions, p(z | y).

    Attributes:
        params: Weights of the layers.
        center: Mean and standard deviation of the latents, [2, d].
        conditions_center: Mean and standard deviation of the conditions, [2, c].
        config: How it is built; its ``conditions`` name the columns of y, in order.
    """

    params: dict
    center: Float[Array, "2 d"]
    conditions_center: Float[Array, "2 c"]
    config: FlowConfig = static()

    @classmethod
    def untrained(cls, key: jax.Array, config: FlowConfig, latents: int) -> "ConditionalFlow":
        """Return a flow near the identity, for latents and conditions that are standardised already."""
        stack = _Stack(config, latents)
        params = stack.init(key, latents, len(config.conditions), method="weights")["params"]
        unit = (jnp.stack([jnp.zeros(n), jnp.ones(n)]) for n in (latents, len(config.conditions)))
        return cls(params, *unit, config)

    def log_prob(self, z: Float[Array, "n d"], conditions: Float[Array, "n c"]) -> Float[jax.Array, "n"]:
        """Return log p(z | y), normalised over the latents."""
        u, log_determinant = self.to_base(z, conditions)
        return -0.5 * jnp.sum(u**2 + np.log(2 * np.pi), axis=-1) + log_determinant

    def sample(self, key: jax.Array, conditions: Float[Array, "n c"]) -> Float[jax.Array, "n d"]:
        """Draw one vector of latents for each row of conditions."""
        u = jax.random.normal(key, (len(conditions), self.center.shape[-1]), self.center.dtype)
        return self.from_base(u, conditions)

    def to_base(
        self, z: Float[Array, "n d"], conditions: Float[Array, "n c"]
    ) -> tuple[Float[jax.Array, "n d"], Float[jax.Array, "n"]]:
        """Map latents to unit-normal variables u, and return log |du/dz| beside them (Eqs. 12 and 14)."""
        z, y = (z - self.center[:1]) / self.center[1:], self._standard(conditions)
        u, log_determinant = self._stack.apply({"params": self.params}, z, y, method="to_base")
        return u, log_determinant - jnp.sum(jnp.log(self.center[1]))

    def from_base(self, u: Float[Array, "n d"], conditions: Float[Array, "n c"]) -> Float[jax.Array, "n d"]:
        """Map unit-normal variables to latents."""
        z = self._stack.apply({"params": self.params}, u, self._standard(conditions), method="from_base")
        return z * self.center[1:] + self.center[:1]

    @property
    def _stack(self) -> _Stack:
        return _Stack(self.config, self.center.shape[-1])

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


def fit_flow(
    key: jax.Array,
    config: FlowConfig,
    latents: Float[Array, "s n d"],
    conditions: Float[Array, "n c"],
    *,
    progress: bool = True,
) -> FlowFit:
    """Fit a flow to posterior samples of many galaxies, by maximum likelihood (Eq. 12).

    Args:
        key: PRNG key.
        config: Its layers, and how to fit them.
        latents: s posterior samples of each of n galaxies: samples of the aggregate posterior.
        conditions: What each galaxy is conditioned on, in the order of ``config.conditions``; [n, 0] for a density
            without conditions.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If conditions are not finite, or do not match the configuration or the latents.
    """
    expected = (latents.shape[1], len(config.conditions))
    if conditions.shape != expected:
        raise ValueError(
            f"conditions: expected shape {expected} for {config.conditions}, got {conditions.shape}"
        )
    if not np.isfinite(conditions).all():
        raise ValueError("conditions: expected finite values, got NaN or infinity; drop those galaxies")
    start_key, order_key, split_key = jax.random.split(key, 3)
    latents, conditions = jnp.asarray(latents), jnp.asarray(conditions, latents.dtype)
    flow = jax.jit(ConditionalFlow.untrained, static_argnums=(1, 2))(start_key, config, latents.shape[-1])
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
