"""The networks of hiergal a second time, in PyTorch: what the benchmarks compare with, and the tests too.

Layers are PyTorch's own, as its users would write them: strided and transposed convolutions, grouped ones for
each channel, layer norm over channels, pixel shuffles. Images are ``[n, channel, y, x]``, in either memory
format; stamps are ``[n, y, x]``. :func:`copy_weights` brings the parameters of hiergal's networks over, after
which both give the same numbers.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiergal.model.guide import output_count
from hiergal.model.nets.encoder import APERTURES_PIX, PSF_WINDOW_PIX
from hiergal.model.nets.generator import CORE_PIX, ELLIPSE, ellipse_limits
from hiergal.model.nets.lanusse2020 import tukey_taper
from hiergal.model.nets.layers import PATCH_KERNEL
from hiergal.recipe.recipe import Recipe

__all__ = [
    "WithPenalties",
    "Encoder",
    "Generator",
    "PyramidEncoder",
    "PyramidGenerator",
    "copy_weights",
    "encoder_twin",
    "generator_twin",
    "parameter_count",
]

EPSILON = 1e-6  # of Flax's layer norm


def encoder_twin(recipe: Recipe) -> "Encoder | PyramidEncoder":
    """Return the encoder that a recipe describes."""
    kind = PyramidEncoder if recipe.encoder.__struct_config__.tag == "lanusse2020" else Encoder
    return kind(recipe.encoder, output_count(recipe.generator.latents, recipe.covariance), recipe.shape)


def generator_twin(recipe: Recipe) -> "Generator | PyramidGenerator":
    """Return the generator that a recipe describes."""
    kind = PyramidGenerator if recipe.generator.__struct_config__.tag == "lanusse2020" else Generator
    return kind(recipe.generator, recipe.shape)


def parameter_count(network: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


@torch.no_grad()
def copy_weights(network: nn.Module, params: Mapping[str, Any]) -> None:
    """Copy the parameters of one of hiergal's networks into its twin.

    Args:
        network: The twin.
        params: Flax's parameters, or anything of that shape: gradients, for example.
    """
    match network:
        case nn.Linear():
            network.weight.copy_(_tensor(params["kernel"]).T)
        case nn.LayerNorm():
            network.weight.copy_(_tensor(params["scale"]))
        case nn.ConvTranspose2d():
            network.weight.copy_(_tensor(params["kernel"]).permute(2, 3, 0, 1))
        case nn.Conv2d(groups=1):
            size, outputs = network.kernel_size, network.out_channels
            kernel = _tensor(params["kernel"]).reshape(*size, network.in_channels, outputs)
            network.weight.copy_(_shuffled(kernel.permute(3, 2, 0, 1), network))
        case nn.Conv2d():
            network.weight.copy_(_tensor(params["kernel"]).permute(2, 0, 1)[:, None])
        case nn.ModuleList():
            raise TypeError("expected one network, got a list of them")
        case _:
            names = getattr(network, "flax_names", {})
            for own, part in network.named_children():
                name = names.get(own, own)
                if isinstance(part, nn.ModuleList):
                    for i, one in enumerate(part):
                        copy_weights(one, params[f"{name}_{i}"])
                elif any(True for _ in part.parameters()):
                    copy_weights(part, params[name] if name else params)
            return
    if network.bias is not None:
        network.bias.copy_(_shuffled(_tensor(params["bias"]), network))


class PixelShuffleConv(nn.Conv2d):
    """A dense layer of each pixel whose outputs become a patch of pixels."""

    def __init__(self, channels: int, outputs: int, block: int):
        super().__init__(channels, outputs, 1)
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Return the image at ``block`` times the resolution."""
        return F.pixel_shuffle(super().forward(x), self.block)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised image in the memory format that it came in."""
        if x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        variance, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
        scale = self.weight[:, None, None] * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias[:, None, None], x - mean, scale)


class ResidualBlock(nn.Module):
    """The block of the small networks: two 3x3 convolutions around a skip connection."""

    flax_names = {"norm": "LayerNorm_0", "first": "Conv_0", "second": "Conv_1"}

    def __init__(self, channels: int):
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus a correction."""
        return x + self.second(_gelu(self.first(_gelu(self.norm(x)))))


