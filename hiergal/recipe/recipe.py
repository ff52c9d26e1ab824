"""Recipes: everything that a person decides about a model, in one frozen, typed, strict record.

A recipe is a TOML file; what it does not name keeps its default, and what it misspells is an error. The defaults are
the recipe ``small``: a model of 64x64 stamps that trains in minutes on two cores.
"""

from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec
from msgspec import Meta

from hiergal.recipe.config import (
    AidsConfig,
    Covariance,
    EncoderConfig,
    FlowConfig,
    GeneratorConfig,
    Name,
    ObjectiveConfig,
    PyramidEncoderConfig,
    PyramidGeneratorConfig,
    TrainingConfig,
)
from hiergal.recipe.limits import Side
from hiergal.runtime.texts import parse_toml, read_text

__all__ = [
    "Recipe",
    "load_recipe",
    "parse_recipe",
    "recipe_from",
    "recipe_to_toml",
]

LARGEST_NETWORKS = 2**31  # parameters of all networks of a recipe


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole model: its networks, its objective, its training.

    Attributes:
        name: What to call it.
        shape: (ny, nx) of the stamps that it models, multiples of 8.
        pixel_scale_arcsec: Width of their pixels [arcsec].
        profile_fwhm_arcsec: Full width at half maximum of the round Gaussian that profiles are blurred with: 0 for
            none. Slightly narrower than any PSF of the survey, it leaves to the survey's resolution what no data can
            tell (partial deconvolution) [arcsec].
        covariance: Structure of the guide's posterior.
        generator: Architecture of g.
        encoder: Architecture of the guide's network.
        objective: What training maximises.
        aids: What helps a deep generator through its first steps.
        training: How.
        flow: The distribution of the latents.
        guide_flow: The shape of posteriors; what it is conditioned on follows from the number of latents.
    """

    name: Name = "small"
    shape: tuple[Side, Side] = (64, 64)
    pixel_scale_arcsec: Annotated[float, Meta(gt=0, le=1e4)] = 0.03
    profile_fwhm_arcsec: Annotated[float, Meta(ge=0, le=1e4)] = 0.0
    covariance: Covariance = "full"
    generator: GeneratorConfig | PyramidGeneratorConfig = GeneratorConfig()
    encoder: EncoderConfig | PyramidEncoderConfig = EncoderConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    aids: AidsConfig = AidsConfig()
    training: TrainingConfig = TrainingConfig()
    flow: FlowConfig = FlowConfig()
    guide_flow: FlowConfig = FlowConfig(
        conditions=(), layers=2, hidden=32, steps=600, batch=256, learning_rate=1e-3
    )

    def __post_init__(self) -> None:
        """Check what types alone do not say."""
        unit = max(network.resolution_unit for network in (self.generator, self.encoder))
        if any(side % unit for side in self.shape):
            raise ValueError(f"shape: expected multiples of {unit} pixels, got {self.shape}")
        if isinstance(self.generator, GeneratorConfig) and self.generator.latents < 7:
            raise ValueError(f"generator.latents: expected at least 7, got {self.generator.latents}")
        if self.aided:
            self._check_mirrored()
        elif self.aids != AidsConfig():
            raise ValueError("aids: expected none unless generator and encoder are of kind pyramid")

    @property
    def aided(self) -> bool:
        """Whether training goes through the paper's networks and their aids."""
        return isinstance(self.generator, PyramidGeneratorConfig) and isinstance(
            self.encoder, PyramidEncoderConfig
        )

    def _check_mirrored(self) -> None:
        down = (self.encoder.embedding, *self.encoder.depths)[::-1]
        up = (self.encoder.depths[-1], *self.generator.depths)
        if up != down or self.generator.depths[0] != down[0]:
            raise ValueError(
                f"generator.depths: expected the encoder's upside down, {list(down[1:])}, after a bottleneck of "
                f"{down[0]}, got {list(self.generator.depths)}"
            )


def recipe_from(content: dict[str, Any], where: str = "recipe") -> Recipe:
    """Build a recipe from nested dictionaries.

    Args:
        content: What a TOML file holds.
        where: What to call it in an error.

    Raises:
        ValueError: For an unknown key, a wrong type, or a value out of range; it names the key.

    Example:
        >>> recipe_from({"encoder": {"channel": 10}})
        Traceback (most recent call last):
        ...
        ValueError: recipe: Object contains unknown field `channel` - at `$.encoder`; known there: channels, blocks, \
templates, features
    """
    networks = {
        name: {"kind": "patches"} | table
        for name, table in content.items()
        if name in ("generator", "encoder") and isinstance(table, dict)
    }
    content = content | networks
    try:
        return msgspec.convert(content, Recipe)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}: {error}{_known(str(error), content)}") from None


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a TOML file.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not TOML, or not a recipe.

    Example:
        >>> recipe = load_recipe("models/small/recipe.toml")  # doctest: +SKIP
    """
    return parse_recipe(read_text(path), str(path))


def parse_recipe(text: str, where: str = "recipe") -> Recipe:
    """Read a recipe from a text in TOML.

    Args:
        text: The text.
        where: What to call it in an error.

    Raises:
        ValueError: If it is not TOML, or not a recipe.

    Example:
        >>> parse_recipe('name = "mine"').name
        'mine'
    """
    return recipe_from(parse_toml(text, where), where)


def recipe_to_toml(recipe: Recipe) -> str:
    """Write a recipe out, every value named but those left to be measured.

    Example:
        >>> parse_recipe(recipe_to_toml(Recipe())) == Recipe()
        True
    """
    import tomli_w

    return tomli_w.dumps(_without_none(msgspec.to_builtins(recipe)))


def _without_none(content: dict[str, Any]) -> dict[str, Any]:
    """Drop what is None: TOML has no word for it, and it is the default wherever it may stand."""
    values = {
        name: _without_none(value) if isinstance(value, dict) else value for name, value in content.items()
    }
    return {name: value for name, value in values.items() if value is not None}


def _known(message: str, content: dict[str, Any]) -> str:
    """List the keys that exist where an unknown one was found."""
    if "unknown field" not in message:
        return ""
    kind: Any = Recipe
    for part in message.partition("`$.")[2].rstrip("`").split("."):
        kind = next((f.type for f in msgspec.structs.fields(kind) if f.name == part), kind)
        if get_args(kind):  # one of several kinds of network
            kind = next(k for k in get_args(kind) if k.__struct_config__.tag == content[part]["kind"])
    return f"; known there: {', '.join(f.name for f in msgspec.structs.fields(kind))}"
