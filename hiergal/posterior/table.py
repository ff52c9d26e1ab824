"""Posteriors as a table: one row for each galaxy, as catalogues are read and joined.

=====================================  ==========================================================================
column                                 holds
=====================================  ==========================================================================
``identifier``                         of the galaxy in its survey
``flag``                               the verdict: bits of :class:`hiergal.posterior.verdict.Flag`, 0 where nothing
                                       speaks against the posterior; numbers are NaN where nothing was inferred
``flux``, ``magnitude``,               posterior means; with ``_std`` the standard deviations, with ``_q025``,
``hlr_arcsec``, ``x_pix``, ``y_pix``,  ``_q160``, ``_q500``, ``_q840`` and ``_q975`` the quantiles of 2.5 to 97.5 %
``g1``, ``g2``
``corr_flux_hlr_arcsec``, ...          correlations of flux, half-light radius and ellipticity
``chi_square``, ``misfit``,            how well it is fitted (:class:`hiergal.posterior.Posterior`)
``variance_factor``
``method``                             where the draws come from
``k_hat``, ``ess``, ``r_hat``,         diagnostics of that method
``ess_nuts``, ``divergences``
``ra_deg``, ``dec_deg``,               of stamps that came with a WCS: where the middle is (ICRS), and the angle of the
``position_angle_deg``                 major axis from North through East, with ``_std`` (the circular one)
``sky`` ... ``p_pixels``               what the verdict rests on (:mod:`hiergal.posterior.verdict`)
=====================================  ==========================================================================

Columns have units where Astropy knows them; the metadata (header of a FITS file) say in words which unit fluxes have,
and where the table comes from (:mod:`hiergal.posterior.provenance`).
"""

import io
import itertools
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import QTable, Table
from astropy.units import Unit
from jaxtyping import Bool, Float, Int, Shaped

from hiergal.measure.profile import ProfileSummary
from hiergal.model.trained import GalaxyModel
from hiergal.observation.observation import Observation
from hiergal.observation.photometry import UNSTATED, table_unit
from hiergal.posterior.posterior import METHODS, STATISTICS, Posterior
from hiergal.posterior.provenance import CARDS, cards_of, provenance_of
from hiergal.posterior.verdict import CHECKS, Flag
from hiergal.runtime.extras import require_extra
from hiergal.runtime.files import write_whole
from hiergal.runtime.marks import KIND_CARD, RUN_CARD
from hiergal.runtime.output import Output, owned
from hiergal.runtime.version import __version__
from hiergal.runtime.work import settle
from hiergal.survey.sky import SKY_COLUMNS, position_angle

__all__ = [
    "FORMATS",
    "TABLE",
    "Flag",
    "add_sky",
    "blank_rows",
    "check_table_name",
    "posterior_table",
    "quantity_columns",
    "read_table",
    "sky_columns",
    "table_with_units",
    "write_part",
    "write_result",
    "write_table",
]

FLUX_UNIT = CARDS["flux_unit"]
TABLE = "posterior table"  # what such a file says that it is

QUANTITIES = {
    "flux": None,
    "magnitude": "mag",
    "hlr_arcsec": "arcsec",
    "x_pix": "pix",
    "y_pix": "pix",
    "g1": "",
    "g2": "",
}
QUANTILES = {"q025": 0.025, "q160": 0.16, "q500": 0.5, "q840": 0.84, "q975": 0.975}
TOGETHER = ("flux", "hlr_arcsec", "g1", "g2")
NUMBERS = ("chi_square", "misfit", "variance_factor")
FORMATS = {".fits": "fits", ".parquet": "parquet"}
LONGEST_NAME = max(len(name) for name in METHODS)


