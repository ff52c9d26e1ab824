"""Architecture of the framed networks, as data (:mod:`hiergal.model.nets.framed`)."""

from collections.abc import Iterator
from typing import Annotated

import msgspec
from msgspec import Meta

from hiergal.recipe.config import GeneratorConfig
from hiergal.recipe.limits import Blocks, Positive, Width
from hiergal.recipe.network_kinds import EncoderArchitecture, GeneratorArchitecture

__all__ = ["FramedEncoderConfig", "FramedGeneratorConfig"]


class FramedGeneratorConfig(
    GeneratorArchitecture,
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="framed",
):
    """Architecture of the framed generator.

    Attributes:
        global_latents: Number of global latents. The first seven are the ellipse, the others are free.
        cells: Cells of the canvas along each side.
        local_latents: Local latents in each cell.
        reach: Half the side of the canvas [half-light radii].
        features: Width of the dense layers.
        channels: Channels of the cells; half as many at twice their resolution, a quarter at four times.
        blocks: Residual blocks between cells, at their own resolution.
        margin: Pixels around the stamp whose light the PSF scatters into it.
        log_flux_mean: Mean of log(flux) over the training survey, the offset of the flux; None to measure it.
        log_flux_spread: Standard deviation of log(flux) over the training survey; None to measure it.
    """

    global_latents: Width = 20
    cells: Annotated[int, Meta(ge=2, le=64)] = 8
    local_latents: Width = 4
    reach: Positive = 4.5
    features: Width = 64
    channels: Width = 48
    blocks: Blocks = 2
    margin: Annotated[int, Meta(ge=0, le=256)] = 4
    log_flux_mean: Annotated[float, Meta(ge=-100, le=100)] | None = None
    log_flux_spread: Annotated[float, Meta(gt=0, le=100)] | None = None

    @property
    def latents(self) -> int:
        """Number of latents: global ones, then those of each cell, row after row."""
        return self.global_latents + self.local_latents * self.cells**2

    @property
    def margin_pix(self) -> int:
        """Pixels around the stamp whose light the PSF scatters into it."""
        return self.margin

    @property
    def cell_latents(self) -> tuple[int, int]:
        """Cells along each side, and local latents of each."""
        return self.cells, self.local_latents

    @property
    def any_grid(self) -> bool:
        """Its light is a function on the plane."""
        return True

    def problems(self) -> Iterator[str]:
        """Yield a sentence for fewer global latents than the ellipse has, and for channels that cannot be halved."""
        if self.global_latents < 7:
            yield f"global_latents: expected at least 7, got {self.global_latents}"
        if self.channels % 4:
            yield f"channels: expected a multiple of 4, got {self.channels}"

    measure_flux = GeneratorConfig.measure_flux


class FramedEncoderConfig(
    EncoderArchitecture,
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="framed",
):
    """Architecture of the encoder of a framed generator.

    Attributes:
        channels: Channels at a quarter of the resolution; twice as many at an eighth.
        blocks: Residual blocks at each of the two resolutions.
        templates: Number of learned linear templates.
        features: Width of the dense layers.
        cell_channels: Channels of the cells of the frame.
        passes: How often the global latents are corrected by what is left of the light in their frame.
        newton_steps: Steps that move all means on through the physics: see :mod:`hiergal.model.refinement`.
    """

    channels: Width = 32
    blocks: Blocks = 1
    templates: Width = 64
    features: Width = 128
    cell_channels: Width = 64
    passes: Blocks = 2
    newton_steps: Annotated[int, Meta(ge=0, le=64)] = 1

    @property
    def refinement_steps(self) -> int:
        """Steps that move the means of the guide on through the physics."""
        return self.newton_steps

    @property
    def resolution_unit(self) -> int:
        """Pixels that a stamp's side must be a multiple of."""
        return 8

    def problems_with(self, generator: GeneratorArchitecture) -> Iterator[str]:
        """Yield a sentence if the generator is of another kind."""
        if not isinstance(generator, FramedGeneratorConfig):
            yield "kind: expected another encoder for a generator that is not framed, got 'framed'"
