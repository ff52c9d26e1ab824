"""The verdict on a posterior: bits of ``flag``, what each rests on, and by how much.

=====================  ===============================================================================================
bit                    set where
=====================  ===============================================================================================
BAD_OBSERVATION        1: nothing was inferred: pixels, PSF or noise level that cannot be used, or all is masked
BAD_CONDITIONS         2: conditions that are no numbers, or placeholders such as 99 and -99, far from those of all
                       training galaxies: they were not used, and the posterior is that without conditions
CONDITIONS_OUTSIDE     4: conditions outside the trained range, but not far (:mod:`hiergal.model.trained_range`): used
NOT_FINITE             8: a number of the posterior is NaN or infinite
NOT_CONVERGED          16: the mode was not found (more than ``FARTHEST`` standard deviations left), k-hat is above 0.7,
                       or R-hat above ``LARGEST_R_HAT``
MISFIT                 32: residuals, where they matter, exceed the noise ``LARGEST_MISFIT`` times in variance, or the
                       reduced chi-square exceeds ``LARGEST_CHI_SQUARE``, significantly; less counts as noise
FLUX_OUTSIDE           64: flux below or above those of all training galaxies, or more light in the stamp than these
SIZE_OUTSIDE           128: half-light radius outside those of the training galaxies
NOISE_OUTSIDE          256: noise more than ``NOISE_ROOM`` times below or above that of the training galaxies
PSF_OUTSIDE            512: PSF more than ``PSF_ROOM`` times narrower or wider than those of the training galaxies
MASKED_CENTER          1024: half or more of the pixels at the centre, or ``MOST_MASKED`` of the light, is masked
NEIGHBOR               2048: another source is suspected: a blob of light that the fit leaves, or a fit that is
                       brightest away from the centre; try :func:`hiergal.posterior.scenes.deblend`
SKY                    4096: a sky was left in: a level, a gradient or one side of the border
NOISE_LEVEL            8192: far from the galaxy, noise is not as strong as stated
NOISE_CORRELATION      16384: whitened residuals are correlated: the noise has another spectrum than stated
NO_GALAXY              32768: no galaxy is needed to explain the stamp (a signal-to-noise ratio below ``FAINTEST``)
UNUSUAL                65536: latents less probable than all draws from the prior that they were compared with
                       (``p_prior``), and farther out than one in ``1 / RAREST`` of it (``p_latents``, by the squares
                       of the flow's base variables)
=====================  ===============================================================================================

The statistics are in ``checks`` of a :class:`~hiergal.posterior.Posterior`, columns of its table, and ArviZ's
``sample_stats``: those of :mod:`hiergal.posterior.residual_tests`, and of :mod:`hiergal.posterior.fit_checks`
(p-values, of ``DRAWS`` draws against ``REPLICATES`` replicates). Thresholds are from 384 Sersic galaxies that are not
the model's and have nothing wrong (``inference/own_data.py``, other seeds). A bright galaxy always shows structure that
a small generator lacks: thresholds on residuals grow with its signal-to-noise ratio, and a ``misfit`` between one and
``LARGEST_MISFIT``, which widens its posterior (``variance_factor``), is no flag.

Limits of flux, size, noise and PSF are those of the training survey, measured at training, in the model's card; a model
from before has none, and these four bits are not set for it.
"""

from enum import IntFlag
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from hiergal.model.trained import GalaxyModel
from hiergal.observation.observation import Observation
from hiergal.observation.psf import PSF
from hiergal.posterior.residual_tests import RESIDUAL_TESTS
from hiergal.posterior.samplers.importance import LARGEST_K_HAT

if TYPE_CHECKING:
    from hiergal.posterior.posterior import Posterior

__all__ = ["CHECKS", "Flag", "count_flags", "describe_flags", "explain_flags", "flags_of", "psf_width_arcsec"]

