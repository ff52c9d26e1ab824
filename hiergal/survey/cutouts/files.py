"""Reading cutouts from disk: the folders and ``.npz`` files that :mod:`hiergal.survey.cutouts.survey` describes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from hiergal.observation.psf import same_scale
from hiergal.runtime.inputs import input_path
from hiergal.runtime.pytree import brief
from hiergal.survey.cutouts.layouts import ROLES, find_roles, stamp_of
from hiergal.survey.cutouts.mask_planes import bad_pixels
from hiergal.survey.cutouts.psf_stamps import psf_scale, resample_psf
from hiergal.survey.sky import SKY_COLUMNS, SkyPlace, scale_of, sky_of
from hiergal.survey.tables.catalog import IDENTIFIER, identifiers_from, read_catalog
from hiergal.survey.tables.columns import column_of
from hiergal.survey.tables.fits_files import open_fits

__all__ = [
    "NOISE_NAMES",
    "CutoutFolder",
    "Layout",
    "check_odd",
    "is_fits",
    "open_folder",
    "read_folder",
    "read_npz",
]

FILES_PER_BATCH = 64
NOISE_NAMES = ("variance", "rms", "weight")
LONGEST_STEM = 64  # bytes of a name that is an identifier
ENDINGS = (".fits", ".fits.gz", ".fits.fz", ".fit")
CATALOGS = ("csv", "ecsv", "fits", "parquet", "tsv", "txt", "xml", "hdf5", "csv.gz", "fits.gz")


class Layout(NamedTuple):
    """Layout of the files of a survey, where they do not state it.

    Attributes:
        extensions: Extension of each role (:func:`hiergal.survey.cutouts.layouts.parse_extensions`).
        bad_bits: Bits of a mask that mean bad (:func:`hiergal.survey.cutouts.mask_planes.parse_bad_bits`).
        psf: A file with one PSF for all, or a folder with one for each galaxy, of the name of its image; None for those
            in the files.
        rms: Standard deviation of the noise of every pixel [flux per pixel]; None for the maps in the files.
    """

    extensions: dict[str, str] = {}
    bad_bits: int | tuple[str, ...] | None = None
    psf: Path | None = None
    rms: float | None = None


class CutoutFolder(NamedTuple):
    """A folder of cutouts, looked through but not read; those without any data are left out, and listed."""

    files: list[Path]
    identifier: np.ndarray
    catalog: dict[str, np.ndarray]
    units: dict[str, str]
    pixel_scale_arcsec: float
    psf_shape: tuple[int, int]
    layout: Layout
    empty: list[Path]
    flux_units: dict[str, Path]

    __repr__ = brief


def open_folder(path: Path, pixel_scale_arcsec: float | None, layout: Layout | None = None) -> CutoutFolder:
    """List the files of a folder with their catalogue, and check each.

    Args:
        path: The folder, or one FITS file.
        pixel_scale_arcsec: Width of a pixel [arcsec]; None for that of the files' WCS, which it must not contradict.
        layout: How the files are laid out.

    Raises:
        OSError: If the folder or a file is missing, damaged or cut off.
        ValueError: If an extension is missing, or the files differ in pixel scale, shape or extensions.
    """
    layout = layout or Layout()
    path = input_path(path, "a folder of FITS cutouts or an .npz file")
    if not path.is_dir() and not is_fits(path):
        raise FileNotFoundError(
            f"expected a folder of FITS cutouts or an .npz file, got no such thing: {path}"
        )
    files, identifier, catalog, units = _listed(path)
    missing = [file.name for file in files if not file.exists()]
    if missing or not files:
        raise FileNotFoundError(
            f"expected a FITS file for each galaxy in {path}, got none for {missing or 'any'}"
        )
    shared = _shared_psf(layout.psf)
    seen = [_look(file, pixel_scale_arcsec, layout, shared) for file in files]
    scales = [one.scale for one in seen]
    if not same_scale(max(scales), min(scales)):
        odd = files[int(np.argmax(np.abs(np.array(scales) / np.median(scales) - 1)))]
        raise ValueError(
            f"expected one pixel scale in {path}, got {min(scales):.5g} to {max(scales):.5g} arcsec (furthest: "
            f"{odd.name}); split the survey, or correct the headers"
        )
    first = next((one for one in seen if not one.empty), seen[0])
    for file, one in zip(files, seen, strict=True):
        if (one.roles, one.shape) != (first.roles, first.shape):
            names = [" ".join((*sorted(x.roles), str(x.shape))) for x in (first, one)]
            raise ValueError(
                f"expected {file} to be like {files[seen.index(first)]}, {names[0]}, got {names[1]}; give each "
                "galaxy the same extensions and size"
            )
    kept = np.flatnonzero([not one.empty for one in seen])
    empty = [file for file, one in zip(files, seen, strict=True) if one.empty]
    if not len(kept):
        raise ValueError(
            f"expected cutouts with data in {path}, got none: all {len(files)} are empty or masked"
        )
    if any(one.place is not None for one in seen):
        nowhere = (np.nan,) * len(SKY_COLUMNS)
        places = np.array([one.place or nowhere for one in seen]).T
        for name, column in zip(SKY_COLUMNS, places, strict=True):
            if name not in catalog:
                catalog[name], units[name] = column, SKY_COLUMNS[name]
    py, px = np.max([seen[row].psf_shape for row in kept], axis=0)
    flux_units = {one.flux_unit: file for file, one in zip(files, seen, strict=True) if one.flux_unit}
    scale = float(np.median(scales)) if pixel_scale_arcsec is None else pixel_scale_arcsec
    return CutoutFolder(
        files=[files[row] for row in kept],
        identifier=identifier[kept],
        catalog={name: column[kept] for name, column in catalog.items()},
        units={name: _pixels_of(unit, scale) for name, unit in units.items()},
        pixel_scale_arcsec=scale,
        psf_shape=(int(py), int(px)),
        layout=layout,
        empty=empty,
        flux_units=flux_units,
    )


def read_folder(folder: CutoutFolder) -> Iterator[tuple[list[Path], dict[str, Any]]]:
    """Read a folder batch by batch: files, and arguments of :func:`~hiergal.survey.cutouts.survey.from_arrays`."""
    shared = _shared_psf(folder.layout.psf)
    for first in range(0, len(folder.files), FILES_PER_BATCH):
        rows = slice(first, first + FILES_PER_BATCH)
        galaxies = [_read_file(file, folder, shared) for file in folder.files[rows]]
        arrays = {name: np.stack([galaxy[name] for galaxy in galaxies]) for name in galaxies[0]}
        columns = {name: column[rows] for name, column in folder.catalog.items()}
        rest = {"identifier": folder.identifier[rows], "pixel_scale_arcsec": folder.pixel_scale_arcsec}
        yield folder.files[rows], arrays | rest | {"catalog": columns}


def read_npz(path: Path, pixel_scale_arcsec: float | None) -> dict[str, Any]:
    """Read a file of arrays: keyword arguments of :func:`~hiergal.survey.cutouts.survey.from_arrays`."""
    if pixel_scale_arcsec is None:
        raise ValueError(
            f"expected pixel_scale_arcsec with arrays, which hold no WCS, got none for {path}; give it"
        )
    path = input_path(path, "an .npz file")
    try:
        with path.open("rb") as opened:  # which NumPy leaves open where it fails
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name")
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise
    except (MemoryError, Exception) as error:  # of zip, zlib, or a header that declares terabytes
        words = " ".join(str(error).split()) or type(error).__name__
        if "pickle" in words:
            words = "Python objects, or no arrays at all"
        raise OSError(f"{path}: expected an .npz file of arrays that is whole, got: {words[:200]}") from None
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


def is_fits(path: str | Path) -> bool:
    """Return whether a path is a file with the name of a FITS file."""
    path = Path(path)
    return path.name.endswith(ENDINGS) and path.is_file()


def check_odd(shape: tuple[int, ...], where: str) -> None:
    """Refuse PSF stamps without a central pixel."""
    if any(size % 2 == 0 for size in shape):
        raise ValueError(
            f"psf: expected an odd number of pixels {where}, so that a central pixel is the origin, got "
            f"{shape}; draw the PSF again on an odd stamp (padding one side would move its centre by half a "
            "pixel)"
        )


def _listed(path: Path) -> tuple[list[Path], np.ndarray, dict[str, np.ndarray], dict[str, str]]:
    """Files of a folder, their identifiers, and the catalogue's numbers with their units."""
    if is_fits(path):
        return [path], _identifiers_of([path]), {}, {}
    tables = [file for name in CATALOGS if (file := path / f"catalog.{name}").exists()]
    if not tables:
        files = sorted(file for file in path.iterdir() if file.name.endswith(ENDINGS))
        return files, _identifiers_of(files), {}, {}
    table = read_catalog(tables[0])
    name = column_of("file", table.colnames, str(tables[0]))
    if name is None:
        raise ValueError(
            f"expected a column 'file' in {tables[0]}, got {table.colnames}; name each galaxy's file in it"
        )
    files = [path / str(one).strip() for one in table[name]]
    again = (
        sorted({file.name for file in files if files.count(file) > 1}) if len(set(files)) < len(files) else []
    )
    if again:
        raise ValueError(
            f"expected each file once in {tables[0]}, got {again[0]} again; leave one of its rows out"
        )
    own = column_of(IDENTIFIER, table.colnames, str(tables[0]))
    identifier = (
        _identifiers_of(files) if own is None else identifiers_from(table[own], f"{tables[0]}: {own}")
    )
    numbers = [one for one in table.colnames if table[one].dtype.kind in "iuf" and one != own]
    catalog = {one: np.asarray(table[one], float) for one in numbers}
    return (
        files,
        identifier,
        catalog,
        {one: str(table[one].unit) for one in numbers if table[one].unit is not None},
    )


