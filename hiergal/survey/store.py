"""The store: one form on disk for every survey, whatever instrument or generator made it.

A store is a Zarr (version 3) folder. Every array has galaxies along its first axis; shards hold a few hundred
galaxies and chunks inside them a few, so that a random batch is read without reading everything, and each
chunk carries a CRC-32C checksum. What an :class:`~hiergal.observation.Observation` holds is here, under these
names:

==================  ===========================================  ====================================
array               shape and type                               unit
==================  ===========================================  ====================================
``image``           [n, y, x] float32                            flux unit per pixel
``psf``             [n, py, px] float32, each sums to 1          1
``noise``           [n], [n, y, x] or [n, y, x // 2 + 1]         flux unit per pixel (power: squared)
``noise_NAME``      further arrays of other noise models         as the attribute of the array says
``mask``            [n, y, x] bool, True = excluded; optional    1
``truth``           [n, y, x] float32, unconvolved; optional     flux unit per pixel
``identifier``      [n] int64                                    1
``identifier_text`` [n, 64] uint8: UTF-8, where they are text    1
``catalog/NAME``    [n] float64 each                             as the attribute of the column says
==================  ===========================================  ====================================

Units are attributes (``unit``) of the arrays; what holds for all galaxies is the :class:`StoreHeader`. A
store is whole, or it is not there (:mod:`hiergal.runtime.output`).
"""

import copy
import math
import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from jaxtyping import Float, Int, Shaped

from hiergal.observation.noise import NoiseModel
from hiergal.observation.observation import Observation
from hiergal.observation.photometry import Photometry
from hiergal.observation.psf import PSF
from hiergal.runtime.containers import check_zarr
from hiergal.runtime.extras import require_extra
from hiergal.runtime.inputs import input_path
from hiergal.runtime.pytree import brief
from hiergal.runtime.work import settle
from hiergal.survey.arrays import text_of
from hiergal.survey.schema import StoreHeader, array_problems, check_manifest, noise_arrays, read_attributes

__all__ = ["Split", "SurveyStore", "StoreHeader", "Subset", "open_store", "open_survey"]

Rows = slice | int | list[int] | np.ndarray
DAMAGE = re.compile(
    r"DATA_LOSS|CRC|checksum|digest|corrupt|decod|decompress|zstd|blosc|truncat|parse", re.IGNORECASE
)


class Split(NamedTuple):
    """Rows of a store for three uses, none in two of them.

    Attributes:
        train: Rows to learn from.
        validation: Rows to watch the training with.
        test: Rows that nothing is chosen by.
    """

    train: Int[np.ndarray, "train"]
    validation: Int[np.ndarray, "validation"]
    test: Int[np.ndarray, "test"]

    __repr__ = brief