DRAWS, REPLICATES = 20, 100
FARTHEST = 4.0  # standard deviations
LARGEST_R_HAT = 1.2
LARGEST_MISFIT, LARGEST_CHI_SQUARE = 12.0, 1.5
NOISE_ROOM, PSF_ROOM = 5.0, 2.0
MOST_MASKED = 0.25
BLOB, BLOB_PER_DETECTION = 6.0, 0.01
FARTHEST_PEAK_ARCSEC = 0.3
# Limits [sigma], and how they grow with the signal-to-noise ratio of the galaxy.
LEVEL_ABOVE, BOTH_ABOVE = (3.1, 0.004), (3.5, 0.0016)
LEVEL_BELOW, BOTH_BELOW, FLOOR = (3.1, 0.002), (3.4, 0.001), 3.5
GRADIENT, BORDER = (4.0, 0.001), (4.8, 0.001)
BORDER_UNKNOWN = 0.6  # of a level in all pixels counts, where the border is full of light
NOISE_SIGNIFICANT, NOISE_LEVEL, NOISE_CORRELATION = 4.0, 0.08, 0.1
FAINTEST = 6.0
RAREST = 1e-7
P_VALUES = ("p_chi_square", "p_coherent", "p_spectrum", "p_prior", "p_pixels", "coherent")
CHECKS = (*RESIDUAL_TESTS, "remaining", *P_VALUES, "p_latents")


class Flag(IntFlag):
    """Bits of a verdict; the table at the top of this page explains each."""

    BAD_OBSERVATION = 1
    BAD_CONDITIONS = 2
    CONDITIONS_OUTSIDE = 4
    NOT_FINITE = 8
    NOT_CONVERGED = 16
    MISFIT = 32
    FLUX_OUTSIDE = 64
    SIZE_OUTSIDE = 128
    NOISE_OUTSIDE = 256
    PSF_OUTSIDE = 512
    MASKED_CENTER = 1024
    NEIGHBOR = 2048
    SKY = 4096
    NOISE_LEVEL = 8192
    NOISE_CORRELATION = 16384
    NO_GALAXY = 32768
    UNUSUAL = 65536


MEANINGS = {
    Flag.BAD_OBSERVATION: "Nothing was inferred: pixels, PSF or noise cannot be used.",
    Flag.BAD_CONDITIONS: "Conditions are no numbers, or far from the trained range, and were not used.",
    Flag.CONDITIONS_OUTSIDE: "Conditions are outside the trained range.",
    Flag.NOT_FINITE: "A number of the posterior is not finite.",
    Flag.NOT_CONVERGED: "The sampler has not converged.",
    Flag.MISFIT: "Residuals exceed the noise by far.",
    Flag.FLUX_OUTSIDE: "Flux outside that of the training galaxies.",
    Flag.SIZE_OUTSIDE: "Half-light radius outside that of the training galaxies.",
    Flag.NOISE_OUTSIDE: "Noise outside that of the training galaxies.",
    Flag.PSF_OUTSIDE: "PSF outside those of the training galaxies.",
    Flag.MASKED_CENTER: "Much of the galaxy is masked.",
    Flag.NEIGHBOR: "Another source is suspected.",
    Flag.SKY: "A sky was left in the stamp.",
    Flag.NOISE_LEVEL: "The noise is not as strong as stated.",
    Flag.NOISE_CORRELATION: "The noise is correlated otherwise than stated.",
    Flag.NO_GALAXY: "The stamp shows no significant galaxy.",
    Flag.UNUSUAL: "The galaxy is unlike those of the training survey.",
}


def flags_of(model: GalaxyModel, observation: Observation, posterior: "Posterior") -> Int[np.ndarray, "n"]:
    """Judge posteriors by their statistics.

    Args:
        model: The model that inferred them.
        observation: The galaxies.
        posterior: Their posteriors, with ``checks``.

    Returns:
        Bits of :class:`Flag`, without those of conditions.

    Example:
        >>> flag = flags_of(model, observation, posterior)
        >>> suspected = (flag & Flag.NEIGHBOR) != 0
    """
    checks = {name: np.asarray(value, float) for name, value in posterior.checks.items()}
    with np.errstate(all="ignore"):
        bits = _bits(model, observation, posterior, checks)
    flag = np.zeros(len(posterior), np.int32)
    for bit, where in bits.items():
        flag[where] |= bit
    return flag


