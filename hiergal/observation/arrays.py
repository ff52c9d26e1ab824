"""Conversion of foreign arrays to native ones, for everything that JAX computes with.

JAX's fast path, once warm, takes any array of the right shape for one of native numbers: the mask of a masked array is
dropped, big-endian bytes are read backwards, units are forgotten. So nothing foreign may reach it. Records
(:class:`~hiergal.observation.Observation`, :class:`~hiergal.observation.psf.PSF`, noise models) and public functions
bring what they are given through :func:`native`; what has masks or units goes through
:func:`hiergal.observation.assemble.observation_fields`, which joins and converts them.

========================================  ===========================================================================
kind                                      becomes
========================================  ===========================================================================
floats of 32 bits, JAX arrays             what they are
floats of 16 and 64 bits, integers        float32 (float64 stays where JAX computes in double precision)
big-endian, memory maps, not contiguous,  the same numbers in memory of the machine's own order
read-only, lists, pandas, xarray
``numpy.ma``                              numbers, if nothing is masked; else refused, or mask and numbers apart
Quantity, NDData, CCDData                 refused, or numbers, unit, mask and uncertainty apart (:func:`unpacked`)
text, objects, complex numbers            refused
========================================  ===========================================================================
"""

from typing import Any, NamedTuple, cast

import jax
import numpy as np

__all__ = ["Unpacked", "exact_identifiers", "native", "native_mask", "pixel_scale_from", "unpacked"]

EXACT = 2**53  # floats are whole numbers up to there, one by one


def native(value: Any, name: str = "array", *, masked: str = "refuse", double: bool = False) -> Any:
    """Return floats for JAX: what is already so as it is, and the rest converted.

    Args:
        value: Numbers of any kind; None stays None.
        name: What to call them in errors.
        masked: What to do with masked elements: ``"refuse"``, or ``"nan"``.
        double: Whether floats of 64 bits stay as they are, for what JAX does not compute with (a catalogue).

    Returns:
        A JAX array (or tracer) as it came, or a NumPy array of native floats: float32, unless JAX computes in double
        precision and more was given.

    Raises:
        TypeError: If these are no numbers, or have units.
        ValueError: If elements are masked, and there is no place for a mask.

    Example:
        >>> native(np.arange(3, dtype=">i2")).dtype
        dtype('float32')
        >>> native(np.ma.array([1.0, 2.0], mask=[False, True]), "sigma")
        Traceback (most recent call last):
        ...
        ValueError: sigma: expected numbers alone, got a masked array with 1 of 2 masked; give it to \
Observation.from_arrays, which joins masks
    """
    if value is None or _is_right(value, double):
        return value
    if isinstance(value, jax.Array):
        return _of_jax(value, name)
    double = double or cast(Any, jax.config).jax_enable_x64
    _refuse_rich(value, name)
    hidden = None
    if isinstance(value, np.ma.MaskedArray):
        hidden = np.ma.getmaskarray(value)
        if not hidden.any():
            hidden = None
        elif masked == "refuse":
            raise ValueError(
                f"{name}: expected numbers alone, got a masked array with {hidden.sum()} of {hidden.size} masked; "
                "give it to Observation.from_arrays, which joins masks"
            )
        value = np.ma.getdata(value)
    numbers = _numbers(value, name)
    if hidden is not None:
        numbers = np.where(hidden, np.nan, numbers)
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and told by the checks
        return numbers if double and numbers.dtype == np.float64 else np.asarray(numbers, np.float32)


def native_mask(value: Any, name: str = "mask") -> Any:
    """Return a mask as native booleans, True where a pixel is excluded; masked elements of a mask are excluded.

    Args:
        value: Booleans, or numbers that are 0 or 1.
        name: What to call them in errors.

    Raises:
        ValueError: If there are other numbers: they may be bits, of which not all mean bad.

    Example:
        >>> native_mask(np.array([0, 1], ">i2")).tolist()
        [False, True]
    """
    if value is None or (isinstance(value, jax.Array) and value.dtype == bool):
        return value
    if type(value) is np.ndarray and value.dtype == bool:
        return value
    if isinstance(value, jax.core.Tracer):
        return value != 0
    hidden = np.ma.getmaskarray(value) if isinstance(value, np.ma.MaskedArray) else None
    flags = np.asarray(np.ma.getdata(value) if hidden is not None else value)
    if flags.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected booleans, got {flags.dtype}; True excludes a pixel")
    if flags.dtype.kind != "b":
        seen = flags if hidden is None else flags[~hidden]
        other = seen[(seen != 0) & (seen != 1)]
        if other.size:
            raise ValueError(
                f"{name}: expected True or False, or 1 or 0, got {other.flat[0]:g} among {other.size} others; if these "
                f"are bits, give {name}=(bits & BAD) != 0 with those that mean bad"
            )
    flags = flags != 0
    return flags if hidden is None else flags | hidden


