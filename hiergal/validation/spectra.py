"""Power at each scale: residuals that should be noise, and light beyond the band limit of a survey.

Two questions that no measurement of morphology asks. *Residuals*: data minus reconstruction, whitened by the noise
model, have unit power at every frequency if nothing is missing; a fit can only absorb power, so power above one is
structure that was not fitted. *Beyond the band limit*: a PSF hides the finest structure, and what a generative model
puts there comes from its architecture and its priors, not from data (an open question of Lanusse et al. 2020, Sec. 6);
here it is compared with the truth of a mock survey, or with a sharper survey.

Images are ``[n, y, x]``, of any shape. Frequencies are the moduli of the wave vectors [cycles per arcsec]. The power of
a mode is its squared modulus over the number of pixels: white noise of variance v has v everywhere, as in
:class:`~hiergal.noise.StationaryNoise`, and the sum over all modes is the sum of squares of the pixels.
"""

from typing import NamedTuple

import numpy as np
import scipy.fft
from jaxtyping import Float, Int
from scipy import stats
from scipy.signal.windows import tukey

from hiergal.psf import PSF
from hiergal.records import Array
from hiergal.validation.verdict import ALPHA, Verdict, exchange_verdict, verdict_of

__all__ = [
    "MTF_THRESHOLD",
    "RadialPower",
    "Spectrum",
    "band_limit",
    "beyond_band_test",
    "mean_spectrum",
    "radial_power",
    "residual_spectrum_test",
]

BANDS = 10
LEAST = 8  # galaxies, for errors from their scatter
CAP = 10.0  # on the power of a galaxy [standard deviations of that of noise]
MTF_THRESHOLD = 0.01  # of the squared modulus of the transfer function, the power that gets through
TAPERED = 0.5  # of the width of a stamp: light cut off at the edges would look like fine structure
FLOOR = 1e-18  # of the power at frequency zero: far below rounding, so that logarithms are finite
BOOTSTRAPS = 200


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


def radial_power(
    images: Float[Array, "n y x"], *, pixel_scale_arcsec: float = 0.03, bins: int = BANDS
) -> RadialPower:
    """Average the power of each image over rings of frequency, from zero to the corners of the Fourier plane.

    Args:
        images: Images in any unit.
        pixel_scale_arcsec: Width of a pixel [arcsec].
        bins: Number of rings of equal width; those without modes, on tiny images, are left out.

    Example:
        >>> power = radial_power(np.ones((1, 8, 9)), bins=3)
        >>> (power.power * power.modes).round(9).tolist(), int(power.modes.sum())
        ([[72.0, 0.0, 0.0]], 72)
    """
    frequency, weight = _plane(images.shape[1:], pixel_scale_arcsec)
    ring = np.minimum((frequency / frequency.max() * bins).astype(int), bins - 1)
    member = weight[:, None] * (ring[:, None] == np.unique(ring))
    modes = member.sum(axis=0)
    return RadialPower(frequency @ member / modes, modes.astype(int), _power(images) @ member / modes)


