"""A renderer of light profiles in pure JAX: what GalSim draws, for many galaxies at once, on any device (paper, Eq. 1).

A stamp of a profile at a PSF, on pixels of any size, is a sum of waves: those of the profile's pixels, times the
transfer functions of GalSim's interpolant between them (a quintic one: Bernstein & Gruen 2014, PASP 126, 287), of the
PSF and of the pixel. Few waves pass a PSF, and each is a product of one along x and one along y, so that products of
small matrices do it all (real ones, which are multiplied faster). They are made once, for one PSF, from any GalSim
object.

Agreement with ``Convolve(profile, psf).drawImage`` is better than 1e-3 of the peak, which is GalSim's own accuracy.
"""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float

from hiergal.hub import GalaxyModel
from hiergal.psf import FWHM_PER_SIGMA
from hiergal.records import Array, Record, record, static

if TYPE_CHECKING:
    import galsim

__all__ = ["Renderer", "add_noise", "renderer_for"]

SMALLEST = 1e-6  # of waves that count
# The drawing is periodic: the next copy's edge is this far from the stamp, in radii beyond which the PSF has half a
# percent of its light (GalSim's folding threshold). Its wings are then below 4e-4 of the peak.
AWAY = 0.75


@record
class Renderer(Record):
    """Matrices that draw a profile at one PSF: real ones, with real above (or left of) imaginary parts of waves.

    Attributes:
        waves_x: From profile columns to waves of one half plane, [2 kx, x].
        waves_y: From profile rows to waves, [2 ky, y].
        transfer: Transfer function of interpolant, PSF and pixel, weighted, [ky, kx].
        points_y: From waves to stamp rows, [2 v, 2 ky].
        points_x: From waves to stamp columns, real parts alone, [u, 2 kx].
        pixel_scale_arcsec: Width of a pixel of the stamps [arcsec].
    """

    waves_x: Float[Array, "twice_kx x"]
    waves_y: Float[Array, "twice_ky y"]
    transfer: Complex[Array, "ky kx"]
    points_y: Float[Array, "twice_v twice_ky"]
    points_x: Float[Array, "u twice_kx"]
    pixel_scale_arcsec: float = static()

    @property
    def shape(self) -> tuple[int, int]:
        """Pixels (ny, nx) of the stamps."""
        return self.points_y.shape[0] // 2, self.points_x.shape[0]

    def __call__(self, profile: Float[Array, "n y x"]) -> Float[jax.Array, "n v u"]:
        """Draw noise-free stamps of unconvolved profiles [flux per pixel of the stamp]."""
        ky, kx = self.transfer.shape
        rows = _product("nyx,lx->nyl", profile, self.waves_x)
        waves = _product("ky,nyl->nkl", self.waves_y, rows)
        real = waves[:, :ky, :kx] - waves[:, ky:, kx:]
        imaginary = waves[:, :ky, kx:] + waves[:, ky:, :kx]
        a, b = jnp.asarray(self.transfer).real[None], jnp.asarray(self.transfer).imag[None]
        waves = jnp.concatenate([real * a - imaginary * b, real * b + imaginary * a], axis=1)
        rows = _product("vk,nkl->nvl", self.points_y, waves)
        real, imaginary = jnp.split(rows, 2, axis=1)
        return _product("nvl,ul->nvu", jnp.concatenate([real, imaginary], axis=2), self.points_x)


