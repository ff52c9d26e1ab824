"""Statistics of residuals, and of noise in their place, which :mod:`hiergal.posterior.fit_checks` compares.

Stamps are [s, n, y, x]: s draws, or s noise stamps, for each of n galaxies. Everything that is compared is computed by
one function, masks included, so that noise and residuals differ in nothing else.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from hiergal.model.prior import LatentFlow
from hiergal.model.trained import GalaxyModel
from hiergal.observation.observation import Observation
from hiergal.observation.psf import convolve
from hiergal.posterior.samplers.target import LatentPosterior
from hiergal.runtime.pytree import Array, brief

__all__ = [
    "DRAWS_PER_CALL",
    "FitStatistics",
    "RingWeights",
    "point_significance",
    "statistics_of_draws",
    "statistics_of_noise",
]

DRAWS_PER_CALL = 20  # stamps of each galaxy looked at together
LEAST_WEIGHT = 0.01  # of a point source, relative to that where it is seen best: beyond, none is looked for


class RingWeights(NamedTuple):
    """Rings of the Fourier plane (:func:`hiergal.measure.power_spectrum.rings_of`).

    Attributes:
        share: Share of each mode of the half plane in the mean of each ring, [half, bins].
        modes: Number of modes of each ring, [bins].
    """

    share: Array
    modes: Array

    __repr__ = brief


class FitStatistics(NamedTuple):
    """Statistics of stamps of galaxies.

    Attributes:
        squares: Sum of squares of the whitened residuals, [s, n].
        coherent: Largest significance of a point source, [s, n].
        power: Power in each ring over that of noise, [s, n, bins].
        spectrum: Largest deviation of these from one, over its error, [s, n].
        log_prior: Logarithm of the prior density of the latents, [s, n].
    """

    squares: Array
    coherent: Array
    power: Array
    spectrum: Array
    log_prior: Array

    __repr__ = brief


@jax.jit
def statistics_of_draws(
    model: GalaxyModel,
    observation: Observation,
    prior: LatentFlow,
    rings: RingWeights,
    z: Float[Array, "s n d"],
) -> FitStatistics:
    """Return the statistics of the residuals of draws of the latents, and the draws' prior density.

    Args:
        model: The model.
        observation: The galaxies.
        prior: Their priors.
        rings: Rings of frequency.
        z: Draws of the latents.
    """
    residual = LatentPosterior(model, observation, prior, jnp.ones(z.shape[1], z.dtype)).residual(z)
    whitened = residual.reshape(*z.shape[:2], *observation.image.shape[1:])
    return _statistics(whitened, observation, rings, prior.log_prob(z))


@partial(jax.jit, static_argnames="d")
def statistics_of_noise(
    observation: Observation, prior: LatentFlow, rings: RingWeights, keys: Array, block: Array | int, d: int
) -> FitStatistics:
    """Return the same of noise alone, and of draws from the prior: ``DRAWS_PER_CALL`` for each galaxy.

    Args:
        observation: The galaxies, whose noise, masks and PSFs are used.
        prior: Their priors.
        rings: Rings of frequency.
        keys: A PRNG key for each galaxy.
        block: Number of the block; each has other random numbers.
        d: Number of latents.
    """
    shape = observation.image.shape[1:]

    def fresh(noise, key):
        of_noise, of_base = jax.random.split(jax.random.fold_in(key, block))
        return noise.sample(of_noise, (DRAWS_PER_CALL, *shape)), jax.random.normal(
            of_base, (DRAWS_PER_CALL, d)
        )

    image, base = jax.vmap(fresh, out_axes=1)(observation.noise, keys)
    white = observation.noise.whiten(image, observation.mask)
    log_prior = prior.log_prob(prior.from_base(base))
    return _statistics(white, observation, rings, log_prior)


def _statistics(
    whitened: Array, observation: Observation, rings: RingWeights, log_prior: Array
) -> FitStatistics:
    mask = observation.mask
    used = jnp.ones(whitened.shape[1:], whitened.dtype) if mask is None else (~mask).astype(whitened.dtype)
    significance = point_significance(whitened, used, observation)
    spectrum = jnp.abs(jnp.fft.rfft2(whitened)) ** 2
    share = used.mean(axis=(-2, -1))
    pixels = whitened.shape[-2] * whitened.shape[-1]
    power = spectrum.reshape(*spectrum.shape[:2], -1) @ rings.share / (pixels * share[None, :, None])
    # The cube root of a mean of squares is nearly normal (Wilson & Hilferty 1931).
    spread = 2 / (9 * share[:, None] * rings.modes[None])
    deviations = (jnp.cbrt(power) - (1 - spread)[None]) / jnp.sqrt(spread)[None]
    return FitStatistics(
        squares=jnp.sum(whitened**2, axis=(-2, -1)),
        coherent=jnp.abs(significance).max(axis=(-2, -1)),
        power=power,
        spectrum=jnp.abs(deviations).max(axis=-1),
        log_prior=log_prior,
    )


def point_significance(
    whitened: Float[Array, "s n y x"], used: Float[Array, "n y x"], observation: Observation
) -> Float[jax.Array, "s n y x"]:
    """Return the flux of a point source at each pixel over its error, by least squares, for that source alone.

    With residuals r, the PSF s and the inverse covariance C it is s^T C r / sqrt(s^T C s). PSFs that the edge or the
    mask cuts have the error of what is left; with correlated noise, that of whole ones.

    Args:
        whitened: Whitened residuals.
        used: One where a pixel is used, else zero.
        observation: The galaxies, whose noise, masks and PSFs are used.
    """
    noise, psf, mask = observation.noise, observation.psf, observation.mask
    # Convolution with a PSF that is turned by half a circle is correlation with the PSF.
    turned = psf.replace(stamp=psf.stamp[..., ::-1, ::-1])
    flux = convolve(noise.unwhiten(whitened, mask), turned)
    if noise.independent_pixels:
        weight = convolve(noise.whiten(noise.whiten(used, mask), mask), turned.replace(stamp=turned.stamp**2))
    else:
        middle = tuple(size // 2 for size in used.shape[1:])
        point = convolve(jnp.zeros_like(used).at[:, *middle].set(1.0), psf)
        weight = jnp.broadcast_to(noise.chi_square(point)[:, None, None], used.shape)
    seen = weight > LEAST_WEIGHT * weight.max(axis=(-2, -1), keepdims=True)
    return jnp.where(seen[None], flux / jnp.sqrt(jnp.where(seen, weight, 1.0))[None], 0.0)
