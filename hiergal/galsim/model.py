"""A trained model for GalSim's users: the interface of galsim_hub (Lanusse et al. 2020, Appendix A).

Random numbers are the caller's ``galsim.BaseDeviate``: each galaxy takes a fixed number of normal deviates from it, so
that the same generator gives the same galaxies, drawn one at a time or together, in any process. Together is faster:
one takes as long as a block (:mod:`hiergal.simulate.profiles`). Galaxies are unconvolved ``GSObject``s; shear,
rotation, convolution and drawing are GalSim's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from hiergal.galsim.requests import Request, request_galaxies
from hiergal.hub.bundle import load_model
from hiergal.model.condition_columns import Catalog
from hiergal.model.conditions import complete_conditions, condition_names
from hiergal.model.trained import GalaxyModel, check_model
from hiergal.runtime.fork import check_not_forked
from hiergal.runtime.pytree import Array
from hiergal.simulate.galsim_objects import build_galaxies, warn_of_narrow_psf
from hiergal.simulate.stamps import draw_whole_galaxies, grid_for_galaxies

if TYPE_CHECKING:
    import galsim
    from astropy.table import Table

__all__ = [
    "GenerativeGalaxyModel",
    "sample_galaxies",
]


LOADED = ("model", "quantities", "stamp_size", "pixel_size", "magnitude_zero_point", "psf_fwhm")


class GenerativeGalaxyModel:
    """Galaxies for given magnitude, size and redshift, as GalSim objects.

    Args:
        file_name: ``hub:NAME``, a path, or ``https://...#sha256=...`` (:func:`hiergal.hub.resolve`).

    Attributes:
        file_name: Where the model came from.
        model: The trained model.
        quantities: Names of the conditions, the columns that ``sample`` looks for.
        stamp_size: Pixels along a side of a stamp, the longer one.
        pixel_size: Width of a pixel [arcsec].
        magnitude_zero_point: Magnitude of an object of flux 1 [mag].
        psf_fwhm: Typical full width at half maximum of the training survey's PSF, or None where it was not measured
            [arcsec].

    Raises:
        OSError: If the model is not there.
        ValueError: If it is damaged, or has no flow to draw from.

    Example:
        >>> import galsim
        >>> model = GenerativeGalaxyModel("hub:mock-acs")
        >>> catalog = {"mag_auto": [22.5], "flux_radius": [10.0], "zphot": [0.8]}
        >>> galaxies = model.sample(catalog, rng=galsim.BaseDeviate(1))
    """

    def __init__(self, file_name: str | Path) -> None:
        self.file_name, self._path = str(file_name), Path(file_name).absolute()
        self._load()

    def _load(self) -> None:
        check_not_forked()
        named = self.file_name.startswith("hub:") or "://" in self.file_name
        self.model = load_model(self.file_name if named else self._path)
        self.quantities = list(condition_names(self.model))
        self.stamp_size = max(self.model.recipe.shape)
        self.pixel_size = self.model.recipe.pixel_scale_arcsec
        self.magnitude_zero_point = self.model.provenance.magnitude_zero_point
        self.psf_fwhm = self.model.provenance.psf_fwhm_arcsec

    def __getattr__(self, name: str) -> Any:
        """Load the model of a copy that was pickled, when something is asked of it.

        An error in unpickling would end a worker of multiprocessing, which would be started again for ever.
        """
        if name not in LOADED or "_path" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        self._load()
        return self.__dict__[name]

    def __repr__(self) -> str:
        return f"hiergal.GenerativeGalaxyModel({self.file_name!r})"

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the name and the absolute path, so that other processes may have other working folders."""
        return {"file_name": self.file_name, "_path": self._path}

    def sample(
        self,
        cat: Catalog | None = None,
        noise: "galsim.BaseCorrelatedNoise | float | None" = None,
        rng: "galsim.BaseDeviate | Sequence[galsim.BaseDeviate] | None" = None,
        x_interpolant: "galsim.Interpolant | str | None" = None,
        k_interpolant: "galsim.Interpolant | str | None" = None,
        pad_factor: float = 4,
        noise_pad_size: float = 0,
        gsparams: "galsim.GSParams | None" = None,
        *,
        n: int | None = None,
        flux: Any = None,
        half_light_radius: Any = None,
        magnitude_zero_point: float | None = None,
        psf: "galsim.GSObject | None" = None,
        outside: str = "warn",
        missing: str = "raise",
        squeeze: bool = False,
        identifier: str | None = None,
        pixel_scale_arcsec: float | None = None,
        deconvolve: bool = True,
    ) -> "list[galsim.GSObject] | galsim.GSObject":
        """Draw one galaxy for each row of a catalogue: :meth:`hiergal.GalaxyModel.sample` with galsim_hub's arguments.

        Args:
            cat: As ``catalog`` there.
            noise: As there, and so is what follows.
            rng: As above.
            x_interpolant: As above.
            k_interpolant: As above.
            pad_factor: As for ``galsim.InterpolatedImage``.
            noise_pad_size: As above.
            gsparams: As above.
            n: As above.
            flux: As above.
            half_light_radius: As above.
            magnitude_zero_point: As above.
            psf: As above.
            outside: As above.
            missing: As above.
            squeeze: Whether to return a bare object for a single galaxy, as galsim_hub did.
            identifier: As above.
            pixel_scale_arcsec: As above.
            deconvolve: As above.

        Returns:
            Unconvolved galaxies (convolved, with ``psf``), in the order of the rows; always a list, unless ``squeeze``.

        Raises:
            TypeError: If the catalogue has no named columns.
            ValueError: If columns are missing or not finite, or sizes do not match.
            RuntimeError: In a fork of a process that has used JAX (``multiprocessing`` without ``"spawn"``).

        Example:
            >>> model = GenerativeGalaxyModel("hub:mock-acs")
            >>> galaxies = model.sample({"mag_auto": [23.0], "flux_radius": [9.0], "zphot": [0.8]})
            >>> len(galaxies)
            1
        """
        galaxies = sample_galaxies(
            self.model,
            cat,
            rng=rng,
            n=n,
            flux=flux,
            half_light_radius=half_light_radius,
            magnitude_zero_point=magnitude_zero_point,
            psf=psf,
            outside=outside,
            missing=missing,
            identifier=identifier,
            pixel_scale_arcsec=pixel_scale_arcsec,
            deconvolve=deconvolve,
            noise=noise,
            noise_pad_size=noise_pad_size,
            x_interpolant=x_interpolant,
            k_interpolant=k_interpolant,
            pad_factor=pad_factor,
            gsparams=gsparams,
        )
        return galaxies[0] if squeeze and len(galaxies) == 1 else galaxies

    def population(self, n: int, rng: "galsim.BaseDeviate | None" = None) -> "Table":
        """Draw the conditions of n galaxies from the model's population, as a table to look at or to sample.

        Args:
            n: Number of galaxies.
            rng: Generator of random numbers.

        Raises:
            ValueError: If the model has no population.
        """
        import galsim
        from astropy.table import Table

        choice = np.empty(n)
        galsim.UniformDeviate(rng).generate(choice)
        return Table(complete_conditions(self.model, None, choice), names=self.quantities)

    def check_psf(self, psf: "galsim.GSObject") -> None:
        """Warn if a PSF is narrower than the training survey's: finer details are not known from data (Sec. 6).

        Args:
            psf: What galaxies are to be convolved with. Up to a tenth narrower is let pass, and so is what has no width
                to compare (a ``DeltaFunction``, a chromatic PSF).
        """
        if self.psf_fwhm is not None:
            warn_of_narrow_psf(psf, self.psf_fwhm)

    def request(
        self,
        cat: Catalog | None = None,
        rng: "galsim.BaseDeviate | Sequence[galsim.BaseDeviate] | None" = None,
        *,
        n: int | None = None,
        missing: str = "raise",
    ) -> Request:
        """Take random numbers, and conditions, of the galaxies that are asked for; arguments as for :meth:`sample`."""
        return request_galaxies(self.model, cat, rng, n=n, missing=missing)

    def profiles(self, request: Request, pixel_scale_arcsec: float | None = None) -> list[np.ndarray]:
        """Compute the light profiles [flux per pixel] of galaxies, in one go; NaN for those that are not drawn.

        They are of a shape (y, x) each, as large as the light where the generator can.
        """
        about = self.model, request.base, request.conditions, drawn_rows(request)
        return draw_whole_galaxies(*about, pixel_scale_arcsec=pixel_scale_arcsec)

    def build(
        self, request: Request, profiles: Float[np.ndarray, "n y x"] | list[np.ndarray], **options
    ) -> "list[galsim.GSObject]":
        """Make GalSim objects of computed profiles; options as for :meth:`sample`."""
        about = self.model.recipe, self.magnitude_zero_point
        return build_galaxies(*about, profiles, noise_seed=request.noise_seed, **options)


