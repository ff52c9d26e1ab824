"""Requests of a catalogue: conditions, exact fluxes and sizes, and the columns that are copied to the output."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from hiergal.model.condition_columns import Catalog, conditions_from
from hiergal.model.conditions import complete_conditions, condition_names, conditions_for
from hiergal.model.trained import GalaxyModel
from hiergal.model.trained_range import check_outside, check_range
from hiergal.runtime.identities import hash_identifiers
from hiergal.runtime.pytree import Array

__all__ = ["IDENTIFIERS", "AskedGalaxies", "Exact", "asked_galaxies"]

# Columns whose identifiers are kept, in any case, where none is named.
IDENTIFIERS = ("identifier", "ident", "id", "object_id", "objectid", "source_id", "number")


class Exact(NamedTuple):
    """Columns of exact values; None where the model's own stand.

    Attributes:
        flux: Total flux, in the unit of the output.
        magnitude: Total magnitude [AB], at the zero point of the output.
        half_light_radius: As ``galsim.GSObject.calculateHLR`` measures it, before the PSF [arcsec].
    """

    flux: str | None = None
    magnitude: str | None = None
    half_light_radius: str | None = None


class AskedGalaxies(NamedTuple):
    """Galaxies of a file, a row for each.

    Attributes:
        conditions: In the order of the model's, [n, c]; NaN or infinite where the catalogue has no number.
        rows: What random numbers depend on: places, [n], or identities, [n, 2].
        drawn: Whether a galaxy is drawn, [n].
        outside: Whether it is outside the trained range, [n].
        flux: Exact fluxes, [n], or None.
        half_light_radius: Exact sizes [arcsec], [n], or None.
        columns: What the file keeps of each galaxy, by name.
    """

    conditions: Float[np.ndarray, "n c"]
    rows: Array
    drawn: Bool[np.ndarray, "n"]
    outside: Bool[np.ndarray, "n"]
    flux: Float[np.ndarray, "n"] | None
    half_light_radius: Float[np.ndarray, "n"] | None
    columns: dict[str, np.ndarray]

    def part(self, rows: np.ndarray) -> "AskedGalaxies":
        """Return some of the galaxies, without the columns."""
        fields: tuple[Any, ...] = self[:-1]
        taken: list[Any] = [None if field is None else field[rows] for field in fields]
        return AskedGalaxies(*taken, {})

    def digest(self) -> str:
        """Return a checksum of all that decides the galaxies."""
        found = hashlib.sha256(np.ascontiguousarray(self.conditions).tobytes())
        for field in (*self[1:3], *self[4:6]):
            found.update(b"none" if field is None else np.ascontiguousarray(field).tobytes())
        for name, column in self.columns.items():
            found.update(f"{name} {column.dtype.kind}".encode())
            found.update("\0".join(column).encode() if column.dtype.kind == "U" else column.tobytes())
        return found.hexdigest()


def asked_galaxies(
    model: GalaxyModel,
    catalog: Catalog | None,
    *,
    galaxies: int | None,
    seed: int,
    outside: str,
    identifier: str | None,
    exact: Exact,
    zero_point: float,
    flux_unit: str,
) -> AskedGalaxies:
    """Collect the requests of a catalogue.

    Args:
        model: A model with a latent flow.
        catalog: Columns with names, or None for some of the model's population.
        galaxies: How many, without a catalogue.
        seed: Seed of the choice from the population.
        outside: As for :func:`~hiergal.model.trained_range.check_outside`.
        identifier: A column that random numbers follow, or None for places.
        exact: Columns of exact values.
        zero_point: Of the output [mag].
        flux_unit: Of the output.

    Raises:
        ValueError: If something is missing, contradicts the rest, or is no number.
    """
    if catalog is None:
        if galaxies is None or galaxies < 1:
            raise ValueError(
                f"galaxies: expected a catalogue, or a positive number of galaxies, got {galaxies}"
            )
        chosen = np.random.default_rng(seed).random(galaxies)
        conditions = complete_conditions(model, None, chosen)
        catalog = dict(zip(condition_names(model), conditions.T, strict=True))
    else:
        conditions = conditions_for(model, catalog, unknown="keep")
    count = len(conditions)
    if galaxies is not None and galaxies != count:
        raise ValueError(f"galaxies: expected none with a catalogue of {count} rows, got {galaxies}")
    if not count:
        raise ValueError("catalog: expected rows, got none")
    found = check_range(model, conditions)
    drawn = check_outside(model, conditions, outside, found=found, stacklevel=5)
    fluxes, radii, drawn = _exact_values(catalog, exact, drawn, zero_point, flux_unit)
    name, names = _identifiers(catalog, identifier, count)
    rows = np.arange(count) if identifier is None else hash_identifiers(catalog[name], name)
    columns = {} if names is None else {name: names}
    columns |= dict(zip(condition_names(model), conditions.T, strict=True))
    columns |= {"outside": found.outside, "drawn": drawn}
    if fluxes is not None:
        columns["asked_flux"] = fluxes
    if radii is not None:
        columns["asked_half_light_radius_arcsec"] = radii
    return AskedGalaxies(conditions, rows, drawn, found.outside, fluxes, radii, columns)


def _exact_values(
    catalog: Catalog, exact: Exact, drawn: np.ndarray, zero_point: float, flux_unit: str
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray]:
    """Exact fluxes and sizes, and which galaxies are drawn: none without the numbers that are asked of it."""
    if exact.flux is not None and exact.magnitude is not None:
        raise ValueError(f"expected a column of fluxes or of magnitudes, got both: {exact}")
    fluxes = radii = None
    if exact.flux is not None:
        fluxes = _column(catalog, "flux", exact.flux, flux_unit)
    if exact.magnitude is not None:
        magnitudes = _column(catalog, "magnitude", exact.magnitude, "mag")
        with np.errstate(over="ignore"):
            fluxes = 10 ** (0.4 * (zero_point - magnitudes))
        # Placeholders: no galaxy of any survey is brighter than that, or would be seen when fainter.
        fluxes = np.where(abs(magnitudes - 25) < 25, fluxes, np.nan)
    if exact.half_light_radius is not None:
        radii = _column(catalog, "half_light_radius", exact.half_light_radius, "arcsec")
        drawn = drawn & np.isfinite(radii) & (np.nan_to_num(radii) > 0)
    if fluxes is not None:
        drawn = drawn & np.isfinite(fluxes) & (np.nan_to_num(fluxes) > 0)
    return fluxes, radii, drawn


def _column(catalog: Catalog, what: str, name: str, unit: str) -> np.ndarray:
    if name not in (there := names_of(catalog)):
        raise ValueError(
            f"{what}: expected a column {name!r} in the catalogue, there are: {', '.join(there) or 'none'}"
        )
    return conditions_from((name,), catalog, units={name: unit}, unknown="keep")[:, 0].astype(float)


def _identifiers(catalog: Catalog, identifier: str | None, count: int) -> tuple[str, np.ndarray | None]:
    """The column of identifiers, by name or one of the usual ones; integers or text, or none."""
    there = names_of(catalog)
    if identifier is not None and identifier not in there:
        raise ValueError(
            f"identifier: expected a column {identifier!r} in the catalogue, there are: {', '.join(there) or 'none'}"
        )
    lower = {name.lower(): name for name in reversed(there)}
    usual = next((lower[word] for word in IDENTIFIERS if word in lower), "")
    name = identifier or usual
    if not name or name in ("outside", "drawn"):
        return "", None
    column = catalog[name]
    if isinstance(column, np.ma.MaskedArray):
        column = column.filled("" if column.dtype.kind in "SUO" else -1)
    values = np.atleast_1d(np.asarray(column))
    if values.dtype.kind in "SO":
        values = np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist()])
    if values.shape != (count,) or values.dtype.kind not in "iuU":
        if identifier is None:
            return "", None
        raise ValueError(
            f"identifier: {name}: expected an integer or a text for each of {count} rows, got {values.dtype} of shape "
            f"{values.shape}"
        )
    return name, values


def names_of(catalog: Catalog) -> Sequence[str]:
    """Return the names of a catalogue's columns."""
    if isinstance(catalog, np.ndarray | np.void):
        return list(catalog.dtype.names or ())
    return [str(name) for name in getattr(catalog, "colnames", catalog)]
