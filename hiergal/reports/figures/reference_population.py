"""A figure that compares a survey's population with the real one of COSMOS.

Four panels: magnitudes and sizes of the catalogue, and size and ellipticity as measured on the images, each next to the
distribution that Lanusse et al. (2020) published (Figs. 6 and 7).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table

from hiergal.measure.moments import measure_moments
from hiergal.observation.observation import Observation
from hiergal.validation.reference import ReferenceCurve, cosmos_reference, ks_distance, smoothed_cdf

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_population"]

LABELS = {
    "mag_auto": "magnitude, F814W",
    "flux_radius_arcsec": "half-light radius of the catalogue [arcsec]",
    "sigma": "adaptive size sigma [arcsec]",
    "g": "ellipticity |g|",
}
CATALOG_PIXEL_ARCSEC = 0.03  # unit of flux_radius


def plot_population(
    observation: Observation,
    moments: Table | None = None,
    curves: Mapping[str, ReferenceCurve] | None = None,
) -> "Figure":
    """Draw cumulative distributions of a survey next to those of real COSMOS galaxies.

    Args:
        observation: Galaxies with ``mag_auto`` and ``flux_radius`` in the catalogue, on 128x128 stamps if their
            measured sizes and ellipticities are to be comparable.
        moments: Their moments, from :func:`~hiergal.measure.moments.measure_moments`; measured here if None.
        curves: References by name, or None for the ones that the package ships.

    Returns:
        The figure; save it with ``savefig``.

    Example:
        >>> from hiergal.survey.mock.galaxies import draw_mock
        >>> figure = plot_population(draw_mock(40, seed=1).observation)
        >>> len(figure.axes)
        4
    """
    from matplotlib.figure import Figure

    curves = cosmos_reference() if curves is None else curves
    if moments is None:
        moments = measure_moments(observation.image, pixel_scale_arcsec=observation.pixel_scale_arcsec)
    good = moments[moments["flag"] == 0]
    samples = {
        "mag_auto": observation.catalog["mag_auto"],
        "flux_radius_arcsec": observation.catalog["flux_radius"] * CATALOG_PIXEL_ARCSEC,
        "sigma": np.asarray(good["sigma"]),
        "g": np.asarray(good["g"]),
    }
    figure = Figure(figsize=(9, 7), layout="constrained")
    for axes, (name, sample) in zip(figure.subplots(2, 2).flat, samples.items(), strict=True):
        curve = curves[name]
        inside = sample if curve.smoothed else sample[(sample > curve.x[0]) & (sample <= curve.x[-1])]
        drawn = smoothed_cdf(inside, curve.x) if curve.smoothed else _empirical_cdf(inside, curve.x)
        axes.plot(curve.x, curve.cdf, color="black", label=f"COSMOS, mean {curve.mean:.4g}")
        axes.plot(
            curve.x, drawn, color="tab:orange", linestyle="--", label=f"survey, mean {inside.mean():.4g}"
        )
        axes.set(
            xlabel=LABELS[name], ylabel="share below", title=f"KS distance {ks_distance(sample, curve):.3f}"
        )
        axes.legend(frameon=False)
    return figure


def _empirical_cdf(sample: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.sort(sample), x, side="right") / len(sample)
