"""A sample to be compared, with everything that was measured on it; and what fits and PSFs of a survey amount to."""

from typing import NamedTuple

import numpy as np
from astropy.table import Table
from jaxtyping import Float, Int

from hiergal.measure.morphology import PAPER_PIX, measure_paper_morphology
from hiergal.measure.power_spectrum import band_limit
from hiergal.observation.observation import Observation
from hiergal.observation.psf import convolve
from hiergal.runtime.progress import progress_bar
from hiergal.runtime.pytree import Array, brief
from hiergal.validation.arms import arms_of
from hiergal.validation.shear import measure_shear
from hiergal.validation.suite import Measured, measure

__all__ = ["Candidate", "candidate_of", "fit_chi_square", "limit_of", "measured_of", "noise_of"]

SHEARED = 400  # galaxies at most
PAPER_SCALE_ARCSEC = 0.03


class Candidate(NamedTuple):
    """A sample of stamps and what was measured on them.

    Attributes:
        images: Stamps [flux per pixel].
        noise_rms: Standard deviation of their noise [flux per pixel].
        profile: Unconvolved profiles behind them [flux per pixel], or None where not known.
        measured: Moments, morphology, sky.
        sheared: Shear responses of the first galaxies.
        paper: Morphology as the paper's figures have it, or None for other pixels or small stamps.
        arms: Azimuthal modes of rings, next to the magnitudes of the survey's galaxies.
        pixel_scale_arcsec: Width of a pixel [arcsec].
    """

    images: Float[Array, "n y x"]
    noise_rms: Float[np.ndarray, "n"]
    profile: Float[Array, "n y x"] | None
    measured: Measured
    sheared: Table
    paper: Table | None
    arms: Table
    pixel_scale_arcsec: float

    def __len__(self) -> int:  # ty: ignore[incompatible-method-override] (of galaxies, not of fields)
        """Return the number of galaxies."""
        return len(self.noise_rms)

    def __getitem__(  # ty: ignore[incompatible-method-override] (of galaxies, not of fields)
        self, rows: Int[np.ndarray, "k"]
    ) -> "Candidate":
        """Return some of the galaxies; of the sheared ones those that are among them."""
        return Candidate(
            self.images[rows],
            self.noise_rms[rows],
            None if self.profile is None else self.profile[rows],
            Measured(*(table[rows] for table in self.measured)),
            self.sheared[rows[rows < len(self.sheared)]],
            None if self.paper is None else self.paper[rows],
            self.arms[rows],
            self.pixel_scale_arcsec,
        )

    __repr__ = brief


def candidate_of(
    name: str,
    images: np.ndarray,
    profile: np.ndarray | None,
    observation: Observation,
    *,
    workers: int | None,
    progress: bool,
) -> Candidate:
    """Measure a sample whose PSFs and noise are those of the observations."""
    measured = measured_of(name, images, observation, workers=workers, progress=progress)
    scale, part = observation.pixel_scale_arcsec, min(SHEARED, len(images))
    with progress_bar(f"{name}, sheared", part, shown=progress) as advance:
        sheared = measure_shear(
            np.asarray(images)[:part],
            observation[np.arange(part)].psf,
            pixel_scale_arcsec=scale,
            workers=workers,
            on_progress=advance,
        )
    paper = None
    if np.isclose(scale, PAPER_SCALE_ARCSEC) and min(np.shape(images)[1:]) >= PAPER_PIX:
        paper = measure_paper_morphology(images, workers=workers)
    arms = arms_of(images, measured.moments, observation)
    return Candidate(
        np.asarray(images), noise_of(observation), profile, measured, sheared, paper, arms, scale
    )


def measured_of(
    name: str, images: np.ndarray, observation: Observation, *, workers: int | None, progress: bool
) -> Measured:
    """Measure stamps whose noise is that of the observations."""
    with progress_bar(name, len(images), shown=progress) as advance:
        return measure(
            np.asarray(images),
            noise_of(observation),
            pixel_scale_arcsec=observation.pixel_scale_arcsec,
            workers=workers,
            on_progress=advance,
        )


def noise_of(observation: Observation) -> Float[np.ndarray, "n"]:
    """Return the standard deviation of the noise of a pixel of each galaxy [flux per pixel]."""
    return np.asarray(observation.noise.rms(), float)


def fit_chi_square(
    profile: Float[Array, "n y x"], observation: Observation
) -> tuple[Float[np.ndarray, "n y x"], Float[np.ndarray, "n"]]:
    """Convolve profiles with the galaxies' PSFs, and compute their chi-square per pixel."""
    image = np.asarray(convolve(np.asarray(profile), observation.psf))
    residual = np.asarray(observation.noise.whiten(observation.image - image, observation.mask))
    used = residual[0].size if observation.mask is None else (~observation.mask).sum(axis=(1, 2))
    return image, (residual**2).sum(axis=(1, 2)) / used


def limit_of(observation: Observation) -> float | None:
    """Return the band limit of a survey [cycles per arcsec], or None where its pixels limit it, not its PSFs."""
    try:
        return band_limit(observation.psf)
    except ValueError:
        return None
