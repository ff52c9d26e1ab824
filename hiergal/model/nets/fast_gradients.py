"""The operations that the networks are made of, with backward passes written out for training.

What XLA derives by itself is slow on CPUs: it merges a sum over pixels with all that its terms are computed from into
a loop that it does not vectorise, and copies images to transpose them before a matrix product. The gradients here are
the same numbers, up to rounding, in forms that it compiles well; on accelerators, where there is a better form, that
one is taken. They have no forward mode, so they are used with ``training=True`` alone.

Images are ``[n, y, x, channel]``, and sums over pixels go over the galaxies too.
"""

from typing import cast

import jax
import jax.numpy as jnp
from jaxtyping import Float

__all__ = ["depthwise", "layer_norm", "product", "shifted"]

EPSILON = 1e-6  # of the variance, as Flax has it
PARTIAL_SUMS = 8  # blocks of rows that are added up in one pass; measured on CPUs
BAND_BYTES = 2**17  # of an image, which stays in the cache while it is used nine times; measured on CPUs
Index = int | jax.Array
Image = Float[jax.Array, "n y x c"]


def product(x: Float[jax.Array, "p c"], kernel: Float[jax.Array, "c f"], training: bool = False):
    """Return the matrix product of pixels and a kernel, ``[p, f]``.

    Example:
        >>> product(jnp.ones((5, 2)), jnp.ones((2, 3)), training=True).shape
        (5, 3)
    """
    return (_trained_product if training else jnp.matmul)(x, kernel)


def shifted(x: Float[jax.Array, "*n c"], bias: Float[jax.Array, "c"], training: bool = False):
    """Return pixels plus a bias.

    Example:
        >>> jax.grad(lambda bias: shifted(jnp.ones((5, 4, 2)), bias, True).sum())(jnp.zeros(2)).tolist()
        [20.0, 20.0]
    """
    return (_trained_shifted if training else _shifted)(x, bias)


def layer_norm(
    x: Float[jax.Array, "*n c"],
    scale: Float[jax.Array, "c"],
    bias: Float[jax.Array, "c"],
    training: bool = False,
):
    """Normalise the channels of each pixel to mean zero and variance one, then scale and shift them.

    Example:
        >>> x = jnp.array([[1.0, 3.0], [5.0, 5.0]])
        >>> layer_norm(x, jnp.ones(2), jnp.zeros(2)).round(3).tolist()
        [[-1.0, 1.0], [0.0, 0.0]]
    """
    return (_trained_layer_norm if training else _layer_norm)(x, scale, bias)


def depthwise(x: Image, kernel: Float[jax.Array, "3 3 c"], training: bool = False) -> Image:
    """Convolve each channel with a kernel of its own, zeros outside.

    Example:
        >>> depthwise(jnp.ones((1, 4, 5, 2)), jnp.ones((3, 3, 2)))[0, 0, :, 0].tolist()
        [4.0, 6.0, 6.0, 6.0, 4.0]
    """
    return (_trained_depthwise if training else _depthwise)(x, kernel)


def _settled(x: jax.Array) -> jax.Array:
    """Have XLA take an array as given when it simplifies what follows, on CPUs."""
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


def _pixel_sum(x: jax.Array) -> jax.Array:
    """Sum over all axes but the last."""
    if x.ndim < 4:
        return x.reshape(-1, x.shape[-1]).sum(0)
    return jax.lax.platform_dependent(x, cpu=_sum_by_galaxy, default=lambda x: x.sum((0, 1, 2)))


def _sum_by_galaxy(x: jax.Array) -> jax.Array:
    """The same in a loop, whose input XLA has to compute once and before."""
    (ny, nx, channels), height = x.shape[1:], _block_height(x.shape[1])

    def add(galaxy, total):
        return total + sum(_part(x, galaxy, row, 0, (height, nx)) for row in range(0, ny, height))

    total = jnp.zeros((height, nx, channels), x.dtype)
    return jax.lax.fori_loop(0, len(x), add, total).sum((0, 1))


def _part(x: jax.Array, galaxy: Index, row: Index, column: int, shape: tuple[int, int]) -> jax.Array:
    """Cut a part out of one galaxy's image, in a way that XLA does not make a copy of the galaxy for."""
    return jax.lax.dynamic_slice(x, (galaxy, row, column, 0), (1, *shape, x.shape[-1]))[0]


