"""Requests of GalSim's users: random numbers of their generator, conditions, and checks of both."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import ndtr

from hiergal.model.condition_columns import Catalog, conditions_from
from hiergal.model.conditions import complete_conditions, condition_names, conditions_for
from hiergal.model.trained import GalaxyModel
from hiergal.model.trained_range import OUTSIDE, check_outside
from hiergal.runtime.fork import check_not_forked, is_fork
from hiergal.runtime.identities import identities, identity_normals
from hiergal.runtime.pytree import brief
from hiergal.runtime.seeds import as_key
from hiergal.simulate.row_numbers import base_for_rows, normals_for_rows

if TYPE_CHECKING:
    import galsim

__all__ = [
    "Request",
    "deviates_each",
    "noise_seeds",
    "request_from",
    "request_galaxies",
    "take_deviates",
    "take_deviates_of_one",
]

SEEDS = 2**30  # of generators of noise around the stamps
OTHERS = 2**31 - 1  # purpose of a key: no row's place


class Request(NamedTuple):
    """Requested galaxies, before any is computed.

    Attributes:
        base: Unit-normal numbers that say everything but the conditions, [n, d].
        conditions: In the order of ``quantities``, [n, c].
        noise_seed: Seed of the noise around each stamp, [n].
        drawn: Whether each is to be drawn, [n]; None for all.
    """

    base: Float[np.ndarray, "n d"]
    conditions: Float[np.ndarray, "n c"]
    noise_seed: np.ndarray
    drawn: Bool[np.ndarray, "n"] | None = None

    __repr__ = brief


def request_galaxies(
    model: GalaxyModel,
    cat: Catalog | None,
    rng: "galsim.BaseDeviate | Sequence[galsim.BaseDeviate] | None",
    *,
    key: jax.Array | int | None = None,
    n: int | None = None,
    missing: str = "raise",
    outside: str = "ignore",
    identifier: str | None = None,
    stacklevel: int = 3,
) -> Request:
    """Take random numbers, and find the conditions, of the galaxies that are asked for.

    Args:
        model: A model with a latent flow.
        cat: Catalogue of conditions, or None.
        rng: Generator of random numbers, one for each galaxy, or None for a new one: each galaxy takes an even number
            of normal deviates, as many for all, so that it does not matter how galaxies are batched. What is refused
            takes none.
        key: In its place, a PRNG key of JAX, or a seed: the galaxy of a row depends on the row's place alone.
        n: Number of galaxies, where the catalogue does not say it.
        missing: ``raise``, or ``population`` to draw conditions that the catalogue lacks.
        outside: What to do with galaxies outside the trained range
            (:func:`~hiergal.model.trained_range.check_outside`).
        identifier: A column that tells galaxies apart: their numbers follow it, and the generator gives one number for
            the whole catalogue.
        stacklevel: Of warnings, as for ``warnings.warn``.

    Raises:
        TypeError: If the catalogue has no named columns.
        ValueError: If something is missing, not finite, or contradicts the rest.
        RuntimeError: In a fork of a process that has used JAX.
    """
    check_not_forked()
    if missing not in ("raise", "population"):
        raise ValueError(f"missing: expected 'raise' or 'population', got {missing!r}")
    if outside not in OUTSIDE:
        raise ValueError(f"outside: expected 'warn', 'raise' or 'ignore', got {outside!r}")
    if rng is not None and key is not None:
        raise ValueError("expected rng (of GalSim) or key (of JAX), got both")
    if cat is None and n is None:
        raise ValueError("expected a catalogue, or n, the number of galaxies to draw from the population")
    known = cat is not None and missing == "raise"
    conditions = conditions_for(model, cat) if known else None
    if conditions is not None:
        count = len(conditions)
    else:
        count = n if cat is None else _length(cat, condition_names(model))
        count = n if count is None else count
    if count is None:
        raise ValueError("n: expected the number of galaxies, as the catalogue has no condition to count")
    if count < 0 or (n is not None and n != count):
        raise ValueError(f"n: expected {max(count, 0)}, the rows of the catalogue, or nothing, got {n}")
    named = None if identifier is None else identities({} if cat is None else cat, identifier)
    if named is not None and len(named) != count:
        raise ValueError(f"identifier: expected {identifier!r} to have {count} rows, got {len(named)}")

    def take(source) -> Request:
        if key is not None:
            deviates = _deviates_of_key(model, key, np.arange(count) if named is None else named)
        elif named is None:
            deviates = take_deviates(model, source, count)
        else:
            deviates = identity_normals(_seed_from(source), named, deviates_each(model))
        return request_from(model, deviates, cat, conditions)

    if conditions is not None:
        drawn = check_outside(model, conditions, outside, stacklevel=stacklevel + 1)
        return take(rng)._replace(drawn=drawn)
    if outside == "raise":  # on copies of the generators, which then stay where they were
        check_outside(model, take(_copied(rng)).conditions, outside)
    request = take(rng)
    return request._replace(
        drawn=check_outside(model, request.conditions, outside, stacklevel=stacklevel + 1)
    )


def _deviates_of_key(model: GalaxyModel, key: jax.Array | int, rows: np.ndarray) -> np.ndarray:
    """Normal deviates of rows, or of identities: base variables as :func:`hiergal.draw_profiles` has them."""
    key, count = as_key(key), deviates_each(model) - model.recipe.generator.latents
    others = normals_for_rows(jax.random.fold_in(key, OTHERS), rows, count)
    return np.concatenate([base_for_rows(model, key, rows), others], axis=1).astype(float)


def _copied(rng):
    import galsim

    if rng is None or isinstance(rng, galsim.BaseDeviate):
        return None if rng is None else rng.duplicate()
    if not isinstance(rng, Sequence):
        return rng  # which is refused in words
    return [one.duplicate() if isinstance(one, galsim.BaseDeviate) else one for one in rng]


def _in_words(rng: Any) -> str:
    """Text for an object that is no generator; of a seed, the way to one (GalSim takes 0 for the system's own)."""
    seed = isinstance(rng, int | np.integer) and rng > 0
    return f"{type(rng).__name__}; write galsim.BaseDeviate({rng})" if seed else type(rng).__name__


def _seed_from(rng: "galsim.BaseDeviate | None") -> int:
    """One number for a whole catalogue, from the caller's generator."""
    import galsim

    if rng is not None and not isinstance(rng, galsim.BaseDeviate):
        raise TypeError(
            f"rng: expected one galsim.BaseDeviate, as identifiers tell galaxies apart, got {_in_words(rng)}"
        )
    return int((galsim.BaseDeviate() if rng is None else rng).raw())


def request_from(
    model: GalaxyModel,
    deviates: Float[np.ndarray, "n k"],
    cat: Catalog | None,
    conditions: Float[np.ndarray, "n c"] | None,
) -> Request:
    """Convert normal deviates to base variables, conditions and a seed.

    Args:
        model: A model with a latent flow.
        deviates: What :func:`take_deviates` took.
        cat: Catalogue of what is known of the conditions, or None.
        conditions: All of them, where all are known.
    """
    d = model.recipe.generator.latents
    if conditions is None:
        conditions = complete_conditions(model, cat, _uniform(deviates[:, d]))
    return Request(deviates[:, :d].astype(np.float32), conditions, noise_seeds(deviates, d))


def noise_seeds(deviates: Float[np.ndarray, "n k"], latents: int) -> Int[np.ndarray, "n"]:
    """Return the seeds of the noise around stamps, from the deviates of galaxies with so many latents."""
    return 1 + (_uniform(deviates[:, latents + 1]) * SEEDS).astype(np.int64)


def _uniform(deviates: np.ndarray) -> np.ndarray:
    return np.minimum(ndtr(deviates), np.nextafter(1, 0))


def take_deviates(
    model: GalaxyModel, rng: "galsim.BaseDeviate | Sequence[galsim.BaseDeviate] | None", count: int
) -> Float[np.ndarray, "n k"]:
    """Take the normal deviates of some galaxies: base variables, a choice from the population, a seed.

    Args:
        model: A model.
        rng: Generator of random numbers, or one for each galaxy.
        count: Number of galaxies.

    Raises:
        TypeError: If these are no generators.
        ValueError: If there are more or fewer generators.
    """
    import galsim

    deviates = np.empty((count, deviates_each(model)))
    if rng is None or isinstance(rng, galsim.BaseDeviate):
        deviate = galsim.GaussianDeviate(rng)
        if is_fork():  # where the threads of ``generate`` may be waited for in vain
            deviates[:] = np.reshape([deviate() for _ in range(deviates.size)], deviates.shape)
        else:
            deviate.generate(deviates)
        return deviates
    if not isinstance(rng, Sequence) or not all(isinstance(one, galsim.BaseDeviate) for one in rng):
        raise TypeError(f"rng: expected a galsim.BaseDeviate, or one for each galaxy, got {_in_words(rng)}")
    if len(rng) != count:
        raise ValueError(f"rng: expected one generator, or one for each of {count} galaxies, got {len(rng)}")
    for row, one in zip(deviates, rng, strict=True):
        row[:] = take_deviates_of_one(one, len(row))
    return deviates


def take_deviates_of_one(rng: "galsim.BaseDeviate", count: int) -> tuple[float, ...]:
    """Take some normal deviates, one by one: for so few, the threads of ``generate`` take a hundred times longer.

    Args:
        rng: Generator of random numbers.
        count: How many.
    """
    import galsim

    deviate = galsim.GaussianDeviate(rng)
    return tuple(deviate() for _ in range(count))


def deviates_each(model: GalaxyModel) -> int:
    """Return the number of normal deviates of a galaxy: an even one, as they come in pairs."""
    d = model.recipe.generator.latents
    return d + 2 + d % 2


def _length(cat: Catalog, names: tuple[str, ...]) -> int | None:
    """Rows of a catalogue, by the first condition that it has."""
    there = cat.dtype.names if isinstance(cat, np.ndarray) else list(getattr(cat, "colnames", cat))
    known = [name for name in names if name in (there or ())]
    return len(conditions_from((known[0],), cat)) if known else None
