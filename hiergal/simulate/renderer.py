"""A renderer of light profiles in pure JAX: what GalSim draws, for many galaxies at once, on any device (paper, Eq. 1).

A stamp of a profile at a PSF, on pixels of any size, is a sum of waves: those of the profile's pixels, times the
transfer functions of GalSim's interpolant between them (a quintic one: Bernstein & Gruen 2014, PASP 126, 287), of the
PSF and of the pixel. Few waves pass a PSF, and each is a product of one along x and one along y, so that products of
small matrices do it all (real ones, which are multiplied faster). They are made once, for one PSF, from any GalSim
object.

``Convolve(profile, psf).drawImage`` has the same pixels to some 4e-4 of the peak, and the flux in a stamp is within
1e-3 of GalSim's with a ``folding_threshold`` of 1e-3. GalSim's default lets more of a PSF's wings come around: up to
1e-3 of the flux on stamps of 64 pixels, and up to 5e-3 on stamps of 128 pixels.
"""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Complex, Float

from hiergal.model.profile_grid import ProfileGrid, grid_of
from hiergal.model.trained import GalaxyModel
from hiergal.observation.psf import FWHM_PER_SIGMA
from hiergal.runtime.pytree import Array, Record, record, static
from hiergal.runtime.seeds import as_key

if TYPE_CHECKING:
    import galsim

__all__ = ["Renderer", "add_noise", "renderer_for"]

SMALLEST = 1e-6  # of waves that count
FAR_PERIODS = 8  # at which copies would have to be for their light not to matter


@record
class Renderer(Record):
    """Real matrices that draw profiles at one PSF: waves in x as real and imaginary parts, in y as cosine and sine.

    A wave and its mirror image in y share cosine and sine: with T+ and T- their transfer functions (of interpolant, PSF
    and pixel, weighted), ``even`` is T+ + T-, and ``odd`` is i (T+ - T-).

    Attributes:
        waves_x: From profile columns to waves of one half plane, real above imaginary parts, [2 kx, x].
        waves_y: From profile rows to waves, cosines above sines, [2 ky, y].
        even: What a cosine keeps, [ky, kx].
        odd: What a cosine turns into a sine, [ky, kx].
        points_y: From waves to stamp rows, [v, 2 ky].
        points_x: From waves to stamp columns, real parts alone, [u, 2 kx].
        around: What comes around on the stamp, of a profile of unit flux, [v, u].
        pixel_scale_arcsec: Width of a pixel of the stamps [arcsec].
    """

    waves_x: Float[Array, "twice_kx x"]
    waves_y: Float[Array, "twice_ky y"]
    even: Complex[Array, "ky kx"]
    odd: Complex[Array, "ky kx"]
    points_y: Float[Array, "v twice_ky"]
    points_x: Float[Array, "u twice_kx"]
    around: Float[Array, "v u"]
    pixel_scale_arcsec: float = static()

    @property
    def shape(self) -> tuple[int, int]:
        """Pixels (ny, nx) of the stamps."""
        return len(self.points_y), len(self.points_x)

    def __call__(self, profile: Float[Array, "n y x"]) -> Float[jax.Array, "n v u"]:
        """Draw noise-free stamps of unconvolved profiles [flux per pixel of the stamp]."""
        rows = _product("nyx,lx->nyl", profile, self.waves_x)
        waves = _product("ky,nyl->nkl", self.waves_y, rows)
        cosine, sine = (lax.complex(*jnp.split(part, 2, axis=2)) for part in jnp.split(waves, 2, axis=1))
        even, odd = jnp.asarray(self.even)[None], jnp.asarray(self.odd)[None]
        waves = jnp.concatenate([even * cosine - odd * sine, odd * cosine + even * sine], axis=1)
        waves = jnp.concatenate([waves.real, waves.imag], axis=2)
        rows = _product("vk,nkl->nvl", self.points_y, waves)
        flux = jnp.sum(profile, axis=(1, 2))[:, None, None]
        return _product("nvl,ul->nvu", rows, self.points_x) - flux * jnp.asarray(self.around)[None]


