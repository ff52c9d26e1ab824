"""The mock survey: galaxies like those of HST/ACS in COSMOS, of which the truth is known.

Each galaxy has its own PSF, noise level, structure and sub-pixel centre. Its light does not end at the stamp: its
profile is on the plane, of which the stamp shows a part. The observed stamp is that profile, convolved with its
effective PSF, plus noise (Eq. 1 of Lanusse et al. 2020), so that light from outside the stamp is scattered into it. The
truth (unconvolved profile on the grid of the stamp) is kept next to each stamp. Correlated noise has the power spectrum
of the COSMOS images as GalSim distributes it.

Every galaxy draws from streams of its own, so the result depends on neither the number of workers nor the batches;
the same seed shows the same galaxies on stamps of any size.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import joblib
import numpy as np
import scipy.fft
from jaxtyping import Float

from hiergal.observation.independent import WhiteNoise
from hiergal.observation.observation import Observation
from hiergal.observation.psf import PSF
from hiergal.observation.stationary import StationaryNoise
from hiergal.runtime.pytree import Array, Record, record
from hiergal.runtime.seeds import check_seed
from hiergal.survey.mock.optics import PIXEL_SCALE_ARCSEC, draw_psf, psf_bank
from hiergal.survey.mock.population import draw_population, random_stream
from hiergal.survey.mock.profiles import render
from hiergal.survey.mock.structure import build_galaxy
from hiergal.survey.noise.correlation import noise_power

__all__ = ["MockBatch", "cosmos_noise_power", "draw_batch", "draw_mock"]

CATALOG, STRUCTURE, OPTICS, NOISE = range(4)  # purposes of the random streams
SMALLEST_STAMP = 32
POWER_FLOOR = 1e-4  # of the highest mode


@record
class MockBatch(Record):
    """Mock observations with their truths.

    Attributes:
        observation: What a survey would know.
        truth: Unconvolved profiles [flux per pixel], on the grid of the images; what lies outside is not in it, while
            ``flux`` of the catalogue is that of the whole plane.
    """

    observation: Observation
    truth: Float[Array, "n y x"]


def draw_mock(
    n: int,
    *,
    seed: int,
    stamp: int | tuple[int, int] = 64,
    noise: str = "correlated",
    workers: int | None = None,
    first: int = 0,
    on_progress: Callable[[int], None] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> MockBatch:
    """Draw galaxies of the mock survey.

    Args:
        n: Number of galaxies.
        seed: Seed of the survey.
        stamp: Pixels along each side, or (ny, nx); a pixel is 0.03 arcsec.
        noise: ``"correlated"`` as in ACS images, or ``"white"``.
        workers: Number of threads, or None for one per available core.
        first: Number of the first galaxy: batches of one survey follow each other.
        on_progress: Called with the number of galaxies done since the last call.
        parameters: Numbers of another population, as :func:`population_parameters` gives them.

    Returns:
        Observations (float32 NumPy arrays, identifiers from ``first`` on) and truths.

    Raises:
        ValueError: If the stamp is too small or the noise unknown.

    Example:
        >>> batch = draw_mock(3, seed=1, stamp=(32, 40), noise="white")
        >>> batch.truth.shape, sorted(batch.observation.catalog)[:3]
        ((3, 32, 40), ['axis_ratio', 'bulge_fraction', 'flux'])
    """
    check_seed(seed)
    shape = (stamp, stamp) if isinstance(stamp, int) else tuple(stamp)
    if min(shape) < SMALLEST_STAMP:
        raise ValueError(f"stamp: expected at least {SMALLEST_STAMP} pixels along each side, got {shape}")
    if noise not in ("correlated", "white"):
        raise ValueError(f"noise: expected 'correlated' or 'white', got {noise!r}")
    columns = draw_population(n, seed=seed, first=first, parameters=parameters)
    spectrum = cosmos_noise_power(shape) if noise == "correlated" else np.ones((shape[0], shape[1] // 2 + 1))
    amplitude, bank = np.sqrt(spectrum), psf_bank()
    image, truth = np.empty((n, *shape), np.float32), np.empty((n, *shape), np.float32)
    psf = np.empty((n, *bank.shape[1:]), np.float32)
    my, mx = (size // 2 for size in bank.shape[1:])

    def draw(i: int) -> None:
        galaxy = build_galaxy(
            {name: float(column[i]) for name, column in columns.items()},
            random_stream(seed, first + i, STRUCTURE),
            parameters,
        )
        # A margin as wide as the PSF reaches, for the light that it scatters into the stamp.
        plane = render(galaxy, (shape[0] + 2 * my, shape[1] + 2 * mx))
        truth[i] = plane[my : my + shape[0], mx : mx + shape[1]]
        psf[i] = draw_psf(random_stream(seed, first + i, OPTICS), bank)
        white = random_stream(seed, first + i, NOISE).standard_normal(shape, np.float32)
        noise_image = scipy.fft.irfft2(scipy.fft.rfft2(white) * amplitude, s=shape)
        image[i] = _blurred(plane, psf[i]) + columns["noise_rms"][i] * noise_image

    with ThreadPoolExecutor(workers or joblib.cpu_count()) as pool:
        for _ in pool.map(draw, range(n)):
            if on_progress is not None:
                on_progress(1)
    catalog = {name: column.astype(np.float32) for name, column in columns.items()}
    rms = catalog["noise_rms"]
    noise_model = (
        WhiteNoise(rms)
        if noise == "white"
        else StationaryNoise((rms[:, None, None] ** 2 * spectrum).astype(np.float32), width=shape[1])
    )
    observation = Observation(
        image,
        PSF(psf, pixel_scale_arcsec=PIXEL_SCALE_ARCSEC),
        noise_model,
        None,
        catalog,
        np.arange(first, first + n),
        pixel_scale_arcsec=PIXEL_SCALE_ARCSEC,
    )
    return MockBatch(observation, truth)


def draw_batch(
    first: int, count: int, *, seed: int, stamp: int, noise: str
) -> tuple[Observation, Float[Array, "n y x"]]:
    """Draw galaxies of the mock survey as :func:`~hiergal.survey.prepare.prepare_store` takes them, in one thread.

    Args:
        first: Number of the first galaxy.
        count: Number of galaxies.
        seed: Seed of the survey.
        stamp: Pixels along each side.
        noise: ``"correlated"`` or ``"white"``.

    Returns:
        Observations and truths.
    """
    check_seed(seed)
    batch = draw_mock(count, seed=seed, stamp=stamp, noise=noise, workers=1, first=first)
    return batch.observation, batch.truth


@cache
def cosmos_noise_power(shape: tuple[int, int]) -> Float[np.ndarray, "y fx"]:
    """Compute the power spectrum of COSMOS noise of unit variance, periodic on a stamp.

    Args:
        shape: (ny, nx) of the stamp.

    Returns:
        Power on the half plane of ``rfft2``; the average over all modes is 1.

    Example:
        >>> cosmos_noise_power((64, 64)).shape
        (64, 33)
    """
    import galsim

    shape_only = galsim.getCOSMOSNoise().withVariance(1.0)
    power = noise_power(shape_only, shape, PIXEL_SCALE_ARCSEC, "expected")
    power = np.maximum(power, POWER_FLOOR * power.max())
    weight = np.full(power.shape[1], 2.0)  # modes of the half plane stand for two, except for the real ones
    weight[0] = 1
    if shape[1] % 2 == 0:
        weight[-1] = 1
    power /= (power * weight).sum() / (shape[0] * shape[1])
    power.setflags(write=False)
    return power


def _blurred(plane: np.ndarray, psf: np.ndarray) -> np.ndarray:
    """Convolve a profile with a PSF of odd size, and keep what depends on no light beyond its edges.

    NumPy's transforms, so that threads stay clear of JAX. What wraps around the edges falls onto the margin.
    """
    grid = [scipy.fft.next_fast_len(size, real=True) for size in plane.shape]
    image = scipy.fft.irfft2(scipy.fft.rfft2(plane, s=grid) * scipy.fft.rfft2(psf, s=grid), s=grid)
    return image[psf.shape[0] - 1 : plane.shape[0], psf.shape[1] - 1 : plane.shape[1]]