class Unpacked(NamedTuple):
    """Parts of an array with units or a mask.

    Attributes:
        values: Its numbers, native floats of 32 or 64 bits.
        mask: Where they are masked, or None.
        unit: Their unit, an Astropy unit, or None.
        noise: ``rms``, ``variance`` or ``weight`` and its values, of an NDData with an uncertainty; or None.
        pixel_scale_arcsec: Of an NDData with a celestial WCS [arcsec], or None.
    """

    values: np.ndarray
    mask: np.ndarray | None = None
    unit: Any = None
    noise: "tuple[str, Unpacked] | None" = None
    pixel_scale_arcsec: float | None = None


def unpacked(value: Any, name: str) -> Unpacked:
    """Take an array of any kind apart: numbers, mask, unit, and of an NDData its uncertainty and pixel scale.

    Args:
        value: An array, a list of arrays (one for each galaxy), a Quantity, an NDData or CCDData, or an xarray with
            an attribute ``units``.
        name: What to call it in errors.

    Raises:
        TypeError: If these are no numbers, or an uncertainty of an unknown kind.
        ValueError: If the arrays of a list differ in unit, or in what they have.

    Example:
        >>> import astropy.units as u
        >>> parts = unpacked([1, 2] * u.uJy, "image")
        >>> parts.values.tolist(), str(parts.unit)
        ([1.0, 2.0], 'uJy')
    """
    if isinstance(value, (list, tuple)) and any(_is_rich(one) for one in value):
        return _stacked([unpacked(one, name) for one in value], name)
    if _is_nddata(value):
        return _of_nddata(value, name)
    unit = getattr(value, "unit", None)
    if unit is None and isinstance(getattr(value, "attrs", None), dict):  # xarray, pandas
        unit = value.attrs.get("units")
    if unit is not None:
        import astropy.units as u

        unit = u.Unit(unit) if isinstance(unit, str) else unit
        hidden = getattr(value, "mask", None)  # of a Masked Quantity, or a masked column
        value = getattr(value, "unmasked", value)
        value = getattr(value, "value", value) if isinstance(value, u.Quantity) else value
        value = np.ma.getdata(value) if isinstance(value, np.ma.MaskedArray) else value
        return Unpacked(_numbers(value, name), _mask_of(hidden), unit)
    if isinstance(value, np.ma.MaskedArray):
        return Unpacked(_numbers(np.ma.getdata(value), name), _mask_of(np.ma.getmaskarray(value)))
    if isinstance(value, jax.Array):
        return Unpacked(_numbers(np.asarray(value), name))
    return Unpacked(_numbers(value, name))


