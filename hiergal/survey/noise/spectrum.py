"""Power spectrum of a survey's noise, measured in the source-free parts of its own stamps.

A variance map says how strong the noise of a pixel is, not how it is correlated with that of others; and a correlation
function that comes with a survey was measured elsewhere on the sky, or before stamps were resampled. The estimate takes
images over their given noise level, so that galaxies can be stacked, in three steps:

1. **Sources are masked**, and the edge of what is left is apodised over two pixels
   (:mod:`hiergal.survey.noise.source_masks`).
2. **Products of pairs of pixels are stacked**: for each lag the sum of products of weighted pixels over the sum of
   products of weights. That is unbiased for any mask: the window is divided out exactly. Each stamp's mean is taken
   off first, and what this takes from the noise's own correlation is restored. So is what correlations lose as peaks
   of the noise itself are masked: noise drawn with the measured correlation, with and without masks, tells how much.
3. **Long lags come from the given correlation.** The difference between measured and given correlation (scaled to the
   measured level) is multiplied by a taper: 1 up to half the longest lag, 0 beyond it. The longest lag is the largest
   that keeps the random error of a Fourier mode below 5 %, and at most half a stamp.

The spectrum of a stamp is then the expected periodogram (:func:`hiergal.survey.noise.correlation.expected_power`),
which is what :class:`~hiergal.observation.stationary.StationaryNoise` takes for stamps of a larger field. Errors are
jackknife estimates over up to 32 groups of galaxies. Under galaxies like those of COSMOS bands are unbiased to 1 %.
What no mask removes is the light of sources below the detection limit: COSMOS counts between magnitudes 25.4 and 29 add
3 % to the power of ACS noise below 0.06 cycles per pixel, and less than 1 % above, and act as noise in a fit as well. A
sky that differs from stamp to stamp is not part of the spectrum; its scatter is recorded as ``sky``.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from hiergal.observation.noise import NoiseModel
from hiergal.observation.observation import Observation
from hiergal.survey.noise.correlation import correlation_of_power, expected_power
from hiergal.survey.noise.source_masks import noise_scatter, source_free

__all__ = [
    "NoiseSpectrum",
    "NoiseStack",
    "add_observation",
    "given_correlation",
    "measure_noise",
    "rms_of_pixels",
]

FEWEST_PIXELS = 64  # of a stamp that is used
CALIBRATION_GALAXIES = 256  # that say how much smoothed noise scatters
CORRECTIONS = 2
MODE_ERROR = 0.05  # of a Fourier mode, which the longest lag follows from
LEAST_LAG_PIX = 4
JACKKNIFE = 32
BANDS = 8
LOWEST = 0.25  # of the mean of its band: what a mode is raised to if it came out lower


class NoiseSpectrum(NamedTuple):
    """Noise measured in a survey, relative to the noise level that was given for each galaxy.

    Attributes:
        correlation: Covariance of two pixels at a lag, over the given variance, [2 l + 1, 2 l + 1]; lag 0 in the
            center.
        frequency: Mean frequency of bands, equal steps from zero to Nyquist, and the corners beyond [cycles per pixel].
        power: Measured power of each band over the given variance.
        error: Its standard error, from a jackknife over galaxies.
        given: The given power of each band, over the given variance.
        level: Measured standard deviation of a pixel over the given one.
        level_error: Its standard error.
        sky: Scatter of the stamps' means, noise subtracted [given standard deviations]: sky left over, faint light.
        galaxies: Number of galaxies with source-free pixels.
        pixels: Number of such pixels (sum of weights).
        longest_lag_pix: Where the taper ends [pixels].
    """

    correlation: Float[np.ndarray, "lag lag"]
    frequency: Float[np.ndarray, "b"]
    power: Float[np.ndarray, "b"]
    error: Float[np.ndarray, "b"]
    given: Float[np.ndarray, "b"]
    level: float
    level_error: float
    sky: float
    galaxies: int
    pixels: int
    longest_lag_pix: int

    def on(self, shape: tuple[int, int]) -> Float[np.ndarray, "y fx"]:
        """Return the power spectrum on a stamp (ny, nx) of noise whose given standard deviation is 1.

        Example:
            >>> stack = NoiseStack((16, 16))
            >>> stack.add(np.random.default_rng(0).normal(size=(40, 32, 32)))
            >>> stack.result().on((16, 20)).shape
            (16, 11)
        """
        power = expected_power(self.correlation, shape)
        band, _ = _bands(shape)
        mean = _band_means(power, shape)
        return np.maximum(power, LOWEST * mean[np.minimum(band, len(mean) - 1)])

    def summary(self) -> dict[str, Any]:
        """Return the entry for the survey's description: level, bands, errors, and the ratio to the given spectrum."""
        bands = [self.frequency, self.power, self.error, self.given, self.power / self.given]
        names = ("frequency", "power", "error", "given", "ratio")
        return {
            "galaxies": self.galaxies,
            "pixels": self.pixels,
            "longest_lag_pix": self.longest_lag_pix,
            "level_ratio": round(self.level, 5),
            "level_error": round(self.level_error, 5),
            "sky_scatter": round(self.sky, 5),
            "bands": {
                name: [round(float(x), 5) for x in each] for name, each in zip(names, bands, strict=True)
            },
        }


