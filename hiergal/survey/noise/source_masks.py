"""Source-free pixels of stamps, to measure noise in: sources of all sizes are masked, and the mask's edge is apodised.

On each of three scales a smoothed stamp is compared with the scatter of all smoothed stamps (median absolute
deviation of what is not masked, from a few rounds). Pixels beyond 4 standard deviations, of either sign, so that
peaks and troughs of the noise are treated alike, are masked with what surrounds them, more around large objects.
Single pixels beyond 5 standard deviations go as well.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

__all__ = ["noise_scatter", "source_free"]

SCALES_PIX = (1.0, 2.0, 4.0)  # standard deviations of the kernels that sources are looked for with
DETECTION, OUTLIER = 4.0, 5.0  # of smoothed and of single pixels [standard deviations]
GROW_PIX, GROW_SCALE, GROW_RADIUS = (
    1.0,
    0.5,
    0.35,
)  # mask around a detection: pixels, + scales, + of its radius
APODISE_PIX = 2.0
CALIBRATION_ROUNDS = 4
FEWEST_PIXELS = 640  # without sources, of all stamps: with fewer, masks are not refined


def noise_scatter(stamps: list[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """Return the standard deviation of source-free noise, in single pixels and smoothed on each scale.

    Args:
        stamps: Images [y, x] of any size, and where they have no data.

    Example:
        >>> stamp = np.random.default_rng(0).normal(size=(64, 64))
        >>> round(noise_scatter([(stamp, np.zeros((64, 64), bool))])[0], 1)
        1.0
    """
    smoothed = [[_smoothed(image, bad, scale) for image, bad in stamps] for scale in (0.0, *SCALES_PIX)]
    free = [~bad for _, bad in stamps]
    for _ in range(CALIBRATION_ROUNDS):
        scatter = []
        for images in smoothed:
            values = np.concatenate(
                [image[there] for image, there in zip(images, free, strict=True)] or [np.ones(1)]
            )
            scatter.append(max(1.4826 * float(np.median(np.abs(values))) if len(values) else 1.0, 1e-12))
        found = [source_free(image, bad, scatter) > 0 for image, bad in stamps]
        if sum(there.sum() for there in found) < FEWEST_PIXELS:
            break
        free = found
    return scatter


def source_free(
    image: Float[np.ndarray, "y x"], bad: Bool[np.ndarray, "y x"], scatter: list[float]
) -> Float[np.ndarray, "y x"]:
    """Return 1 for source-free pixels, 0 for others, and what is between along the edge of the mask.

    Args:
        image: A stamp.
        bad: Where it has no data.
        scatter: What :func:`noise_scatter` returned for stamps of the survey.

    Example:
        >>> stamp = np.zeros((32, 32)); stamp[16, 16] = 100.0
        >>> weight = source_free(stamp, stamp > 1e9, [1.0, 1.0, 1.0, 1.0])
        >>> float(weight[16, 16]), float(weight[4, 4])
        (0.0, 1.0)
    """
    masked = bad | (np.abs(image) > OUTLIER * scatter[0])
    for scale, sigma in zip(SCALES_PIX, scatter[1:], strict=True):
        found = ~bad & (np.abs(_smoothed(image, bad, scale)) > DETECTION * sigma)
        if found.any():
            label, count = ndimage.label(found, np.ones((3, 3)))
            radius = np.sqrt(ndimage.sum_labels(found, label, np.arange(count + 1)) / np.pi)
            distance, nearest = ndimage.distance_transform_edt(~found, return_indices=True)
            margin = GROW_PIX + GROW_SCALE * scale + GROW_RADIUS * radius[label[tuple(nearest)]]
            masked = masked | (distance <= margin)
    free = ndimage.distance_transform_edt(np.pad(~masked, 1))[1:-1, 1:-1]
    return np.sin(0.5 * np.pi * np.clip(free / (APODISE_PIX + 1), 0, 1)) ** 2


def _smoothed(image: np.ndarray, bad: np.ndarray, scale: float) -> np.ndarray:
    """Smooth what is there, with the same scatter where part of the kernel sees no data."""
    if not scale:
        return image
    there = ndimage.gaussian_filter((~bad).astype(float), scale, mode="constant")
    return ndimage.gaussian_filter(image, scale, mode="constant") / np.sqrt(np.maximum(there, 0.05))