class SeparableConv(nn.Sequential):
    """A 3x3 convolution of each channel, then a mixture of the channels of each pixel."""

    flax_names = {"0": "", "1": "Dense_0"}

    def __init__(self, channels: int, outputs: int):
        each = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        super().__init__(each, nn.Conv2d(channels, outputs, 1))


class SeparableBlock(nn.Module):
    """The block of the paper's networks: two separable convolutions around a skip connection."""

    flax_names = {
        "norm_1": "LayerNorm_0",
        "first": "SeparableConv_0",
        "norm_2": "LayerNorm_1",
        "second": "SeparableConv_1",
    }

    def __init__(self, channels: int, dropout: float):
        super().__init__()
        self.norm_1, self.first = ChannelNorm(channels), SeparableConv(channels, 2 * channels)
        self.norm_2, self.second = ChannelNorm(2 * channels), SeparableConv(2 * channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus a correction."""
        h = self.first(F.relu(self.norm_1(x)))
        return x + self.dropout(self.second(F.relu(self.norm_2(h))))


class Encoder(nn.Module):
    """Twin of :class:`hiergal.model.nets.Encoder`."""

    flax_names = {
        "templates": "Dense_0",
        "psf": "Dense_1",
        "quarter": "Dense_2",
        "eighth": "Dense_3",
        "flat": "Dense_4",
        "first": "Dense_5",
        "second": "Dense_6",
        "posterior": "Dense_7",
        "blocks": "ResidualBlock",
    }

    def __init__(self, config, outputs: int, shape: tuple[int, int]):
        super().__init__()
        (ny, nx), channels, features = shape, config.channels, config.features
        self.split = config.blocks
        numbers = 6 * len(APERTURES_PIX) + config.templates + 2 + features // 4
        self.templates = nn.Linear(ny * nx, config.templates, bias=False)
        self.psf = nn.Linear(PSF_WINDOW_PIX**2, features // 4)
        self.quarter = nn.Conv2d(1, channels, 4, stride=4)
        self.eighth = nn.Conv2d(channels, 2 * channels, 2, stride=2)
        depths = [channels] * config.blocks + [2 * channels] * config.blocks
        self.blocks = nn.ModuleList(ResidualBlock(depth) for depth in depths)
        self.flat = nn.Linear(ny // 8 * (nx // 8) * 2 * channels, features)
        self.first = nn.Linear(features + numbers, features)
        self.second = nn.Linear(features, features)
        self.posterior = nn.Linear(features + numbers, outputs)
        self.register_buffer("moments", _aperture_basis(shape), persistent=False)
        self.register_buffer("widths", torch.tensor(APERTURES_PIX), persistent=False)

    def forward(self, image: Tensor, psf: Tensor, level: Tensor) -> Tensor:
        """Return the outputs for stamps, PSFs and noise levels [n]."""
        n, level = len(image), level[:, None]
        raw = (image.flatten(1) @ self.moments).view(n, 6, -1)
        noise = level * 2 * np.sqrt(np.pi) * self.widths
        fluxes = torch.sqrt(raw[:, 0].clamp(min=0) ** 2 + noise**2)
        flux = fluxes[:, -1:]
        moments = [torch.log(fluxes / flux), (raw[:, 1:] / fluxes[:, None]).flatten(1)]
        window = centred(psf, (PSF_WINDOW_PIX, PSF_WINDOW_PIX)).flatten(1) * PSF_WINDOW_PIX
        templates = self.templates((image / flux[..., None]).flatten(1))
        logs = [torch.log(flux / level) - 4.0, torch.log(flux)]
        numbers = torch.cat([*moments, templates, *logs, _gelu(self.psf(window))], 1)
        h = self.quarter(torch.arcsinh(image / level[..., None])[:, None])
        for block in self.blocks[: self.split]:
            h = block(h)
        h = self.eighth(h)
        for block in self.blocks[self.split :]:
            h = block(h)
        h = _gelu(self.flat(_gelu(h).permute(0, 2, 3, 1).flatten(1)))
        h = _gelu(self.first(torch.cat([h, numbers], 1)))
        h = h + _gelu(self.second(h))
        return self.posterior(torch.cat([h, numbers], 1))


class Generator(nn.Module):
    """Twin of :class:`hiergal.model.nets.Generator`."""

    flax_names = {
        "first": "Dense_0",
        "second": "Dense_1",
        "quarter": "Dense_2",
        "full": "Dense_3",
        "norm": "LayerNorm_0",
        "blocks": "ResidualBlock",
    }

    def __init__(self, config, shape: tuple[int, int]):
        super().__init__()
        (ny, nx), channels = shape, config.channels
        self.size, self.split = (ny // 8, nx // 8, 2 * channels), config.blocks
        self.ellipse = nn.Linear(config.latents, len(ELLIPSE))
        self.first = nn.Linear(config.latents, 4 * channels)
        self.second = nn.Linear(4 * channels, ny // 8 * (nx // 8) * 2 * channels)
        self.quarter = PixelShuffleConv(2 * channels, 4 * channels, 2)
        self.norm = ChannelNorm(channels)
        self.full = PixelShuffleConv(channels, 16, 4)
        depths = [2 * channels] * config.blocks + [channels] * config.blocks
        self.blocks = nn.ModuleList(ResidualBlock(depth) for depth in depths)
        self.flux = (
            config.log_flux_mean or 0.0,
            1.0 if config.log_flux_spread is None else config.log_flux_spread,
        )
        offset, spread = torch.tensor(np.array(list(ELLIPSE.values()), np.float32).T)
        limits = ellipse_limits(shape)
        low, high = torch.tensor(np.array([limits[name] for name in ELLIPSE], np.float32).T)
        taps = torch.outer(torch.tensor(PATCH_KERNEL), torch.tensor(PATCH_KERNEL))
        buffers = {"offset": offset, "spread": spread, "low": low, "high": high, "taps": taps[None, None]}
        buffers |= {"y": torch.arange(ny) - (ny - 1) / 2, "x": torch.arange(nx) - (nx - 1) / 2}
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """Return light profiles [flux per pixel] for latents."""
        ellipse = torch.addcmul(self.offset, self.spread, self.ellipse(z)).clamp(self.low, self.high)
        log_flux, *shape = ellipse[:, :, None, None].unbind(1)
        log_profile = self._log_sersic(*shape) + self._network(z)
        mean, spread = self.flux
        return torch.exp(mean + spread * log_flux) * F.softmax(log_profile.flatten(1), 1).view_as(log_profile)

    def _network(self, z: Tensor) -> Tensor:
        h = self.second(_gelu(self.first(z))).unflatten(1, self.size).permute(0, 3, 1, 2)
        for block in self.blocks[: self.split]:
            h = block(h)
        h = self.quarter(h)
        for block in self.blocks[self.split :]:
            h = block(h)
        patches = self.full(_gelu(self.norm(h)))
        return F.conv2d(F.pad(patches, (2, 2, 2, 2), mode="replicate"), self.taps)[:, 0]

    def _log_sersic(self, x_pix, y_pix, log_radius_pix, shear_1, shear_2, log_index) -> Tensor:
        x, y = self.x - x_pix, self.y[:, None] - y_pix
        size = torch.sqrt(shear_1**2 + shear_2**2 + 1e-8)
        cosh, sinh = torch.cosh(size), torch.sinh(size) / size
        u = (cosh - sinh * shear_1) * x - sinh * shear_2 * y
        v = (cosh + sinh * shear_1) * y - sinh * shear_2 * x
        index = torch.exp(log_index)
        radius_squared = (u**2 + v**2 + CORE_PIX**2) * torch.exp(-2 * log_radius_pix)
        return -(2 * index - 1 / 3) * radius_squared ** (0.5 / index)


class PyramidEncoder(nn.Module):
    """Twin of :class:`hiergal.model.nets.PyramidEncoder`; in training it returns the features too."""

    def __init__(self, config, outputs: int, shape: tuple[int, int]):
        super().__init__()
        self.embedding = nn.Conv2d(1, config.embedding, 1)
        self.psf_embedding = nn.Conv2d(1, config.psf_embedding, 1)
        depths = (config.embedding + config.psf_embedding, *config.depths)
        self.halve = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairwise(depths))
        self.block = nn.ModuleList(SeparableBlock(depth, config.dropout) for depth in config.depths)
        self.norm = ChannelNorm(depths[-1])
        ny, nx = (size >> len(config.depths) for size in shape)
        self.posterior = nn.Linear(ny * nx * depths[-1], outputs)

    def forward(self, image: Tensor, psf: Tensor, level: Tensor) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Return the outputs for stamps and PSFs; noise levels are not looked at."""
        h = self.embedding(image[:, None])
        psf = self.psf_embedding(centred(psf, image.shape[1:])[:, None])
        features, h = [h], torch.cat([h, psf], 1)
        for halve, block in zip(self.halve, self.block, strict=True):
            h = block(halve(h))
            features.append(h)
        outputs = self.posterior(F.relu(self.norm(h)).permute(0, 2, 3, 1).flatten(1))
        return (outputs, features) if self.training else outputs


class WithPenalties(NamedTuple):
    """Output of the generator in training: see :class:`hiergal.model.nets.lanusse2020.WithPenalties`."""

    profile: Tensor
    bottleneck: Tensor
    border: Tensor


class PyramidGenerator(nn.Module):
    """Twin of :class:`hiergal.model.nets.PyramidGenerator`."""

    flax_names = {"up": "double"}

    def __init__(self, config, shape: tuple[int, int]):
        super().__init__()
        bottom = config.depths[0]
        self.size = (*(side >> len(config.depths) for side in shape), bottom)
        self.latents = nn.Linear(config.latents, int(np.prod(self.size)))
        pairs = list(pairwise((bottom, *config.depths)))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, stride=2, padding=1) for a, b in pairs)
        self.block = nn.ModuleList(SeparableBlock(depth, config.dropout) for depth in config.depths)
        self.norm = ChannelNorm(config.depths[-1])
        self.brightness = nn.Conv2d(config.depths[-1], 1, 1)
        taper = torch.as_tensor(tukey_taper(shape, config.taper_pix))
        self.register_buffer("taper", taper, persistent=False)

    def forward(
        self, z: Tensor, features: Sequence[Tensor] | None = None, copied: Tensor | None = None
    ) -> Tensor | WithPenalties:
        """Return light profiles; in training a part ``copied`` of the encoder's features is taken."""
        h = left = self.latents(z).unflatten(1, self.size).permute(0, 3, 1, 2)
        level = len(self.up)
        if features is not None:
            h = _transverse(h, features[level], copied[level])
        for up, block in zip(self.up, self.block, strict=True):
            h, level = block(up(h)), level - 1
            if features is not None:
                h = _transverse(h, features[level], copied[level])
        bright = F.softplus(self.brightness(F.relu(self.norm(h)))[:, 0])
        profile = bright * self.taper
        if features is None:
            return profile
        bottleneck = (features[-1] - left).square().mean((1, 2, 3))
        return WithPenalties(profile, bottleneck, (bright - profile).sum((1, 2)))


