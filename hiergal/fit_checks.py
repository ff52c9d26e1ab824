"""Does the model fit a galaxy, and is the galaxy unusual? Posterior predictive checks, and two numbers for anomalies.

A statistic T of the residuals x - PSF * g(z) of a stamp x is compared, for each posterior draw z, with its values for
noise alone, T(x_rep, z): the posterior predictive p-value is the share of the latter that are as large (Gelman, Meng &
Stern 1996). Residuals are whitened by the noise *that the survey knows*, even where misfit counted as noise in the
inference (``variance_factor``): the question here is whether that noise explains them.

===============  ==================================================================  =================================
statistic        of whitened residuals                                               large for
===============  ==================================================================  =================================
``chi_square``   their sum of squares over the number of pixels                      anything, noise too low
``coherent``     the largest, in size, after correlation with the PSF, in its own    a second source, an artefact,
                 standard deviations: the significance of a point source             structure that does not fit
``spectrum``     the largest deviation of the power in a ring of frequency from      noise of another correlation,
                 that of noise, in standard deviations                               structure on one scale
===============  ==================================================================  =================================

For galaxies of the model itself, p-values of a single draw are uniform between 0 and 1. Their average over the draws,
which is what is given, is uniform only where the fit leaves the statistic as it is, and else closer to one half: never
below a with more than twice the chance a, and rarely with more than a (Meng 1994). So they are conservative, and no
tests of many galaxies together. Posteriors that are wrong make them wrong, and those of ``map`` have no draws.

A galaxy can be anomalous in two ways, and each has its number, small for anomalies: ``p_prior``, the chance that a draw
from the prior is less probable than the galaxy's latents, averaged over the posterior; and ``p_pixels``, of chi-square
and coherent residuals together (Bonferroni). Where data say little, the first is near one half: uncertainty is no
anomaly. A galaxy that the generator cannot reproduce may get latents that are far out: then both are small. Numbers
from replicates are no smaller than 1 / (replicates + 1).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from hiergal.hub import GalaxyModel
from hiergal.noise import used_pixels
from hiergal.observation import Observation, check_observation
from hiergal.posterior import Posterior
from hiergal.predictive import check_same_galaxies, spread_draws
from hiergal.prior import Prior, prior_of
from hiergal.progress import progress_bar
from hiergal.psf import PSF, convolve
from hiergal.records import Array, Record, record
from hiergal.samplers.problem import Problem

__all__ = ["FitChecks", "check_fits"]

BLOCK = 20  # stamps of each galaxy looked at together
BAND = (0.025, 0.975)
LEAST_VARIANCE = 0.01  # share of the PSF's that pixels in use must hold, for residuals smoothed with it


@record
class FitChecks(Record):
    """How well galaxies are fitted, and how unusual they are; the table at the top of this page says by what.

    Attributes:
        identifier: Identifier of each galaxy.
        chi_square: Reduced chi-square, averaged over the posterior.
        p_chi_square: Its p-value, small for large ones.
        coherent: Largest residual on the scale of the PSF, averaged over the posterior [standard deviations].
        p_coherent: Its p-value.
        frequency: Mean frequency of each ring of the spectrum [cycles per arcsec].
        power: Power of the residuals in each ring, averaged over the posterior; that of noise is one.
        power_low: Where 95 % of noise begins.
        power_high: Where it ends.
        p_spectrum: p-value of the largest deviation.
        p_prior: How unusual the galaxy is: the chance that a draw from its prior is less probable.
        p_pixels: How badly its pixels are fitted: the smaller of ``p_chi_square`` and ``p_coherent``, twice.
    """

    identifier: Int[Array, "n"]
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
    "coherent": ("", "largest residual on the scale of the PSF, in standard deviations, posterior mean"),
    "power": ("", "power of whitened residuals in rings of frequency, posterior mean; 1 for noise"),
    "power_low": ("", "2.5 % quantile of that of noise"),
    "power_high": ("", "97.5 % quantile of that of noise"),
}


def check_fits(
    model: GalaxyModel,
    observation: Observation,
    posterior: Posterior,
    *,
    key: jax.Array,
    conditions: Float[np.ndarray, "n c"] | None = None,
    draws: int | None = None,
    replicates: int = 400,
    bins: int = 10,
    batch: int = 32,
    progress: bool = False,
) -> FitChecks:
    """Check how well each galaxy is fitted, and how unusual it is.

    Args:
        model: The model that inferred the posteriors.
        observation: The galaxies.
        posterior: Their posteriors.
        key: PRNG key of the replicates; those of a galaxy depend on its place in the batch.
        conditions: What was given to :func:`~hiergal.posterior.infer`: how unusual a galaxy is, is then asked among
            those of its magnitude, size and redshift.
        draws: How many draws of the posterior to take, evenly spread over them; default all.
        replicates: Noise stamps, and draws from the prior, of each galaxy, that it is compared with.
        bins: Rings of frequency, from zero to the corners of the Fourier plane.
        batch: Galaxies in one call of the compiled programs.
        progress: Whether to show a progress bar.

    Returns:
        Statistics and p-values, as NumPy arrays.

    Raises:
        ValueError: If the observations or conditions are wrong, or the posteriors are of other galaxies, or have fewer
            draws, or there is nothing to compare with.

    Example:
        >>> checks = check_fits(model, observation, posterior, key=jax.random.key(2))  # doctest: +SKIP
        >>> table = checks.to_table()  # doctest: +SKIP
        >>> table[table["p_pixels"] < 0.01]  # second sources, artefacts, wrong noise  # doctest: +SKIP
    """
    from hiergal.validation.power import rings_of  # heavier than what else is imported here

    if replicates < 1 or bins < 1:
        raise ValueError(f"replicates, bins: expected at least 1 of each, got {replicates} and {bins}")
    check_observation(observation)
    check_same_galaxies(posterior, observation)
    latents = posterior.latents[spread_draws(posterior, draws)]
    s, n, d = latents.shape
    prior = prior_of(model, n, conditions)
    keys = jax.vmap(partial(jax.random.fold_in, key))(np.arange(n))
    frequency, modes, member = rings_of(observation.image.shape[1:], observation.pixel_scale_arcsec, bins)
    rings = _Rings((member / modes).astype(np.float32), modes.astype(np.float32))
    parts = []
    with progress_bar("checks of fits", n, shown=progress) as advance:
        for first in range(0, n, batch):
            # The last galaxy is repeated, so that one program serves all.
            rows = np.minimum(np.arange(first, first + batch), n - 1)
            here, own = observation[rows], prior[rows]
            found = _joined([_look(model, here, own, rings, z) for z in _blocks(latents[:, rows])])
            blocks = range(-(-replicates // BLOCK))
            noise = _joined([_look_at_noise(here, own, rings, keys[rows], block, d) for block in blocks])
            pixels = np.asarray(used_pixels(here.image.shape, here.mask))
            summary = _summary(_first(found, s), _first(noise, replicates), pixels)
            parts.append({name: value[: n - first] for name, value in summary.items()})
            advance(min(batch, n - first))
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return FitChecks(identifier=np.asarray(observation.identifier), frequency=frequency, **values)


class _Rings(NamedTuple):
    """Share of each mode of the half plane in the mean of a ring, [half, bins], and the numbers of modes, [bins]."""

    share: Array
    modes: Array


class _Looks(NamedTuple):
    """Statistics of stamps of galaxies, [s, n] each, and the power in each ring, [s, n, bins]."""

    squares: Array
    coherent: Array
    power: Array
    spectrum: Array
    log_prior: Array


@jax.jit
def _look(model: GalaxyModel, observation: Observation, prior: Prior, rings: _Rings, z: Array) -> _Looks:
    """Statistics of the residuals of draws z, [s, n, d]."""
    residual = Problem(model, observation, prior, jnp.ones(z.shape[1], z.dtype)).residual(z)
    whitened = residual.reshape(*z.shape[:2], *observation.image.shape[1:])
    return _looks(whitened, observation.psf, observation.mask, rings, prior.log_prob(z))


@partial(jax.jit, static_argnames="d")
def _look_at_noise(
    observation: Observation, prior: Prior, rings: _Rings, keys: Array, block: Array | int, d: int
):
    """The same of noise alone, and of draws from the prior."""
    shape = observation.image.shape[1:]

    def fresh(key):
        noise, base = jax.random.split(jax.random.fold_in(key, block))
        return jax.random.normal(noise, (BLOCK, *shape)), jax.random.normal(base, (BLOCK, d))

    white, base = jax.vmap(fresh, out_axes=1)(keys)
    if observation.mask is not None:
        white = jnp.where(jnp.broadcast_to(observation.mask, white.shape), 0.0, white)
    log_prior = prior.log_prob(prior.from_base(base))
    return _looks(white, observation.psf, observation.mask, rings, log_prior)


def _looks(whitened: Array, psf: PSF, mask: Array | None, rings: _Rings, log_prior: Array) -> _Looks:
    used = jnp.ones(whitened.shape[1:], whitened.dtype) if mask is None else (~mask).astype(whitened.dtype)
    turned = psf.replace(
        stamp=psf.stamp[..., ::-1, ::-1]
    )  # a convolution with it is a correlation with the PSF
    variance = convolve(used, turned.replace(stamp=turned.stamp**2))
    seen = variance > LEAST_VARIANCE * jnp.sum(psf.stamp**2, axis=(-2, -1))[:, None, None]
    deviation = jnp.sqrt(jnp.where(seen, variance, 1.0))[None]
    smooth = jnp.where(seen[None], convolve(whitened, turned) / deviation, 0.0)
    spectrum = jnp.abs(jnp.fft.rfft2(whitened)) ** 2
    share = used.mean(axis=(-2, -1))
    pixels = whitened.shape[-2] * whitened.shape[-1]
    power = spectrum.reshape(*spectrum.shape[:2], -1) @ rings.share / (pixels * share[None, :, None])
    # The cube root of a mean of squares is nearly normal (Wilson & Hilferty 1931).
    spread = 2 / (9 * share[:, None] * rings.modes[None])
    deviations = (jnp.cbrt(power) - (1 - spread)[None]) / jnp.sqrt(spread)[None]
    return _Looks(
        squares=jnp.sum(whitened**2, axis=(-2, -1)),
        coherent=jnp.abs(smooth).max(axis=(-2, -1)),
        power=power,
        spectrum=jnp.abs(deviations).max(axis=-1),
        log_prior=log_prior,
    )


def _summary(found: _Looks, noise: _Looks, pixels: np.ndarray) -> dict[str, np.ndarray]:
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
    s = len(latents)
    return [latents[np.minimum(np.arange(i, i + BLOCK), s - 1)] for i in range(0, s, BLOCK)]


def _joined(parts: list[_Looks]) -> _Looks:
    return _Looks(*(np.concatenate([np.asarray(x) for x in leaves]) for leaves in zip(*parts, strict=True)))


def _first(looks: _Looks, count: int) -> _Looks:
    return _Looks(*(x[:count] for x in looks))
