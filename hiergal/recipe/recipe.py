"""Recipes: all settings of a model, in one frozen, typed, strict record.

A recipe is a TOML file; what it does not name keeps its default, and what it misspells is an error. The defaults are
the recipe ``small``: a model of 64x64 stamps that trains in minutes on two cores.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec
from msgspec import Meta

from hiergal.recipe.config import (
    Covariance,
    EncoderConfig,
    FlowConfig,
    GeneratorConfig,
    Name,
    ObjectiveConfig,
    TrainingAidsConfig,
    TrainingConfig,
)
from hiergal.recipe.framed_config import FramedEncoderConfig, FramedGeneratorConfig
from hiergal.recipe.limits import Side
from hiergal.recipe.names import find_recipe, packaged_recipes
from hiergal.recipe.network_kinds import (
    EncoderArchitecture,
    GeneratorArchitecture,
    NetworkArchitecture,
    kind_of,
    kinds_of,
)
from hiergal.recipe.old_names import with_new_names
from hiergal.runtime.texts import parse_toml, read_text

__all__ = [
    "Recipe",
    "load_recipe",
    "network_modules",
    "parse_recipe",
    "recipe_from",
    "recipe_to_toml",
]

FURTHER_KINDS = FramedGeneratorConfig, FramedEncoderConfig  # that a recipe may name once they are imported
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
        covariance: Structure of the guide's posterior: ``full``, ``diagonal``, or a number: so many first latents are
            correlated, the others not.
        generator: Architecture of g.
        encoder: Architecture of the guide's network.
        objective: What training maximises.
        training_aids: What helps a deep generator through its first steps.
        training: How.
        flow: The distribution of the latents.
        posterior_flow: The shape of posteriors; what it is conditioned on follows from the number of latents.

    Example:
        >>> Recipe(name="mine", shape=(32, 32)).shape
        (32, 32)
    """

    name: Name = "small"
    shape: tuple[Side, Side] = (64, 64)
    pixel_scale_arcsec: Annotated[float, Meta(gt=0, le=1e4)] = 0.03
    profile_fwhm_arcsec: Annotated[float, Meta(ge=0, le=1e4)] = 0.0
    covariance: Covariance = "full"
    generator: GeneratorArchitecture = GeneratorConfig()
    encoder: EncoderArchitecture = EncoderConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    training_aids: TrainingAidsConfig = TrainingAidsConfig()
    training: TrainingConfig = TrainingConfig()
    flow: FlowConfig = FlowConfig()
    posterior_flow: FlowConfig = FlowConfig(
        conditions=(), layers=2, hidden=32, steps=600, batch=256, learning_rate=1e-3
    )

    def __post_init__(self) -> None:
        """Check what types alone do not say."""
        networks = {"generator": self.generator, "encoder": self.encoder}
        unit = math.lcm(*(network.resolution_unit for network in networks.values()))
        if any(side % unit for side in self.shape):
            raise ValueError(f"shape: expected multiples of {unit} pixels, got {self.shape}")
        for name, network in networks.items():
            for problem in network.problems():
                raise ValueError(f"{name}.{problem}")
        for problem in self.encoder.problems_with(self.generator):
            raise ValueError(f"encoder.{problem}")
        if isinstance(self.covariance, int) and self.covariance > self.generator.latents:
            raise ValueError(
                f"covariance: expected at most the number of latents, {self.generator.latents}, got {self.covariance}"
            )
        down, up = self.encoder.transverse_channels, self.generator.transverse_channels
        if self.has_transverse_connections and up != down:
            raise ValueError(
                f"generator: expected the channels of the encoder at each level, {list(down)} from the full resolution "
                f"to the bottleneck, got {list(up)}; give it the depths of the encoder in reverse order"
            )
        if not self.has_transverse_connections and self.training_aids != TrainingAidsConfig():
            raise ValueError(
                "training_aids: expected none unless generator and encoder have transverse connections "
                "(kind lanusse2020)"
            )

    @property
    def has_transverse_connections(self) -> bool:
        """Whether both networks have the transverse connections of the paper, and training its aids."""
        return bool(self.generator.transverse_channels and self.encoder.transverse_channels)


