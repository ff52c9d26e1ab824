"""Morphology of real COSMOS galaxies, of their parametric twins and of the published mocks, and distances to them.

From Figs. 8 and 9 of Lanusse et al. (2020): distributions of log10 M, log10 I and D, smoothed as there
(:func:`~hiergal.validation.reference.smoothed_cdf`), and counts in the planes of M20 and Gini, and of D and log10 I.
Compare only what :func:`~hiergal.measure.morphology.measure_paper_morphology` measured on stamps of 0.03 arcsec with
PSF and noise. The package ships quantiles and counts; :func:`read_paper_morphology` reads the full curves.
"""

import csv
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy.table import Table
from jaxtyping import Bool, Float

from hiergal.validation.reference import ReferenceCurve, ks_distance

__all__ = [
    "MorphologyDistance",
    "MorphologyReference",
    "ReferencePlane",
    "morphology_distances",
    "morphology_reference",
    "morphology_samples",
    "read_paper_morphology",
]

CURVES = {"log10_m": "log10M", "log10_i": "log10I", "d": "D"}
PLANES = {"m20_gini": "fig09a_gini_m20_counts.npz", "d_log10_i": "fig09b_I_D_counts.npz"}
REPETITIONS = 200


@dataclass(frozen=True)
class ReferencePlane:
    """Counts of galaxies in a plane of two statistics.

    Attributes:
        name: ``m20_gini`` or ``d_log10_i``: what goes along x and along y.
        x_edges: Edges of the bins along x.
        y_edges: Edges of the bins along y.
        counts: Galaxies, [x, y]; a few cells of the crowded centre are lower limits.
    """

    name: str
    x_edges: Float[np.ndarray, "x_edge"]
    y_edges: Float[np.ndarray, "y_edge"]
    counts: Float[np.ndarray, "x y"]


@dataclass(frozen=True)
class MorphologyReference:
    """One of the samples of the paper: its curves and planes, by name."""

    sample: str
    curves: Mapping[str, ReferenceCurve]
    planes: Mapping[str, ReferencePlane]


class MorphologyDistance(NamedTuple):
    """Distance of a sample from a reference in one statistic.

    Attributes:
        distance: Kolmogorov-Smirnov distance of a curve, or total variation of a plane.
        error: Its standard error, by bootstrap over the galaxies of the sample.
        floor: Mean distance of a sample of that size that is drawn from the reference itself.
    """

    distance: float
    error: float
    floor: float


@cache
def morphology_reference(sample: str = "cosmos") -> MorphologyReference:
    """Return the compact tables that the package ships.

    Args:
        sample: ``cosmos``, ``parametric`` (the best of Sersic and bulge + disc for the same galaxies) or ``mock`` (the
            generative model of the paper).

    Raises:
        ValueError: If the sample is none of them.

    Example:
        >>> reference = morphology_reference("parametric")
        >>> sorted(reference.curves), int(reference.planes["m20_gini"].counts.sum())
        (['d', 'log10_i', 'log10_m'], 9662)
    """
    tables = tomllib.loads(Path(__file__).with_name("morphology_reference.toml").read_text(encoding="utf-8"))
    if sample not in tables:
        raise ValueError(f"sample: expected one of {', '.join(tables)}, got {sample!r}")
    curves = {
        name: ReferenceCurve(name, np.array(table["x"]), np.array(table["cdf"]), table["mean"])
        for name, table in tables[sample]["curves"].items()
    }
    planes = {}
    for name, table in tables[sample]["planes"].items():
        x_edges, y_edges = (np.linspace(*table[axis]) for axis in ("x_edges", "y_edges"))
        planes[name] = ReferencePlane(name, x_edges, y_edges, np.array(table["counts"], float))
    return MorphologyReference(sample, curves, planes)


def read_paper_morphology(folder: Path | str, sample: str = "cosmos") -> MorphologyReference:
    """Read the full curves and counts of Figs. 8 and 9.

    Args:
        folder: Folder with the tables, ``paper_figures`` of the development data.
        sample: ``cosmos``, ``parametric`` or ``mock``.

    Raises:
        OSError: If a table is missing.
    """
    folder, curves = Path(folder), {}
    with (folder / "fig08_MID_kde.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["sample"] == sample]
    for name, quantity in CURVES.items():
        x, density = np.array(
            [(float(r["x"]), float(r["density"])) for r in rows if r["quantity"] == quantity]
        ).T
        cdf = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(x))])
        mean = float(np.trapezoid(x * density, x) / cdf[-1])
        curves[name] = ReferenceCurve(name, x, cdf, mean)
    planes = {}
    for name, file in PLANES.items():
        with np.load(folder / file) as arrays:
            edges = (np.asarray(arrays[key], float) for key in ("x_edges", "y_edges"))
            planes[name] = ReferencePlane(name, *edges, np.asarray(arrays[f"counts_{sample}"], float))
    return MorphologyReference(sample, curves, planes)


