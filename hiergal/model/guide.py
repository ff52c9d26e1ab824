"""The amortised guide q(z | x, PSF, noise): the recognition network of Lanusse et al. (2020), Fig. 3 and Eq. (8).

The paper's posterior has a diagonal covariance. Flux, size and concentration of a galaxy are strongly correlated
given its image, and a diagonal guide answers by claiming too small an error on each; the default here is a Gaussian
with a full covariance, which is exact for a linear generator. Where there are hundreds of latents, the first may be the
only ones that are correlated.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Float
from numpyro.contrib.module import flax_module

from hiergal.model.leading_normal import LeadingNormal
from hiergal.model.nets.training_aids import TrainingAids
from hiergal.observation.observation import Observation
from hiergal.recipe.config import Covariance

__all__ = [
    "galaxy_guide",
    "Refine",
    "output_count",
    "posterior_from",
]

# From outputs of the encoder, the observation, and a function from latents to profiles, to better outputs.
Refine = Callable[[jax.Array, Observation, Callable[[jax.Array], jax.Array]], jax.Array]

LOG_SCALE_RANGE = (-9.0, 1.0)  # keeps an untrained network from overflowing


def galaxy_guide(
    observation: Observation,
    training_aids: TrainingAids | None = None,
    *,
    encoder: nn.Module,
    covariance: Covariance = "full",
    plate_size: int | None = None,
    refine: Refine | None = None,
    generator: nn.Module | None = None,
    latents: int = 0,
) -> tuple[jax.Array, ...] | None:
    """State the approximate posterior of the latents of each galaxy (Eq. 8).

    Args:
        observation: A batch of galaxies with images.
        training_aids: Training aids of this step, in training alone.
        encoder: Network from an observation to :func:`output_count` numbers for each galaxy.
        covariance: Structure of the posterior's covariance.
        plate_size: Number of galaxies that the batch stands for, as in the model.
        refine: What finishes the means that the network starts: see :mod:`hiergal.model.refinement`.
        generator: The model's network, which ``refine`` looks through.
        latents: Number of its latents.

    Returns:
        In training with aids, the encoder's features, for the model; else nothing.
    """
    q = flax_module("encoder", encoder, observation)
    n, features = len(observation), None
    if training_aids is None:
        outputs = q(observation)
    else:
        outputs, features = q(observation, training=True, rngs={"dropout": numpyro.prng_key()})
    if refine is not None:
        outputs = refine(outputs, observation, flax_module("generator", generator, jnp.zeros((1, latents))))
    with numpyro.plate("galaxies", plate_size or n, subsample_size=n):
        numpyro.sample("z", posterior_from(outputs, covariance))
    return features


def output_count(latents: int, covariance: Covariance) -> int:
    """Return the number of parameters of one galaxy's posterior.

    Example:
        >>> output_count(16, "diagonal"), output_count(16, "full")
        (32, 152)
    """
    correlated = covariance if isinstance(covariance, int) else {"full": latents, "diagonal": 0}[covariance]
    return 2 * latents + correlated * (correlated - 1) // 2


def posterior_from(outputs: Float[jax.Array, "n outputs"], covariance: Covariance) -> dist.Distribution:
    """Turn the outputs of the encoder into the distribution of the latents.

    The outputs of one galaxy are the means, the logarithms of the scales, and for a full covariance the elements of
    the triangular factor below its diagonal, in units of the scale of their row. Where only the first latents are
    correlated, these elements are those of their block.
    """
    if covariance == "diagonal":
        mean, log_scale = jnp.split(outputs, 2, axis=-1)
        return dist.Normal(mean, jnp.exp(jnp.clip(log_scale, *LOG_SCALE_RANGE))).to_event(1)
    if covariance == "full":
        d = int((-3 + (9 + 8 * outputs.shape[-1]) ** 0.5) / 2)
    else:
        d = (outputs.shape[-1] - covariance * (covariance - 1) // 2) // 2
    correlated = d if covariance == "full" else covariance
    mean, log_scale, below = jnp.split(outputs, (d, 2 * d), axis=-1)
    rows, columns = jnp.tril_indices(correlated, -1)
    unit = jnp.zeros((*outputs.shape[:-1], correlated, correlated), outputs.dtype)
    unit = unit.at[..., rows, columns].set(below)
    unit = unit.at[..., jnp.arange(correlated), jnp.arange(correlated)].set(1.0)
    scale = jnp.exp(jnp.clip(log_scale, *LOG_SCALE_RANGE))
    factor = scale[..., :correlated, None] * unit
    if correlated == d:
        return dist.MultivariateNormal(mean, scale_tril=factor)
    return LeadingNormal(mean, factor, scale[..., correlated:])
