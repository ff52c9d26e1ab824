"""Bounds of the numbers in a recipe: far beyond any use, and small enough that nothing waits or fills the memory."""

from typing import Annotated

from msgspec import Meta

__all__ = ["Blocks", "Count", "Fraction", "NotNegative", "Positive", "Side", "Width", "WidthsOfStages"]

Side = Annotated[int, Meta(ge=8, le=4096)]  # pixels
Width = Annotated[int, Meta(ge=1, le=16384)]  # channels, features, latents
Blocks = Annotated[int, Meta(ge=1, le=64)]  # layers that follow each other
WidthsOfStages = Annotated[tuple[Width, ...], Meta(min_length=1, max_length=12)]
Count = Annotated[int, Meta(ge=1, le=10**9)]  # steps, galaxies
Positive = Annotated[float, Meta(gt=0, le=1e9)]
NotNegative = Annotated[float, Meta(ge=0, le=1e9)]
Fraction = Annotated[float, Meta(ge=0, lt=1)]
