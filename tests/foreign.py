"""What someone outside the package adds to it in one file: a noise model, a generator and an encoder.

``striped`` noise is white noise plus an offset that all pixels of a row, or of a column, share: its covariance is
s^2 I + p^2 1 1^T in each stripe. The networks of kind ``tiny`` are two dense layers each.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from jaxtyping import Float

from hiergal.model.nets.registry import register_network
from hiergal.observation.arrays import native
from hiergal.observation.checks import Parameter
from hiergal.observation.independent import WhiteNoise
from hiergal.observation.noise import NoiseModel, zero_masked
from hiergal.recipe.network_kinds import EncoderArchitecture, GeneratorArchitecture
from hiergal.runtime.pytree import Array, record, static
from hiergal.runtime.seeds import as_key


@record
class StripedNoise(NoiseModel, kind="striped"):
    """White noise plus an offset of each stripe.

    Attributes:
        sigma: Standard deviation of the white noise [flux per pixel], [...].
        offset: Standard deviation of the offsets [flux per pixel], [...].
        along: Whether stripes are each a ``"row"`` or a ``"column"``.
    """

    sigma: Float[Array, "*batch"]
    offset: Float[Array, "*batch"]
    along: str = static(default="row")
    transposable = False

    def __post_init__(self):
        for name in ("sigma", "offset"):
            object.__setattr__(self, name, native(getattr(self, name), f"noise.{name}"))

    @classmethod
    def parameters(cls, stamp):
        return {"sigma": Parameter(()), "offset": Parameter(())}

    def whiten(self, residual, mask=None):
        count, sigma, total = self._stripes(residual.shape, mask)
        known = zero_masked(residual, mask)
        mean = known.sum(self._axis, keepdims=True) / jnp.maximum(count, 1)
        return zero_masked((known + (sigma / total - 1) * mean) / sigma, mask)

    def unwhiten(self, whitened, mask=None):
        return self.whiten(whitened, mask)  # the square root is symmetric

    def log_determinant(self, shape, mask=None):
        count, sigma, total = self._stripes(shape, mask)
        return jnp.sum(2 * count * jnp.log(sigma) + 2 * jnp.log(total / sigma), axis=(-2, -1))

    def sample(self, key, shape):
        of_white, of_offset = jax.random.split(as_key(key))
        stripes = (*shape[:-1], 1) if self.along == "row" else (*shape[:-2], 1, shape[-1])
        sigma, offset = (jnp.broadcast_to(one[..., None, None], shape) for one in (self.sigma, self.offset))
        return sigma * jax.random.normal(of_white, shape) + offset * jax.random.normal(of_offset, stripes)

    def rms(self):
        return jnp.hypot(self.sigma, self.offset)

    def uncorrelated(self):
        return WhiteNoise(self.rms())

    def reorient(self, orientation):
        return self

    def power_spectrum(self, shape):
        ny, nx = shape
        sigma, offset = (np.asarray(one, float)[:, None, None] for one in (self.sigma, self.offset))
        power = np.broadcast_to(sigma**2, (len(sigma), ny, nx // 2 + 1)).copy()
        if self.along == "row":
            power[:, :, :1] += nx * offset**2
        else:
            power[:, :1] += ny * offset**2
        return power

    @property
    def _axis(self) -> int:
        return -1 if self.along == "row" else -2

    def _stripes(self, shape, mask):
        """Pixels used of each stripe, and the standard deviations of white noise and of their mean, times its root."""
        count = zero_masked(jnp.ones(shape, self.sigma.dtype), mask).sum(self._axis, keepdims=True)
        sigma, offset = (
            jnp.broadcast_to(one[..., None, None], count.shape) for one in (self.sigma, self.offset)
        )
        return count, sigma, jnp.sqrt(sigma**2 + count * offset**2)


class TinyGeneratorConfig(
    GeneratorArchitecture,
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="tiny",
):
    """Architecture of a small generator."""

    latents: int = 3
    width: int = 16

    def problems(self):
        if self.latents < 2:
            yield f"latents: expected at least 2, got {self.latents}"


@register_network(TinyGeneratorConfig)
class TinyGenerator(nn.Module):
    """Two dense layers."""

    config: TinyGeneratorConfig
    shape: tuple[int, int]

    @nn.compact
    def __call__(self, z):
        h = nn.gelu(nn.Dense(self.config.width)(z))
        bright = nn.softplus(nn.Dense(self.shape[0] * self.shape[1])(h))
        return bright.reshape(-1, *self.shape)


class TinyEncoderConfig(
    EncoderArchitecture,
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="tiny",
):
    """Architecture of a small encoder."""

    width: int = 16


@register_network(TinyEncoderConfig)
class TinyEncoder(nn.Module):
    """Two dense layers on the stamp in units of its noise."""

    config: TinyEncoderConfig
    outputs: int

    @nn.compact
    def __call__(self, observation):
        image = zero_masked(observation.image, observation.mask)
        image = jnp.arcsinh(image / jnp.asarray(observation.noise.rms())[:, None, None])
        h = nn.gelu(nn.Dense(self.config.width)(image.reshape(len(image), -1)))
        return nn.Dense(self.outputs)(h)
