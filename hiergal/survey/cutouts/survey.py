"""Cutouts of any other instrument: FITS files or arrays of image, noise, mask and PSF, into a store.

On disk a survey of cutouts is a folder with one FITS file for each galaxy, all images of one shape, with
extensions

===============================  =====================================================================================
``IMAGE``                        pixels [flux per pixel]; NaN means no data; a celestial WCS gives the scale
``VARIANCE``, ``RMS``,           noise of each pixel: variance, standard deviation or 1 / variance; weight 0,
``WEIGHT`` (one of them)         infinite variance and NaN mean no data
``PSF``                          effective PSF (pixel response included), centred on the middle of its stamp: odd along
                                 each axis on the image's scale, or of its own scale (``PIXELSCL``, ``OVERSAMP``, WCS)
``MASK`` (optional)              pixels to exclude are 1; of bits, those that mean bad
===============================  =====================================================================================

or the names of other surveys (:mod:`hiergal.survey.cutouts.layouts`), and, if there is one, a table ``catalog.csv``,
``.ecsv``, ``.fits`` or of another format (:mod:`hiergal.survey.tables.catalog`) with a column ``file`` (name of each
galaxy's file), perhaps ``identifier``, and any numbers to keep (``mag_auto``, ``zphot``, ...). Five lines of
Astropy write a galaxy::

    hdus = fits.HDUList([fits.PrimaryHDU()])
    hdus.append(fits.ImageHDU(image, header=wcs.to_header(), name="IMAGE"))
    hdus.append(fits.ImageHDU(variance, name="VARIANCE"))
    hdus.append(fits.ImageHDU(psf, name="PSF"))
    hdus.writeto("cutouts/17.fits")

Arrays in memory, or an ``.npz`` file of them with the same names in lower case, do as well
(:func:`from_arrays`). Pixels without data end up masked. Noise is taken as independent between pixels, as
variance maps have it; drizzled and resampled images are not like that. ``noise_spectrum="measured"`` measures
how the noise of the stamps is correlated (:mod:`hiergal.survey.noise.spectrum`): each galaxy then has stationary
noise, the measured spectrum scaled to the galaxy's own level, which for a variance map is its median.
"""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import msgspec
import numpy as np

from hiergal.observation.assemble import observation_fields
from hiergal.observation.observation import Observation, check_observation
from hiergal.observation.photometry import Photometry, photometry_from, table_unit
from hiergal.observation.psf import same_scale
from hiergal.runtime.identity import digest_of_arrays, digest_of_files
from hiergal.runtime.inputs import input_path
from hiergal.runtime.pytree import Array
from hiergal.survey.cutouts.files import (
    NOISE_NAMES,
    CutoutFolder,
    Layout,
    is_fits,
    open_folder,
    read_folder,
    read_npz,
)
from hiergal.survey.cutouts.layouts import parse_extensions
from hiergal.survey.cutouts.mask_planes import parse_bad_bits
from hiergal.survey.cutouts.plausible import MapCheck
from hiergal.survey.noise.choice import (
    MeasuredNoise,
    check_source,
    measure_in_cutouts,
    measured_or_why,
    with_measured_noise,
)
from hiergal.survey.store import StoreHeader, SurveyStore
from hiergal.survey.writer import write_store

__all__ = ["from_arrays", "without_empty", "write_cutouts_survey"]


def from_arrays(
    image: Array,
    *,
    psf: Array,
    variance: Array | None = None,
    rms: Array | None = None,
    weight: Array | None = None,
    mask: Array | None = None,
    catalog: Mapping[str, Array] | None = None,
    identifier: Array | None = None,
    pixel_scale_arcsec: float,
    flux_unit: str | None = None,
    magnitude_zero_point: float | None = None,
) -> Observation:
    """Make observations of arrays: :meth:`hiergal.observation.Observation.from_arrays` describes all of it.

    Args:
        image: Stamps [flux per pixel], [n, y, x]; NaN means no data.
        psf: Effective PSFs, one for each galaxy, [n, py, px], or one for all, [py, px]; divided by their sum,
            with a warning if that is more than 5 % from 1.
        variance: Noise variance [flux^2 per pixel^2] of each pixel, [n, y, x], or one for each galaxy, [n].
        rms: Noise standard deviation [flux per pixel], instead.
        weight: 1 / variance, instead; 0 means no data.
        mask: Pixels to exclude: True, or not 0, [n, y, x].
        catalog: Columns of the catalogue, [n] each.
        identifier: Identifiers, [n]; 0, 1, 2, ... if None.
        pixel_scale_arcsec: Width of a pixel [arcsec].
        flux_unit: Unit of the pixels; None where they state it themselves, or it is not known.
        magnitude_zero_point: Magnitude of a source of unit flux [mag]; None where the unit implies it, or if unknown.

    Returns:
        Observations with a mask where any pixel is excluded, and with noise for each pixel, or white noise where one
        number was given.

    Raises:
        ValueError: With what was expected, what came, and what to do.

    Example:
        >>> stamps = np.ones((2, 4, 5)); stamps[0, 1, 2] = np.nan
        >>> psf = np.ones((3, 3)) / 9
        >>> observation = from_arrays(stamps, psf=psf, rms=np.full((2, 4, 5), 0.1), pixel_scale_arcsec=0.2)
        >>> int(observation.mask.sum()), observation.psf.stamp.shape
        (1, (2, 3, 3))
    """
    fields = observation_fields(
        image,
        psf=psf,
        variance=variance,
        rms=rms,
        weight=weight,
        mask=None if mask is None else np.ma.filled(mask, 1) != 0,
        catalog=catalog,
        identifier=identifier,
        pixel_scale_arcsec=pixel_scale_arcsec,
        flux_unit=flux_unit,
        magnitude_zero_point=magnitude_zero_point,
    )
    return Observation(**fields)


