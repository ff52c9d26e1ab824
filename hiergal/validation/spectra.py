"""Tests of power spectra, for differences that no measurement of morphology shows.

*Residuals*: data minus reconstruction, whitened by the noise model, have unit power at every frequency if nothing is
missing; a fit can only absorb power, so power above one is structure that was not fitted. *Beyond the band limit*: a
PSF hides the finest structure, and what a generative model puts there comes from its architecture and its priors, not
from data (an open question of Lanusse et al. 2020, Sec. 6); here it is compared with the truth of a mock survey, or
with a sharper survey. Conventions are those of :mod:`hiergal.measure.power_spectrum`.
"""

import numpy as np
from jaxtyping import Float
from scipy import stats

from hiergal.measure.power_spectrum import (
    BANDS,
    FLOOR,
    checked_images,
    normalize,
    plane_of,
    power_of,
    radial_power,
)
from hiergal.runtime.pytree import Array
from hiergal.runtime.verdict import ALPHA, Verdict, exchange_verdict, verdict_of

__all__ = ["beyond_band_test", "residual_spectrum_test"]

CAP = 10.0  # on the power of a galaxy [standard deviations of that of noise]


def residual_spectrum_test(
    whitened: Float[Array, "n y x"],
    *,
    pixel_scale_arcsec: float,
    bands: int = BANDS,
    alpha: float = ALPHA,
) -> Verdict:
    """Test residuals of reconstructions for more power than noise at any scale.

    Args:
        whitened: Data minus reconstructions, whitened by the noise model
            (:meth:`hiergal.observation.noise.NoiseModel.whiten`); masked pixels (zero) make the test conservative.
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
        >>> [residual_spectrum_test(factor * noise, pixel_scale_arcsec=0.03).passed for factor in (1, 1.05)]
        [True, False]
    """
    whitened = checked_images("whitened", whitened)
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


def beyond_band_test(
    real_profiles: Float[Array, "n y x"],
    drawn_profiles: Float[Array, "m v u"],
    limit: float,
    *,
    pixel_scale_arcsec: float,
    seed: int = 0,
    alpha: float = ALPHA,
) -> Verdict:
    """Compare the power of galaxies beyond the resolution of a survey, given that in the octave before.

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
        >>> [beyond_band_test(sharp, one, 8.0, pixel_scale_arcsec=0.03).passed for one in (other, blurred)]
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
    frequency, weight = plane_of(shape, pixel_scale_arcsec)
    inside = weight * ((frequency > limit / 2) & (frequency <= limit))
    rings = np.stack([inside, weight * (frequency > limit)], axis=1)
    rings /= rings.sum(axis=0)[None]
    real, drawn = (
        np.log10(np.maximum(power_of(normalize(what, profiles)) @ rings, FLOOR)) @ np.array([-1.0, 1.0])
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


def _error(rows: np.ndarray) -> np.ndarray:
    """Standard error of the mean of each column."""
    return rows.std(axis=0, ddof=1) / np.sqrt(len(rows))


def _at(frequency: float) -> str:
    return f"{frequency:.1f} cycles per arcsec (waves of {1 / frequency:.2f} arcsec)"
