"""Real galaxies: stamps from any catalogue in GalSim's RealGalaxyCatalog format (COSMOS F814W, AEGIS, ...).

What is read is what :class:`galsim.RealGalaxy` holds *before* it deconvolves: the observed pixels, each
galaxy's own effective PSF and its noise correlation function (Mandelbaum et al. 2012, arXiv:1107.4629; Rowe
et al. 2015, arXiv:1407.7676). Conventions, ``galsim`` meaning that GalSim draws the same arrays:

* **Image**: ``RealGalaxy(..., noise_pad_size=...).original_gal.drawImage(nx, ny, method="no_pixel")`` at the
  native pixel scale. Where the cutout covers the stamp these are the original pixels; beyond it, noise that
  follows the galaxy's own correlation function, drawn by GalSim with the generator of
  :func:`padding_generator`. (Drawing ``Convolve(real_galaxy, original_psf)`` instead filters the noise: the
  deconvolution stops at the PSF's band limit.)
* **Centre**: the true centre of the cutout falls on the true centre of the stamp, at ((nx - 1) / 2,
  (ny - 1) / 2) with pixel (0, 0) the centre of the lower-left one: between four pixels of a 64x64 stamp. If
  cutout and stamp are not both even or both odd along an axis, that is half a pixel off the grid.
  ``centre="galsim"`` interpolates there, as GalSim does; that smooths the noise of these galaxies (chi-square
  per pixel 0.72 if shifted along one axis, 0.52 along both). ``centre="pixel"`` keeps the pixels, and the
  galaxy sits half a pixel further up or right. The columns ``shift_y_pix`` and ``shift_x_pix`` say by how
  much (0 or 0.5).
* **PSF**: ``original_psf.drawImage(method="no_pixel")`` on an odd stamp common to the survey, the true centre
  of the PSF image on the central pixel. PSF images with an even number of pixels (AEGIS) are interpolated by
  GalSim's quintic, since their centre lies between pixels; odd ones keep their pixels, divided by their sum.
* **Noise**: power of :class:`~hiergal.observation.stationary.StationaryNoise` from the galaxy's own correlation
  function and variance; :mod:`hiergal.survey.noise.correlation` tells ``spectrum="galsim"`` from ``"expected"``. Take
  the second for inference. With ``noise_spectrum="measured"`` the correlation function is the one that is measured in
  the source-free pixels of the cutouts themselves (:mod:`hiergal.survey.noise.spectrum`), scaled to each galaxy's
  variance, and the spectrum is the expected one. The noise beyond cutouts is drawn with it too, conditional on the
  cutout's pixels, so that there is no seam (:func:`~hiergal.survey.noise.correlation.continued_noise`).
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Int

from hiergal.observation.observation import Observation
from hiergal.observation.psf import PSF
from hiergal.observation.stationary import StationaryNoise
from hiergal.runtime.seeds import check_seed
from hiergal.survey.noise.choice import MeasuredNoise, check_source, measure_in_catalog, measured_or_why
from hiergal.survey.noise.correlation import Spectrum, catalog_noise, continued_noise, floored, noise_power
from hiergal.survey.prepare import prepare_store
from hiergal.survey.real_catalog import RealCatalog, open_catalog
from hiergal.survey.store import StoreHeader, SurveyStore

if TYPE_CHECKING:
    import galsim

__all__ = ["RealCatalog", "open_catalog", "padding_generator", "read_stamps", "write_cosmos_survey"]

OPEN_FILES = 4
INTERPOLANT_PIX = 3  # half the support of GalSim's quintic
PSF_MARGIN_PIX = 5  # what a quintic interpolant adds to an image of even size, made odd
COSMOS_ZERO_POINT = 25.94  # F814W, as Lanusse et al. (2020) and GalSim's documentation have it

Centre = Literal["galsim", "pixel"]


def read_stamps(
    catalog: RealCatalog,
    rows: Int[np.ndarray, "n"],
    stamp_shape: tuple[int, int] = (64, 64),
    *,
    psf_shape: tuple[int, int] | None = None,
    seed: int = 0,
    centre: Centre = "galsim",
    spectrum: Spectrum = "galsim",
    measured: MeasuredNoise | None = None,
) -> Observation:
    """Read galaxies as the model sees them; the conventions are at the top of this page.

    Args:
        catalog: An open catalogue.
        rows: Rows of the catalogue.
        stamp_shape: (ny, nx) of the stamps [pixels].
        psf_shape: (py, px) of the PSF stamps, odd [pixels]; by default the smallest that hold these rows'.
        seed: Seed of the noise beyond the cutouts.
        centre: Where the galaxy's centre lies if cutout and stamp are not both even or both odd.
        spectrum: Which noise spectrum to give.
        measured: Noise measured in the cutouts, to be used instead of the catalogue's.

    Returns:
        Observations with images in the catalogue's flux unit, and stationary noise.
    """
    check_seed(seed)
    import galsim

    real, (ny, nx) = catalog.real, stamp_shape
    psf_shape = psf_shape or _psf_shape(catalog, rows)
    scale = catalog.pixel_scale_arcsec
    image, psf = np.empty((len(rows), ny, nx)), np.empty((len(rows), *psf_shape))
    power, shift = np.empty((len(rows), ny, nx // 2 + 1)), np.empty((len(rows), 2))
    unit_power: dict[str | None, np.ndarray] = {}
    for i, row in enumerate(rows):
        rng = padding_generator(seed, int(row))
        file = None if real.noise_file_name is None else real.noise_file_name[row]
        noise = catalog_noise(real, int(row), rng, recenter=spectrum == "expected")
        cutout = real.getGalImage(row)
        pad = {"noise_pad": noise, "noise_pad_size": (max(ny, nx) + 8) * scale} if measured is None else {}
        profile = _interpolated(cutout, rng=rng, **pad)
        shift[i] = [
            0.5 * ((have - want) % 2) for have, want in zip(cutout.array.shape, stamp_shape, strict=True)
        ]
        offset = galsim.PositionD(*shift[i, ::-1]) if centre == "pixel" else None
        image[i] = profile.drawImage(
            nx=nx, ny=ny, scale=scale, dtype=float, method="no_pixel", offset=offset
        ).array
        original = _interpolated(real.getPSFImage(row), flux=1.0)
        psf[i] = original.drawImage(
            nx=psf_shape[1], ny=psf_shape[0], scale=scale, dtype=float, method="no_pixel"
        ).array
        if file not in unit_power:
            unit_power[file] = (
                noise_power(noise, stamp_shape, scale, spectrum) / real.variance[row]
                if measured is None
                else measured.of(file).on(stamp_shape)
            )
        power[i] = unit_power[file] * real.variance[row]
        if measured is not None:
            inside = _covered(cutout.array.shape, stamp_shape, shift[i] if centre == "pixel" else (0, 0))
            generator = np.random.default_rng([seed, int(row)])
            image[i] = continued_noise(image[i], inside, power[i], generator)
    conditions = {name: column[rows] for name, column in catalog.conditions.items()}
    conditions |= {"shift_y_pix": shift[:, 0], "shift_x_pix": shift[:, 1]}
    return Observation(
        image=image.astype(np.float32),
        psf=PSF(psf.astype(np.float32), pixel_scale_arcsec=scale),
        noise=StationaryNoise(floored(power).astype(np.float32), width=nx),
        mask=None,
        catalog=conditions,
        identifier=catalog.identifier[rows],
        pixel_scale_arcsec=scale,
    )


def padding_generator(seed: int, row: int) -> "galsim.BaseDeviate":
    """Return the generator of the noise beyond the cutout of one galaxy, whatever else is drawn.

    Example:
        >>> padding_generator(0, 3).raw() == padding_generator(0, 3).raw() != padding_generator(1, 3).raw()
        True
    """
    import galsim

    # Never 0, by which GalSim means the time of day.
    return galsim.BaseDeviate(1 + int(np.random.SeedSequence([seed, row]).generate_state(1)[0] >> 2))


def write_cosmos_survey(
    path: str | Path | None,
    out: str | Path,
    *,
    stamp_shape: tuple[int, int] = (64, 64),
    band: str | None = None,
    exclusion_level: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    centre: Centre = "galsim",
    spectrum: Spectrum = "galsim",
    noise_spectrum: str = "given",
    workers: int | Executor | None = None,
    progress: bool = False,
    overwrite: bool = False,
) -> SurveyStore:
    """Write real galaxies into a store.

    The same call goes on with a run that was stopped (:func:`~hiergal.survey.prepare.prepare_store`).

    Args:
        path: The catalogue, or a folder with one; None for the COSMOS sample that ``galsim_download_cosmos``
            fetched.
        out: Store to write.
        stamp_shape: (ny, nx) of the stamps [pixels].
        band: Filter to take where a folder holds several catalogues; F814W if None.
        exclusion_level: As for :func:`open_catalog`.
        limit: Keep only so many galaxies, the first ones; all if None.
        seed: Seed of the noise beyond the cutouts; the same seed gives the same store.
        centre: ``galsim`` or ``pixel``, as at the top of this page.
        spectrum: ``galsim`` or ``expected``, as at the top of this page.
        noise_spectrum: ``given`` for the catalogue's correlation functions, ``measured`` for what the source-free
            pixels of the cutouts show. Either way the survey records both
            (:mod:`hiergal.survey.noise.choice`).
        workers: Number of processes, None for one per available core; or an executor, whose workers see the files.
        progress: Show a progress bar.
        overwrite: Replace a store that is already there.

    Returns:
        The store.
    """
    check_seed(seed)
    import galsim

    if limit is not None and limit < 1:
        raise ValueError(f"expected a limit of at least 1 galaxy, got {limit}; leave it out to take all")
    check_source(noise_spectrum)
    catalog = open_catalog(path, band=band, exclusion_level=exclusion_level)
    rows = catalog.rows[:limit]
    file, name = Path(catalog.real.file_name), str(catalog.real.band[rows[0]]).strip()
    zero_point = _zero_point(name)
    measured, recorded = measured_or_why(
        lambda: measure_in_catalog(catalog, stamp_shape, rows), noise_spectrum
    )
    choices = {"seed": seed, "centre": centre, "spectrum": spectrum}
    header = StoreHeader(
        survey=file.stem,
        band=name,
        pixel_scale_arcsec=catalog.pixel_scale_arcsec,
        magnitude_zero_point=zero_point,
        flux_unit="counts per second",
        provenance={
            "generator": "hiergal survey cosmos",
            "catalog": file.name,
            "exclusion_level": catalog.exclusion_level,
            "galsim": galsim.__version__,
            "stamp_shape": list(stamp_shape),
            **choices,
            **recorded,
        },
    )
    draw = _Draw(
        catalog=str(file.absolute()),
        modified=file.stat().st_mtime_ns,
        exclusion_level=catalog.exclusion_level,
        stamp_shape=tuple(stamp_shape),
        psf_shape=_psf_shape(catalog, rows),
        measured=measured if noise_spectrum == "measured" else None,
        **choices,
    )
    _open[draw] = catalog
    try:
        return prepare_store(
            out,
            header,
            draw,
            len(rows),
            workers=workers,
            inputs={str(draw.modified): file},
            progress=progress,
            overwrite=overwrite,
        )
    finally:
        _open.pop(draw).real.close()


@dataclass(frozen=True)
class _Draw:
    """Function that draws the galaxies of a survey, in any process."""

    catalog: str
    modified: int
    exclusion_level: str
    stamp_shape: tuple[int, int]
    psf_shape: tuple[int, int]
    seed: int
    centre: Centre
    spectrum: Spectrum
    measured: MeasuredNoise | None = field(default=None, compare=False)

    def __call__(self, first: int, count: int) -> tuple[Observation, None]:
        if self not in _open:
            _open[self] = open_catalog(self.catalog, exclusion_level=self.exclusion_level)
        catalog = _open[self]
        observation = read_stamps(
            catalog,
            catalog.rows[first : first + count],
            self.stamp_shape,
            psf_shape=self.psf_shape,
            seed=self.seed,
            centre=self.centre,
            spectrum=self.spectrum,
            measured=self.measured,
        )
        if len(catalog.real.loaded_files) > OPEN_FILES:  # GalSim keeps all it has read in memory
            catalog.real.close()
        return observation, None


_open: dict[_Draw, RealCatalog] = {}  # each process opens a catalogue once


def _interpolated(image: "galsim.Image", **kwargs) -> "galsim.InterpolatedImage":
    """Build the image profile that RealGalaxy builds, less what only drawing in Fourier space needs."""
    import galsim

    return galsim.InterpolatedImage(
        image, pad_factor=1.0, calculate_stepk=False, calculate_maxk=False, **kwargs
    )


def _covered(cutout: tuple[int, int], stamp: tuple[int, int], shift: Sequence[float]) -> np.ndarray:
    """Return which pixels of a stamp have the cutout's; between its pixels, all that the interpolant needs."""
    axes = []
    for have, want, moved in zip(cutout, stamp, shift, strict=True):
        place = np.arange(want) - (want - 1) / 2 - moved + (have - 1) / 2
        margin = 0 if place[0] % 1 == 0 else INTERPOLANT_PIX - 0.5
        axes.append((place >= margin) & (place <= have - 1 - margin))
    return np.outer(*axes)


def _psf_shape(catalog: RealCatalog, rows: np.ndarray) -> tuple[int, int]:
    """Return the smallest odd shape that holds the PSFs of some rows, from the headers alone."""
    from astropy.io import fits

    sizes, files = set(), np.asarray(catalog.real.psf_file_name)[rows]
    for file in dict.fromkeys(files):
        with fits.open(file) as hdus:
            sizes |= {hdus[int(hdu)].shape for hdu in catalog.real.psf_hdu[rows[files == file]]}
    odd = [[size if size % 2 else size + PSF_MARGIN_PIX for size in shape] for shape in sizes]
    py, px = np.max(odd, axis=0)
    return int(py), int(px)


def _zero_point(band: str) -> float:
    from galsim.real import real_galaxy_bandpasses

    if band == "F814W":
        return COSMOS_ZERO_POINT
    if band not in real_galaxy_bandpasses:
        raise ValueError(
            f"expected a band among {sorted(real_galaxy_bandpasses)}, got {band!r}; write it as cutouts"
        )
    return real_galaxy_bandpasses[band][1]
