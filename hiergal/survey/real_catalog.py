"""A catalogue in GalSim's RealGalaxyCatalog format, opened: which galaxies, with which conditions.

The first half of :mod:`hiergal.survey.cosmos`, which reads their stamps. A catalogue is one table of galaxies
that names the files and extensions of images, PSFs and noise correlation functions. Two more tables may lie
next to it: ``NAME_fits.fits`` with parametric fits and the conditions of the published model (``flux_radius``,
``zphot``, the half-light radius), and ``NAME_selection.fits`` for the cuts. A catalogue without them can be
used all the same.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from hiergal.runtime.pytree import brief

if TYPE_CHECKING:
    import galsim

__all__ = ["RealCatalog", "open_catalog"]

FLUX_RADIUS_UNIT_ARCSEC = 0.03  # pixels of the COSMOS catalogue (Leauthaud et al. 2007), whatever the stamps'


class RealCatalog(NamedTuple):
    """A catalogue of real galaxies, open for reading.

    Attributes:
        real: GalSim's catalogue of all galaxies.
        rows: Rows that pass the exclusion, in catalogue order.
        conditions: Columns for all rows: ``mag_auto`` [mag] always; ``flux_radius`` [0.03 arcsec pixels],
            ``zphot`` and ``hlr_arcsec`` (of the Sersic fit, circularised; without fits ``flux_radius`` in arcsec, which
            the PSF widens) where the catalogue has them.
        exclusion_level: Which exclusion was applied.
    """

    real: "galsim.RealGalaxyCatalog"
    rows: Int[np.ndarray, "kept"]
    conditions: dict[str, Float[np.ndarray, "n"]]
    exclusion_level: str

    @property
    def pixel_scale_arcsec(self) -> float:
        """Width of a pixel, the same one for all galaxies [arcsec]."""
        return float(self.real.pixel_scale[self.rows[0]])

    @property
    def identifier(self) -> Int[np.ndarray, "n"]:
        """Identifiers of all rows; row numbers where the catalogue's are no numbers."""
        names = [name.strip() for name in self.real.ident]
        numbers = all(name.isdigit() for name in names)
        return np.array([int(name) for name in names]) if numbers else np.arange(len(names))

    __repr__ = brief


def open_catalog(
    path: str | Path | None = None, *, band: str | None = None, exclusion_level: str | None = None
) -> RealCatalog:
    """Open a catalogue of real galaxies.

    Args:
        path: The catalogue, or a folder with one; None for the COSMOS sample that ``galsim_download_cosmos``
            fetched.
        band: Filter to take where a folder holds several catalogues; F814W if None.
        exclusion_level: GalSim's cut on the quality of stamps and fits: ``none``, ``bad_stamp``, ``bad_fits``
            or ``marginal``. None means ``marginal``, as in the paper, where the catalogue comes with the
            files that this needs, and ``none`` where it does not.

    Returns:
        The catalogue with the rows that pass.

    Raises:
        OSError: If there is no catalogue, or the exclusion needs a file that is not there.
        ValueError: If the catalogue is not usable as one survey.
    """
    import galsim

    file = None if path is None else _catalog_file(Path(path), band)
    real = galsim.RealGalaxyCatalog(None if file is None else str(file))
    file = Path(real.file_name)
    side = {kind: file.with_name(f"{file.stem}_{kind}.fits") for kind in ("fits", "selection")}
    if exclusion_level is None:
        exclusion_level = "marginal" if all(f.exists() for f in side.values()) else "none"
    needed = {"none": (), "bad_fits": ("fits",)}.get(exclusion_level, ("fits", "selection"))
    missing = [side[kind].name for kind in needed if not side[kind].exists()]
    if missing:
        raise OSError(
            f"expected {' and '.join(missing)} next to {file} for exclusion level {exclusion_level!r}, got "
            "none; use exclusion level 'none'"
        )
    rows, table = np.arange(len(real)), None
    if side["fits"].exists():
        sample = galsim.COSMOSCatalog(str(file), exclusion_level=exclusion_level)
        rows, table = np.asarray(sample.orig_index), sample.param_cat
        if not np.array_equal(table["IDENT"], real.cat["IDENT"]):
            raise ValueError(
                f"expected the galaxies of {side['fits']} to be those of {file}, got others; get both again"
            )
    if len(rows) == 0 or np.ptp(real.pixel_scale[rows]) > 1e-6 * real.pixel_scale[rows[0]]:
        raise ValueError(
            f"expected galaxies of one pixel scale in {file}, got {len(rows)} galaxies with scales "
            f"{np.unique(real.pixel_scale[rows])}; take another catalogue or a lower exclusion level"
        )
    return RealCatalog(real, rows, _conditions(real, table), exclusion_level)


def _catalog_file(path: Path, band: str | None) -> Path:
    """Find the catalogue in a folder: the table with names of galaxy images in it."""
    from astropy.io import fits

    if not path.exists():
        raise FileNotFoundError(f"expected a catalogue of real galaxies, got no such file: {path}")
    if path.is_file():
        return path
    found: dict[str, Path] = {}
    for file in sorted(path.glob("*.fits")):
        with fits.open(file) as hdus:
            if (
                len(hdus) > 1
                and isinstance(hdus[1], fits.BinTableHDU)
                and "GAL_FILENAME" in hdus[1].columns.names
            ):
                found[str(hdus[1].data["BAND"][0]).strip()] = file
    wanted = band or (next(iter(found)) if len(found) == 1 else "F814W")
    if wanted not in found:
        raise OSError(
            f"expected a catalogue of real galaxies in {wanted} in {path}, got bands "
            f"{sorted(found) or 'none'}; name the catalogue's file, or its band"
        )
    return found[wanted]


def _conditions(real: "galsim.RealGalaxyCatalog", table: np.ndarray | None) -> dict[str, np.ndarray]:
    """Collect the columns of the catalogue and its table of fits for each galaxy."""
    columns = {"mag_auto": np.asarray(real.mag, float)}
    if table is not None:
        have = {name.lower(): name for name in table.dtype.names or ()}
        for name in ("mag_auto", "flux_radius", "zphot"):
            if name in have:
                columns[name] = np.asarray(table[have[name]], float)
        if "hlr" in have:
            columns["hlr_arcsec"] = np.asarray(table[have["hlr"]], float)[:, 0]
        elif "flux_radius" in columns:
            # The measured radius, PSF included, stands in for that of a fit.
            columns["hlr_arcsec"] = columns["flux_radius"] * FLUX_RADIUS_UNIT_ARCSEC
    return columns
