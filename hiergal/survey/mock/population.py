"""The population of the mock survey: a joint draw of the catalogue's quantities of each galaxy.

A compact parametrisation of HST/ACS F814W galaxies in COSMOS: number counts; two types, spheroids and discs, whose
sizes, Sersic indices and axis ratios follow relations with magnitude; discs are thick and seen from random
directions. Its numbers live in ``acs_population.toml``, with their sources; ``inference/fit_mock_population.py`` fits
them. Galaxy ``i`` of a seed is the same whatever else is drawn.

Sizes are circularised half-light radii; angles are in radians, from x towards y.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import special

from hiergal.runtime.seeds import check_seed

__all__ = ["MAGNITUDE_ZERO_POINT", "draw_population", "population_parameters", "random_stream"]

MAGNITUDE_ZERO_POINT = 25.94  # COSMOS F814W, of the images in counts per second that GalSim distributes
PIXEL = 0.03
PSF_RADIUS = 2.2  # half-light radius of the PSF [pixels]
RADIUS_RANGE = (1.0, 90.0)  # pixels
DRAWS = 18  # random numbers for each galaxy
Columns = dict[str, Float[np.ndarray, "n"]]


@cache
def population_parameters() -> Mapping[str, Any]:
    """Read the fitted numbers of the population that the package ships.

    Returns:
        Tables of numbers by name, as in ``acs_population.toml``.

    Example:
        >>> population_parameters()["magnitude"]["faint"]
        25.2
    """
    return tomllib.loads(Path(__file__).with_name("acs_population.toml").read_text())


def random_stream(seed: int, index: int, purpose: int) -> np.random.Generator:
    """Return the source of randomness of one galaxy for one purpose, independent of all others.

    Args:
        seed: Seed of the survey.
        index: Number of the galaxy in the survey.
        purpose: A number for each kind of use, so that adding to one kind leaves the others as they are.

    Example:
        >>> random_stream(1, 7, 0).integers(100) == random_stream(1, 7, 0).integers(100)
        np.True_
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index, purpose)))


def draw_population(
    n: int, *, seed: int, first: int = 0, parameters: Mapping[str, Any] | None = None
) -> Columns:
    """Draw the catalogue of a mock survey.

    Args:
        n: Number of galaxies.
        seed: Seed of the survey.
        first: Number of the first galaxy.
        parameters: Numbers of the population, or None for those that the package ships.

    Returns:
        Columns of [n] values. What a survey would measure: ``mag_auto`` (of all the light, with an error of 6 %, and
        right on average [mag]), ``flux_radius`` (half-light radius of the blurred image as SExtractor would measure it
        [pixels of 0.03 arcsec]), ``zphot``. The truth: ``flux`` (of the whole plane, at zero point 25.94),
        ``hlr_arcsec`` (half-light radius of bulge and disc, intrinsic, circularised [arcsec]), ``sersic_index`` (of the
        spheroid or the disc), ``axis_ratio``, ``position_angle`` [radians], ``bulge_fraction`` (0 to 1; 1 for
        spheroids), ``late_type`` (1 for discs). And ``noise_rms`` [flux per pixel].

    Example:
        >>> catalog = draw_population(1000, seed=1)
        >>> bool(23.5 < catalog["mag_auto"].mean() < 24.2)
        True
    """
    check_seed(seed)
    p = population_parameters() if parameters is None else parameters
    uniform = np.stack([random_stream(seed, first + i, 0).uniform(size=DRAWS) for i in range(n)]).T
    normal = special.ndtri(uniform)
    mag = magnitudes(p["magnitude"], uniform[0])
    m = mag - 23.5
    early = uniform[1] < special.expit(np.polyval(p["early"]["fraction"][::-1], m))

    largest = _largest_radius(mag, p["magnitude"]["surface_brightness"])
    late_size, early_size = (_sizes(p[t]["log_size"], m, largest, uniform[2]) for t in ("late", "early"))
    radius = np.clip(np.exp(np.where(early, early_size, late_size)), *RADIUS_RANGE)
    index = np.where(
        early,
        *(np.exp(_line(p[t]["log_index"], m) + p[t]["log_index"][2] * normal[3]) for t in ("early", "late")),
    )
    index = _quantised(np.where(early, np.clip(index, 2, 6), np.clip(index, 0.5, 2)))

    mean, scatter = p["early"]["axis_ratio"]
    low, high = special.ndtr((np.array([0.25, 1.0]) - mean) / scatter)
    spheroid = mean + scatter * special.ndtri(low + (high - low) * uniform[4])
    axis_ratio = np.where(early, spheroid, disc_axis_ratio(p["late"], m, uniform[4:7]))

    bulge = special.betaincinv(*p["late"]["bulge_beta"], uniform[8])
    has_bulge = uniform[7] < special.expit(_line(p["late"]["bulge_fraction"], m))
    bulge_fraction = np.where(early, 1.0, np.where(has_bulge, bulge, 0.0))

    stated = 10 ** (-0.4 * (mag - MAGNITUDE_ZERO_POINT))
    error = p["light"]["flux_error"]
    a, b, c, d, e, spread = p["light"]["flux_radius"]
    observed = a + b * np.log(np.hypot(radius, PSF_RADIUS)) + c * np.log(index) + d * np.log(axis_ratio)
    # Noise hides the outskirts of faint galaxies from SExtractor.
    flux_radius = np.exp(observed + e * np.maximum(m + 1, 0) + spread * normal[10])
    rms = np.where(uniform[12] < p["noise"]["shallow"], p["noise"]["rms"][1], p["noise"]["rms"][0])
    return {
        "mag_auto": mag,
        "flux_radius": flux_radius,
        "zphot": np.clip(
            np.exp(_line(p["redshift"]["log_z"], m) + p["redshift"]["log_z"][2] * normal[11]), 0.01, 6
        ),
        "flux": stated * np.exp(error * normal[9] - error**2 / 2),  # as bright as stated on average
        "hlr_arcsec": radius * PIXEL,
        "sersic_index": index,
        "axis_ratio": axis_ratio,
        "position_angle": np.pi * uniform[14],
        "bulge_fraction": bulge_fraction,
        "late_type": 1.0 - early,
        "noise_rms": rms * np.exp(p["noise"]["scatter"] * normal[13]),
    }


