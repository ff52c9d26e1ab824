"""Recipes: everything that a person decides about a model, in one frozen, typed, strict record.

A recipe is a TOML file; what it does not name keeps its default, and what it misspells is an error. The defaults are
the recipe ``small``: a model of 64x64 stamps that trains in minutes on two cores.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from hiergal.aids import AidsConfig
from hiergal.augment import AugmentationConfig
from hiergal.guide import Covariance
from hiergal.nets import EncoderConfig, GeneratorConfig, PyramidEncoderConfig, PyramidGeneratorConfig
from hiergal.nets.limits import Blocks, Count, Fraction, NotNegative, Positive, Side, Width
from hiergal.noise import NoiseChoice
from hiergal.psf import Blur
from hiergal.runtime.texts import parse_toml, read_text

__all__ = [
    "FlowConfig",
    "ObjectiveConfig",
    "Recipe",
    "TrainingConfig",
    "load_recipe",
    "parse_recipe",
    "recipe_from",
    "recipe_to_toml",
]

Name = Annotated[str, Meta(min_length=1, max_length=200)]
LARGEST_NETWORKS = 2**31  # parameters of all networks of a recipe


class ObjectiveConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What training maximises (Lanusse et al. 2020, Eq. 10, Table 1).

    Attributes:
        free_bits: The lambda of Eq. (10) [nats].
        reduction: What lambda bounds: see :class:`hiergal.elbo.FreeBitsELBO`.
        total_variation_weight: Weight of the total variation of the profile.
        inflate: Whether misfit counts as noise in training: see :class:`hiergal.noise.NoisyImage`.
        divergence_weight: Factor on the divergence, free bits included.
        noise: Which noise the likelihood takes: see :func:`hiergal.noise.chosen_noise`.
        noise_sigma: Standard deviation of ``constant`` noise [flux per pixel].
        blur: ``exact``, or ``modulus``: see :func:`hiergal.psf.convolve_by_modulus`.
    """

    free_bits: NotNegative = 4.0
    reduction: Literal["total", "dimension", "mean"] = "total"
    total_variation_weight: NotNegative = 0.01
    inflate: bool = True
    divergence_weight: Positive = 1.0
    noise: NoiseChoice = "survey"
    noise_sigma: Positive = 0.03
    blur: Blur = "exact"


class TrainingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the model and its guide are fitted.

    Attributes:
        steps: Number of optimiser steps.
        batch: Galaxies in a step.
        accumulate: Parts of a batch whose gradients are computed one after the other, and averaged: the larger, the
            less memory a step takes.
        learning_rate: Peak of the schedule, at the end of a linear warm-up.
        warmup: Fraction of the steps spent warming up.
        schedule: What follows: a ``cosine`` to nearly zero, or ``rsqrt``, one over the square root of the step.
        optimizer: ``adam`` (beta2 0.99), or ``adafactor`` (Shazeer & Stern 2018: factored, without momentum).
        parameter_scale: Whether Adafactor's steps are in units of the size of each array.
        clip_norm: Largest norm of the gradient of the bound per galaxy; 0 for no limit.
        average: Decay of the exponential moving average of the parameters that is evaluated and kept; 0 for none.
        favour_bright: Power of the flux with which a galaxy is drawn into a batch, relative to the faintest; 0 for all
            alike. The flow is fitted to every galaxy once, so the population stays the survey's. Use it with
            augmentation: bright galaxies are few, and those seen often are learned by heart.
        augmentation: How the galaxies of a step are varied.
        precision: What the networks compute in; parameters and likelihood stay float32.
        evaluate_every: Steps between evaluations on the validation galaxies, and between checkpoints.
        patience: Evaluations without a better bound before training stops early.
        validation_fraction: Part of the survey's galaxies that the fit is watched with.
        test_fraction: Part that nothing is chosen by: the last ones of the survey.
    """

    steps: Count = 1150
    batch: Count = 32
    accumulate: Count = 1
    learning_rate: Positive = 2e-3
    warmup: Annotated[float, Meta(ge=0, le=1)] = 0.08
    schedule: Literal["cosine", "rsqrt"] = "cosine"
    optimizer: Literal["adam", "adafactor"] = "adam"
    parameter_scale: bool = True
    clip_norm: NotNegative = 0.0
    average: Fraction = 0.0
    favour_bright: NotNegative = 0.0
    augmentation: AugmentationConfig = AugmentationConfig()
    precision: Literal["float32", "bfloat16"] = "float32"
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
        warmup: Fraction of the steps spent warming up.
        schedule: What follows: a ``cosine`` to nearly zero, or ``rsqrt``, one over the square root of the step.
        betas: Decays of the moments of Adam.
        target: What is learnt: ``samples`` of the posteriors, or their ``means`` alone.
        draws: Posterior samples of each galaxy to learn from.
        permutations: Between layers, ``alternate`` reversals and shuffles, or fixed shuffles alone (``shuffle``).
        limit: How the logarithm of a scale is kept in [-3, 3]: ``smooth`` (a tanh), or ``hard``.
        compared_at: Whose conditions drawn galaxies are compared with the survey's at: those of ``test`` galaxies, or
            of ``train`` galaxies, as the paper's code did.
    """

    conditions: Annotated[tuple[Name, ...], Meta(max_length=64)] = ("mag_auto", "flux_radius", "zphot")
    layers: Blocks = 5
    hidden: Width = 64
    steps: Count = 1000
    batch: Count = 512
    learning_rate: Positive = 2e-3
    warmup: Annotated[float, Meta(ge=0, le=1)] = 0.0
    schedule: Literal["cosine", "rsqrt"] = "cosine"
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    target: Literal["samples", "means"] = "samples"
    draws: Count = 16
    permutations: Literal["alternate", "shuffle"] = "alternate"
    limit: Literal["smooth", "hard"] = "smooth"
    compared_at: Literal["test", "train"] = "test"


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
