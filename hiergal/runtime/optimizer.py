"""Learning rates and optimisers, by name, from optax."""

from typing import Literal

import jax.numpy as jnp
import optax

__all__ = ["adafactor", "learning_rate_at"]

Schedule = Literal["cosine", "rsqrt"]


def learning_rate_at(schedule: Schedule, peak: float, warmup: float, steps: int) -> optax.Schedule:
    """Return a learning rate as a function of the step: a linear warm-up to a peak, then a decay.

    Args:
        schedule: ``"cosine"`` falls to a fiftieth of the peak at the last step; ``"rsqrt"`` as one over the square root
            of the step (Lanusse et al. 2020, Table 1).
        peak: Highest rate.
        warmup: Fraction of the steps until the peak.
        steps: Number of steps.

    Example:
        >>> rate = learning_rate_at("rsqrt", 1.0, 0.01, 400)
        >>> [round(float(rate(step)), 3) for step in (0, 3, 15, 399)]
        [0.25, 1.0, 0.5, 0.1]
    """
    rising = max(1, round(warmup * steps))
    if schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(peak / 20, peak, rising, max(steps, rising + 1), peak / 50)

    def rate(step):
        number = jnp.asarray(step + 1, float)
        return peak * jnp.minimum(number / rising, 1.0) * jnp.sqrt(rising / jnp.maximum(number, rising))

    return rate


def adafactor(rate: optax.Schedule, *, parameter_scale: bool) -> optax.GradientTransformation:
    """Return Adafactor without momentum (Shazeer & Stern 2018), as the paper trained with.

    Args:
        rate: Learning rate of a step; relative to the size of each array with ``parameter_scale``.
        parameter_scale: Whether steps are in units of the size of each array, at least 0.001.
    """
    return optax.adafactor(
        rate,
        decay_rate=0.8,
        multiply_by_parameter_scale=parameter_scale,
        momentum=None,
        clipping_threshold=1.0,
    )
