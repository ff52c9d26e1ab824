"""Shear response of galaxies: stamps sheared by a known amount, and measured by metacalibration.

Weak lensing calibrates its measurements on simulated galaxies, so these must answer to shear as real ones do. Noisy,
PSF-convolved stamps of any origin, with PSFs and noise alike, go through one pipeline, and it is asked whether its
calibration is the same on all of them:

1. The truth: a stamp is deconvolved from its own PSF, sheared by +shear and by -shear, and convolved with a target PSF,
   a round Gaussian just wide enough that no frequency of the stamp, and so no noise, is amplified.
2. Metacalibration of each of the two images (Huff & Mandelbaum 2017; Sheldon & Huff 2017): deconvolved from the target,
   sheared by +step and -step, convolved with a slightly wider Gaussian. The change of the ellipticity over 2 step is
   the response of a galaxy. The same without a shear gives the ellipticity whose response that is.

The ellipticity is the reduced shear g1 = (1 - q) / (1 + q) cos(2 angle) of adaptive moments (Hirata & Seljak 2003).
All shears are along the x axis: galaxies are turned at random, and the other component would say the same.

Not corrected: the noise of a stamp, correlated by all this, is sheared as if it were part of the galaxy, in truth and
metacalibration alike; the scene ends at the edge of the stamp. That is common to samples with like noise and stamps:
only their comparison means anything. Nor can much of a multiplicative bias arise, whatever the galaxies: it checks the
pipeline. A calibration on simulated galaxies errs by the difference of the responses.
"""

import math
from collections.abc import Callable
from enum import IntFlag
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from astropy.table import Table
from jaxtyping import Float

from hiergal.observation.psf import FWHM_PER_SIGMA, PSF
from hiergal.runtime.pytree import Array
from hiergal.runtime.verdict import ALPHA, Verdict, checked, exchange_verdict
from hiergal.runtime.workers import in_order
from hiergal.validation.two_sample import mean_test, wasserstein_test

if TYPE_CHECKING:
    import galsim

__all__ = ["ShearBias", "ShearFlag", "measure_shear", "shear_bias", "shear_tests"]

COLUMNS = ("response", "difference", "g1", "sigma")
GALAXIES_PER_TASK = 32  # stamps that a process takes at once
FAINTEST_TRANSFER = 1e-3  # of a Gaussian, where GalSim cuts it off
AMPLIFICATION = 1.1  # of a frequency, at most: the faint wings of a PSF are wider than any Gaussian
SMALLEST_PIX = 1.2  # standard deviation of a Gaussian that pixels sample well
MARGIN_SIGMAS = 4  # of the target, around the stamp
FIRST_GUESS = (
    1 / 6
)  # of the stamp, for sigma: from wide weights, half as many moments fail to converge as from narrow
LARGEST_SHEAR = 0.1

Stamp = Float[np.ndarray, "y x"]


class ShearFlag(IntFlag):
    """Reasons of a failed measurement of a stamp; 0 if it succeeded."""

    NOT_FINITE = 1  # NaN or infinity in the stamp or its PSF
    NO_MOMENTS = 2  # adaptive moments of an image do not converge, or are those of negative light


class ShearBias(NamedTuple):
    """Multiplicative bias of a pipeline on a sample, and its standard error (jackknife over galaxies)."""

    bias: float
    error: float


class _Setup(NamedTuple):
    pixel_scale_arcsec: float
    psf_scale_arcsec: float
    shear: float
    step: float
    target_fwhm_arcsec: float | None


