"""Drawn profiles as GalSim objects, with exact fluxes and sizes."""

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from hiergal.recipe.recipe import Recipe
from hiergal.simulate.profiles import light_profiles

if TYPE_CHECKING:
    import galsim

__all__ = [
    "build_galaxies",
    "one_for_each",
    "warn_of_narrow_psf",
]


def one_for_each(
    name: str, values: Any, count: int, unit: str | None = None
) -> Float[np.ndarray, "n"] | None:
    """One finite number for each galaxy."""
    if values is None:
        return None
    if getattr(values, "unit", None) is not None:
        import astropy.units as u

        try:
            values = u.Quantity(values).to_value(unit or u.dimensionless_unscaled)
        except (u.UnitConversionError, u.UnitTypeError, TypeError) as error:
            wanted = (
                f"numbers, or quantities in {unit}" if unit else "plain numbers, in the model's unit of flux"
            )
            raise ValueError(f"{name}: expected {wanted}, got {values.unit}: {error}") from None
    values = np.ma.filled(np.ma.asarray(values, float), np.nan)
    if values.shape not in ((), (count,)):
        raise ValueError(
            f"{name}: expected one number, or one for each of {count} galaxies, got shape {values.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    return np.broadcast_to(values, (count,))


NARROWER = 0.9  # of the survey's PSF width: what galaxies may be drawn at without a warning
PASSED = 0.05  # fraction that the survey's PSF leaves of the waves at which PSFs are compared


def build_galaxies(
    recipe: Recipe,
    own_zero_point: float,
    profiles: Float[np.ndarray, "n y x"] | list[np.ndarray],
    *,
    pixel_scale_arcsec: float | None = None,
    noise_seed: Int[np.ndarray, "n"] | None = None,
    noise: "galsim.BaseCorrelatedNoise | float | None" = None,
    noise_pad_size: float = 0,
    flux: Any = None,
    half_light_radius: Any = None,
    magnitude_zero_point: float | None = None,
    **options,
) -> "list[galsim.GSObject]":
    """Make GalSim objects of light profiles, wherever they were computed: the network is not needed.

    Args:
        recipe: Recipe of the model that drew them.
        own_zero_point: Magnitude zero point of their fluxes [mag].
        profiles: Unconvolved light profiles [flux per pixel], of one shape or of several; NaN gives an object of flux
            0, whatever else is asked.
        pixel_scale_arcsec: Width of their pixels [arcsec]; default that of the model.
        noise_seed: Seed of the noise around each stamp, where there is to be some.
        noise: This and what follows as for :meth:`hiergal.GalaxyModel.sample`.
        noise_pad_size: As above.
        flux: As above.
        half_light_radius: As above.
        magnitude_zero_point: As above.
        options: Further arguments of ``galsim.InterpolatedImage``.

    Raises:
        ValueError: If fluxes or sizes are not finite or of another number, or a size is not positive.
    """
    import galsim

    count = len(profiles)
    fluxes, radii = (
        one_for_each("flux", flux, count),
        one_for_each("half_light_radius", half_light_radius, count, "arcsec"),
    )
    if radii is not None and not (radii > 0).all():
        raise ValueError("half_light_radius: expected positive sizes [arcsec]")
    if noise is None or noise_pad_size == 0:
        galaxies = light_profiles(recipe, profiles, pixel_scale_arcsec=pixel_scale_arcsec, **options)
    else:
        padding: dict[str, Any] = {"noise_pad": noise, "noise_pad_size": noise_pad_size}
        galaxies = [
            light_profiles(
                recipe,
                [profile],
                pixel_scale_arcsec=pixel_scale_arcsec,
                rng=galsim.BaseDeviate(int(seed)),
                **padding,
                **options,
            )[0]
            for profile, seed in zip(profiles, np.asarray(noise_seed), strict=True)
        ]
    if radii is not None:
        galaxies = [
            galaxy.dilate(radius / galaxy.calculateHLR()) if galaxy.flux else galaxy
            for galaxy, radius in zip(galaxies, radii, strict=True)
        ]
    if magnitude_zero_point is not None:
        one_for_each("magnitude_zero_point", magnitude_zero_point, 1)
        factor = 10 ** (0.4 * (magnitude_zero_point - own_zero_point))
        galaxies = [galaxy.withScaledFlux(factor) for galaxy in galaxies]
    if fluxes is not None:
        galaxies = [
            galaxy.withFlux(value) if galaxy.flux else galaxy
            for galaxy, value in zip(galaxies, fluxes, strict=True)
        ]
    return galaxies


def warn_of_narrow_psf(psf: "galsim.GSObject", survey_fwhm: float, *, stacklevel: int = 3) -> bool:
    """Warn if a PSF shows more than that of the training survey does.

    It does if it is more than a tenth narrower, and passes more of the waves of which the survey's PSF leaves a
    twentieth: an annulus, as a defocused telescope makes it, may have a narrow ridge, and yet shows less. What has no
    width to compare is let pass: a ``DeltaFunction``, a chromatic PSF.

    Args:
        psf: Any GalSim object.
        survey_fwhm: Full width at half maximum of the survey's PSF [arcsec].
        stacklevel: As for ``warnings.warn``.

    Returns:
        Whether it was warned of.
    """
    import galsim

    if not isinstance(psf, galsim.GSObject):
        return False  # chromatic: the width depends on the spectrum
    wave = 4 * np.sqrt(-np.log(2) * np.log(PASSED)) / survey_fwhm  # of a Gaussian of this width [1/arcsec]
    angles = np.arange(8) * np.pi / 8
    try:
        with np.errstate(all="ignore"):
            passed = np.mean([abs(psf.kValue(wave * np.cos(a), wave * np.sin(a))) for a in angles]) / psf.flux
    except (galsim.GalSimError, ArithmeticError, ValueError, RuntimeError):
        return False
    if not PASSED ** (NARROWER**2) < passed < 1:
        return False
    try:
        with np.errstate(all="ignore"):
            fwhm = float(psf.calculateFWHM())
    except (galsim.GalSimError, ArithmeticError, ValueError, RuntimeError, NotImplementedError):
        fwhm = survey_fwhm * np.sqrt(np.log(passed) / np.log(PASSED))  # of the Gaussian that passes as much
    if not 0 < fwhm < NARROWER * survey_fwhm:
        return False
    warnings.warn(
        f"psf: expected one of at least about the {survey_fwhm:.3g} arcsec (full width at half maximum) that the "
        f"model's survey had, got {fwhm:.3g} arcsec; what it shows beyond the survey's resolution is the network's "
        "extrapolation, not constrained by data",
        stacklevel=stacklevel,
    )
    return True