def exact_identifiers(value: Any, count: int | None = None) -> np.ndarray:
    """Return identifiers exactly: whole numbers as int64, names as text.

    Args:
        value: Whole numbers of any type, or text.
        count: How many there have to be.

    Raises:
        ValueError: If they are not exact (a float that is no whole number, a number beyond 64 bits, nothing at all),
            or not as many; the first is named.

    Example:
        >>> exact_identifiers(["a", "b"]).tolist(), exact_identifiers(np.array([7.0])).tolist()
        (['a', 'b'], [7])
    """
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.getmaskarray(value).any():
            row = int(np.flatnonzero(np.ma.getmaskarray(value))[0])
            raise ValueError(f"identifier: expected one for each galaxy, got none (masked) in row {row}")
        value = np.ma.getdata(value)
    values = np.asarray(value)
    if values.dtype.kind == "O":
        kinds = {type(one) for one in values.ravel()}
        whole = all(issubclass(kind, (int, np.integer)) and kind is not bool for kind in kinds)
        limits = np.iinfo(np.int64)
        if whole and all(limits.min <= int(one) <= limits.max for one in values.ravel()):
            values = values.astype(np.int64)
        elif all(issubclass(kind, str) for kind in kinds):
            values = values.astype(str)
    if count is not None and values.shape != (count,):
        raise ValueError(f"identifier: expected one for each of {count} galaxies, got shape {values.shape}")
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    if values.dtype.kind == "U":
        empty = np.flatnonzero(np.char.strip(values) == "")
        if len(empty):
            raise ValueError(f"identifier: expected a name for each galaxy, got none in row {empty[0]}")
        blank = np.flatnonzero(np.char.strip(values) != values)
        if len(blank):  # FITS does not keep them
            raise ValueError(
                f"identifier: expected names without blanks at their ends, got {str(values[blank[0]])!r} in row "
                f"{blank[0]}; strip them"
            )
        return values.astype(values.dtype.newbyteorder("="))
    if values.dtype.kind == "f":
        bad = np.flatnonzero(~(np.abs(values) <= EXACT) | (values != np.rint(values)))
        if len(bad):
            raise ValueError(
                f"identifier: expected whole numbers or text, got {values[bad[0]]!r} in row {bad[0]}, a float that "
                "tells no number exactly; read identifiers as 64-bit integers or as text"
            )
    elif values.dtype.kind == "u" and values.size and values.max() > np.iinfo(np.int64).max:
        raise ValueError(
            f"identifier: expected 64-bit integers, got {values.max()}; give identifiers as text"
        )
    elif values.dtype.kind not in "iu":
        raise ValueError(f"identifier: expected whole numbers or text, got {values.dtype}")
    return values.astype(np.int64)


def pixel_scale_from(value: Any, name: str = "pixel_scale_arcsec") -> Any:
    """Return the width of a pixel in arcsec as a number; a quantity may be an angle, or one per pixel.

    Raises:
        ValueError: If it is no width.

    Example:
        >>> import astropy.units as u
        >>> pixel_scale_from(30 * u.mas), pixel_scale_from(0.03)
        (0.03, 0.03)
    """
    if value is None or type(value) is float:
        return value
    unit = getattr(value, "unit", None)
    if unit is not None:
        import astropy.units as u

        try:
            return float(value.to_value(u.arcsec))
        except u.UnitConversionError:
            pass
        try:
            return float(value.to_value(u.arcsec / u.pix))
        except u.UnitConversionError:
            raise ValueError(f"{name}: expected an angle, or one per pixel, got {unit}") from None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected one number [arcsec], got {type(value).__name__}") from None


def _is_right(value: Any, double: bool) -> bool:
    """Whether an array is what JAX computes with already: the common case, which has to be quick."""
    if isinstance(value, jax.Array):
        return jax.dtypes.issubdtype(value.dtype, np.floating)
    if type(value) is not np.ndarray or not value.dtype.isnative:
        return False
    return value.dtype == np.float32 or (
        value.dtype == np.float64 and (double or cast(Any, jax.config).jax_enable_x64)
    )


def _of_jax(value: jax.Array, name: str) -> jax.Array:
    if jax.dtypes.issubdtype(value.dtype, np.integer) or value.dtype == bool:
        return value.astype(float)
    raise TypeError(f"{name}: expected real numbers, got {value.dtype}")


def _numbers(value: Any, name: str) -> np.ndarray:
    """Plain numbers of any kind as native floats of 32 or, where there was more, 64 bits."""
    if hasattr(value, "to_numpy"):  # pandas: what it does not know is NaN
        try:
            value = value.to_numpy(dtype=float, na_value=np.nan)
        except TypeError:  # xarray, polars
            value = value.to_numpy()
        except ValueError:
            value = np.asarray(value)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: expected numbers of one shape, got rows that differ: {error}") from None
    if array.dtype.kind == "V" and jax.dtypes.issubdtype(array.dtype, np.floating):  # bfloat16
        array = array.astype(np.float32)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected numbers, got {type(value).__name__} of {array.dtype}")
    small = array.dtype.kind in "bf" and array.dtype.itemsize <= 4
    return np.asarray(array, np.float32 if small else np.float64)


def _is_nddata(value: Any) -> bool:
    return hasattr(value, "uncertainty") and hasattr(value, "data") and hasattr(value, "wcs")


