"""Power of images at each scale, and where the PSFs of a survey end it.

Images are ``[n, y, x]``, of any shape. Frequencies are the moduli of the wave vectors [cycles per arcsec]. The power of
a mode is its squared modulus over the number of pixels: white noise of variance v has v everywhere, as in
:class:`~hiergal.observation.stationary.StationaryNoise`, and the sum over all modes is the sum of squares of the
pixels.
"""

from typing import NamedTuple

import numpy as np
import scipy.fft
from jaxtyping import Float, Int
from scipy.signal.windows import tukey

from hiergal.observation.psf import PSF
from hiergal.runtime.pytree import Array, brief

__all__ = [
    "BANDS",
    "FLOOR",
    "MTF_THRESHOLD",
    "RadialPower",
    "Rings",
    "Spectrum",
    "band_limit",
    "checked_images",
    "mean_spectrum",
    "normalize",
    "plane_of",
    "power_of",
    "radial_power",
    "rings_of",
]

BANDS = 10
FEWEST_GALAXIES = 8  # galaxies, for errors from their scatter
MTF_THRESHOLD = 0.01  # of the squared modulus of the transfer function, the power that gets through
TAPERED = 0.5  # of the width of a stamp: light cut off at the edges would look like fine structure
FLOOR = 1e-18  # of the power at frequency zero: far below rounding, so that logarithms are finite
BOOTSTRAPS = 200


class Rings(NamedTuple):
    """Rings of the Fourier plane, from zero to its corners.

    Attributes:
        frequency: Mean frequency of the modes of each ring [cycles per arcsec].
        modes: Number of modes of each ring; a pair of conjugate modes counts as two.
        member: How many modes each of the half plane stands for in each ring, a row for each in C order.
    """

    frequency: Float[np.ndarray, "bins"]
    modes: Int[np.ndarray, "bins"]
    member: Float[np.ndarray, "half bins"]

    __repr__ = brief


class RadialPower(NamedTuple):
    """Power of images in rings of frequency.

    Attributes:
        frequency: Mean frequency of the modes of each ring [cycles per arcsec].
        modes: Number of modes of each ring; a pair of conjugate modes counts as two.
        power: Mean power of these modes, one row for each image [squared unit of the pixels].
    """

    frequency: Float[np.ndarray, "bins"]
    modes: Int[np.ndarray, "bins"]
    power: Float[np.ndarray, "n bins"]

    __repr__ = brief


class Spectrum(NamedTuple):
    """Mean power of a sample of galaxies, each normalised by its flux.

    Attributes:
        frequency: Mean frequency of each ring [cycles per arcsec].
        power: Geometric mean over the galaxies of their power over that at frequency zero.
        error: Its standard error, from a bootstrap of galaxies.
    """

    frequency: Float[np.ndarray, "bins"]
    power: Float[np.ndarray, "bins"]
    error: Float[np.ndarray, "bins"]

    __repr__ = brief


def radial_power(
    images: Float[Array, "n y x"], *, pixel_scale_arcsec: float, bins: int = BANDS
) -> RadialPower:
    """Average the power of each image over rings of frequency, from zero to the corners of the Fourier plane.

    Args:
        images: Images in any unit.
        pixel_scale_arcsec: Width of a pixel [arcsec].
        bins: Number of rings of equal width; those without modes, on tiny images, are left out.

    Example:
        >>> power = radial_power(np.ones((1, 8, 9)), bins=3, pixel_scale_arcsec=0.03)
        >>> (power.power * power.modes).round(9).tolist(), int(power.modes.sum())
        ([[72.0, 0.0, 0.0]], 72)
    """
    frequency, modes, member = rings_of(images.shape[1:], pixel_scale_arcsec, bins)
    return RadialPower(frequency, modes, power_of(images) @ member / modes)


def rings_of(shape: tuple[int, ...], pixel_scale_arcsec: float, bins: int) -> Rings:
    """Divide the Fourier plane of images into rings of equal width; those without modes are left out.

    Args:
        shape: (ny, nx) of the images.
        pixel_scale_arcsec: Width of a pixel [arcsec].
        bins: Number of rings.

    Example:
        >>> rings_of((8, 9), 0.03, 3).modes.tolist()
        [11, 36, 25]
    """
    frequency, weight = plane_of(shape, pixel_scale_arcsec)
    ring = np.minimum((frequency / frequency.max() * bins).astype(int), bins - 1)
    member = weight[:, None] * (ring[:, None] == np.unique(ring))
    modes = member.sum(axis=0)
    return Rings(frequency @ member / modes, modes.astype(int), member)


