"""Noise models: the interface of the Gaussian n of Eq. (1) (Lanusse et al. 2020, Eqs. 4 and 5).

A further model is one new file, in this package or outside: a subclass of :class:`NoiseModel` with a ``kind``. What
surveys on disk, checks, augmentation and posteriors need to know of a noise model is a method of it.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from hiergal.observation.arrays import native, native_mask
from hiergal.observation.checks import Parameter, parameter_problems
from hiergal.observation.orientation import Orientation
from hiergal.runtime.pytree import Array, Record

__all__ = [
    "IndependentNoise",
    "NoiseModel",
    "zero_masked",
    "count_unmasked",
]

LOG_2PI = float(np.log(2 * np.pi))
Mask = Bool[Array, "*#batch y x"] | None


class NoiseModel(Record, ABC):
    """Gaussian noise of zero mean and known covariance.

    A subclass is a frozen record (:func:`hiergal.runtime.pytree.record`). Its arrays have galaxies along the first
    axis, so that rows of it are rows of each of them. It names itself: ``class RowNoise(NoiseModel, kind="rows")``;
    surveys on disk are read back by that name, once the module that defines it has been imported. It has to define what
    is abstract here, or constructing one raises TypeError; the other methods have defaults that hold for any
    covariance, and that a model overrides where it knows better.

    Attributes:
        kind: Name of the model in surveys on disk.
        kinds: All models that are defined, by name.
        independent_pixels: Whether pixels are uncorrelated: the covariance is diagonal.
        transposable: Whether the axes of a stamp may be exchanged: not if noise has a direction, such as that of
            detector rows. Mirroring is always possible.
    """

    kind: ClassVar[str] = ""
    kinds: ClassVar[dict[str, type["NoiseModel"]]] = {}
    independent_pixels: ClassVar[bool] = False
    transposable: ClassVar[bool] = True

    def __init_subclass__(cls, *, kind: str = "", **kwargs: Any) -> None:
        """Register a model by its name.

        Raises:
            ValueError: If another model has it.
        """
        super().__init_subclass__(**kwargs)
        cls.kind = kind
        if not kind:  # abstract, or not for disk
            return
        known = NoiseModel.kinds.get(kind)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(
                f"kind: expected a name that no other noise model has, got {kind!r}, that of {known.__module__}."
                f"{known.__qualname__}; choose another"
            )
        NoiseModel.kinds[kind] = cls

    @classmethod
    @abstractmethod
    def parameters(cls, stamp: tuple[int, int]) -> Mapping[str, Parameter]:
        """Describe the arrays that it consists of, by the names of its fields, for stamps of (ny, nx) pixels."""

    @abstractmethod
    def whiten(self, residual: Float[Array, "*batch y x"], mask: Mask = None) -> Float[Array, "*batch y x"]:
        """Return W residual, with W^T W the inverse of Sigma: unit variance, uncorrelated.

        Masked pixels are zero, but see :class:`~hiergal.observation.stationary.StationaryNoise`.
        """

    @abstractmethod
    def unwhiten(self, whitened: Float[Array, "*batch y x"], mask: Mask = None) -> Float[Array, "*batch y x"]:
        """Return W^T whitened, zero where masked: Sigma^(-1) residual, if whitened residuals are given."""

    @abstractmethod
    def log_determinant(self, shape: tuple[int, ...], mask: Mask = None) -> Float[Array, "*batch"]:
        """Return log det Sigma over the pixels used, for images of this shape."""

    @abstractmethod
    def sample(self, key: jax.Array | int, shape: tuple[int, ...]) -> Float[Array, "*batch y x"]:
        """Draw noise images of this shape; the key may be a seed."""

    @abstractmethod
    def rms(self) -> Float[Array, "*batch"]:
        """Return the standard deviation of a typical pixel of each galaxy [flux per pixel]."""

    @abstractmethod
    def uncorrelated(self) -> "IndependentNoise":
        """Return independent noise of the same variance of each pixel: the diagonal of Sigma."""

    @abstractmethod
    def reorient(self, orientation: Orientation) -> "NoiseModel":
        """Return the noise of mirrored and transposed stamps; ``transpose`` is False unless it is ``transposable``."""

    def scaled(self, factor: float) -> "NoiseModel":
        """Return the noise of images that are multiplied by a factor, such as those in another unit."""
        powers = {name: parameter.flux_power for name, parameter in self.parameters((1, 1)).items()}
        return self.replace(
            **{name: getattr(self, name) * np.float32(factor**power) for name, power in powers.items()}
        )

    def problems(
        self, shape: tuple[int, int, int], mask: Mask, identifier: Shaped[np.ndarray, "n"]
    ) -> Iterator[str]:
        """Yield a sentence for each thing that is wrong with the noise of stamps: shapes, and values out of range.

        Args:
            shape: [n, y, x] of the stamps.
            mask: Their masks, or None.
            identifier: Identifier of each galaxy.
        """
        for name, parameter in self.parameters(shape[1:]).items():
            values = np.asarray(getattr(self, name))
            yield from parameter_problems(f"noise.{name}", values, parameter, mask, identifier)

    def header(self) -> dict[str, Any]:
        """Return the settings common to all galaxies, in JSON types: by default the static fields."""
        fields = [field for field in dataclasses.fields(cast(Any, self)) if field.metadata.get("static")]
        return {field.name: getattr(self, field.name) for field in fields}

    @classmethod
    def from_header(
        cls, arrays: Mapping[str, Array], header: Mapping[str, Any], stamp: tuple[int, int]
    ) -> "NoiseModel":
        """Build it again from its arrays and its :meth:`header`, for stamps of (ny, nx) pixels."""
        return cls(**arrays, **header)

    def power_spectrum(self, shape: tuple[int, int]) -> Float[np.ndarray, "n y fx"] | None:
        """Return the variance of each Fourier mode over the number of pixels, in double precision [flux^2 per pixel^2].

        None, the default, means that the covariance does not depend on the lag between pixels alone.

        Args:
            shape: (ny, nx) of the stamps.
        """
        return None

    def replace_rms(self, where: Bool[Array, "n y x"], rms: Float[Array, "n"]) -> "NoiseModel":
        """Return the noise with a standard deviation of its galaxy in some pixels; the same where pixels have none."""
        return self

    def log_variance(self, shape: tuple[int, ...], mask: Mask = None) -> Float[Array, "*batch y x"]:
        """Split the log-determinant into terms, one for each pixel used: by default equal ones."""
        share = self.log_determinant(shape, mask) / count_unmasked(shape, mask)
        return jnp.broadcast_to(share[..., None, None], shape)

    def chi_square(self, residual: Float[Array, "*batch y x"], mask: Mask = None) -> Float[Array, "*batch"]:
        """Return residual^T Sigma^(-1) residual for each galaxy; its mean is the number of pixels used."""
        return jnp.sum(self.whiten(residual, mask) ** 2, axis=(-2, -1))

    def log_prob(self, residual: Float[Array, "*batch y x"], mask: Mask = None) -> Float[Array, "*batch"]:
        """Return the normalised log-density of noise images, one number for each galaxy (Eqs. 4 and 5)."""
        pixels = count_unmasked(residual.shape, mask)
        log_determinant = self.log_determinant(residual.shape, mask)
        return -0.5 * (self.chi_square(residual, mask) + log_determinant + pixels * LOG_2PI)


class IndependentNoise(NoiseModel):
    """Noise of uncorrelated pixels: the covariance is diagonal.

    Attributes:
        sigma: Standard deviation [flux per pixel], of each galaxy [...] or of each of its pixels [..., y, x].
    """

    sigma: Float[Array, "..."]
    independent_pixels: ClassVar[bool] = True

    def unwhiten(self, whitened, mask=None):  # noqa: D102
        return self.whiten(whitened, mask)  # the square root is diagonal

    def uncorrelated(self):  # noqa: D102
        return self


def count_unmasked(shape: tuple[int, ...], mask: Mask) -> Int[Array, "*batch"]:
    """Return the number of pixels that are not masked, for each image of a batch.

    Example:
        >>> int(count_unmasked((3, 4), None))
        12
    """
    mask = native_mask(mask)
    used = jnp.ones(shape, bool) if mask is None else ~jnp.broadcast_to(mask, shape)
    return jnp.sum(used, axis=(-2, -1))


def zero_masked(values: Array, mask: Mask) -> Array:
    """Return values with zeros where masked; both may be arrays of any kind."""
    values, mask = native(values, "values"), native_mask(mask)
    return values if mask is None else jnp.where(jnp.broadcast_to(mask, values.shape), 0.0, values)
