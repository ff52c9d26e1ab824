"""Mode finding from the guide: Gauss-Newton steps through the known physics, and the posterior's curvature.

One pass of a network finds the neighbourhood of the posterior, not its mode: the noise of a bright galaxy is far
smaller than what an encoder can regress. But the likelihood of Eqs. (4)-(5) is a least-squares problem in the
whitened residual r(z) = Sigma^(-1/2) (x - PSF * g(z)), and so is the prior in the base variables u(z) of its flow,
which are unit normal: their Jacobians cost d forward passes. From the guide's mean, damped Gauss-Newton steps
(Levenberg-Marquardt) reach the minimum of r^2/2 + u^2/2, where with J = d(r, u)/dz the Laplace approximation of the
posterior is Normal(z, (J^T J)^(-1)): full covariance, exact for a linear generator and a unit-normal prior (u = z).

Latents, not base variables, are where posteriors of bright galaxies are nearly Gaussian: the flow bends the space on
scales that are large for such a posterior's width in one direction, and small for its length in another.

Where the generator cannot reproduce a galaxy, that covariance is too small: see :func:`misfit`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from hiergal.observation.psf import PSF
from hiergal.runtime.least_squares import GaussianPosterior
from hiergal.runtime.pytree import brief

__all__ = [
    "Misfit",
    "misfit",
]


class Misfit(NamedTuple):
    """Misfit: residuals in excess of the noise.

    Attributes:
        factor: By how much residuals exceed what noise explains, where they matter, [n].
        error: Standard deviation of that for a generator that fits, [n].
    """

    factor: Float[jax.Array, "n"]
    error: Float[jax.Array, "n"]

    __repr__ = brief


def misfit(posterior: GaussianPosterior, psf: PSF, shape: tuple[int, int]) -> Misfit:
    """Return the factor by which a galaxy's residuals, where they matter, exceed what noise explains.

    Misfit of a generator is coherent over a PSF, and noise, once whitened, is not: the whitened residuals are smoothed
    with the PSF, scaled to unit variance for white noise, squared, and averaged with the leverage as weight. For a
    generator that fits, the expectation is one or less (the fit absorbs part of the noise); above one, it is the
    factor by which to scale the covariance (Birge 1932, Phys. Rev. 40, 207).

    Args:
        posterior: What :func:`levenberg_marquardt` found.
        psf: The PSFs of the galaxies.
        shape: (ny, nx) of the stamps.
    """
    smooth = _smoothed(posterior.residual, psf, shape)
    variance = jnp.sum(psf.stamp**2, axis=(-2, -1))
    weight = posterior.leverage / jnp.maximum(
        posterior.leverage.sum(-1, keepdims=True), jnp.finfo(smooth.dtype).tiny
    )
    factor = jnp.sum(weight * smooth**2, axis=-1) / variance
    # The variance of a weighted sum of squares of unit normals is twice the weighted sum over pairs of their squared
    # correlations; for white noise smoothed with a Gaussian PSF those are PSF / (2 sum PSF^2).
    together = jnp.maximum(1.0, 0.5 / variance)
    spread = jnp.sum(weight * _smoothed(weight, psf, shape), axis=-1) * together
    return Misfit(factor, jnp.sqrt(2 * jnp.maximum(spread, 0.0)))


def _smoothed(
    image: Float[jax.Array, "n pixels"], psf: PSF, shape: tuple[int, int]
) -> Float[jax.Array, "n pixels"]:
    py, px = psf.stamp.shape[-2:]
    grid = max(shape[0], py), max(shape[1], px)
    spectrum = jnp.fft.rfft2(image.reshape(-1, *shape), s=grid) * psf.transfer(grid)
    return jnp.fft.irfft2(spectrum, s=grid)[..., : shape[0], : shape[1]].reshape(image.shape)
