"""The verb ``hiergal sample``: a new galaxy for each row of a catalogue (see :mod:`hiergal.cli.app`).

hiergal sample catalog.fits --model hub:mock-acs --out galaxies.zarr                          light profiles
hiergal sample catalog.fits --model hub:mock-acs --survey LSST --band i --out stamps.fits     as a survey sees them
"""

from pathlib import Path
from typing import Annotated

import typer

from hiergal.cli.options import Overwrite, Seed
from hiergal.runtime.log import say

__all__ = ["sample"]


def sample(
    model: Annotated[str, typer.Option(help="A trained model: hub:NAME, a folder, a file or an address.")],
    out: Annotated[Path, typer.Option(help="What to write: .fits, .hdf5 or .zarr.")],
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
            help="What a column is called in it, and its unit if it does not say: mag_auto=MAG_BEST, "
            "'flux_radius=FLUX_RADIUS:0.168 arcsec'. Repeat for more. Case does not matter."
        ),
    ] = None,
    hdu: Annotated[
        str | None, typer.Option(help="Which table of a file with several: number or name of an HDU.")
    ] = None,
    galaxies: Annotated[
        int | None, typer.Option(help="Without a catalogue: how many of the model's population.", min=1)
    ] = None,
    survey: Annotated[
        str | None,
        typer.Option(help="Draw them as this survey of surveycodex sees them, in electrons, with noise."),
    ] = None,
    band: Annotated[str | None, typer.Option(help="With --survey: the filter.")] = None,
    stamp: Annotated[int, typer.Option(help="With --survey: pixels along each side.", min=1)] = 64,
    noise: Annotated[
        bool, typer.Option(help="With --survey: whether to add the noise of sky and source.")
    ] = True,
    outside: Annotated[
        str,
        typer.Option(
            help="Galaxies outside the trained range: warn (those far outside, such as 99, are not drawn), raise or "
            "ignore (all are drawn). Columns 'outside' and 'drawn' of the output say which."
        ),
    ] = "warn",
    key: Annotated[
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
        typer.Option(help="A column of exact total magnitudes (AB), with --survey those in its band."),
    ] = None,
    half_light_radius_column: Annotated[
        str | None, typer.Option(help="A column of exact half-light radii, before the PSF [arcsec].")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes on this machine.", min=1)] = 1,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a dask scheduler whose workers to use.")
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Draw a new galaxy for each row of a catalogue. A run that was stopped goes on with the same command.

    The output holds images, and beside them what each galaxy was asked for, its identifier where the catalogue has
    one, and whether it is outside the trained range ('outside') and was drawn ('drawn': images are NaN where not).
    """
    from hiergal.simulate.catalog import Observing, sample_catalog

    if (survey is None) != (band is None):
        raise ValueError(f"expected both --survey and --band, or neither, got {survey} and {band}")
    path = sample_catalog(
        model,
        catalog,
        out,
        seed=seed,
        galaxies=galaxies,
        observing=None if survey is None or band is None else Observing(survey, band, stamp, noise),
        outside=outside,
        columns=column,
        hdu=hdu,
        identifier=key,
        flux=flux_column,
        magnitude=magnitude_column,
        half_light_radius=half_light_radius_column,
        workers=workers,
        scheduler=scheduler,
        overwrite=overwrite,
    )
    say(f"{path}: galaxies of {model}")
