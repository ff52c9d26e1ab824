"""The verbs ``hiergal models publish`` and ``hiergal models card`` (see :mod:`hiergal.cli`).

hiergal models publish RUN --about about.toml --validation DIR --calibration DIR     a run becomes models/NAME
hiergal models card hub:NAME        print the card of a published model
"""

from pathlib import Path
from typing import Annotated

import typer

from hiergal.cli.options import Overwrite
from hiergal.cli.verbs import Verbs
from hiergal.runtime.log import say

__all__ = ["add_to", "card", "publish"]


def add_to(models: Verbs) -> None:
    """Add these verbs to ``hiergal models``."""
    models.command(
        examples=[
            "hiergal models publish runs/first --about about.toml --validation runs/validation "
            "--calibration runs/calibration",
        ],
    )(publish)
    models.command(examples=["hiergal models card hub:mock-acs"])(card)


def publish(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run, with model/ in it.")],
    about: Annotated[
        Path,
        typer.Option(
            help="TOML: name, version, licence, description, intended_use, limits, citation of the model."
        ),
    ],
    validation: Annotated[Path, typer.Option(help="Folder that `hiergal validate` wrote for it.")],
    calibration: Annotated[
        list[Path],
        typer.Option(help="Folder that `hiergal calibrate` wrote for it; repeat for more."),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of published models; this one gets a folder in it.")
    ] = Path("models"),
    registry: Annotated[
        Path | None, typer.Option(help="Folder of a registry to offer it in as well, as one file.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Publish a trained model with its card; an incomplete one is refused."""
    from hiergal.publish.publish import add_to_registry
    from hiergal.publish.publish import publish as publish_run

    folder = publish_run(
        run, about, validation=validation, calibrations=list(calibration), out=out, overwrite=overwrite
    )
    say(f"{folder}: published; read {folder / 'CARD.md'}")
    if registry is not None:
        entry = add_to_registry(folder, registry)
        say(f"{registry}: offers {entry.name}@{entry.version}, {entry.size:,} bytes")


def card(
    name: Annotated[
        str, typer.Argument(help="A published model: hub:NAME, its folder or file, or https://...#sha256=...")
    ],
) -> None:
    """Print the card of a published model."""
    from hiergal.hub.bundle import read_card
    from hiergal.runtime.formatting import plain

    for line in read_card(name).splitlines():
        say(plain(line))
