"""Masked autoregressive layers, of which the flow is made, and their inverse (Lanusse et al. 2020, Sec. 3.3).

A layer maps latents z to u = (z - shift(z, y)) exp(-log_scale(z, y)), where shift and scale of dimension i depend on
dimensions before i alone (Eq. 13, read from data to base). Between layers the dimensions are reversed and shuffled
in turn. Densities take one pass; drawing takes as many steps as there are dimensions, which together are as much work.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.model.nets.layers import Dense
from hiergal.recipe.config import FlowConfig

__all__ = ["AutoregressiveStack", "MaskedAutoregression"]

LOG_SCALE_LIMIT = 3.0


class MaskedAutoregression(nn.Module):
    """Shift and log-scale of one layer: a masked dense network (Germain et al. 2015; paper, Sec. 3.3).

    Attributes:
        hidden: Width of the two hidden layers.
        log_scale_clamp: How log-scales are kept within +-3: ``"smooth"`` or ``"hard"``.
    """

    hidden: int
    log_scale_clamp: str = "smooth"

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
        if self.log_scale_clamp == "hard":
            return jnp.clip(log_scale, -LOG_SCALE_LIMIT, LOG_SCALE_LIMIT)
        return LOG_SCALE_LIMIT * jnp.tanh(log_scale / LOG_SCALE_LIMIT)

    def _of_conditions(self, c: int) -> "_Affine":
        """Affine map from conditions to their term in a hidden layer; zero without conditions."""
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


class AutoregressiveStack(nn.Module):
    """All layers, with the permutations between them.

    Attributes:
        config: Their number, width and order.
        latents: Number of latents.
    """

    config: FlowConfig
    latents: int

    def setup(self) -> None:
        """Make the layers."""
        c = self.config
        self.masked = [MaskedAutoregression(c.hidden, c.log_scale_clamp) for _ in range(c.layers)]

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