def _is_rich(value: Any) -> bool:
    return _is_nddata(value) or isinstance(value, np.ma.MaskedArray) or hasattr(value, "unit")


def _refuse_rich(value: Any, name: str) -> None:
    """Refuse arrays with units or masks, where there is no place for these."""
    if isinstance(value, (list, tuple)):
        for one in value:
            _refuse_rich(one, name)
        return
    unit = getattr(value, "unit", None)
    plain = unit is None or str(unit) == ""
    if _is_nddata(value) or not plain:
        got = f"{type(value).__name__}" + ("" if plain else f" in {unit}")
        raise TypeError(
            f"{name}: expected numbers alone, got a {got}; give it to Observation.from_arrays, which converts units"
        )


def _mask_of(hidden: Any) -> np.ndarray | None:
    return None if hidden is None or not np.any(hidden) else np.asarray(hidden) != 0


def _of_nddata(value: Any, name: str) -> Unpacked:
    inner = unpacked(value.data, name)
    mask = _mask_of(value.mask)
    if inner.mask is not None:
        mask = inner.mask if mask is None else mask | inner.mask
    noise = None if value.uncertainty is None else _of_uncertainty(value, name)
    return Unpacked(inner.values, mask, value.unit or inner.unit, noise, _scale_of_wcs(value.wcs))


def _of_uncertainty(value: Any, name: str) -> tuple[str, Unpacked]:
    from astropy.nddata import InverseVariance, StdDevUncertainty, VarianceUncertainty

    kinds = {StdDevUncertainty: "rms", VarianceUncertainty: "variance", InverseVariance: "weight"}
    power = {"rms": 1, "variance": 2, "weight": -2}
    uncertainty = value.uncertainty
    for kind, word in kinds.items():
        if isinstance(uncertainty, kind):
            unit = uncertainty.unit
            if unit is None and value.unit is not None:
                unit = value.unit ** power[word]
            return word, unpacked(uncertainty.array, f"{name}.uncertainty")._replace(unit=unit)
    raise TypeError(
        f"{name}.uncertainty: expected StdDevUncertainty, VarianceUncertainty or InverseVariance, got "
        f"{type(uncertainty).__name__}; give rms=, variance= or weight="
    )


def _scale_of_wcs(wcs: Any) -> float | None:
    if wcs is None or not getattr(wcs, "has_celestial", False):
        return None
    from astropy.wcs.utils import proj_plane_pixel_scales

    x, y = proj_plane_pixel_scales(wcs.celestial) * 3600
    if abs(x - y) > 0.01 * x:
        raise ValueError(f"image: expected square pixels, got {x:.5g} x {y:.5g} arcsec; resample the image")
    return float(np.sqrt(x * y))


def _stacked(parts: list[Unpacked], name: str) -> Unpacked:
    """Put what one galaxy has each together."""
    first = parts[0]
    for row, part in enumerate(parts):
        if part.values.shape != first.values.shape:
            raise ValueError(
                f"{name}: expected arrays of one shape, got {first.values.shape} and {part.values.shape} (row {row})"
            )
        words = None if part.noise is None else part.noise[0]
        if words != (None if first.noise is None else first.noise[0]):
            raise ValueError(
                f"{name}: expected the same kind of uncertainty of each, got another in row {row}"
            )
        if (part.unit is None) != (first.unit is None):
            raise ValueError(f"{name}: expected units of all or of none, got another in row {row}")
        scale, own = part.pixel_scale_arcsec, first.pixel_scale_arcsec
        if scale and (own is None or abs(scale / own - 1) > 1e-3):
            raise ValueError(f"{name}: expected one pixel scale, got another in row {row}")
    factors = [1.0 if part.unit is None else part.unit.to(first.unit) for part in parts]
    values = np.stack(
        [part.values if f == 1 else part.values * f for part, f in zip(parts, factors, strict=True)]
    )
    masks = [np.zeros(first.values.shape, bool) if part.mask is None else part.mask for part in parts]
    noise = None
    if first.noise is not None:
        errors = [part.noise[1] for part in parts if part.noise is not None]  # all are of one kind
        noise = first.noise[0], _stacked(errors, f"{name}.uncertainty")
    return Unpacked(values, _mask_of(np.stack(masks)), first.unit, noise, first.pixel_scale_arcsec)