def band_limit(psf: PSF, *, threshold: float = MTF_THRESHOLD) -> float:
    """Return the frequency beyond which a survey's PSFs let hardly any power through [cycles per arcsec].

    Args:
        psf: PSFs of a survey, [n, py, px]; what profiles may be blurred with beforehand does not count.
        threshold: Squared modulus of the transfer function, averaged over PSFs and directions, that counts as nothing;
            at 0.01 a wave keeps a tenth of its amplitude.

    Raises:
        ValueError: If the PSFs let more than that through up to the highest frequency of their pixels.

    Example:
        >>> squares = np.arange(-8, 9) ** 2 / 2**2
        >>> gaussian = np.exp(-(squares[:, None] + squares) / 2)
        >>> round(band_limit(PSF(gaussian[None] / gaussian.sum(), pixel_scale_arcsec=0.03)), 1)
        5.7
    """
    stamps, highest = np.asarray(psf.stamp, float), 0.5 / psf.pixel_scale_arcsec
    grid = tuple(4 * size for size in stamps.shape[1:])  # fine enough to interpolate
    squared = sum(power_of(stamp[None] / stamp.sum(), grid)[0] for stamp in stamps)
    frequency, weight = plane_of(grid, psf.pixel_scale_arcsec)
    ring = (frequency / highest * min(grid) / 2).astype(int)
    total, distance, through = (np.bincount(ring, weight * x) for x in (1.0, frequency, squared))
    inside = distance < highest * total
    middle, mtf = (distance / total)[inside], (through / total)[inside]
    mtf /= mtf[0]
    last = int(np.flatnonzero(mtf >= threshold)[-1])
    if last == len(mtf) - 1:
        raise ValueError(
            f"psf: expected a squared transfer function below {threshold} at the highest frequency of the pixels, "
            f"{highest:.3g} cycles per arcsec, got {mtf[-1]:.3g}; raise the threshold: pixels, not PSFs, limit this "
            "survey"
        )
    pair = slice(last, last + 2)
    return float(np.interp(-np.log(threshold), -np.log(mtf[pair]), middle[pair]))


def mean_spectrum(
    profiles: Float[Array, "n y x"], *, pixel_scale_arcsec: float, bins: int = 24, seed: int = 0
) -> Spectrum:
    """Average the power of profiles, each normalised by its flux, for a figure.

    Args:
        profiles: Unconvolved profiles without noise [flux per pixel]; their edges are tapered.
        pixel_scale_arcsec: Width of a pixel [arcsec].
        bins: Number of rings.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: If there are fewer than 8 profiles, or some are not finite or without flux.

    Example:
        >>> profiles = np.random.default_rng(1).gamma(0.1, size=(20, 16, 17))
        >>> mean_spectrum(profiles, bins=6, pixel_scale_arcsec=0.03).power.shape
        (6,)
    """
    unit, n = normalize("profiles", profiles), len(profiles)
    rings = radial_power(unit, pixel_scale_arcsec=pixel_scale_arcsec, bins=bins)
    logarithm = np.log(np.maximum(rings.power, FLOOR))
    again = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), BOOTSTRAPS) / n @ logarithm
    return Spectrum(rings.frequency, np.exp(logarithm.mean(axis=0)), np.exp(again).std(axis=0))


def normalize(what: str, profiles: Array) -> np.ndarray:
    """Taper the edges of profiles, and scale them so that the power at frequency zero is one."""
    profiles = checked_images(what, profiles)
    ny, nx = profiles.shape[1:]
    tapered = profiles * np.outer(tukey(ny + 2, TAPERED)[1:-1], tukey(nx + 2, TAPERED)[1:-1])
    flux = tapered.sum(axis=(1, 2), keepdims=True)
    if not (flux > 0).all():
        raise ValueError(
            f"{what}: expected profiles of positive flux, got others in {(flux <= 0).sum()} of {len(flux)} galaxies; "
            "leave them out"
        )
    return tapered / flux * np.sqrt(ny * nx)


def checked_images(what: str, images: Array) -> np.ndarray:
    """Return images in double precision, if there are enough, and all finite."""
    if len(images) < FEWEST_GALAXIES:
        raise ValueError(f"{what}: expected at least {FEWEST_GALAXIES} galaxies, got {len(images)}; add more")
    bad = ~np.isfinite(images).all(axis=(1, 2))
    if bad.any():
        raise ValueError(
            f"{what}: expected finite values, got others in {bad.sum()} galaxies; leave them out"
        )
    return np.asarray(images, float)


def power_of(images: Array, grid: tuple[int, ...] | None = None) -> np.ndarray:
    """Power of the modes of the half plane, [n, modes]."""
    grid = grid or images.shape[1:]
    return (np.abs(scipy.fft.rfft2(np.asarray(images), s=grid)) ** 2 / np.prod(grid)).reshape(len(images), -1)


def plane_of(shape: tuple[int, ...], scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies of the half plane's modes, and how many modes each stands for."""
    ny, nx = shape
    frequency = np.hypot(np.fft.fftfreq(ny, scale)[:, None], np.fft.rfftfreq(nx, scale))
    column = np.arange(frequency.shape[1])
    # The first column, and of an even width the last, hold their conjugates themselves.
    weight = np.where((column == 0) | (2 * column == nx), 1.0, 2.0)
    return frequency.ravel(), np.broadcast_to(weight, frequency.shape).ravel()
