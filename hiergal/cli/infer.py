"""The verbs ``fit-posterior-flow``, ``infer`` and ``deblend``: posteriors of observed galaxies (:mod:`hiergal.cli`).

hiergal fit-posterior-flow SURVEY.zarr --model RUN/model         learn the shapes of posteriors
hiergal infer SURVEY.zarr --model RUN/model --out table.fits     a row for each galaxy, in any number of processes
hiergal infer SURVEY.zarr --model RUN/model --out draws.nc       all draws, for ArviZ
hiergal deblend SCENES --sources sources.csv --model RUN/model --out blends.fits     overlapping galaxies together
"""

from pathlib import Path
from typing import Annotated

import typer

from hiergal.cli.options import (
    Batch,
    Draws,
    Limit,
    Model,
    ModelFolder,
    Overwrite,
    Scheduler,
    Seed,
    SurveyIn,
)
from hiergal.cli.verbs import ARGUMENT, Old, Verbs
from hiergal.runtime.log import say

__all__ = ["add_to", "deblend", "fit_posterior_flow", "infer"]

DRAWS_IN = (".nc", ".zarr")

UseConditions = Annotated[
    bool,
    typer.Option("--conditions", help="Let the catalogue's magnitude, size, redshift inform the prior."),
]


def add_to(app: Verbs) -> None:
    """Add these verbs to the command."""
    app.command(
        "fit-posterior-flow",
        examples=["hiergal fit-posterior-flow survey.zarr --model runs/first/model"],
        old=Old(arguments=("--model", ARGUMENT), verb="guide"),
    )(fit_posterior_flow)
    app.command(
        examples=[
            "hiergal infer survey.zarr --model hub:mock-acs --limit 100 --out posteriors.fits",
            "hiergal infer survey.zarr --model runs/first/model --workers 4 --images images.zarr --out posteriors.fits",
            "hiergal infer survey.zarr --model runs/first/model --method auto --limit 20 --out draws.nc",
        ],
    )(infer)
    app.command(
        examples=[
            "hiergal deblend survey.zarr --sources sources.csv --model hub:mock-acs --out blends.fits",
            "hiergal deblend scene.fits --at 0,0 --at=-6.5,4 --magnitude-zero-point 25.94 --model hub:mock-acs "
            "--out blend.fits",
        ],
    )(deblend)


