"""Sharpening the guide: Gauss-Newton steps through the known physics, and the posterior's curvature.

One pass of a network finds the neighbourhood of the posterior, not its mode: the noise of a bright galaxy is far
smaller than what an encoder can regress. But the likelihood of Eqs. (4)-(5) is a least-squares problem in the
whitened residual r(z) = Sigma^(-1/2) (x - PSF * g(z)), whose Jacobian J costs d forward passes. From the guide's
mean, damped Gauss-Newton steps (Levenberg-Marquardt) reach the mode of r^2/2 + z^2/2, where the Laplace
approximation of the posterior is Normal(z, (1 + J^T J)^(-1)): full covariance, exact for a linear generator.

Where the generator cannot reproduce a galaxy, that covariance is too small: see :func:`misfit`.
"""

from collections.abc import Callable
from functools import reduce

import jax
import jax.numpy as jnp
from jaxtyping import Float

from hiergal.psf import PSF
from hiergal.records import Record, record

__all__ = ["GaussianPosterior", "misfit", "sharpen"]

Residual = Callable[[Float[jax.Array, "n d"]], Float[jax.Array, "n pixels"]]


@record
class GaussianPosterior(Record):
    """Gaussian approximation to the posterior of the latents of each galaxy.

    Attributes:
        mean: Means, [n, d].
        scale: Square roots S of the covariances, covariance = S S^T, [n, d, d].
        residual: Whitened residuals at the mean, [n, pixels].
        leverage: How much each pixel determines the fit: the diagonal of J covariance J^T, [n, pixels].
    """

    mean: Float[jax.Array, "n d"]
    scale: Float[jax.Array, "n d d"]
    residual: Float[jax.Array, "n pixels"]
    leverage: Float[jax.Array, "n pixels"]


def sharpen(
    residual: Residual, start: Float[jax.Array, "n d"], *, steps: int, loop: bool = False
) -> GaussianPosterior:
    """Find the mode of each galaxy's posterior and its curvature there.

    Args:
        residual: Whitened residuals for latents; galaxy i may depend on the latents of galaxy i alone.
        start: Latents to start from, the guide's means.
        steps: Number of damped Gauss-Newton steps; a step that does not raise the posterior is not taken, and the
            next is more careful.
        loop: Whether to compile one step and repeat it. Networks are slower that way: XLA runs convolutions inside
            loops on one core.

    Example:
        >>> posterior = sharpen(lambda z: 2.0 * (z - 1.0), jnp.zeros((1, 1)), steps=5)
        >>> round(float(posterior.mean[0, 0]), 3), round(float(posterior.scale[0, 0, 0] ** 2), 3)
        (0.8, 0.2)
    """
    d = start.shape[-1]
    identity = jnp.eye(d, dtype=start.dtype)[None]

    def expand(z):
        """Residual, Jacobian [n, d, pixels] in one sweep of d tangents."""
        tangents = jnp.broadcast_to(jnp.eye(d, dtype=z.dtype)[:, None], (d, *z.shape))
        r, pushforward = jax.linearize(residual, z)
        return r, jax.vmap(pushforward)(tangents).swapaxes(0, 1)

    def loss(z, r):
        return 0.5 * (jnp.sum(r**2, -1) + jnp.sum(z**2, -1))

    def curvature(jacobian):
        return jnp.einsum("nip,njp->nij", jacobian, jacobian) + identity

    def step(_, state):
        z, r, jacobian, damping = state
        hessian = curvature(jacobian)
        gradient = jnp.einsum("nip,np->ni", jacobian, r) + z
        damped = hessian + damping[:, None, None] * hessian * identity
        trial = z - jnp.linalg.solve(damped, gradient[..., None])[..., 0]
        trial_r, trial_jacobian = expand(trial)
        better = loss(trial, trial_r) <= loss(z, r)
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
    scale = jnp.linalg.inv(jnp.linalg.cholesky(curvature(jacobian))).swapaxes(-1, -2)
    leverage = jnp.sum(jnp.einsum("nij,nip->njp", scale, jacobian) ** 2, axis=1)
    return GaussianPosterior(mean=z, scale=scale, residual=r, leverage=leverage)


def misfit(posterior: GaussianPosterior, psf: PSF, shape: tuple[int, int]) -> Float[jax.Array, "n"]:
    """Return the factor by which a galaxy's residuals, where they matter, exceed what noise explains.

    Misfit of a generator is coherent over a PSF, and noise, once whitened, is not: the whitened residuals are smoothed
    with the PSF, scaled to unit variance for white noise, squared, and averaged with the leverage as weight. For a
    generator that fits, the expectation is one or less (the fit absorbs part of the noise); above one, it is the
    factor by which to scale the covariance (Birge 1932, Phys. Rev. 40, 207).

    Args:
        posterior: What :func:`sharpen` found.
        psf: The PSFs of the galaxies.
        shape: (ny, nx) of the stamps.
    """
    grid = tuple(max(stamp, kernel) for stamp, kernel in zip(shape, psf.stamp.shape[-2:], strict=True))
    spectrum = jnp.fft.rfft2(posterior.residual.reshape(-1, *shape), s=grid) * psf.transfer(grid)
    smooth = jnp.fft.irfft2(spectrum, s=grid)[..., : shape[0], : shape[1]].reshape(posterior.residual.shape)
    variance = jnp.sum(psf.stamp**2, axis=(-2, -1))
    weight = posterior.leverage / jnp.maximum(
        posterior.leverage.sum(-1, keepdims=True), jnp.finfo(smooth.dtype).tiny
    )
    return jnp.sum(weight * smooth**2, axis=-1) / variance