def posterior_table(
    posterior: Posterior,
    *,
    magnitude_zero_point: float,
    flux_unit: str = "",
    about: Mapping[str, str | int | float] | None = None,
) -> Table:
    """Summarise posteriors, one row for each galaxy.

    Args:
        posterior: Posteriors of n galaxies.
        magnitude_zero_point: Magnitude of unit flux.
        flux_unit: Unit of the flux, as the survey calls it.
        about: What else the metadata shall say (:func:`hiergal.posterior.provenance.provenance_of`).

    Example:
        >>> table = posterior_table(posterior, magnitude_zero_point=25.94)
        >>> table.colnames[:4]
        ['identifier', 'flag', 'flux', 'flux_std']
    """
    draws = {
        name: np.asarray(getattr(posterior.summary, name), float)
        for name in QUANTITIES
        if name != "magnitude"
    }
    n = len(posterior)
    flag = np.zeros(n, np.int32) if posterior.flag is None else np.asarray(posterior.flag)
    table = Table({"identifier": np.asarray(posterior.identifier), "flag": flag.astype(np.int32)})
    for column in quantity_columns(draws, magnitude_zero_point, flux_unit).itercols():
        table[column.name] = column
    for first, second in itertools.combinations(TOGETHER, 2):
        table[f"corr_{first}_{second}"] = _correlation(draws[first], draws[second])
    for name in NUMBERS:
        table[name] = np.asarray(getattr(posterior, name), np.float32)
    table["method"] = np.array(METHODS, f"U{LONGEST_NAME}")[posterior.method]
    for name in STATISTICS:
        table[name] = np.asarray(posterior.statistics[name], np.float32)
    for name in CHECKS:
        table[name] = np.asarray(posterior.checks.get(name, np.full(n, np.nan)), np.float32)
    own = {
        "flux_unit": flux_unit or UNSTATED,
        "magnitude_zero_point": float(magnitude_zero_point),
        "hiergal_version": __version__,
        "method": ", ".join(sorted(set(table["method"].tolist()))),
        "draws": len(posterior.latents),
    }
    table.meta |= cards_of(own | dict(about or {}))
    return table


def table_with_units(
    posterior: Posterior, model: GalaxyModel, observation: Observation, *, known: bool = False
) -> QTable:
    """Summarise posteriors, one row for each galaxy, with the columns and the metadata of a survey's table.

    Args:
        posterior: Posteriors of n galaxies.
        model: The model that inferred them.
        observation: The galaxies.
        known: Whether conditions informed the prior.

    Returns:
        A table whose columns with units are quantities.

    Example:
        >>> table = table_with_units(posterior, model, observation)
        >>> table["hlr_arcsec"].unit, len(table)
        (Unit("arcsec"), 4)
    """
    origin = model.provenance
    table = posterior_table(
        posterior,
        magnitude_zero_point=origin.magnitude_zero_point,
        flux_unit=origin.flux_unit,
        about=provenance_of(model, conditions=known),
    )
    if set(SKY_COLUMNS) <= set(observation.catalog):
        add_sky(table, observation.catalog, posterior, np.ones(len(posterior), bool))
    return QTable(table)


def add_sky(
    table: Table, catalog: Mapping[str, Any], posterior: Posterior | None, good: Bool[np.ndarray, "n"]
) -> None:
    """Add where galaxies are on the sky, and how they lie on it, to a table of their posteriors.

    Args:
        table: A row for each of n galaxies.
        catalog: Columns with the names ``SKY_COLUMNS`` of :mod:`hiergal.survey.sky`, [n] each.
        posterior: Posteriors of the galaxies that were inferred, in order; None if none was.
        good: Which these are.
    """
    sky = {name: np.asarray(catalog[name]) for name in SKY_COLUMNS}
    names = ("position_angle_deg", "position_angle_deg_std")
    found = {name: np.full(len(good), np.nan, np.float32) for name in names}
    if posterior is not None:
        for name, values in sky_columns(posterior, sky["north_rad"][good], sky["parity"][good]).items():
            found[name][good] = values
    for name, values in ({name: sky[name] for name in ("ra_deg", "dec_deg")} | found).items():
        table[name] = values
        table[name].unit = "deg"


