"""Degraded surveys: wider PSFs and more noise, from a sharper survey.

For the open test of Lanusse et al. (2020, Sec. 6): train on the degraded survey, draw galaxies, and compare them with
the sharper stamps. What the generator puts beyond its own survey's band limit is then measured, not believed.
"""

from functools import partial
from pathlib import Path

import jax
import msgspec
import numpy as np
from jaxtyping import Float

from hiergal.observation.observation import Observation
from hiergal.observation.psf import FWHM_PER_SIGMA, PSF, gaussian_transfer
from hiergal.observation.stationary import StationaryNoise
from hiergal.runtime.seeds import check_seed
from hiergal.survey.arrays import Batch
from hiergal.survey.prepare import prepare_store
from hiergal.survey.schema import digest_of_store
from hiergal.survey.store import SurveyStore, open_survey

__all__ = ["DEGRADED", "degrade_survey", "degrade_observation"]

DEGRADED = "degraded_"  # begins what the provenance of a degraded survey says beyond its source's
REACH = 3.0  # of the added blur on a PSF's stamp [standard deviations]


def degrade_survey(
    source: str | Path,
    out: str | Path,
    *,
    fwhm_arcsec: float,
    noise_factor: float = 1.0,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = False,
    overwrite: bool = False,
) -> SurveyStore:
    """Write a survey as an instrument of worse resolution would have it; truths and catalogue stay.

    Args:
        source: Store of the sharper survey.
        out: The store to write.
        fwhm_arcsec: Width of the round Gaussian that images and PSFs are blurred with [arcsec].
        noise_factor: Noise of a pixel over that of the source, at least 1.
        seed: Seed of the added noise.
        workers: Number of processes, or None for one per available core.
        progress: Whether to show a progress bar.
        overwrite: Whether to replace a store that is there.

    Raises:
        ValueError: If the width is not positive, the factor below 1, or the noise has no power spectrum.

    Example:
        >>> len(degrade_survey(survey.path, "blurred.zarr", fwhm_arcsec=0.15, workers=1))
        40
    """
    check_seed(seed)
    store = open_survey(source)
    _power_of(store.read([0]), store.path.name)
    added = {"fwhm_arcsec": fwhm_arcsec, "noise_factor": noise_factor, "seed": seed}
    provenance = dict(store.header.provenance) | {f"{DEGRADED}{name}": value for name, value in added.items()}
    header = msgspec.structs.replace(store.header, provenance=provenance)
    draw = partial(_degraded_batch, path=str(store.path.absolute()), **added)
    return prepare_store(
        out,
        header,
        draw,
        len(store),
        workers=workers,
        inputs={digest_of_store(store.path): store.path},
        progress=progress,
        overwrite=overwrite,
    )


def degrade_observation(
    observation: Observation, *, fwhm_arcsec: float, noise_factor: float = 1.0, rng: np.random.Generator
) -> Observation:
    """Blur observations, and add white noise.

    Images and their noise are blurred periodically, so that the noise stays exactly stationary; light within a few
    widths of the edge of a stamp comes back at the other side.

    Args:
        observation: Galaxies with white or stationary noise, or any other that has a power spectrum.
        fwhm_arcsec: Width of the round Gaussian [arcsec].
        noise_factor: Noise of a pixel over what it was, at least 1.
        rng: Source of the added noise.

    Raises:
        ValueError: If the width is not positive, the factor below 1, or the noise has no power spectrum.

    Example:
        >>> from hiergal.survey.mock.galaxies import draw_mock
        >>> sharp = draw_mock(3, seed=1, stamp=32).observation
        >>> worse = degrade_observation(sharp, fwhm_arcsec=0.1, noise_factor=2.0, rng=np.random.default_rng(1))
        >>> np.round(worse.noise.rms() / sharp.noise.rms(), 3).tolist()
        [2.0, 2.0, 2.0]
    """
    if not fwhm_arcsec > 0 or not noise_factor >= 1:
        raise ValueError(
            f"expected a positive fwhm_arcsec and a noise_factor of at least 1, got {fwhm_arcsec} and {noise_factor}"
        )
    ny, nx = observation.image.shape[1:]
    fwhm_pix = fwhm_arcsec / observation.pixel_scale_arcsec
    blur, level = gaussian_transfer(fwhm_pix, (ny, nx)), np.asarray(observation.noise.rms(), float)
    power = _power_of(observation, "noise")
    blurred = StationaryNoise((power * blur**2).astype(np.float32), width=nx)
    added = np.sqrt((noise_factor * level) ** 2 - np.asarray(blurred.rms(), float) ** 2)
    image = np.fft.irfft2(np.fft.rfft2(np.asarray(observation.image, float)) * blur, s=(ny, nx))
    image += added[:, None, None] * rng.normal(size=image.shape)
    noise = StationaryNoise((blurred.power + added[:, None, None] ** 2).astype(np.float32), width=nx)
    return observation.replace(
        image=image.astype(np.float32), noise=noise, psf=_blurred(observation.psf, fwhm_pix)
    )


def _power_of(observation: Observation, what: str) -> Float[np.ndarray, "n y fx"]:
    """The power spectrum of the noise, which a blur multiplies."""
    power = observation.noise.power_spectrum(observation.image.shape[1:])
    if power is None:
        raise ValueError(
            f"{what}: expected white or stationary noise, or another with a power spectrum, got "
            f"{type(observation.noise).__name__}, which is of no known kind once it is blurred"
        )
    return power


def _degraded_batch(first: int, count: int, *, path: str, seed: int, **changes: float) -> Batch:
    """Degrade some galaxies of a store; each has noise of its own, whatever the batches."""
    store = open_survey(path)
    rows = np.arange(first, first + count)
    several = [
        degrade_observation(store.read([row]), rng=np.random.default_rng((seed, int(row))), **changes)
        for row in rows
    ]
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *several)
    return joined, store.truth(rows) if store.has_truth else None


def _blurred(psf: PSF, fwhm_pix: float) -> PSF:
    """Convolve PSFs with a Gaussian, on stamps that are larger by its reach."""
    margin = int(np.ceil(REACH * fwhm_pix / FWHM_PER_SIGMA))
    stamp: Float[np.ndarray, "n y x"] = np.pad(
        np.asarray(psf.stamp, float), ((0, 0), (margin, margin), (margin, margin))
    )
    shape = stamp.shape[1:]
    blurred = np.fft.irfft2(np.fft.rfft2(stamp) * gaussian_transfer(fwhm_pix, shape), s=shape)
    return psf.replace(stamp=(blurred / blurred.sum(axis=(1, 2), keepdims=True)).astype(np.float32))