def renderer_for(
    model: GalaxyModel,
    psf: "galsim.GSObject",
    *,
    pixel_scale_arcsec: float,
    shape: tuple[int, int],
    method: str = "auto",
) -> Renderer:
    """Make a renderer of a model's galaxies at a PSF.

    Args:
        model: The model whose profiles it will draw.
        psf: Any GalSim object, with or without the pixel's response.
        pixel_scale_arcsec: Width of the stamp's pixels [arcsec].
        shape: Pixels of the stamp (ny, nx); the profile's centre is at the stamp's centre.
        method: As for ``galsim.GSObject.drawImage``: ``auto`` integrates over pixels, ``no_pixel`` does not.

    Raises:
        ValueError: If the method is another, or scale or shape is not positive.

    Example:
        >>> draw = renderer_for(model, psf, pixel_scale_arcsec=0.2, shape=(64, 64))  # doctest: +SKIP
        >>> images = draw(draw_profiles(model, catalog, key=jax.random.key(0)))  # doctest: +SKIP
    """
    import galsim

    if method not in ("auto", "no_pixel"):
        raise ValueError(f"method: expected 'auto' or 'no_pixel', got {method!r}")
    if not pixel_scale_arcsec > 0 or min(shape) < 1:
        raise ValueError(
            f"expected positive pixels, got a scale of {pixel_scale_arcsec} and a shape of {shape}"
        )
    own = model.recipe.pixel_scale_arcsec
    effective = psf if method == "no_pixel" else galsim.Convolve(psf, galsim.Pixel(pixel_scale_arcsec))
    widest = max(
        size * own + points * pixel_scale_arcsec
        for size, points in zip(model.recipe.shape, shape, strict=True)
    )
    side = widest / 2 + AWAY * np.pi / effective.stepk  # the period [arcsec]
    step = 2 * np.pi / side
    most = int(2 * np.pi / own / step)  # up to twice the profile's Nyquist frequency
    number = np.arange(-most, most + 1)
    transfer = effective.drawKImage(nx=2 * most + 1, ny=2 * most + 1, scale=step).array
    between = np.array([galsim.Quintic().kval(k) for k in number * step * own])
    transfer = transfer * np.outer(between, between)
    fwhm = model.recipe.profile_fwhm_arcsec
    if fwhm:
        transfer = transfer / np.maximum(_gaussian(number / side, fwhm), SMALLEST)
    rows = np.abs(transfer).max(axis=1) > SMALLEST * np.abs(transfer).max()
    columns = (np.abs(transfer).max(axis=0) > SMALLEST * np.abs(transfer).max()) & (number >= 0)
    ky, kx = number[rows] * step, number[columns] * step
    weight = np.where(kx > 0, 2.0, 1.0) * (pixel_scale_arcsec / side) ** 2  # one half plane stands for both
    transfer = transfer[np.ix_(rows, columns)] * weight
    pixels_y, pixels_x = (_places(size, own) for size in model.recipe.shape)
    points_y, points_x = (_places(size, pixel_scale_arcsec) for size in shape)
    to_x, to_y = (np.exp(-1j * np.outer(k, place)) for k, place in ((kx, pixels_x), (ky, pixels_y)))
    from_y, from_x = (np.exp(1j * np.outer(place, k)) for place, k in ((points_y, ky), (points_x, kx)))
    return Renderer(
        waves_x=_single(np.vstack([to_x.real, to_x.imag])),
        waves_y=_single(np.vstack([to_y.real, to_y.imag])),
        transfer=transfer.astype(np.complex64),
        points_y=_single(np.block([[from_y.real, -from_y.imag], [from_y.imag, from_y.real]])),
        points_x=_single(np.hstack([from_x.real, -from_x.imag])),
        pixel_scale_arcsec=pixel_scale_arcsec,
    )


def add_noise(
    key: jax.Array, image: Float[jax.Array, "y x"], sky_level: float | Float[jax.Array, ""]
) -> Float[jax.Array, "y x"]:
    """Add the noise of photons of source and sky, as a normal one, which it is for more than some tens of them.

    Args:
        key: PRNG key.
        image: A noise-free stamp [electrons per pixel].
        sky_level: Sky, which is taken off again [electrons per pixel].

    Example:
        >>> bool(add_noise(jax.random.key(0), jnp.zeros((64, 64)), 100.0).std() > 9)
        True
    """
    return image + jnp.sqrt(jnp.maximum(image, 0.0) + sky_level) * jax.random.normal(
        key, image.shape, image.dtype
    )


def _product(subscripts: str, *arrays: Array) -> jax.Array:
    return jnp.einsum(subscripts, *arrays, precision="highest")


def _single(matrix: np.ndarray) -> np.ndarray:
    return matrix.astype(np.float32)


def _gaussian(frequency: np.ndarray, fwhm: float) -> Float[np.ndarray, "ky kx"]:
    """Transfer function of a round Gaussian at frequencies [cycles per arcsec]."""
    one = np.exp(-2 * (np.pi * fwhm / FWHM_PER_SIGMA * frequency) ** 2)
    return np.outer(one, one)


def _places(size: int, scale: float) -> np.ndarray:
    """Centres of pixels about the middle of a row of them [arcsec]."""
    return (np.arange(size) - (size - 1) / 2) * scale