def _block_height(rows: int) -> int:
    """Height of equal blocks of rows, whose sum XLA computes in one pass, as it does not sum along an axis."""
    return next(rows // blocks for blocks in range(min(PARTIAL_SUMS, rows), 0, -1) if rows % blocks == 0)


def _band_height(image: jax.Array) -> int:
    """Height of equal bands of rows that fit into the cache."""
    rows, row_bytes = image.shape[1], image.itemsize * image.shape[2] * image.shape[3]
    return next(
        (
            rows // bands
            for bands in range(1, rows)
            if rows % bands == 0 and rows // bands * row_bytes <= BAND_BYTES
        ),
        1,
    )


def _outer(x: jax.Array, y: jax.Array) -> jax.Array:
    """Sum of the outer products of pixels: x^T y. Twice as fast on CPUs with the narrower one first."""
    contracted = (((0,), (0,)), ((), ()))
    if x.shape[1] <= y.shape[1]:
        return jax.lax.dot_general(x, y, contracted)
    return jax.lax.dot_general(y, x, contracted).T


@jax.custom_vjp
def _trained_product(x, kernel):
    return jnp.matmul(x, kernel)


def _product_forward(x, kernel):
    return jnp.matmul(x, kernel), (x, kernel)


def _product_backward(saved, cotangent):
    x, kernel = saved
    return cotangent @ kernel.T, _outer(x, cotangent)


_trained_product.defvjp(_product_forward, _product_backward)


def _shifted(x, bias):
    return x + bias.reshape((1,) * (x.ndim - 1) + (-1,))


@jax.custom_vjp
def _trained_shifted(x, bias):
    return _shifted(x, bias)


def _shifted_forward(x, bias):
    return _shifted(x, bias), None


def _shifted_backward(_, cotangent):
    cotangent = _settled(cotangent)
    return cotangent, _pixel_sum(cotangent)


_trained_shifted.defvjp(_shifted_forward, _shifted_backward)


def _layer_norm(x, scale, bias):
    return _layer_norm_forward(x, scale, bias)[0]


@jax.custom_vjp
def _trained_layer_norm(x, scale, bias):
    return _layer_norm(x, scale, bias)


def _layer_norm_forward(x, scale, bias):
    wide = x.astype(scale.dtype)  # statistics at the precision of the parameters
    mean = wide.mean(-1, keepdims=True)
    variance = jnp.maximum((wide * wide).mean(-1, keepdims=True) - mean * mean, 0.0)
    per_sigma = jax.lax.rsqrt(variance + EPSILON)
    channels = (1,) * (x.ndim - 1) + (-1,)
    y = (wide - mean) * per_sigma * scale.reshape(channels) + bias.reshape(channels)
    return y, (x, mean, per_sigma, scale)


def _layer_norm_backward(saved, cotangent):
    x, mean, per_sigma, scale = saved
    cotangent, by_channel = _settled(cotangent), scale.reshape((1,) * (x.ndim - 1) + (-1,))
    normal = (x.astype(scale.dtype) - mean) * per_sigma
    of_scale = _settled(cotangent * normal)
    of_normal = cotangent * by_channel
    along = (of_scale * by_channel).mean(-1, keepdims=True)
    of_x = per_sigma * (of_normal - of_normal.mean(-1, keepdims=True) - normal * along)
    return of_x.astype(x.dtype), _pixel_sum(of_scale), _pixel_sum(cotangent)


_trained_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


def _depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _of_bordered(_bordered(x), kernel)


def _bordered(x: jax.Array) -> jax.Array:
    # Settled, or what comes before would be computed for each tap.
    return _settled(jnp.pad(_settled(x), ((0, 0), (1, 1), (1, 1), (0, 0))))


def _of_bordered(padded: jax.Array, kernel: jax.Array) -> jax.Array:
    """Sums of shifted images, as XLA has no fast depthwise convolution on CPUs."""
    ny, nx = padded.shape[1] - 2, padded.shape[2] - 2
    taps = (
        padded[:, i : i + ny, j : j + nx] * kernel[i, j][None, None, None] for i in range(3) for j in range(3)
    )
    return cast(jax.Array, sum(taps))


@jax.custom_vjp
def _trained_depthwise(x, kernel):
    return _depthwise(x, kernel)


def _depthwise_forward(x, kernel):
    return _depthwise(x, kernel), (x, kernel)


def _depthwise_backward(saved, cotangent):
    x, kernel = saved
    padded = _bordered(cotangent)
    of_kernel = jax.lax.platform_dependent(padded, x, cpu=_taps_by_band, default=_taps_at_once)
    return _of_bordered(padded, kernel[::-1, ::-1]), of_kernel[::-1, ::-1].astype(kernel.dtype)


_trained_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _taps_at_once(padded: jax.Array, image: jax.Array) -> jax.Array:
    ny, nx, channels = image.shape[1:]
    sums = [(padded[:, i : i + ny, j : j + nx] * image).sum((0, 1, 2)) for i in range(3) for j in range(3)]
    return jnp.stack(sums).reshape(3, 3, channels)


def _taps_by_band(padded: jax.Array, image: jax.Array) -> jax.Array:
    """Nine long sums, over a band of rows of one galaxy at a time, which stays in the cache."""
    n, ny, nx, channels = image.shape
    band = _band_height(image)
    bands, height = ny // band, _block_height(band)

    def add(number, sums):
        galaxy, first = number // bands, number % bands * band

        def tap(i, j):
            return sum(
                _part(padded, galaxy, first + row + i, j, (height, nx))
                * _part(image, galaxy, first + row, 0, (height, nx))
                for row in range(0, band, height)
            )

        return tuple(total + tap(k // 3, k % 3) for k, total in enumerate(sums))

    zeros = jnp.zeros((height, nx, channels), jnp.result_type(padded, image))
    sums = jax.lax.fori_loop(0, n * bands, add, (zeros,) * 9)
    return jnp.stack([total.sum((0, 1)) for total in sums]).reshape(3, 3, channels)
