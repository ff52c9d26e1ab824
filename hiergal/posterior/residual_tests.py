"""Tests of the residuals of a fit, far from the galaxy as well as in it: what :mod:`hiergal.posterior.verdict` judges.

Residuals r are data minus the posterior mean of the denoised stamp, whitened by the noise that the survey states. The
stamp is cut into ``GRID`` x ``GRID`` blocks. In the outer blocks, away from the galaxy's own light, residuals are noise
alone, unless a sky, a neighbour or another noise is left in them. A fit absorbs part of what it should not: with Q the
directions in which the fit can move (:class:`hiergal.runtime.least_squares.GaussianPosterior`), a template t of flux a
has the score t^T r with variance t^T t - |Q t|^2, which is the test of a = 0 with all latents marginalised (Rao 1948).

==========================  =========================================================================================
statistic                   is
==========================  =========================================================================================
``sky``, ``sky_error``      level that the outer blocks want [flux per pixel], and its error
``sky_everywhere``          significance of a level in all pixels [sigma]: more sensitive, but not to the sky alone
``floor``                   significance of the mean of the data, not residuals, in the darkest quarter of the pixels
                            [sigma]: no galaxy makes it negative
``sky_gradient``            significance of a linear gradient over the stamp [sigma], of two degrees of freedom
``border``                  largest significance, positive or negative, of one outer block [sigma]
``noise_factor``            standard deviation of outer residuals over what is stated: median over the blocks
``noise_factor_error``      its error for noise as stated
``noise_correlation``       correlation of outer whitened residuals with their neighbours, median over the blocks
``noise_correlation_error`` its error for white residuals
``second_source``           largest significance of a blob of light away from the centre [sigma]
``peak_offset_arcsec``      distance of the brightest pixel of the denoised stamp from the centre
``detection``               square root of what the galaxy improves chi-square by: its signal-to-noise ratio
``stamp_light``             sum of all pixels that are not masked [flux]
``masked_light``            share of the denoised stamp's light that is behind the mask
``masked_center``           share of the pixels within ``CORE_PIX`` of the centre that are masked
==========================  =========================================================================================
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hiergal.model.program import without_margin
from hiergal.model.trained import GalaxyModel
from hiergal.observation.noise import zero_masked
from hiergal.observation.observation import Observation
from hiergal.runtime.pytree import Array

__all__ = ["RESIDUAL_TESTS", "residual_tests"]

GRID = 4  # blocks along each side: 12 of them touch the border of the stamp
FAINT = 0.5  # of the noise: where the galaxy's own light is fainter, residuals are those of the sky
FEWEST = 12  # pixels of a block that say anything
BLOB_PIX = (2.0, 4.0)  # standard deviations of blobs that are looked for
AWAY_ARCSEC = 0.24  # from the centre: where a blob is another source
CORE_PIX = 2.6
RIDGE = 1e-6
DARK = 0.25  # of the pixels: those where the fit is faintest
LEAST_FREE = 0.01  # of a level's variance, that a fit cannot absorb
RESIDUAL_TESTS = (
    "sky", "sky_error", "sky_everywhere", "floor",
    "sky_gradient", "border", "noise_factor", "noise_factor_error", "noise_correlation",
    "noise_correlation_error", "second_source", "peak_offset_arcsec", "detection", "stamp_light",
    "masked_light", "masked_center",
)  # fmt: skip


@jax.jit
def residual_tests(
    model: GalaxyModel,
    observation: Observation,
    profile: Float[Array, "n y x"],
    projection: Float[Array, "n d pixels"] | None,
) -> dict[str, jax.Array]:
    """Test the residuals of each galaxy's fit.

    Args:
        model: The model that was fitted.
        observation: The galaxies.
        profile: Posterior mean of the profiles, with the margin that light is scattered in from [flux per pixel].
        projection: Directions in which whitened residuals can move, orthonormal together with those of the prior; None
            where not known: then tests are less sensitive.

    Returns:
        The statistics at the top of this page, [n] each; NaN where too few pixels are left to tell.
    """
    noise, mask = observation.noise, observation.mask
    shown = without_margin(model.render(profile, observation.psf), model.recipe.generator.margin_pix)
    n, ny, nx = shown.shape
    data = zero_masked(jnp.asarray(observation.image), mask)
    used = jnp.ones(shown.shape, shown.dtype) if mask is None else (~mask).astype(shown.dtype)
    white = noise.whiten(zero_masked(data - shown, mask), mask)
    level = jnp.broadcast_to(noise.rms()[:, None, None], shown.shape)
    faint = used * (jnp.abs(shown) < FAINT * level)
    found = _outer_blocks(noise, mask, white, faint, projection)
    reach = jnp.where(used > 0, shown, jnp.inf)
    place = (DARK * used.sum((-2, -1))).astype(int)
    limit = jnp.take_along_axis(jnp.sort(reach.reshape(n, -1), axis=-1), place[:, None], axis=-1)
    dark = noise.whiten((reach <= limit[:, :, None]).astype(shown.dtype), mask)
    found["floor"] = _flat_score(dark, noise.whiten(data, mask), None)
    found["sky_everywhere"] = _flat_score(noise.whiten(used, mask), white, projection)
    y, x = (jnp.asarray(axis, shown.dtype) for axis in np.mgrid[:ny, :nx])
    radius = jnp.hypot(y - (ny - 1) / 2, x - (nx - 1) / 2)
    scale = observation.pixel_scale_arcsec
    away = jnp.broadcast_to(radius * scale > AWAY_ARCSEC, shown.shape) & (used > 0)
    found["second_source"] = jnp.stack(
        [jnp.where(away, _blob_significance(white, used, width), 0.0).max((-2, -1)) for width in BLOB_PIX]
    ).max(0)
    peak = jnp.argmax(shown.reshape(n, -1), axis=-1)
    found["peak_offset_arcsec"] = radius.ravel()[peak] * scale
    empty = jnp.sum(noise.whiten(data, mask) ** 2, (-2, -1))
    found["detection"] = jnp.sqrt(jnp.maximum(empty - jnp.sum(white**2, (-2, -1)), 0.0))
    found["stamp_light"] = data.sum((-2, -1))
    light = jnp.maximum(shown, 0.0)
    tiny = jnp.finfo(shown.dtype).tiny
    found["masked_light"] = 1 - jnp.sum(light * used, (-2, -1)) / jnp.maximum(light.sum((-2, -1)), tiny)
    core = (radius <= CORE_PIX).astype(shown.dtype)
    found["masked_center"] = 1 - jnp.sum(used * core[None], (-2, -1)) / core.sum()
    return found


def _outer_blocks(noise, mask, white: Array, faint: Array, projection: Array | None) -> dict[str, jax.Array]:
    n, ny, nx = white.shape
    rows, columns = (np.arange(size) * GRID // size for size in (ny, nx))
    place = rows[:, None] * GRID + columns[None, :]
    inner = {GRID * i + j for i in range(1, GRID - 1) for j in range(1, GRID - 1)}
    blocks = [i for i in range(GRID**2) if i not in inner]
    inside = np.stack([place == i for i in blocks])  # [b, y, x]
    member = jnp.asarray(inside, white.dtype)
    weight = faint[:, None] * member[None]  # [n, b, y, x]
    count = weight.sum((-2, -1))
    enough = count >= FEWEST

    def of(template):  # each block on its own
        return noise.whiten(template, mask)

    template = jnp.stack([of(weight[:, i]) for i in range(len(blocks))], axis=1).reshape(n, len(blocks), -1)
    score = jnp.einsum("nbp,np->nb", template, white.reshape(n, -1))
    covariance = jnp.einsum("nbp,ncp->nbc", template, template)
    error = jnp.sqrt(jnp.maximum(jnp.diagonal(covariance, axis1=1, axis2=2), jnp.finfo(white.dtype).tiny))
    scaled = covariance / (error[:, :, None] * error[:, None, :])
    if projection is not None:
        absorbed = jnp.einsum("nbp,ndp->nbd", template, projection) / error[:, :, None]
        scaled = scaled - jnp.einsum("nbd,ncd->nbc", absorbed, absorbed)
    both = enough[:, :, None] & enough[:, None, :]
    identity = jnp.eye(len(blocks), dtype=white.dtype)[None]
    scaled = jnp.where(both, scaled, 0.0) + jnp.where(enough, RIDGE, 1.0)[:, :, None] * identity
    z = jnp.where(enough, score / error, 0.0)
    single = z / jnp.sqrt(jnp.maximum(jnp.diagonal(scaled, axis1=1, axis2=2), 0.05))
    # The expected score of a level a is C0 a in flux, with C0 = T T^T: a constant, and a plane, by least squares.
    center = [(axis * inside).sum((-2, -1)) / inside.sum((-2, -1)) for axis in np.mgrid[:ny, :nx]]
    center = [(axis - axis.mean()) / size for axis, size in zip(center, (ny, nx), strict=True)]
    shape = jnp.asarray(np.stack([np.ones(len(blocks)), *center], axis=-1), white.dtype)[None]  # [1, b, 3]
    design = jnp.einsum("nbc,nck->nbk", covariance, jnp.broadcast_to(shape, (n, *shape.shape[1:])))
    design = jnp.where(enough[:, :, None], design / error[:, :, None], 0.0)
    inverse = jnp.linalg.inv(scaled)

    def fit(columns):
        information = jnp.einsum("nbk,nbc,ncl->nkl", columns, inverse, columns)
        size = jnp.sqrt(jnp.maximum(jnp.diagonal(information, axis1=1, axis2=2), jnp.finfo(white.dtype).tiny))
        norm = information / (size[:, :, None] * size[:, None, :])
        norm = norm + RIDGE * jnp.eye(norm.shape[-1], dtype=norm.dtype)[None]
        right = jnp.einsum("nbk,nbc,nc->nk", columns, inverse, z) / size
        solved = jnp.linalg.solve(norm, right[..., None])[..., 0]
        return solved / size, jnp.sum(solved * right, -1), 1 / size

    flat, chi_flat, error_flat = fit(design[..., :1])
    _, chi_plane, _ = fit(design)
    square = jnp.sum(white[:, None] ** 2 * weight, (-2, -1)) / jnp.maximum(count, 1.0)
    mean = jnp.sum(white[:, None] * weight, (-2, -1)) / jnp.maximum(count, 1.0)
    variance = square - mean**2
    ok, few = jnp.where(enough, 1.0, jnp.nan), enough.sum(-1) >= GRID
    pixels = jnp.sum(count * enough, -1)
    factor = jnp.sqrt(jnp.nanmedian(variance * ok, axis=-1))
    lags = []
    for axis in (-1, -2):
        pairs = weight * jnp.roll(faint, -1, axis)[:, None]
        pairs = _without_edge(pairs, axis)
        product = (white[:, None] - mean[:, :, None, None]) * (
            jnp.roll(white, -1, axis)[:, None] - mean[:, :, None, None]
        )
        lags.append(jnp.sum(pairs * product, (-2, -1)) / jnp.maximum(pairs.sum((-2, -1)), 1.0))
    correlation = 0.5 * (lags[0] + lags[1]) / jnp.maximum(variance, jnp.finfo(white.dtype).tiny)
    some = jnp.where(few, 1.0, jnp.nan)
    spread = 1.25 / jnp.sqrt(jnp.maximum(pixels, 1.0))  # a median's error is 1.25 times a mean's
    return {
        "sky": flat[:, 0] * some,
        "sky_error": error_flat[:, 0] * some,
        "sky_gradient": jnp.sqrt(jnp.maximum(chi_plane - chi_flat, 0.0)) * some,
        "border": jnp.abs(single).max(-1) * some,
        "noise_factor": factor * some,
        "noise_factor_error": spread / np.sqrt(2) * some,
        "noise_correlation": jnp.nanmedian(correlation * ok, axis=-1) * some,
        "noise_correlation_error": spread / np.sqrt(2) * some,
    }


def _flat_score(template: Array, white: Array, projection: Array | None) -> jax.Array:
    """Significance of a level in all pixels, with the latents marginalised."""
    flat = template.reshape(len(template), -1)
    size = jnp.maximum(jnp.sqrt(jnp.sum(flat**2, -1)), jnp.finfo(flat.dtype).tiny)
    free = jnp.ones_like(size)
    if projection is not None:
        absorbed = jnp.einsum("np,ndp->nd", flat / size[:, None], projection)
        free = jnp.maximum(1 - jnp.sum(absorbed**2, -1), LEAST_FREE)
    return jnp.sum(flat / size[:, None] * white.reshape(flat.shape), -1) / jnp.sqrt(free)


def _without_edge(pairs: Array, axis: int) -> Array:
    """Pairs that do not reach over the edge of the stamp."""
    last = [slice(None)] * pairs.ndim
    last[axis] = -1
    return pairs.at[tuple(last)].set(0.0)


def _blob_significance(white: Array, used: Array, width: float) -> jax.Array:
    """Sum of whitened residuals under a Gaussian at each pixel, over its error."""
    ny, nx = white.shape[-2:]
    pad = int(4 * width)
    grid = (ny + pad, nx + pad)
    v, u = (np.minimum(np.arange(size), size - np.arange(size)) for size in grid)
    kernel = np.exp(-0.5 * (v[:, None] ** 2 + u[None, :] ** 2) / width**2).astype(np.float32)

    def smooth(image, by):
        spectrum = jnp.fft.rfft2(image, s=grid) * jnp.fft.rfft2(jnp.asarray(by, image.dtype))[None]
        return jnp.fft.irfft2(spectrum, s=grid)[..., :ny, :nx]

    weight = smooth(used, kernel**2)
    seen = weight > 0.3 * (kernel**2).sum()
    return jnp.where(seen, smooth(white * used, kernel) / jnp.sqrt(jnp.where(seen, weight, 1.0)), 0.0)
