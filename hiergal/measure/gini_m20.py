"""Gini and M20: inequality of the pixels of a galaxy, and second moment of the brightest of them.

Definitions of Lotz et al. (2004, Eqs. 6 to 8). With f_1 <= ... <= f_n the absolute values of the galaxy's pixels, and
m(pixels) their second moment about the centre that makes that of all of them smallest, which is the centroid,

    Gini = sum_i (2 i - n - 1) f_i / (n (n - 1) mean f)      M20 = log10 [m(brightest with 20 % of the flux) / m(all)].

The pixels are those above the brightness at the Petrosian radius, on the smoothed image (their Sec. 2.3).
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from hiergal.measure.petrosian import ANNULUS_PIX, Ellipse, overlap
from hiergal.measure.segmentation import label

__all__ = ["gini", "m20", "petrosian_region"]

Image = Float[np.ndarray, "y x"]
Mask = Bool[np.ndarray, "y x"]

SMOOTHING = 0.2  # of the Petrosian radius
BRIGHTEST = 0.2  # of the flux


def petrosian_region(image: Image, around: tuple[float, float], ellipse: Ellipse, radius_pix: float) -> Mask:
    """Find the pixels that are brighter than the mean at the Petrosian radius.

    Args:
        image: A stamp [flux per pixel], zero at neighbours.
        around: Centre (x, y) of the annulus [pixels]: the centroid.
        ellipse: Shape of the annulus.
        radius_pix: Petrosian radius along its major axis [pixels].

    Returns:
        The connected region that holds the brightest pixel of the image, once it is smoothed with a Gaussian whose
        width is a fifth of the radius.
    """
    smooth = ndimage.gaussian_filter(image, SMOOTHING * radius_pix, mode="constant")
    annulus = ellipse._replace(x=around[0], y=around[1])
    outer, inner = (
        overlap(image.shape, annulus, radius_pix + d) for d in (ANNULUS_PIX / 2, -ANNULUS_PIX / 2)
    )
    area = np.pi * ellipse.axis_ratio * 2 * radius_pix * ANNULUS_PIX
    threshold = ((outer - inner) * smooth).sum() / area
    regions, _ = label(smooth >= threshold)
    return regions == regions[np.unravel_index(np.argmax(smooth), smooth.shape)]


def gini(values: Float[np.ndarray, "pixel"]) -> float:
    """Compute the Gini coefficient of pixel values, negative ones taken as positive.

    Args:
        values: Pixels of the galaxy [flux].

    Returns:
        0 if all are the same, 1 if one has all the light; NaN for fewer than two pixels or no light.

    Example:
        >>> gini(np.array([1.0, 1.0, 1.0])), gini(np.array([0.0, 0.0, 1.0]))
        (0.0, 1.0)
    """
    values = np.sort(np.abs(values))
    n = len(values)
    if n < 2 or not values.sum() > 0:
        return float("nan")
    return float(((2 * np.arange(1, n + 1) - n - 1) * values).sum() / ((n - 1) * values.sum()))


def m20(image: Image) -> float:
    """Compute M20.

    Args:
        image: Light of the galaxy [flux per pixel], zero outside its region.

    Returns:
        Its value, below 0 for all but odd images; NaN if a moment is not positive.

    Example:
        >>> image = np.ones((10, 10))
        >>> image[0, 0] = image[9, 9] = 20.0  # the brightest are far out
        >>> round(m20(image), 3)
        -0.294
    """
    y, x = np.nonzero(image)
    flux = image[y, x]
    total = flux.sum()
    if not total > 0:
        return float("nan")
    square = (x - (flux * x).sum() / total) ** 2 + (y - (flux * y).sum() / total) ** 2
    order = np.argsort(-flux, kind="stable")
    # The faintest pixel counted is the one that makes the flux at least a fifth; others as bright count, too.
    last = np.searchsorted(np.cumsum(flux[order]), BRIGHTEST * total * (1 - 1e-12))
    bright = flux >= flux[order[min(last, len(order) - 1)]]
    moment, part = (flux * square).sum(), (flux * square)[bright].sum()
    return float(np.log10(part / moment)) if part > 0 and moment > 0 else float("nan")
