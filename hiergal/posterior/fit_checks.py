"""Posterior predictive checks of the fit to a galaxy, and two statistics for unusual galaxies.

A statistic T of the residuals x - PSF * g(z) of a stamp x is compared, for each posterior draw z, with its values for
noise alone, T(x_rep, z): the posterior predictive p-value is the share of the latter that are as large (Gelman, Meng &
Stern 1996). Residuals are whitened by the noise *that the survey knows*, even where misfit counted as noise in the
inference (``variance_factor``): the question here is whether that noise explains them.

===============  ===================================================================  ===============================
statistic        is                                                                   large for
===============  ===================================================================  ===============================
``chi_square``   the sum of squares of whitened residuals over the number of pixels   anything, noise too low
``coherent``     the largest significance, positive or negative, of a point source    a second source, an artefact,
                 anywhere in the residuals: their correlation with the PSF,           structure that does not fit
                 weighted by the inverse covariance, over its error
``spectrum``     the largest deviation of the power of whitened residuals in a ring   noise of another correlation,
                 of frequency from that of noise, over its error                      structure on one scale
===============  ===================================================================  ===============================

For galaxies of the model itself, p-values of a single draw are uniform between 0 and 1. Their average over the draws,
which is what is given, is uniform only where the fit leaves the statistic as it is, and else closer to one half: never
below a with more than twice the chance a, and rarely with more than a (Meng 1994). So they are conservative, and no
tests of many galaxies together. Posteriors that are wrong make them wrong, and those of ``map`` have no draws.

A galaxy can be anomalous in two ways, and each has its number, small for anomalies: ``p_prior``, the chance that a draw
from the prior is less probable than the galaxy's latents, averaged over the posterior; and ``p_pixels``, of chi-square
and coherent residuals together (Bonferroni: small no more often than it says). Where data say little, the first is near
one half: uncertainty is no anomaly. A galaxy that the generator cannot reproduce may get latents that are far out: then
both are small. Numbers from replicates are no smaller than 1 / (replicates + 1).
"""

from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, Shaped

from hiergal.model.prior import LatentFlow
from hiergal.model.trained import GalaxyModel, check_model
from hiergal.observation.noise import count_unmasked
from hiergal.observation.observation import Observation, check_observation
from hiergal.posterior.fit_statistics import (
    DRAWS_PER_CALL,
    FitStatistics,
    RingWeights,
    statistics_of_draws,
    statistics_of_noise,
)
from hiergal.posterior.input_checks import judge_conditions
from hiergal.posterior.posterior import Posterior
from hiergal.posterior.predictive import check_same_galaxies, spread_draws
from hiergal.runtime.batching import padded_batches
from hiergal.runtime.fork import check_not_forked
from hiergal.runtime.progress import progress_bar
from hiergal.runtime.pytree import Array, Record, record
from hiergal.runtime.seeds import as_key
from hiergal.survey.given import galaxies_of

__all__ = ["FitChecks", "check_fits"]

BAND = (0.025, 0.975)


@record
class FitChecks(Record):
    """Quality of fits, and atypical galaxies; the table at the top of this page defines each check.

    Attributes:
        identifier: Identifier of each galaxy.
        chi_square: Reduced chi-square, averaged over the posterior.
        p_chi_square: Its p-value, small for large ones.
        coherent: Largest significance of a point source in the residuals, averaged over the posterior [sigma].
        p_coherent: Its p-value.
        frequency: Mean frequency of each ring of the spectrum [cycles per arcsec].
        power: Power of the residuals in each ring, averaged over the posterior; that of noise is one.
        power_low: Where 95 % of noise begins.
        power_high: Where it ends.
        p_spectrum: p-value of the largest deviation.
        p_prior: How unusual the galaxy is: the chance that a draw from its prior is less probable.
        p_pixels: How badly its pixels are fitted: the smaller of ``p_chi_square`` and ``p_coherent``, twice.

    Example:
        >>> checks = posterior.check(key=1, replicates=50)
        >>> checks.to_table().colnames[:3]
        ['identifier', 'p_prior', 'p_pixels']
    """

    identifier: Int[Array, "n"] | Shaped[np.ndarray, "n"]
    chi_square: Float[Array, "n"]
    p_chi_square: Float[Array, "n"]
    coherent: Float[Array, "n"]
    p_coherent: Float[Array, "n"]
    frequency: Float[Array, "bins"]
    power: Float[Array, "n bins"]
    power_low: Float[Array, "n bins"]
    power_high: Float[Array, "n bins"]
    p_spectrum: Float[Array, "n"]
    p_prior: Float[Array, "n"]
    p_pixels: Float[Array, "n"]

    def to_table(self) -> Any:
        """Return an Astropy table with a row for each galaxy; columns have units and descriptions."""
        from astropy.table import Column, Table

        table = Table(meta={"frequency [1 / arcsec]": np.asarray(self.frequency).tolist()})
        for name, (unit, words) in COLUMNS.items():
            values = np.asarray(getattr(self, name))
            shown = None if unit is None else ".4g"
            table[name] = Column(values, unit=unit, description=words, format=shown)
        return table


