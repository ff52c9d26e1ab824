"""Reading cutouts from disk: the folders and ``.npz`` files that :mod:`hiergal.survey.cutouts` describes."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hiergal.records import brief

__all__ = [
    "NOISE_NAMES",
    "SCALE_TOLERANCE",
    "CutoutFolder",
    "check_odd",
    "open_folder",
    "read_folder",
    "read_npz",
]

BATCH_GALAXIES = 64
NOISE_NAMES = ("variance", "rms", "weight")
SCALE_TOLERANCE = 1e-3


class CutoutFolder(NamedTuple):
    """A folder of cutouts, looked through but not read."""

    files: list[Path]
    identifier: np.ndarray
    catalog: dict[str, np.ndarray]
    units: dict[str, str]
    pixel_scale_arcsec: float
    psf_shape: tuple[int, int]

    __repr__ = brief


def open_folder(path: Path, pixel_scale_arcsec: float | None) -> CutoutFolder:
    """List the files of a folder with their catalogue; headers tell the pixel scale and the largest PSF.

    Raises:
        OSError: If the folder or a file is missing.
        ValueError: If an extension is missing or the pixel scale is not one for all.
    """
    from astropy.io import fits
    from astropy.table import Table

    if not path.is_dir():
        raise FileNotFoundError(
            f"expected a folder of FITS cutouts or an .npz file, got no such thing: {path}"
        )
    tables = [
        file for file in (path / f"catalog.{kind}" for kind in ("csv", "ecsv", "fits")) if file.exists()
    ]
    catalog, units = {}, {}
    if tables:
        table = Table.read(tables[0])
        if "file" not in table.colnames:
            raise ValueError(
                f"expected a column 'file' in {tables[0]}, got {table.colnames}; name each galaxy's file in it"
            )
        files = [path / str(name).strip() for name in table["file"]]
        numbers = [name for name in table.colnames if table[name].dtype.kind in "iuf"]
        catalog = {name: np.ma.filled(np.ma.asarray(table[name], float), np.nan) for name in numbers}
        units = {name: str(table[name].unit) for name in numbers if table[name].unit is not None}
    else:
        files = sorted(
            file for file in path.iterdir() if file.name.endswith((".fits", ".fits.gz", ".fits.fz"))
        )
    missing = [file.name for file in files if not file.exists()]
    if missing or not files:
        raise FileNotFoundError(
            f"expected a FITS file for each galaxy in {path}, got none for {missing or 'any'}"
        )
    stems = [file.name.partition(".")[0] for file in files]
    numbered = all(stem.isdigit() for stem in stems)
    identifier = [int(stem) for stem in stems] if numbered else np.arange(len(files))
    identifier = np.asarray(catalog.pop("identifier", identifier), np.int64)
    scales, shapes = [], []
    for file in files:
        with fits.open(file) as hdus:
            shapes.append(_extension(hdus, "PSF", file).shape)
            scales.append(pixel_scale_arcsec or _scale_of(_extension(hdus, "IMAGE", file).header, file))
    if np.ptp(scales) > SCALE_TOLERANCE * scales[0]:
        raise ValueError(
            f"expected one pixel scale in {path}, got {min(scales):.5g} to {max(scales):.5g} arcsec; split "
            "the survey, or give the scale if the WCS is wrong"
        )
    py, px = np.max(shapes, axis=0)
    return CutoutFolder(files, identifier, catalog, units, float(np.median(scales)), (int(py), int(px)))


def read_folder(folder: CutoutFolder) -> Iterator[dict[str, Any]]:
    """Read a folder batch by batch: keyword arguments of :func:`~hiergal.survey.cutouts.from_arrays`."""
    for first in range(0, len(folder.files), BATCH_GALAXIES):
        rows = slice(first, first + BATCH_GALAXIES)
        galaxies = [_read_file(file, folder.psf_shape) for file in folder.files[rows]]
        for file, galaxy in zip(folder.files[rows], galaxies, strict=True):
            expected, got = ({name: a.shape for name, a in one.items()} for one in (galaxies[0], galaxy))
            if expected != got:
                raise ValueError(f"expected {file} to be like {folder.files[first]}, {expected}, got {got}")
        arrays = {name: np.stack([galaxy[name] for galaxy in galaxies]) for name in galaxies[0]}
        columns = {name: column[rows] for name, column in folder.catalog.items()}
        rest = {"identifier": folder.identifier[rows], "pixel_scale_arcsec": folder.pixel_scale_arcsec}
        yield arrays | rest | {"catalog": columns}


def read_npz(path: Path, pixel_scale_arcsec: float | None) -> dict[str, Any]:
    """Read a file of arrays: keyword arguments of :func:`~hiergal.survey.cutouts.from_arrays`."""
    if pixel_scale_arcsec is None:
        raise ValueError(
            f"expected pixel_scale_arcsec with arrays, which hold no WCS, got none for {path}; give it"
        )
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    missing = {"image", "psf"} - set(arrays)
    if missing:
        raise ValueError(
            f"expected arrays image and psf in {path}, got {sorted(arrays)}; add {sorted(missing)}"
        )
    known = {
        name: arrays.pop(name)
        for name in ("image", "psf", *NOISE_NAMES, "mask", "identifier")
        if name in arrays
    }
    return known | {"catalog": arrays, "pixel_scale_arcsec": pixel_scale_arcsec}


def check_odd(shape: tuple[int, ...], where: str) -> None:
    """Refuse PSF stamps without a central pixel."""
    if any(size % 2 == 0 for size in shape):
        raise ValueError(
            f"psf: expected an odd number of pixels {where}, so that a central pixel is the origin, got "
            f"{shape}; draw the PSF anew on an odd stamp (padding one side would move its centre by half a "
            "pixel)"
        )


def _read_file(file: Path, psf_shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Read one galaxy; its PSF is set into the middle of a stamp of the survey's size."""
    from astropy.io import fits

    with fits.open(file) as hdus:
        names = [name for name in NOISE_NAMES if name.upper() in hdus]
        if len(names) != 1:
            raise ValueError(
                f"expected one extension of VARIANCE, RMS, WEIGHT in {file}, got {names or 'none'}"
            )
        arrays = {
            name: np.asarray(_extension(hdus, name.upper(), file).data) for name in ("image", "psf", *names)
        }
        if arrays[names[0]].shape != arrays["image"].shape:
            shapes = arrays[names[0]].shape, arrays["image"].shape
            raise ValueError(
                f"expected {names[0].upper()} and IMAGE of one shape in {file}, got {shapes[0]}, {shapes[1]}"
            )
        mask = hdus["MASK"].data if "MASK" in hdus else np.zeros(arrays["image"].shape, np.uint8)
    check_odd(arrays["psf"].shape, f"in {file}")
    margins = [(want - have) // 2 for want, have in zip(psf_shape, arrays["psf"].shape, strict=True)]
    return arrays | {
        "mask": np.asarray(mask),
        "psf": np.pad(arrays["psf"], [(margin, margin) for margin in margins]),
    }


def _extension(hdus, name: str, file: Path):
    if name not in hdus or hdus[name].shape is None or len(hdus[name].shape) != 2:
        raise ValueError(
            f"expected an extension {name} with a 2-d image in {file}, got {[hdu.name for hdu in hdus]}"
        )
    return hdus[name]


def _scale_of(header, file: Path) -> float:
    """Return the pixel scale of a celestial WCS [arcsec]."""
    from astropy.wcs import WCS, FITSFixedWarning
    from astropy.wcs.utils import proj_plane_pixel_scales

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        wcs = WCS(header)
    if not wcs.has_celestial:
        raise ValueError(
            f"expected a celestial WCS in the header of IMAGE in {file}, got none; give pixel_scale_arcsec"
        )
    x, y = proj_plane_pixel_scales(wcs.celestial) * 3600
    if abs(x - y) > 0.01 * x:
        raise ValueError(
            f"expected square pixels in {file}, got {x:.5g} x {y:.5g} arcsec; resample the image"
        )
    return float(np.sqrt(x * y))