def fit_posterior_flow(
    survey: SurveyIn,
    model: ModelFolder,
    simulations: Annotated[int, typer.Option(help="Galaxies to simulate.", min=100)] = 16000,
    refine: Annotated[
        int,
        typer.Option(help="Training galaxies of the survey to refine on, by importance sampling.", min=0),
    ] = 256,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Fit the posterior flow. `hiergal infer` uses it with the methods flow, importance and auto."""
    from hiergal.survey.store import open_survey
    from hiergal.training.fit_posterior_flow import fit_posterior_flow_of_survey

    _, fitted = fit_posterior_flow_of_survey(
        model, open_survey(survey), seed=seed, simulations=simulations, refine_on=refine, overwrite=overwrite
    )
    if fitted is None:
        say(f"{model}: has this posterior flow already; nothing to do")
        return
    say(f"{model}: posterior flow with log q = {max(fitted.validation):.2f} nats on held-out galaxies")


def infer(
    survey: SurveyIn,
    model: Model,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="A table (.fits, .parquet) with a row for each galaxy, or all draws for ArviZ (.nc, .zarr).",
        ),
    ],
    method: Annotated[
        str,
        typer.Option(
            help="amortized, map, laplace, flow, importance, nuts, or auto: importance, and nuts where that failed."
        ),
    ] = "laplace",
    use_conditions: UseConditions = False,
    draws: Draws = 200,
    limit: Limit = None,
    images: Annotated[
        Path | None, typer.Option(help="With a table: a zarr group for deconvolved and denoised images.")
    ] = None,
    workers: Annotated[int, typer.Option(help="With a table: processes on this machine.", min=1)] = 1,
    scheduler: Scheduler = None,
    batch: Batch = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Infer the posteriors of the galaxies of a survey. The same command continues an interrupted table."""
    import numpy as np

    if out.suffix not in DRAWS_IN:
        from hiergal.posterior.survey import infer_survey

        table = infer_survey(
            model,
            survey,
            out,
            seed=seed,
            method=method,
            draws=draws,
            conditions=use_conditions,
            images=images,
            limit=limit,
            batch=batch,
            workers=workers,
            scheduler=scheduler,
            overwrite=overwrite,
        )
        chi_square, flag = np.asarray(table["chi_square"]), np.asarray(table["flag"])
    else:
        if images is not None or workers > 1 or scheduler is not None:
            raise ValueError(
                f"--out: expected a table (.fits, .parquet) with --images, --workers or --scheduler, got {out}"
            )
        from hiergal.hub.bundle import load_model
        from hiergal.posterior.stages import infer_to_arviz
        from hiergal.survey.store import open_survey

        opened = open_survey(survey)
        found = infer_to_arviz(
            load_model(model),
            opened,
            out,
            seed=seed,
            rows=np.arange(min(limit or len(opened), len(opened))),
            method=method,
            use_conditions=use_conditions,
            draws=draws,
            batch=batch or 32,
            overwrite=overwrite,
        )
        if found is None:
            say(f"{out}: is there already, of the same run; nothing to do")
            return
        posterior = found[1]
        chi_square, flag = posterior.chi_square, np.asarray(posterior.flag)
    from hiergal.posterior.verdict import describe_flags

    finite = chi_square[np.isfinite(chi_square)]
    median = f"{np.median(finite):.3f}" if len(finite) else "not known"
    say(f"{out}: {len(flag)} galaxies, median reduced chi-square {median}; {describe_flags(flag)}")


def deblend(
    scenes: Annotated[
        Path,
        typer.Argument(
            help="A survey; or cutouts as `hiergal survey cutouts` reads them: a FITS file, a folder of them, .npz.",
        ),
    ],
    model: Model,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The table to write, .fits: a row for each source.")
    ],
    sources: Annotated[
        Path | None,
        typer.Option(
            help="A table with a row for each source: scene, the identifier of its scene (not needed for one), and "
            "x_pix and y_pix from the centre of the scene [pixels]."
        ),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X,Y", help="Of one scene: a source's x_pix,y_pix; repeat for each (--at=-6.5,4)."
        ),
    ] = None,
    position_error_pix: Annotated[
        float, typer.Option(help="Standard deviation of the positions along each axis [pixels].", min=0)
    ] = 0.0,
    method: Annotated[
        str, typer.Option(help="curved, which follows the shape of the posterior, or laplace.")
    ] = "curved",
    use_conditions: Annotated[
        bool,
        typer.Option("--conditions", help="Let magnitude, size, redshift in --sources inform the prior."),
    ] = False,
    images: Annotated[
        bool,
        typer.Option("--images", help="Add columns of images: each source in the scene, and deconvolved."),
    ] = False,
    draws: Draws = 200,
    batch: Annotated[int, typer.Option(help="Scenes computed at once.", min=1)] = 4,
    magnitude_zero_point: Annotated[
        float | None, typer.Option(help="Of cutouts: magnitude of a source of unit flux [mag].")
    ] = None,
    flux_unit: Annotated[
        str | None, typer.Option(help="Of cutouts: unit of the pixels; default BUNIT of the files.")
    ] = None,
    pixel_scale_arcsec: Annotated[
        float | None,
        typer.Option(help="Of cutouts: width of a pixel [arcsec]; default the WCS of the files."),
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Infer overlapping galaxies together. Posteriors of all sources of a scene, at given positions."""
    from hiergal.posterior.scenes.table import deblend_scenes

    found = deblend_scenes(
        model,
        scenes,
        out,
        sources=sources,
        at=at,
        seed=seed,
        method=method,
        position_error_pix=position_error_pix,
        conditions=use_conditions,
        images=images,
        draws=draws,
        batch=batch,
        cutouts={
            "magnitude_zero_point": magnitude_zero_point,
            "flux_unit": flux_unit,
            "pixel_scale_arcsec": pixel_scale_arcsec,
        },
        progress=True,
        overwrite=overwrite,
    )
    say(f"{out}: {found}")
