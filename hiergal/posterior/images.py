"""Images of posterior draws: deconvolved, at any PSF, on any pixel grid (paper, Eq. 1).

What lies behind a stamp is known at the resolution that the data and the prior together give. Each draw of the latents
is a light profile on the model's pixels; shown at a PSF narrower than the survey's it is partially deconvolved, at the
survey's own it is denoised, and where pixels were masked it is inpainted. All of it comes with errors: those of the
draws.

A convolved profile is smooth, and is evaluated between its pixels by Fourier interpolation. Pixels of other sizes are
points at which it is sampled, as a PSF is the effective one: it includes the pixel that light is to be collected in.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.fft import next_fast_len

from hiergal.model.trained import GalaxyModel, check_model
from hiergal.observation.psf import PSF
from hiergal.posterior.input_checks import check_counts, check_psf, rows_of_psf
from hiergal.posterior.posterior import Posterior
from hiergal.runtime.batching import padded_batches
from hiergal.runtime.fork import check_not_forked
from hiergal.runtime.pytree import Array

__all__ = ["posterior_images", "view"]

IMAGES_PER_CALL = 256  # images in one call of the compiled program


def posterior_images(
    model: GalaxyModel,
    posterior: Posterior,
    *,
    psf: PSF | None = None,
    pixel_scale_arcsec: float | None = None,
    shape: tuple[int, int] | None = None,
    draws: int | None = None,
) -> Float[np.ndarray, "s n y x"]:
    """Draw noise-free images from the posteriors of observed galaxies.

    Args:
        model: The model that inferred the posterior.
        posterior: Posteriors of n galaxies.
        psf: What to show them at: a PSF for each galaxy, [n, py, px], or one for all, [1, py, px], on the model's pixel
            scale (:func:`hiergal.observation.psf.gaussian_psf` makes round ones); default none, which gives the
            deconvolved profiles.
        pixel_scale_arcsec: Width of the pixels to show them on; default the model's [arcsec].
        shape: Number of pixels (ny, nx), about the same centre; default as many as cover the model's stamp.
        draws: How many of the draws, evenly spaced; default all.

    Returns:
        Images [flux per pixel], about 4 bytes x s x n x ny x nx of them.

    Raises:
        ValueError: If the PSFs are neither one nor as many as the galaxies, on another pixel scale, or narrower than
            the recipe's ``profile_fwhm_arcsec``; or if a grid of other pixels is asked for without a PSF, as an
            unconvolved profile has no value between its pixels.

    Example:
        >>> from hiergal.observation.psf import gaussian_psf
        >>> sharp = gaussian_psf(0.08, model.recipe.pixel_scale_arcsec)
        >>> images = posterior_images(model, posterior, psf=sharp, pixel_scale_arcsec=0.015, draws=8)
        >>> mean, error = images.mean(axis=0), images.std(axis=0)
        >>> mean.shape
        (4, 128, 128)
    """
    check_not_forked()
    check_model(model)
    own, n = model.recipe.pixel_scale_arcsec, len(posterior)
    scale = own if pixel_scale_arcsec is None else pixel_scale_arcsec
    if not scale > 0:
        raise ValueError(f"pixel_scale_arcsec: expected a positive width, got {scale}")
    if shape is None:
        ny, nx = (max(1, round(size * own / scale)) for size in model.recipe.shape)
        shape = ny, nx
    same = scale == own and shape == model.recipe.shape
    if psf is None and not same:
        raise ValueError(
            "psf: expected one to show images on pixels other than the model's, got none; an unconvolved profile has "
            "no values between its pixels"
        )
    if psf is not None:
        check_psf(model, psf, n)
    check_counts(draws=1 if draws is None else draws)
    total = posterior.latents.shape[0]
    taken = (
        np.arange(total)
        if draws is None
        else np.linspace(0, total - 1, min(draws, total)).round().astype(int)
    )
    latents = posterior.latents[taken].reshape(-1, posterior.latents.shape[-1])
    images = np.empty((len(latents), *shape), np.float32)
    galaxies = np.tile(np.arange(n), len(taken))
    for batch in padded_batches(len(latents), IMAGES_PER_CALL):
        these = None if psf is None else rows_of_psf(psf, galaxies[batch.rows])
        block = np.asarray(_images(model, latents[batch.rows], these, scale, shape))
        images[batch.span] = block[: batch.kept]
    return images.reshape(len(taken), n, *shape)


def view(
    profile: Float[Array, "n y x"],
    psf: PSF,
    *,
    pixel_scale_arcsec: float,
    shape: tuple[int, int],
) -> Float[jax.Array, "n v u"]:
    """Convolve light profiles, and sample them on a grid about the same centre.

    Args:
        profile: Unconvolved profiles [flux per pixel], on the pixel scale of the PSF.
        psf: A PSF for each, or one for all.
        pixel_scale_arcsec: Width of the pixels of the grid [arcsec].
        shape: Their number (nv, nu).

    Returns:
        Images [flux per pixel of the grid]. Light is followed one PSF beyond the profiles' stamp.

    Example:
        >>> psf = PSF(np.outer(hump := np.exp(-0.5 * np.arange(-6, 7) ** 2 / 2), hump)[None], pixel_scale_arcsec=0.03)
        >>> psf = psf.replace(stamp=psf.stamp / psf.stamp.sum())
        >>> point = np.zeros((1, 15, 15)); point[0, 7, 7] = 1.0
        >>> round(float(view(point, psf, pixel_scale_arcsec=0.015, shape=(50, 50)).sum()), 3)
        1.0
    """
    sizes = zip(profile.shape[-2:], psf.stamp.shape[-2:], strict=True)
    grid = tuple(next_fast_len(size + stamp, real=True) for size, stamp in sizes)
    spectrum = jnp.fft.rfft2(profile, s=grid)
    spectrum = spectrum * jnp.broadcast_to(psf.transfer(grid), spectrum.shape)
    step = pixel_scale_arcsec / psf.pixel_scale_arcsec
    reach = [stamp // 2 + 0.5 for stamp in psf.stamp.shape[-2:]]
    waves_y = _waves(profile.shape[-2], shape[0], step, np.fft.fftfreq(grid[0]), reach[0])
    waves_x = _waves(profile.shape[-1], shape[1], step, np.fft.rfftfreq(grid[1]), reach[1])
    # The half plane stands for the whole: all columns count twice but the first and, on even grids, the last.
    weight = np.full(spectrum.shape[-1], 2.0)
    weight[0] = 1.0
    if grid[1] % 2 == 0:
        weight[-1] = 1.0
    waves_x = (waves_x * weight).astype(waves_x.dtype)
    values = jnp.einsum("vk,nkl,ul->nvu", waves_y, spectrum, waves_x, precision="highest").real
    return values * (step**2 / (grid[0] * grid[1]))


def _waves(size: int, points: int, step: float, frequency: np.ndarray, reach: float) -> np.ndarray:
    """Values of the Fourier modes at points about the centre of a stamp, [points, modes]; zero where no light comes."""
    places = (np.arange(points) - (points - 1) / 2) * step + (size - 1) / 2
    inside = (places > -reach) & (places < size - 1 + reach)  # beyond, a periodic grid repeats itself
    return (inside[:, None] * np.exp(2j * np.pi * places[:, None] * frequency)).astype(np.complex64)


@partial(jax.jit, static_argnames=("pixel_scale_arcsec", "shape"))
def _images(model: GalaxyModel, latents, psf: PSF | None, pixel_scale_arcsec: float, shape: tuple[int, int]):
    profile, recipe = model.decode(latents), model.recipe
    if psf is None:
        return profile
    if pixel_scale_arcsec == recipe.pixel_scale_arcsec and shape == recipe.shape:
        return model.render(profile, psf)
    psf = psf.replace(profile_fwhm_arcsec=recipe.profile_fwhm_arcsec)
    return view(profile, psf, pixel_scale_arcsec=pixel_scale_arcsec, shape=shape)