class SurveyStore:
    """A survey on disk, open for reading; made by :func:`open_survey`.

    Attributes:
        path: Where it lies.
        header: What holds for the whole survey.
        noise_kind: ``white``, ``pixel``, ``stationary``, or the name of another noise model.
        photometry: Unit and zero point of what is read: those of the header, unless others are asked for
            (:meth:`in_photometry`).
        shape: (ny, nx) of the stamps.
        has_truth: Whether the unconvolved profiles are known.
    """

    def __init__(self, path: Path, attributes: Mapping[str, Any], arrays: Mapping[str, Any]):
        self.path = path
        self._folder = Path(os.path.realpath(path))  # without "..", and the same after a change of folder
        self.header = msgspec.convert(attributes["header"], StoreHeader)
        self._stored = self.photometry = self.header.photometry
        self.noise_kind: str = attributes["noise_kind"]
        self._noise_header: dict[str, Any] = attributes.get("noise_header", {})
        self.shape: tuple[int, int] = tuple(arrays["image"].shape[1:])
        self.has_truth = "truth" in arrays
        self._columns: list[str] = attributes["catalog"]
        self._arrays = arrays
        self._readers: dict[str, Any] = {}

    def __len__(self) -> int:
        """Return the number of galaxies."""
        return self._arrays["image"].shape[0]

    def __repr__(self) -> str:
        """Return one line that tells one store from another."""
        header, (ny, nx) = self.header, self.shape
        stamps = f"{ny} x {nx} at {header.pixel_scale_arcsec} arcsec"
        name = f"{header.survey} {header.band}"
        return f"SurveyStore({self.path.name}: {len(self)} galaxies of {name}, {stamps})"

    def read(self, rows: Rows = slice(None)) -> Observation:
        """Read some of the galaxies, in the order asked for; only the chunks that hold them are touched.

        Args:
            rows: A slice, row numbers or a boolean array; everything if left out.

        Returns:
            Observations with NumPy leaves, float32.

        Raises:
            OSError: If the bytes on disk are not those that were written.
        """
        index = self._index(rows)
        scale = self.header.pixel_scale_arcsec
        observation = Observation(
            image=self._load("image", index),
            psf=PSF(self._load("psf", index), pixel_scale_arcsec=scale),
            noise=self._noise(index),
            mask=self._load("mask", index) if "mask" in self._arrays else None,
            catalog={name: column[index].astype(np.float32) for name, column in self.catalog.items()},
            identifier=self.identifier[index],
            pixel_scale_arcsec=scale,
            photometry=self._stored,
        )
        return observation if self._stored == self.photometry else observation.in_photometry(self.photometry)

    def in_photometry(self, photometry: Photometry) -> "SurveyStore":
        """Return the same survey, whose galaxies are read in another unit, such as that of a model.

        Args:
            photometry: Unit and zero point that fluxes shall have; those on disk stay in ``header``.

        Raises:
            ValueError: If the two contradict themselves, or are of different magnitude systems.
        """
        self._stored.factor_to(photometry)
        other = copy.copy(self)
        other.photometry = photometry
        other.__dict__.pop("catalog", None)  # what was cached in the old unit
        return other

    def subset(self, rows: Rows) -> "Subset":
        """Return some of the galaxies, to be read when they are asked for."""
        return Subset(self, self._index(rows))

    @property
    def galaxy_bytes(self) -> int:
        """Bytes that an observed galaxy takes in memory."""
        names = ["image", "psf", *noise_arrays(self.noise_kind, self.shape)]
        names += ["mask"] * ("mask" in self._arrays)
        return sum(self._arrays[n].dtype.itemsize * math.prod(self._arrays[n].shape[1:]) for n in names)

    def truth(self, rows: Rows = slice(None)) -> Float[np.ndarray, "n y x"]:
        """Read unconvolved, noise-free profiles [flux per pixel] of simulated galaxies.

        Raises:
            ValueError: If the survey is a real one, whose truth is unknown.
        """
        if not self.has_truth:
            raise ValueError(
                f"expected a simulated survey with true profiles, got {self.path.name} without; "
                "make one with `hiergal survey mock`"
            )
        truth, factor = self._load("truth", self._index(rows)), self._stored.factor_to(self.photometry)
        return truth if factor == 1 else truth * np.float32(factor)

    @cached_property
    def catalog(self) -> dict[str, Float[np.ndarray, "n"]]:
        """All columns of the catalogue, in double precision."""
        columns = {name: self._load(f"catalog/{name}", None) for name in self._columns}
        factor = self._stored.factor_to(self.photometry)
        if factor != 1:  # of what is in the survey's unit of flux
            units = ("flux unit", self._stored.flux_unit)
            columns = {n: c * factor if self.header.unit_of(n) in units else c for n, c in columns.items()}
        return columns

    @cached_property
    def identifier(self) -> Shaped[np.ndarray, "n"]:
        """Identifiers of all galaxies: whole numbers, or text."""
        if "identifier_text" in self._arrays:
            return text_of(self._load("identifier_text", None))
        return self._load("identifier", None)

    def split(self, *, validation: int | float, test: int | float) -> Split:
        """Split the rows in catalogue order: training first, validation after it, test last.

        Args:
            validation: Number of galaxies (an integer), or their fraction (below 1; at least one galaxy then),
                to watch the training with.
            test: The same for the galaxies kept apart.

        Returns:
            Row numbers; the same ones each time.

        Raises:
            ValueError: If no galaxy would be left to train with.
        """
        n = len(self)
        counts = [max(1, round(part * n)) if 0 < part < 1 else part for part in (validation, test)]
        if sum(counts) >= n or any(count < 0 or count % 1 for count in counts):
            raise ValueError(
                f"expected validation and test to leave some of {n} galaxies to train with, got {validation} "
                f"and {test}; give smaller numbers, or fractions below 1"
            )
        rows, last = np.arange(n), n - int(counts[1])
        first = last - int(counts[0])
        return Split(rows[:first], rows[first:last], rows[last:])

    def _index(self, rows: Rows) -> np.ndarray:
        try:
            return np.atleast_1d(np.arange(len(self))[rows])
        except IndexError as error:
            raise IndexError(
                f"expected rows among the {len(self)} galaxies of {self.path}, got: {error}"
            ) from None

    def _load(self, name: str, index: np.ndarray | None) -> np.ndarray:
        """Read rows of one array: consecutive ones at once, others sorted and put back into order."""
        try:
            array = self._reader(name)
            if index is None:
                return array.read().result()
            if len(index) == 0:
                return np.empty((0, *array.shape[1:]), array.dtype.numpy_dtype)
            if (np.diff(index) == 1).all():
                return array[int(index[0]) : int(index[-1]) + 1].read().result()
            unique, place = np.unique(index, return_inverse=True)
            return array[unique].read().result()[place]
        except MemoryError:
            raise
        except Exception as error:
            raise OSError(_words_for(error, self.path, name)) from error

    def _reader(self, name: str) -> Any:
        """TensorStore reads the same files as Zarr, and scattered rows ten times faster."""
        import tensorstore

        if name not in self._readers:
            kvstore = {"driver": "file", "path": str(self._folder / name)}
            spec = {"driver": "zarr3", "kvstore": kvstore, "recheck_cached_data": False}
            self._readers[name] = tensorstore.open(spec, read=True, open=True).result()
        return self._readers[name]

    def _noise(self, index: np.ndarray) -> NoiseModel:
        arrays = noise_arrays(self.noise_kind, self.shape)
        values = {one.field: self._load(name, index) for name, one in arrays.items()}
        return NoiseModel.kinds[self.noise_kind].from_header(values, self._noise_header, self.shape)