def measure_shear(
    images: Float[Array, "n y x"],
    psf: PSF,
    *,
    pixel_scale_arcsec: float,
    shear: float = 0.02,
    step: float = 0.01,
    target_fwhm_arcsec: float | None = None,
    workers: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Table:
    """Shear stamps by a known amount, and measure what metacalibration makes of it.

    Args:
        images: Stamps without background [flux per pixel], each with its galaxy near the centre.
        psf: Effective PSF of each galaxy.
        pixel_scale_arcsec: Width of a pixel [arcsec].
        shear: Known shear g1, applied with both signs.
        step: Shear of metacalibration, applied with both signs.
        target_fwhm_arcsec: Full width at half maximum of the target PSF [arcsec], or None for the narrowest that
            does not amplify noise, for each stamp its own.
        workers: Number of processes, or None for one per available core.
        on_progress: Called with the number of stamps done since the last call.

    Returns:
        One row for each stamp: ``response`` (change of g1 per unit of shear by metacalibration, mean of the two
        images), ``difference`` (g1 of the positively sheared image less that of the other), ``g1`` and ``sigma``
        (determinant radius [arcsec]; both of the reconvolved image, mean of the two), and ``flag``
        (:class:`ShearFlag`). ``shear`` and ``step`` are in the table's meta.

    Raises:
        ValueError: If shapes do not agree, a shear is not between 0 and 0.1, or a width not positive.

    Example:
        >>> y, x = np.mgrid[-24:25, -24:25]
        >>> star, blob = (np.exp(-0.5 * (x**2 + y**2) / sigma**2)[None] for sigma in (2, 5))
        >>> psf = PSF(star / star.sum(), pixel_scale_arcsec=0.03)
        >>> table = measure_shear(blob, psf, pixel_scale_arcsec=0.03)
        >>> round(float(table["difference"][0] / table["response"][0]), 3)
        0.04
    """
    setup = _Setup(pixel_scale_arcsec, psf.pixel_scale_arcsec, shear, step, target_fwhm_arcsec)
    images = np.asarray(images, float)
    _check(images, psf, setup)
    stamps, rows = np.asarray(psf.stamp, float), []
    spans = [slice(first, first + GALAXIES_PER_TASK) for first in range(0, len(images), GALAXIES_PER_TASK)]
    for several in in_order(_rows, [(setup, images[s], stamps[s]) for s in spans], workers=workers):
        rows += several
        if on_progress is not None:
            on_progress(len(several))
    values = np.reshape(rows, (len(rows), len(COLUMNS) + 1))
    table = Table(values[:, :-1], names=COLUMNS)
    table["flag"] = values[:, -1].astype(int)
    table["sigma"].unit = "arcsec"
    table.meta |= {"method": "metacalibration of adaptive moments", "shear": shear, "step": step}
    return table


def shear_bias(table: Table) -> ShearBias:
    """Estimate the multiplicative bias m: the shear found is 1 + m times the true one.

    Args:
        table: Measurements of a sample, from :func:`measure_shear`; rows with a flag are left out.

    Raises:
        ValueError: If fewer than two measurements succeeded.

    Example:
        >>> table = Table({"response": [0.8, 0.7, 0.9], "difference": [0.033, 0.027, 0.037], "flag": [0, 0, 0]})
        >>> table.meta["shear"] = 0.02
        >>> found = shear_bias(table)
        >>> round(found.bias, 4), round(found.error, 4)
        (0.0104, 0.0196)
    """
    difference, response = _good(table, "table").T
    n, truth = len(response), 2 * table.meta["shear"]
    without = (difference.sum() - difference) / (response.sum() - response) / truth
    error = np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    return ShearBias(float(difference.sum() / response.sum() / truth - 1), float(error))


def shear_tests(real: Table, other: Table, *, seed: int = 0, alpha: float = ALPHA) -> list[Verdict]:
    """Compare the shear calibration of one sample with that of the other.

    Args:
        real: Measurements of real galaxies, from :func:`measure_shear`; rows with a flag are left out.
        other: Measurements of the sample to be judged.
        seed: Seed of exchanges and bootstrap.
        alpha: Chance of a false alarm of each verdict.

    Returns:
        ``shear bias (metacalibration)``, the difference of the multiplicative biases without its sign; ``mean shear
        response``, by how much real shears would be underestimated, to first order, if the mean response of the other
        sample calibrated them; ``shear response (Wasserstein)``, the distance between the distributions of responses.

    Raises:
        ValueError: If fewer than two measurements of a sample succeeded, or samples were sheared differently.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> columns = {"response": rng.normal(0.8, 0.1, 300), "flag": np.zeros(300, int)}
        >>> columns["difference"] = 0.04 * columns["response"] + rng.normal(0, 1e-4, 300)
        >>> table = Table(columns, meta={"shear": 0.02, "step": 0.01})
        >>> [verdict.passed for verdict in shear_tests(table[:140], table[140:])]
        [True, True, True]
    """
    ours, theirs = ({name: t.meta.get(name) for name in ("shear", "step")} for t in (real, other))
    if ours != theirs:
        raise ValueError(f"other: expected the shears of real, {ours}, got {theirs}; measure both alike")
    here, there = checked(_good(real, "real"), _good(other, "other"))
    pooled, truth = np.concatenate([here, there]), 2 * ours["shear"]
    biases = shear_bias(real), shear_bias(other)

    def apart(labels: Float[np.ndarray, "k nm"]) -> Float[np.ndarray, "k"]:
        first, second = np.maximum(labels, 0) @ pooled, np.maximum(-labels, 0) @ pooled
        return np.abs(second[:, 0] / second[:, 1] - first[:, 0] / first[:, 1]) / truth

    bias = exchange_verdict(
        "shear bias (metacalibration)",
        apart,
        len(pooled),
        len(here),
        lambda found, error, expected: (
            f"multiplicative shear bias differs by {found:.5f} +- {error:.5f}, {expected:.5f} for one population; "
            f"it is {biases[0].bias:+.5f} of real, {biases[1].bias:+.5f} of other galaxies"
        ),
        error=lambda found, rng: float(np.hypot(biases[0].error, biases[1].error)),
        rng=np.random.default_rng(seed),
        alpha=alpha,
    )
    here, there = here[:, 1], there[:, 1]
    mean = mean_test(here, there, "shear response", seed=seed, alpha=alpha)
    return [bias, mean, wasserstein_test(here, there, "shear response", seed=seed, alpha=alpha)]


def _rows(setup: _Setup, images: Array, psfs: Array) -> list[list[float]]:
    return [_row(setup, *stamp) for stamp in zip(images, psfs, strict=True)]


def _row(setup: _Setup, image: Stamp, psf: Float[np.ndarray, "py px"]) -> list[float]:
    """Measure one stamp; NaN where something fails, and the flag last."""
    import galsim

    failed = [float("nan")] * len(COLUMNS)
    if not (np.isfinite(image).all() and np.isfinite(psf).all()):
        return [*failed, ShearFlag.NOT_FINITE]
    target = galsim.Gaussian(sigma=_target_sigma(setup, psf))
    # Shear brings frequencies in from beyond those that the target lets through: wider by as much again, they stay out.
    wider = galsim.Gaussian(sigma=target.sigma * (1 + 2 * setup.step))
    light, blur = _profile(image, setup.pixel_scale_arcsec), _profile(psf, setup.psf_scale_arcsec)
    intrinsic = galsim.Convolve(light, galsim.Deconvolve(blur))
    # An edge that cuts what the truth has moved would itself be sheared by metacalibration only.
    margin = MARGIN_SIGMAS * target.sigma / setup.pixel_scale_arcsec
    shape = tuple(size + 2 * math.ceil(setup.shear * size / 2 + margin) for size in image.shape)
    guess_pix, moments = FIRST_GUESS * min(image.shape), []
    for truth in (setup.shear, -setup.shear):
        seen = _drawn(setup, galsim.Convolve(intrinsic.shear(g1=truth), target), shape)
        again = galsim.Convolve(_profile(seen, setup.pixel_scale_arcsec), galsim.Deconvolve(target))
        for step in (0.0, setup.step, -setup.step):
            final = _drawn(setup, galsim.Convolve(again.shear(g1=step), wider), shape)
            pixels = galsim.Image(final, scale=1.0)
            result = galsim.hsm.FindAdaptiveMom(pixels, guess_sig=guess_pix, strict=False)
            # A negative blob has moments, too, but no light.
            if result.moments_status != 0 or result.moments_amp <= 0:
                return [*failed, ShearFlag.NO_MOMENTS]
            moments.append((result.observed_shape.g1, result.moments_sigma * setup.pixel_scale_arcsec))
    (plus, up, down), (minus, minus_up, minus_down) = np.reshape([g1 for g1, _ in moments], (2, 3))
    response = (up - down + minus_up - minus_down) / (4 * setup.step)
    return [response, plus - minus, (plus + minus) / 2, (moments[0][1] + moments[3][1]) / 2, 0]


def _target_sigma(setup: _Setup, psf: Float[np.ndarray, "py px"]) -> float:
    """Find the standard deviation [arcsec] of a Gaussian below a sheared PSF's transfer function at every frequency."""
    if setup.target_fwhm_arcsec is not None:
        return setup.target_fwhm_arcsec / FWHM_PER_SIGMA
    grid = [2 * size for size in psf.shape]
    transfer = np.maximum(AMPLIFICATION * np.abs(np.fft.fft2(psf, s=grid)), FAINTEST_TRANSFER)
    squared = np.fft.fftfreq(grid[0])[:, None] ** 2 + np.fft.fftfreq(grid[1]) ** 2
    squared[0, 0] = 1.0
    variance = (-np.log(transfer) / (2 * np.pi**2 * squared)).max()
    sigma = np.sqrt(max(variance, 0.0)) * setup.psf_scale_arcsec * (1 + 2 * setup.shear)
    return float(max(sigma, SMALLEST_PIX * setup.pixel_scale_arcsec))


def _profile(image: np.ndarray, scale: float) -> "galsim.InterpolatedImage":
    """Take pixels for samples of a surface brightness around the centre of the stamp."""
    import galsim

    pixels = galsim.Image(np.ascontiguousarray(image), scale=scale)
    options = {"x_interpolant": "lanczos15", "calculate_stepk": False, "calculate_maxk": False}
    return galsim.InterpolatedImage(pixels, **options)


def _drawn(setup: _Setup, profile: "galsim.GSObject", shape: tuple[int, int]) -> Stamp:
    """Draw a profile that has its pixel response already."""
    size = {"nx": shape[1], "ny": shape[0], "scale": setup.pixel_scale_arcsec}
    return profile.drawImage(**size, method="no_pixel", dtype=float).array


def _good(table: Table, what: str) -> Float[np.ndarray, "n 2"]:
    """Return differences and responses of the measurements that succeeded."""
    good = np.asarray(table["flag"]) == 0
    if good.sum() < 2:
        raise ValueError(f"{what}: expected at least 2 successful measurements, got {good.sum()}; see flags")
    return np.stack([np.asarray(table[name], float)[good] for name in ("difference", "response")], axis=1)


def _check(images: np.ndarray, psf: PSF, setup: _Setup) -> None:
    """Check what came in; what is wrong with single stamps is flagged."""
    if images.ndim != 3:
        raise ValueError(
            f"images: expected stamps of shape [n, y, x], got {images.shape}; add an axis for one stamp"
        )
    if psf.stamp.ndim != 3 or len(psf.stamp) != len(images):
        raise ValueError(
            f"psf: expected [{len(images)}, py, px], got {psf.stamp.shape}; give each galaxy its own PSF"
        )
    widths = [setup.pixel_scale_arcsec, setup.psf_scale_arcsec, setup.target_fwhm_arcsec]
    if not all(width > 0 for width in widths if width is not None):
        raise ValueError(f"widths of pixels and target: expected positive ones [arcsec], got {widths}")
    for name, value in (("shear", setup.shear), ("step", setup.step)):
        if not 0 < value < LARGEST_SHEAR:
            raise ValueError(f"{name}: expected 0 to {LARGEST_SHEAR}, got {value}; both signs are applied")
