"""Recipes: everything that a person decides about a model, in one frozen, typed, strict record.

A recipe is a TOML file; what it does not name keeps its default, and what it misspells is an error. The defaults are
the recipe ``small``: a model of 64x64 stamps that trains in minutes on two cores.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from hiergal.guide import Covariance
from hiergal.nets import EncoderConfig, GeneratorConfig

__all__ = [
    "FlowConfig",
    "ObjectiveConfig",
    "Recipe",
    "TrainingConfig",
    "load_recipe",
    "recipe_from",
    "recipe_to_toml",
]

Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]


class ObjectiveConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What training maximises (Lanusse et al. 2020, Eq. 10, Table 1).

    Attributes:
        free_bits: The lambda of Eq. (10) [nats].
        reduction: What lambda bounds: see :class:`hiergal.elbo.FreeBitsELBO`.
        total_variation_weight: Weight of the total variation of the profile.
        inflate: Whether misfit counts as noise in training: see :class:`hiergal.noise.NoisyImage`.
    """

    free_bits: NotNegative = 4.0
    reduction: Literal["total", "dimension", "mean"] = "total"
    total_variation_weight: NotNegative = 0.01
    inflate: bool = True


class TrainingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the model and its guide are fitted.

    Attributes:
        steps: Number of optimiser steps.
        batch: Galaxies in a step.
        learning_rate: Peak of the schedule: linear warm-up, then a cosine to nearly zero.
        warmup: Fraction of the steps spent warming up.
        evaluate_every: Steps between evaluations on the validation galaxies, and between checkpoints.
        patience: Evaluations without a better bound before training stops early.
        validation_fraction: Part of the survey's galaxies that the fit is watched with.
        test_fraction: Part that nothing is chosen by: the last ones of the survey.
    """

    steps: Count = 1150
    batch: Count = 32
    learning_rate: Positive = 2e-3
    warmup: Annotated[float, Meta(ge=0, le=1)] = 0.08
    evaluate_every: Count = 100
    patience: Count = 8
    validation_fraction: Annotated[float, Meta(gt=0, lt=0.5)] = 0.05
    test_fraction: Annotated[float, Meta(ge=0, lt=0.5)] = 0.125


class FlowConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The conditional flow over the latents, and how it is fitted (Sec. 4.2.2).

    Attributes:
        conditions: Columns of the catalogue that drawing is conditioned on.
        layers: Number of autoregressive layers.
        hidden: Width of the two hidden layers of each.
        steps: Number of optimiser steps.
        batch: Galaxies in a step.
        learning_rate: Peak of the schedule.
        draws: Posterior samples of each galaxy to learn from.
    """

    conditions: tuple[str, ...] = ("mag_auto", "flux_radius", "zphot")
    layers: Count = 5
    hidden: Count = 64
    steps: Count = 1000
    batch: Count = 512
    learning_rate: Positive = 2e-3
    draws: Count = 16


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole model: its networks, its objective, its training.

    Attributes:
        name: What to call it.
        shape: (ny, nx) of the stamps that it models, multiples of 8.
        pixel_scale_arcsec: Width of their pixels [arcsec].
        covariance: Structure of the guide's posterior.
        generator: Architecture of g.
        encoder: Architecture of the guide's network.
        objective: What training maximises.
        training: How.
        flow: The distribution of the latents.
    """

    name: str = "small"
    shape: tuple[Count, Count] = (64, 64)
    pixel_scale_arcsec: Positive = 0.03
    covariance: Covariance = "full"
    generator: GeneratorConfig = GeneratorConfig()
    encoder: EncoderConfig = EncoderConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    training: TrainingConfig = TrainingConfig()
    flow: FlowConfig = FlowConfig()

    def __post_init__(self) -> None:
        """Check what types alone do not say."""
        if any(side % 8 for side in self.shape):
            raise ValueError(f"shape: expected multiples of 8 pixels, got {self.shape}")
        if self.generator.latents < 7:
            raise ValueError(f"generator.latents: expected at least 7, got {self.generator.latents}")


def recipe_from(content: dict[str, Any], where: str = "recipe") -> Recipe:
    """Build a recipe from nested dictionaries.

    Args:
        content: What a TOML file holds.
        where: What to call it in an error.

    Raises:
        ValueError: For an unknown key, a wrong type, or a value out of range; it names the key.

    Example:
        >>> recipe_from({"training": {"step": 10}})
        Traceback (most recent call last):
        ...
        ValueError: recipe: Object contains unknown field `step` - at `$.training`; known there: steps, batch, \
learning_rate, warmup, evaluate_every, patience, validation_fraction, test_fraction
    """
    try:
        return msgspec.convert(content, Recipe)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}: {error}{_known(str(error))}") from None


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a TOML file.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not TOML, or not a recipe.

    Example:
        >>> recipe = load_recipe("models/small/recipe.toml")  # doctest: +SKIP
    """
    text = Path(path).read_text(encoding="utf-8")
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: expected a TOML file: {error}") from None
    return recipe_from(content, str(path))


def recipe_to_toml(recipe: Recipe) -> str:
    """Write a recipe out, every value named but those left to be measured.

    Example:
        >>> recipe_from(tomllib.loads(recipe_to_toml(Recipe()))) == Recipe()
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


def _known(message: str) -> str:
    """List the keys that exist where an unknown one was found."""
    if "unknown field" not in message:
        return ""
    kind: Any = Recipe
    for part in message.partition("`$.")[2].rstrip("`").split("."):
        kind = next((f.type for f in msgspec.structs.fields(kind) if f.name == part), kind)
    return f"; known there: {', '.join(f.name for f in msgspec.structs.fields(kind))}"
