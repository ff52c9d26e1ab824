"""Segmentation of stamps: the pixels that belong to the galaxy.

Three answers, each with its use: ``detect`` finds the sources of a stamp above its noise, as a catalogue would, so that
neighbours can be left out; ``central_clump`` grows the region around the centre that Freeman et al. (2013, Sec. 4.3)
measure, as the code behind Lanusse et al. (2020) has it; ``main_clump`` is the same idea without steps in the
threshold (Rodriguez-Gomez et al. 2019). Connected means by an edge or by a corner. Images are [y, x].
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

__all__ = ["Detection", "central_clump", "detect", "label", "main_clump", "without_holes"]

Image = Float[np.ndarray, "y x"]
Mask = Bool[np.ndarray, "y x"]

ETA = 0.2  # Petrosian's ratio of brightness at the edge to the mean inside
CORNERS = np.ones((3, 3), int)
STEPS, STEP, START = 198, 0.005, 0.99  # thresholds of central_clump, as shares of the stamp's pixels
LEAST_PIXELS = 16  # fewer say little of the brightness at the edge
JUMP, FIRST_JUMP = 1.1, 10  # in units of a step's pixels; the first steps may jump


class Detection(NamedTuple):
    """Pixels of the galaxy at the centre, and of its neighbours."""

    galaxy: Mask
    neighbours: Mask


def label(above: Mask) -> tuple[np.ndarray, int]:
    """Number the connected regions of a mask, from 1 on.

    Args:
        above: Pixels to be grouped.

    Returns:
        The number of each pixel's region, 0 outside, and how many there are.
    """
    return ndimage.label(above, structure=CORNERS)


def detect(
    image: Image, noise_rms: float, *, threshold: float = 1.5, smoothing_pix: float = 1.5
) -> Detection:
    """Find the galaxy nearest to the centre of a stamp, and its neighbours.

    Args:
        image: A stamp without background [flux per pixel].
        noise_rms: Standard deviation of its noise [flux per pixel].
        threshold: Brightness of a source's edge, in units of the noise of a pixel.
        smoothing_pix: Width (sigma) of the Gaussian that the image is smoothed with before [pixels].

    Returns:
        Two masks; the galaxy's is empty if nothing is above the threshold.

    Example:
        >>> y, x = np.mgrid[:41, :41]
        >>> image = np.exp(-0.5 * ((x - 20) ** 2 + (y - 20) ** 2) / 9) + np.exp(-((x - 35) ** 2) - (y - 5) ** 2)
        >>> [int(mask.sum()) for mask in detect(image, 0.1)]
        [121, 5]
    """
    regions, count = label(ndimage.gaussian_filter(image, smoothing_pix) > threshold * noise_rms)
    if not count:
        empty = np.zeros(image.shape, bool)
        return Detection(empty, empty)
    y, x = np.nonzero(regions)
    centre_y, centre_x = (np.array(image.shape) - 1) / 2
    nearest = np.argmin((y - centre_y) ** 2 + (x - centre_x) ** 2)
    galaxy = regions == regions[y[nearest], x[nearest]]
    return Detection(galaxy, (regions > 0) & ~galaxy)


def central_clump(image: Image, *, eta: float = ETA) -> Mask:
    """Grow the region around the centre until its edge is faint, for the statistics of Lanusse et al. (2020).

    The threshold falls in steps of half a per cent of the stamp's pixels, from the 99th percentile on. Growth stops
    where the pixels that were added since the last step that added at least 16 have a mean brightness d with
    d / (m + d) < eta, m being the mean of the region before; or at the step before one that adds more than 1.1 times
    its share of pixels, and so runs into the noise or a neighbour. Holes are filled.

    Args:
        image: A stamp [flux per pixel].
        eta: Where to stop.

    Returns:
        The region; empty if the pixel at the centre is never part of any.

    Example:
        >>> y, x = np.mgrid[:64, :64] - 31.5
        >>> region = central_clump(np.exp(-np.hypot(x, y) / 4) + 1e-6 * y)
        >>> round(float(np.sqrt(region.sum() / np.pi)) / 4, 1)  # scale lengths
        3.3
    """
    ny, nx = image.shape
    centre = (ny - 1) // 2, (nx - 1) // 2
    values = np.sort(image, axis=None)
    region = previous = np.zeros(image.shape, bool)
    mean, count = 0.0, 0
    for step in range(STEPS):
        place = int(round(START - STEP * step, 9) * image.size) - 1
        regions, _ = label(image > values[max(place, 0)])
        if not regions[centre]:
            continue
        previous, region = region, regions == regions[centre]
        pixels = int(region.sum())
        if count:
            added = pixels - count
            if added < LEAST_PIXELS:
                continue
            if added > JUMP * STEP * image.size and step >= FIRST_JUMP:
                return without_holes(previous)
            edge = (image[region].sum() - mean * count) / added
            if edge / (mean + edge) < eta:
                return without_holes(region)
        mean, count = image[region].mean(), pixels
    return without_holes(region)


def main_clump(image: Image, *, eta: float = ETA, smoothing_pix: int = 3) -> Mask:
    """Find the region around the brightest pixel whose edge has a given share of its mean brightness.

    The threshold of Freeman et al. (2013, Sec. 4.3), found by bisection as Rodriguez-Gomez et al. (2019) do; the
    outline is then smoothed.

    Args:
        image: A stamp [flux per pixel], zero outside the source.
        eta: Brightness of the edge over the mean brightness inside.
        smoothing_pix: Width of the box that smooths the outline [pixels].

    Returns:
        The region. If no threshold is faint enough, it is empty.

    Example:
        >>> y, x = np.mgrid[:64, :64] - 31.3
        >>> region = main_clump(np.exp(-np.hypot(x, y) / 4))
        >>> round(float(np.sqrt(region.sum() / np.pi)) / 4, 1)  # scale lengths
        3.6
    """
    image = np.maximum(image, 0)
    values = np.sort(image[image > 0])
    nothing = np.zeros(image.shape, bool)
    if not len(values):
        return nothing
    brightest = np.unravel_index(np.argmax(image), image.shape)

    def clump(place: int) -> Mask:
        regions, _ = label(image >= values[place])
        return regions == regions[brightest]

    low, high = 0, len(values) - 1  # the ratio is below eta at low, above at high
    if values[low] > eta * image[clump(low)].mean():
        return nothing
    while high - low > 1:
        middle = (low + high) // 2
        if values[middle] > eta * image[clump(middle)].mean():
            high = middle
        else:
            low = middle
    smooth = ndimage.uniform_filter(clump(low).astype(float), smoothing_pix) > 0.5
    smooth[brightest] = True
    regions, _ = label(smooth)
    return regions == regions[brightest]


def without_holes(region: Mask) -> Mask:
    """Fill pixels, except for those at the stamp's edge, most of whose eight neighbours belong to a region.

    Args:
        region: A region.

    Returns:
        The region, with its holes and notches filled until none is left.
    """
    inner = np.zeros(region.shape, bool)
    inner[1:-1, 1:-1] = True
    while True:
        neighbours = ndimage.convolve(region.astype(np.int8), CORNERS.astype(np.int8), mode="constant")
        holes = inner & ~region & (neighbours > 4)
        if not holes.any():
            return region
        region = region | holes
