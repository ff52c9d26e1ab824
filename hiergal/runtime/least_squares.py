"""Nonlinear least squares for many small problems at once: Levenberg-Marquardt steps, and the Gaussian at the mode."""

from collections.abc import Callable
from functools import reduce

import jax
import jax.numpy as jnp
from jaxtyping import Float

from hiergal.runtime.pytree import Array, Record, record

__all__ = [
    "GaussianPosterior",
    "widen",
    "levenberg_marquardt",
]

Residual = Callable[[Float[jax.Array, "n d"]], Float[jax.Array, "n pixels"]]
ToBase = Callable[[Float[jax.Array, "n d"]], Float[jax.Array, "n d"]]


@record
class GaussianPosterior(Record):
    """Gaussian approximation to the posterior of the latents of each galaxy.

    Attributes:
        mean: Means, [n, d].
        scale: Square roots S of the covariances, covariance = S S^T, upper triangular, [n, d, d].
        residual: Whitened residuals at the mean, [n, pixels].
        base: Base variables at the mean, [n, d].
        projection: Rows of Q^T = (J S)^T, orthonormal: how residuals of data and prior together change with each of the
            d standard deviations, [n, d, pixels + d].
    """

    mean: Float[jax.Array, "n d"]
    scale: Float[jax.Array, "n d d"]
    residual: Float[jax.Array, "n pixels"]
    base: Float[jax.Array, "n d"]
    projection: Float[jax.Array, "n d k"]

    def latents(self, v: Float[Array, "s n d"]) -> Float[jax.Array, "s n d"]:
        """Return latents that are v standard deviations from the mean: unit-normal v make draws."""
        return self.mean[None] + jnp.einsum("nij,snj->sni", self.scale, v)

    def standardized(self, z: Float[Array, "s n d"]) -> Float[jax.Array, "s n d"]:
        """Return latents in standard deviations from the mean, the inverse of :meth:`latents`."""
        away = jnp.moveaxis(z - self.mean[None], 0, -1)
        return jnp.moveaxis(jax.scipy.linalg.solve_triangular(self.scale, away), -1, 0)

    @property
    def leverage(self) -> Float[jax.Array, "n pixels"]:
        """Leverage of each pixel: the diagonal of J covariance J^T."""
        return jnp.sum(self.projection[..., : self.residual.shape[-1]] ** 2, axis=1)

    @property
    def remaining(self) -> Float[jax.Array, "n"]:
        """Length of one more Gauss-Newton step [standard deviations]: zero at the mode."""
        both = jnp.concatenate([self.residual, self.base], axis=-1)
        return jnp.linalg.norm(jnp.einsum("nip,np->ni", self.projection, both), axis=-1)


