"""Correlated noise (Lanusse et al. 2020, Eq. 5), on whole stamps and on masked ones."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.observation.arrays import native, native_mask
from hiergal.observation.checks import Parameter
from hiergal.observation.independent import WhiteNoise
from hiergal.observation.noise import NoiseModel, zero_masked
from hiergal.observation.orientation import select_galaxies
from hiergal.runtime.pytree import Array, record, static
from hiergal.runtime.seeds import as_key

__all__ = ["StationaryNoise"]

MOST_STEPS = 200  # of conjugate gradients


@record
class StationaryNoise(NoiseModel, kind="stationary"):
    """Correlated noise whose covariance depends on the lag alone: diagonal in Fourier space (Eq. 5).

    The covariance C is circulant on the stamp. The power spectrum lives on the half plane that ``rfft2`` returns;
    modes that stand for a conjugate pair count twice.

    A mask breaks the symmetry, and the rest of the stamp has a dense covariance. But with K the inverse of C, residuals
    r of the rest, and the masked pixels m filled with what the rest leads one to expect, -K_mm^(-1) (K r)_m, C^(-1/2)
    of the full stamp has the right chi-square, exactly; and the determinant is det C det K_mm. The fill takes some
    ten conjugate-gradient steps; the determinant is that of a dense matrix, and slow if a mask is large.

    Attributes:
        power: Variance of each Fourier mode divided by the number of pixels [flux^2 per pixel^2],
            [..., y, x // 2 + 1]: white noise of standard deviation s has power s^2 everywhere.
        width: Number of pixels along x (the half plane alone does not tell odd from even).

    Example:
        >>> import numpy as np
        >>> noise = StationaryNoise(np.full((4, 3), 4.0), width=5)
        >>> round(float(noise.chi_square(np.full((4, 5), 2.0))), 4)
        20.0
    """

    power: Float[Array, "*batch y fx"]
    width: int = static()

    def __post_init__(self) -> None:
        """Convert arrays of other libraries to native ones."""
        object.__setattr__(self, "power", native(self.power, "noise.power"))
        object.__setattr__(self, "width", int(self.width))

    @classmethod
    def parameters(cls, stamp):  # noqa: D102
        return {"power": Parameter((stamp[0], stamp[1] // 2 + 1), flux_power=2)}

    def problems(self, shape, mask, identifier):  # noqa: D102
        if self.width != shape[2]:
            yield f"noise.width: expected the width of the image, {shape[2]}, got {self.width}"
        yield from super().problems(shape, mask, identifier)

    def header(self):
        """Return nothing: the width is that of the stamps."""
        return {}

    @classmethod
    def from_header(cls, arrays, header, stamp):  # noqa: D102
        return cls(**arrays, width=stamp[1])

    def whiten(self, residual, mask=None):
        """Return C^(-1/2) residual, and if there is a mask, of the stamp filled in: then no pixel is zero."""
        residual, mask = native(residual, "residual"), native_mask(mask)
        if mask is not None:
            residual = _filled(jnp.asarray(residual), mask, jnp.asarray(self.power))
        return _filtered(residual, self.power**-0.5)

    def unwhiten(self, whitened, mask=None):  # noqa: D102
        inverse = _filtered(native(whitened, "whitened"), self.power**-0.5)
        return zero_masked(inverse, mask)

    def log_determinant(self, shape, mask=None):  # noqa: D102
        total = jnp.sum(self._weight() * jnp.log(self.power), axis=(-2, -1))
        if mask is not None:
            total = total + _log_determinant_of_hidden(
                jnp.asarray(native_mask(mask)), jnp.asarray(self.power)
            )
        return jnp.broadcast_to(total, shape[:-2])

    def sample(self, key, shape):  # noqa: D102
        white = jax.random.normal(as_key(key), shape, jnp.asarray(self.power).dtype)
        return _filtered(white, self.power**0.5)

    def rms(self):  # noqa: D102
        pixels = self.power.shape[-2] * self.width
        return jnp.sqrt(jnp.sum(self._weight() * self.power, axis=(-2, -1)) / pixels)

    def uncorrelated(self):  # noqa: D102
        return WhiteNoise(self.rms())

    def reorient(self, orientation):  # noqa: D102
        # A spectrum is even, so mirroring along y is the same as along x, and both together change nothing.
        power = select_galaxies(orientation.flip_y ^ orientation.flip_x, _mirrored(self.power), self.power)
        if power.shape[-2] == self.width:
            power = select_galaxies(orientation.transpose, _exchanged(power, self.width), power)
        return self.replace(power=power)

    def power_spectrum(self, shape):  # noqa: D102
        return np.asarray(self.power, float)

    def _weight(self) -> np.ndarray:
        """Number of modes of the full plane for each column of the half plane."""
        columns = np.arange(self.power.shape[-1])
        alone = (columns == 0) | ((self.width % 2 == 0) & (columns == self.width // 2))
        weight = np.where(alone, 1.0, 2.0).astype(np.float32)
        return np.broadcast_to(weight, self.power.shape)


@jax.jit
def _filled(residual: Array, mask: Array, power: Array) -> jax.Array:
    """Residuals with those of masked pixels as expected from the others: K_mm f = -(K r)_m."""

    def fill(residual, hidden, power):
        known = jnp.where(hidden, 0.0, residual)

        def inside(response):  # the filter between masked pixels; the identity elsewhere
            return lambda f: jnp.where(hidden, _filtered(jnp.where(hidden, f, 0.0), response), f)

        expected, _ = jax.scipy.sparse.linalg.cg(
            inside(1 / power),
            -jnp.where(hidden, _filtered(known, 1 / power), 0.0),
            M=inside(power),
            tol=float(jnp.finfo(residual.dtype).eps) ** 0.8,
            maxiter=MOST_STEPS,
        )
        return known + jnp.where(hidden, expected, 0.0)

    *batch, ny, nx = residual.shape
    hidden = jnp.broadcast_to(mask, residual.shape).reshape(-1, ny, nx)
    power = jnp.broadcast_to(power, (*batch, *power.shape[-2:])).reshape(len(hidden), ny, -1)
    return jax.vmap(fill)(residual.reshape(hidden.shape), hidden, power).reshape(residual.shape)


@jax.jit
def _log_determinant_of_hidden(mask: Array, power: Array) -> jax.Array:
    """Logarithm of det K_mm, galaxy by galaxy."""
    ny, nx = mask.shape[-2:]
    kernel = jnp.fft.irfft2(1 / power, s=(ny, nx))
    batch = jnp.broadcast_shapes(kernel.shape, mask.shape)

    def of_at_most(size: int):
        def log_determinant(kernel, hidden):
            (place,) = jnp.nonzero(hidden.ravel(), size=size, fill_value=-1)
            y, x = jnp.divmod(place, nx)
            matrix = kernel[(y[:, None] - y[None]) % ny, (x[:, None] - x[None]) % nx]
            real = place >= 0
            matrix = jnp.where(real[:, None] & real[None], matrix, jnp.eye(size, dtype=matrix.dtype))
            return 2 * jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(matrix))))

        return log_determinant

    def one(galaxy):
        kernel, hidden = galaxy
        few = -(-ny * nx // 8)
        return jax.lax.cond(hidden.sum() <= few, of_at_most(few), of_at_most(ny * nx), kernel, hidden)

    both = [jnp.broadcast_to(part, batch).reshape(-1, ny, nx) for part in (kernel, mask)]
    return jax.lax.map(one, tuple(both)).reshape(batch[:-2])


def _filtered(image: Array, response: Array) -> jax.Array:
    spectrum = jnp.fft.rfft2(image)
    return jnp.fft.irfft2(spectrum * jnp.broadcast_to(response, spectrum.shape), s=image.shape[-2:])


def _mirrored(power: Array) -> Array:
    """Frequencies along y with the other sign."""
    return jnp.roll(power[:, ::-1], 1, axis=1)


def _exchanged(power: Array, width: int) -> Array:
    """The half plane of the spectrum with its axes exchanged."""
    other = _mirrored(power)[:, :, 1 : (width + 1) // 2][:, :, ::-1]
    full = jnp.concatenate([power, other], axis=-1)
    return full.swapaxes(1, 2)[:, :, : power.shape[-1]]
