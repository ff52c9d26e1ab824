"""Samples made alike: real stamps, drawn galaxies and parametric twins, each with the same PSF, stamp and noise.

For each held-out galaxy of a survey, what the survey saw; a galaxy that the model draws for the same conditions; the
parametric fit to it. The latter two are convolved with the galaxy's own PSF, and get a noise image drawn from its own
noise model, so that whatever differs is the galaxies' light (Lanusse et al. 2020, Sec. 4.4). Halves of the real sample
against each other are the floor of every comparison.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from hiergal.measure.parametric import ParametricTwins, fit_parametric
from hiergal.model.trained import GalaxyModel
from hiergal.observation.observation import Observation
from hiergal.observation.psf import convolve
from hiergal.runtime.batching import join_batches, padded_batches
from hiergal.runtime.pytree import Array, brief
from hiergal.runtime.seeds import as_key
from hiergal.simulate.profiles import draw_profiles

__all__ = ["Samples", "halves", "make_samples", "observe_again", "samples_of"]

GALAXIES_PER_CALL = 128


class Samples(NamedTuple):
    """Stamps of the same galaxies, made three ways [flux per pixel], [n, y, x].

    ``profile`` is what ``drawn`` shows without PSF and noise (None where not known), and ``twins`` are the fits
    behind ``parametric``.
    """

    real: Float[Array, "n y x"]
    drawn: Float[Array, "n y x"]
    parametric: Float[Array, "n y x"]
    profile: Float[Array, "n y x"] | None
    twins: ParametricTwins

    __repr__ = brief


def make_samples(
    model: GalaxyModel,
    observation: Observation,
    *,
    key: jax.Array | int,
    workers: int | None = 1,
    on_progress: Callable[[int], None] | None = None,
) -> Samples:
    """Draw a galaxy, and fit a parametric one, for each galaxy of a survey.

    Args:
        model: A trained model with a latent flow.
        observation: Galaxies that the model has not seen, with its conditions in their catalogue.
        key: PRNG key, or a seed; the same key gives the same samples.
        workers: Number of threads that fit, or None for one per available core.
        on_progress: Called with the number of galaxies done since the last call.

    Raises:
        ValueError: If the model's pixels are not the survey's, it has no flow, or a condition is missing.

    Example:
        >>> samples = make_samples(model, observation, key=jax.random.key(0))
    """
    recipe = model.recipe
    ours = (*recipe.shape, recipe.pixel_scale_arcsec)
    theirs = (*observation.image.shape[1:], observation.pixel_scale_arcsec)
    if not np.allclose(ours, theirs):
        raise ValueError(
            f"observation: expected stamps of {ours[0]}x{ours[1]} pixels of {ours[2]} arcsec as the model's, got "
            f"{theirs[0]}x{theirs[1]} of {theirs[2]}; "
            "prepare the survey with the model's stamps"
        )
    draw_key, rest = jax.random.split(as_key(key))
    # The survey decides what it has, also outside the range of the training galaxies.
    profile = draw_profiles(model, observation.catalog, key=draw_key, outside="ignore")
    return samples_of(profile, observation, profiles=True, key=rest, workers=workers, on_progress=on_progress)


def samples_of(
    images: Float[Array, "n y x"],
    observation: Observation,
    *,
    profiles: bool,
    key: jax.Array | int,
    workers: int | None = 1,
    on_progress: Callable[[int], None] | None = None,
) -> Samples:
    """Collect the galaxies to validate, with real and parametric ones.

    Args:
        images: A galaxy for each of the survey's [flux per pixel].
        observation: The survey's galaxies.
        profiles: Whether the images are unconvolved profiles, to be observed as the survey's galaxies were; if not,
            they have the PSFs and noise of those already.
        key: PRNG key of the noise, or a seed.
        workers: Number of threads that fit, or None for one per available core.
        on_progress: Called with the number of galaxies done since the last call.

    Raises:
        ValueError: If there is not one image for each galaxy.

    Example:
        >>> from hiergal.survey.mock.galaxies import draw_mock
        >>> batch = draw_mock(2, seed=1, stamp=48)
        >>> samples = samples_of(batch.truth, batch.observation, profiles=True, key=jax.random.key(0))
        >>> samples.drawn.shape == samples.parametric.shape == (2, 48, 48)
        True
    """
    if np.shape(images) != observation.image.shape:
        raise ValueError(
            f"images: expected the survey's shape {observation.image.shape}, got {np.shape(images)}"
        )
    noise_key, twin_key = jax.random.split(as_key(key))
    twins = fit_parametric(observation, workers=workers, on_progress=on_progress)
    return Samples(
        np.asarray(observation.image),
        observe_again(images, observation, key=noise_key) if profiles else np.asarray(images),
        observe_again(twins.profile, observation, key=twin_key),
        images if profiles else None,
        twins,
    )


def observe_again(
    profile: Float[Array, "n y x"], observation: Observation, *, key: jax.Array | int
) -> Float[np.ndarray, "n y x"]:
    """Observe other profiles as a survey observed its galaxies: the same PSFs, new noise of the same kind (Eq. 1).

    Args:
        profile: Unconvolved profiles [flux per pixel].
        observation: The survey's galaxies.
        key: PRNG key, or a seed; the noise of a galaxy does not depend on how many there are.

    Example:
        >>> from hiergal.survey.mock.galaxies import draw_mock
        >>> batch = draw_mock(3, seed=1, stamp=32)
        >>> observe_again(batch.truth, batch.observation, key=jax.random.key(0)).shape
        (3, 32, 32)
    """
    observation = observation.bare()
    n, key = len(observation), as_key(key)
    parts = []
    for batch in padded_batches(n, GALAXIES_PER_CALL):
        part = jax.tree.map(jnp.asarray, observation[batch.rows])
        drawn = _observed(jax.random.fold_in(key, batch.first), jnp.asarray(profile[batch.rows]), part)
        parts.append(np.asarray(drawn))
    return join_batches(parts, n)


def halves(n: int, *, seed: int = 0) -> tuple[Int[np.ndarray, "half"], Int[np.ndarray, "other"]]:
    """Divide galaxies at random into two halves, in order within each.

    Args:
        n: Number of galaxies.
        seed: Seed of the division.

    Example:
        >>> [len(half) for half in halves(7)]
        [3, 4]
    """
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[: n // 2]), np.sort(order[n // 2 :])


@jax.jit
def _observed(key: jax.Array, profile: jax.Array, observation: Observation) -> jax.Array:
    blurred = convolve(profile, observation.psf)
    return blurred + observation.noise.sample(key, blurred.shape)