def morphology_samples(
    morphology: Table, good: Bool[np.ndarray, "n"] | None = None
) -> dict[str, Float[np.ndarray, "m *xy"]]:
    """Select galaxies as each panel of Figs. 8 and 9 does.

    Args:
        morphology: Measurements of :func:`~hiergal.measure.morphology.measure_paper_morphology`.
        good: Galaxies whose moments are good, too, which all panels but I-D ask for; None for all.

    Returns:
        Values by name: ``log10_m``, ``log10_i`` (without zeros and ones), ``d``; pairs ``m20_gini`` and ``d_log10_i``.

    Example:
        >>> table = Table({"m": [0.1, 0.0], "i": [0.0, 0.1], "d": [0.2, 0.3], "gini": [0.3, 0.4], "m20": [-1.5, -1.6]})
        >>> table["flag"] = 0
        >>> samples = morphology_samples(table)
        >>> samples["log10_m"].tolist(), samples["d_log10_i"].tolist()
        ([-1.0], [[0.3, -1.0]])
    """
    measured = np.asarray(morphology["flag"] == 0)
    joint = measured if good is None else measured & good
    m, i, d, gini, m20 = (np.asarray(morphology[name]) for name in ("m", "i", "d", "gini", "m20"))
    with np.errstate(divide="ignore", invalid="ignore"):
        log_m, log_i = np.log10(m), np.log10(i)
    return {
        "log10_m": log_m[joint & (m > 0) & (m < 1)],
        "log10_i": log_i[joint & (i > 0) & (i < 1)],
        "d": d[joint],
        "m20_gini": np.stack([m20, gini], axis=1)[joint],
        "d_log10_i": np.stack([d, log_i], axis=1)[measured & (i > 0)],
    }


def morphology_distances(
    morphology: Table,
    reference: MorphologyReference,
    *,
    good: Bool[np.ndarray, "n"] | None = None,
    seed: int = 0,
    repetitions: int = REPETITIONS,
) -> dict[str, MorphologyDistance]:
    """Compute distances of a sample to a reference, with errors and floors.

    Args:
        morphology: Measurements of the sample.
        reference: What to compare with.
        good: As for :func:`morphology_samples`.
        seed: Seed of the bootstrap and of the floors.
        repetitions: Number of repetitions of each.

    Returns:
        Distances by name: three curves, two planes.

    Raises:
        ValueError: If fewer than two galaxies are left in a panel.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> table = Table({name: rng.uniform(0.1, 0.5, 300) for name in ("m", "i", "d", "gini")})
        >>> table["m20"], table["flag"] = rng.uniform(-1.9, -0.7, 300), 0
        >>> distances = morphology_distances(table, morphology_reference(), repetitions=20)
        >>> distances["log10_m"].distance > 0.5  # no galaxies are like that
        True
    """
    rng, samples = np.random.default_rng(seed), morphology_samples(morphology, good)
    result = {}
    for name, curve in reference.curves.items():
        sample = samples[name]
        again = [
            ks_distance(rng.choice(sample, len(sample)), curve) for _ in range(max(2, repetitions // 10))
        ]
        # Drawn from a smoothed curve, a sample is smoothed twice: the bandwidth is small against the curve.
        level = rng.uniform(curve.cdf[0], curve.cdf[-1], (max(2, repetitions // 10), len(sample)))
        floor = [ks_distance(np.interp(u, curve.cdf, curve.x), curve) for u in level]
        result[name] = MorphologyDistance(
            ks_distance(sample, curve), float(np.std(again)), float(np.mean(floor))
        )
    for name, plane in reference.planes.items():
        counts = _counts(samples[name], plane)
        n, share = int(counts.sum()), plane.counts.ravel() / plane.counts.sum()
        if n < 2:
            raise ValueError(f"morphology: expected at least 2 galaxies in the plane of {name}, got {n}")
        again, drawn = (rng.multinomial(n, p, size=repetitions) / n for p in (counts.ravel() / n, share))
        distance = 0.5 * np.abs(counts.ravel() / n - share).sum()
        # The bootstrap adds noise of its own to the distance; its scatter is that of the sample all the same.
        error = np.std(0.5 * np.abs(again - share).sum(axis=1))
        second = rng.multinomial(int(plane.counts.sum()), share, size=repetitions) / plane.counts.sum()
        floor = np.mean(0.5 * np.abs(drawn - second).sum(axis=1))
        result[name] = MorphologyDistance(float(distance), float(error), float(floor))
    return result


def _counts(pairs: Float[np.ndarray, "n xy"], plane: ReferencePlane) -> Float[np.ndarray, "x y"]:
    return np.histogram2d(*pairs.T, bins=[plane.x_edges, plane.y_edges])[0]