def quantity_columns(
    draws: Mapping[str, Float[np.ndarray, "s n"]], magnitude_zero_point: float, flux_unit: str = ""
) -> Table:
    """Summarise draws: mean, standard deviation and quantiles of each quantity, with the magnitude of the flux.

    Args:
        draws: Draws of ``flux``, ``hlr_arcsec``, ``x_pix``, ``y_pix``, ``g1`` and ``g2``.
        magnitude_zero_point: Magnitude of unit flux [mag].
        flux_unit: Unit of the flux, as the survey calls it.
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # no light at all has no magnitude
        draws = dict(draws) | {"magnitude": magnitude_zero_point - 2.5 * np.log10(draws["flux"])}
    table = Table()
    for name, unit in QUANTITIES.items():
        values = draws[name]
        columns = {name: values.mean(axis=0), f"{name}_std": values.std(axis=0)}
        quantiles = np.quantile(values, list(QUANTILES.values()), axis=0, method="weibull")
        columns |= {f"{name}_{suffix}": q for suffix, q in zip(QUANTILES, quantiles, strict=True)}
        for column, numbers in columns.items():
            table[column] = numbers.astype(np.float32)
            table[column].unit = (table_unit(flux_unit) if name == "flux" and flux_unit else unit) or None
            if name == "flux":
                table[column].description = (
                    f"flux [{flux_unit}]" if flux_unit else "flux in the survey's unit"
                )
    return table


def blank_rows(
    identifier: Shaped[np.ndarray, "n"], flag: Int[np.ndarray, "n"], *, flux_unit: str = ""
) -> Table:
    """Return rows of galaxies of which nothing was inferred.

    Args:
        identifier: Identifier of each galaxy.
        flag: Why.
        flux_unit: As for :func:`posterior_table`.

    Example:
        >>> row = blank_rows(np.array([7]), np.array([int(Flag.BAD_OBSERVATION)]))[0]
        >>> int(row["identifier"]), int(row["flag"]), bool(np.isnan(row["flux"]))
        (7, 1, True)
    """
    n, none = len(identifier), np.full(len(identifier), np.nan)
    nothing = Posterior(
        latents=np.zeros((1, n, 0)),
        summary=ProfileSummary(*np.full((6, 1, n), np.nan)),
        profile_mean=np.zeros((n, 0, 0)),
        profile_std=np.zeros((n, 0, 0)),
        image_mean=np.zeros((n, 0, 0)),
        chi_square=none,
        misfit=none,
        variance_factor=none,
        method=np.zeros(n, int),
        statistics=dict.fromkeys(STATISTICS, none),
        identifier=np.asarray(identifier),
    )
    table = posterior_table(nothing, magnitude_zero_point=0.0, flux_unit=flux_unit)
    table.meta.clear()  # of no inference
    table["flag"], table["method"] = np.asarray(flag, np.int32), np.full(n, "", table["method"].dtype)
    return table


def sky_columns(
    posterior: Posterior, north_rad: Float[np.ndarray, "n"], parity: Float[np.ndarray, "n"]
) -> dict[str, Float[np.ndarray, "n"]]:
    """Return position angles on the sky, from North through East in [0, 180), and their standard deviations [deg].

    The mean is that of the ellipticity, which has no seam at 180 degrees; the deviation is the circular one.

    Args:
        posterior: Posteriors of n galaxies.
        north_rad: Position angle of each stamp's y axis [rad] (:mod:`hiergal.survey.sky`).
        parity: +1, or -1 for a mirrored stamp.
    """
    g1, g2 = (np.asarray(getattr(posterior.summary, name), float) for name in ("g1", "g2"))
    angles = position_angle(g1, g2, *(np.broadcast_to(one, g1.shape) for one in (north_rad, parity)))
    length = np.abs(np.exp(2j * angles).mean(axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = 0.5 * np.sqrt(-2 * np.log(np.minimum(length, 1.0)))
    mean = position_angle(g1.mean(axis=0), g2.mean(axis=0), north_rad, parity)
    return {"position_angle_deg": np.degrees(mean), "position_angle_deg_std": np.degrees(spread)}


def write_table(table: Table, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a table; it is whole, or not written.

    Args:
        table: Any table.
        path: A file that ends in ``.fits`` or ``.parquet``.
        overwrite: Whether to replace a table of hiergal that is there; anything else is never replaced.

    Raises:
        ValueError: If it ends in something else.
        FileExistsError: If something is there that may not be replaced.
        OSError: If it cannot be written; what was there before stays.

    Example:
        >>> write_table(posterior.to_table(), "galaxies.fits")
        >>> len(read_table("galaxies.fits"))
        4
    """
    check_table_name(path)
    with owned(path, TABLE, overwrite=overwrite) as own:
        write_result(table, own)
        own.put()