def count_flags(flag: Int[np.ndarray, "n"]) -> dict[str, int]:
    """Count galaxies with each bit, by its name; bits that no galaxy has are left out.

    Example:
        >>> count_flags(np.array([0, 1, 3]))
        {'BAD_OBSERVATION': 2, 'BAD_CONDITIONS': 1}
    """
    flag = np.asarray(flag)
    counts = {bit.name: int(((flag & bit) != 0).sum()) for bit in Flag}
    return {name: count for name, count in counts.items() if count}


def describe_flags(flag: Int[np.ndarray, "n"]) -> str:
    """Describe in words how many galaxies are flagged, and for what.

    Example:
        >>> describe_flags(np.array([0, 1, 3]))
        '2 of 3 flagged (BAD_OBSERVATION 2, BAD_CONDITIONS 1)'
        >>> describe_flags(np.array([0, 0]))
        'none flagged'
    """
    flag = np.asarray(flag)
    counts = ", ".join(f"{name} {count}" for name, count in count_flags(flag).items())
    return f"{int((flag != 0).sum())} of {len(flag)} flagged ({counts})" if counts else "none flagged"


def explain_flags(flag: int) -> list[str]:
    """Describe the flags of one galaxy, a sentence for each bit.

    Args:
        flag: Its flag.

    Example:
        >>> explain_flags(Flag.NEIGHBOR | Flag.PSF_OUTSIDE)
        ['PSF outside those of the training galaxies.', 'Another source is suspected.']
    """
    return [MEANINGS[bit] for bit in Flag if flag & bit]


def psf_width_arcsec(psf: PSF) -> Float[np.ndarray, "n"]:
    """Measure the width of PSFs: the full width at half maximum of a Gaussian of the same noise-equivalent area.

    Example:
        >>> y, x = np.mgrid[-20:21, -20:21]
        >>> stamp = np.exp(-0.5 * (x**2 + y**2) / 3.0**2)
        >>> round(float(psf_width_arcsec(PSF((stamp / stamp.sum())[None], pixel_scale_arcsec=0.1))[0]), 3)
        0.706
    """
    stamp = np.asarray(psf.stamp, float)
    area = 1 / np.sum(stamp**2, axis=(-2, -1))
    return 2 * np.sqrt(2 * np.log(2)) * np.sqrt(area / (4 * np.pi)) * psf.pixel_scale_arcsec


