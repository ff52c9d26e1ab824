"""Schema of a store on disk, and its check: behind :mod:`hiergal.survey.store`.

The attributes of the root hold the schema's name and version, the :class:`StoreHeader`, the kind of noise,
the names of the catalogue's columns and the number of galaxies. ``manifest.json`` lists every file with its
size, and a checksum of those with metadata; data carry their own (CRC-32C in each chunk and in the index of
each shard).
"""

import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from hiergal.observation.checks import Parameter
from hiergal.observation.noise import NoiseModel
from hiergal.observation.photometry import Photometry, check_photometry
from hiergal.runtime.files import resolved
from hiergal.runtime.namespace import import_modules
from hiergal.runtime.texts import read_text
from hiergal.runtime.work import work_folder

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "SCHEMA_VERSION",
    "StoreHeader",
    "array_problems",
    "check_manifest",
    "digest_of_store",
    "is_store",
    "manifest_of",
    "noise_arrays",
    "read_attributes",
]

import_modules("hiergal.observation")  # which defines the kinds of noise that surveys have

SCHEMA = "hiergal.survey"
SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
TAIL = 4096  # bytes at the end of a file

LARGEST_JSON = 2**26  # bytes
CATALOG_UNITS = {"mag_auto": "mag", "flux_radius": "0.03 arcsec pixels", "zphot": "1", "flux": "flux unit"}
SUFFIX_UNITS = {"arcsec": "arcsec", "pix": "pixels", "rad": "rad"}


class StoreHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Header of a survey.

    Attributes:
        survey: Name of the survey.
        band: Name of the filter.
        pixel_scale_arcsec: Width of a pixel of the stamps [arcsec].
        magnitude_zero_point: Magnitude of an object of flux 1 [mag].
        flux_unit: Unit of fluxes in words; pixels hold this unit per pixel.
        provenance: How the survey was made: generator, seed, versions, whatever JSON can hold.
        catalog_units: Units of catalogue columns, where neither a well-known name (``mag_auto``,
            ``flux_radius``, ``zphot``, ``flux``) nor a suffix (``_arcsec``, ``_pix``, ``_rad``) says them.

    Example:
        >>> header = StoreHeader(
        ...     survey="mock", band="F814W", pixel_scale_arcsec=0.03, magnitude_zero_point=25.94
        ... )
        >>> header.unit_of("mag_auto"), header.unit_of("hlr_arcsec")
        ('mag', 'arcsec')
    """

    survey: str
    band: str
    pixel_scale_arcsec: float
    magnitude_zero_point: float
    flux_unit: str = "counts per second"
    provenance: dict[str, Any] = {}
    catalog_units: dict[str, str] = {}

    def __post_init__(self) -> None:
        """Check that unit and zero point do not contradict each other.

        Raises:
            ValueError: If they do.
        """
        check_photometry(self.photometry, self.pixel_scale_arcsec)

    @property
    def photometry(self) -> Photometry:
        """Unit and zero point of the survey's fluxes."""
        return Photometry(self.flux_unit, self.magnitude_zero_point)

    def unit_of(self, column: str) -> str:
        """Return the unit of a catalogue column in words."""
        suffix = column.rpartition("_")[2]
        known = self.catalog_units.get(column) or CATALOG_UNITS.get(column)
        return known or SUFFIX_UNITS.get(suffix, "not stated")


def is_store(path: Path) -> bool:
    """Whether a folder is a survey store of any version, whole or not."""
    try:
        return _json_of(path / "zarr.json")["attributes"]["schema"] == SCHEMA
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_attributes(path: Path) -> dict[str, Any]:
    """Read the root's attributes, and check that this version understands them.

    Raises:
        OSError: If there is no such folder, or nothing of a store in it.
        ValueError: If it is something else, or of another version.
    """
    if not path.exists():
        stopped = work_folder(resolved(path)).exists()
        hint = " (a run that was stopped left its parts; run its command again)" if stopped else ""
        raise FileNotFoundError(
            f"expected a survey store, got no such folder: {path}{hint}; write one with `hiergal survey`"
        )
    if not (path / "zarr.json").exists():
        raise OSError(
            f"expected a survey store, got {path} without zarr.json; write one with `hiergal survey`"
        )
    if not is_store(path):
        raise ValueError(
            f"expected a survey store ({SCHEMA}), got something else in {path}; write one with "
            "`hiergal survey`"
        )
    attributes = _json_of(path / "zarr.json")["attributes"]
    version = attributes.get("schema_version")
    if version != SCHEMA_VERSION:
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        mend = "upgrade hiergal (pip install --upgrade hiergal)" if newer else "write the survey again"
        raise ValueError(
            f"expected a store of schema version {SCHEMA_VERSION}, got version {version} in {path}; {mend}"
        )
    return attributes


