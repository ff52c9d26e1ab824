"""Files of drawn galaxies: written in any order, by any number of processes, and whole at the end.

=============  ======================================================================================================
suffix         holds
=============  ======================================================================================================
``.fits``      a cube of images, and a table ``CONDITIONS``
``.hdf5``      a dataset ``image``, and a group ``conditions`` with a dataset for each
``.zarr``      an array ``image`` in chunks of ``GALAXIES_PER_CHUNK`` galaxies, and a group ``conditions``
=============  ======================================================================================================

All space is taken when a file is made, so that a disk that is too small is known at once. Images then go to their
places as plain bytes (in zarr, as chunks): a process that is killed leaves nothing damaged but what it was writing.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from hiergal.runtime.extras import require_extra
from hiergal.runtime.marks import KIND, KIND_CARD, RUN, RUN_CARD

__all__ = [
    "GALAXIES_PER_CHUNK",
    "SUFFIXES",
    "GalaxyHeader",
    "create_galaxies",
    "tidy_galaxies",
    "write_galaxies",
]

GALAXIES_PER_CHUNK = 256  # galaxies in a chunk of zarr
SUFFIXES = (".fits", ".hdf5", ".zarr")


class GalaxyHeader(NamedTuple):
    """Header of a file of galaxies.

    Attributes:
        unit: Unit of the pixels.
        content: What the images are, in words.
        pixel_scale_arcsec: Width of a pixel [arcsec].
        magnitude_zero_point: Magnitude of an object of flux 1 [mag].
        model: What drew them.
        seed: With which seed.
    """

    unit: str
    content: str
    pixel_scale_arcsec: float
    magnitude_zero_point: float
    model: str
    seed: int


def create_galaxies(
    path: Path,
    kind: str,
    conditions: Mapping[str, np.ndarray],
    shape: tuple[int, int],
    header: GalaxyHeader,
    *,
    mark: Mapping[str, str] | None = None,
) -> None:
    """Make a file with room for the images of all galaxies.

    Args:
        path: Where; nothing may be there.
        kind: One of ``SUFFIXES``.
        conditions: What each galaxy was drawn for: a column of [n] numbers or texts by its name.
        shape: Pixels of an image (ny, nx).
        header: What holds for all.
        mark: What the file says of itself and its run (:mod:`hiergal.runtime.marks`).

    Raises:
        OSError: If it cannot be written, or the disk has not the room.
        ValueError: If the suffix is another.
    """
    if kind != ".fits":
        require_extra("survey", f"galaxies in a {kind} file")
    count = len(next(iter(conditions.values())))
    match kind:
        case ".fits":
            _create_fits(path, conditions, (count, *shape), header, mark or {})
        case ".hdf5":
            _create_hdf5(path, conditions, (count, *shape), header, mark or {})
        case ".zarr":
            _create_zarr(path, conditions, (count, *shape), header, mark or {})
        case _:
            raise ValueError(f"out: expected a name that ends in {', '.join(SUFFIXES)}, got one in {kind!r}")


def write_galaxies(path: Path, kind: str, first: int, images: Float[np.ndarray, "k y x"]) -> None:
    """Put images into their places, and flush them to the disk.

    Args:
        path: What :func:`create_galaxies` made.
        kind: Its kind.
        first: Place of the first image; in zarr, the first of a chunk.
        images: The images.

    Raises:
        OSError: If they cannot be written.
    """
    if kind == ".zarr":
        import zarr

        zarr.open_group(path, mode="r+")["image"][first : first + len(images)] = images
        return
    offset, dtype = _place_of_images(path, kind)
    with path.open("r+b") as file:
        file.seek(offset + first * images[0].size * np.dtype(dtype).itemsize)
        file.write(images.astype(dtype).tobytes())
        file.flush()
        os.fsync(file.fileno())


def tidy_galaxies(path: Path, kind: str) -> None:
    """Remove what a process that was killed left in a file: zarr writes each chunk under another name first.

    Args:
        path: What :func:`create_galaxies` made; no one writes to it any more.
        kind: Its kind.
    """
    if kind == ".zarr":
        for left in path.rglob("*.partial"):
            left.unlink()


def _create_fits(
    path: Path,
    conditions: Mapping[str, np.ndarray],
    shape: tuple,
    header: GalaxyHeader,
    mark: Mapping[str, str],
) -> None:
    from astropy.io import fits
    from astropy.table import Table

    cube = fits.Header()
    cube["SIMPLE"], cube["BITPIX"], cube["NAXIS"] = True, -32, 3
    for axis, size in enumerate(reversed(shape), start=1):
        cube[f"NAXIS{axis}"] = size
    cube["EXTEND"] = True
    cube["BUNIT"] = (_ascii(header.unit), _ascii(header.content))
    cube["PIXSCALE"] = (header.pixel_scale_arcsec, "width of a pixel [arcsec]")
    cube["MAGZERO"] = (header.magnitude_zero_point, "magnitude of an object of flux 1 [mag]")
    cube["MODEL"], cube["SEED"] = _ascii(header.model)[-60:], header.seed
    for card, name in ((KIND_CARD, KIND), (RUN_CARD, RUN)):
        if name in mark:
            cube[card] = mark[name]
    start = cube.tostring().encode("ascii")
    size = 4 * int(np.prod(shape))
    with path.open("xb") as file:
        file.write(start)
        _take_room(file, len(start) + size + -size % 2880)
    fits.append(path, fits.table_to_hdu(Table(dict(conditions))).data, fits.Header({"EXTNAME": "CONDITIONS"}))


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()  # FITS knows nothing else


def _create_hdf5(
    path: Path,
    conditions: Mapping[str, np.ndarray],
    shape: tuple,
    header: GalaxyHeader,
    mark: Mapping[str, str],
) -> None:
    import h5py

    with h5py.File(path, "x") as file:
        file.attrs.update(header._asdict() | dict(mark))
        for name, column in conditions.items():
            text = column.dtype.kind == "U"
            file[f"conditions/{name}"] = column.astype(h5py.string_dtype()) if text else column
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)  # one piece, whose place is known
        layout.set_layout(h5py.h5d.CONTIGUOUS)
        layout.set_obj_track_times(False)  # the same galaxies are the same file
        h5py.h5d.create(file.id, b"image", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple(shape), layout)
        offset = file["image"].id.get_offset()
    with path.open("r+b") as file:
        _take_room(file, max(path.stat().st_size, offset + 4 * int(np.prod(shape))))


def _create_zarr(
    path: Path,
    conditions: Mapping[str, np.ndarray],
    shape: tuple,
    header: GalaxyHeader,
    mark: Mapping[str, str],
) -> None:
    import zarr

    group = zarr.open_group(path, mode="w-")
    group.attrs.update(header._asdict() | dict(mark))
    for name, column in conditions.items():
        if column.dtype.kind == "U":
            array = group.create_array(f"conditions/{name}", shape=column.shape, dtype=str)
            array[:] = column.astype(object)
        else:
            group.create_array(f"conditions/{name}", data=np.asarray(column))
    group.create_array("image", shape=shape, chunks=(GALAXIES_PER_CHUNK, *shape[1:]), dtype="float32")


def _take_room(file, size: int) -> None:
    if size and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    file.truncate(size)


def _place_of_images(path: Path, kind: str) -> tuple[int, str]:
    """Offset of the images [bytes], and the type of their pixels."""
    if kind == ".fits":
        from astropy.io import fits

        with fits.open(path, lazy_load_hdus=True) as file:
            return file[0].fileinfo()["datLoc"], ">f4"
    import h5py

    with h5py.File(path, "r") as file:
        return file["image"].id.get_offset(), "<f4"
