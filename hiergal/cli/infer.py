"""The verbs ``hiergal guide`` and ``hiergal infer``: what is behind observed stamps (see :mod:`hiergal.cli.app`).

hiergal guide RUN/model SURVEY.zarr                              learn the shapes of posteriors
hiergal infer SURVEY.zarr --model RUN/model --out table.fits     a row for each galaxy, in any number of processes
hiergal infer SURVEY.zarr --model RUN/model --out draws.nc       all draws, for ArviZ
"""

from pathlib import Path
from typing import Annotated

import typer

from hiergal.cli.options import Overwrite, Seed
from hiergal.runtime.log import say

__all__ = ["guide", "infer"]

DRAWS_IN = (".nc", ".zarr")


def guide(
    model: Annotated[Path, typer.Argument(help="A trained model's folder, such as runs/first/model.")],
    store: Annotated[Path, typer.Argument(help="The survey's store that it was trained on.")],
    simulations: Annotated[int, typer.Option(help="Galaxies to simulate.", min=100)] = 16000,
    refine: Annotated[
        int,
        typer.Option(help="Training galaxies of the survey to refine on, by importance sampling.", min=0),
    ] = 256,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Learn the shapes of posteriors, for `hiergal infer` by flow, importance and auto."""
    from hiergal.survey.store import open_survey
    from hiergal.training.fit_posterior_flow import fit_guide_flow_stage

    _, fitted = fit_guide_flow_stage(
        model, open_survey(store), seed=seed, simulations=simulations, refine_on=refine, overwrite=overwrite
    )
    if fitted is None:
        say(f"{model}: has this guide flow already; nothing to do")
        return
    say(f"{model}: guide flow with log q = {max(fitted.validation):.2f} nats on held-out galaxies")


def infer(
    store: Annotated[Path, typer.Argument(help="A survey's store, written by `hiergal survey`.")],
    model: Annotated[str, typer.Option(help="A trained model: hub:NAME, a folder, a file or an address.")],
    out: Annotated[
        Path,
        typer.Option(
            help="A table (.fits, .parquet) with a row for each galaxy, or all draws for ArviZ (.nc, .zarr)."
        ),
    ],
    method: Annotated[
        str,
        typer.Option(
            help="amortized, map, laplace, flow, importance, nuts, or auto: importance, and nuts where that failed."
        ),
    ] = "laplace",
    use_conditions: Annotated[
        bool,
        typer.Option("--conditions", help="Let the catalogue's magnitude, size, redshift inform the prior."),
    ] = False,
    draws: Annotated[int, typer.Option(help="Posterior draws of each galaxy.", min=2)] = 200,
    limit: Annotated[int | None, typer.Option(help="Take only the first galaxies.", min=1)] = None,
    images: Annotated[
        Path | None, typer.Option(help="With a table: a zarr group for deconvolved and denoised images.")
    ] = None,
    workers: Annotated[int, typer.Option(help="With a table: processes on this machine.", min=1)] = 1,
    scheduler: Annotated[
        str | None, typer.Option(help="With a table: address of a dask scheduler whose workers to use.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Galaxies at once; default by the kind of device.", min=1)
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Infer posteriors of the galaxies of a store. A table that was stopped goes on with the same command."""
    import numpy as np

    if out.suffix not in DRAWS_IN:
        from hiergal.posterior.survey import infer_survey

        table = infer_survey(
            model,
            store,
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
        from hiergal.posterior.stages import infer_stage
        from hiergal.survey.store import open_survey

        opened = open_survey(store)
        found = infer_stage(
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
