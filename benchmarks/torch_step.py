"""One step of training in PyTorch: what :mod:`hiergal.training.svi` compiles, as a user of PyTorch would write it.

Same networks, draw, convolution, likelihood, penalties and optimisers; what hiergal's step can do beyond the
recipes that are compared (masks, augmentation, averages) is refused.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor, nn
from torch_twin import copy_weights, encoder_twin, generator_twin

from hiergal.model.guide import LOG_SCALE_RANGE
from hiergal.model.nets.training_aids import HIGHEST_CEILING
from hiergal.observation import Observation
from hiergal.observation.independent import WhiteNoise
from hiergal.observation.noise import LOG_2PI
from hiergal.observation.stationary import StationaryNoise
from hiergal.recipe.config import AugmentationConfig, ObjectiveConfig, TrainingConfig
from hiergal.recipe.recipe import Recipe

__all__ = ["Adafactor", "Stamps", "TorchStep", "convolve", "stamps_from"]

FACTORED = 128  # smallest side of a matrix that Adafactor factors


class Stamps(NamedTuple):
    """A batch of galaxies: stamps, PSFs, standard deviations [n] or power spectra [n, y, fx] of the noise."""

    image: Tensor
    psf: Tensor
    noise: Tensor

    def __getitem__(self, rows: Tensor) -> "Stamps":
        """Return some of the galaxies."""
        return Stamps(*(part[rows] for part in tuple(self)))


def stamps_from(observation: Observation) -> Stamps:
    """Return observations as tensors.

    Raises:
        ValueError: If they have a mask, or noise that differs from pixel to pixel.
    """
    match observation.noise, observation.mask:
        case WhiteNoise(sigma=noise), None:
            pass
        case StationaryNoise(power=noise), None:
            pass
        case noise, _:
            raise ValueError(f"expected white or stationary noise and no mask, got {type(noise).__name__}")
    return Stamps(*(torch.tensor(np.asarray(a)) for a in (observation.image, observation.psf.stamp, noise)))


class TorchStep:
    """Networks, optimiser and step.

    Args:
        recipe: What is trained, and how.
        population: Galaxies that a batch stands for.
        channels_last: Whether images are ``[n, y, x, channel]`` in memory.
        compiled: Whether networks go through ``torch.compile``.

    Raises:
        ValueError: If the recipe asks for what this step cannot do.
    """

    def __init__(
        self, recipe: Recipe, population: int, *, channels_last: bool = True, compiled: bool = False
    ):
        config = recipe.training
        if (config.augmentation, config.ema_decay, recipe.profile_fwhm_arcsec, recipe.objective.blur) != (
            AugmentationConfig(),
            0,
            0,
            "exact",
        ):
            raise ValueError(
                "expected a recipe without augmentation, average, profile_fwhm_arcsec or modulus"
            )
        self.recipe, self.population = recipe, population
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.encoder = encoder_twin(recipe).to(memory_format=layout)
        self.generator = generator_twin(recipe).to(memory_format=layout)
        if compiled:
            self.encoder.compile()
            self.generator.compile()
        self.parameters = [*self.encoder.parameters(), *self.generator.parameters()]
        self.optimizer = (
            torch.optim.Adam(self.parameters, betas=(0.9, 0.99), fused=True)
            if config.optimizer == "adam"
            else Adafactor(self.parameters, parameter_scale=config.parameter_scale)
        )

    def copy(self, params: Mapping[str, Any]) -> None:
        """Take over parameters of hiergal, by NumPyro's site names."""
        copy_weights(self.encoder, params["encoder$params"])
        copy_weights(self.generator, params["generator$params"])

    def step(self, stamps: Stamps, number: int) -> None:
        """Change the parameters by one step."""
        loss = self.loss(stamps, number)
        (loss / self.population if self.recipe.training.clip_norm else loss).backward()
        self.descend(number)

    def descend(self, number: int) -> None:
        """Change the parameters by their gradients, and forget these."""
        config = self.recipe.training
        if config.clip_norm:
            nn.utils.clip_grad_norm_(self.parameters, config.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = _learning_rate(config, number)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def loss(self, stamps: Stamps, number: int, unit: Tensor | None = None) -> Tensor:
        """Return the negative bound, scaled to the population.

        Args:
            stamps: A batch.
            number: Number of the step, from 0.
            unit: Unit normals that the latents are drawn with [n, d]; default random ones.
        """
        recipe, aids, objective = self.recipe, self.recipe.training_aids, self.recipe.objective
        image, psf, noise = stamps
        outputs = self.encoder(image, psf, _level(noise, image))
        outputs, features = outputs if recipe.has_transverse_connections else (outputs, None)
        z, divergence = _posterior(outputs, recipe.generator.latents, unit)
        if recipe.has_transverse_connections:
            copied = torch.tensor(_copied(number, aids.transverse_steps, len(features)))
            profile, bottleneck, border = self.generator(z, features, copied)
            ceiling = HIGHEST_CEILING ** (1 - min(number / max(aids.bottleneck_steps, 1), 1))
            scale = (ceiling / bottleneck.detach().clamp(min=1e-12)).clamp(max=1.0)
            penalty = aids.bottleneck_weight * scale * bottleneck + aids.border_weight * border
        else:
            profile, penalty = self.generator(z), 0.0
        if objective.total_variation_weight:
            differences = profile.diff(dim=1).abs().sum((1, 2)) + profile.diff(dim=2).abs().sum((1, 2))
            penalty = penalty + objective.total_variation_weight * differences
        fit = _log_likelihood(image - convolve(profile, psf), noise, objective)
        bound = fit - objective.kl_weight * _free_bits(divergence, objective) - penalty
        return -bound.sum() * (self.population / len(image))


class Adafactor(torch.optim.Optimizer):
    """Adafactor without momentum, as optax has it.

    PyTorch's own factors the last two axes, the pixels of a kernel, and always scales by the parameters.
    """

    def __init__(self, parameters: list[nn.Parameter], *, parameter_scale: bool):
        super().__init__(parameters, {"lr": 1e-3})
        self.parameter_scale, self.number = parameter_scale, 0

    @torch.no_grad()
    def step(self) -> None:
        """Change the parameters."""
        self.number += 1
        rest = self.number**-0.8  # one less the decay of the second moments
        for group in self.param_groups:
            for parameter in group["params"]:
                update = self._scaled(parameter, rest)
                size = update.norm() / update.numel() ** 0.5
                rate = group["lr"] / size.clamp(min=1.0)
                if self.parameter_scale:
                    rate = rate * (parameter.norm() / parameter.numel() ** 0.5).clamp(min=1e-3)
                parameter.addcmul_(update, -rate)

    def _scaled(self, parameter: nn.Parameter, rest: float) -> Tensor:
        """The gradient over the root of its second moment."""
        gradient, state = parameter.grad, self.state[parameter]
        squared = gradient.square()
        sides = sorted(range(squared.ndim), key=lambda axis: squared.shape[axis])[-2:]
        if len(sides) < 2 or squared.shape[sides[0]] < FACTORED:
            return gradient / self._averaged(state, "all", squared.add_(1e-30), rest).sqrt()
        of_columns, of_rows = (
            self._averaged(state, axis, squared.mean(axis, keepdim=True).add_(1e-30), rest) for axis in sides
        )
        mean = of_rows.mean(sides[0], keepdim=True)
        return gradient * (of_rows / mean).rsqrt() * of_columns.rsqrt()

    @staticmethod
    def _averaged(state: dict, name: Any, new: Tensor, rest: float) -> Tensor:
        """The moving average of a moment; the first step's is that of the step."""
        state[name] = state[name].lerp_(new, rest) if name in state else new
        return state[name]


def convolve(profile: Tensor, psf: Tensor) -> Tensor:
    """Convolve light profiles with PSFs on the padded grid of :func:`hiergal.observation.psf.convolve`."""
    (ny, nx), (py, px) = profile.shape[-2:], psf.shape[-2:]
    cy, cx = max(py // 2 - (ny - 1), 0), max(px // 2 - (nx - 1), 0)
    psf = psf[..., cy : py - cy, cx : px - cx]
    y, x = psf.shape[-2] // 2, psf.shape[-1] // 2
    grid = (next_fast_len(ny + y, real=True), next_fast_len(nx + x, real=True))
    spectrum = torch.fft.rfft2(profile, s=grid) * torch.fft.rfft2(psf, s=grid)
    return torch.fft.irfft2(spectrum, s=grid)[..., y : y + ny, x : x + nx]


def _posterior(outputs: Tensor, d: int, unit: Tensor | None) -> tuple[Tensor, Tensor]:
    """Draw latents, and return them with the divergence of each, [n, d]."""
    mean, log_scale, below = outputs.split((d, d, outputs.shape[1] - 2 * d), 1)
    log_scale = log_scale.clamp(*LOG_SCALE_RANGE)
    scale, unit = log_scale.exp(), torch.randn_like(mean) if unit is None else unit
    if not below.shape[1]:
        return mean + scale * unit, 0.5 * (mean**2 + scale**2 - 1) - log_scale
    rows, columns = torch.tril_indices(d, d, -1)
    factor = torch.diag_embed(torch.ones_like(mean)).index_put(
        (torch.arange(len(mean))[:, None], rows, columns), below
    )
    factor = scale[..., None] * factor
    z = mean + (factor @ unit[..., None])[..., 0]
    return z, 0.5 * (mean**2 + factor.square().sum(-1) - 1) - log_scale


def _free_bits(divergence: Tensor, objective: ObjectiveConfig) -> Tensor:
    match objective.reduction:
        case "total":
            return divergence.sum(-1).clamp(min=objective.free_bits)
        case "dimension":
            return divergence.clamp(min=objective.free_bits).sum(-1)
        case _:
            return divergence.mean(-1).clamp(min=objective.free_bits)


def _log_likelihood(residual: Tensor, noise: Tensor, objective: ObjectiveConfig) -> Tensor:
    pixels = residual[0].numel()
    if objective.noise != "survey":
        constant = torch.full_like(noise[:, 0, 0] if noise.ndim > 1 else noise, objective.noise_sigma)
        noise = _level(noise, residual) if objective.noise == "pixel" else constant
    if noise.ndim == 1:
        chi_square = residual.square().sum((1, 2)) / noise**2
        log_determinant = 2 * pixels * noise.log()
    else:  # Parseval saves the transform back
        modes = torch.view_as_real(torch.fft.rfft2(residual)).square().sum(-1)
        weight = _mode_weight(residual)
        chi_square = (modes / noise * (weight / pixels)).sum((1, 2))
        log_determinant = (weight * noise.log()).sum((1, 2))
    if objective.misfit_as_noise:
        scale_squared = (chi_square / pixels).clamp(min=1.0)
        chi_square, log_determinant = (
            chi_square / scale_squared,
            log_determinant + pixels * scale_squared.log(),
        )
    return -0.5 * (chi_square + log_determinant + pixels * LOG_2PI)


def _level(noise: Tensor, image: Tensor) -> Tensor:
    if noise.ndim == 1:
        return noise
    return ((_mode_weight(image) * noise).sum((1, 2)) / image[0].numel()).sqrt()


def _mode_weight(image: Tensor) -> Tensor:
    """Number of modes of the full plane for each column of the half plane."""
    width = image.shape[-1]
    weight = torch.full((width // 2 + 1,), 2.0, device=image.device)
    weight[0] = 1.0
    if width % 2 == 0:
        weight[-1] = 1.0
    return weight


def _copied(number: int, steps: int, levels: int) -> list[float]:
    return [max(0.0, 1 - number / (steps * 2**level)) if steps else 0.0 for level in range(levels)]


def _learning_rate(config: TrainingConfig, number: int) -> float:
    """The schedules of :func:`hiergal.runtime.optimizer.learning_rate_at`."""
    peak, rising = config.learning_rate, max(1, round(config.warmup * config.steps))
    if config.schedule == "rsqrt":
        return peak * min((number + 1) / rising, 1.0) * (rising / max(number + 1, rising)) ** 0.5
    if number < rising:
        return peak * (1 / 20 + (1 - 1 / 20) * number / rising)
    done = min((number - rising) / max(max(config.steps, rising + 1) - rising, 1), 1.0)
    return peak * (1 / 50 + (1 - 1 / 50) * 0.5 * (1 + np.cos(np.pi * done)))