def sample_galaxies(
    model: GalaxyModel,
    catalog: Catalog | None,
    *,
    rng: "galsim.BaseDeviate | Sequence[galsim.BaseDeviate] | None" = None,
    key: jax.Array | int | None = None,
    n: int | None = None,
    flux: Any = None,
    half_light_radius: Any = None,
    magnitude_zero_point: float | None = None,
    psf: "galsim.GSObject | None" = None,
    outside: str = "warn",
    missing: str = "raise",
    identifier: str | None = None,
    pixel_scale_arcsec: float | None = None,
    **options: Any,
) -> "list[galsim.GSObject]":
    """Draw galaxies as GalSim objects: what :meth:`hiergal.GalaxyModel.sample` does, which says the arguments.

    Example:
        >>> catalog = {"mag_auto": [22.5, 23.5], "flux_radius": [10.0, 7.0], "zphot": [0.8, 0.6]}
        >>> len(sample_galaxies(model, catalog, key=0))
        2
    """
    check_model(model)
    grid_for_galaxies(model, pixel_scale_arcsec)  # refuses other pixels before random numbers are taken
    request = request_galaxies(
        model,
        catalog,
        rng,
        key=key,
        n=n,
        missing=missing,
        outside=outside,
        identifier=identifier,
        stacklevel=4,
    )
    own_zero_point = model.provenance.magnitude_zero_point
    if isinstance(flux, str):
        zero_point = own_zero_point if magnitude_zero_point is None else magnitude_zero_point
        flux = fluxes_of_magnitudes(model, request.conditions, flux, zero_point)
    galaxies = build_galaxies(
        model.recipe,
        own_zero_point,
        draw_whole_galaxies(
            model,
            request.base,
            request.conditions,
            drawn_rows(request),
            pixel_scale_arcsec=pixel_scale_arcsec,
            stacklevel=4,
        ),
        pixel_scale_arcsec=pixel_scale_arcsec,
        noise_seed=request.noise_seed,
        flux=flux,
        half_light_radius=half_light_radius,
        magnitude_zero_point=magnitude_zero_point,
        **options,
    )
    if psf is None:
        return galaxies
    import galsim

    if model.provenance.psf_fwhm_arcsec is not None:
        warn_of_narrow_psf(psf, model.provenance.psf_fwhm_arcsec, stacklevel=4)
    return [galsim.Convolve(galaxy, psf) for galaxy in galaxies]


def drawn_rows(request: Request) -> Bool[np.ndarray, "n"]:
    """Return which of the galaxies that are asked for are to be drawn."""
    return np.ones(len(request.base), bool) if request.drawn is None else request.drawn


def fluxes_of_magnitudes(
    model: GalaxyModel, conditions: Float[Array, "n c"], word: str, zero_point: float
) -> Float[np.ndarray, "n"]:
    """Return the fluxes that the magnitudes among the conditions of galaxies mean.

    Args:
        model: The model that draws them.
        conditions: What is asked of them.
        word: ``"catalog"``.
        zero_point: Magnitude of unit flux [mag].

    Raises:
        ValueError: If another word is given, or the model is conditioned on no magnitude.
    """
    names = condition_names(model)
    magnitudes = [i for i, name in enumerate(names) if name.startswith("mag")]
    if word != "catalog" or not magnitudes:
        expected = (
            "numbers, or 'catalog'"
            if magnitudes
            else f"numbers: there is no magnitude among {', '.join(names)}"
        )
        raise ValueError(f"flux: expected {expected}, got {word!r}")
    return 10 ** (0.4 * (zero_point - np.asarray(conditions, float)[:, magnitudes[0]]))
