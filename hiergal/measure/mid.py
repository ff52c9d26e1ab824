"""M, I and D (multimode, intensity, deviation): multiplicity, and offset of the brightest part from the centroid.

Multimode, intensity and deviation of Freeman et al. (2013), of an image that is zero outside the galaxy's region
(:mod:`hiergal.measure.segmentation`). With A1 >= A2 the areas of the two largest connected regions above a
threshold, n the number of the galaxy's pixels, F1 >= F2 the fluxes of its two brightest groups, p the peak of
the brightest group and c the centroid of the light,

    M = max over thresholds of (A2 / A1) A2        I = F2 / F1        D = |p - c| sqrt(pi / n).

Others call other things M: A2 / A1 at the same threshold (Peth et al. 2016), and (A2 / A1) A2 / n, which is what
Lanusse et al. (2020) plot. Groups are the pixels from which steepest ascent on the smoothed image ends at one peak.
"""

import heapq
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage

from hiergal.measure.segmentation import CORNERS, label
from hiergal.runtime.pytree import brief

SMALLEST = 1e-9  # of the brightest pixel: less is no light

__all__ = ["Groups", "Multimode", "deviation", "intensity", "light_groups", "multimode"]

Image = Float[np.ndarray, "y x"]


class Multimode(NamedTuple):
    """Areas of the two largest regions at the threshold where (A2 / A1) A2 is largest [pixels].

    ``area2`` is 0 where the galaxy never falls apart; ``pixels`` is n.
    """

    area1: int
    area2: int
    pixels: int

    def value(self, definition: Literal["freeman2013", "peth2016", "lanusse2020"] = "peth2016") -> float:
        """M by one of its definitions: (A2 / A1) A2, A2 / A1, or (A2 / A1) A2 / n."""
        factor = {"freeman2013": self.area2, "peth2016": 1.0, "lanusse2020": self.area2 / self.pixels}
        return self.area2 / self.area1 * factor[definition]


class Groups(NamedTuple):
    """Groups of light, the brightest first.

    ``flux`` [flux], ``peak_y`` and ``peak_x`` [pixels] have one entry for each group.
    """

    flux: Float[np.ndarray, "group"]
    peak_y: Int[np.ndarray, "group"]
    peak_x: Int[np.ndarray, "group"]

    __repr__ = brief


def multimode(image: Image, *, levels: int | None = None) -> Multimode:
    """Find the threshold at which the second largest region is largest.

    Args:
        image: Light of the galaxy [flux per pixel], zero outside its region.
        levels: Number of thresholds, at equal steps in the rank of the galaxy's pixels; None for all there are.

    Example:
        >>> image = np.zeros((9, 20))
        >>> image[2:6, 2:8], image[3:5, 12:15], image[4, 8:12] = 3.0, 2.0, 1.0
        >>> found = multimode(image)
        >>> found.area1, found.area2, found.value("peth2016")
        (24, 6, 0.25)
    """
    image = _cropped(image)
    values = np.sort(image[image > 0])
    pixels = len(values)
    if not pixels:
        return Multimode(1, 0, 1)

    if levels is not None:
        places = np.round(pixels * np.arange(levels) / levels).astype(int) - 1
        thresholds = values[[place for place in places if place > 0] or [0]]
        areas = [_areas_above(image, threshold) for threshold in thresholds]
    else:
        areas = list(_areas_at_all_thresholds(image))
    return Multimode(*max(areas, key=lambda a: a[1] ** 2 / a[0]), pixels)


def _areas_above(image: Image, threshold: float) -> tuple[int, int]:
    """Areas of the two largest regions above one threshold."""
    regions, _ = label(image >= threshold)
    second, first = np.sort(np.append(np.bincount(regions.ravel())[1:], 0))[-2:]
    return int(first), int(second)


