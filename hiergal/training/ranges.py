"""Trained ranges: fluxes, sizes, noise and PSF widths of the galaxies that a model was trained on.

They are measured once, at training, and go into the model's provenance and card. A posterior beyond them is flagged
(:mod:`hiergal.posterior.verdict`). Fluxes and sizes are those of the profiles at the guide's means, as posteriors
measure them: no one knows the truth of a real survey.
"""

import jax
import numpy as np

from hiergal.measure.profile import summarize_profile
from hiergal.model.guide import posterior_from
from hiergal.model.trained import GalaxyModel
from hiergal.observation.observation import Observation
from hiergal.posterior.verdict import psf_width_arcsec
from hiergal.runtime.batching import join_batches, padded_batches
from hiergal.training.batches import Galaxies

__all__ = ["measure_trained_ranges"]

MOST = 8192  # galaxies, evenly spread over the survey
GALAXIES_PER_CALL = 256
STRAY = 0.001


def measure_trained_ranges(model: GalaxyModel, galaxies: Galaxies) -> dict[str, tuple[float, float]]:
    """Measure the ranges that posteriors are compared with.

    Of fluxes and sizes, the smallest is that which one in ``1 / STRAY`` is below.

    Args:
        model: A trained model.
        galaxies: Its training galaxies; some thousands of them are looked at.

    Returns:
        Ranges of ``flux``, ``hlr_arcsec``, ``noise_level`` [flux per pixel] and ``psf_fwhm_arcsec``.

    Example:
        >>> sorted(measure_trained_ranges(model, observation))
        ['flux', 'hlr_arcsec', 'noise_level', 'psf_fwhm_arcsec']
    """
    chosen = np.unique(np.linspace(0, len(galaxies) - 1, min(MOST, len(galaxies))).astype(int))
    parts = []
    for batch in padded_batches(len(chosen), min(GALAXIES_PER_CALL, len(chosen))):
        here = galaxies[chosen[batch.rows]].bare()
        flux, radius = _fitted(model, here)
        values = {
            "flux": flux,
            "hlr_arcsec": radius,
            "noise_level": here.noise.rms(),
            "psf_fwhm_arcsec": psf_width_arcsec(here.psf),
        }
        parts.append({name: np.asarray(value, float) for name, value in values.items()})
    joined = join_batches(parts, len(chosen))
    joined = {name: values[np.isfinite(values)] for name, values in joined.items()}
    lowest = {"flux": STRAY, "hlr_arcsec": STRAY}  # a guide loses a few of the faintest
    return {
        name: (float(np.quantile(v, lowest.get(name, 0.0))), float(v.max()))
        for name, v in joined.items()
        if len(v)
    }


@jax.jit
def _fitted(model: GalaxyModel, observation: Observation) -> tuple[jax.Array, jax.Array]:
    guide = posterior_from(model.encode(observation), model.recipe.covariance)
    summary = summarize_profile(model.decode(guide.mean), model.recipe.pixel_scale_arcsec)
    return summary.flux, summary.hlr_arcsec
