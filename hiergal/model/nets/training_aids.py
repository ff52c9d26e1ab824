"""Skip connections and auxiliary losses that help a deep generator to train (Lanusse et al. 2020, Sec. 4.2.1).

The last stages of a deep generator cannot learn while those before them put out noise. Two aids carry them through
that time, and fade: maps of the encoder copied to the same level of the generator (transverse connections), and a
penalty that makes the bottleneck an identity. A third stays: a penalty on light at the edge, which the taper cuts.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpyro
from jaxtyping import Float

from hiergal.model.nets.lanusse2020 import Transverse, WithPenalties
from hiergal.recipe.config import TrainingAidsConfig
from hiergal.runtime.pytree import Array, Record, record

__all__ = [
    "TrainingAids",
    "generate_with_training_aids",
    "training_aids_at",
]

HIGHEST_CEILING = 1000.0  # of the bottleneck's penalty, before it is annealed to 1


@record
class TrainingAids(Record):
    """Skip connections and auxiliary losses at one step of training.

    Attributes:
        copied: Probability of copying a map at each level, full resolution first, [levels].
        bottleneck_weight: Weight of the bottleneck's penalty.
        bottleneck_ceiling: Its ceiling, beyond which its gradient does not grow.
        border_weight: Weight of the light at the edge.
    """

    copied: Float[Array, "levels"]
    bottleneck_weight: Float[Array, ""]
    bottleneck_ceiling: Float[Array, ""]
    border_weight: Float[Array, ""]


def training_aids_at(step: jax.Array | int, config: TrainingAidsConfig, levels: int) -> TrainingAids:
    """Return the aids at a step.

    Args:
        step: Number of the step, from 0.
        config: What fades how fast.
        levels: Levels of the networks, full resolution and bottleneck included.

    Example:
        >>> training_aids = training_aids_at(250, TrainingAidsConfig(transverse_steps=250), levels=3)
        >>> training_aids.copied.tolist()
        [0.0, 0.5, 0.75]
    """
    lasts = config.transverse_steps * 2.0 ** jnp.arange(levels)
    copied = (
        jnp.clip(1 - step / jnp.maximum(lasts, 1), 0, 1) if config.transverse_steps else jnp.zeros(levels)
    )
    done = jnp.clip(step / max(config.bottleneck_steps, 1), 0, 1)
    return TrainingAids(
        copied,
        jnp.asarray(config.bottleneck_weight, float),
        HIGHEST_CEILING ** (1 - done),
        jnp.asarray(config.border_weight, float),
    )


def generate_with_training_aids(
    generator: Callable, z: Float[Array, "n d"], training_aids: TrainingAids, features: tuple[jax.Array, ...]
) -> Float[jax.Array, "n y x"]:
    """Generate profiles with the aids of a step, and add its penalties to the model, inside its plate.

    Args:
        generator: The network, with parameters.
        z: Latents.
        training_aids: The aids of this step.
        features: The encoder's features at each level.
    """
    keys = dict(zip(("dropout", "transverse"), jax.random.split(numpyro.prng_key()), strict=True))
    out: WithPenalties = generator(z, Transverse(features, training_aids.copied), rngs=keys)
    # Above the ceiling the penalty keeps its slope, scaled down so that it cannot drown the rest.
    scale = jnp.minimum(
        1.0, training_aids.bottleneck_ceiling / jnp.maximum(jax.lax.stop_gradient(out.bottleneck), 1e-12)
    )
    numpyro.factor("bottleneck", -training_aids.bottleneck_weight * scale * out.bottleneck)
    numpyro.factor("border", -training_aids.border_weight * out.border)
    return out.profile
