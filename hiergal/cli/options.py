"""Options that several verbs share."""

from typing import Annotated

import typer

from hiergal.runtime.seeds import SEEDS

__all__ = [
    "Overwrite",
    "Seed",
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