def levenberg_marquardt(
    residual: Residual,
    start: Float[jax.Array, "n d"],
    *,
    steps: int,
    to_base: ToBase = lambda z: z,
    loop: bool = False,
) -> GaussianPosterior:
    """Find the mode of each galaxy's posterior and its curvature there.

    Args:
        residual: Whitened residuals for latents; galaxy i may depend on the latents of galaxy i alone.
        start: Latents to start from, the guide's means.
        steps: Number of damped Gauss-Newton steps; a step that does not raise the posterior is not taken, and the
            next is more careful.
        to_base: Map from latents to base variables that are unit normal a priori; default the latents themselves.
        loop: Whether to compile one step and repeat it. Networks are slower that way: XLA runs convolutions inside
            loops on one core.

    Example:
        >>> posterior = levenberg_marquardt(lambda z: 2.0 * (z - 1.0), jnp.zeros((1, 1)), steps=5)
        >>> round(float(posterior.mean[0, 0]), 3), round(float(posterior.scale[0, 0, 0] ** 2), 3)
        (0.8, 0.2)
    """
    d = start.shape[-1]
    identity = jnp.eye(d, dtype=start.dtype)[None]

    def expand(z):
        """Residuals of data and prior, [n, pixels + d], and their Jacobian [n, d, pixels + d], in one sweep."""
        tangents = jnp.broadcast_to(jnp.eye(d, dtype=z.dtype)[:, None], (d, *z.shape))
        both, pushforward = jax.linearize(lambda z: jnp.concatenate([residual(z), to_base(z)], axis=-1), z)
        return both, jax.vmap(pushforward)(tangents).swapaxes(0, 1)

    def step(_, state):
        z, r, jacobian, damping = state
        hessian = jnp.einsum("nip,njp->nij", jacobian, jacobian)
        gradient = jnp.einsum("nip,np->ni", jacobian, r)
        damped = hessian + damping[:, None, None] * hessian * identity
        trial = z - jnp.linalg.solve(damped, gradient[..., None])[..., 0]
        trial_r, trial_jacobian = expand(trial)
        better = jnp.sum(trial_r**2, -1) <= jnp.sum(r**2, -1)
        return (
            jnp.where(better[:, None], trial, z),
            jnp.where(better[:, None], trial_r, r),
            jnp.where(better[:, None, None], trial_jacobian, jacobian),
            jnp.where(better, damping / 10, damping * 10),
        )

    state = start, *expand(start), jnp.full(start.shape[:1], 1e-2, start.dtype)
    if loop:
        z, r, jacobian, _ = jax.lax.fori_loop(0, steps, step, state)
    else:
        z, r, jacobian, _ = reduce(lambda state, i: step(i, state), range(steps), state)
    scale = _inverse_factor(jacobian)
    projection = jnp.einsum("nij,nip->njp", scale, jacobian)
    return GaussianPosterior(z, scale, r[:, :-d], r[:, -d:], projection)


def widen(posterior: GaussianPosterior, factor: Float[jax.Array, "n"]) -> GaussianPosterior:
    """Return the posterior for noise of a larger variance, where the prior counts for more.

    Args:
        posterior: What :func:`levenberg_marquardt` found; not touched where the factor is one.
        factor: Factors on the variance of the noise of each galaxy.

    Example:
        >>> posterior = levenberg_marquardt(lambda z: 2.0 * (z - 1.0), jnp.zeros((1, 1)), steps=5)
        >>> wider = widen(posterior, jnp.array([4.0]))
        >>> round(float(wider.mean[0, 0]), 3), round(float(wider.scale[0, 0, 0] ** 2), 3)
        (0.5, 0.5)
    """
    d = posterior.base.shape[-1]
    shrink = jax.lax.rsqrt(factor)[:, None]
    q = posterior.projection
    q = jnp.concatenate([q[..., :-d] * shrink[..., None], q[..., -d:]], axis=-1)
    change = _inverse_factor(q)  # with J = Q S^(-1), what turns S into the new scale
    q = jnp.einsum("nij,nip->njp", change, q)
    residual = posterior.residual * shrink
    scale = posterior.scale @ change
    gradient = jnp.einsum("nip,np->ni", q, jnp.concatenate([residual, posterior.base], axis=-1))
    mean = posterior.mean - jnp.einsum("nij,nj->ni", scale, gradient)  # one Gauss-Newton step
    wider = GaussianPosterior(mean, scale, residual, posterior.base, q)
    changed = factor != 1
    return jax.tree.map(
        lambda new, old: jnp.where(changed.reshape(-1, *[1] * (old.ndim - 1)), new, old), wider, posterior
    )


def _inverse_factor(jacobian: Float[jax.Array, "n d k"]) -> Float[jax.Array, "n d d"]:
    """Return S, upper triangular with a positive diagonal, for which S S^T is the inverse of J^T J.

    By the QR decomposition: J^T J of a bright galaxy has no inverse in single precision.
    """
    factor = jnp.linalg.qr(jacobian.swapaxes(-1, -2), mode="r")
    identity = jnp.eye(factor.shape[-1], dtype=factor.dtype)
    scale = jax.scipy.linalg.solve_triangular(factor, jnp.broadcast_to(identity, factor.shape))
    return scale * jnp.sign(jnp.diagonal(factor, axis1=-2, axis2=-1))[:, None]
