"""Second moments as Lanusse et al. (2020), Sec. 4.4.1, measure them: HSM adaptive moments of whole, noisy stamps.

The moments are weighted with the elliptical Gaussian that fits the image best (Hirata & Seljak 2003; Mandelbaum et al.
2005), as GalSim implements them. Nothing is corrected for the PSF or the noise. A failed measurement keeps its
row: its numbers are NaN and its flag says so.
"""

import numpy as np
from astropy.table import Table
from jaxtyping import Float

from hiergal.runtime.pytree import Array
from hiergal.runtime.workers import in_order

__all__ = ["measure_moments"]

COLUMNS = ("sigma", "g1", "g2", "g", "rho4", "amplitude", "x_pix", "y_pix")
GALAXIES_PER_TASK = 500
Images = Float[Array, "n y x"]


def measure_moments(images: Images, *, pixel_scale_arcsec: float, workers: int | None = 1) -> Table:
    """Measure adaptive moments of a batch of stamps.

    Args:
        images: Stamps [flux per pixel], [n, y, x], each with its galaxy near the centre.
        pixel_scale_arcsec: Width of a pixel [arcsec].
        workers: Number of processes, or None for one per available core.

    Returns:
        One row for each stamp: ``sigma`` (determinant radius det(Q)^(1/4) [arcsec]), ``g1``, ``g2``, ``g`` (reduced
        shear (1 - q) / (1 + q), Eq. 17), ``rho4`` (radial fourth moment, 2 for a Gaussian), ``amplitude`` (flux of the
        elliptical Gaussian), ``x_pix`` and ``y_pix`` (its centre, from that of the stamp [pixels]), and ``flag`` (0
        where the measurement succeeded).

    Example:
        >>> y, x = np.mgrid[:33, :33] - 16.0
        >>> moments = measure_moments(np.exp(-0.5 * (x**2 + y**2) / 4**2)[None], pixel_scale_arcsec=0.03)
        >>> round(float(moments["sigma"][0]), 3), int(moments["flag"][0])
        (0.12, 0)
    """
    images = np.asarray(images)
    if images.ndim != 3:
        raise ValueError(
            f"images: expected stamps of shape [n, y, x], got {images.shape}; add an axis for one stamp"
        )
    chunks = [images[i : i + GALAXIES_PER_TASK] for i in range(0, len(images), GALAXIES_PER_TASK)]
    rows = in_order(_measure, [(chunk,) for chunk in chunks], workers=workers)
    values = np.concatenate([np.empty((0, len(COLUMNS))), *rows])
    values[:, COLUMNS.index("sigma")] *= pixel_scale_arcsec
    table = Table(values, names=COLUMNS)
    table["flag"] = (~np.isfinite(values).all(axis=1)).astype(int)
    table["sigma"].unit = "arcsec"
    table.meta["method"] = "galsim.hsm.FindAdaptiveMom"
    return table


def _measure(images: np.ndarray) -> np.ndarray:
    """Measure some stamps; rows of NaN where the moments do not converge."""
    import galsim

    rows = np.full((len(images), len(COLUMNS)), np.nan)
    for row, stamp in zip(rows, images, strict=True):
        if not np.isfinite(stamp).all():
            continue
        result = galsim.hsm.FindAdaptiveMom(
            galsim.Image(np.ascontiguousarray(stamp), scale=1.0), strict=False
        )
        # A negative blob has moments, too, but no light.
        if result.moments_status == 0 and result.moments_amp > 0:
            g1, g2 = result.observed_shape.g1, result.observed_shape.g2
            center = result.moments_centroid  # the first pixel of a GalSim image is (1, 1)
            x, y = center.x - (stamp.shape[1] + 1) / 2, center.y - (stamp.shape[0] + 1) / 2
            size, radial = result.moments_sigma, result.moments_rho4
            row[:] = (size, g1, g2, np.hypot(g1, g2), radial, result.moments_amp, x, y)
    return rows