def write_cutouts_survey(
    source: str | Path | Observation,
    out: str | Path,
    *,
    survey: str,
    band: str,
    magnitude_zero_point: float | None = None,
    flux_unit: str | None = None,
    pixel_scale_arcsec: float | None = None,
    noise_spectrum: str = "given",
    noise_group: str | None = None,
    extensions: str | Mapping[str, str] | None = None,
    bad_bits: str | int | None = None,
    psf: str | Path | None = None,
    rms: float | None = None,
    progress: bool = False,
    overwrite: bool = False,
) -> SurveyStore:
    """Write cutouts into a store.

    Args:
        source: A folder, one FITS file or an ``.npz`` file as at the top of this page, or observations (see
            :func:`from_arrays`).
        out: Store to write.
        survey: Name of the survey.
        band: Name of the filter.
        magnitude_zero_point: Magnitude of an object of flux 1 [mag]; None if the unit says it (nJy; MJy/sr with the
            width of a pixel), or the observations do.
        flux_unit: Unit of the pixels in words; default what the observations or the files (``BUNIT``)
            say, else counts per second.
        pixel_scale_arcsec: Width of a pixel [arcsec]; None to take it from the WCS (or the observations).
        noise_spectrum: ``given`` for independent pixels, as variance maps have it; ``measured`` for stationary noise of
            the spectrum that the source-free pixels of the stamps show. Either way the survey records both
            (:mod:`hiergal.survey.noise.choice`).
        noise_group: Column of the catalogue with one value for each exposure or mosaic, whose galaxies are measured
            together; None for one spectrum for all.
        extensions: Which extension of the files is what, ``image=SCI,rms=ERR`` (:mod:`hiergal.survey.cutouts.layouts`).
        bad_bits: Bits of the masks that mean bad: their sum, names of planes, or ``all``
            (:mod:`hiergal.survey.cutouts.mask_planes`).
        psf: A FITS file with one PSF for all, or a folder with one for each galaxy, of the name of its image.
        rms: Standard deviation of the noise of every pixel [flux per pixel], for files without noise.
        progress: Show a progress bar.
        overwrite: Replace a store that is already there.

    Returns:
        The store.

    Raises:
        OSError: If the source is missing, or a file in it cannot be read.
        ValueError: If the data are faulty.
    """
    check_source(noise_spectrum)
    layout = Layout(
        parse_extensions(extensions),
        parse_bad_bits(bad_bits),
        None if psf is None else Path(psf),
        None if rms is None else float(rms),
    )
    units: dict[str, str] = {}
    left_out: list[str] = []
    kind = "rms" if rms is not None else "noise"
    if isinstance(source, Observation):
        if source.photometry is not None:
            stated = photometry_from(
                flux_unit, magnitude_zero_point, pixel_scale_arcsec=source.pixel_scale_arcsec
            )
            source = source if stated is None else source.in_photometry(stated)
            flux_unit, magnitude_zero_point = msgspec.structs.astuple(cast(Photometry, source.photometry))
        scale = source.pixel_scale_arcsec
        whole, left_out = without_empty(source)
        n = len(whole)

        def batches() -> Iterable[Observation]:
            return [whole]

    elif input_path(source, "a folder of FITS cutouts or an .npz file").is_file() and not is_fits(source):
        arrays = read_npz(Path(source), pixel_scale_arcsec)
        kind = next((name for name in NOISE_NAMES if name in arrays), kind)
        whole, left_out = without_empty(_masked(from_arrays(**arrays)))
        scale = cast(float, pixel_scale_arcsec)  # ``read_npz`` refuses None
        n = len(whole)

        def batches() -> Iterable[Observation]:
            return [whole]

    else:
        folder = open_folder(Path(source), pixel_scale_arcsec, layout)
        scale, n, units = folder.pixel_scale_arcsec, len(folder.files), folder.units
        left_out = [file.name for file in folder.empty]
        flux_unit = _unit_of_files(folder, flux_unit)

        def batches() -> Iterable[Observation]:
            return (_of_files(files, arrays) for files, arrays in read_folder(folder))

    if left_out:
        named = ", ".join(left_out[:5]) + (", ..." if len(left_out) > 5 else "")
        warnings.warn(
            f"{len(left_out)} of {n + len(left_out)} cutouts hold no data and are left out: {named}",
            stacklevel=2,
        )
    if pixel_scale_arcsec is not None and not same_scale(scale, pixel_scale_arcsec):
        raise ValueError(
            f"expected observations on {pixel_scale_arcsec} arcsec pixels, got {scale}; make them agree"
        )
    measured, recorded = measured_or_why(lambda: measure_in_cutouts(batches(), noise_group), noise_spectrum)
    stated = photometry_from(
        "counts per second" if flux_unit is None else flux_unit,
        magnitude_zero_point,
        pixel_scale_arcsec=scale,
    )
    assert stated is not None  # a unit was given
    header = StoreHeader(
        survey=survey,
        band=band,
        pixel_scale_arcsec=scale,
        magnitude_zero_point=stated.magnitude_zero_point,
        flux_unit=stated.flux_unit,
        provenance={
            "generator": "hiergal survey cutouts",
            **recorded,
            **({"left_out": len(left_out)} if left_out else {}),
        },
        catalog_units=units,
    )
    check = MapCheck(kind)

    def pairs() -> Iterable[tuple[Observation, None]]:
        for batch in batches():
            batch = check.cleaned(batch)
            yield (
                batch
                if noise_spectrum == "given"
                else with_measured_noise(batch, cast(MeasuredNoise, measured), noise_group),
                None,
            )
        check.tell()

    run = {
        "source": _digest_of(source),
        "psf": None if psf is None else digest_of_files(psf),
        **{"extensions": layout.extensions, "bad_bits": layout.bad_bits, "rms": layout.rms},
        **{"noise_spectrum": noise_spectrum, "noise_group": noise_group},
    }
    inputs = [one for one in (source, psf) if isinstance(one, str | Path) and Path(one).is_file()]
    options: dict[str, Any] = {"inputs": inputs, "total": n, "progress": progress, "overwrite": overwrite}
    return write_store(out, header, pairs(), run=run, **options)