def magnitudes(p: Mapping[str, Any], level: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Return the magnitudes at these levels (0 to 1) of the cumulative number counts."""
    grid = np.linspace(p["bright"], p["faint"], 1000)
    density = np.exp(np.polyval([*p["log_density"], 0.0], grid - 24))
    total = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    return np.interp(level, total / total[-1], grid)


def disc_axis_ratio(
    p: Mapping[str, Any], m: Float[np.ndarray, "n"], uniform: Float[np.ndarray, "3 n"]
) -> Float[np.ndarray, "n"]:
    """Project thick, somewhat elliptical discs that are seen from random directions.

    Args:
        p: Table ``late`` of the parameters.
        m: Magnitude minus 23.5.
        uniform: Random numbers between 0 and 1.
    """
    thickness = np.clip(p["thickness"][0] + p["thickness"][1] * special.ndtri(uniform[1]), 0.1, 0.6)
    inclined = np.sqrt(thickness**2 + (1 - thickness**2) * uniform[0] ** 2)
    # Faint discs are less settled. Intrinsic ellipticity is hidden by projection in those seen edge-on.
    typical = np.clip(_line(p["face_on_ellipticity"], m), 0.02, 0.6)
    flattening = np.clip(-typical * np.log1p(-uniform[2]), 0, 0.6)
    return inclined * (1 - flattening * inclined)


def _largest_radius(mag: np.ndarray, surface_brightness: float) -> np.ndarray:
    """Return the half-light radius [pixels] at which a galaxy becomes too diffuse to be detected.

    Args:
        mag: Magnitudes.
        surface_brightness: Faintest mean surface brightness inside the half-light radius [mag per square arcsec].
    """
    return 10 ** (0.2 * (surface_brightness - mag)) / np.sqrt(2 * np.pi) / PIXEL


def _sizes(relation: list[float], m: np.ndarray, largest: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Draw ln sizes from the relation with magnitude, cut off at the largest one that is detected."""
    mean, scatter = _line(relation, m), relation[2]
    return mean + scatter * special.ndtri(uniform * special.ndtr((np.log(largest) - mean) / scatter))


def _line(coefficients: list[float], m: np.ndarray) -> np.ndarray:
    return coefficients[0] + coefficients[1] * m


def _quantised(index: np.ndarray) -> np.ndarray:
    """Round Sersic indices to 0.05, so that drawing code may cache what depends on them."""
    return np.round(index * 20) / 20
