"""Structure of mock galaxies: what smooth profiles lack.

Spheroids are Sersic profiles; discs carry a bulge, spiral arms, a bar, rings, star-forming knots, a lane of dust,
lopsidedness and bends, and galaxies of both types now and then a companion, more of it in large and bright late types.
The fluxes of all parts add up to the galaxy's, on the whole plane. How much there is of each stands in
``acs_population.toml``: table ``structure`` is fitted by ``inference/fit_mock_structure.py``, table ``features`` holds
published figures:

- bars: 0.65 of bright discs today, 0.2 at z = 0.84 (Sheth et al. 2008, COSMOS); a tenth of the light (Gadotti 2011),
  half-length 0.6 to 1.3 disc scale lengths (Erwin 2005);
- rings: inner ones in 0.35 of local galaxies, 1.3 times as often where there is a bar, at its end; outer ones, twice
  as large, in 0.16 (Comeron et al. 2014). Taken to become rarer with redshift as bars do, on which they depend;
- dust lanes: in all discs seen edge-on that rotate faster than 120 km/s, in none of the slower ones (Dalcanton et al.
  2004), which is about M_I = -20 or F814W = 23 at the redshifts of these galaxies; the dust layer is half as thick as
  the stars and 1.4 times as long (Xilouris et al. 1999);
- companions: satellites that a detection does not separate from their galaxy, a hundredth to a quarter of the light.
  They belong to the galaxy and its magnitude, so nothing is masked; neighbours further away, which COSMOS stamps have
  masked and filled with noise, are not drawn.

Lengths are in pixels, angles in radians.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import special

from hiergal.measure.sersic import sersic_constants
from hiergal.survey.mock.population import population_parameters
from hiergal.survey.mock.profiles import Arms, Component, Lane, Part, Ring, half_light_radius

__all__ = ["build_galaxy"]

PIXEL_SCALE_ARCSEC = 0.03
EDGE_ON = (
    0.45  # axis ratio below which a disc shows the dust in its plane, and above which its rings can be seen
)
EDGE_ON_AXIS_RATIO = 0.2
BARRED_RINGS = 1.3  # times as many inner rings where there is a bar
OUTERMOST_KNOT = 0.9  # share of the disc's light inside the last knots: stars form no further out


def build_galaxy(
    row: Mapping[str, float], rng: np.random.Generator, parameters: Mapping[str, Any] | None = None
) -> list[Part]:
    """Decide on the structure of one galaxy.

    Args:
        row: One row of :func:`hiergal.survey.mock.population.draw_population`.
        rng: Source of randomness.
        parameters: Numbers of the population, as :func:`~hiergal.survey.mock.population.population_parameters` gives
            them.

    Returns:
        Parts whose fluxes add up to the galaxy's.

    Example:
        >>> from hiergal.survey.mock.population import draw_population
        >>> row = {name: column[0] for name, column in draw_population(1, seed=2).items()}
        >>> parts = build_galaxy(row, np.random.default_rng(0))
        >>> bool(np.isclose(sum(part.flux for part in parts), row["flux"]))
        True
    """
    tables = population_parameters() if parameters is None else parameters
    p = tables["structure"]
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
    parts = _disc_galaxy(row, rng, richness, x, y, tables)
    return _with_companion(parts, p["companion_late"][0] + p["companion_late"][1] * richness, rng, p)


def _disc_galaxy(row, rng, richness, x, y, tables) -> list[Part]:
    """Disc, bulge, bar, rings and knots; what bar, rings and knots shine is taken from the disc."""
    p, f, late = tables["structure"], tables["features"], tables["late"]
    q, angle, bulge = row["axis_ratio"], row["position_angle"], row["bulge_fraction"]
    median, scatter = late["bulge_size"]
    bulge_size = float(np.clip(median * np.exp(scatter * rng.normal()), 0.05, 0.8))
    radius = row["hlr_arcsec"] / PIXEL_SCALE_ARCSEC
    radius /= half_light_radius(bulge, bulge_size, row["sersic_index"], late["bulge_index"])
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
    major = radius / np.sqrt(q)
    settled = np.exp(-f["decline"] * row["zphot"]) if regular else 0.0
    bar = rng.uniform(*f["bar_flux"]) if rng.uniform() < f["bars"] * settled else 0.0
    length = float(rng.uniform(*f["bar_length"]))
    lane = _lane(row, rng, major, f)
    rings = _rings(rng, settled, length, bool(bar), f) if q > EDGE_ON else []
    if bar or rings:
        arms = replace(arms, start=length)  # from the ends of the bar, or from the ring
    disc_flux = row["flux"] * (1 - bulge)
    smooth = disc_flux * (1 - knots) * (1 - bar) * (1 - sum(share for share, _ in rings))
    disc = Component(
        smooth, major, row["sersic_index"], q, angle, x, y,
        arms, lopsided, float(rng.uniform(0, 2 * np.pi)), bend, lane,
    )  # fmt: skip
    parts: list[Part] = [disc]
    if bulge > 0:
        rounder = 0.35 + 0.65 * q
        size = bulge_size * radius / np.sqrt(rounder)
        parts.append(
            Component(row["flux"] * bulge, size, late["bulge_index"], rounder, angle, x, y, lane=lane)
        )
    if bar > 0:
        parts.append(_bar(disc, disc_flux * (1 - knots) * bar, length))
    for share, at in rings:
        ring = disc_flux * (1 - knots) * (1 - bar) * share
        parts.append(Ring(ring, at * major, f["ring_width"] * at * major, q, angle, x, y))
    if knots > 0:
        parts.extend(_knots(disc, disc_flux * knots, richness, rng, p))
    return parts


def _bar(disc: Component, flux: float, length: float) -> Component:
    """A bar: a flat-topped, narrow ellipse inside the disc, from whose ends the arms start."""
    azimuth = disc.arms.phase + np.log(length) / np.tan(disc.arms.pitch)
    u, v = np.cos(azimuth), disc.axis_ratio * np.sin(azimuth)
    # Half of its light is inside 0.6 of its length.
    size, q = 0.6 * length * disc.radius * np.hypot(u, v), 0.28 / np.hypot(u, v)
    return Component(flux, max(size, 1.2), 0.5, min(q, 0.99), disc.angle + np.arctan2(v, u), disc.x, disc.y)


def _rings(
    rng: np.random.Generator, settled: float, length: float, barred: bool, f: Mapping[str, Any]
) -> list[tuple[float, float]]:
    """Shares of the disc's light, and radii in half-light radii, of the rings of a galaxy."""
    inner = f["inner_rings"] * (BARRED_RINGS if barred else 1.0)
    rings = []
    for chance, radius in ((inner, length), (f["outer_rings"], 2 * length)):
        share = float(rng.uniform(*f["ring_flux"]))
        if rng.uniform() < chance * settled:
            rings.append((share, radius))
    return rings


