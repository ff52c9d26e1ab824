"""The telescope of the mock survey: a bank of effective HST/ACS F814W PSFs, and cheap variations of it.

One optical PSF takes GalSim a few hundredths of a second, so a bank of them is built once in a process and serves
any number of galaxies: each one sees a blend of two members, turned and mirrored, with some jitter of its own.
Every stamp is effective (detector pixel, drizzle kernel and charge diffusion included) and sums to one.

The 2.4 m aperture, its central obscuration of 0.33 and the 0.05 arcsec pixel are those of HST/ACS-WFC; the size of
the low-order aberrations and of the jitter was chosen so that adaptive size (0.0515-0.056 arcsec), radial fourth
moment (2.21-2.25) and ellipticity (0.016 on average) agree with the 100 real COSMOS PSFs that GalSim distributes.
"""

from functools import cache

import numpy as np
from jaxtyping import Float

__all__ = ["PIXEL_SCALE_ARCSEC", "PSF_SIZE", "draw_psf", "psf_bank"]

PIXEL_SCALE_ARCSEC = 0.03  # of the drizzled COSMOS images
PSF_SIZE = 41  # pixels along each side of a PSF stamp
DETECTOR_PIXEL_ARCSEC = 0.05
MEMBERS = 48
TELESCOPE_SEED = 814  # the telescope is the same whatever the seed of a survey
ABERRATION_WAVES = 0.018
JITTER_ARCSEC = (0.0285, 0.0325)
EXTRA_JITTER_ARCSEC = 0.012


@cache
def psf_bank(members: int = MEMBERS) -> Float[np.ndarray, "member py px"]:
    """Build the PSFs that the mock survey blends, once in a process.

    Args:
        members: Number of PSFs.

    Returns:
        Stamps that sum to one, 41x41 pixels of 0.03 arcsec.

    Example:
        >>> psf_bank(2).shape
        (2, 41, 41)
    """
    bank = np.stack([_build(np.random.SeedSequence(TELESCOPE_SEED, spawn_key=(i,))) for i in range(members)])
    bank.setflags(write=False)
    return bank


def draw_psf(rng: np.random.Generator, bank: Float[np.ndarray, "member py px"]) -> Float[np.ndarray, "py px"]:
    """Draw one galaxy's PSF: a blend of two members, turned, mirrored and shaken.

    Args:
        rng: Source of randomness.
        bank: PSFs to vary, from :func:`psf_bank`.

    Returns:
        Stamp that sums to one.

    Example:
        >>> stamp = draw_psf(np.random.default_rng(0), psf_bank(2))
        >>> round(float(stamp.sum()), 6)
        1.0
    """
    first, second = rng.integers(len(bank), size=2)
    weight = rng.uniform()
    stamp = np.rot90(weight * bank[first] + (1 - weight) * bank[second], int(rng.integers(4)))
    if rng.uniform() < 0.5:
        stamp = stamp.T
    major, minor, angle = rng.uniform(size=3) * (EXTRA_JITTER_ARCSEC, EXTRA_JITTER_ARCSEC, np.pi)
    stamp = _shake(stamp, major, minor, angle)
    return stamp / stamp.sum()


def _build(seed: np.random.SeedSequence) -> np.ndarray:
    """Draw one optical PSF with random aberrations, and put the pixel into it."""
    import galsim

    rng = np.random.default_rng(seed)
    aberrations = np.zeros(12)
    aberrations[4:] = rng.normal(0, ABERRATION_WAVES, 8)  # Noll 4 to 11: defocus to spherical
    optics = galsim.OpticalPSF(
        lam=814, diam=2.4, obscuration=0.33, nstruts=4, strut_thick=0.02, pad_factor=1, oversampling=1,
        strut_angle=rng.uniform(0, 90) * galsim.degrees, aberrations=aberrations.tolist(),
    )  # fmt: skip
    jitter = galsim.Gaussian(sigma=rng.uniform(*JITTER_ARCSEC))
    pixels = [galsim.Pixel(DETECTOR_PIXEL_ARCSEC), galsim.Pixel(PIXEL_SCALE_ARCSEC)]
    image = galsim.Convolve([optics, jitter, *pixels]).drawImage(
        nx=PSF_SIZE, ny=PSF_SIZE, scale=PIXEL_SCALE_ARCSEC, method="no_pixel", dtype=float
    )
    stamp = np.maximum(image.array, 0)
    return stamp / stamp.sum()


def _shake(stamp: np.ndarray, major: float, minor: float, angle: float) -> np.ndarray:
    """Convolve with an elliptical Gaussian of these standard deviations [arcsec]."""
    fy, fx = np.fft.fftfreq(stamp.shape[0])[:, None], np.fft.rfftfreq(stamp.shape[1])
    along, across = fx * np.cos(angle) + fy * np.sin(angle), fy * np.cos(angle) - fx * np.sin(angle)
    blur = ((major * along) ** 2 + (minor * across) ** 2) / PIXEL_SCALE_ARCSEC**2
    return np.fft.irfft2(np.fft.rfft2(stamp) * np.exp(-2 * np.pi**2 * blur), s=stamp.shape)