def centred(stamp: Tensor, shape: tuple[int, int]) -> Tensor:
    """Crop or pad PSFs to another shape: see :func:`hiergal.model.nets.encoder.centred`."""
    (py, px), (ny, nx) = stamp.shape[-2:], shape
    y, x = ny // 2 - py // 2, nx // 2 - px // 2
    return F.pad(stamp, (x, nx - px - x, y, ny - py - y))


def _transverse(h: Tensor, feature: Tensor, copied: Tensor) -> Tensor:
    return torch.where(torch.rand(*h.shape[:2], 1, 1, device=h.device) < copied, feature, h)


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _aperture_basis(shape: tuple[int, int]) -> Tensor:
    """Images whose products with a stamp are its moments under Gaussian apertures, [pixels, 6 a]."""
    y, x = (axis - (size - 1) / 2 for axis, size in zip(np.mgrid[: shape[0], : shape[1]], shape, strict=True))
    kinds = (np.ones(shape), x, y, x * x - y * y, 2 * x * y, x * x + y * y)
    basis = [
        kind * np.exp(-0.5 * (x**2 + y**2) / width**2) / width**order
        for kind, order in zip(kinds, (0, 1, 1, 2, 2, 2), strict=True)
        for width in APERTURES_PIX
    ]
    return torch.tensor(np.reshape(basis, (len(basis), -1)).T, dtype=torch.float32)


def _shuffled(weights: Tensor, network: nn.Module) -> Tensor:
    """Outputs in the order of PyTorch's pixel shuffle: channels first, then the pixels of a patch."""
    if not isinstance(network, PixelShuffleConv):
        return weights
    return weights.unflatten(0, (network.block**2, -1)).transpose(0, 1).flatten(0, 1)


def _tensor(array: Any) -> Tensor:
    return torch.tensor(np.asarray(array))