def _bits(
    model: GalaxyModel, observation: Observation, posterior: "Posterior", checks: dict[str, np.ndarray]
) -> dict[Flag, np.ndarray]:
    summary = {name: np.asarray(getattr(posterior.summary, name), float) for name in ("flux", "hlr_arcsec")}
    numbers = [
        np.asarray(getattr(posterior.summary, name)) for name in posterior.summary.__dataclass_fields__
    ]
    finite = np.all([np.isfinite(values).all(axis=0) for values in numbers], axis=0)
    finite &= np.isfinite(posterior.profile_mean).all(axis=(1, 2)) & np.isfinite(posterior.chi_square)
    found, detection = posterior.statistics, np.nan_to_num(checks["detection"])
    nothing = np.full(len(posterior), np.nan)
    k_hat, r_hat = (np.asarray(found.get(name, nothing), float) for name in ("k_hat", "r_hat"))
    by_nuts = np.isfinite(r_hat)
    lost = np.where(by_nuts, r_hat > LARGEST_R_HAT, np.isposinf(k_hat) | (k_hat > LARGEST_K_HAT))
    lost |= (checks["remaining"] > FARTHEST) & ~by_nuts & ~np.isfinite(k_hat)
    chi_square = np.asarray(posterior.chi_square, float)
    misfit = np.asarray(posterior.misfit, float) > LARGEST_MISFIT
    misfit |= (chi_square > LARGEST_CHI_SQUARE) & (checks["p_chi_square"] < 1e-3)
    level, shift = checks["noise_factor"], checks["noise_correlation"]
    bits = {
        Flag.NOT_FINITE: ~finite,
        Flag.NOT_CONVERGED: lost,
        Flag.MISFIT: misfit | np.isnan(chi_square),
        Flag.MASKED_CENTER: (checks["masked_center"] >= 0.5) | (checks["masked_light"] >= MOST_MASKED),
        Flag.NEIGHBOR: (checks["second_source"] > np.hypot(BLOB, BLOB_PER_DETECTION * detection))
        | ((checks["peak_offset_arcsec"] > FARTHEST_PEAK_ARCSEC) & (detection > FAINTEST)),
        Flag.SKY: _sky(checks, detection),
        Flag.NOISE_LEVEL: (np.abs(level - 1) > NOISE_LEVEL)
        & (np.abs(level - 1) > NOISE_SIGNIFICANT * checks["noise_factor_error"]),
        Flag.NOISE_CORRELATION: (np.abs(shift) > NOISE_CORRELATION)
        & (np.abs(shift) > NOISE_SIGNIFICANT * checks["noise_correlation_error"]),
        Flag.NO_GALAXY: detection < FAINTEST,
        Flag.UNUSUAL: (checks["p_prior"] < 1.5 / (REPLICATES + 1)) & (checks["p_latents"] < RAREST),
    }
    return bits | _outside(model, observation, summary, checks)


def _sky(checks: dict[str, np.ndarray], detection: np.ndarray) -> np.ndarray:
    """Whether a sky was left in.

    Wings that a generator lacks are light that is left over, more of it in brighter galaxies: limits grow with these.
    """
    border, whole = checks["sky"] / checks["sky_error"], checks["sky_everywhere"]
    both = np.where(np.isnan(border), BORDER_UNKNOWN * whole, 0.5 * (border + whole))

    def limit(sigma: float, per_detection: float) -> np.ndarray:
        return sigma * np.hypot(1.0, per_detection * detection)

    above = (border > limit(*LEVEL_ABOVE)) | (both > limit(*BOTH_ABOVE))
    below = (border < -limit(*LEVEL_BELOW)) | (both < -limit(*BOTH_BELOW)) | (checks["floor"] < -FLOOR)
    uneven = (checks["sky_gradient"] > limit(*GRADIENT)) | (checks["border"] > limit(*BORDER))
    return above | below | uneven


def _outside(
    model: GalaxyModel,
    observation: Observation,
    summary: dict[str, np.ndarray],
    checks: dict[str, np.ndarray],
) -> dict[Flag, np.ndarray]:
    """Flags of galaxies outside the trained ranges, where the model has them."""
    ranges: dict[str, Any] = model.provenance.trained_ranges
    bits = {}
    for name, bit in (("flux", Flag.FLUX_OUTSIDE), ("hlr_arcsec", Flag.SIZE_OUTSIDE)):
        if name in ranges:
            low, high = ranges[name]
            mean, error = summary[name].mean(axis=0), summary[name].std(axis=0)
            bits[bit] = (mean - 2 * error > high) | (mean + 2 * error < low)
    if "flux" in ranges:
        bits[Flag.FLUX_OUTSIDE] |= checks["stamp_light"] > 1.1 * ranges["flux"][1]
    measured = {
        "noise_level": (Flag.NOISE_OUTSIDE, NOISE_ROOM, lambda: np.asarray(observation.noise.rms(), float)),
        "psf_fwhm_arcsec": (Flag.PSF_OUTSIDE, PSF_ROOM, lambda: psf_width_arcsec(observation.psf)),
    }
    for name, (bit, room, value) in measured.items():
        if name in ranges:
            low, high = ranges[name]
            here = value()
            bits[bit] = ~((here >= low / room) & (here <= high * room))
    return bits
