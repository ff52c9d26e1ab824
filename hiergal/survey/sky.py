"""Orientation of a stamp on the sky, from its WCS: pixel scale, position, and the direction of its axes.

Ellipticities of hiergal are relative to the axes of the stamp. A store of cutouts with a WCS has the columns ``ra_deg``
and ``dec_deg`` (of the middle of the stamp, ICRS), ``north_rad`` and ``parity``: the position angle, from North through
East, of the stamp's y axis, and +1 where East is on the left with North up, -1 for a mirrored stamp. From these follows
the position angle of a galaxy on the sky (:func:`position_angle`).
"""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

__all__ = ["SKY_COLUMNS", "SkyPlace", "position_angle", "scale_of", "sky_of"]

SKY_COLUMNS = {"ra_deg": "deg", "dec_deg": "deg", "north_rad": "rad", "parity": "1"}  # with units
STEP = 0.5  # pixels from the middle, to tell directions


class SkyPlace(NamedTuple):
    """Place of a stamp: position of its middle [deg], position angle of its y axis [rad], and parity."""

    ra_deg: float
    dec_deg: float
    north_rad: float
    parity: float


def scale_of(header: Mapping[str, Any], where: str) -> float | None:
    """Return the pixel scale of a celestial WCS [arcsec]; None if a header has none.

    Raises:
        ValueError: If pixels are not square.
    """
    from astropy.wcs.utils import proj_plane_pixel_scales

    wcs = _wcs(header, where)
    if wcs is None:
        return None
    x, y = proj_plane_pixel_scales(wcs) * 3600
    if abs(x - y) > 0.01 * x:
        raise ValueError(f"{where}: expected square pixels, got {x:.5g} x {y:.5g} arcsec; resample the image")
    return float(np.sqrt(x * y))


def sky_of(header: Mapping[str, Any], shape: tuple[int, int]) -> SkyPlace | None:
    """Return the place of a stamp on the sky; None without a WCS in its header.

    Args:
        header: Header of the image.
        shape: Its pixels (ny, nx).
    """
    wcs = _wcs(header)
    if wcs is None:
        return None
    y, x = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    places = np.array([[x, y], [x + STEP, y], [x - STEP, y], [x, y + STEP], [x, y - STEP]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sky = wcs.pixel_to_world(*places.T).icrs
    ra, dec = np.radians(sky.ra.deg), np.radians(sky.dec.deg)
    if not np.isfinite(ra + dec).all():
        return None
    vectors = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
    east = np.array([-np.sin(ra[0]), np.cos(ra[0]), 0.0])
    north = np.array([-np.sin(dec[0]) * np.cos(ra[0]), -np.sin(dec[0]) * np.sin(ra[0]), np.cos(dec[0])])
    along_x, along_y = vectors[1] - vectors[2], vectors[3] - vectors[4]
    angle = np.arctan2(along_y @ east, along_y @ north)
    # Seen from inside the sphere, East is left of North: y is a quarter turn left of x where the stamp is not mirrored.
    turn = (along_x @ north) * (along_y @ east) - (along_x @ east) * (along_y @ north)
    return SkyPlace(float(sky.ra.deg[0]), float(sky.dec.deg[0]), float(angle), 1.0 if turn > 0 else -1.0)


def position_angle(
    g1: Float[np.ndarray, "*n"],
    g2: Float[np.ndarray, "*n"],
    north_rad: Float[np.ndarray, "*n"],
    parity: Float[np.ndarray, "*n"],
) -> Float[np.ndarray, "*n"]:
    """Return the position angle of a galaxy's major axis on the sky, from North through East, in [0, pi) [rad].

    Args:
        g1: Ellipticity along the axes of the stamp.
        g2: Ellipticity along its diagonals.
        north_rad: Position angle of the stamp's y axis [rad].
        parity: +1, or -1 for a mirrored stamp.

    Example:
        >>> along_y = position_angle(np.array([-0.2]), np.array([0.0]), np.array([0.3]), np.array([1.0]))
        >>> along_y.round(6).tolist()
        [0.3]
    """
    along = 0.5 * np.arctan2(g2, g1)
    return np.mod(north_rad + parity * (along - np.pi / 2), np.pi)


def _wcs(header: Mapping[str, Any], where: str = "header") -> Any:
    """The celestial WCS of a header, or None."""
    from astropy.io import fits
    from astropy.wcs import WCS

    if "CTYPE1" not in header:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            wcs = WCS(header if isinstance(header, fits.Header) else fits.Header(dict(header)))
            return wcs.celestial if wcs.has_celestial else None
        except MemoryError:
            raise
        except Exception as error:  # of many kinds, where a keyword is of another type
            words = " ".join(str(error).split())
            raise ValueError(
                f"{where}: expected a WCS that Astropy reads, got {words}; fix the header"
            ) from None
