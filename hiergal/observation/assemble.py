"""Observations from arrays of any kind: their masks joined, their units made one.

Images, noise, PSFs and masks come from NumPy, ``numpy.ma``, Astropy (Quantity, NDData, CCDData), JAX, lists, pandas and
xarray (:mod:`hiergal.observation.arrays`), with units or without. Here their masks are joined, their units are made one
(:mod:`hiergal.observation.photometry`), and pixels without data are masked and filled with harmless numbers.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from hiergal.observation.arrays import (
    Unpacked,
    exact_identifiers,
    native,
    native_mask,
    pixel_scale_from,
    unpacked,
)
from hiergal.observation.independent import PixelNoise, WhiteNoise
from hiergal.observation.photometry import (
    SURFACE_UNIT,
    Photometry,
    flux_unit_of,
    photometry_from,
    surface_factor,
)
from hiergal.observation.psf import PSF, same_scale

__all__ = ["observation_fields", "padded_psf"]

PSF_SUM_WARNING = 0.05
PSF_STEP = 16  # sizes of PSFs are 15, 31, 47, ...
NOISE_POWER = {"variance": 2, "rms": 1, "weight": -2}  # of the flux unit


def observation_fields(
    image: Any,
    *,
    psf: Any,
    rms: Any = None,
    variance: Any = None,
    weight: Any = None,
    mask: Any = None,
    pixel_scale_arcsec: Any = None,
    flux_unit: Any = None,
    magnitude_zero_point: Any = None,
    catalog: Any = None,
    identifier: Any = None,
) -> dict[str, Any]:
    """Convert arrays into the fields of an :class:`~hiergal.observation.observation.Observation`.

    Pixels that hold no data are masked.

    Args:
        image: Stamps [flux per pixel, or surface brightness], [n, y, x], or one, [y, x]; NaN means no data. An NDData
            brings its mask, unit, uncertainty and WCS.
        psf: Effective PSFs, one for each galaxy, [n, py, px], or one for all, [py, px], or a :class:`PSF`; divided by
            their sum, with a warning if that is more than 5 % from 1.
        rms: Noise standard deviation [flux per pixel]: one number for all, one for each galaxy [n], or one for each
            pixel, [n, y, x] or [y, x].
        variance: Its square, instead.
        weight: 1 / variance, instead; 0 means no data.
        mask: Pixels to exclude: True, or 1, of the image's shape.
        pixel_scale_arcsec: Width of a pixel [arcsec], or an angle; not needed with an NDData that has a WCS.
        flux_unit: Unit of the pixels, words or an Astropy unit; not needed with a Quantity. Surface brightness (MJy/sr)
            becomes nJy per pixel.
        magnitude_zero_point: Magnitude of a source of unit flux; not needed with a unit that names a flux (nJy).
            Without either, fluxes are taken to be in the unit of the model that they meet.
        catalog: Columns of the catalogue, [n] each, in a dict or a table of Astropy or pandas; masked values are NaN.
        identifier: Identifiers, [n], whole numbers or text, no two equal; 0, 1, 2, ... if None.

    Returns:
        The fields by name: noise for each pixel, or white noise where one number was given, and a mask if any pixel is
        excluded.

    Raises:
        TypeError: If an array holds no numbers.
        ValueError: With what was expected, what came, and what to do.

    Example:
        >>> stamps = np.ones((2, 4, 5)); stamps[0, 1, 2] = np.nan
        >>> psf = np.ones((3, 3)) / 9
        >>> fields = observation_fields(stamps, psf=psf, rms=0.1, pixel_scale_arcsec=0.2)
        >>> int(fields["mask"].sum()), fields["psf"].stamp.shape
        (1, (2, 3, 3))
    """
    parts = unpacked(image, "image")
    given = {"variance": variance, "rms": rms, "weight": weight}
    noise = {name: unpacked(value, name) for name, value in given.items() if value is not None}
    if not noise and parts.noise is not None:
        noise = dict([parts.noise])
    single = parts.values.ndim == 2
    values = _lifted(parts.values, single)
    hidden = False if parts.mask is None else _lifted(parts.mask, single)
    if values.ndim != 3:
        raise ValueError(f"image: expected stamps of shape [n, y, x], or [y, x], got shape {values.shape}")
    n, shape = len(values), values.shape
    scale = _pixel_scale(pixel_scale_arcsec, parts, psf)
    photometry, factor, power = _photometry(parts, noise, flux_unit, magnitude_zero_point, scale)
    with np.errstate(over="ignore"):  # infinite pixels hold no data
        values = np.array(values * factor if factor != 1 else values, np.float32)
    sigma, unseen = _sigma(noise, shape, power, single)
    excluded = ~np.isfinite(values) | hidden
    if mask is not None:
        chosen = _lifted(np.asarray(native_mask(mask)), single)
        if chosen.shape != shape:
            raise ValueError(f"mask: expected the shape of the image, {shape}, got {chosen.shape}")
        excluded |= chosen
    if sigma.ndim == 3:
        excluded |= ~np.isfinite(sigma) | unseen
        sigma = _filled(sigma, excluded)
    values[excluded] = 0.0
    return dict(
        image=values,
        psf=PSF(_psf_stamps(psf, n), pixel_scale_arcsec=scale),
        noise=(PixelNoise if sigma.ndim == 3 else WhiteNoise)(sigma.astype(values.dtype)),
        mask=excluded if excluded.any() else None,
        catalog={
            name: np.atleast_1d(np.asarray(native(_plain(column), name, masked="nan", double=True), float))
            for name, column in _columns(catalog).items()
        },
        identifier=_identifiers(identifier, n),
        pixel_scale_arcsec=scale,
        photometry=photometry,
    )


def _lifted(array: np.ndarray, single: bool) -> np.ndarray:
    """One galaxy as a batch of one."""
    return array[None] if single and array.ndim == 2 else array


def _columns(catalog: Any) -> dict[str, Any]:
    if catalog is None:
        return {}
    names = getattr(catalog, "colnames", None) or getattr(getattr(catalog, "dtype", None), "names", None)
    return {str(name): catalog[name] for name in (list(catalog) if names is None else names)}


def _plain(column: Any) -> Any:
    """A column without its unit, which the names of columns state."""
    return column.value if hasattr(column, "unit") and not isinstance(column, np.ma.MaskedArray) else column


def _identifiers(identifier: Any, n: int) -> np.ndarray:
    if identifier is None:
        return np.arange(n)
    found = exact_identifiers(identifier if np.ndim(identifier) else [identifier], n)
    names, counts = np.unique(found, return_counts=True)
    if len(names) < n:
        again = names[counts > 1][0]
        raise ValueError(
            f"identifier: expected another one for each galaxy, got {again!s} in rows "
            f"{', '.join(map(str, np.flatnonzero(found == again)))}; make them differ"
        )
    return found


def _pixel_scale(stated: Any, parts: Unpacked, psf: Any) -> float:
    """Width of a pixel, from all inputs that state it."""
    own = {"the WCS": parts.pixel_scale_arcsec}
    if isinstance(psf, PSF):
        own["the PSF"] = psf.pixel_scale_arcsec
    own = {name: value for name, value in own.items() if value is not None}
    if stated is not None:
        scale = pixel_scale_from(stated)
    elif own:
        scale = next(iter(own.values()))
    else:
        raise ValueError("pixel_scale_arcsec: expected the width of a pixel [arcsec], got none; give it")
    if not 0 < scale < np.inf:
        raise ValueError(f"pixel_scale_arcsec: expected a positive width, got {scale}")
    for name, value in own.items():
        if not same_scale(value, scale):
            raise ValueError(
                f"pixel_scale_arcsec: expected that of {name}, {value:.6g}, got {scale:.6g}; make them agree"
            )
    return scale


def _photometry(
    parts: Unpacked,
    noise: Mapping[str, Unpacked],
    flux_unit: Any,
    magnitude_zero_point: Any,
    scale: float,
) -> tuple[Photometry | None, float, dict[str, float]]:
    """Flux unit and zero point, and the factors that convert images and each kind of noise to them."""
    unit = parts.unit if flux_unit is None else flux_unit
    if unit is None:
        named = [name for name, part in noise.items() if part.unit is not None]
        if named:
            raise ValueError(
                f"image: expected a unit, as {named[0]} has ({noise[named[0]].unit}), got plain numbers; give flux_unit"
            )
        return photometry_from(None, magnitude_zero_point), 1.0, dict.fromkeys(NOISE_POWER, 1.0)
    words = flux_unit_of(unit)
    surface = surface_factor(words, scale)
    if surface is None:
        photometry = photometry_from(words, magnitude_zero_point)
    else:
        photometry_from(
            words, magnitude_zero_point, pixel_scale_arcsec=scale
        )  # that they do not contradict each other
        photometry = photometry_from(SURFACE_UNIT)
    more = 1.0 if surface is None else surface
    factor = _conversion(parts.unit, unit, 1, "image") * more
    powers = {
        name: _conversion(part.unit, unit, NOISE_POWER[name], name) * more ** NOISE_POWER[name]
        for name, part in noise.items()
    }
    return photometry, factor, powers


def _conversion(own: Any, target: Any, power: int, name: str) -> float:
    """Factor that converts numbers in a unit to (a power of) another; 1 for plain numbers."""
    if own is None:
        return 1.0
    import astropy.units as u

    try:
        wanted = (u.Unit(target) if isinstance(target, str) else target) ** power
    except ValueError:
        wanted = None
    if wanted == own:
        return 1.0
    try:
        return float(own.to(wanted))
    except (u.UnitConversionError, TypeError, AttributeError):
        kind = {1: "", 2: "the square of ", -2: "1 over the square of "}[power]
        raise ValueError(
            f"{name}: expected {kind}{target}, or what converts to it, got {own}; make the units of image and "
            "noise agree"
        ) from None


def _sigma(
    noise: Mapping[str, Unpacked], shape: tuple[int, ...], factors: Mapping[str, float], single: bool
) -> tuple[np.ndarray, np.ndarray | bool]:
    """Standard deviations, with infinity where there are no data, and where they are masked."""
    if len(noise) != 1:
        raise ValueError(f"expected one of {', '.join(NOISE_POWER)}, got {', '.join(noise) or 'none'}")
    ((name, part),) = noise.items()
    values, hidden = np.asarray(part.values, float), part.mask
    if values.ndim == 0 or (values.shape == (1,) and len(shape)):
        values = np.broadcast_to(values.reshape(()), shape[:1])
    elif values.ndim == 2:  # one map, of the one galaxy or for all
        values = np.broadcast_to(values, (shape[0], *values.shape))
        hidden = None if hidden is None else np.broadcast_to(hidden, values.shape)
    if values.shape not in (shape, shape[:1]):
        raise ValueError(
            f"{name}: expected shape {shape}, or {shape[:1]} for white noise, got {part.values.shape}"
        )
    hidden = np.zeros(values.shape, bool) if hidden is None else np.broadcast_to(hidden, values.shape)
    if values.ndim == 1 and hidden.any():
        raise ValueError(
            f"{name}: expected the noise of each galaxy, got none (masked) in {hidden.sum()} of {hidden.size}"
        )
    wrong = (values < 0 if name == "weight" else values <= 0) & ~hidden
    if wrong.any():
        mend = (
            "weights of 0 already mean no data"
            if name == "weight"
            else "mask those pixels with NaN or infinity"
        )
        raise ValueError(
            f"{name}: expected positive values, got others in {wrong.sum()} of {wrong.size}; {mend}"
        )
    values = np.where(hidden, 1.0, values) * factors.get(name, 1.0)
    with np.errstate(divide="ignore"):
        sigma = {"variance": np.sqrt, "rms": np.asarray, "weight": lambda weight: weight**-0.5}[name](values)
    return sigma, hidden


def _filled(sigma: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """Replace pixels without data by the median of the others: the noise level is that of the observed pixels."""
    seen = np.where(excluded, np.nan, sigma)
    seen[excluded.all(axis=(1, 2))] = 1.0
    return np.where(np.isnan(seen), np.nanmedian(seen, axis=(1, 2), keepdims=True), seen)


def _psf_stamps(psf: Any, n: int) -> np.ndarray:
    """Return PSFs that sum to one, one for each galaxy."""
    parts = unpacked(psf.stamp if isinstance(psf, PSF) else psf, "psf")
    if parts.mask is not None:
        raise ValueError(
            f"psf: expected PSFs without a mask, got {parts.mask.sum()} masked pixels; fill them"
        )
    stamps = np.asarray(parts.values, float)
    if stamps.ndim == 3 and len(stamps) == 1:
        stamps = stamps[0]
    if stamps.ndim == 2:
        stamps = np.broadcast_to(stamps, (n, *stamps.shape))
    if stamps.ndim != 3 or len(stamps) != n:
        raise ValueError(
            f"psf: expected one for each of {n} galaxies, [n, py, px], or [py, px], got shape {stamps.shape}"
        )
    check_odd(stamps.shape[1:], "along y and x")
    total = stamps.sum(axis=(1, 2))
    if not (total > 0).all():
        raise ValueError(
            f"psf: expected positive sums, got others in {(~(total > 0)).sum()} of {n}; check the PSFs"
        )
    worst = total[np.argmax(np.abs(total - 1))]
    if abs(worst - 1) > PSF_SUM_WARNING:
        warnings.warn(f"PSFs sum to as much as {worst:.4g}; each is divided by its sum", stacklevel=4)
    return (stamps / total[:, None, None]).astype(np.float32)


def padded_psf(psf: PSF, shape: tuple[int, int]) -> PSF:
    """Pad PSFs with zeros about their centre to 15, 31, 47, ... pixels: programs are compiled for each size.

    Args:
        psf: PSFs.
        shape: (ny, nx) of the stamps, which PSFs are not padded beyond.

    Example:
        >>> padded_psf(PSF(np.ones((2, 3, 33)), pixel_scale_arcsec=0.1), (64, 40)).stamp.shape
        (2, 15, 39)
    """
    stamps, edges = np.asarray(psf.stamp), [(0, 0)]
    for old, largest in zip(stamps.shape[1:], shape, strict=True):
        new = min(-(-(old + 1) // PSF_STEP) * PSF_STEP - 1, largest - 1 + largest % 2)
        room = max(0, new - old) // 2
        edges.append((room, room))
    return psf.replace(stamp=np.pad(stamps, edges))


def check_odd(shape: tuple[int, ...], where: str) -> None:
    """Refuse PSF stamps without a central pixel."""
    if any(size % 2 == 0 for size in shape):
        raise ValueError(
            f"psf: expected an odd number of pixels {where}, so that a central pixel is the origin, got "
            f"{shape}; draw the PSF again on an odd stamp (padding one side would move its centre by half a "
            "pixel)"
        )
