"""Images of several sources on one stamp: where each is, seen through the PSF.

Positions are (x, y) of the centre of a source's profile, from the centre of the stamp [pixels], as ``x_pix`` and
``y_pix`` elsewhere. A profile is moved by the phase of its Fourier transform, together with the PSF: exactly, by any
part of a pixel, conserving its flux; light that leaves the stamp is lost.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.fft import next_fast_len

from hiergal.observation.psf import PSF
from hiergal.runtime.pytree import Array

__all__ = ["render_sources"]


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
