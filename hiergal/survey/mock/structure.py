"""Light profiles of the mock survey: spheroids, discs, and the structure that smooth profiles lack.

Spheroids are Sersic profiles; discs carry a bulge, spiral arms, a bar, star-forming knots, lopsidedness and bends, and
now and then a second nucleus or a companion, more of it in large and bright late types. The fluxes of all parts add
up to the galaxy's. How much there is of each is in table ``structure`` of ``acs_population.toml``, fitted by
``inference/fit_mock_structure.py``. Lengths are in pixels, angles in radians.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import special

from hiergal.survey.mock.population import population_parameters
from hiergal.survey.mock.profiles import BULGE_INDEX, Arms, Component, half_light_radius

__all__ = ["build_galaxy"]

PIXEL_SCALE_ARCSEC = 0.03


def build_galaxy(
    row: Mapping[str, float], rng: np.random.Generator, parameters: Mapping[str, Any] | None = None
) -> list[Component]:
    """Decide on the structure of one galaxy.

    Args:
        row: One row of :func:`hiergal.survey.mock.population.draw_population`.
        rng: Source of randomness.
        parameters: Numbers of the population, as :func:`~hiergal.survey.mock.population.population_parameters` gives
            them.

    Returns:
        Components whose fluxes add up to the galaxy's.

    Example:
        >>> from hiergal.survey.mock.population import draw_population
        >>> row = {name: column[0] for name, column in draw_population(1, seed=2).items()}
        >>> parts = build_galaxy(row, np.random.default_rng(0))
        >>> bool(np.isclose(sum(part.flux for part in parts), row["flux"]))
        True
    """
    p = (population_parameters() if parameters is None else parameters)["structure"]
    x, y = rng.uniform(-0.5, 0.5, 2)
    flux, q, angle = row["flux"], row["axis_ratio"], row["position_angle"]
    radius = row["hlr_arcsec"] / PIXEL_SCALE_ARCSEC
    # Zero for small and faint galaxies, one for large and bright ones.
    richness = p["least"] + (1 - p["least"]) * float(
        special.expit(2.2 * np.log(radius / 7.0)) * special.expit(1.2 * (24.8 - row["mag_auto"]))
    )
    if not row["late_type"]:
        spheroid = Component(flux, radius / np.sqrt(q), row["sersic_index"], q, angle, x, y)
        return _with_companion([spheroid], p["companion_early"], rng, p)
    bulge, size = row["bulge_fraction"], float(np.clip(rng.normal(0.4, 0.12), 0.15, 0.8))
    disc_radius = radius / half_light_radius(bulge, size, row["sersic_index"])
    parts = _disc_galaxy(row, rng, flux, disc_radius, size, richness, x, y, p)
    return _with_companion(parts, p["companion_late"][0] + p["companion_late"][1] * richness, rng, p)


def _disc_galaxy(row, rng, flux, radius, bulge_size, richness, x, y, p) -> list[Component]:
    """Disc, bulge, bar and knots; what the bar and the knots shine is taken from the disc."""
    q, angle, bulge = row["axis_ratio"], row["position_angle"], row["bulge_fraction"]
    major = radius / np.sqrt(q)
    regular = rng.uniform() < special.expit(0.9 * (23.3 - row["mag_auto"]) + p["regular"])
    arms = Arms(
        strength=richness * rng.uniform(*p["arms"]) if regular else 0.0,
        count=int(rng.choice([1, 2, 2, 2, 3, 4])),
        pitch=float(rng.choice([-1, 1]) * rng.uniform(0.2, 0.55)),
        phase=float(rng.uniform(0, 2 * np.pi)),
    )
    lopsided = min(0.9, p["lopsided"][0 if regular else 1] * (0.4 + richness) * rng.gamma(2.0, 0.6))
    bend = rng.normal(0, p["bend"][0 if regular else 1])
    knots = (
        0.0
        if rng.uniform() > p["knots_chance"][0] + p["knots_chance"][1] * richness
        else min(p["knots_most"], (p["knots_flux"][0] + p["knots_flux"][1] * richness) * rng.gamma(1.5, 0.6))
    )
    bar = rng.uniform(0.05, 0.2) if regular and rng.uniform() < 0.3 * richness else 0.0
    disc_flux = flux * (1 - bulge)
    lopsided_angle = float(rng.uniform(0, 2 * np.pi))
    smooth = disc_flux * (1 - knots) * (1 - bar)
    disc = Component(smooth, major, row["sersic_index"], q, angle, x, y, arms, lopsided, lopsided_angle, bend)
    parts = [disc]
    if bulge > 0:
        rounder = 0.35 + 0.65 * q
        parts.append(
            Component(flux * bulge, bulge_size * radius / np.sqrt(rounder), BULGE_INDEX, rounder, angle, x, y)
        )
    if bar > 0:
        parts.append(_bar(disc, disc_flux * (1 - knots) * bar, rng))
    if knots > 0:
        parts.extend(_knots(disc, disc_flux * knots, richness, rng, p))
    return parts


def _bar(disc: Component, flux: float, rng: np.random.Generator) -> Component:
    """A bar: a flat-topped, narrow ellipse inside the disc, in any direction of its plane."""
    azimuth = rng.uniform(0, np.pi)
    u, v = np.cos(azimuth), disc.axis_ratio * np.sin(azimuth)
    length, q = 0.55 * disc.radius * np.hypot(u, v), 0.28 / np.hypot(u, v)
    return Component(flux, max(length, 1.2), 0.5, min(q, 1.0), disc.angle + np.arctan2(v, u), disc.x, disc.y)


def _knots(disc: Component, flux: float, richness: float, rng: np.random.Generator, p) -> list[Component]:
    """Star-forming knots: Gaussians scattered over the disc, on its arms where it has some."""
    count = 2 + rng.poisson(p["knots_number"][0] + p["knots_number"][1] * richness)
    share = np.minimum(rng.pareto(1.3, count) + 0.15, 4.0)
    radius = np.sqrt(rng.gamma(2.0, p["knots_spread"], count)) * disc.radius
    azimuth = rng.uniform(0, 2 * np.pi, count)
    arms = disc.arms
    if arms.strength > 0.2:
        ridge = arms.phase + np.log(radius / disc.radius + 1e-3) / np.tan(arms.pitch)
        ridge += 2 * np.pi * rng.integers(arms.count, size=count) / arms.count
        azimuth = ridge + rng.normal(0, 0.3, count)
    along, across = radius * np.cos(azimuth), disc.axis_ratio * radius * np.sin(azimuth)
    c, s = np.cos(disc.angle), np.sin(disc.angle)
    xs, ys = disc.x + c * along - s * across, disc.y + s * along + c * across
    sizes = np.clip(rng.lognormal(np.log(p["knots_size"] * disc.radius), 0.4, count), 1.0, 3.5)
    return [
        Component(f, r, 0.5, 1.0, 0.0, px, py)
        for f, r, px, py in zip(flux * share / share.sum(), sizes, xs, ys, strict=True)
    ]


def _with_companion(parts: list[Component], chance: float, rng: np.random.Generator, p) -> list[Component]:
    """Now and then, give the galaxy a second nucleus or a close companion, and share its flux with it."""
    if rng.uniform() > chance:
        return parts
    main = parts[0]
    share = rng.uniform(*p["companion_share"])
    distance, direction = main.radius * rng.uniform(0.5, 1.6), rng.uniform(0, 2 * np.pi)
    total = sum(part.flux for part in parts)
    companion = Component(
        share * total, max(main.radius * rng.uniform(0.2, 0.6), 1.0), 1.0, rng.uniform(0.5, 1.0), rng.uniform(0, np.pi),
        main.x + distance * np.cos(direction), main.y + distance * np.sin(direction),
    )  # fmt: skip
    # Both sides of a merger share the stamp: its centre is that of the light, as a detection would have it.
    shift_x, shift_y = share * (companion.x - main.x), share * (companion.y - main.y)
    fainter = [_moved(part, shift_x, shift_y, 1 - share) for part in parts]
    return [*fainter, _moved(companion, shift_x, shift_y, 1.0)]


def _moved(part: Component, dx: float, dy: float, factor: float) -> Component:
    return replace(part, x=part.x - dx, y=part.y - dy, flux=part.flux * factor)