class Subset:
    """Some galaxies of a store, on disk until they are asked for.

    Args:
        store: The survey.
        rows: Rows of the store.
    """

    def __init__(self, store: SurveyStore, rows: Int[np.ndarray, "n"]) -> None:
        self.store, self.rows = store, rows

    def __len__(self) -> int:
        """Return the number of galaxies."""
        return len(self.rows)

    def __getitem__(self, rows: Rows) -> Observation:
        """Read some of these galaxies, in the order asked for."""
        return self.store.read(self.rows[rows])


def open_survey(path: str | Path) -> SurveyStore:
    """Open a survey, and check that all of it is there.

    Galaxies are read only when they are asked for; damaged bytes show themselves then, by their checksum.

    Args:
        path: The folder that ``hiergal survey`` or :func:`write_store` wrote.

    Returns:
        The store.

    Raises:
        OSError: If the folder is missing, incomplete or damaged.
        ValueError: If it is something else, inconsistent, was written by a newer version, or has noise of a kind whose
            module has not been imported.

    Example:
        >>> from hiergal.survey.mock.survey import write_mock_survey
        >>> written = write_mock_survey("survey.zarr", 10, seed=1, workers=1, progress=False)
        >>> survey = open_survey("survey.zarr")
        >>> len(survey.read([0, 5, 7]))
        3
    """
    require_extra("survey", "surveys on disk")
    import zarr

    path = settle(input_path(path, "a survey store"))
    attributes = read_attributes(path)
    check_manifest(path)
    check_zarr(path)
    _check_noise_kind(path, attributes)
    root = zarr.open_group(path, mode="r")
    names = ["image", "psf", *noise_arrays(attributes["noise_kind"], (1, 1)), "identifier"]
    names += [f"catalog/{name}" for name in attributes["catalog"]]
    names += [name for name in ("mask", "truth") if attributes[f"has_{name}"]]
    arrays = {name: root[name] for name in (*names, "identifier_text") if name in root}
    problems = list(array_problems(arrays, names, attributes))
    if problems:
        raise ValueError("\n- ".join([f"{path} is not a consistent survey; write it again:", *problems]))
    return SurveyStore(path, attributes, arrays)


open_store = open_survey  # its earlier name


def _check_noise_kind(path: Path, attributes: Mapping[str, Any]) -> None:
    """Refuse noise of an unknown kind; its module is named, not imported: a survey runs no code."""
    kind, known = attributes["noise_kind"], NoiseModel.kinds
    if not isinstance(attributes.get("noise_header", {}), dict):
        raise ValueError(f"{path}: noise_header: expected a JSON object, got another; write the survey again")
    if not isinstance(kind, str) or kind not in known:
        module = attributes.get("noise_module", "the module that defines it")
        raise ValueError(
            f"{path}: noise_kind: expected {', '.join(sorted(known))}, got {kind!r}; import {module} before the survey "
            "is opened"
        )


def _words_for(error: Exception, path: Path, name: str) -> str:
    """Describe an error in reading: only damage is called damage."""
    words = str(error).partition(" [tensorstore_spec")[0]
    if DAMAGE.search(re.sub(r'"[^"]*"', "", words)):  # names of files are in quotes
        return (
            f"expected intact data in {path}, got a damaged array {name!r} ({words}); copy the store again from its "
            "source, or write the survey again"
        )
    return f"expected to read the array {name!r} of {path}, got: {words}; see whether it is still there and readable"
