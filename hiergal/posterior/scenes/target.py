"""What deblending works on: the joint posterior of the sources of a scene, and where its mode is searched from.

All latents of a scene, and the offsets of its sources where positions are uncertain, are one vector t. The search
starts from the guide, which sees each source's surroundings: first the fainter of each pixel and its mirror image about
the source, then with the others subtracted.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from hiergal.model.guide import posterior_from
from hiergal.model.prior import Prior
from hiergal.model.trained import GalaxyModel
from hiergal.observation.independent import WhiteNoise
from hiergal.observation.observation import Observation
from hiergal.posterior.scenes.program import render_sources
from hiergal.runtime.pytree import Array, Record, record, static

__all__ = ["SceneProblem", "start_of"]

ROUNDS = 3  # of the guide
FARTHEST = 3.0  # of latents at the start


@record
class SceneProblem(Record):
    """The joint posterior of the sources of n scenes, as a function of one vector t for each.

    Attributes:
        model: A trained model.
        observation: The scenes.
        prior: Prior of each source, n k rows.
        positions: Where the sources are [pixels].
        variance_factor: Factor on the noise variance of each scene.
        position_error_pix: Standard deviation of the positions; 0 if they are known [pixels].
    """

    model: GalaxyModel
    observation: Observation
    prior: Prior
    positions: Float[Array, "n k 2"]
    variance_factor: Float[Array, "n"]
    position_error_pix: float = static(default=0.0)

    def latents(self, t: Float[Array, "*s n t"]) -> Float[jax.Array, "*s n k d"]:
        """Return the latents of each source."""
        k, d = self.positions.shape[1], self.model.recipe.generator.latents
        return t[..., : k * d].reshape(*t.shape[:-1], k, d)

    def places(self, t: Float[Array, "*s n t"]) -> Float[jax.Array, "*s n k 2"]:
        """Return the positions of each source [pixels]."""
        k, d = self.positions.shape[1], self.model.recipe.generator.latents
        known = jnp.broadcast_to(jnp.asarray(self.positions), (*t.shape[:-1], k, 2))
        if not self.position_error_pix:
            return known
        return known + self.position_error_pix * t[..., k * d :].reshape(known.shape)

    def profiles(self, t: Float[Array, "*s n t"]) -> Float[jax.Array, "*s n k y x"]:
        """Return the light profiles of each source [flux per pixel]."""
        z = self.latents(t)
        profile = self.model.decode(z.reshape(-1, z.shape[-1]))
        return profile.reshape(*z.shape[:-1], *profile.shape[1:])

    def sources(self, t: Float[Array, "*s n t"]) -> Float[jax.Array, "*s n k v u"]:
        """Return the noise-free image of each source [flux per pixel]."""
        psf = self.observation.psf.replace(profile_fwhm_arcsec=self.model.recipe.profile_fwhm_arcsec)
        return render_sources(self.profiles(t), self.places(t), psf, self.observation.image.shape[1:])

    def residual(self, t: Float[Array, "*s n t"]) -> Float[jax.Array, "*s n pixels"]:
        """Return whitened residuals of the scene."""
        scene = self.sources(t).sum(axis=-3)
        difference = scene - jnp.broadcast_to(self.observation.image, scene.shape)
        whitened = self.observation.noise.whiten(difference, self.observation.mask)
        scale = jnp.broadcast_to(jnp.sqrt(self.variance_factor)[:, None, None], whitened.shape)
        return (whitened / scale).reshape(*t.shape[:-1], -1)

    def base(self, t: Float[Array, "*s n t"]) -> Float[jax.Array, "*s n t"]:
        """Return variables that are unit normal a priori."""
        z = self.latents(t)
        n, k, d = z.shape[-3:]
        u = self.prior.to_base(z.reshape(*z.shape[:-3], n * k, d))[0]
        return jnp.concatenate([u.reshape(*t.shape[:-1], k * d), t[..., k * d :]], axis=-1)


def start_of(problem: SceneProblem) -> Float[jax.Array, "n t"]:
    """Ask the guide about each source alone, and return the best of what it says for the scene together.

    First each pixel is replaced by its mirror image about the source if that is fainter, which removes most of the
    neighbours' light; then the other sources, as they were found, are subtracted, some times. What the guide says is
    not taken where it fits the scene worse than latents of zero.
    """
    model, scene = problem.model, problem.observation
    n, k = problem.positions.shape[:2]
    ny, nx = model.recipe.shape
    whole = jnp.round(jnp.asarray(problem.positions)).astype(
        int
    )  # the rest of a pixel is the latents' to find
    hidden = jnp.zeros(scene.image.shape, bool) if scene.mask is None else jnp.asarray(scene.mask)
    image = jnp.where(hidden, 0.0, jnp.asarray(scene.image))
    level = jnp.repeat(jnp.asarray(scene.noise.rms()), k)
    psf = scene.psf.replace(stamp=jnp.repeat(jnp.asarray(scene.psf.stamp), k, axis=0))
    offsets = jnp.zeros((n, 2 * k if problem.position_error_pix else 0), image.dtype)
    on_pixels = problem.replace(positions=whole.astype(image.dtype))
    masks = _cut(jnp.broadcast_to(hidden[:, None], (n, k, *hidden.shape[1:])), whole, (ny, nx), True)
    size = k * model.recipe.generator.latents + offsets.shape[1]
    best, others = jnp.zeros((n, size), image.dtype), 0.0
    least = _away(problem, best)
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
        away = _away(problem, t)
        best, least = jnp.where((away < least)[:, None], t, best), jnp.minimum(away, least)
        images = on_pixels.sources(best)
        others = images.sum(axis=1, keepdims=True) - images
    return best


def _away(problem: SceneProblem, t: jax.Array) -> jax.Array:
    """Twice the negative logarithm of the posterior, but for a constant."""
    away = jnp.sum(problem.residual(t) ** 2, -1) + jnp.sum(problem.base(t) ** 2, -1)
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
