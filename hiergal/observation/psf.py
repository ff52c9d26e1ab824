"""The point-spread function: the operator Pi of Eq. (1) of Lanusse et al. (2020).

A PSF is the *effective* one (pixel response included), sampled on a stamp of its own, whose central pixel is the
origin. The complex transfer function is kept, so an asymmetric PSF blurs asymmetrically and an off-centre one
shifts. Convolution is linear: both operands are padded with zeros, and nothing wraps around.

Arrays are ``[..., y, x]`` with any leading batch axes; stamps have an odd number of pixels along each axis.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float
from scipy.fft import next_fast_len

from hiergal.observation.arrays import native, pixel_scale_from
from hiergal.runtime.pytree import Array, Record, record, static

__all__ = [
    "PSF",
    "check_wider",
    "convolve",
    "convolve_by_modulus",
    "gaussian_psf",
    "gaussian_transfer",
    "same_scale",
]

FWHM_PER_SIGMA = float(np.sqrt(8 * np.log(2)))
SMALLEST_TRANSFER = 1e-4
LARGEST_TRANSFER = 1.1
SCALE_TOLERANCE = 1e-3


@record
class PSF(Record):
    """Effective PSFs of a batch of galaxies.

    Attributes:
        stamp: PSF images that sum to one, [..., py, px], py and px odd; the central pixel is the origin.
        pixel_scale_arcsec: Width of one pixel of the stamp [arcsec].
        profile_fwhm_arcsec: Full width at half maximum of a round Gaussian that profiles have been blurred with before
            they meet this PSF: its transfer function is divided by the Gaussian's [arcsec].

    Example:
        >>> import numpy as np
        >>> psf = PSF(np.full((3, 5), 1 / 15), pixel_scale_arcsec=0.03)
        >>> psf.transfer((8, 8)).shape
        (8, 5)
    """

    stamp: Float[Array, "*batch py px"]
    pixel_scale_arcsec: float = static()
    profile_fwhm_arcsec: float = static(default=0.0)

    def __post_init__(self) -> None:
        """Convert arrays of other libraries to native ones."""
        object.__setattr__(self, "stamp", native(self.stamp, "psf.stamp"))
        scale = pixel_scale_from(self.pixel_scale_arcsec, "psf.pixel_scale_arcsec")
        object.__setattr__(self, "pixel_scale_arcsec", scale)

    def transfer(self, shape: tuple[int, int]) -> Complex[Array, "*batch fy fx"]:
        """Return the complex transfer function on the half plane of an FFT grid.

        Args:
            shape: (ny, nx) of the periodic grid; the stamp has to fit into it.

        Returns:
            rfft2 of the stamp with its central pixel moved to the origin, [..., ny, nx // 2 + 1], divided by the
            transfer function of what the profiles are blurred with.
        """
        py, px = self.stamp.shape[-2:]
        padded = jnp.zeros((*self.stamp.shape[:-2], *shape), jnp.asarray(self.stamp).dtype)
        padded = padded.at[..., :py, :px].set(self.stamp)
        transfer = jnp.fft.rfft2(jnp.roll(padded, (-(py // 2), -(px // 2)), axis=(-2, -1)))
        if not self.profile_fwhm_arcsec:
            return transfer
        # Where the Gaussian lets nothing through, neither does the wider PSF: what is left there is rounding.
        gaussian = gaussian_transfer(self.profile_fwhm_arcsec / self.pixel_scale_arcsec, shape)
        gaussian = np.maximum(gaussian, SMALLEST_TRANSFER).astype(self.stamp.dtype)
        return transfer / jnp.broadcast_to(gaussian, transfer.shape)


def gaussian_psf(fwhm_arcsec: float, pixel_scale_arcsec: float) -> PSF:
    """Return one round Gaussian PSF, such as to show galaxies of many surveys at, [1, p, p].

    Args:
        fwhm_arcsec: Full width at half maximum [arcsec], at least one and a half pixels: a narrower one is not sampled.
        pixel_scale_arcsec: Width of a pixel [arcsec].

    Raises:
        ValueError: If it is too narrow.

    Example:
        >>> gaussian_psf(0.06, 0.03).stamp.shape
        (1, 11, 11)
    """
    if not fwhm_arcsec >= 1.5 * pixel_scale_arcsec:
        raise ValueError(
            f"fwhm_arcsec: expected at least 1.5 pixels, {1.5 * pixel_scale_arcsec:.4g} arcsec, got {fwhm_arcsec}"
        )
    sigma = fwhm_arcsec / pixel_scale_arcsec / FWHM_PER_SIGMA
    half = int(np.ceil(5.5 * sigma))
    one = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    stamp = np.outer(one, one)
    return PSF((stamp / stamp.sum()).astype(np.float32)[None], pixel_scale_arcsec=pixel_scale_arcsec)


def gaussian_transfer(fwhm_pix: float, shape: tuple[int, int]) -> Float[np.ndarray, "fy fx"]:
    """Return the transfer function of a round Gaussian on the half plane of an FFT grid.

    Args:
        fwhm_pix: Full width at half maximum [pixels].
        shape: (ny, nx) of the grid.

    Example:
        >>> gaussian_transfer(2.0, (4, 4)).shape
        (4, 3)
    """
    sigma = fwhm_pix / FWHM_PER_SIGMA
    squared = np.fft.fftfreq(shape[0])[:, None] ** 2 + np.fft.rfftfreq(shape[1])[None] ** 2
    return np.exp(-2 * np.pi**2 * sigma**2 * squared)


def same_scale(one: float, other: float) -> bool:
    """Whether two pixel scales are the same: to a thousandth, as WCS and catalogues round them.

    Example:
        >>> same_scale(0.03, 0.0300001), same_scale(0.03, 0.0301)
        (True, False)
    """
    return bool(abs(one - other) <= SCALE_TOLERANCE * abs(other))


def check_wider(psf: PSF, fwhm_arcsec: float) -> None:
    """Check that PSFs are wider than a round Gaussian that profiles are blurred with, at every frequency.

    Args:
        psf: PSFs of a survey, or to show images at.
        fwhm_arcsec: Full width at half maximum of the Gaussian [arcsec].

    Raises:
        ValueError: If they are not.

    Example:
        >>> check_wider(PSF(np.array([[[0, 0, 0], [0, 1.0, 0], [0, 0, 0]]]), pixel_scale_arcsec=0.03), 0.1)
        Traceback (most recent call last):
        ...
        ValueError: psf: expected wider ones than the Gaussian of profile_fwhm_arcsec = 0.1 that profiles are blurred \
with, got 1 of 1 narrower; train with a smaller profile_fwhm_arcsec, or take wider PSFs
    """
    grid = tuple(2 * size for size in psf.stamp.shape[-2:])
    transfer = np.abs(psf.replace(profile_fwhm_arcsec=fwhm_arcsec).transfer(grid))
    narrow = transfer.max(axis=(-2, -1)) > LARGEST_TRANSFER
    if narrow.any():
        raise ValueError(
            f"psf: expected wider ones than the Gaussian of profile_fwhm_arcsec = {fwhm_arcsec} that profiles are "
            f"blurred with, got {narrow.sum()} of {len(narrow)} narrower; train with a smaller profile_fwhm_arcsec, or "
            "take wider PSFs"
        )


def convolve(profile: Float[Array, "*batch y x"], psf: PSF) -> Float[Array, "*out y x"]:
    """Convolve light profiles with PSFs, and return the part inside the stamp (Eq. 1).

    Args:
        profile: Unconvolved profiles [flux per pixel], [..., y, x], on the pixel scale of the PSF.
        psf: One PSF per profile, or PSFs whose batch axes broadcast against the profiles'.

    Returns:
        Blurred images [flux per pixel] on the same grid. Light that the PSF carries over the edge is lost;
        everything else is conserved.

    Example:
        >>> import numpy as np
        >>> point = np.zeros((6, 7)); point[2, 3] = 1.0
        >>> blurred = convolve(point, PSF(np.eye(3) / 3, pixel_scale_arcsec=0.03))
        >>> bool(np.allclose(blurred[1:4, 2:5], np.eye(3) / 3, atol=1e-6))
        True
    """
    profile = native(profile, "profile")
    ny, nx = profile.shape[-2:]
    psf = _reachable(psf, ny, nx)
    py, px = psf.stamp.shape[-2:]
    # Wrapped light must not reach the stamp: half a PSF of padding is enough, because the edges are cropped.
    grid = (next_fast_len(ny + py // 2, real=True), next_fast_len(nx + px // 2, real=True))
    spectrum, transfer = jnp.broadcast_arrays(jnp.fft.rfft2(profile, s=grid), psf.transfer(grid))
    return jnp.fft.irfft2(spectrum * transfer, s=grid)[..., :ny, :nx]


def convolve_by_modulus(profile: Float[Array, "*batch y x"], psf: PSF) -> Float[Array, "*out y x"]:
    """Convolve as the code of Lanusse et al. (2020) did: periodic, with the modulus of the transfer function.

    Nothing is shifted or made asymmetric by such a PSF, and light that leaves the stamp comes in on the other side. It
    is here to repeat that work; :func:`convolve` is right.

    Example:
        >>> import numpy as np
        >>> point = np.zeros((6, 6)); point[0, 3] = 1.0
        >>> off_centre = PSF(np.eye(3)[[0]].T / 1.0, pixel_scale_arcsec=0.03)
        >>> bool(np.allclose(convolve_by_modulus(point, off_centre), point, atol=1e-6))
        True
    """
    profile = native(profile, "profile")
    shape = profile.shape[-2:]
    spectrum, transfer = jnp.broadcast_arrays(
        jnp.fft.rfft2(profile), jnp.abs(_reachable(psf, *shape).transfer(shape))
    )
    return jnp.fft.irfft2(spectrum * transfer, s=shape)


def _reachable(psf: PSF, ny: int, nx: int) -> PSF:
    """Crop the parts of a PSF that are so far out that they cannot carry light from pixel to pixel."""
    py, px = psf.stamp.shape[-2:]
    cy, cx = max(py // 2 - (ny - 1), 0), max(px // 2 - (nx - 1), 0)
    return psf.replace(stamp=psf.stamp[..., cy : py - cy, cx : px - cx])
