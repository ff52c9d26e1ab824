"""Configurations: every table of a recipe as data, with its bounds; nothing here computes."""

from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import msgspec
import numpy as np
from jaxtyping import Float
from msgspec import Meta

from hiergal.recipe.limits import Blocks, Count, Fraction, NotNegative, Positive, Width, WidthsOfStages
from hiergal.recipe.network_kinds import EncoderArchitecture, GeneratorArchitecture

__all__ = [
    "TrainingAidsConfig",
    "AugmentationConfig",
    "Blur",
    "Covariance",
    "EncoderConfig",
    "FlowConfig",
    "GeneratorConfig",
    "NoiseChoice",
    "ObjectiveConfig",
    "PyramidEncoderConfig",
    "PyramidGeneratorConfig",
    "TrainingConfig",
]

Covariance = (
    Literal["full", "diagonal"] | Annotated[int, Meta(ge=2, le=1024)]
)  # so many first latents: correlated
NoiseChoice = Literal["survey", "pixel", "constant"]
Blur = Literal["exact", "modulus"]


class GeneratorConfig(
    GeneratorArchitecture,
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="sersic_residual",
):
    """Architecture of the generator.

    Attributes:
        latents: Number of latents; at least 7, which start as the parameters of the ellipse.
        channels: Channels at a quarter of the resolution; twice as many at an eighth.
        blocks: Residual blocks at each of the two resolutions.
        log_flux_mean: Mean of log(flux) over the training survey, the offset of the flux; None to measure it.
        log_flux_spread: Standard deviation of log(flux) over the training survey; None to measure it.
    """

    latents: Width = 16
    channels: Width = 32
    blocks: Blocks = 1
    log_flux_mean: Annotated[float, Meta(ge=-100, le=100)] | None = None
    log_flux_spread: Annotated[float, Meta(gt=0, le=100)] | None = None

    @property
    def resolution_unit(self) -> int:
        """Pixels that a stamp's side must be a multiple of."""
        return 8

    def problems(self) -> Iterator[str]:
        """Yield a sentence if there are fewer latents than the ellipse has parameters."""
        if self.latents < 7:
            yield f"latents: expected at least 7, got {self.latents}"

    def measure_flux(self, log_flux: Callable[[], Float[np.ndarray, "n"]]) -> "GeneratorConfig":
        """Return it with the flux scale of the training galaxies, where it names none."""
        if self.log_flux_mean is not None and self.log_flux_spread is not None:
            return self
        measured = log_flux()
        mean, spread = self.log_flux_mean, self.log_flux_spread
        return msgspec.structs.replace(
            self,
            log_flux_mean=float(measured.mean()) if mean is None else mean,
            log_flux_spread=float(measured.std()) if spread is None else spread,
        )


class EncoderConfig(
    EncoderArchitecture,
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="sersic_residual",
):
    """Architecture of the encoder.

    Attributes:
        channels: Channels at a quarter of the resolution; twice as many at an eighth.
        blocks: Residual blocks at each of the two resolutions.
        templates: Number of learned linear templates.
        features: Width of the dense layers at the end.
    """

    channels: Width = 32
    blocks: Blocks = 1
    templates: Width = 64
    features: Width = 128

    @property
    def resolution_unit(self) -> int:
        """Pixels that a stamp's side must be a multiple of."""
        return 8


class PyramidGeneratorConfig(
    GeneratorArchitecture,
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="lanusse2020",
):
    """Architecture of the paper's generator.

    Attributes:
        latents: Number of latents.
        depths: Channels of each stage, from the bottleneck up; each stage doubles the resolution.
        dropout: Fraction of a residual block's output that is left out in training.
        taper_pix: Width of the edge on which a Tukey window dims the profile [pixels]; 0 for none.
    """

    latents: Width = 16
    depths: WidthsOfStages = (512, 512, 256, 128, 64, 32, 16)
    dropout: Fraction = 0.1
    taper_pix: Annotated[int, Meta(ge=0, le=2048)] = 8

    @property
    def resolution_unit(self) -> int:
        """Pixels that a stamp's side must be a multiple of."""
        return 2 ** len(self.depths)

    @property
    def transverse_channels(self) -> tuple[int, ...]:
        """Channels of the maps of each level, full resolution and bottleneck included."""
        return (*self.depths[::-1], self.depths[0])


class PyramidEncoderConfig(
    EncoderArchitecture,
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="lanusse2020",
):
    """Architecture of the paper's encoder.

    Attributes:
        embedding: Channels of the embedding of the image; the generator's last depth.
        psf_embedding: Channels of the embedding of the PSF.
        depths: Channels of each stage, from the image down; each stage halves the resolution.
        dropout: Fraction of a residual block's output that is left out in training.
    """

    embedding: Width = 16
    psf_embedding: Width = 4
    depths: WidthsOfStages = (32, 64, 128, 256, 512, 512, 512)
    dropout: Fraction = 0.1

    @property
    def resolution_unit(self) -> int:
        """Pixels that a stamp's side must be a multiple of."""
        return 2 ** len(self.depths)

    @property
    def transverse_channels(self) -> tuple[int, ...]:
        """Channels of the features of each level, full resolution and bottleneck included."""
        return (self.embedding, *self.depths)


class AugmentationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Augmentation of the galaxies of a step; none by default.

    Attributes:
        symmetries: Whether to mirror stamps, and to turn those that are square by right angles, at random.
        shift_pix: Largest shift along each axis [pixels].
    """

    symmetries: bool = False
    shift_pix: Annotated[float, Meta(ge=0, le=64)] = 0.0


class TrainingAidsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Training aids; none by default.

    Attributes:
        transverse_steps: Steps until no map is copied any more at full resolution; each level below takes twice as
            many as the one above it. 0 copies nothing.
        bottleneck_weight: Weight of the mean squared difference between the two sides of the bottleneck.
        bottleneck_steps: Steps over which the ceiling of that penalty falls from 1000 to 1, exponentially.
        border_weight: Weight of the light that the taper takes off the edge [nats per unit of flux].
    """

    transverse_steps: Annotated[int, Meta(ge=0, le=10**9)] = 0
    bottleneck_weight: NotNegative = 0.0
    bottleneck_steps: Count = 32_000
    border_weight: NotNegative = 0.0


Name = Annotated[str, Meta(min_length=1, max_length=200)]


class ObjectiveConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Objective of the training (Lanusse et al. 2020, Eq. 10, Table 1).

    Attributes:
        free_bits: The lambda of Eq. (10) [nats].
        reduction: What lambda bounds: see :class:`hiergal.training.elbo.FreeBitsELBO`.
        total_variation_weight: Weight of the total variation of the profile.
        misfit_as_noise: Whether misfit counts as noise in training: see :class:`hiergal.model.likelihood.NoisyImage`.
        kl_weight: Factor on the divergence, free bits included.
        kl_warmup: Fraction of the steps over which that factor rises from a tenth, linearly: latents that few galaxies
            need, such as those of knots, are given up in the first steps without.
        noise: Which noise the likelihood takes: see :func:`hiergal.model.likelihood.choose_noise`.
        noise_sigma: Standard deviation of ``constant`` noise [flux per pixel].
        blur: ``exact``, or ``modulus``: see :func:`hiergal.observation.psf.convolve_by_modulus`.
    """

    free_bits: NotNegative = 4.0
    reduction: Literal["total", "dimension", "mean"] = "total"
    total_variation_weight: NotNegative = 0.01
    misfit_as_noise: bool = True
    kl_weight: Positive = 1.0
    kl_warmup: Fraction = 0.0
    noise: NoiseChoice = "survey"
    noise_sigma: Positive = 0.03
    blur: Blur = "exact"


class TrainingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Optimisation of the model and its guide.

    Attributes:
        steps: Number of optimiser steps.
        batch: Galaxies in a step.
        gradient_accumulation: Parts of a batch whose gradients are computed one after the other, and averaged: the
            larger, the less memory a step takes.
        learning_rate: Peak of the schedule, at the end of a linear warm-up.
        warmup: Fraction of the steps spent warming up.
        schedule: What follows: a ``cosine`` to nearly zero, or ``rsqrt``, one over the square root of the step.
        optimizer: ``adam`` (beta2 0.99), or ``adafactor`` (Shazeer & Stern 2018: factored, without momentum).
        parameter_scale: Whether Adafactor's steps are in units of the size of each array.
        clip_norm: Largest norm of the gradient of the bound per galaxy; 0 for no limit.
        ema_decay: Decay of the exponential moving average of the parameters that is evaluated and kept; 0 for none.
        flux_sampling_power: Power of the flux with which a galaxy is drawn into a batch, relative to the faintest; 0
            for all alike. The flow is fitted to every galaxy once, so the population stays the survey's. Use it with
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
    gradient_accumulation: Count = 1
    learning_rate: Positive = 2e-3
    warmup: Annotated[float, Meta(ge=0, le=1)] = 0.08
    schedule: Literal["cosine", "rsqrt"] = "cosine"
    optimizer: Literal["adam", "adafactor"] = "adam"
    parameter_scale: bool = True
    clip_norm: NotNegative = 0.0
    ema_decay: Fraction = 0.0
    flux_sampling_power: NotNegative = 0.0
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
        cell_layers: Number of layers over the cells of generators that have local latents.
        cell_blocks: Blocks of the transformer in each.
        cell_features: Its width, a multiple of 4.
        steps: Number of optimiser steps.
        batch: Galaxies in a step.
        learning_rate: Peak of the schedule.
        warmup: Fraction of the steps spent warming up.
        schedule: What follows: a ``cosine`` to nearly zero, or ``rsqrt``, one over the square root of the step.
        betas: Decays of the moments of Adam.
        fit_to: What is learnt: ``samples`` of the posteriors, or their ``means`` alone.
        draws: Posterior samples of each galaxy to learn from.
        permutations: Between layers, ``alternate`` reversals and shuffles, or fixed shuffles alone (``shuffle``).
        log_scale_clamp: How the logarithm of a scale is kept in [-3, 3]: ``smooth`` (a tanh), or ``hard``.
        compared_at: Whose conditions drawn galaxies are compared with the survey's at: those of ``test`` galaxies, or
            of ``train`` galaxies, as the paper's code did.
    """

    conditions: Annotated[tuple[Name, ...], Meta(max_length=64)] = ("mag_auto", "flux_radius", "zphot")
    layers: Blocks = 5
    hidden: Width = 64
    cell_layers: Blocks = 2
    cell_blocks: Blocks = 2
    cell_features: Annotated[int, Meta(ge=4, le=4096, multiple_of=4)] = 48
    steps: Count = 1000
    batch: Count = 512
    learning_rate: Positive = 2e-3
    warmup: Annotated[float, Meta(ge=0, le=1)] = 0.0
    schedule: Literal["cosine", "rsqrt"] = "cosine"
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    fit_to: Literal["samples", "means"] = "samples"
    draws: Count = 16
    permutations: Literal["alternate", "shuffle"] = "alternate"
    log_scale_clamp: Literal["smooth", "hard"] = "smooth"
    compared_at: Literal["test", "train"] = "test"