def recipe_from(
    content: dict[str, Any],
    where: str = "recipe",
    modules: Mapping[str, str] | None = None,
    *,
    warn: bool = True,
) -> Recipe:
    """Build a recipe from nested dictionaries.

    Args:
        content: What a TOML file holds.
        where: What to call it in an error.
        modules: Modules that define the networks, as :func:`network_modules` returns them, to be named in an error.
        warn: Whether to warn of names of earlier versions (:mod:`hiergal.recipe.old_names`).

    Raises:
        ValueError: For an unknown key, a wrong type, or a value out of range; it names the key. For a kind of network
            that has not been defined; it names the module to import.

    Example:
        >>> recipe_from({"encoder": {"channel": 10}})
        Traceback (most recent call last):
        ...
        ValueError: recipe: Object contains unknown field `channel` - at `$.encoder`; known there: channels, blocks, \
templates, features
    """
    content = with_new_names(content, where, warn=warn)
    for name, base in {"generator": GeneratorArchitecture, "encoder": EncoderArchitecture}.items():
        if isinstance(content.get(name), dict):
            module = (modules or {}).get(name, "the module that defines it")
            content[name] = _network_from(content[name], name, base, where, module)
    try:
        return msgspec.convert(content, Recipe)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}: {error}{_known(str(error), Recipe)}") from None


def _network_from(
    table: dict[str, Any], name: str, base: type[NetworkArchitecture], where: str, module: str
) -> NetworkArchitecture:
    """Build the architecture of a network, of any kind that has been defined."""
    kinds = kinds_of(base)
    kind = table.get("kind", kind_of(getattr(Recipe(), name)))
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(
            f"{where}: {name}.kind: expected {' or '.join(sorted(kinds))}, got {kind!r}; import {module} first"
        )
    try:
        return msgspec.convert({"kind": kind} | table, cast(Any, kinds[kind]))
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        message = f"{message} - at `$.{name}{place or '`'}"
        raise ValueError(f"{where}: {message}{_known(message, kinds[kind])}") from None


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Args:
        path: A TOML file, or the name of a recipe that came with the package (``hiergal models recipes``).

    Raises:
        OSError: If the file cannot be read, or there is no recipe of that name.
        ValueError: If it is not TOML, or not a recipe.

    Example:
        >>> load_recipe("standard").generator.channels
        48
    """
    found = find_recipe(path)
    packaged = found in packaged_recipes().values()  # no one can rewrite those of a published model
    return parse_recipe(read_text(found), str(found), warn=not packaged)


def parse_recipe(
    text: str, where: str = "recipe", modules: Mapping[str, str] | None = None, *, warn: bool = True
) -> Recipe:
    """Read a recipe from a text in TOML.

    Args:
        text: The text.
        where: What to call it in an error.
        modules: As for :func:`recipe_from`.
        warn: As for :func:`recipe_from`.

    Raises:
        ValueError: If it is not TOML, or not a recipe.

    Example:
        >>> parse_recipe('name = "mine"').name
        'mine'
    """
    return recipe_from(parse_toml(text, where), where, modules, warn=warn)


def network_modules(recipe: Recipe) -> dict[str, str]:
    """Return the modules that have to be imported before the recipe is read: of networks from outside the package.

    Example:
        >>> network_modules(Recipe())
        {}
    """
    modules = {name: type(getattr(recipe, name)).__module__ for name in ("generator", "encoder")}
    return {name: module for name, module in modules.items() if module.partition(".")[0] != "hiergal"}


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


def _known(message: str, kind: Any) -> str:
    """List the keys that exist where an unknown one was found, in a struct or inside of it."""
    if "unknown field" not in message:
        return ""
    for part in message.partition("`$.")[2].rstrip("`").split("."):
        kind = next((f.type for f in msgspec.structs.fields(kind) if f.name == part), kind)
    return f"; known there: {', '.join(f.name for f in msgspec.structs.fields(kind))}"
