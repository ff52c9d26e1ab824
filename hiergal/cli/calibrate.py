"""The verb ``hiergal calibrate``: coverage of the credible intervals of a model (see :mod:`hiergal.cli`).

hiergal calibrate SURVEY --model RUN/model --method flow --out runs/calibration
"""

from pathlib import Path
from typing import Annotated

import typer

from hiergal.cli.options import Draws, Model, Overwrite, Seed, SurveyIn
from hiergal.cli.verbs import Verbs
from hiergal.runtime.exits import DONE, TEST_FAILED
from hiergal.runtime.log import say

__all__ = ["add_to", "calibrate"]


def add_to(app: Verbs) -> None:
    """Add this verb to the command."""
    app.command(
        examples=[
            "hiergal calibrate survey.zarr --model runs/first/model --out runs/calibration",
            "hiergal calibrate survey.zarr --model runs/first/model --method laplace --galaxies 500 --out runs/laplace",
        ],
    )(calibrate)


def calibrate(
    survey: SurveyIn,
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for numbers and figures.")],
    method: Annotated[
        str, typer.Option(help="amortized, map, laplace, flow, importance, nuts, or auto.")
    ] = "flow",
    galaxies: Annotated[
        int, typer.Option("--galaxies", "-n", help="Galaxies of the model to simulate.", min=2)
    ] = 2000,
    draws: Draws = 199,
    batch: Annotated[int, typer.Option(help="Galaxies computed at once.", min=1)] = 32,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Test how often credible intervals hold the truth. The exit status is 1 if a test fails.

    Simulation-based calibration: galaxies of the model's own prior, with PSFs and noise of galaxies of the survey that
    it was not trained on. Ranks, coverage and z-scores are tested.
    """
    from hiergal.reports.calibration import calibrate as run

    found = run(
        model,
        survey,
        out,
        seed=seed,
        method=method,
        galaxies=galaxies,
        draws=draws,
        batch=batch,
        overwrite=overwrite,
        progress=True,
    )
    for line in found.get("verdicts", ()):
        say(line)
    say(f"{out}: {found.get('summary', 'is there already, of the same run')}")
    raise typer.Exit(DONE if found["passed"] else TEST_FAILED)
