"""Posterior predictions: new stamps of the same galaxies, and the probability of observed pixels (Eqs. 1, 4, 5).

With draws z of a galaxy's posterior, a replicated stamp is x_rep = PSF * g(z) + n with fresh noise n, and the pointwise
log-likelihood is log p(x_i | z) of each pixel i. Where misfit counted as noise in the inference, the variance of the
noise is multiplied here by the same factor (``variance_factor`` of :class:`~hiergal.posterior.Posterior`): these are
predictions of the model that was inferred with. To ask whether the survey's own noise explains the residuals, see
:mod:`hiergal.posterior.fit_checks`.

Correlated noise has no log-likelihood of a pixel that adds up to that of the stamp. There, each value is that of a
whitened residual, an independent unit normal, with an equal share of the log-determinant: whitening is symmetric, so
that the value at a pixel comes from its neighbourhood.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped

from hiergal.model.trained import GalaxyModel, check_model
from hiergal.observation.noise import LOG_2PI, Mask, NoiseModel, count_unmasked, zero_masked
from hiergal.observation.observation import Observation, check_observation
from hiergal.posterior.posterior import Posterior
from hiergal.runtime.batching import padded_batches
from hiergal.runtime.fork import check_not_forked
from hiergal.runtime.progress import progress_bar
from hiergal.runtime.pytree import Array, Record, record
from hiergal.runtime.seeds import as_key
from hiergal.survey.given import galaxies_of

__all__ = ["Prediction", "check_same_galaxies", "pixel_log_prob", "predict", "spread_draws"]

DRAWS_PER_CALL = 10  # draws rendered together


@record
class Prediction(Record):
    """Posterior predictions of a batch of galaxies.

    Attributes:
        image: Replicated stamps; masked pixels hold no noise [flux per pixel].
        log_likelihood: Log-likelihood of each pixel; zero where masked.
        draw: Which draws of the posterior were taken.
        identifier: Identifier of each galaxy.

    Example:
        >>> prediction = posterior.predict(key=1, draws=10)
        >>> prediction.image.shape
        (10, 4, 64, 64)
    """

    image: Float[Array, "s n y x"]
    log_likelihood: Float[Array, "s n y x"]
    draw: Int[Array, "s"]
    identifier: Int[Array, "n"] | Shaped[np.ndarray, "n"]


def predict(
    model: GalaxyModel,
    observation: Observation | Any,
    posterior: Posterior,
    *,
    key: jax.Array | int,
    draws: int | None = None,
    batch: int = 32,
    progress: bool = False,
) -> Prediction:
    """Predict the stamps of observed galaxies from their posteriors.

    Args:
        model: The model that inferred the posteriors.
        observation: The galaxies; or a survey's store, or its path, for all of it.
        posterior: Their posteriors.
        key: PRNG key of the noise, or a seed; that of a galaxy depends on its place in the batch.
        draws: How many draws of the posterior to take, evenly spread over them; default all. A draw takes 8 bytes for
            each pixel of each galaxy.
        batch: Galaxies in one call of the compiled program.
        progress: Whether to show a progress bar.

    Returns:
        Replicated stamps and pointwise log-likelihoods, as NumPy arrays.

    Raises:
        ValueError: If the observations are wrong, the posteriors are of other galaxies, or have fewer draws.

    Example:
        >>> prediction = predict(model, observation, posterior, key=jax.random.key(1), draws=10)
        >>> prediction.log_likelihood.sum(axis=(-2, -1)).mean(axis=0).shape  # of each stamp
        (4,)
    """
    check_not_forked()
    check_model(model)
    key, observation = as_key(key), galaxies_of(observation)
    observation = observation.in_photometry(model.provenance.photometry)
    check_observation(observation)
    check_same_galaxies(posterior, observation)
    chosen = spread_draws(posterior, draws)
    names, observation = np.asarray(observation.identifier), observation.bare()
    n, count = len(observation), len(chosen)
    keys = jax.vmap(partial(jax.random.fold_in, key))(np.arange(n))
    image, log_likelihood = np.empty((2, count, n, *observation.image.shape[1:]), observation.image.dtype)
    with progress_bar("predictions", n, shown=progress) as advance:
        for galaxies in padded_batches(n, batch):
            rows = galaxies.rows
            here, factor = observation[rows], posterior.variance_factor[rows]
            for block in padded_batches(count, DRAWS_PER_CALL):
                latents = posterior.latents[chosen[block.rows]][:, rows]
                found = _predict(model, here, factor, latents, keys[rows], block.first)
                for out, values in zip((image, log_likelihood), found, strict=True):
                    out[block.span, galaxies.span] = np.asarray(values)[: block.kept, : galaxies.kept]
            advance(galaxies.kept)
    return Prediction(image, log_likelihood, chosen, names)


def pixel_log_prob(
    noise: NoiseModel, residual: Float[Array, "*batch y x"], mask: Mask = None
) -> Float[jax.Array, "*batch y x"]:
    """Split the log-density of noise images into terms, one for each pixel, whose sum is ``noise.log_prob``.

    Args:
        noise: The noise: for independent pixels, terms are their log-densities; for correlated ones, those of whitened
            residuals, each with an equal share of the log-determinant, and of the squares in masked pixels.
        residual: Noise images [flux per pixel].
        mask: Pixels to exclude, whose terms are zero.

    Example:
        >>> from hiergal.observation.independent import WhiteNoise
        >>> noise, residual = WhiteNoise(jnp.array(2.0)), jnp.ones((3, 4))
        >>> bool(jnp.allclose(pixel_log_prob(noise, residual).sum(), noise.log_prob(residual)))
        True
    """
    log_variance = noise.log_variance(residual.shape, mask)
    square = noise.whiten(residual, mask) ** 2
    if mask is not None:  # whitened residuals of correlated noise are not zero there
        hidden = jnp.sum(square - zero_masked(square, mask), axis=(-2, -1)) / count_unmasked(
            residual.shape, mask
        )
        square = square + jnp.broadcast_to(hidden[..., None, None], square.shape)
    return zero_masked(-0.5 * (square + log_variance + LOG_2PI), mask)


def spread_draws(posterior: Posterior, draws: int | None) -> Int[np.ndarray, "s"]:
    """Pick draws evenly over those of a posterior; of an even number, as many from each half (two chains of NUTS).

    Args:
        posterior: Posteriors.
        draws: How many; None for all.

    Raises:
        ValueError: If there are fewer.
    """
    there = len(posterior.latents)
    count = there if draws is None else draws
    if not 1 <= count <= there:
        raise ValueError(f"draws: expected between 1 and {there}, as many as the posterior has, got {draws}")
    return np.arange(count) * there // count


def check_same_galaxies(posterior: Posterior, observation: Observation) -> None:
    """Check that a posterior is that of an observation.

    Raises:
        ValueError: If it is of other galaxies, or in another order.
    """
    if not np.array_equal(posterior.identifier, observation.identifier):
        raise ValueError(
            f"expected the posterior and the observation of the same galaxies in the same order, got "
            f"{len(posterior)} and {len(observation)} galaxies whose identifiers differ; index both alike"
        )


@jax.jit
def _predict(
    model: GalaxyModel,
    observation: Observation,
    factor: Array,
    latents: Array,
    keys: Array,
    start: Array | int,
):
    """Replicated stamps and log-likelihoods of the pixels of a block of draws, [s, n, y, x] each."""
    s, mask, shape = len(latents), observation.mask, observation.image.shape[1:]
    mean = model.image(latents, observation.psf)
    scale = jnp.sqrt(factor)[None, :, None, None]

    def fresh(noise, key):
        return noise.sample(jax.random.fold_in(key, start), (s, *shape))

    noise = scale * jax.vmap(fresh, out_axes=1)(observation.noise, keys)
    # log p under f Sigma is log p of the residual / sqrt(f) under Sigma, less log(f) / 2 for each pixel.
    residual = (jnp.broadcast_to(observation.image, mean.shape) - mean) / scale
    terms = pixel_log_prob(observation.noise, residual, mask) - jnp.log(scale)
    if mask is None:
        return mean + noise, terms
    hidden = jnp.broadcast_to(mask, mean.shape)
    return mean + jnp.where(hidden, 0.0, noise), jnp.where(hidden, 0.0, terms)
