"""Steps of the guide's means through the known physics, with the guide's own covariance as their metric.

One pass of a network finds the neighbourhood of a posterior, not its mode: the noise of a bright galaxy is far smaller
than what an encoder can regress, and with hundreds of latents the error of each adds up. The guide already says how the
posterior of a galaxy is curved, so a Newton step with its covariance S in place of the inverse Hessian,

    m  ->  m - a S grad(-log p(x, z)),

takes one gradient; how far to go, a, follows from one more look along that line. Guides that a network starts and
gradients finish are semi-amortised (Marino et al. 2018, arXiv:1807.09356; Kim et al. 2018, arXiv:1802.02550). Training
does not look through the steps: means are moved by a constant, scales learn as ever.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Float

from hiergal.model.guide import posterior_from
from hiergal.model.leading_normal import LeadingNormal
from hiergal.observation.noise import count_unmasked
from hiergal.observation.observation import Observation
from hiergal.recipe.config import Covariance

__all__ = ["refined"]

LONGEST_STEP = 2.0  # of an element, in standard deviations of the guide
FARTHEST = 1.5  # times the step


def refined(
    outputs: Float[jax.Array, "n outputs"],
    observation: Observation,
    image_of: Callable[[Float[jax.Array, "n d"]], Float[jax.Array, "n y x"]],
    covariance: Covariance,
    steps: int,
) -> Float[jax.Array, "n outputs"]:
    """Return the outputs of a guide's network with means that are nearer to the modes of the posteriors.

    Args:
        outputs: What the network says: see :func:`hiergal.model.guide.posterior_from`.
        observation: What it was said of.
        image_of: Noise-free images for latents; image i may depend on the latents of galaxy i alone.
        covariance: Structure of the guide's covariance.
        steps: Number of steps, each of one gradient and one further image.

    The prior is the unit normal of training, and misfit counts as noise, as it may in training
    (:class:`~hiergal.model.likelihood.NoisyImage`).
    """
    image, mask = jnp.asarray(observation.image), observation.mask
    pixels = jnp.maximum(1, count_unmasked(image.shape, mask))
    fixed = jax.lax.stop_gradient(outputs)

    def residual(z: jax.Array) -> jax.Array:
        return observation.noise.whiten(image_of(z) - image, mask).reshape(len(z), -1)

    def inner(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.sum(a * b, axis=-1)

    for _ in range(steps):
        q = posterior_from(fixed, covariance)
        z = q.mean
        r, pull = jax.vjp(residual, z)
        misfit = jnp.maximum(1.0, inner(r, r) / pixels)
        step = -_newton(q, pull(r)[0] / misfit[:, None] + z)
        change = residual(z + step) - r
        # Where a parabola through the residuals along the line is lowest.
        along = (inner(r, change) / misfit + inner(z, step)) / jnp.maximum(
            inner(change, change) / misfit + inner(step, step), 1e-12
        )
        far = jnp.clip(-along, 0.0, FARTHEST)[:, None] * step
        far = jnp.where(jnp.isfinite(far).all(axis=-1, keepdims=True), far, 0.0)
        fixed = fixed.at[:, : z.shape[-1]].add(jax.lax.stop_gradient(far))
    moved = jax.lax.stop_gradient(fixed - outputs)
    return outputs + moved


def _newton(q: dist.Distribution, gradient: Float[jax.Array, "n d"]) -> Float[jax.Array, "n d"]:
    """The covariance of q times a gradient, no element of which is longer than some standard deviations."""

    def short(along: jax.Array) -> jax.Array:
        return LONGEST_STEP * jnp.tanh(along / LONGEST_STEP)

    if isinstance(q, dist.Independent):
        scale = jnp.sqrt(q.variance)
        return scale * short(scale * gradient)
    factor, scale = (q.scale_tril, q.scale) if isinstance(q, LeadingNormal) else (q.scale_tril, None)
    g = factor.shape[-1]
    first = jnp.einsum("nij,ni->nj", factor, gradient[:, :g])
    first = jnp.einsum("nij,nj->ni", factor, short(first))
    if scale is None:
        return first
    return jnp.concatenate([first, scale * short(scale * gradient[:, g:])], axis=-1)