def _identifiers_of(files: list[Path]) -> np.ndarray:
    """Names of files without their endings, as numbers where all of them are; places, where names do not tell."""
    stems = [file.name.partition(".")[0] for file in files]
    if (
        not stems
        or not all(stems)
        or len(set(stems)) < len(stems)
        or max(len(stem.encode()) for stem in stems) > LONGEST_STEM
    ):
        return np.arange(len(files))
    if all(stem.isdecimal() for stem in stems):
        return identifiers_from(np.array([int(stem) for stem in stems], object), "names of files")
    return identifiers_from(np.array(stems), "names of files")


def _pixels_of(unit: str, pixel_scale_arcsec: float) -> str:
    """Unit of a column, with the width of its pixels where it is in pixels."""
    return f"{pixel_scale_arcsec:.10g} arcsec pixels" if unit in ("pix", "pixel") else unit


class _Seen(NamedTuple):
    roles: frozenset[str]
    shape: tuple[int, ...]
    scale: float
    psf_shape: tuple[int, int]
    place: SkyPlace | None
    empty: bool
    flux_unit: str | None


def _look(file: Path, scale: float | None, layout: Layout, shared: Any) -> _Seen:
    """Check one file, and note its properties for the survey."""
    with open_fits(file, "a FITS cutout") as hdus:
        roles = _roles(hdus, file, layout, shared)
        header = roles["image"].header
        own = scale_of(header, f"{file}: image")
        if scale is None and own is None:
            raise ValueError(
                f"expected a celestial WCS in the header of IMAGE in {file}, got none; give pixel_scale_arcsec"
            )
        if scale is not None and own is not None and not same_scale(own, scale):
            raise ValueError(
                f"{file}: expected the pixel scale that is given, {scale:.6g} arcsec, got {own:.6g} in its WCS; fix "
                "the header, or leave the pixel scale out"
            )
        scale = cast(float, own if scale is None else scale)
        arrays = _arrays(roles, file, layout)
        psf = _psf_of(roles, file, scale, shared)
        shape = arrays["image"].shape
        unit = str(header.get("BUNIT", "")).strip() or None
        return _Seen(
            frozenset(roles), shape, scale, psf.shape, sky_of(header, shape), _is_empty(arrays), unit
        )


