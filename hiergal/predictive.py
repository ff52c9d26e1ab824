"""What a posterior predicts of the data, and whether the data look like that (Gelman, Meng & Stern 1996).

Two things come out of the draws of a posterior. *Predictions*: stamps that would be seen again of the same galaxy,
and the log-likelihood of each pixel that was seen, for ArviZ's ``plot_ppc`` and ``loo``. *Checks*: p-values of
discrepancies between the data and each draw, compared with those between a stamp simulated from that draw and the
draw itself. They are conservative: draws have seen the data, so that p-values of a model that is right crowd around
one half, and small ones are rarer than they say.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from hiergal.hub import GalaxyModel
from hiergal.noise import LOG_2PI, used_pixels
from hiergal.observation import Observation
from hiergal.posterior import Posterior
from hiergal.prior import Prior, prior_of
from hiergal.records import Array, Record, record
from hiergal.validation.power import rings_of

__all__ = ["FitChecks", "Prediction", "check_fits", "predict"]

BLOCK = 5  # draws of each galaxy rendered together
BATCH = 32
PRIOR_DRAWS = 2000


@record
class Prediction(Record):
    """Predictions of the data of n galaxies by s posterior draws.

    Attributes:
        image: Stamps seen again: the draw at the galaxy's own PSF, with new noise [flux per pixel].
        log_likelihood: Logarithm of the density of each pixel that was seen [nats]. For correlated noise, of each pixel
            of the whitened stamp, which are independent. It is zero where masked; the sum over pixels is that of the
            noise model (Eqs. 4 and 5 of Lanusse et al. 2020).
        draw: Which draws of the posterior these are.
    """

    image: Float[Array, "s n y x"]
    log_likelihood: Float[Array, "s n y x"]
    draw: Int[Array, "s"]


@record
class FitChecks(Record):
    """How well each of n galaxies is fitted, and how usual it is.

    Attributes:
        identifier: Identifier of each galaxy.
        chi_square: Mean over the draws of the reduced chi-square.
        chi_square_p: Posterior-predictive p-value of chi-square: small if residuals are larger than the noise.
        coherence: Mean over the draws of the power of whitened residuals smoothed with the PSF, over that of noise.
        coherence_p: Its p-value: small if residuals hang together as light does, which chi-square hardly sees.
        spectrum: Power of whitened residuals in rings of frequency, over that of noise, [n, rings].
        spectrum_low: What 2.5 % of replicates are below, in each ring, [n, rings].
        spectrum_high: What 97.5 % of replicates are below.
        frequency: Mean frequency of each ring [cycles per arcsec].
        rarity: How usual the galaxy is under the prior: the probability that a galaxy drawn from it has a smaller
            prior density, averaged over the posterior; near zero for unusual galaxies.
    """

    identifier: Array
    chi_square: Float[Array, "n"]
    chi_square_p: Float[Array, "n"]
    coherence: Float[Array, "n"]
    coherence_p: Float[Array, "n"]
    spectrum: Float[Array, "n r"]
    spectrum_low: Float[Array, "n r"]
    spectrum_high: Float[Array, "n r"]
    frequency: Float[Array, "r"]
    rarity: Float[Array, "n"]


def predict(
    model: GalaxyModel,
    observation: Observation,
    posterior: Posterior,
    *,
    key: jax.Array,
    draws: int | None = None,
) -> Prediction:
    """Predict the data of galaxies from their posteriors.

    Args:
        model: The model that inferred them.
        observation: The galaxies.
        posterior: Their posteriors, in the same order. Where misfit counted as noise, it does here.
        key: PRNG key of the noise.
        draws: How many of the draws, evenly spaced; default all.

    Returns:
        Predictions: two arrays of 4 bytes x s x n x ny x nx.

    Raises:
        ValueError: If posterior and observation are not of the same galaxies.

    Example:
        >>> prediction = predict(model, observation, posterior, key=key, draws=50)  # doctest: +SKIP
        >>> data = posterior_to_arviz(posterior, observation, model, prediction)  # doctest: +SKIP
    """
    _check_same(observation, posterior)
    chosen, n = _spaced(len(posterior.latents), draws), len(posterior)
    latents = posterior.latents[chosen]
    keys = jax.vmap(partial(jax.random.fold_in, key))(np.arange(n))
    images = np.empty((len(latents), *observation.image.shape), np.float32)
    log_likelihood = np.empty_like(images)
    for rows, inside in _batches(n):
        seen, factor = observation[rows], posterior.variance_factor[rows]
        for first in range(0, len(latents), BLOCK):
            take = _block(first, len(latents))
            made = _predict(model, seen, factor, latents[take][:, rows], keys[rows], first)
            for into, values in zip((images, log_likelihood), made, strict=True):
                into[first : first + BLOCK, inside] = np.asarray(values)[
                    : len(latents) - first, : len(rows[: inside.stop - inside.start])
                ]
    return Prediction(images, log_likelihood, chosen)


def check_fits(
    model: GalaxyModel,
    observation: Observation,
    posterior: Posterior,
    *,
    key: jax.Array,
    conditions: Float[np.ndarray, "n c"] | None = None,
    draws: int | None = 100,
) -> FitChecks:
    """Check how well galaxies are fitted, and how usual they are.

    Args:
        model: The model that inferred them.
        observation: The galaxies.
        posterior: Their posteriors, in the same order. The noise is that of the survey, whatever misfit was made of.
        key: PRNG key of the replicates.
        conditions: Those that the posteriors were inferred with.
        draws: How many of the draws, evenly spaced; None for all.

    Raises:
        ValueError: If posterior and observation are not of the same galaxies.

    Example:
        >>> checks = check_fits(model, observation, posterior, key=key)  # doctest: +SKIP
        >>> strange = checks.identifier[(checks.rarity < 0.01) | (checks.coherence_p < 0.01)]  # doctest: +SKIP
    """
    _check_same(observation, posterior)
    latents, n = posterior.latents[_spaced(len(posterior.latents), draws)], len(posterior)
    prior = prior_of(model, n, conditions)
    keys = jax.vmap(partial(jax.random.fold_in, key))(np.arange(n))
    frequency, _, share = rings_of(model.recipe.shape, model.recipe.pixel_scale_arcsec)
    share = share.astype(np.float32)
    parts = []
    for rows, inside in _batches(n):
        blocks = []
        for first in range(0, len(latents), BLOCK):
            take = _block(first, len(latents))
            found = _discrepancies(model, observation[rows], latents[take][:, rows], keys[rows], share, first)
            blocks.append(jax.tree.map(lambda x, first=first: np.asarray(x)[: len(latents) - first], found))
        joined = jax.tree.map(lambda *x: np.concatenate(x), *blocks)
        tails = np.asarray(_prior_tails(prior[rows], latents[:, rows], jax.random.fold_in(key, 2**31 - 1)))
        parts.append([x[:, : inside.stop - inside.start] for x in (*joined, tails)])
    chi_square, smooth, smooth_new, power, power_new, tails = (
        np.concatenate(x, axis=1) for x in zip(*parts, strict=True)
    )
    pixels = np.broadcast_to(used_pixels(observation.image.shape, observation.mask), (n,))
    low, high = np.quantile(power_new, [0.025, 0.975], axis=0)
    usual = np.maximum(power_new.mean(axis=0), 1e-12)  # less than one where pixels are masked
    return FitChecks(
        identifier=observation.identifier,
        chi_square=chi_square.mean(axis=0) / pixels,
        chi_square_p=stats.chi2.sf(chi_square, pixels).mean(axis=0),
        coherence=smooth.mean(axis=0) / smooth_new.mean(axis=0),
        coherence_p=_tail(smooth_new, smooth),
        spectrum=power.mean(axis=0) / usual,
        spectrum_low=low / usual,
        spectrum_high=high / usual,
        frequency=frequency,
        rarity=tails.mean(axis=0),
    )


@jax.jit
def _predict(model, observation, factor, latents, keys, first):
    mean = _rendered(model, observation, latents)
    root = jnp.sqrt(factor)[:, None, None]
    shape = mean.shape[2:]
    noise = jnp.stack([_noise(observation, keys, first + i, shape) for i in range(len(latents))])
    whitened = (
        observation.noise.whiten(mean - jnp.asarray(observation.image)[None], observation.mask) / root[None]
    )
    log_scale = observation.noise.log_determinant(mean.shape[1:], observation.mask)
    used = used_pixels(mean.shape[1:], observation.mask)
    constant = -0.5 * (log_scale / used + jnp.log(factor) + LOG_2PI)
    density = constant[None, :, None, None] - 0.5 * whitened**2
    if observation.mask is not None:
        density = jnp.where(jnp.asarray(observation.mask)[None], 0.0, density)
    return mean + root[None] * noise, density


@jax.jit
def _discrepancies(model, observation, latents, keys, share, first):
    """Chi-square, coherent power and power in rings of whitened residuals, and the last two of replicates."""
    mean = _rendered(model, observation, latents)
    seen = observation.noise.whiten(jnp.asarray(observation.image)[None] - mean, observation.mask)
    shape = mean.shape[2:]
    # Whitened noise is white, whatever its model.
    new = jnp.stack([_unit_noise(keys, first + i, shape) for i in range(len(latents))])
    if observation.mask is not None:
        new = jnp.where(jnp.asarray(observation.mask)[None], 0.0, new)
    weight = _light(mean)
    smooth, smooth_new = (_coherent(x, observation, weight) for x in (seen, new))
    power, power_new = (_ring_power(x, share) for x in (seen, new))
    return jnp.sum(seen**2, axis=(-2, -1)), smooth, smooth_new, power, power_new


def _rendered(model, observation, latents):
    s, n, d = latents.shape
    profile = model.decode(latents.reshape(s * n, d)).reshape(s, n, *model.recipe.shape)
    return model.render(profile, observation.psf)


def _noise(observation, keys, number, shape):
    """A noise image of each galaxy, from keys of its own."""
    one = jax.vmap(lambda noise, key: noise.sample(jax.random.fold_in(key, number), shape))
    return one(observation.noise, keys)


def _unit_noise(keys, number, shape):
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, number), shape))(keys)


def _light(mean):
    """Where a galaxy is: weights that sum to one, its light; the whole stamp where there is none."""
    light = jnp.maximum(mean, 0.0)
    total = light.sum((-2, -1), keepdims=True)
    pixels = mean.shape[-2] * mean.shape[-1]
    return jnp.where(total > 0, light / jnp.where(total > 0, total, 1.0), 1 / pixels)


def _coherent(whitened, observation, weight):
    """Power of whitened residuals smoothed with the PSF, where the galaxy is."""
    ny, nx = whitened.shape[-2:]
    py, px = observation.psf.stamp.shape[-2:]
    grid = (max(ny, py), max(nx, px))
    spectrum = jnp.fft.rfft2(whitened, s=grid) * observation.psf.transfer(grid)[None]
    smooth = jnp.fft.irfft2(spectrum, s=grid)[..., :ny, :nx]
    return jnp.sum(weight * smooth**2, axis=(-2, -1))


def _ring_power(whitened, share):
    pixels = whitened.shape[-2] * whitened.shape[-1]
    power = jnp.abs(jnp.fft.rfft2(whitened)) ** 2 / pixels
    return jnp.einsum("snm,mr->snr", power.reshape(*power.shape[:2], -1), jnp.asarray(share))


@jax.jit
def _prior_tails(prior: Prior, latents: Float[Array, "s n d"], key: jax.Array) -> Float[jax.Array, "s n"]:
    """Probability that a draw from the prior has a smaller prior density than each draw of the posterior."""
    n, d = latents.shape[1:]
    u = jax.random.normal(key, (PRIOR_DRAWS, 1, d))
    typical = jnp.sort(prior.log_prob(prior.from_base(jnp.broadcast_to(u, (PRIOR_DRAWS, n, d)))), axis=0)
    own = prior.log_prob(latents)
    below = jax.vmap(partial(jnp.searchsorted, side="right"), in_axes=1, out_axes=1)(typical, own)
    return (below + 0.5) / (PRIOR_DRAWS + 1)


def _tail(replicates: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Probability that a replicate of a draw is more discrepant than the data; never quite zero."""
    return ((replicates >= seen).sum(axis=0) + 0.5) / (len(seen) + 1)


def _spaced(total: int, draws: int | None) -> np.ndarray:
    return np.linspace(0, total - 1, min(draws or total, total)).round().astype(int)


def _batches(n: int):
    """Rows of each batch, the last one filled up with the last galaxy, and where its results belong."""
    for first in range(0, n, BATCH):
        yield np.minimum(np.arange(first, first + BATCH), n - 1), slice(first, min(first + BATCH, n))


def _block(first: int, total: int) -> np.ndarray:
    return np.minimum(np.arange(first, first + BLOCK), total - 1)


def _check_same(observation: Observation, posterior: Posterior) -> None:
    if not np.array_equal(posterior.identifier, observation.identifier):
        raise ValueError(
            f"expected the posterior and the observation of the same galaxies in the same order, got "
            f"{len(posterior)} and {len(observation)} galaxies whose identifiers differ"
        )
