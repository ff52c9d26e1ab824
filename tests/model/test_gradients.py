"""The gradients written out for training are those that JAX derives, on shapes that nothing divides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiergal.model.nets.fast_gradients import depthwise, layer_norm, product, shifted
from hiergal.model.nets.layers import Conv, Dense, LayerNorm, ResidualBlock
from hiergal.model.nets.resampling import DoublingConv, HalvingConv, SeparableBlock

OPERATIONS = {
    "product": (product, [(7, 3), (3, 5)]),
    "product to fewer": (product, [(7, 5), (5, 2)]),
    "shift": (shifted, [(3, 6, 5, 2), (2,)]),
    "shift of vectors": (shifted, [(7, 4), (4,)]),
    "layer norm": (layer_norm, [(3, 17, 5, 4), (4,), (4,)]),
    "layer norm of vectors": (layer_norm, [(7, 4), (4,), (4,)]),
    "depthwise": (depthwise, [(3, 5, 7, 2), (3, 3, 2)]),
    "depthwise, rows in blocks": (depthwise, [(2, 32, 3, 2), (3, 3, 2)]),
    "depthwise of one pixel": (depthwise, [(2, 1, 1, 3), (3, 3, 3)]),
}
LAYERS = {
    "dense": (Dense(3), (2, 5, 7, 4)),
    "norm": (LayerNorm(), (2, 5, 7, 4)),
    "convolution": (Conv(3), (2, 5, 7, 4)),
    "residual block": (ResidualBlock(), (2, 5, 7, 4)),
    "separable block": (SeparableBlock(), (2, 5, 7, 4)),
    "halving": (HalvingConv(3), (2, 12, 14, 2)),
    "halving to few pixels": (HalvingConv(3), (2, 4, 14, 2)),
    "doubling": (DoublingConv(3), (2, 5, 7, 4)),
    "doubling of few pixels": (DoublingConv(3), (2, 1, 7, 4)),
}


def same_gradients(function, arguments, rng):
    """Check value and gradients with ``training`` against those without."""
    plain, trained = (jax.jit(lambda *a, t=t: function(*a, t)) for t in (False, True))
    np.testing.assert_allclose(trained(*arguments), plain(*arguments), rtol=1e-12, atol=1e-12)
    weight = jnp.asarray(rng.normal(size=plain(*arguments).shape))

    def gradients(f):
        everything = tuple(range(len(arguments)))
        return jax.jit(jax.grad(lambda *a: jnp.sum(weight * jnp.tanh(f(*a))), everything))(*arguments)

    found, twin = gradients(trained), gradients(plain)
    assert all(np.any(np.abs(leaf) > 1e-3) for leaf in jax.tree.leaves(twin)), (
        "a gradient of zeros proves nothing"
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), found, twin)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(x64, rng, name):
    function, shapes = OPERATIONS[name]
    same_gradients(function, [jnp.asarray(rng.normal(size=shape)) for shape in shapes], rng)


@pytest.mark.parametrize("name", LAYERS)
def test_layers(x64, rng, name):
    layer, shape = LAYERS[name]
    x = jnp.asarray(rng.normal(size=shape))
    params = jax.tree.map(
        lambda w: jnp.asarray(w + rng.normal(size=w.shape), float), layer.init(jax.random.key(0), x)
    )
    same_gradients(layer.apply, [params, x], rng)


@pytest.mark.parametrize("name", OPERATIONS)
def test_half_precision_keeps_types(rng, name):
    """Gradients come in the types of what they are gradients of."""
    function, shapes = OPERATIONS[name]
    arguments = [jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in shapes]
    everything = tuple(range(len(arguments)))
    loss = lambda *a: jnp.sum(function(*a, True).astype(jnp.float32))  # noqa: E731
    found = jax.jit(jax.grad(loss, everything))(*arguments)
    assert [part.dtype for part in found] == [jnp.bfloat16] * len(found)
