"""Noise maps, masks and PSFs that cannot be what they are called, named when they are read.

The noise that a map states is compared with the scatter of the pixels along the border of the stamps, where there is
least light of galaxies (median absolute deviation, median over galaxies): an exposure time given as a weight, a
variance
given as a standard deviation, or a level that is a fifth off show themselves there. Nothing is changed but pixels whose
noise is beyond all others, such as 1e15 for bad ones: they hold no data.
"""

import warnings
from collections.abc import Iterable

import numpy as np

from hiergal.observation.observation import Observation
from hiergal.survey.cutouts.psf_stamps import center_offset
from hiergal.survey.noise.spectrum import rms_of_pixels

__all__ = ["MapCheck"]

BORDER = 0.15  # of a stamp's side
TO_SIGMA = 1.4826  # of the median absolute deviation of a normal distribution
OFF = 0.1  # relative, of the noise
SIGNIFICANT = 5.0  # standard errors
FEWEST_PIXELS = 500
FEWEST_GALAXIES = 4
BEYOND = 1e4  # times the median noise of a stamp
MASKED = 0.6
PSF_OFF = 0.5  # pixels


class MapCheck:
    """Plausibility check of noise maps, masks and PSFs, collected while a survey is read and reported at its end."""

    def __init__(self, kind: str) -> None:
        self.kind, self.ratios, self.pixels = kind, [], 0
        self.masked: list[float] = []
        self.beyond, self.offsets = 0, []

    def cleaned(self, observation: Observation) -> Observation:
        """Note what galaxies have, and mask pixels whose noise is beyond all others."""
        image = np.asarray(observation.image)
        mask = np.zeros(image.shape, bool) if observation.mask is None else np.asarray(observation.mask)
        self.masked += mask.mean(axis=(1, 2)).tolist()
        sigma = rms_of_pixels(observation)
        level = np.asarray(
            [np.median(s[~m]) if (~m).any() else np.inf for s, m in zip(sigma, mask, strict=True)]
        )
        beyond = (sigma > BEYOND * level[:, None, None]) & ~mask
        if beyond.any():
            self.beyond += int(beyond.sum())
            mask = mask | beyond
            image = np.where(beyond, 0, image).astype(image.dtype)
            noise = observation.noise.replace_rms(beyond, level)
            observation = observation.replace(image=image, mask=mask, noise=noise)
            sigma = rms_of_pixels(observation)
        self._scatter(image / sigma, mask)
        self.offsets += [np.abs(center_offset(stamp)).max() for stamp in np.asarray(observation.psf.stamp)]
        return observation

    def tell(self) -> None:
        """Warn of implausible values."""
        for words in self._words():
            warnings.warn(words, stacklevel=2)

    def _scatter(self, whitened: np.ndarray, mask: np.ndarray) -> None:
        ny, nx = whitened.shape[1:]
        rim = np.ones((ny, nx), bool)
        dy, dx = max(2, round(BORDER * ny)), max(2, round(BORDER * nx))
        rim[dy : ny - dy, dx : nx - dx] = False
        for stamp, hidden in zip(whitened, mask, strict=True):
            values = stamp[rim & ~hidden]
            if len(values) >= 20:
                self.ratios.append(TO_SIGMA * np.median(np.abs(values - np.median(values))))
                self.pixels += len(values)

    def _words(self) -> Iterable[str]:
        kind = self.kind.upper()
        if self.ratios and self.pixels >= FEWEST_PIXELS:
            ratio = float(np.median(self.ratios))
            error = max(1.2 * np.std(self.ratios), 1.2 * ratio / np.sqrt(self.pixels / len(self.ratios)))
            error /= np.sqrt(len(self.ratios))
            # The wings of galaxies add to the scatter: a few stamps tell little, and more scatter less than too little.
            if len(self.ratios) >= FEWEST_GALAXIES and abs(ratio - 1) > OFF + SIGNIFICANT * error:
                hint = _hint(self.kind, ratio)
                yield (
                    f"{kind}: expected the noise of blank pixels, got {1 / ratio:.3g} times their scatter along the "
                    f"border of stamps ({len(self.ratios)} galaxies, {self.pixels} pixels){hint}"
                )
        masked = float(np.median(self.masked)) if self.masked else 0.0
        if masked > MASKED:
            yield (
                f"MASK: expected a few pixels to be excluded, got {masked:.0%} of a stamp (the median galaxy); is it "
                "inverted? What is excluded has to be 1"
            )
        if self.beyond:
            yield (
                f"{kind}: {self.beyond} pixels have over {BEYOND:g} times the noise of their stamps, and are taken "
                "to hold no data; mask them, or give them infinite noise"
            )
        off = np.array(self.offsets)
        if (off > PSF_OFF).any():
            count = (off > PSF_OFF).sum()
            yield (
                f"PSF: expected its centre on the middle of its stamp, got {off.max():.2g} pixels off (over {PSF_OFF} "
                f"for {count} of {len(off)} galaxies); positions of galaxies are off by as much"
            )


def _hint(kind: str, ratio: float) -> str:
    if kind == "weight" and not 0.5 < ratio < 2:
        return "; is it an exposure time? A weight is 1 / variance"
    if not 0.5 < ratio < 2:
        return "; is it a variance, a standard deviation, or of another unit?"
    return "; posteriors will be as much too wide or too narrow"
