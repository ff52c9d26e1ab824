"""Correlated noise: from GalSim's correlation functions to power spectra (Lanusse et al. 2020, Eq. 5).

:class:`~hiergal.stationary_noise.StationaryNoise` wants the variance of each Fourier mode of a stamp. Two answers are
in use:

* ``galsim``: |DFT of the correlation function drawn on the stamp|, by which GalSim draws noise on it, as if
  stamps were periodic. Noise cut out of a larger field is not, and whitening it so gives a chi-square per
  pixel of 1.034 on 64x64 stamps of COSMOS noise, 1.017 on 128x128.
* ``expected``: the expected periodogram of a stamp cut out of a larger field, the correlation function times
  (1 - |dy| / ny) (1 - |dx| / nx), then transformed (Bartlett 1950). Its chi-square per pixel is 1 on average.

GalSim puts the origin of a correlation image of even size between pixels, beside its peak; for the AEGIS
files that makes the ``galsim`` spectrum vanish at the highest frequencies (chi-square per pixel 400).
``expected`` takes the peak as the origin.
"""

import warnings
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    import galsim

__all__ = ["Spectrum", "catalog_noise", "floored", "noise_power"]

POWER_FLOOR = 1e-6  # of the highest mode: keeps likelihoods finite where a spectrum vanishes

Spectrum = Literal["galsim", "expected"]


def noise_power(
    noise: "galsim.BaseCorrelatedNoise", shape: tuple[int, int], pixel_scale_arcsec: float, spectrum: Spectrum
) -> Float[np.ndarray, "y fx"]:
    """Return the power spectrum of correlated noise on a stamp.

    Args:
        noise: GalSim's noise.
        shape: (ny, nx) of the stamp [pixels].
        pixel_scale_arcsec: Width of a pixel [arcsec].
        spectrum: ``galsim`` or ``expected``, as at the top of this page.

    Returns:
        Power [flux^2 per pixel^2], [y, x // 2 + 1]; white noise of variance v has v everywhere.

    Example:
        >>> import galsim
        >>> white = galsim.UncorrelatedNoise(variance=4.0, scale=0.03)
        >>> bool(np.allclose(noise_power(white, (4, 6), 0.03, "expected"), 4.0))
        True
    """
    import galsim

    ny, nx = shape
    if spectrum == "galsim":
        correlation = galsim.Image(nx, ny, scale=pixel_scale_arcsec, dtype=float)
        noise.drawImage(correlation)
        return np.abs(np.fft.rfft2(correlation.array))
    correlation = galsim.Image(2 * nx - 1, 2 * ny - 1, scale=pixel_scale_arcsec, dtype=float)
    noise.drawImage(correlation)
    dy, dx = np.arange(1 - ny, ny)[:, None], np.arange(1 - nx, nx)[None, :]
    periodic = np.zeros(shape)
    # Lags dy and dy - ny meet in one element of a periodic stamp: both count, each with its number of pairs.
    np.add.at(periodic, (dy % ny, dx % nx), correlation.array * (1 - np.abs(dy) / ny) * (1 - np.abs(dx) / nx))
    return np.fft.rfft2(periodic).real


def catalog_noise(
    real: "galsim.RealGalaxyCatalog", row: int, rng: "galsim.BaseDeviate", *, recentre: bool
) -> "galsim.BaseCorrelatedNoise":
    """Return a galaxy's noise; recentred, the origin of a correlation image of even size is its peak."""
    import galsim

    image, _, variance = real.getNoiseProperties(row)
    if image is None or not recentre:
        return real.getNoise(row, rng)
    peak = np.unravel_index(np.argmax(image.array), image.array.shape)
    offset = [at - (size - 1) / 2 for at, size in zip(peak, image.array.shape, strict=True)]
    correlation = galsim.InterpolatedImage(
        image,
        normalization="sb",
        x_interpolant="linear",
        offset=offset[::-1],
        calculate_stepk=False,
        calculate_maxk=False,
    )
    return galsim.BaseCorrelatedNoise(rng, correlation, image.wcs).withVariance(variance)


def floored(power: Float[np.ndarray, "n y fx"]) -> Float[np.ndarray, "n y fx"]:
    """Raise modes without power to a millionth of the highest one, with a warning if there are any."""
    floor = POWER_FLOOR * power.max(axis=(-2, -1), keepdims=True)
    if (power < floor).any():
        warnings.warn(
            f"the noise spectrum vanishes in {np.mean(power < floor):.1%} of the modes (a correlation image "
            "of even size, which GalSim centres between pixels?): expected power in all of them, so that "
            "likelihoods mean something; use spectrum='expected'",
            stacklevel=3,
        )
    return np.maximum(power, floor)
