"""Statistics of morphology without a profile, one row for each stamp: Gini, M20, C, A, S, M, I, D, radii.

``measure_morphology`` follows the definitions that the field has settled on, as ``statmorph`` has them (Rodriguez-Gomez
et al. 2019), on whole stamps. ``measure_paper_morphology`` follows the code behind Figs. 8 and 9 of Lanusse et al.
(2020): another region, the central 64x64 pixels, and M with a further factor. Do not compare one with the other.
Nothing is corrected for the PSF or for noise. A measurement that failed keeps its row, with NaN and a flag.
"""

from collections.abc import Callable
from enum import IntFlag

import numpy as np
from astropy.table import Table
from jaxtyping import Bool, Float

from hiergal.measure import cas, mid
from hiergal.measure.gini_m20 import gini, m20, petrosian_region
from hiergal.measure.petrosian import Ellipse, ellipse_of, petrosian_radius, radius_of_fraction
from hiergal.measure.segmentation import central_clump, detect, main_clump
from hiergal.runtime.pytree import Array
from hiergal.runtime.workers import in_order

__all__ = ["Flag", "measure_morphology", "measure_paper_morphology"]

Images = Float[Array, "n y x"]
Image = Float[np.ndarray, "y x"]
Row = dict[str, float]

GALAXIES_PER_TASK = 64  # stamps that a process takes at once
PAPER_PIX = 64
PAPER_LEVELS = 40
LEAST_PIXELS = 5  # of a region that says anything
ARCSEC = ("r20", "r50", "r80", "r50_elliptical", "petrosian", "petrosian_elliptical")
STANDARD = (
    *("gini", "m20", "concentration", "asymmetry", "smoothness", "multimode", "intensity", "deviation"),
    *(f"{name}_arcsec" for name in ARCSEC),
    *("axis_ratio", "sn_pixel", "sn", "pixels"),
)
PAPER = ("m", "i", "d", "gini", "m20", "pixels")


class Flag(IntFlag):
    """Reasons of a failed measurement of a stamp; 0 if it succeeded."""

    NOT_FINITE = 1  # NaN or infinity in the stamp
    NO_SOURCE = 2  # nothing there to be measured
    NO_PETROSIAN = 4  # no Petrosian radius inside the stamp
    NO_CENTER = 8  # asymmetry has no minimum near the galaxy; the centroid was taken
    NO_SKY = 16  # no part of the stamp without sources
    UNDEFINED = 32  # at least one statistic has no value


