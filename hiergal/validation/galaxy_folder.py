"""Galaxies of any generator, in a folder: what ``hiergal validate --images`` reads.

===========================  =====================================================================================
``images.fits``              a cube [n, y, x] in the first HDU that has one [flux unit of the survey per pixel]
``catalog.fits|ecsv|csv``    a row for each image; ``identifier`` says which galaxy of the survey it was made for
===========================  =====================================================================================

Images are stamps as the survey would see them, with that galaxy's PSF and noise; or light profiles without either,
which hiergal then observes with that galaxy's own.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from hiergal.runtime.pytree import Array, brief
from hiergal.survey.store import SurveyStore
from hiergal.survey.tables.catalog import identifiers_from

__all__ = ["GalaxyFolder", "read_galaxy_folder"]

CATALOGS = ("catalog.fits", "catalog.ecsv", "catalog.csv")


class GalaxyFolder(NamedTuple):
    """Images [n, y, x] [flux per pixel], and the rows of the survey's store that each was made for [n]."""

    images: Float[Array, "n y x"]
    rows: Int[np.ndarray, "n"]

    __repr__ = brief


def read_galaxy_folder(folder: str | Path, store: SurveyStore) -> GalaxyFolder:
    """Read galaxies that another program made for galaxies of a survey.

    Args:
        folder: Folder with ``images.fits`` and a catalogue.
        store: The survey.

    Raises:
        OSError: If a file is missing or cannot be read.
        ValueError: If shapes do not agree, values are not finite, or an identifier is not in the survey.

    Example:
        >>> from astropy.io import fits
        >>> from astropy.table import Table
        >>> Path("others").mkdir()
        >>> fits.writeto("others/images.fits", survey.read([0, 1]).image)
        >>> Table({"identifier": survey.identifier[:2]}).write("others/catalog.csv")
        >>> read_galaxy_folder("others", survey).images.shape
        (2, 64, 64)
    """
    from astropy.io import fits
    from astropy.table import Table

    folder = Path(folder)
    names = [name for name in CATALOGS if (folder / name).is_file()]
    if not (folder / "images.fits").is_file() or not names:
        raise OSError(
            f"{folder}: expected images.fits and one of {', '.join(CATALOGS)}; write both (see the README)"
        )
    with fits.open(folder / "images.fits") as hdus:
        cubes = [hdu.data for hdu in hdus if hdu.is_image and hdu.data is not None and hdu.data.ndim == 3]
        if not cubes:
            raise ValueError(f"{folder / 'images.fits'}: expected a cube of images [n, y, x], got none")
        images = np.array(cubes[0], np.float32)
    catalog = Table.read(folder / names[0])
    if "identifier" not in catalog.colnames:
        raise ValueError(
            f"{folder / names[0]}: expected the column identifier, which galaxy of the survey each image was made for; "
            f"there are: {', '.join(catalog.colnames)}"
        )
    if images.shape != (len(catalog), *store.shape):
        raise ValueError(
            f"{folder}: expected images of shape {(len(catalog), *store.shape)}, the catalogue's rows and the survey's "
            f"stamps, got {images.shape}"
        )
    bad = np.asarray(~np.isfinite(images).all(axis=(1, 2)))
    if bad.any():
        raise ValueError(
            f"{folder / 'images.fits'}: expected finite pixels, got NaN or infinity in {bad.sum()} of {len(bad)} "
            f"images (first: {np.flatnonzero(bad)[0]}); leave those rows out"
        )
    wanted, there = (
        identifiers_from(catalog["identifier"], f"{folder / names[0]}: identifier"),
        store.identifier,
    )
    if wanted.dtype.kind != there.dtype.kind:  # numbers that are text in one of them
        wanted, there = wanted.astype(str), there.astype(str)
    order = np.argsort(there, kind="stable")
    place = np.minimum(np.searchsorted(there, wanted, sorter=order), len(order) - 1)
    rows = order[place]
    unknown = there[rows] != wanted
    if unknown.any():
        raise ValueError(
            f"{folder / names[0]}: expected identifiers of galaxies in {store.path.name}, got others in "
            f"{unknown.sum()} of {len(unknown)} rows (first: {wanted[unknown][0]})"
        )
    return GalaxyFolder(images, rows)