def _is_empty(arrays: dict[str, np.ndarray]) -> bool:
    """Whether no pixel of a stamp has data."""
    seen = np.isfinite(arrays["image"]) & ~arrays["mask"]
    for name in NOISE_NAMES:
        if name in arrays and arrays[name].ndim == 2:
            seen &= np.isfinite(arrays[name]) & (arrays[name] > 0 if name == "weight" else True)
    return not seen.any()


def _roles(hdus: Any, file: Path, layout: Layout, shared: Any) -> dict[str, Any]:
    needed = {"noise": layout.rms is None, "psf": shared is None}
    roles = find_roles(hdus, file, layout.extensions, needed)
    if layout.rms is not None:
        roles = {role: hdu for role, hdu in roles.items() if role not in NOISE_NAMES}
    if shared is not None:
        roles.pop("psf", None)
    return roles


def _arrays(roles: dict[str, Any], file: Path, layout: Layout) -> dict[str, np.ndarray]:
    """Image, noise and mask of one file."""
    arrays = {
        role: np.array(stamp_of(hdu, role, file))
        for role, hdu in roles.items()
        if role not in ("mask", "psf")
    }
    mask = np.zeros(arrays["image"].shape, bool)
    if "mask" in roles:
        where = f"{file}: {roles['mask'].name or 'mask'}"
        mask = bad_pixels(stamp_of(roles["mask"], "mask", file), roles["mask"].header, layout.bad_bits, where)
    return arrays | {"mask": mask}


