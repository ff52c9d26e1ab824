"""Augmentation: the same galaxies as other telescopes would have seen them, with PSF, noise and mask moved along.

Two symmetries of the sky are exact on pixels. Galaxies have no preferred orientation: a stamp may be mirrored and
turned by right angles, if its PSF, its mask and the spectrum of its noise are too. They have no preferred place either:
a galaxy whose PSF is moved by a fraction of a pixel is explained by a profile moved the other way. So sub-pixel shifts
move the PSF and leave the image alone, and neither pixels nor noise are ever interpolated.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from hiergal.observation.independent import PixelNoise
from hiergal.observation.noise import NoiseModel
from hiergal.observation.observation import Observation
from hiergal.observation.psf import PSF
from hiergal.observation.stationary import StationaryNoise
from hiergal.recipe.config import AugmentationConfig
from hiergal.runtime.pytree import Array

__all__ = [
    "augmented",
    "reoriented",
    "shifted",
]


def augmented(key: jax.Array, galaxies: Observation, config: AugmentationConfig) -> Observation:
    """Vary a batch at random. Columns of the catalogue are left out: some of them would be wrong.

    Args:
        key: PRNG key of this step.
        galaxies: A batch.
        config: What to vary.
    """
    n, (flips_key, shift_key) = len(galaxies), jax.random.split(key)
    if config.symmetries:
        galaxies = reoriented(galaxies, *jax.random.bernoulli(flips_key, shape=(3, n)))
    if config.shift_pix:
        shift = jax.random.uniform(shift_key, (n, 2), minval=-config.shift_pix, maxval=config.shift_pix)
        galaxies = galaxies.replace(psf=shifted(galaxies.psf, shift))
    return galaxies.replace(catalog={}) if config != AugmentationConfig() else galaxies


def reoriented(
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
        transpose: Whose axes to exchange; ignored unless stamps and PSFs are square.
    """
    stamps = (galaxies.image.shape[-2:], galaxies.psf.stamp.shape[-2:])
    if any(ny != nx for ny, nx in stamps):
        transpose = jnp.zeros_like(transpose)

    def turn(images):
        images = _where(flip_y, images[:, ::-1], images)
        images = _where(flip_x, images[:, :, ::-1], images)
        square = images.shape[1] == images.shape[2]
        return _where(transpose, images.swapaxes(1, 2), images) if square else images

    return galaxies.replace(
        image=turn(galaxies.image),
        psf=galaxies.psf.replace(stamp=turn(galaxies.psf.stamp)),
        noise=_turned(galaxies.noise, turn, flip_y ^ flip_x, transpose),
        mask=None if galaxies.mask is None else turn(galaxies.mask),
    )


def shifted(psf: PSF, shift_pix: Float[Array, "n 2"]) -> PSF:
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


def _turned(noise: NoiseModel, turn, mirrored: Array, transpose: Array) -> NoiseModel:
    match noise:
        case PixelNoise():
            return noise.replace(sigma=turn(noise.sigma))
        case StationaryNoise():
            power = noise.power
            # A spectrum is even, so mirroring along y is the same as along x, and both together change nothing.
            power = _where(mirrored, _mirrored(power), power)
            if power.shape[-2] == noise.width:
                power = _where(transpose, _exchanged(power, noise.width), power)
            return noise.replace(power=power)
        case _:
            return noise


def _mirrored(power: Array) -> Array:
    """Frequencies along y with the other sign."""
    return jnp.roll(power[:, ::-1], 1, axis=1)


def _exchanged(power: Array, width: int) -> Array:
    """The half plane of the spectrum with its axes exchanged."""
    other = _mirrored(power)[:, :, 1 : (width + 1) // 2][:, :, ::-1]
    full = jnp.concatenate([power, other], axis=-1)
    return full.swapaxes(1, 2)[:, :, : power.shape[-1]]


def _where(chosen: Array, new: Array, old: Array) -> Array:
    return jnp.where(chosen[:, None, None], new, old)
