"""Description of a published model, next to its bundle: ``published.toml``.

A published model is a folder of the bundle's files, ``published.toml``, ``CARD.md`` and the card's figures
(:mod:`hiergal.publish.publish`).
"""

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from hiergal.hub.registry import Word
from hiergal.runtime.texts import parse_toml, read_text

__all__ = ["Published", "read_published"]

PUBLISHED = "published.toml"
Text = Annotated[str, Meta(min_length=1)]


class Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name and terms of a published model.

    Attributes:
        name: Its name after ``hub:``.
        version: Its version.
        licence: What one may do with it, as an SPDX identifier.
        description: A sentence.
        intended_use: What it is for.
        limits: What it is not for, and where it fails.
        citation: How to cite it.
    """

    name: Word
    version: Word
    licence: Text
    description: Text
    intended_use: Text
    limits: Text
    citation: Text


def read_published(folder: str | Path) -> Published:
    """Read the description of a published model.

    Raises:
        OSError: If it cannot be read.
        ValueError: If something is missing, unknown or of the wrong type.
    """
    path = Path(folder) / PUBLISHED
    try:
        return msgspec.convert(parse_toml(read_text(path), str(path)), Published)
    except msgspec.ValidationError as error:
        raise ValueError(f"{path}: {error}") from None
