"""Options that several verbs of ``hiergal`` have in common: one name, one meaning, one text."""

from pathlib import Path
from typing import Annotated

import typer

from hiergal.runtime.seeds import SEEDS

__all__ = [
    "Batch",
    "Draws",
    "Limit",
    "Model",
    "ModelFolder",
    "Overwrite",
    "RecipeName",
    "Scheduler",
    "Seed",
    "Stamp",
    "Steps",
    "SurveyIn",
    "SurveyOut",
    "Workers",
]

SurveyIn = Annotated[Path, typer.Argument(help="A survey, as `hiergal survey` writes it.")]
SurveyOut = Annotated[Path, typer.Option("--out", "-o", help="The survey to write, such as survey.zarr.")]
Model = Annotated[
    str,
    typer.Option("--model", "-m", help="A trained model: hub:NAME, a folder, a file or an https address."),
]
ModelFolder = Annotated[
    Path,
    typer.Option(
        "--model",
        "-m",
        help="Folder of the trained model, such as runs/first/model; the result becomes part of it.",
    ),
]
RecipeName = Annotated[
    str | None,
    typer.Option(help="Name of a recipe (`hiergal models recipes`), or a TOML file; default small."),
]
Seed = Annotated[
    int,
    typer.Option(help="Seed of everything random; the same seed gives the same files.", min=0, max=SEEDS - 1),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace a result of hiergal of another run; anything else is never replaced."
    ),
]
Workers = Annotated[
    int | None, typer.Option(help="Processes on this machine; default one per available core.", min=1)
]
Scheduler = Annotated[str | None, typer.Option(help="Address of a dask scheduler whose workers to use.")]
Limit = Annotated[int | None, typer.Option(help="Take only the first galaxies.", min=1)]
Batch = Annotated[
    int | None, typer.Option(help="Galaxies computed at once; default by the kind of device.", min=1)
]
Draws = Annotated[int, typer.Option(help="Posterior draws of each galaxy.", min=2)]
Steps = Annotated[int | None, typer.Option(help="Number of steps; default the recipe's.", min=1)]
Stamp = Annotated[int, typer.Option(help="Pixels along each side of a stamp.")]
