"""Scenes: several galaxies on one stamp, each with the learned prior (Lanusse et al. 2020, Fig. 2, with a plate more).

    z_ik ~ Normal(0, 1)                                     latents of source k of scene i
    I_ik = g(z_ik)                                          its light profile
    x_i ~ Normal(sum_k PSF_i * shift(I_ik, p_ik), Sigma_i)  observed scene

Positions are (x, y) of the centre of a source's profile, from the centre of the scene [pixels], as ``x_pix`` and
``y_pix`` elsewhere. A profile is moved by the phase of its Fourier transform, together with the PSF: exactly, by any
part of a pixel, conserving its flux; light that leaves the scene is lost.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Float
from numpyro.contrib.module import flax_module
from scipy.fft import next_fast_len

from hiergal.model.likelihood import NoisyImage
from hiergal.model.weights import warn_of_new_weights
from hiergal.observation.observation import Observation
from hiergal.observation.psf import PSF
from hiergal.runtime.pytree import Array

__all__ = ["render_sources", "scene_model"]


def scene_model(
    observation: Observation,
    positions: Float[Array, "n k 2"],
    *,
    generator: nn.Module,
    latents: int,
    shape: tuple[int, int],
    profile_fwhm_arcsec: float = 0.0,
    position_error_pix: float = 0.0,
) -> None:
    """State how scenes come about, as a NumPyro program.

    Args:
        observation: Scenes; with ``image=None`` they are simulated.
        positions: Where the sources are [pixels].
        generator: Network from latents [n, d] to light profiles [n, y, x].
        latents: Number of latents d.
        shape: (ny, nx) of the scenes.
        profile_fwhm_arcsec: As for :class:`~hiergal.observation.psf.PSF` [arcsec].
        position_error_pix: Standard deviation of the positions, along each axis; 0 if they are known [pixels].

    Example:
        >>> Predictive(scene_model, num_samples=1)(key, scenes.replace(image=None), positions, ...)  # doctest: +SKIP
    """
    warn_of_new_weights("generator$params")
    g = flax_module("generator", generator, jnp.zeros((1, latents)))
    n, k = positions.shape[:2]
    with numpyro.plate("scenes", n, dim=-2), numpyro.plate("sources", k, dim=-1):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([latents]).to_event(1))
        at = jnp.asarray(positions)
        if position_error_pix:
            at = at + numpyro.sample("offset", dist.Normal(0, position_error_pix).expand([2]).to_event(1))
    profile = g(z.reshape(n * k, latents))
    profile = numpyro.deterministic("profile", profile.reshape(n, k, *profile.shape[1:]))
    psf = observation.psf.replace(profile_fwhm_arcsec=profile_fwhm_arcsec)
    mean = render_sources(profile, at, psf, shape).sum(axis=1)
    with numpyro.plate("images", n):
        numpyro.sample("image", NoisyImage(mean, observation.noise, observation.mask), obs=observation.image)


def render_sources(
    profile: Float[Array, "*s n k y x"],
    positions: Float[Array, "*s n k 2"],
    psf: PSF,
    shape: tuple[int, int],
) -> Float[jax.Array, "*s n k v u"]:
    """Show each source of scenes at its place, through the scene's PSF.

    Args:
        profile: Unconvolved profiles [flux per pixel], on the pixel scale of the scene.
        positions: Their centres (x, y), from the centre of the scene [pixels].
        psf: The PSF of each scene.
        shape: (ny, nx) of the scenes.

    Returns:
        Noise-free images of each source alone [flux per pixel]; their sum over k is the scene.

    Example:
        >>> psf = PSF(np.array([[[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]]), pixel_scale_arcsec=0.03)
        >>> point = jnp.zeros((1, 1, 5, 5)).at[0, 0, 2, 2].set(1.0)
        >>> image = render_sources(point, jnp.array([[[2.0, -1.0]]]), psf, (7, 9))
        >>> float(image[0, 0, 2, 6].round(4))
        1.0
    """
    ny, nx = profile.shape[-2:]
    sizes = zip(shape, (ny, nx), psf.stamp.shape[-2:], strict=True)
    # Room for a profile whose centre is on the edge of the scene, and for the PSF around it: nothing wraps into view.
    grid = tuple(next_fast_len(scene + size + stamp, real=True) for scene, size, stamp in sizes)
    spectrum = jnp.fft.rfft2(profile, s=grid)
    transfer = psf.transfer(grid)[:, None]
    corner = jnp.asarray([(shape[1] - nx) / 2, (shape[0] - ny) / 2], profile.dtype)
    move = positions + jnp.broadcast_to(corner, positions.shape)
    phase_x = _phase(move[..., 0], np.fft.rfftfreq(grid[1]))[..., None, :]
    phase_y = _phase(move[..., 1], np.fft.fftfreq(grid[0]))[..., :, None]
    moved = spectrum * phase_x * phase_y * jnp.broadcast_to(transfer, spectrum.shape)
    return jnp.fft.irfft2(moved, s=grid)[..., : shape[0], : shape[1]]


def _phase(move: jax.Array, frequency: np.ndarray) -> jax.Array:
    turns = jnp.einsum("...,f->...f", move, jnp.asarray(frequency, move.dtype), precision="highest")
    return jnp.exp(-2j * np.pi * turns)
