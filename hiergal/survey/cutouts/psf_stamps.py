"""PSFs as files have them: their own pixel scale, found and resampled to the image's, and where their centre lies.

A PSF stamp holds the flux in each of its own pixels: the response of a pixel of its own width is part of it, as GalSim,
STPSF and Tiny Tim draw it. On pixels of another width it is resampled with their response instead, exactly for what a
band-limited stamp can tell: Fourier interpolation, times the ratio of the two pixels' transfer functions.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from hiergal.observation.psf import same_scale
from hiergal.survey.sky import scale_of

__all__ = ["center_offset", "psf_scale", "resample_psf"]

SCALE_CARDS = ("PIXELSCL", "PIXSCALE", "PIXELSCALE")  # STPSF's, and others' [arcsec]
OVERSAMPLING_CARDS = ("OVERSAMP", "DET_SAMP")


def psf_scale(header: Mapping[str, Any], pixel_scale_arcsec: float, where: str) -> float:
    """Return the width of the pixels of a PSF [arcsec].

    Args:
        header: Header of the PSF.
        pixel_scale_arcsec: Width of the image's pixels, which a PSF has that says nothing [arcsec].
        where: File and extension, for errors.

    Raises:
        ValueError: If its header contradicts itself.

    Example:
        >>> psf_scale({"PIXELSCL": 0.015}, 0.03, "PSF"), psf_scale({}, 0.03, "PSF")
        (0.015, 0.03)
    """
    stated = {card: float(header[card]) for card in SCALE_CARDS if isinstance(header.get(card), int | float)}
    world = scale_of(header, where)
    if world is not None:
        stated["WCS"] = world
    stated = {name: value for name, value in stated.items() if value > 0}
    over = next(
        (float(header[c]) for c in OVERSAMPLING_CARDS if isinstance(header.get(c), int | float)), None
    )
    if not stated:
        return pixel_scale_arcsec / over if over and over > 0 else pixel_scale_arcsec
    values = list(stated.values())
    if not same_scale(max(values), min(values)):
        told = ", ".join(f"{name} {value:.6g}" for name, value in stated.items())
        raise ValueError(
            f"{where}: expected one width of the PSF's pixels, got {told} arcsec; correct its header"
        )
    # One scale for all within the tolerance, so that a rounded number changes nothing.
    same = same_scale(values[0], pixel_scale_arcsec)
    return pixel_scale_arcsec if same else values[0]


def resample_psf(
    psf: Float[np.ndarray, "py px"], own_arcsec: float, pixel_scale_arcsec: float
) -> Float[np.ndarray, "y x"]:
    """Resample a PSF to pixels of another width, on an odd stamp, with its middle on the central pixel.

    Args:
        psf: Flux in each pixel; even sizes have their middle between pixels.
        own_arcsec: Width of its pixels [arcsec].
        pixel_scale_arcsec: Width of the image's [arcsec].

    Example:
        >>> y, x = np.mgrid[-11:12, -11:12]
        >>> psf = np.exp(-(x**2 + y**2) / 8)
        >>> half = resample_psf(psf / psf.sum(), 0.015, 0.03)
        >>> half.shape, bool(abs(half.sum() - 1) < 1e-3)
        ((11, 11), True)
    """
    ratio = pixel_scale_arcsec / own_arcsec
    return _matrix(psf.shape[0], ratio) @ np.asarray(psf, float) @ _matrix(psf.shape[1], ratio).T


def center_offset(psf: Float[np.ndarray, "py px"]) -> Float[np.ndarray, "2"]:
    """Return the offset of the centre of a PSF's light from the middle of its stamp, (y, x) [pixels].

    The light around the brightest pixel, above half of it, tells the centre: wings and noise move it little.

    Example:
        >>> psf = np.zeros((5, 5)); psf[3, 2] = 1
        >>> center_offset(psf).tolist()
        [1.0, 0.0]
    """
    core = np.where(psf > 0.5 * psf.max(), psf, 0.0)
    grids = np.indices(psf.shape)
    middle = (np.array(psf.shape) - 1) / 2
    return np.array([(core * grid).sum() / core.sum() for grid in grids]) - middle


def _matrix(n: int, ratio: float) -> Float[np.ndarray, "m n"]:
    """Resampling matrix from n pixels of an axis to pixels ``ratio`` times as wide."""
    m = max(1, int(np.floor(n / ratio + 1e-6)))
    m -= 1 - m % 2  # those that the stamp covers, with the middle on a pixel
    padded = 2 * n + 1  # so that what leaves one end does not come back at the other
    frequency = np.fft.fftfreq(padded)
    response = np.sinc(frequency * ratio) / np.sinc(frequency) * ratio
    out = (np.arange(m) - (m - 1) / 2) * ratio
    there = np.arange(n) - (n - 1) / 2
    phase = 2 * np.pi * frequency * (out[:, None, None] - there[None, :, None])
    return (np.cos(phase) * response).sum(axis=-1) / padded