class NoiseStack:
    """Source-free pixels of many galaxies, stacked batch by batch.

    Args:
        shape: (ny, nx) of the survey's stamps [pixels]: half of it bounds the longest lag.
        given: Given correlation of noise of unit variance at each lag [2 l + 1, 2 l + 1]; None for white noise.
        max_lag_pix: The longest lag; default as the number of pixels allows.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        given: Float[np.ndarray, "lag lag"] | None = None,
        *,
        max_lag_pix: int | None = None,
    ) -> None:
        self.shape, self.max_lag_pix = tuple(shape), max_lag_pix
        self.reach = max(LEAST_LAG_PIX, min(shape) // 2)
        self.given = np.ones((1, 1)) if given is None else np.asarray(given, float)
        side = 2 * self.reach + 1
        self._products, self._pairs, self._shares = (np.zeros((JACKKNIFE, side, side)) for _ in range(3))
        self._means: list[float] = []
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._scatter: list[float] = []
        self._galaxies = 0

    def add(self, images: Any, mask: Bool[np.ndarray, "n y x"] | None = None) -> None:
        """Add stamps of any size.

        Args:
            images: Stamps over their given noise level, an array [n, y, x] or a sequence of arrays [y, x].
            mask: Pixels without data (True).
        """
        for i, image in enumerate(images):
            image = np.asarray(image, float)
            bad = ~np.isfinite(image) if mask is None else np.asarray(mask[i], bool) | ~np.isfinite(image)
            self._waiting.append((np.where(bad, 0.0, image), bad))
            if self._scatter or len(self._waiting) >= CALIBRATION_GALAXIES:
                self._work()

    def result(self) -> NoiseSpectrum:
        """Estimate the noise spectrum from the stack.

        Raises:
            ValueError: If too few pixels are free of sources.
        """
        self._work()
        total = self._pairs.sum(axis=0)
        center = (self.reach, self.reach)
        if self._galaxies < 2 or total[center] < 10 * FEWEST_PIXELS:
            raise ValueError(
                f"expected at least {10 * FEWEST_PIXELS} source-free pixels in 2 or more stamps to measure noise in, "
                f"got {total[center]:.0f} in {self._galaxies}; take larger stamps, or the given noise"
            )
        longest = self._longest = self.max_lag_pix or _longest_lag(total[center], self.reach)
        self._lost = np.zeros_like(total)
        for _ in range(CORRECTIONS):
            self._lost = self._lost_by_detection(self._correlation(np.ones(JACKKNIFE, bool), longest))
        whole = self._correlation(np.ones(JACKKNIFE, bool), longest)
        used = np.flatnonzero(self._pairs[:, *center] > 0)
        parts = [self._correlation(np.arange(JACKKNIFE) != k, longest) for k in used]
        powers = np.array([_band_means(expected_power(part, self.shape), self.shape) for part in parts])
        levels = np.sqrt([_center(part) for part in parts])
        given = _band_means(expected_power(self.given, self.shape), self.shape)
        frequency = _band_means(_bands(self.shape)[1], self.shape)
        return NoiseSpectrum(
            correlation=whole,
            frequency=frequency,
            power=_band_means(expected_power(whole, self.shape), self.shape),
            error=_jackknife(powers),
            given=given,
            level=float(np.sqrt(_center(whole))),
            level_error=float(_jackknife(levels)),
            sky=float(np.sqrt(max(0.0, np.var(self._means) - self._mean_variance(whole)))),
            galaxies=self._galaxies,
            pixels=round(total[center]),
            longest_lag_pix=longest,
        )

    def _work(self) -> None:
        if not self._scatter:
            self._scatter = noise_scatter(self._waiting)
        for image, bad in self._waiting:
            self._stack(image, source_free(image, bad, self._scatter))
        self._waiting = []

    def _stack(self, image: np.ndarray, weight: np.ndarray) -> None:
        if weight.sum() < FEWEST_PIXELS:
            return
        group = self._galaxies % JACKKNIFE
        products, pairs, shares = _stacked(image, weight, self.reach)
        self._products[group] += products
        self._pairs[group] += pairs
        self._shares[group] += shares
        self._means.append((weight * image).sum() / weight.sum())
        self._galaxies += 1

    def _correlation(self, groups: np.ndarray, longest: int) -> np.ndarray:
        """Return measured correlations, with the given ones at long lags."""
        taper = _taper(self.reach, longest)
        stacked = (each[groups].sum(axis=0) for each in (self._products, self._pairs, self._shares))
        measured = _with_mean_restored(*stacked, taper) + self._lost
        side = max(self.reach, len(self.given) // 2)
        given, measured, taper = (_padded(each, side) for each in (self.given, measured, taper))
        given = given * _center(measured) / _center(given)
        return given + taper * (measured - given)

    def _lost_by_detection(self, correlation: np.ndarray) -> np.ndarray:
        """Estimate the bias of correlations as peaks of the noise itself are masked, from noise of that correlation."""
        with_masks, without = (np.zeros((3, *self._pairs.shape[1:])) for _ in range(2))
        none = np.zeros(self.shape, bool)
        for image in _drawn_noise(correlation, self.shape):
            for stack, weight in (
                (with_masks, source_free(image, none, self._scatter)),
                (without, np.ones(self.shape)),
            ):
                if weight.sum() > FEWEST_PIXELS:
                    stack += _stacked(image, weight, self.reach)
        taper = _taper(self.reach, self._longest)
        return _with_mean_restored(*without, taper) - _with_mean_restored(*with_masks, taper)

    def _mean_variance(self, correlation: np.ndarray) -> float:
        """Variance of the mean of a stamp that noise explains."""
        side = len(correlation) // 2
        cut = slice(side - self.reach, side + self.reach + 1)
        shares = self._shares.sum(axis=0) / _center(self._pairs.sum(axis=0))
        return float((shares * correlation[cut, cut]).sum())


def measure_noise(observation: Observation, *, max_lag_pix: int | None = None) -> NoiseSpectrum:
    """Measure the noise spectrum of observations in their source-free pixels.

    Args:
        observation: Stamps with their given noise; white and per-pixel noise are given without correlation. Stamps that
            were filled up with drawn noise (:mod:`hiergal.survey.cosmos`) give that noise back.
        max_lag_pix: The longest lag [pixels]; default as the number of pixels allows.

    Returns:
        The measured noise, relative to the given level of each galaxy.

    Raises:
        ValueError: If too few pixels are free of sources.

    Example:
        >>> from hiergal.survey.cutouts.survey import from_arrays
        >>> stamps = np.random.default_rng(1).normal(size=(20, 32, 32))
        >>> observation = from_arrays(stamps, psf=np.ones((3, 3)) / 9, rms=np.ones(20), pixel_scale_arcsec=0.2)
        >>> abs(measure_noise(observation).level - 1) < 0.05
        True
    """
    shape = observation.image.shape[-2:]
    stack = NoiseStack(shape, given_correlation(observation.noise, shape), max_lag_pix=max_lag_pix)
    add_observation(stack, observation)
    return stack.result()


def add_observation(stack: NoiseStack, observation: Observation, rows: Any = slice(None)) -> None:
    """Add the stamps of an observation, over their given noise level, to a stack."""
    sigma = rms_of_pixels(observation)
    mask = None if observation.mask is None else np.asarray(observation.mask)[rows]
    with np.errstate(divide="ignore", invalid="ignore"):
        stack.add(np.asarray(observation.image)[rows] / sigma[rows], mask)


def rms_of_pixels(observation: Observation) -> Float[np.ndarray, "n y x"]:
    """Return the standard deviation of the given noise in each pixel [flux per pixel].

    Example:
        >>> from hiergal.survey.cutouts.survey import from_arrays
        >>> observation = from_arrays(
        ...     np.zeros((1, 2, 2)), psf=np.ones((1, 1)), rms=np.array([3.0]), pixel_scale_arcsec=0.2
        ... )
        >>> rms_of_pixels(observation).tolist()
        [[[3.0, 3.0], [3.0, 3.0]]]
    """
    sigma = np.asarray(observation.noise.uncorrelated().sigma)
    return np.broadcast_to(sigma if sigma.ndim == 3 else sigma[:, None, None], observation.image.shape)


def given_correlation(noise: NoiseModel, shape: tuple[int, int]) -> np.ndarray | None:
    """Return the correlation that stationary noise states, averaged over galaxies; None for any other noise.

    Args:
        noise: The noise.
        shape: (ny, nx) of the stamps.
    """
    power = None if noise.independent_pixels else noise.power_spectrum(shape)
    if power is None:
        return None
    power = power / np.asarray(noise.rms(), float)[..., None, None] ** 2
    return correlation_of_power(power.mean(axis=0), shape[1])


def _autocorrelation(image: np.ndarray, reach: int) -> np.ndarray:
    """Sum of products of pixels at all lags up to a reach, lag 0 in the center."""
    from scipy.fft import irfft2, next_fast_len, rfft2

    size = [next_fast_len(length + reach, real=True) for length in image.shape]
    product = irfft2(np.abs(rfft2(image, s=size)) ** 2, s=size)
    lag = np.arange(-reach, reach + 1)
    inside = [np.abs(lag) < length for length in image.shape]
    found = product[np.ix_(lag % size[0], lag % size[1])]
    return np.where(np.outer(*inside), found, 0.0)


def _stacked(image: np.ndarray, weight: np.ndarray, reach: int) -> np.ndarray:
    """Return the sums of a stamp for the stack: products, pairs, and shares of each lag in the variance of its mean."""
    total = weight.sum()
    mean = (weight * image).sum() / total
    pairs = _autocorrelation(weight, reach)
    # The variance of the mean is sum(correlation * pairs) / total^2; it counts by the stamp's weight in the stack.
    return np.array(
        [_autocorrelation(weight * (image - mean), reach), pairs, _center(pairs) * pairs / total**2]
    )


def _with_mean_restored(
    products: np.ndarray, pairs: np.ndarray, shares: np.ndarray, taper: np.ndarray
) -> np.ndarray:
    """Return correlations of stacked stamps; a mean that is taken off lowers all of them by its variance."""
    measured = products / np.maximum(pairs, 1e-9)
    shares = taper * shares / max(_center(pairs), 1e-9)
    return measured + (shares * measured).sum() / max(1 - shares.sum(), 0.1)


def _drawn_noise(correlation: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Draw stamps of noise with a correlation function, cut out of periodic fields."""
    rng, side = np.random.default_rng(0), len(correlation) // 2
    size = [2 * length + 2 * side for length in shape]
    lag = np.arange(-side, side + 1)
    periodic = np.zeros(size)
    periodic[np.ix_(lag % size[0], lag % size[1])] = correlation
    amplitude = np.sqrt(np.maximum(np.fft.rfft2(periodic).real, 0))
    ny, nx = shape
    fields = (
        np.fft.irfft2(np.fft.rfft2(rng.normal(size=size)) * amplitude, s=size)
        for _ in range(CALIBRATION_GALAXIES // 4)
    )
    return np.concatenate(
        [[f[:ny, :nx], f[:ny, nx : 2 * nx], f[ny : 2 * ny, :nx], f[ny : 2 * ny, nx : 2 * nx]] for f in fields]
    )


def _longest_lag(pixels: float, reach: int) -> int:
    """Largest lag for which random errors of modes stay below ``MODE_ERROR``: (sum of taper^2 / pixels)^(1/2)."""
    for lag in range(reach, LEAST_LAG_PIX, -1):
        if (_taper(reach, lag) ** 2).sum() < MODE_ERROR**2 * pixels:
            return lag
    return LEAST_LAG_PIX


def _taper(reach: int, longest: int) -> np.ndarray:
    lag = np.arange(-reach, reach + 1)
    distance = np.hypot(lag[:, None], lag) / longest
    return np.cos(0.5 * np.pi * np.clip(2 * distance - 1, 0, 1)) ** 2


def _padded(correlation: np.ndarray, side: int) -> np.ndarray:
    return np.pad(correlation, side - len(correlation) // 2)


def _center(image: np.ndarray) -> float:
    return float(image[len(image) // 2, len(image) // 2])


def _bands(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Band of each mode of the half plane, and its frequency [cycles per pixel]; the last band is the corners."""
    ny, nx = shape
    frequency = np.hypot(np.fft.fftfreq(ny)[:, None], np.fft.rfftfreq(nx))
    return np.minimum((frequency * 2 * BANDS).astype(int), BANDS), frequency


def _band_means(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Mean over the modes of each band, those that stand for a pair counted twice."""
    band, _ = _bands(shape)
    column = np.arange(values.shape[-1])
    alone = (column == 0) | ((shape[1] % 2 == 0) & (column == shape[1] // 2))
    weight = np.broadcast_to(np.where(alone, 1.0, 2.0), values.shape)
    count = np.bincount(band.ravel(), weight.ravel(), BANDS + 1)
    return np.bincount(band.ravel(), (weight * values).ravel(), BANDS + 1) / np.maximum(count, 1e-9)


def _jackknife(parts: np.ndarray) -> np.ndarray:
    """Return the standard error of a number whose values without each of the groups are known."""
    n = len(parts)
    return np.asarray(np.sqrt((n - 1) / n * ((parts - parts.mean(axis=0)) ** 2).sum(axis=0)))
