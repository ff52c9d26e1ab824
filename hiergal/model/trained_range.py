"""The trained range of a model: the conditions that its training galaxies cover.

Elsewhere the latent flow extrapolates, and may give anything. A row of conditions is *outside*, if

- a condition is smaller or larger than those of all training galaxies, or
- the galaxies nearest to it are far: the distance to the ``NEIGHBORS``-th of the model's population is more than
  ``MARGIN`` times what one in ``1 / STRAY`` of the population itself has. Distances are those of Mahalanobis, of the
  logarithms of conditions that span more than a factor of ``DECADE``. With the population of ``hub:mock-acs``, 1 in
  1,600 of 300,000 galaxies that it has not seen are called outside by both rules, and a galaxy of magnitude 25 with a
  radius of 40 pixels is, though each of the two is ordinary. A model without a population (of an old bundle) has the
  first rule alone, and the warning says so.

Some rows are not drawn at all: those that are not finite, and those *far* outside, such as placeholders for "not
measured" (99, -99, 1e20). Far is a distance of more than ``FAR`` times the limit, a value beyond the range by more than
``FAR_BEYOND`` of its width, or one that is not positive where all training galaxies are. Up to there, 0.3 % of what
``hub:mock-acs`` draws outside is more than two magnitudes too bright; beyond, 4 % and more, up to the brightest galaxy
that the network can draw.
"""

import warnings
import weakref
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from hiergal.model.trained import GalaxyModel

__all__ = ["OUTSIDE", "RangeCheck", "can_be_computed", "check_outside", "check_range", "percent"]

OUTSIDE = ("warn", "raise", "ignore")  # what may be done with galaxies outside
NEIGHBORS = 5
STRAY = 0.002  # fraction of the population that may be strays: they do not decide the limit
MARGIN = 1.25
DECADE = 8.0
FAR, FAR_BEYOND = 1.5, 0.25
LARGEST = 1e9
FEWEST = 30  # galaxies that a density needs
TINY = 1e-6  # of the largest variance: what rounding leaves of columns that follow from each other
_KEPT: dict[int, tuple[weakref.ref, Any]] = {}  # densities of models in use


class RangeCheck(NamedTuple):
    """Position of rows of conditions relative to the trained range.

    Attributes:
        outside: Whether a row is outside, [n].
        far: Whether it is so far outside that it is not to be drawn, or not finite, [n].
        by_density: Whether the model has a population, so that combinations count, and not each condition alone.
    """

    outside: Bool[np.ndarray, "n"]
    far: Bool[np.ndarray, "n"]
    by_density: bool


class _Density(NamedTuple):
    used: np.ndarray  # columns that vary
    logs: np.ndarray  # which of these are taken as logarithms
    center: np.ndarray
    whiten: np.ndarray
    tree: Any
    limit: float


def check_range(model: GalaxyModel, conditions: Float[np.ndarray, "n c"]) -> RangeCheck:
    """Compare conditions with those that a model was trained on.

    Args:
        model: A model with a latent flow.
        conditions: As :func:`~hiergal.model.conditions.conditions_for` gives them; some may be NaN or infinite.

    Example:
        >>> check = check_range(model, np.array([[25.0, 40.0, 0.9]], np.float32))
        >>> bool(check.outside[0]), bool(check.far[0])
        (True, True)
    """
    conditions = np.asarray(conditions, float)
    low, high = _ranges(model)
    finite = np.isfinite(conditions).all(axis=1)
    bounded = np.isfinite(low) & np.isfinite(high)
    room = np.where(bounded, 1e-5 * np.maximum(np.abs(low), np.abs(high)), 0.0)  # conditions are float32
    with np.errstate(invalid="ignore"):
        beyond = ((conditions < low - room) | (conditions > high + room)).any(axis=1)
        past = np.maximum(low - conditions, conditions - high)
        far = (past > FAR_BEYOND * (high - low) + room).any(axis=1)
        far |= ((low > 0) & (conditions <= 0)).any(axis=1)
    far |= ~finite
    outside, density = beyond | far, _density_of(model)
    if density is not None:
        rows = np.flatnonzero(~far)
        distance = _distance(density, conditions[rows])
        outside[rows] |= distance > 1
        far[rows] = distance > FAR
    return RangeCheck(outside, far, density is not None)


def check_outside(
    model: GalaxyModel,
    conditions: Float[np.ndarray, "n c"],
    outside: str,
    *,
    found: RangeCheck | None = None,
    prefix: str = "",
    stacklevel: int = 3,
) -> Bool[np.ndarray, "n"]:
    """Decide which rows are drawn, and warn if some are outside the trained range, for every way of drawing.

    Args:
        model: A model with a latent flow.
        conditions: As :func:`~hiergal.model.conditions.conditions_for` gives them; some may be NaN or infinite.
        outside: ``warn``: rows outside are drawn, with a warning, except for those that are far outside, which are not;
            ``raise``: any is an error; ``ignore``: all that can be computed with is drawn.
        found: What :func:`check_range` found, if that is known.
        prefix: Words before those of the warning.
        stacklevel: Of the warning, as for ``warnings.warn``.

    Returns:
        Which rows are to be drawn, [n].

    Raises:
        ValueError: If some are outside, and ``outside`` is ``"raise"``; or if it is unknown.

    Example:
        >>> check_outside(model, np.array([[23.0, 9.0, 0.8]], np.float32), "warn")
        array([ True])
    """
    if outside not in OUTSIDE:
        raise ValueError(f"outside: expected 'warn', 'raise' or 'ignore', got {outside!r}")
    if outside == "ignore":
        return can_be_computed(conditions)
    found = check_range(model, conditions) if found is None else found
    if found.outside.any():
        text = describe_outside(model, conditions, found)
        if outside == "raise":
            raise ValueError(text)
        warnings.warn(prefix + text, stacklevel=stacklevel)
    return ~found.far


