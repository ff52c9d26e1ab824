"""Augmentation: the same galaxies as other telescopes would have seen them, with PSF, noise and mask moved along.

Two symmetries of the sky are exact on pixels. Galaxies have no preferred orientation: a stamp may be mirrored and
turned by right angles, if its PSF, its mask and the spectrum of its noise are too. They have no preferred place either:
a galaxy whose PSF is moved by a fraction of a pixel is explained by a profile moved the other way. So sub-pixel shifts
move the PSF and leave the image alone, and neither pixels nor noise are ever interpolated.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from hiergal.observation.observation import Observation
from hiergal.observation.orientation import Orientation, reorient_stamps
from hiergal.observation.psf import PSF
from hiergal.recipe.config import AugmentationConfig
from hiergal.runtime.pytree import Array

__all__ = [
    "augment",
    "reorient",
    "shift",
]


def augment(key: jax.Array, galaxies: Observation, config: AugmentationConfig) -> Observation:
    """Vary a batch at random. Columns of the catalogue are left out: some of them would be wrong.

    Args:
        key: PRNG key of this step.
        galaxies: A batch.
        config: What to vary.
    """
    n, (flips_key, shift_key) = len(galaxies), jax.random.split(key)
    if config.symmetries:
        galaxies = reorient(galaxies, *jax.random.bernoulli(flips_key, shape=(3, n)))
    if config.shift_pix:
        offsets = jax.random.uniform(shift_key, (n, 2), minval=-config.shift_pix, maxval=config.shift_pix)
        galaxies = galaxies.replace(psf=shift(galaxies.psf, offsets))
    return galaxies.replace(catalog={}) if config != AugmentationConfig() else galaxies


def reorient(
    galaxies: Observation,
    flip_y: Bool[Array, "n"],
    flip_x: Bool[Array, "n"],
    transpose: Bool[Array, "n"],
) -> Observation:
    """Mirror galaxies about the centre of their stamps, and then exchange their axes.

    Args:
        galaxies: A batch.
        flip_y: Which to turn upside down.
        flip_x: Which to mirror left to right.
        transpose: Whose axes to exchange; ignored unless stamps and PSFs are square, and the noise has no direction.
    """
    stamps = (galaxies.image.shape[-2:], galaxies.psf.stamp.shape[-2:])
    if not galaxies.noise.transposable or any(ny != nx for ny, nx in stamps):
        transpose = jnp.zeros_like(transpose)
    orientation = Orientation(flip_y, flip_x, transpose)
    return galaxies.replace(
        image=reorient_stamps(galaxies.image, orientation),
        psf=galaxies.psf.replace(stamp=reorient_stamps(galaxies.psf.stamp, orientation)),
        noise=galaxies.noise.reorient(orientation),
        mask=None if galaxies.mask is None else reorient_stamps(galaxies.mask, orientation),
    )


def shift(psf: PSF, shift_pix: Float[Array, "n 2"]) -> PSF:
    """Move PSFs by (dy, dx), by the phase of their transfer functions.

    Args:
        psf: PSFs, periodic on their stamps: their wings have to be faint at the edge.
        shift_pix: Shifts along y and x [pixels of the PSF].
    """
    py, px = psf.stamp.shape[-2:]
    phase = shift_pix[:, :1, None] * jnp.fft.fftfreq(py)[None, :, None]
    phase = phase + shift_pix[:, 1:, None] * jnp.fft.rfftfreq(px)[None, None]
    spectrum = jnp.fft.rfft2(psf.stamp) * jnp.exp(-2j * jnp.pi * phase)
    return psf.replace(stamp=jnp.fft.irfft2(spectrum, s=(py, px)))