def measure_morphology(
    images: Images,
    noise_rms: float | Float[Array, "n"],
    *,
    pixel_scale_arcsec: float,
    masks: Bool[Array, "n y x"] | None = None,
    workers: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Table:
    """Measure Gini, M20, concentration, asymmetry, smoothness, multimode, intensity, deviation, and radii.

    Args:
        images: Stamps without background [flux per pixel], each with its galaxy near the centre.
        noise_rms: Standard deviation of the noise of a pixel [flux per pixel].
        pixel_scale_arcsec: Width of a pixel [arcsec].
        masks: Pixels that are not to be used, or None.
        workers: Number of processes, or None for one per available core.
        on_progress: Called with the number of stamps done since the last call.

    Returns:
        One row for each stamp. ``gini``, ``m20``, ``concentration``, ``asymmetry``, ``smoothness`` (Lotz et al. 2004);
        ``multimode`` (A2 / A1 where (A2 / A1) A2 is largest), ``intensity``, ``deviation`` (Freeman et al. 2013; Peth
        et al. 2016); ``r20_arcsec``, ``r50_arcsec``, ``r80_arcsec``: circles with these shares of the light inside 1.5
        Petrosian radii, and ``r50_elliptical_arcsec``; ``petrosian_arcsec``, ``petrosian_elliptical_arcsec``;
        ``axis_ratio`` of the second moments; ``sn_pixel``, the mean signal to noise of the galaxy's pixels, and ``sn``,
        that of their sum for uncorrelated noise; ``pixels`` of the region; ``flag`` (:class:`Flag`).

    Raises:
        ValueError: If shapes do not agree, or noise is not positive.

    Example:
        >>> y, x = np.mgrid[:64, :64] - 31.5
        >>> images = np.exp(-np.hypot(x, 2 * y) / 4)[None]
        >>> table = measure_morphology(images, 1e-3, pixel_scale_arcsec=0.03)
        >>> round(float(table["gini"][0]), 2), int(table["flag"][0])
        (0.5, 0)
    """
    images = _checked(images)
    rms = np.broadcast_to(np.asarray(noise_rms, float), len(images))
    if not (np.isfinite(rms) & (rms > 0)).all():
        raise ValueError(
            f"noise_rms: expected positive numbers, got {rms[~(rms > 0)][:3]}; give each stamp's own"
        )
    if masks is not None and np.shape(masks) != images.shape:
        raise ValueError(f"masks: expected the shape of the images, {images.shape}, got {np.shape(masks)}")
    unused = [None] * len(images) if masks is None else np.asarray(masks, bool)
    rows = _measured(_standard_row, list(zip(images, rms, unused, strict=True)), workers, on_progress)
    table = _table(rows, STANDARD, "Lotz et al. 2004, Freeman et al. 2013, as Rodriguez-Gomez et al. 2019")
    for name in ARCSEC:
        table[f"{name}_arcsec"] *= pixel_scale_arcsec
        table[f"{name}_arcsec"].unit = "arcsec"
    return table


def measure_paper_morphology(
    images: Images, *, workers: int | None = None, on_progress: Callable[[int], None] | None = None
) -> Table:
    """Measure M, I, D, Gini and M20 as Figs. 8 and 9 of Lanusse et al. (2020) have them.

    Args:
        images: Stamps of at least 64x64 pixels; their central 64x64 are measured [flux per pixel].
        workers: Number of processes, or None for one per available core.
        on_progress: Called with the number of stamps done since the last call.

    Returns:
        One row for each stamp: ``m`` ((A2 / A1) A2 / n at the best of 40 thresholds), ``i`` (0 for one group of light),
        ``d``, ``gini`` and ``m20`` of the positive pixels of the region, ``pixels`` (n), and ``flag`` (:class:`Flag`).

    Raises:
        ValueError: If the stamps are smaller.

    Example:
        >>> y, x = np.mgrid[:64, :64] - 31.5
        >>> bump = lambda x0, s: np.exp(-0.5 * ((x - x0) ** 2 + y**2) / s**2)
        >>> table = measure_paper_morphology((bump(0, 3) + 0.5 * bump(10, 2) + 1e-4 * np.cos(3 * x + y))[None])
        >>> round(float(table["i"][0]), 1), int(table["flag"][0])
        (0.2, 0)
    """
    images = _checked(images)
    ny, nx = images.shape[1:]
    if min(ny, nx) < PAPER_PIX:
        raise ValueError(
            f"images: expected at least {PAPER_PIX}x{PAPER_PIX} pixels, got {ny}x{nx}; cut larger stamps"
        )
    y, x = (ny - PAPER_PIX) // 2, (nx - PAPER_PIX) // 2
    central = images[:, y : y + PAPER_PIX, x : x + PAPER_PIX]
    rows = _measured(_paper_row, [(image,) for image in central], workers, on_progress)
    return _table(rows, PAPER, "Lanusse et al. 2020, Sec. 4.4.2")


def _standard_row(image: Image, noise_rms: float, unused: Bool[np.ndarray, "y x"] | None) -> Row:
    """Measure one stamp."""
    row: Row = {"flag": 0}
    if unused is not None:
        image = np.where(unused, 0.0, image)
    if not np.isfinite(image).all():
        return {"flag": Flag.NOT_FINITE}
    found = detect(image, noise_rms)
    if not found.galaxy.sum() >= LEAST_PIXELS:
        return {"flag": Flag.NO_SOURCE}
    valid = ~found.neighbours if unused is None else ~(found.neighbours | unused)
    image = np.where(valid, image, 0.0)
    light = np.where(found.galaxy & valid, image, 0.0)
    flux = light.sum()
    if flux <= 0:
        return {"flag": Flag.NO_SOURCE}
    y, x = np.indices(image.shape)
    centroid = float((light * x).sum() / flux), float((light * y).sum() / flux)
    peak_y, peak_x = np.unravel_index(np.argmax(light), light.shape)

    box = cas.sky_box(found.galaxy | ~valid)
    sky = None if box is None else image[box]
    sky_asymmetry = 0.0 if sky is None else float(np.abs(sky - sky[::-1, ::-1]).mean())
    if sky is None:
        row["flag"] |= Flag.NO_SKY
    first = petrosian_radius(image, valid, Ellipse(*centroid))
    if not np.isfinite(first):
        return row | {"flag": int(row["flag"]) | Flag.NO_PETROSIAN}
    centre = cas.asymmetry_center(
        image, valid, centroid, (float(peak_x), float(peak_y)), first, sky_asymmetry
    )
    if not centre.found:
        row["flag"] |= Flag.NO_CENTER
    circle, ellipse = Ellipse(centre.x, centre.y), ellipse_of(light, centre.x, centre.y)
    petrosian, elliptical = (petrosian_radius(image, valid, shape) for shape in (circle, ellipse))
    row |= {
        "petrosian_arcsec": petrosian,
        "petrosian_elliptical_arcsec": elliptical,
        "axis_ratio": ellipse.axis_ratio,
    }
    if not np.isfinite([petrosian, elliptical]).all():
        return row | {"flag": int(row["flag"]) | Flag.NO_PETROSIAN}

    r20, r50, r80 = (radius_of_fraction(image, circle, f, cas.EXTENT * petrosian) for f in (0.2, 0.5, 0.8))
    row |= {"r20_arcsec": r20, "r50_arcsec": r50, "r80_arcsec": r80}
    row["r50_elliptical_arcsec"] = radius_of_fraction(image, ellipse, 0.5, cas.EXTENT * elliptical)
    row["concentration"] = float(5 * np.log10(r80 / r20))
    extent = cas.EXTENT * first
    row["asymmetry"] = cas.asymmetry(image, valid, centre.x, centre.y, extent, sky_asymmetry)
    row["smoothness"] = cas.clumpiness(image, centre.x, centre.y, petrosian, sky)

    region = petrosian_region(image, centroid, ellipse, elliptical)
    row |= {
        "gini": gini(image[region]),
        "m20": m20(np.where(region, image, 0.0)),
        "pixels": float(region.sum()),
    }
    positive = region & (image >= 0)
    row["sn_pixel"] = float(image[positive].mean() / noise_rms) if positive.any() else float("nan")
    row["sn"] = float(image[region].sum() / noise_rms / np.sqrt(region.sum()))

    clump = main_clump(light)
    if not clump.any():
        clump = region
    inside = np.where(clump, np.maximum(light, 0), 0.0)
    if not inside.any():
        return row
    groups = mid.light_groups(inside, sums="smoothed")
    row |= {"multimode": mid.multimode(inside).value("peth2016"), "intensity": mid.intensity(groups)}
    row["deviation"] = mid.deviation(inside, groups, int(clump.sum()))
    return row


def _paper_row(image: Image) -> Row:
    """Measure the central pixels of one stamp."""
    if not np.isfinite(image).all():
        return {"flag": Flag.NOT_FINITE}
    light = np.where(central_clump(image), np.maximum(image, 0), 0.0)
    pixels = int((light > 0).sum())
    if pixels < LEAST_PIXELS:
        return {"flag": Flag.NO_SOURCE}
    groups = mid.light_groups(light)
    return {
        "m": mid.multimode(light, levels=PAPER_LEVELS).value("lanusse2020"),
        "i": mid.intensity(groups),
        "d": mid.deviation(light, groups, pixels),
        "gini": gini(light[light > 0]),
        "m20": m20(light),
        "pixels": float(pixels),
        "flag": 0,
    }


def _measured(
    measure: Callable[..., Row],
    stamps: list[tuple],
    workers: int | None,
    on_progress: Callable[[int], None] | None,
) -> list[Row]:
    """Measure stamps, a chunk at a time, in processes where there is work for them."""
    chunks = [stamps[i : i + GALAXIES_PER_TASK] for i in range(0, len(stamps), GALAXIES_PER_TASK)]
    rows: list[Row] = []
    for chunk in in_order(_chunk, [(measure, chunk) for chunk in chunks], workers=workers):
        rows += chunk
        if on_progress is not None:
            on_progress(len(chunk))
    return rows


def _chunk(measure: Callable[..., Row], stamps: list[tuple]) -> list[Row]:
    return [measure(*stamp) for stamp in stamps]


def _table(rows: list[Row], names: tuple[str, ...], method: str) -> Table:
    values = np.array([[row.get(name, np.nan) for name in names] for row in rows]).reshape(-1, len(names))
    table = Table(values, names=names)
    undefined = ~np.isfinite(values).all(axis=1)
    table["flag"] = np.array([int(row["flag"]) for row in rows], int) | np.where(
        undefined, int(Flag.UNDEFINED), 0
    )
    table.meta["method"] = method
    return table


def _checked(images: Array) -> np.ndarray:
    images = np.asarray(images, float)
    if images.ndim != 3:
        raise ValueError(
            f"images: expected stamps of shape [n, y, x], got {images.shape}; add an axis for one stamp"
        )
    return images