def write_result(table: Table, own: Output) -> None:
    """Write a table into the result of an output that the caller owns, with its mark."""
    marked = table.copy(copy_data=False)
    marked.meta |= {KIND_CARD: own.kind, RUN_CARD: own.digest}
    if own.result.suffix == ".fits":
        _as_fits_has_it(marked)
    marked.write(own.result, format=FORMATS[own.result.suffix], overwrite=True)


def write_part(table: Table, path: Path) -> None:
    """Write a part of a table as FITS, whole or not at all, into a folder that the caller owns."""
    content, table = io.BytesIO(), table.copy()
    _as_fits_has_it(table)
    table.write(content, format="fits")
    write_whole(path, content.getvalue())


def read_table(path: str | Path) -> Table:
    """Read a table that :func:`write_table` wrote.

    Raises:
        ValueError: If the file ends in neither ``.fits`` nor ``.parquet``.
        OSError: If it cannot be read.

    Example:
        >>> write_table(posterior.to_table(), "again.fits")
        >>> read_table("again.fits")["flux"].shape
        (4,)
    """
    check_table_name(path)
    path = settle(path)
    options = {"mask_invalid": False} if path.suffix == ".fits" else {}  # NaN is a value of these tables
    table = Table.read(path, format=FORMATS[path.suffix], **options)
    for name in table.colnames:
        if table[name].dtype.kind == "S":  # FITS keeps bytes
            table[name] = np.char.decode(np.asarray(table[name]), "utf-8")
        elif table[name].dtype.kind == "O":
            table[name] = np.asarray(table[name]).astype(str)
    unit = table_unit(str(table.meta.get(FLUX_UNIT, UNSTATED)))
    for name in table.colnames:
        if name == "flux" or name.startswith("flux_"):
            table[name].unit = table[name].unit or unit  # what FITS cannot write
    if "method" in table.colnames:
        table["method"] = np.asarray(table["method"]).astype(f"U{LONGEST_NAME}")
    return table


def _as_fits_has_it(table: Table) -> None:
    """Change a table to what FITS can hold: text as UTF-8, headers in ASCII, and of the units those of its standard."""
    table.convert_unicode_to_bytestring()  # FITS writes ASCII alone of text
    for card, value in table.meta.items():
        if isinstance(value, str):
            table.meta[card] = value.encode("ascii", "backslashreplace").decode()
    for name in table.colnames:
        if not _in_fits(table[name].unit):
            table[name].unit = None


@lru_cache(maxsize=256)
def _in_fits(unit: Any) -> bool:
    if unit is None:
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return Unit(unit.to_string("fits"), format="fits") == unit
        except (ValueError, TypeError, Warning):
            return False


def check_table_name(path: str | Path) -> None:
    """Check that a name has the suffix of a table, and that this format can be written here.

    Raises:
        ValueError: If it ends in something else, or what writes it is not installed.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(
            f"{path}: expected a table that ends in {' or '.join(FORMATS)}, got {path.suffix or 'nothing'}"
        )
    if path.suffix == ".parquet":
        require_extra("cluster", f"{path}")


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    scale = np.sqrt((first**2).mean(axis=0) * (second**2).mean(axis=0))
    together = (first * second).mean(axis=0)
    return np.divide(together, scale, out=np.full_like(scale, np.nan), where=scale > 0).astype(np.float32)