def _lane(row, rng, major: float, f) -> Lane:
    """The dust in the plane of a disc that is seen nearly edge-on, and bright enough for it to have settled."""
    chance = special.expit((f["lanes_faint"] - row["mag_auto"]) / 0.5) if row["axis_ratio"] < EDGE_ON else 0.0
    side, depth = rng.choice([-1, 1]), rng.uniform(*f["lane_depth"])
    if rng.uniform() > chance:
        return Lane()
    q = row["axis_ratio"]
    tilt = np.sqrt(max(q**2 - EDGE_ON_AXIS_RATIO**2, 0) / (1 - EDGE_ON_AXIS_RATIO**2))
    # The near side of the layer covers the light behind it, half-way out.
    width = max(f["lane_width"] * q * major, 0.8)
    return Lane(
        float(depth), float(side * 0.5 * tilt * major), width, f["lane_length"] * major, row["position_angle"]
    )


def _knots(disc: Component, flux: float, richness: float, rng: np.random.Generator, p) -> list[Component]:
    """Star-forming knots: Gaussians scattered over the disc as its light is, on its arms where it has some."""
    count = 2 + rng.poisson(p["knots_number"][0] + p["knots_number"][1] * richness)
    share = np.minimum(rng.pareto(1.3, count) + 0.15, 4.0)
    inside = special.gammaincinv(2 * disc.index, OUTERMOST_KNOT * rng.uniform(size=count))
    radius = p["knots_spread"] * disc.radius * (inside / sersic_constants(disc.index)[0]) ** disc.index
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


def _with_companion(parts: list[Part], chance: float, rng: np.random.Generator, p) -> list[Part]:
    """Now and then, give the galaxy a companion, and share its flux with it."""
    if rng.uniform() > chance:
        return parts
    main = parts[0]
    low, high = p["companion_share"]
    share = low * (high / low) ** rng.uniform()
    distance, direction = main.radius * rng.uniform(0.5, 2.0), rng.uniform(0, 2 * np.pi)
    total = sum(part.flux for part in parts)
    companion = Component(
        share * total, max(main.radius * rng.uniform(0.15, 0.4), 1.0), 1.0,
        rng.uniform(0.5, 1.0), rng.uniform(0, np.pi),
        main.x + distance * np.cos(direction), main.y + distance * np.sin(direction),
    )  # fmt: skip
    # Both share the stamp: its centre is that of the light, as a detection would have it.
    shift_x, shift_y = share * (companion.x - main.x), share * (companion.y - main.y)
    fainter = [_moved(part, shift_x, shift_y, 1 - share) for part in parts]
    return [*fainter, _moved(companion, shift_x, shift_y, 1.0)]


def _moved(part: Part, dx: float, dy: float, factor: float) -> Part:
    return replace(part, x=part.x - dx, y=part.y - dy, flux=part.flux * factor)