def can_be_computed(conditions: Float[np.ndarray, "n c"]) -> Bool[np.ndarray, "n"]:
    """Find the rows that networks in float32 can compute with, whatever they mean.

    Example:
        >>> can_be_computed(np.array([[22.0], [99.0], [np.nan], [1e20]]))
        array([ True,  True, False, False])
    """
    with np.errstate(invalid="ignore"):
        return (abs(conditions) < LARGEST).all(axis=1)


def describe_outside(model: GalaxyModel, conditions: Float[np.ndarray, "n c"], found: RangeCheck) -> str:
    """Describe in a sentence how many rows are outside, of which range, and which is the first."""
    ranges = ", ".join(
        f"{name} from {low:.4g} to {high:.4g}"
        for name, (low, high) in model.provenance.condition_ranges.items()
    )
    total, count, far = len(found.outside), int(found.outside.sum()), int(found.far.sum())
    row = np.flatnonzero(found.outside)[0]
    names = model.flow.config.conditions
    values = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, conditions[row], strict=True))
    rule = (
        "and combinations of these that its galaxies have"
        if found.by_density
        else "each alone: this model has no population to compare combinations with"
    )
    text = (
        f"{count} of {total} galaxies ({percent(count / total)}) are asked for beyond the range that the model was "
        f"trained on, {ranges} ({rule}); first: row {row} ({values})"
    )
    if far:
        text += (
            f"; {far} of them {'is' if far == 1 else 'are'} not drawn, as no galaxies are like that (a placeholder for "
            "what was not measured?)"
        )
    return text


def percent(fraction: float) -> str:
    """Write a fraction as a percentage with two digits that matter.

    Example:
        >>> percent(1.0), percent(0.25), percent(0.0123), percent(0.9999), percent(2e-6)
        ('100 %', '25 %', '1.2 %', '99.99 %', '0.0002 %')
    """
    value = 100 * fraction
    if value >= 10:
        digits = 2 if 99 < value < 100 else 0
        return f"{value:.{digits}f} %"
    return f"{float(f'{value:.2g}'):f}".rstrip("0").rstrip(".") + " %"


def _ranges(model: GalaxyModel) -> tuple[np.ndarray, np.ndarray]:
    ranges = model.provenance.condition_ranges
    pairs = [ranges.get(name, (-np.inf, np.inf)) for name in model.flow.config.conditions]
    low, high = np.array(pairs, float).reshape(-1, 2).T
    return low, high


def _density_of(model: GalaxyModel) -> _Density | None:
    """Density of a model's population, made once for each model in use."""
    kept = _KEPT.get(id(model))
    if kept is None or kept[0]() is not model:
        number = id(model)
        made = None if model.population is None else _density(np.asarray(model.population), *_ranges(model))
        _KEPT[number] = kept = weakref.ref(model, lambda _: _KEPT.pop(number, None)), made
    return kept[1]


def _density(population: np.ndarray, low: np.ndarray, high: np.ndarray) -> _Density | None:
    from scipy.spatial import cKDTree

    population = population[np.isfinite(population).all(axis=1)].astype(float)
    used = np.flatnonzero(population.std(axis=0) > 0) if len(population) >= FEWEST else np.array([], int)
    if not len(used):
        return None
    logs = (low > 0) & (high > DECADE * low) & (population > 0).all(axis=0)
    values = _scaled(population[:, used], logs[used])
    center, spread = values.mean(axis=0), values.std(axis=0)
    variances, axes = np.linalg.eigh(np.atleast_2d(np.cov(((values - center) / spread).T)))
    whiten = axes / spread[:, None] / np.sqrt(np.maximum(variances, TINY * variances.max()))
    points = (values - center) @ whiten
    tree = cKDTree(points)
    others = tree.query(points, k=[NEIGHBORS + 1])[0][:, 0]  # the nearest is the galaxy itself
    limit = MARGIN * np.sort(others)[-max(1, round(STRAY * len(others)))]
    return _Density(used, logs[used], center, whiten, tree, limit)


def _distance(density: _Density, conditions: np.ndarray) -> np.ndarray:
    """Distances to galaxies of the population, in units of the limit; a galaxy of it has none."""
    points = (_scaled(conditions[:, density.used], density.logs) - density.center) @ density.whiten
    nearest, distance = density.tree.query(points, k=[1, NEIGHBORS])[0].T
    return np.where(nearest > 0, distance / density.limit, 0.0)


def _scaled(values: np.ndarray, logs: np.ndarray) -> np.ndarray:
    return np.where(logs, np.log(np.where(logs, values, 1.0)), values)
