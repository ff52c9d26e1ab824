"""The verb ``hiergal survey``: stamps of any origin become a survey. The others are in :mod:`hiergal.cli.app`.

hiergal survey mock --out OUT.zarr                 galaxies like those of HST/ACS in COSMOS, of which the truth is known
hiergal survey cosmos [CATALOG] --out OUT.zarr     the real galaxies that GalSim knows
hiergal survey cutouts SOURCE --out OUT.zarr       images of any other instrument
hiergal survey degrade SURVEY --out OUT.zarr       the same galaxies, less resolved and noisier
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from hiergal.cli.options import Limit, Overwrite, Seed, Stamp, SurveyIn, SurveyOut, Workers
from hiergal.cli.verbs import ARGUMENT, Old, Verbs
from hiergal.runtime.log import say

__all__ = [
    "survey",
]

survey = Verbs(help="Prepare a survey: stamps, PSFs and noise.")

NoiseSpectrum = Annotated[
    str,
    typer.Option(
        help="'given', as the input states it, or 'measured' in the source-free parts of the stamps: correlation "
        "between pixels and level."
    ),
]


@survey.command(
    "mock",
    examples=[
        "hiergal survey mock --out survey.zarr",
        "hiergal survey mock --galaxies 40000 --seed 21 --workers 8 --out mock40.zarr",
    ],
    old=Old(arguments=("--out",)),
)
def survey_mock(
    out: SurveyOut,
    galaxies: Annotated[int, typer.Option("--galaxies", "-n", help="Number of galaxies.", min=1)] = 4000,
    stamp: Stamp = 64,
    noise: Annotated[str, typer.Option(help="'correlated' as in ACS images, or 'white'.")] = "correlated",
    seed: Seed = 0,
    workers: Workers = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw a survey like HST/ACS in COSMOS, with its truth. The same command continues an interrupted run."""
    from hiergal.survey.mock.survey import write_mock_survey

    store = write_mock_survey(
        out, galaxies, seed=seed, stamp=stamp, noise=noise, workers=workers, overwrite=overwrite
    )
    say(store)


@survey.command(
    "cosmos",
    examples=[
        "hiergal survey cosmos --stamp 128 --exclusion-level marginal --out cosmos.zarr",
        "hiergal survey cosmos cosmos_dev --spectrum expected --out real.zarr",
    ],
    old=Old(options={"--catalog": ARGUMENT, "--centre": "--center"}, arguments=("--out",)),
)
def survey_cosmos(
    out: SurveyOut,
    catalog: Annotated[
        Path | None,
        typer.Argument(
            help="A RealGalaxyCatalog: its folder or catalogue file; default GalSim's downloaded sample."
        ),
    ] = None,
    stamp: Stamp = 64,
    band: Annotated[str | None, typer.Option(help="Filter, where a folder holds several catalogues.")] = None,
    exclusion_level: Annotated[
        str | None, typer.Option(help="GalSim's quality cuts: none, bad_stamp, bad_fits or marginal.")
    ] = None,
    limit: Limit = None,
    center: Annotated[
        Literal["galsim", "pixel"],
        typer.Option(
            help="'galsim' centres odd cutouts on even stamps as GalSim does; 'pixel' keeps the pixels."
        ),
    ] = "galsim",
    spectrum: Annotated[
        Literal["galsim", "expected"],
        typer.Option(
            help="Noise spectrum: 'galsim', or 'expected' of a stamp cut from a field (for inference)."
        ),
    ] = "galsim",
    noise_spectrum: NoiseSpectrum = "given",
    seed: Seed = 0,
    workers: Workers = None,
    overwrite: Overwrite = False,
) -> None:
    """Read real galaxies through GalSim. The same command continues an interrupted run."""
    from hiergal.survey.cosmos import write_cosmos_survey
    from hiergal.survey.noise.choice import noise_report

    store = write_cosmos_survey(
        catalog,
        out,
        stamp_shape=(stamp, stamp),
        band=band,
        exclusion_level=exclusion_level,
        limit=limit,
        centre=center,
        spectrum=spectrum,
        noise_spectrum=noise_spectrum,
        seed=seed,
        workers=workers,
        progress=True,
        overwrite=overwrite,
    )
    say(store)
    say(noise_report(store.header.provenance))