def _areas_at_all_thresholds(image: Image) -> Iterator[tuple[int, int]]:
    """Areas of the two largest regions above each brightness there is, the highest first.

    Pixels are added from the brightest on, and regions that they touch are joined (a union-find).
    """
    padded = np.pad(image, 1)
    width, flat = padded.shape[1], padded.ravel()
    around = [int(dy * width + dx) for dy, dx in np.argwhere(CORNERS) - 1 if (dy, dx) != (0, 0)]
    order = np.flatnonzero(flat > 0)
    order = order[np.argsort(-flat[order], kind="stable")]
    last_of_level = np.append(np.diff(flat[order]) != 0, True).tolist()
    parent, sizes = {}, {}
    for pixel, last in zip(order.tolist(), last_of_level, strict=True):
        parent[pixel], size = pixel, 1
        for shift in around:
            root = pixel + shift
            if root not in parent:
                continue
            while parent[root] != root:
                parent[root] = root = parent[parent[root]]
            if root != pixel:
                parent[root] = pixel
                size += sizes.pop(root)
        sizes[pixel] = size
        if last:
            first, second = heapq.nlargest(2, [*sizes.values(), 0])
            yield first, second


def light_groups(
    image: Image, *, smoothing_pix: float = 1.0, sums: Literal["image", "smoothed"] = "image"
) -> Groups:
    """Divide the light of a galaxy among the peaks of the smoothed image.

    Args:
        image: Light of the galaxy [flux per pixel], zero outside its region.
        smoothing_pix: Width (sigma) of the Gaussian that the image is smoothed with to find peaks [pixels].
        sums: Whether the fluxes of groups are those of the image or of the smoothed image.

    Example:
        >>> y, x = np.mgrid[:30, :40]
        >>> bump = lambda x0: np.exp(-0.5 * ((x - x0) ** 2 + (y - 15) ** 2) / 4)
        >>> groups = light_groups(bump(10) + 0.5 * bump(25))
        >>> groups.peak_x.tolist(), round(float(groups.flux[1] / groups.flux[0]), 2)
        ([10, 25], 0.5)
    """
    smooth = ndimage.gaussian_filter(image, smoothing_pix, mode="constant")
    lit = smooth > SMALLEST * smooth.max()
    ny, nx = image.shape
    # Each pixel points at the brightest of its neighbours and itself, the first of those alike, so that a peak of
    # several pixels is one; following the pointers leads to the peaks.
    padded = np.pad(smooth, 1, constant_values=-np.inf)
    shifts = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    around = np.stack([padded[1 + dy : 1 + dy + ny, 1 + dx : 1 + dx + nx] for dy, dx in shifts])
    step = np.array([dy * nx + dx for dy, dx in shifts])[np.argmax(around, axis=0)]
    target = (np.arange(image.size).reshape(ny, nx) + step).ravel()
    while not np.array_equal(target[target], target):
        target = target[target]
    light = smooth if sums == "smoothed" else image
    flux = np.bincount(target[lit.ravel()], light[lit], minlength=image.size)
    peaks = np.flatnonzero(np.bincount(target[lit.ravel()], minlength=image.size))
    order = peaks[np.argsort(-flux[peaks], kind="stable")]
    return Groups(flux[order], order // nx, order % nx)


def intensity(groups: Groups) -> float:
    """Compute I, the flux of the second brightest group over that of the brightest; 0 if there is but one.

    Example:
        >>> intensity(Groups(np.array([4.0, 1.0]), np.array([5, 9]), np.array([5, 3])))
        0.25
    """
    return float(groups.flux[1] / groups.flux[0]) if len(groups.flux) > 1 else 0.0


def deviation(image: Image, groups: Groups, pixels: int) -> float:
    """Compute D, the distance of the brightest group's peak from the centroid, over the radius of the galaxy's area.

    Args:
        image: Light of the galaxy [flux per pixel], zero outside its region.
        groups: Its groups.
        pixels: Area of the region.

    Example:
        >>> image = np.zeros((21, 21))
        >>> image[8:13, 8:13] = 1.0
        >>> deviation(image, Groups(np.ones(1), np.array([10]), np.array([12])), 25)
        0.7089815403622064
    """
    y, x = np.nonzero(image)
    light = image[y, x]
    centroid_y, centroid_x = (light * y).sum() / light.sum(), (light * x).sum() / light.sum()
    distance = np.hypot(groups.peak_y[0] - centroid_y, groups.peak_x[0] - centroid_x)
    return float(distance * np.sqrt(np.pi / pixels))


def _cropped(image: Image) -> Float[np.ndarray, "rows columns"]:
    """The part of the image that is not empty: connected regions are found faster there."""
    y, x = image.nonzero()
    return image[y.min() : y.max() + 1, x.min() : x.max() + 1] if len(y) else image