def _psf_of(roles: dict[str, Any], file: Path, scale: float, shared: Any) -> np.ndarray:
    """The PSF of one file on the image's pixels."""
    if shared is None:
        hdu, where = roles["psf"], file
        stamp, header = stamp_of(hdu, "psf", file), hdu.header
    elif callable(shared):
        stamp, header, where = shared(file)
    else:
        stamp, header, where = shared
    stamp = np.asarray(stamp, float)
    if not np.isfinite(stamp).all() or not stamp.sum() > 0:
        raise ValueError(
            f"{where}: expected a PSF of finite pixels with a positive sum, got another; leave it out"
        )
    own = psf_scale(header, scale, f"{where}: PSF")
    if own != scale:
        return resample_psf(stamp, own, scale)
    check_odd(stamp.shape, f"in {where}")
    return stamp


def _shared_psf(path: Path | None) -> Any:
    """One PSF for all, or what finds that of a file; None if they are in the files."""
    if path is None:
        return None
    path = input_path(path, "a FITS file with a PSF, or a folder with one for each galaxy")
    if not path.is_dir():
        return _read_psf(path)

    def of_file(file: Path) -> Any:
        return _read_psf(path / file.name)

    return of_file


def _read_psf(path: Path) -> Any:
    with open_fits(path, "a FITS file with a PSF") as hdus:
        images = [hdu for hdu in hdus if hdu.is_image and hdu.shape]
        named = [hdu for hdu in images if hdu.name.upper() in ROLES["psf"]] or images
        if not named:
            raise ValueError(f"{path}: expected a 2-d image of a PSF, got none")
        return np.array(stamp_of(named[0], "psf", path)), named[0].header.copy(), path


def _read_file(file: Path, folder: CutoutFolder, shared: Any) -> dict[str, np.ndarray]:
    """Read one galaxy; its PSF is set into the middle of a stamp of the survey's size."""
    with open_fits(file, "a FITS cutout") as hdus:
        roles = _roles(hdus, file, folder.layout, shared)
        arrays = _arrays(roles, file, folder.layout)
        psf = _psf_of(roles, file, folder.pixel_scale_arcsec, shared)
    if folder.layout.rms is not None:
        arrays["rms"] = np.asarray(folder.layout.rms, float)
    margins = [(want - have) // 2 for want, have in zip(folder.psf_shape, psf.shape, strict=True)]
    return arrays | {"psf": np.pad(psf, [(margin, margin) for margin in margins])}
