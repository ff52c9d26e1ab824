"""The verb ``hiergal sample``: a new galaxy for each row of a catalogue (see :mod:`hiergal.cli`).

hiergal sample catalog.fits --model hub:mock-acs --out galaxies.zarr                          light profiles
hiergal sample catalog.fits --model hub:mock-acs --preset LSST --band i --out stamps.fits     as a survey sees them
"""

from pathlib import Path
from typing import Annotated

import typer

from hiergal.cli.options import Limit, Model, Overwrite, Scheduler, Seed
from hiergal.cli.verbs import Old, Verbs
from hiergal.runtime.log import say

__all__ = ["add_to", "sample"]


def add_to(app: Verbs) -> None:
    """Add this verb to the command."""
    app.command(
        examples=[
            "hiergal sample catalog.fits --model hub:mock-acs --out galaxies.zarr",
            "hiergal sample --galaxies 1000 --model hub:mock-acs --out galaxies.fits",
            "hiergal sample catalog.csv --column mag_auto=MAG_BEST --model hub:mock-acs --preset LSST --band i "
            "--out stamps.hdf5",
        ],
        old=Old(options={"--survey": "--preset", "--key": "--identifier-column"}),
    )(sample)


def sample(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output: .fits, .hdf5 or .zarr.")],
    catalog: Annotated[
        Path | None,
        typer.Argument(
            help="A table (FITS, LDAC, ECSV, CSV or other text, parquet, HDF5, VOTable) or a survey's store. Columns "
            "with units are converted; a plain flux_radius is in pixels of 0.03 arcsec, as the model's card says."
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a column in it, and its unit if it has none: mag_auto=MAG_BEST, "
            "'flux_radius=FLUX_RADIUS:0.168 arcsec'. Repeat for more. Case does not matter."
        ),
    ] = None,
    hdu: Annotated[
        str | None, typer.Option(help="Table of a file with several: number or name of an HDU.")
    ] = None,
    galaxies: Annotated[
        int | None,
        typer.Option(
            "--galaxies", "-n", help="Without a catalogue: how many of the model's population.", min=1
        ),
    ] = None,
    limit: Limit = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Draw them as this survey of surveycodex sees them, in electrons, with noise."),
    ] = None,
    band: Annotated[str | None, typer.Option(help="With --preset: the filter.")] = None,
    stamp: Annotated[
        int | None,
        typer.Option(help="Pixels along each side of a stamp."),
    ] = None,
    noise: Annotated[
        bool, typer.Option(help="With --preset: whether to add the noise of sky and source.")
    ] = True,
    outside: Annotated[
        str,
        typer.Option(
            help="Galaxies outside the trained range: warn (those far outside, such as 99, are not drawn), raise or "
            "ignore (all are drawn). Columns 'outside' and 'drawn' of the output say which."
        ),
    ] = "warn",
    identifier_column: Annotated[
        str | None,
        typer.Option(
            help="A column that tells galaxies apart: each keeps its galaxy when rows are dropped or sorted."
        ),
    ] = None,
    flux_column: Annotated[
        str | None, typer.Option(help="A column of exact total fluxes, in the unit of the output.")
    ] = None,
    magnitude_column: Annotated[
        str | None,
        typer.Option(help="A column of exact total magnitudes (AB), with --preset those in its band."),
    ] = None,
    half_light_radius_column: Annotated[
        str | None, typer.Option(help="A column of exact half-light radii, before the PSF [arcsec].")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes on this machine.", min=1)] = 1,
    scheduler: Scheduler = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Draw a new galaxy for each row of a catalogue. The same command continues an interrupted run.

    The output holds images, and next to them the conditions of each galaxy, its identifier where the catalogue has
    one, and whether it is outside the trained range ('outside') and was drawn ('drawn': images are NaN where not).
    """
    from hiergal.simulate.catalog import sample_catalog
    from hiergal.simulate.observing import Observing

    if (preset is None) != (band is None):
        raise ValueError(f"expected both --preset and --band, or neither, got {preset} and {band}")
    observing = None
    if preset is not None and band is not None:
        observing = Observing(preset, band, 64 if stamp is None else stamp, noise)
    path = sample_catalog(
        model,
        catalog,
        out,
        seed=seed,
        galaxies=galaxies,
        observing=observing,
        stamp=None if observing else stamp,
        outside=outside,
        columns=column,
        hdu=hdu,
        identifier=identifier_column,
        limit=limit,
        flux=flux_column,
        magnitude=magnitude_column,
        half_light_radius=half_light_radius_column,
        workers=workers,
        scheduler=scheduler,
        overwrite=overwrite,
    )
    say(f"{path}: galaxies of {model}")