def renderer_for(
    model: GalaxyModel,
    psf: "galsim.GSObject",
    *,
    pixel_scale_arcsec: float,
    shape: tuple[int, int],
    method: str = "auto",
    grid: ProfileGrid | None = None,
) -> Renderer:
    """Make a renderer of a model's galaxies at a PSF.

    Args:
        model: The model whose profiles it will draw.
        psf: Any GalSim object, with or without the pixel's response.
        pixel_scale_arcsec: Width of the stamp's pixels [arcsec].
        shape: Pixels of the stamp (ny, nx); the profile's centre is at the stamp's centre.
        method: As for ``galsim.GSObject.drawImage``: ``auto`` integrates over pixels, ``no_pixel`` does not.
        grid: Pixels of the profiles; default those of the model.

    Raises:
        ValueError: If the method is another, or scale or shape is not positive.

    Example:
        >>> import galsim
        >>> draw = renderer_for(model, galsim.Gaussian(fwhm=0.7), pixel_scale_arcsec=0.2, shape=(24, 24))
        >>> draw(hiergal.draw_profiles(model, catalog, key=0)).shape
        (2, 24, 24)
    """
    import galsim

    if method not in ("auto", "no_pixel"):
        raise ValueError(f"method: expected 'auto' or 'no_pixel', got {method!r}")
    if not pixel_scale_arcsec > 0 or min(shape) < 1:
        raise ValueError(
            f"expected positive pixels, got a scale of {pixel_scale_arcsec} and a shape of {shape}"
        )
    profile_shape, own, fwhm = grid_of(model.recipe) if grid is None else grid
    effective = psf if method == "no_pixel" else galsim.Convolve(psf, galsim.Pixel(pixel_scale_arcsec))
    widest = max(
        size * own + points * pixel_scale_arcsec for size, points in zip(profile_shape, shape, strict=True)
    )
    # The drawing is periodic: the next copy's edge is as far from the stamp as the radius that holds all but half a
    # percent of the PSF's light (GalSim's folding threshold). The light that comes around is that of the copies' wings,
    # so smooth that it is the same for all profiles of one flux, and is taken off (``around``).
    side = widest / 2 + np.pi / effective.stepk  # [arcsec]
    step = 2 * np.pi / side
    most = int(2 * np.pi / own / step)  # up to twice the profile's Nyquist frequency
    number = np.arange(-most, most + 1)
    transfer = effective.drawKImage(nx=2 * most + 1, ny=2 * most + 1, scale=step).array
    between = np.array([galsim.Quintic().kval(k) for k in number * step * own])
    transfer = transfer * np.outer(between, between)
    if fwhm:
        transfer = transfer / np.maximum(_gaussian(number / side, fwhm), SMALLEST)
    counts = np.abs(transfer) > SMALLEST * np.abs(transfer).max()
    counts = counts | counts[::-1]  # both of a pair, or none
    rows, columns = counts.any(axis=1) & (number >= 0), counts.any(axis=0) & (number >= 0)
    ky, kx = number[rows] * step, number[columns] * step
    weight = np.where(kx > 0, 2.0, 1.0) * (pixel_scale_arcsec / side) ** 2  # one half plane stands for both
    wave = transfer[np.ix_(rows, columns)] * weight
    mirrored = transfer[::-1][np.ix_(rows, columns)] * weight * (ky > 0)[:, None]
    pixels_y, pixels_x = (_places(size, own) for size in profile_shape)
    points_y, points_x = (_places(size, pixel_scale_arcsec) for size in shape)
    to_x, to_y, from_y, from_x = (
        np.outer(*pair) for pair in ((kx, pixels_x), (ky, pixels_y), (points_y, ky), (points_x, kx))
    )
    return Renderer(
        waves_x=_single(np.vstack([np.cos(to_x), -np.sin(to_x)])),
        waves_y=_single(np.vstack([np.cos(to_y), np.sin(to_y)])),
        even=(wave + mirrored).astype(np.complex64),
        odd=(1j * (wave - mirrored)).astype(np.complex64),
        points_y=_single(np.hstack([np.cos(from_y), np.sin(from_y)])),
        points_x=_single(np.hstack([np.cos(from_x), -np.sin(from_x)])),
        around=_single(_around(effective, side, pixel_scale_arcsec, (points_y, points_x))),
        pixel_scale_arcsec=pixel_scale_arcsec,
    )


def add_noise(
    key: jax.Array | int, image: Float[jax.Array, "y x"], sky_level: float | Float[jax.Array, ""]
) -> Float[jax.Array, "y x"]:
    """Add the noise of photons of source and sky, as a normal one, which it is for more than some tens of them.

    Args:
        key: PRNG key, or a seed.
        image: A noise-free stamp [electrons per pixel].
        sky_level: Sky, which is taken off again [electrons per pixel].

    Example:
        >>> bool(add_noise(jax.random.key(0), jnp.zeros((64, 64)), 100.0).std() > 9)
        True
    """
    return image + jnp.sqrt(jnp.maximum(image, 0.0) + sky_level) * jax.random.normal(
        as_key(key), image.shape, image.dtype
    )


def _around(
    effective: "galsim.GSObject", side: float, scale: float, places: tuple[np.ndarray, np.ndarray]
) -> Float[np.ndarray, "v u"]:
    """Light of a point source's copies on a stamp: periodic with ``side``, less periodic with many times as much."""
    sharpest = effective.maxk

    def drawn(period: float) -> np.ndarray:
        step = 2 * np.pi / period
        most = int(sharpest / step)
        waves = np.arange(-most, most + 1) * step
        values = effective.drawKImage(nx=2 * most + 1, ny=2 * most + 1, scale=step).array
        y, x = (np.exp(1j * np.outer(place, waves)) for place in places)
        return np.real(y @ values @ x.T) * (scale / period) ** 2

    return drawn(side) - drawn(FAR_PERIODS * side)


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