def manifest_of(path: Path) -> dict[str, list[int | None]]:
    """Return the size of each file of a store, and a CRC-32 of those with metadata (data carry their own)."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != MANIFEST)
    return {file.relative_to(path).as_posix(): [file.stat().st_size, _metadata_crc(file)] for file in files}


def digest_of_store(path: str | Path) -> str:
    """Return the SHA-256 of what tells one store from another: its header, and size and end of each of its files.

    The end of a shard holds checksums of its chunks, so that two surveys of one layout differ in it. Reading all of a
    survey would take minutes.

    Args:
        path: The store.

    Raises:
        OSError: If it cannot be read.
    """
    path, digest = Path(path), hashlib.sha256()
    for name in ("zarr.json", MANIFEST):
        digest.update((path / name).read_bytes())
    for name in sorted(_json_of(path / MANIFEST)["files"]):
        with (path / name).open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(max(0, size - TAIL))
            digest.update(f"{name}\0{size}\0".encode() + file.read())
    return digest.hexdigest()


def check_manifest(path: Path) -> None:
    """Compare the files on disk with the list that was written last.

    Raises:
        OSError: If the list is missing or a file is missing, truncated or, for metadata, changed.
    """
    mend = "copy the store again from its source, or write the survey again"
    try:
        expected = _json_of(path / MANIFEST)["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OSError(
            f"expected a complete store with {MANIFEST}, got none that can be read in {path}; {mend}"
        ) from error
    found = manifest_of(path)
    wrong = [name for name, entry in expected.items() if found.get(name) != entry]
    if wrong:
        first = wrong[0]
        got = f"{found[first][0]} bytes" if first in found else "no such file"
        raise OSError(
            f"expected all {len(expected)} files of {path} as they were written, got {len(wrong)} missing, "
            f"truncated or changed (first: {first}, {expected[first][0]} bytes written, {got} found); {mend}"
        )


class NoiseArray(NamedTuple):
    """An array of a store that belongs to the noise.

    Attributes:
        field: Name of the field of the noise model.
        parameter: What it has to be like.
    """

    field: str
    parameter: Parameter


def noise_arrays(kind: str, stamp: tuple[int, int]) -> dict[str, NoiseArray]:
    """Return the arrays of a kind of noise by their names in a store: ``noise``, and ``noise_FIELD`` for further ones.

    Args:
        kind: Name of the noise model.
        stamp: (ny, nx) of the stamps.

    Example:
        >>> noise_arrays("stationary", (8, 6))["noise"].parameter.shape
        (8, 4)
    """
    fields = NoiseModel.kinds[kind].parameters(tuple(stamp)).items()
    return {
        f"noise_{field}" if i else "noise": NoiseArray(field, parameter)
        for i, (field, parameter) in enumerate(fields)
    }


def array_problems(
    arrays: Mapping[str, Any], names: list[str], attributes: Mapping[str, Any]
) -> Iterator[str]:
    """Yield a sentence for each array that is missing or does not fit the others."""
    missing = [name for name in names if name not in arrays]
    if missing:
        yield f"expected arrays {', '.join(names)}, got none of the name {', '.join(missing)}"
        return
    image, n, kind = arrays["image"].shape, attributes["number_of_galaxies"], attributes["noise_kind"]
    if len(image) != 3 or image[0] != n:
        yield f"image: expected {n} stamps [n, y, x], got shape {image}"
        return
    noise = {name: (n, *one.parameter.shape) for name, one in noise_arrays(kind, image[1:]).items()}
    shapes = {name: image for name in ("image", "mask", "truth")} | noise
    shapes["psf"] = (n, *arrays["psf"].shape[1:])
    if "identifier_text" in arrays:
        shapes["identifier_text"] = (n, *arrays["identifier_text"].shape[1:])
    dtypes = {"mask": "bool", "identifier": "int64", "identifier_text": "uint8"}
    for name, array in arrays.items():
        shape = shapes.get(name, (n,))
        dtype = dtypes.get(name, "float64" if name.startswith("catalog/") else "float32")
        if array.shape != shape or str(array.dtype) != dtype:
            yield f"{name}: expected {dtype} of shape {shape}, got {array.dtype} of shape {array.shape}"


def _json_of(file: Path) -> Any:
    """Read JSON that anyone may have written, of a size that a survey of millions of galaxies has."""
    try:
        return json.loads(read_text(file, LARGEST_JSON))
    except RecursionError:
        raise ValueError(f"{file}: expected JSON, got brackets without end") from None


def _metadata_crc(file: Path) -> int | None:
    return zlib.crc32(file.read_bytes()) if file.name == "zarr.json" else None