COLUMNS = {  # unit and description
    "identifier": (None, "identifier of the galaxy in its survey"),
    "p_prior": ("", "chance that a draw from the prior is less probable than the galaxy, over its posterior"),
    "p_pixels": ("", "chance of worse residuals if the model is right: smaller of the next two, twice"),
    "p_chi_square": ("", "posterior predictive p-value of chi_square"),
    "p_coherent": ("", "posterior predictive p-value of coherent"),
    "p_spectrum": ("", "posterior predictive p-value of the spectrum of the residuals"),
    "chi_square": ("", "reduced chi-square under the survey's noise, mean over the posterior"),
    "coherent": ("", "largest significance of a point source in the residuals [sigma], posterior mean"),
    "power": ("", "power of whitened residuals in rings of frequency, posterior mean; 1 for noise"),
    "power_low": ("", "2.5 % quantile of that of noise"),
    "power_high": ("", "97.5 % quantile of that of noise"),
}


def check_fits(
    model: GalaxyModel,
    observation: Observation | Any,
    posterior: Posterior,
    *,
    key: jax.Array | int,
    conditions: Any = None,
    draws: int | None = None,
    replicates: int = 400,
    bins: int = 10,
    batch: int = 32,
    rows: Int[np.ndarray, "n"] | None = None,
    progress: bool = False,
) -> FitChecks:
    """Check how well each galaxy is fitted, and how unusual it is.

    Args:
        model: The model that inferred the posteriors.
        observation: The galaxies; or a survey's store, or its path, for all of it.
        posterior: Their posteriors.
        key: PRNG key of the replicates, or a seed; those of a galaxy depend on its place.
        conditions: What was given to :func:`~hiergal.posterior.infer`, a table or numbers: how unusual a galaxy is, is
            then asked among those of its magnitude, size and redshift. Rows that it does not use are not used here.
        draws: How many draws of the posterior to take, evenly spread over them; default all.
        replicates: Noise stamps, and draws from the prior, of each galaxy, that it is compared with.
        bins: Rings of frequency, from zero to the corners of the Fourier plane.
        batch: Galaxies in one call of the compiled programs.
        rows: A number for each galaxy, on which its replicates depend as on the key; default its row in the batch.
        progress: Whether to show a progress bar.

    Returns:
        Statistics and p-values, as NumPy arrays.

    Raises:
        ValueError: If the observations or conditions are wrong, or the posteriors are of other galaxies, or have fewer
            draws, or there is nothing to compare with.

    Example:
        >>> checks = check_fits(model, observation, posterior, key=jax.random.key(2), replicates=50)
        >>> table = checks.to_table()
        >>> suspects = table[table["p_pixels"] < 0.01]  # second sources, artefacts, wrong noise
    """
    check_not_forked()
    from hiergal.measure.power_spectrum import rings_of  # heavier than what else is imported here

    if replicates < 1 or bins < 1:
        raise ValueError(f"replicates, bins: expected at least 1 of each, got {replicates} and {bins}")
    check_model(model)
    key, observation = as_key(key), galaxies_of(observation)
    observation = observation.in_photometry(model.provenance.photometry)
    check_observation(observation)
    check_same_galaxies(posterior, observation)
    names, observation = np.asarray(observation.identifier), observation.bare()
    latents = posterior.latents[spread_draws(posterior, draws)]
    n = len(observation)
    groups = judge_conditions(model, conditions, n).groups
    keys = jax.vmap(partial(jax.random.fold_in, key))(np.arange(n) if rows is None else rows)
    frequency, modes, member = rings_of(observation.image.shape[1:], observation.pixel_scale_arcsec, bins)
    rings = RingWeights((member / modes).astype(np.float32), modes.astype(np.float32))
    parts = []
    with progress_bar("checks of fits", n, shown=progress) as advance:
        for of_group, given in groups:
            count = len(of_group)
            prior = model.latent_flow(given).expand((count,))
            for here in padded_batches(count, batch):
                in_batch = of_group[here.rows]
                summary = _check_batch(
                    model,
                    observation[in_batch],
                    prior[here.rows],
                    rings,
                    latents[:, in_batch],
                    keys[in_batch],
                    replicates,
                )
                parts.append({name: value[: here.kept] for name, value in summary.items()})
                advance(here.kept)
    order = np.argsort(np.concatenate([of_group for of_group, _ in groups]))
    values = {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
    return FitChecks(identifier=names, frequency=frequency, **values)


def _check_batch(
    model: GalaxyModel,
    observation: Observation,
    prior: LatentFlow,
    rings: RingWeights,
    latents: np.ndarray,
    keys: jax.Array,
    replicates: int,
) -> dict[str, np.ndarray]:
    s, _, d = latents.shape
    found = _joined([statistics_of_draws(model, observation, prior, rings, z) for z in _blocks(latents)])
    blocks = range(-(-replicates // DRAWS_PER_CALL))
    noise = _joined([statistics_of_noise(observation, prior, rings, keys, block, d) for block in blocks])
    pixels = np.asarray(count_unmasked(observation.image.shape, observation.mask))
    return _summary(_first(found, s), _first(noise, replicates), pixels)


def _summary(found: FitStatistics, noise: FitStatistics, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Averages over draws, and p-values, of each galaxy."""
    from scipy.stats import chi2

    # Of noise alone the distribution of the sum of squares is known.
    p_chi_square = chi2.sf(found.squares.astype(float), pixels).mean(axis=0)
    p_coherent = _share_as_large(found.coherent, noise.coherent)
    low, high = np.quantile(noise.power, BAND, axis=0)
    summary = {
        "chi_square": found.squares.mean(axis=0) / pixels,
        "p_chi_square": p_chi_square,
        "coherent": found.coherent.mean(axis=0),
        "p_coherent": p_coherent,
        "power": found.power.mean(axis=0),
        "power_low": low,
        "power_high": high,
        "p_spectrum": _share_as_large(found.spectrum, noise.spectrum),
        "p_prior": _share_as_large(-found.log_prior, -noise.log_prior),
        "p_pixels": np.minimum(1.0, 2 * np.minimum(p_chi_square, p_coherent)),
    }
    return {name: np.asarray(value, float) for name, value in summary.items()}


def _share_as_large(found: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Rank of each value [s, n] among replicates [r, n] and itself, averaged over the s: uniform if all are alike."""
    count = (noise[None] >= found[:, None]).sum(axis=1)
    return ((1 + count) / (1 + len(noise))).mean(axis=0)


def _blocks(latents: np.ndarray) -> list[np.ndarray]:
    """Blocks of draws of one size; the last draw is repeated."""
    return [latents[block.rows] for block in padded_batches(len(latents), DRAWS_PER_CALL)]


def _joined(parts: list[FitStatistics]) -> FitStatistics:
    return FitStatistics(
        *(np.concatenate([np.asarray(x) for x in leaves]) for leaves in zip(*parts, strict=True))
    )


def _first(looks: FitStatistics, count: int) -> FitStatistics:
    return FitStatistics(*(x[:count] for x in looks))