@survey.command(
    "cutouts",
    examples=[
        "hiergal survey cutouts stamps --band i --magnitude-zero-point 27 --out survey.zarr",
        "hiergal survey cutouts stamps --extensions image=SCI,rms=ERR,mask=DQ --bad-bits SAT,CR --psf psf.fits "
        "--out survey.zarr",
        "hiergal survey cutouts stamps.npz --pixel-scale-arcsec 0.2 --noise-spectrum measured --out survey.zarr",
    ],
    old=Old(options={"--survey": "--name"}, arguments=(ARGUMENT, "--out")),
)
def survey_cutouts(
    source: Annotated[
        Path, typer.Argument(help="A folder of FITS files (one galaxy each), or an .npz file.")
    ],
    out: SurveyOut,
    magnitude_zero_point: Annotated[
        float | None,
        typer.Option(
            help="Magnitude of a source of unit flux [mag]; not needed where the unit says it, such as nJy."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the survey.")] = "cutouts",
    band: Annotated[str, typer.Option(help="Filter.")] = "unknown",
    flux_unit: Annotated[
        str | None,
        typer.Option(help="Unit of the pixels; default BUNIT of the files, else counts per second."),
    ] = None,
    pixel_scale_arcsec: Annotated[
        float | None, typer.Option(help="Width of a pixel [arcsec]; default the WCS of the files.")
    ] = None,
    noise_spectrum: NoiseSpectrum = "given",
    noise_group: Annotated[
        str | None,
        typer.Option(
            help="Column of the catalogue with one number for each exposure or mosaic, to measure noise in each."
        ),
    ] = None,
    extensions: Annotated[
        str | None,
        typer.Option(help="Extension of each role: image=SCI,rms=ERR,mask=DQ,psf=PSF; NAME:2 for EXTVER 2."),
    ] = None,
    bad_bits: Annotated[
        str | None,
        typer.Option(
            help="Bits of the mask that mean bad: their sum, such as 5; names, such as SAT,CR; or all."
        ),
    ] = None,
    psf: Annotated[
        Path | None,
        typer.Option(
            help="A FITS file with one PSF for all, or a folder with one for each galaxy, named alike."
        ),
    ] = None,
    rms: Annotated[
        float | None, typer.Option(help="Noise of every pixel (standard deviation), for files without it.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Read stamps of any instrument: image, noise, mask and PSF of each galaxy.

    SOURCE is a folder with one FITS file for each galaxy. Extensions: IMAGE (or SCI); one of VARIANCE (VAR), RMS (ERR)
    and WEIGHT (WHT, WGT, IVAR: 1 / variance); PSF (odd sizes; its own pixel scale in PIXELSCL, OVERSAMP or a WCS);
    perhaps MASK (DQ, MSK: 1 is bad; MP_* name planes). Other names: --extensions. A WCS gives the pixel scale. A table
    catalog.csv (.ecsv, .fits, ...) with a column "file" may add identifiers and columns such as mag_auto.
    """
    from hiergal.survey.cutouts.survey import write_cutouts_survey
    from hiergal.survey.noise.choice import noise_report

    store = write_cutouts_survey(
        source,
        out,
        survey=name,
        band=band,
        magnitude_zero_point=magnitude_zero_point,
        flux_unit=flux_unit,
        pixel_scale_arcsec=pixel_scale_arcsec,
        noise_spectrum=noise_spectrum,
        noise_group=noise_group,
        extensions=extensions,
        bad_bits=bad_bits,
        psf=psf,
        rms=rms,
        progress=True,
        overwrite=overwrite,
    )
    say(store)
    say(noise_report(store.header.provenance))


@survey.command(
    "degrade",
    examples=["hiergal survey degrade survey.zarr --fwhm-arcsec 0.3 --noise-factor 2 --out blurred.zarr"],
    old=Old(arguments=(ARGUMENT, "--out")),
)
def survey_degrade(
    survey: SurveyIn,
    out: SurveyOut,
    fwhm_arcsec: Annotated[
        float, typer.Option(help="Width of the Gaussian that everything is blurred with [arcsec].")
    ] = 0.15,
    noise_factor: Annotated[
        float, typer.Option(help="Noise of a pixel over that of the sharper survey.", min=1)
    ] = 1.0,
    seed: Seed = 0,
    workers: Workers = None,
    overwrite: Overwrite = False,
) -> None:
    """Blur a survey and add noise, to test what a model trained on it makes of detail that it cannot see."""
    from hiergal.survey.degrade import degrade_survey

    store = degrade_survey(
        survey,
        out,
        fwhm_arcsec=fwhm_arcsec,
        noise_factor=noise_factor,
        seed=seed,
        workers=workers,
        progress=True,
        overwrite=overwrite,
    )
    say(store)
