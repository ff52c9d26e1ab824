"""A density of latents in cells, given those of the whole galaxy: a causal transformer that is a flow.

Where a generator has local latents (:attr:`hiergal.recipe.network_kinds.GeneratorArchitecture.cell_latents`), their
density is p(z_global | y) p(z_local | z_global, y). The first is a masked autoregressive flow; here is the second. Cells
are ordered from the middle of the canvas outwards, and those of a layer are affine maps of base variables,

    u_i = L_i^-1 (w_i - m_i),

whose shift m_i and triangular factor L_i depend on the cells before, by attention (Zhai et al. 2024,
arXiv:2412.06329, with a factor for the correlations inside of a cell). Layers take the cells in opposite orders.
Densities take one pass; drawing goes from cell to cell and remembers what was computed of those before.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.model.flow.autoregressive import LOG_SCALE_LIMIT, AutoregressiveStack
from hiergal.recipe.config import FlowConfig

__all__ = ["GlobalAndLocalStack"]

HEADS = 4


class GlobalAndLocalStack(nn.Module):
    """A flow over global latents, and over those of the cells given the global ones.

    Attributes:
        config: Number and widths of the layers.
        latents: Number of latents.
        cells: Cells along each side, and latents of each.
    """

    config: FlowConfig
    latents: int
    cells: tuple[int, int]

    def setup(self) -> None:
        """Make the layers."""
        c, (side, each) = self.config, self.cells
        self.whole = AutoregressiveStack(c, self.latents - side**2 * each)
        self.layers = [CausalCells(c.cell_features, c.cell_blocks, side, each) for _ in range(c.cell_layers)]
        self.context = nn.Sequential([nn.Dense(2 * c.cell_features), nn.gelu, nn.Dense(c.cell_features)])

    def __call__(self, z: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """As :meth:`to_base`; makes all parameters."""
        return self.to_base(z, y)

    def to_base(self, z: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return base variables and log |du/dz|."""
        g, w = self._split(z)
        u, log_determinant = self.whole.to_base(g, y)
        context = self.context(jnp.concatenate([g, y], axis=-1))
        for i, (layer, order) in enumerate(zip(self.layers, self._orders(), strict=True)):
            w = w[:, order] if i == 0 else w[:, ::-1]
            w, change = layer.to_base(w, context, order)
            log_determinant = log_determinant + change
        return jnp.concatenate([u, w.reshape(len(w), -1)], axis=-1), log_determinant

    def from_base(self, u: jax.Array, y: jax.Array) -> jax.Array:
        """Invert :meth:`to_base`."""
        u, w = self._split(u)
        g = self.whole.from_base(u, y)
        context = self.context(jnp.concatenate([g, y], axis=-1))
        orders = self._orders()
        for i, (layer, order) in reversed(list(enumerate(zip(self.layers, orders, strict=True)))):
            w = layer.from_base(w, context, order)
            w = w[:, np.argsort(order)] if i == 0 else w[:, ::-1]
        return jnp.concatenate([g, w.reshape(len(w), -1)], axis=-1)

    def _split(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        side, each = self.cells
        count = side**2 * each
        return z[:, :-count], z[:, -count:].reshape(len(z), side**2, each)

    def _orders(self) -> list[np.ndarray]:
        """Cells from the middle outwards, and inwards, in turn."""
        at = np.arange(self.cells[0]) - (self.cells[0] - 1) / 2
        y, x = (a.reshape(-1) for a in np.meshgrid(at, at, indexing="ij"))
        outwards = np.lexsort((np.arctan2(y, x), np.hypot(x, y).round(6)))
        return [outwards[::-1] if i % 2 else outwards for i in range(len(self.layers))]


class _Known(NamedTuple):
    """Keys and values of the cells before, [n, cells, features], of a block."""

    keys: jax.Array
    values: jax.Array


class CausalCells(nn.Module):
    """One layer: shift and factor of each cell from the cells before.

    Attributes:
        features: Width of the transformer.
        blocks: Its blocks.
        side: Cells along each side.
        each: Latents of a cell.
    """

    features: int
    blocks: int
    side: int
    each: int

    def setup(self) -> None:
        """Make the transformer."""
        self.see = nn.Dense(self.features)
        self.place = self.param("place", nn.initializers.normal(0.3), (self.side**2, self.features))
        self.steps = [_Block(self.features) for _ in range(self.blocks)]
        outputs = 2 * self.each + self.each * (self.each - 1) // 2
        self.last = nn.LayerNorm()
        self.say = nn.Dense(outputs, kernel_init=nn.initializers.normal(1e-2 / self.features**0.5))

    def to_base(self, w: jax.Array, context: jax.Array, order: np.ndarray) -> tuple[jax.Array, jax.Array]:
        """Return base variables, [n, cells, each], and the logarithm of the determinant."""
        seen = jnp.pad(self.see(w), ((0, 0), (1, 0), (0, 0)))[:, :-1]
        h = seen + self.place[None, order] + context[:, None]
        for block in self.steps:
            h = block(h)
        shift, log_scale, below = self._said(h)
        u = (w - shift) * jnp.exp(-log_scale)
        rows = [u[..., 0]]
        for i in range(1, self.each):
            known = sum(below[..., self._place(i, j)] * rows[j] for j in range(i))
            rows.append(u[..., i] - known)
        return jnp.stack(rows, axis=-1), -jnp.sum(log_scale, axis=(-2, -1))

    def from_base(self, u: jax.Array, context: jax.Array, order: np.ndarray) -> jax.Array:
        """Invert :meth:`to_base`, cell after cell."""
        module, variables = self.unbind()
        places = self.place[order]
        blank = jnp.zeros((*u.shape[:2], self.features), u.dtype)
        known = [_Known(blank, blank) for _ in self.steps]

        def next_one(i, carry):
            w, before, known = carry
            h = before + places[i][None] + context
            values, seen, known = module.apply(variables, h, u[:, i], known, i, method="one")
            return w.at[:, i].set(values), seen, known

        start = (jnp.zeros_like(u), jnp.zeros_like(blank[:, 0]), known)
        return jax.lax.fori_loop(0, u.shape[1], next_one, start)[0]

    def one(self, h: jax.Array, u: jax.Array, known: list[_Known], i: jax.Array):
        """Return the latents of cell i, what the next one sees of them, and what is known now."""
        now = []
        for block, before in zip(self.steps, known, strict=True):
            h, after = block.one(h, before, i)
            now.append(after)
        shift, log_scale, below = self._said(h)
        rows = [u[..., 0]]
        for k in range(1, self.each):
            rows.append(u[..., k] + sum(below[..., self._place(k, j)] * u[..., j] for j in range(k)))
        w = shift + jnp.exp(log_scale) * jnp.stack(rows, axis=-1)
        return w, self.see(w), now

    def _said(self, h: jax.Array) -> list[jax.Array]:
        """Shift, logarithm of the scale, and elements below the diagonal in units of the scale of their row."""
        said = self.say(self.last(h))
        shift, log_scale, below = jnp.split(said, (self.each, 2 * self.each), axis=-1)
        return [shift, LOG_SCALE_LIMIT * jnp.tanh(log_scale / LOG_SCALE_LIMIT), below]

    def _place(self, row: int, column: int) -> int:
        return row * (row - 1) // 2 + column


class _Block(nn.Module):
    """Attention to the cells before and oneself, and a dense layer for each, around skip connections.

    Attributes:
        features: Their width.
    """

    features: int

    def setup(self) -> None:
        """Make the layers."""
        small = nn.initializers.normal(0.1 / self.features**0.5)
        self.norm, self.ask = nn.LayerNorm(), nn.Dense(3 * self.features)
        self.mix = nn.Dense(self.features, kernel_init=small)
        self.norm_again, self.widen = nn.LayerNorm(), nn.Dense(2 * self.features)
        self.narrow = nn.Dense(self.features, kernel_init=small)

    def __call__(self, h: jax.Array) -> jax.Array:
        """Return what all cells know, [n, cells, features]."""
        n, k, f = h.shape
        query, keys, values = jnp.split(self.ask(self.norm(h)), 3, axis=-1)
        query, keys, values = (a.reshape(n, k, HEADS, f // HEADS) for a in (query, keys, values))
        logits = jnp.einsum("nqhf,nkhf->nhqk", query, keys) / (f // HEADS) ** 0.5
        weights = jax.nn.softmax(jnp.where(np.tri(k, dtype=bool)[None, None], logits, -1e9), axis=-1)
        h = h + self.mix(jnp.einsum("nhqk,nkhf->nqhf", weights, values).reshape(n, k, f))
        return h + self.narrow(nn.gelu(self.widen(self.norm_again(h))))

    def one(self, h: jax.Array, known: _Known, i: jax.Array) -> tuple[jax.Array, _Known]:
        """Return what cell i knows, [n, features], and the keys and values up to it."""
        n, f = h.shape
        query, keys, values = jnp.split(self.ask(self.norm(h)), 3, axis=-1)
        known = _Known(known.keys.at[:, i].set(keys), known.values.at[:, i].set(values))
        keys, values = (a.reshape(n, -1, HEADS, f // HEADS) for a in known)
        logits = jnp.einsum("nhf,nkhf->nhk", query.reshape(n, HEADS, -1), keys) / (f // HEADS) ** 0.5
        before = (jnp.arange(keys.shape[1]) <= i)[None, None]
        weights = jax.nn.softmax(jnp.where(before, logits, -1e9), axis=-1)
        h = h + self.mix(jnp.einsum("nhk,nkhf->nhf", weights, values).reshape(n, f))
        return h + self.narrow(nn.gelu(self.widen(self.norm_again(h)))), known
