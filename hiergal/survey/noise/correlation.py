"""Correlated noise: from GalSim's correlation functions to power spectra (Lanusse et al. 2020, Eq. 5).

:class:`~hiergal.observation.stationary.StationaryNoise` wants the variance of each Fourier mode of a stamp. Two answers
are in use:

* ``galsim``: |DFT of the correlation function drawn on the stamp|, by which GalSim draws noise on it, as if
  stamps were periodic. Noise cut out of a larger field is not, and whitening it so gives a chi-square per
  pixel of 1.034 on 64x64 stamps of COSMOS noise, 1.017 on 128x128.
* ``expected``: the expected periodogram of a stamp cut out of a larger field, the correlation function times
  (1 - |dy| / ny) (1 - |dx| / nx), then transformed (Bartlett 1950). Its chi-square per pixel is 1 on average.

GalSim puts the origin of a correlation image of even size between pixels, next to its peak; for the AEGIS
files that makes the ``galsim`` spectrum vanish at the highest frequencies (chi-square per pixel 400).
``expected`` takes the peak as the origin.
"""

import warnings
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Float

if TYPE_CHECKING:
    import galsim

__all__ = [
    "Spectrum",
    "catalog_noise",
    "continued_noise",
    "correlation_of_power",
    "expected_power",
    "floored",
    "noise_power",
]

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
    return expected_power(correlation.array, shape)


def expected_power(
    correlation: Float[np.ndarray, "ly lx"], shape: tuple[int, int]
) -> Float[np.ndarray, "y fx"]:
    """Return the expected periodogram of a stamp cut out of a field with a correlation function.

    Args:
        correlation: Covariance of two pixels at each lag [flux^2 per pixel^2], lag 0 in the center of an odd image;
            longer lags than the image has are uncorrelated, longer ones than the stamp do not matter.
        shape: (ny, nx) of the stamp [pixels].

    Returns:
        Power [flux^2 per pixel^2], [y, x // 2 + 1].

    Example:
        >>> expected_power(np.full((1, 1), 4.0), (2, 3)).tolist()
        [[4.0, 4.0], [4.0, 4.0]]
    """
    ny, nx = shape
    ly, lx = (size // 2 for size in correlation.shape)
    dy, dx = np.arange(-ly, ly + 1)[:, None], np.arange(-lx, lx + 1)[None, :]
    pairs = np.maximum(1 - np.abs(dy) / ny, 0) * np.maximum(1 - np.abs(dx) / nx, 0)
    periodic = np.zeros(shape)
    # Lags dy and dy - ny meet in one element of a periodic stamp: both count, each with its number of pairs.
    np.add.at(periodic, (dy % ny, dx % nx), correlation * pairs)
    return np.fft.rfft2(periodic).real


def correlation_of_power(power: Float[np.ndarray, "y fx"], width: int) -> Float[np.ndarray, "ly lx"]:
    """Return the correlation function whose expected periodogram a power spectrum is, up to half the stamp's size.

    Lags beyond half a stamp meet others in a periodic one; here they are taken as uncorrelated.

    Args:
        power: Power spectrum of a stamp [flux^2 per pixel^2].
        width: Pixels of the stamp along x.

    Returns:
        Covariances [flux^2 per pixel^2], lag 0 in the center of an odd image.

    Example:
        >>> correlation_of_power(np.full((4, 3), 2.0), 4)[1].tolist()
        [0.0, 2.0, 0.0]
    """
    ny, nx = power.shape[0], width
    ly, lx = (ny - 1) // 2, (nx - 1) // 2
    dy, dx = np.arange(-ly, ly + 1)[:, None], np.arange(-lx, lx + 1)[None, :]
    periodic = np.fft.irfft2(power, s=(ny, nx))[dy % ny, dx % nx]
    return periodic / ((1 - np.abs(dy) / ny) * (1 - np.abs(dx) / nx))


def catalog_noise(
    real: "galsim.RealGalaxyCatalog", row: int, rng: "galsim.BaseDeviate", *, recenter: bool
) -> "galsim.BaseCorrelatedNoise":
    """Return a galaxy's noise; recentred, the origin of a correlation image of even size is its peak."""
    import galsim

    image, _, variance = real.getNoiseProperties(row)
    if image is None or not recenter:
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


def continued_noise(
    image: Float[np.ndarray, "y x"],
    inside: Bool[np.ndarray, "y x"],
    power: Float[np.ndarray, "y fx"],
    rng: np.random.Generator,
) -> Float[np.ndarray, "y x"]:
    """Return a stamp with noise drawn around its pixels, conditional on them: correlations go on across the edge.

    Independent noise around a cutout, as GalSim pads it, makes a seam: whitened, 64x64 stamps of COSMOS noise around
    cutouts of 24 to 50 pixels have a chi-square per pixel of 1.024 to 1.044, for a right spectrum. The conditional draw
    is a free one, plus the expected value of the difference (Hoffman & Ribak 1991, ApJ 380, L5).

    Args:
        image: A stamp; what lies outside does not matter.
        inside: Where it has pixels.
        power: Power spectrum of the noise on the stamp [flux^2 per pixel^2].
        rng: Generator of random numbers.

    Example:
        >>> inside = np.zeros((8, 8), bool); inside[2:6, 2:6] = True
        >>> stamp = continued_noise(np.ones((8, 8)), inside, np.ones((8, 5)), np.random.default_rng(0))
        >>> bool((stamp[inside] == 1).all() and (stamp[~inside] != 1).all())
        True
    """
    from scipy.sparse.linalg import LinearOperator, cg

    def filtered(stamp: np.ndarray, response: np.ndarray) -> np.ndarray:
        return np.fft.irfft2(np.fft.rfft2(stamp) * response, s=stamp.shape)

    def between_hidden(response: np.ndarray) -> LinearOperator:
        def apply(values: np.ndarray) -> np.ndarray:
            stamp = np.zeros(image.shape)
            stamp[~inside] = values.ravel()
            return filtered(stamp, response)[~inside]

        return LinearOperator((outside, outside), matvec=apply, dtype=float)

    free = filtered(rng.normal(size=image.shape), np.sqrt(power))
    outside = int((~inside).sum())
    if not outside:
        return image
    known = np.where(inside, image - free, 0.0)
    # With K the inverse covariance, the expected values f outside fulfil K_oo f = -(K known)_o.
    expected, _ = cg(
        between_hidden(1 / power),
        -filtered(known, 1 / power)[~inside],
        rtol=1e-6,
        M=between_hidden(power),
        maxiter=200,
    )
    stamp = np.where(inside, image, free)
    stamp[~inside] += expected
    return stamp


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