def residual_spectrum_test(
    whitened: Float[Array, "n y x"],
    *,
    pixel_scale_arcsec: float = 0.03,
    bands: int = BANDS,
    alpha: float = ALPHA,
) -> Verdict:
    """Ask whether residuals of reconstructions have more power than noise at any scale.

    Args:
        whitened: Data minus reconstructions, whitened by the noise model (:meth:`hiergal.noise.NoiseModel.whiten`);
            masked pixels, which are zero, make the test shy.
        pixel_scale_arcsec: Width of a pixel [arcsec].
        bands: Number of bands of frequency.
        alpha: Chance of a false alarm.

    Returns:
        The verdict; the statistic is the excess over unit power in the band where it is most significant. The p-value
        is one-sided: Student's, from the scatter of the galaxies, each capped at ten standard deviations of noise,
        times the number of bands (Bonferroni).

    Raises:
        ValueError: If there are fewer than 8 galaxies, or values that are not finite.

    Example:
        >>> noise = np.random.default_rng(1).normal(size=(200, 24, 25))
        >>> residual_spectrum_test(noise).passed, residual_spectrum_test(1.05 * noise).passed
        (True, False)
    """
    whitened = _checked("whitened", whitened)
    rings = radial_power(whitened, pixel_scale_arcsec=pixel_scale_arcsec, bins=bands)
    n, count = rings.power.shape
    # Noise of known power is capped to less than that, on average: the p-value stays valid, and the few galaxies that
    # are fitted worst do not hide, by their scatter, that most are.
    capped = np.minimum(rings.power, 1 + CAP * np.sqrt(2 / rings.modes)[None])
    significance = (capped.mean(axis=0) - 1) / np.maximum(_error(capped), np.finfo(np.float32).tiny)
    worst = int(np.argmax(significance))
    found, scatter = float(rings.power[:, worst].mean() - 1), float(_error(rings.power)[worst])
    # The mean of the largest of as many standard normals, to a few per cent (Blom 1958).
    expected = float(scatter * stats.norm.ppf((count - 0.375) / (count + 0.25)))
    words = (
        f"residuals have {1 + found:.3f} +- {scatter:.3f} times the power of noise at {_at(rings.frequency[worst])}, "
        f"where they stand out most of {count} bands"
    )
    p_value = float(min(1.0, count * stats.t.sf(significance[worst], n - 1)))
    return verdict_of("residuals (spectrum)", found, scatter, expected, p_value, alpha, words)


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
    squared = sum(_power(stamp[None] / stamp.sum(), grid)[0] for stamp in stamps)
    frequency, weight = _plane(grid, psf.pixel_scale_arcsec)
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
    profiles: Float[Array, "n y x"], *, pixel_scale_arcsec: float = 0.03, bins: int = 24, seed: int = 0
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
        >>> mean_spectrum(profiles, bins=6).power.shape
        (6,)
    """
    normalised, n = _normalised("profiles", profiles), len(profiles)
    rings = radial_power(normalised, pixel_scale_arcsec=pixel_scale_arcsec, bins=bins)
    logarithm = np.log(np.maximum(rings.power, FLOOR))
    again = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), BOOTSTRAPS) / n @ logarithm
    return Spectrum(rings.frequency, np.exp(logarithm.mean(axis=0)), np.exp(again).std(axis=0))


def beyond_band_test(
    real_profiles: Float[Array, "n y x"],
    drawn_profiles: Float[Array, "m v u"],
    limit: float,
    *,
    pixel_scale_arcsec: float = 0.03,
    seed: int = 0,
    alpha: float = ALPHA,
) -> Verdict:
    """Compare the power that galaxies have beyond what a survey can see, for what they have in the octave before.

    The octave before the limit is seen, and other tests judge it; galaxies of different sizes differ by much more
    than an order of magnitude in the power itself, and by a factor of three in its ratio.

    Args:
        real_profiles: True profiles [flux per pixel], those of a mock survey or of a sharper one.
        drawn_profiles: Profiles that a model draws, on the same grid, and blurred alike if the others are.
        limit: The survey's limit [cycles per arcsec], see :func:`band_limit`.
        pixel_scale_arcsec: Width of a pixel [arcsec].
        seed: Seed of the exchanges of labels.
        alpha: Chance of a false alarm.

    Returns:
        The verdict; the statistic is how much larger the decimal logarithm of that ratio is for drawn galaxies, as a
        mean over galaxies [dex]. :func:`mean_spectrum` shows where it comes from.

    Raises:
        ValueError: If shapes do not agree, nothing lies beyond the limit, there are fewer than 8 profiles in a sample,
            or some are not finite or without flux.

    Example:
        >>> sharp, other = np.random.default_rng(1).gamma(0.1, size=(2, 30, 16, 17))
        >>> blurred = (other + np.roll(other, 1, axis=1) + np.roll(other, 1, axis=2)) / 3
        >>> [beyond_band_test(sharp, sample, 8.0).passed for sample in (other, blurred)]
        [True, False]
    """
    shape, highest = real_profiles.shape[1:], 0.5 / pixel_scale_arcsec
    if drawn_profiles.shape[1:] != shape:
        raise ValueError(
            f"drawn: expected profiles of {shape} pixels as the real ones, got {drawn_profiles.shape[1:]}; put both on "
            "one grid"
        )
    lowest = 2 / (min(shape) * pixel_scale_arcsec)
    if not lowest <= limit < highest:
        raise ValueError(
            f"limit: expected a frequency between {lowest:.4g} and {highest:.4g} cycles per arcsec, what these stamps "
            f"resolve, got {limit}; use profiles on larger stamps or finer pixels"
        )
    frequency, weight = _plane(shape, pixel_scale_arcsec)
    inside = weight * ((frequency > limit / 2) & (frequency <= limit))
    rings = np.stack([inside, weight * (frequency > limit)], axis=1)
    rings /= rings.sum(axis=0)[None]
    real, drawn = (
        np.log10(np.maximum(_power(_normalised(what, profiles)) @ rings, FLOOR)) @ np.array([-1.0, 1.0])
        for what, profiles in (("real", real_profiles), ("drawn", drawn_profiles))
    )
    values, difference = np.concatenate([real, drawn]), float(drawn.mean() - real.mean())
    scatter = float(np.sqrt(sum(part.var(ddof=1) / len(part) for part in (real, drawn))))
    verdict = exchange_verdict(
        "beyond the band limit (power)",
        lambda labels: np.abs(labels @ values),
        len(values),
        len(real),
        lambda found, error, expected: (
            f"for the same power in the octave before, drawn galaxies have {10**difference:.3g} times that of real "
            f"ones beyond {_at(limit)}: {difference:+.3f} +- {error:.3f} dex"
        ),
        error=lambda found, rng: scatter,
        rng=np.random.default_rng(seed),
        alpha=alpha,
    )
    return verdict._replace(statistic=difference, expected=0.0)


def _normalised(what: str, profiles: Array) -> np.ndarray:
    """Taper the edges of profiles, and scale them so that the power at frequency zero is one."""
    profiles = _checked(what, profiles)
    ny, nx = profiles.shape[1:]
    tapered = profiles * np.outer(tukey(ny + 2, TAPERED)[1:-1], tukey(nx + 2, TAPERED)[1:-1])
    flux = tapered.sum(axis=(1, 2), keepdims=True)
    if not (flux > 0).all():
        raise ValueError(
            f"{what}: expected profiles of positive flux, got others in {(flux <= 0).sum()} of {len(flux)} galaxies; "
            "leave them out"
        )
    return tapered / flux * np.sqrt(ny * nx)


def _error(rows: np.ndarray) -> np.ndarray:
    """Standard error of the mean of each column."""
    return rows.std(axis=0, ddof=1) / np.sqrt(len(rows))


def _checked(what: str, images: Array) -> np.ndarray:
    if len(images) < LEAST:
        raise ValueError(f"{what}: expected at least {LEAST} galaxies, got {len(images)}; add more")
    bad = ~np.isfinite(images).all(axis=(1, 2))
    if bad.any():
        raise ValueError(
            f"{what}: expected finite values, got others in {bad.sum()} galaxies; leave them out"
        )
    return np.asarray(images, float)


def _power(images: Array, grid: tuple[int, ...] | None = None) -> np.ndarray:
    """Power of the modes of the half plane, [n, modes]."""
    grid = grid or images.shape[1:]
    return (np.abs(scipy.fft.rfft2(np.asarray(images), s=grid)) ** 2 / np.prod(grid)).reshape(len(images), -1)


def _plane(shape: tuple[int, ...], scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies of the half plane's modes, and how many modes each stands for."""
    ny, nx = shape
    frequency = np.hypot(np.fft.fftfreq(ny, scale)[:, None], np.fft.rfftfreq(nx, scale))
    column = np.arange(frequency.shape[1])
    # The first column, and of an even width the last, hold their conjugates themselves.
    weight = np.where((column == 0) | (2 * column == nx), 1.0, 2.0)
    return frequency.ravel(), np.broadcast_to(weight, frequency.shape).ravel()


def _at(frequency: float) -> str:
    return f"{frequency:.1f} cycles per arcsec (waves of {1 / frequency:.2f} arcsec)"
