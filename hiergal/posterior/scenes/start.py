"""Starting points of the search for the mode of the joint posterior of the sources of a scene.

The search starts from the guide, which sees each source's surroundings: first the fainter of each pixel and its mirror
image about the source, then with the others subtracted.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from hiergal.model.guide import posterior_from
from hiergal.observation.independent import WhiteNoise
from hiergal.observation.observation import Observation
from hiergal.posterior.samplers.target import LatentPosterior

__all__ = ["start_of"]

ROUNDS = 3  # of the guide
FARTHEST = 3.0  # of latents at the start


def start_of(density: LatentPosterior) -> Float[jax.Array, "n t"]:
    """Return the start of the search: the guide's modes of each source alone, where these fit the scene together.

    First each pixel is replaced by its mirror image about the source if that is fainter, which removes most of the
    neighbours' light; then the other sources, as they were found, are subtracted, several times. What the guide says is
    not taken where it fits the scene worse than latents of zero.
    """
    model, scene = density.model, density.observation
    assert density.positions is not None
    n, k = density.positions.shape[:2]
    ny, nx = model.recipe.shape
    whole = jnp.round(jnp.asarray(density.positions)).astype(
        int
    )  # the rest of a pixel is the latents' to find
    hidden = jnp.zeros(scene.image.shape, bool) if scene.mask is None else jnp.asarray(scene.mask)
    image = jnp.where(hidden, 0.0, jnp.asarray(scene.image))
    level = jnp.repeat(jnp.asarray(scene.noise.rms()), k)
    psf = scene.psf.replace(stamp=jnp.repeat(jnp.asarray(scene.psf.stamp), k, axis=0))
    offsets = jnp.zeros((n, 2 * k if density.position_error_pix else 0), image.dtype)
    on_pixels = density.replace(positions=whole.astype(image.dtype))
    masks = _cut(jnp.broadcast_to(hidden[:, None], (n, k, *hidden.shape[1:])), whole, (ny, nx), True)
    size = k * model.recipe.generator.latents + offsets.shape[1]
    best, others = jnp.zeros((n, size), image.dtype), 0.0
    least = _away(density, best)
    for number in range(ROUNDS):
        left = jnp.broadcast_to(image[:, None] - others, (n, k, *image.shape[1:]))
        stamps = _cut(left, whole, (ny, nx), 0.0)
        if number == 0:
            stamps = jnp.minimum(stamps, stamps[..., ::-1, ::-1])
        seen = Observation(
            stamps.reshape(n * k, ny, nx),
            psf,
            WhiteNoise(level),
            masks.reshape(n * k, ny, nx),
            {},
            jnp.arange(n * k),
            scene.pixel_scale_arcsec,
        )
        z = posterior_from(model.encode(seen), model.recipe.covariance).mean
        z = jnp.clip(jnp.nan_to_num(z), -FARTHEST, FARTHEST).reshape(n, -1)
        t = jnp.concatenate([z, offsets], axis=-1)
        away = _away(density, t)
        best, least = jnp.where((away < least)[:, None], t, best), jnp.minimum(away, least)
        images = on_pixels.sources(best)
        others = images.sum(axis=1, keepdims=True) - images
    return best


def _away(density: LatentPosterior, t: jax.Array) -> jax.Array:
    """Twice the negative logarithm of the posterior, up to a constant."""
    away = jnp.sum(density.residual(t) ** 2, -1) + jnp.sum(density.base(t) ** 2, -1)
    return jnp.nan_to_num(away, nan=jnp.inf)


def _cut(image: jax.Array, whole: jax.Array, shape: tuple[int, int], outside: float | bool) -> jax.Array:
    """Stamps around each source, [n, k, y, x]."""
    ny, nx = shape
    image = jnp.pad(image, [(0, 0), (0, 0), (ny, ny), (nx, nx)], constant_values=outside)
    sy, sx = (size - 2 * side for size, side in zip(image.shape[-2:], shape, strict=True))

    def one(plane, at):
        first = (ny + (sy - ny) // 2 + at[1], nx + (sx - nx) // 2 + at[0])
        return jax.lax.dynamic_slice(plane, first, shape)

    return jax.vmap(jax.vmap(one))(image, whole)
