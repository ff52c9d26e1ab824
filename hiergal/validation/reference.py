"""The real COSMOS population, as Lanusse et al. (2020) measured it, and distances to it.

Their Figs. 6 and 7 show about 9,900 HST/ACS F814W galaxies: 128x128 stamps of 0.03 arcsec pixels, each with its own PSF
and noise, nothing corrected. The curves of Fig. 6 are kernel density estimates, so a sample is smoothed by the same
rule (:func:`smoothed_cdf`) before it is compared. The package ships a compact table of quantiles; whoever has the full
curves reads them with :func:`read_paper_curves`.

Only images made and measured in the same way may be compared: see :mod:`hiergal.measure.moments`.
"""

import csv
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr

__all__ = ["ReferenceCurve", "cosmos_reference", "ks_distance", "read_paper_curves", "smoothed_cdf"]

SMOOTHED = ("sigma", "g")  # quantities that the paper shows as kernel density estimates
HISTOGRAMS = ("mag_auto", "flux_radius_arcsec")


@dataclass(frozen=True)
class ReferenceCurve:
    """Cumulative distribution of one quantity of the real galaxies.

    Attributes:
        name: ``sigma`` [arcsec], ``g`` (|g|), ``mag_auto`` [mag], ``flux_radius_arcsec`` [arcsec], or a statistic of
            :mod:`hiergal.validation.morphology_reference`.
        x: Values, increasing.
        cdf: Share of galaxies below each value. A histogram (``mag_auto``, ``flux_radius_arcsec``) counts the
            galaxies inside its range only; a smoothed curve that leaves the figure ends below 1.
        mean: Mean of the galaxies, or of those inside the range.
    """

    name: str
    x: Float[np.ndarray, "node"]
    cdf: Float[np.ndarray, "node"]
    mean: float

    @property
    def smoothed(self) -> bool:
        """Whether the curve is a kernel density estimate."""
        return self.name not in HISTOGRAMS


@cache
def cosmos_reference() -> Mapping[str, ReferenceCurve]:
    """Return the compact table of quantiles that the package ships.

    Returns:
        Curves by name: ``sigma``, ``g``, ``mag_auto``, ``flux_radius_arcsec``.

    Example:
        >>> cosmos_reference()["g"].mean
        0.2481
    """
    text = Path(__file__).with_name("cosmos_reference.toml").read_text()
    tables = tomllib.loads(text)["quantiles"]
    return {
        name: ReferenceCurve(name, np.array(table["x"]), np.array(table["cdf"]), table["mean"])
        for name, table in tables.items()
    }


def read_paper_curves(folder: Path | str, sample: str = "cosmos") -> Mapping[str, ReferenceCurve]:
    """Read the full curves of the paper's Figs. 6a and 7.

    Args:
        folder: Folder with the tables, ``paper_figures`` of the development data.
        sample: ``cosmos``, ``parametric`` or ``mock``; the histograms are those of the real galaxies.

    Returns:
        Curves by name, as :func:`cosmos_reference` gives them.

    Raises:
        OSError: If a table is missing.
    """
    folder = Path(folder)
    means = {
        row["quantity"]: float(row["printed_mean"]) for row in _rows(folder / "fig06a_means.csv", sample)
    }
    nodes = _rows(folder / "fig06a_g_sigma_kde.csv", sample)
    curves = {}
    for name in SMOOTHED:
        x, density = np.array(
            [(float(r["x"]), float(r["density"])) for r in nodes if r["quantity"] == name]
        ).T
        steps = 0.5 * (density[1:] + density[:-1]) * np.diff(x)
        curves[name] = ReferenceCurve(name, x, np.concatenate([[0.0], np.cumsum(steps)]), means[name])
    for name, file in (("flux_radius_arcsec", "fig07a_size"), ("mag_auto", "fig07b_flux")):
        bins = [row for row in _rows(folder / f"{file}_marginal_hist.csv") if row["variable"] == name]
        low, high, count = np.array([[float(r[c]) for c in ("bin_lo", "bin_hi", "count")] for r in bins]).T
        mean = float(np.average(0.5 * (low + high), weights=count))
        cdf = np.concatenate([[0.0], np.cumsum(count) / count.sum()])
        curves[name] = ReferenceCurve(name, np.append(low, high[-1]), cdf, mean)
    return curves


def smoothed_cdf(sample: Float[np.ndarray, "n"], x: Float[np.ndarray, "node"]) -> Float[np.ndarray, "node"]:
    """Compute the cumulative distribution of a Gaussian kernel density estimate, by the paper's bandwidth rule.

    Args:
        sample: Values of the galaxies.
        x: Where to evaluate it.

    Returns:
        Share of the smoothed sample below each x; the bandwidth is 1.059 min(s.d., IQR / 1.349) n^(-1/5).

    Example:
        >>> smoothed_cdf(np.array([-1.0, 0.0, 1.0]), np.array([0.0]))
        array([0.5])
        >>> smoothed_cdf(np.array([1.0, 1.0]), np.array([0.0, 1.0, 2.0]))
        array([0. , 0.5, 1. ])
    """
    sample = np.asarray(sample, float)
    spread = min(sample.std(ddof=1), np.subtract(*np.percentile(sample, [75, 25])) / 1.349)
    # Values that are all the same make a step, as narrow as numbers tell apart.
    bandwidth = max(1.059 * spread * len(sample) ** -0.2, 1e-12 * (1 + np.abs(x).max()))
    return np.array([ndtr((node - sample) / bandwidth).mean() for node in x])


def ks_distance(sample: Float[np.ndarray, "n"], curve: ReferenceCurve) -> float:
    """Compute the Kolmogorov-Smirnov distance of a sample from a reference.

    Args:
        sample: Values of the galaxies whose measurement succeeded; for a histogram, those outside its range are
            left out, as they are there.
        curve: Reference, smoothed or not.

    Returns:
        Largest difference between the cumulative distributions, at the nodes of the curve. The 5 % level for two
        samples of 5,000 and 9,900 galaxies from one parent is 0.024.

    Raises:
        ValueError: If the sample has values that are not finite, or too few.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> ks_distance(rng.uniform(5.0, 6.0, 100), cosmos_reference()["sigma"]) > 0.9  # no galaxy is that large
        True
    """
    sample = np.asarray(sample, float)
    if not np.isfinite(sample).all():
        raise ValueError(
            "sample: expected finite values, got NaN or infinity; leave out rows whose flag is not 0"
        )
    if not curve.smoothed:
        sample = sample[(sample > curve.x[0]) & (sample <= curve.x[-1])]
    if len(sample) < 2:
        raise ValueError(
            f"sample: expected at least 2 values in the range of {curve.name}, got {len(sample)}"
        )
    if curve.smoothed:
        below = smoothed_cdf(sample, curve.x)
    else:
        below = np.searchsorted(np.sort(sample), curve.x, side="right") / len(sample)
    return float(np.abs(below - curve.cdf).max())


def _rows(path: Path, sample: str | None = None) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if sample is None or row["sample"] == sample]