def _digest_of(source: str | Path | Observation) -> str:
    """Digest of a source of cutouts."""
    if isinstance(source, Observation):
        return digest_of_arrays(jax.tree.leaves(source))
    return digest_of_files(source, below=False)


def _of_files(files: list[Path], arrays: dict[str, Any]) -> Observation:
    """Observations of a batch of files; a faulty one is named."""
    try:
        observation = check_observation(_masked(from_arrays(**arrays)))
    except ValueError:
        for row, file in enumerate(files):
            one: dict[str, Any] = {
                name: array[row : row + 1] for name, array in arrays.items() if isinstance(array, np.ndarray)
            }
            one["catalog"] = {name: column[row : row + 1] for name, column in arrays["catalog"].items()}
            try:
                check_observation(from_arrays(**(arrays | one)))
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from None
        raise
    return observation


def _unit_of_files(folder: CutoutFolder, flux_unit: str | None) -> str | None:
    """The unit of the pixels: what the files say (BUNIT), which what is given must not contradict."""
    said = {name: file for name, file in folder.flux_units.items() if table_unit(name) is not None}
    known = {table_unit(name): name for name in said}
    if len(known) > 1:
        told = ", ".join(f"{name} ({said[name].name})" for name in known.values())
        raise ValueError(f"BUNIT: expected one unit in all files, got {told}; convert them to one")
    if not known:
        return flux_unit
    ((unit, name),) = known.items()
    if flux_unit is not None and table_unit(flux_unit) not in (None, unit):
        raise ValueError(
            f"{said[name]}: expected BUNIT to be the flux unit that is given, {flux_unit}, got {name}; leave the unit "
            "out, or correct the headers"
        )
    return name if flux_unit is None else flux_unit


def without_empty(observation: Observation) -> tuple[Observation, list[str]]:
    """Leave out galaxies without any data; those that are left, and the identifiers of the others.

    Args:
        observation: Galaxies.

    Raises:
        ValueError: If all are empty.

    Example:
        >>> stamps = np.ones((2, 4, 5)); stamps[1] = np.nan
        >>> psf = np.ones((3, 3)) / 9
        >>> both = from_arrays(stamps, psf=psf, rms=np.array([0.1, 0.1]), pixel_scale_arcsec=0.2)
        >>> one, left_out = without_empty(both)
        >>> len(one), left_out
        (1, ['1'])
    """
    if observation.mask is None or observation.image is None:
        return observation, []
    empty = np.asarray(np.asarray(observation.mask).all(axis=(1, 2)))
    if not empty.any() or len(empty) != len(observation):
        return observation, []
    if empty.all():
        raise ValueError("mask: expected galaxies with at least one pixel that is not masked, got none")
    return observation[~empty], [str(name) for name in np.asarray(observation.identifier)[empty]]


def _masked(observation: Observation) -> Observation:
    """Observations with a mask, also where no pixel is excluded: all parts of a survey have one, or none has."""
    if observation.mask is not None:
        return observation
    return observation.replace(mask=np.zeros(observation.image.shape, bool))
