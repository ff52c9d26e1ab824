"""A trained model as GalSim's users know one: the interface of galsim_hub (Lanusse et al. 2020, Appendix A).

Random numbers are the caller's ``galsim.BaseDeviate``: each galaxy takes a fixed number of normal deviates from it, so
that the same generator gives the same galaxies, drawn one at a time or together, in any process. Together is faster:
one takes as long as a block (:mod:`hiergal.simulate.profiles`). Galaxies are unconvolved ``GSObject``s; shear,
rotation, convolution and drawing are GalSim's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from hiergal.galsim.requests import Request, request_galaxies
from hiergal.hub.bundle import load_model
from hiergal.model.conditions import Catalog, complete_conditions, condition_names
from hiergal.model.trained import GalaxyModel
from hiergal.runtime.fork import check_not_forked
from hiergal.runtime.pytree import Array
from hiergal.simulate.galsim_objects import build_galaxies, warn_of_narrow_psf
from hiergal.simulate.profiles import drawn_profiles

if TYPE_CHECKING:
    import galsim
    from astropy.table import Table

__all__ = [
    "GenerativeGalaxyModel",
]


LOADED = ("model", "quantities", "stamp_size", "pixel_size", "magnitude_zero_point", "psf_fwhm")


class GenerativeGalaxyModel:
    """Galaxies for given magnitude, size and redshift, as GalSim objects.

    Args:
        file_name: ``hub:NAME``, a path, or ``https://...#sha256=...`` (:func:`hiergal.hub.locate`).

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
        >>> model = GenerativeGalaxyModel("hub:mock-acs")  # doctest: +SKIP
        >>> galaxies = model.sample(catalog, rng=galsim.BaseDeviate(1))  # doctest: +SKIP
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
    ) -> "list[galsim.GSObject] | galsim.GSObject":
        """Draw one galaxy for each row of a catalogue.

        Args:
            cat: Astropy table, structured array, pandas frame or mapping with the columns ``quantities``; columns with
                units are converted. None for ``n`` galaxies of the model's population.
            noise: Noise to continue around each stamp, with ``noise_pad_size``: ``noise_pad`` of
                ``galsim.InterpolatedImage``, a variance or a correlated noise.
            rng: Generator of random numbers, or one for each galaxy; default a new one, seeded by the system.
            x_interpolant: As for ``galsim.InterpolatedImage``. Of photons that are shot, 19 % are negative with
                GalSim's default, a quintic; none are with ``"linear"``, which changes sizes by 3 %.
            k_interpolant: As for ``galsim.InterpolatedImage``.
            pad_factor: As for ``galsim.InterpolatedImage``.
            noise_pad_size: As for ``galsim.InterpolatedImage`` [arcsec].
            gsparams: As for ``galsim.InterpolatedImage``.
            n: Number of galaxies, where no catalogue says it.
            flux: Exact flux of each, or of all; ``"catalog"`` for that of the catalogue's magnitudes; default what the
                model gives, which scatters about the magnitude, and lacks what is beyond the stamp.
            half_light_radius: Exact half-light radius as ``GSObject.calculateHLR`` measures it, of each or of all
                [arcsec].
            magnitude_zero_point: Zero point that fluxes shall have; default the model's. A ``flux`` stays as it is.
            psf: A PSF to convolve with; a warning is given if it is narrower than the training survey's.
            outside: What to do with conditions outside the trained range (:mod:`hiergal.model.trained_range`): ``warn``
                draws them with a warning, except those far outside (99 or -99 for "not measured"), which give objects
                of flux 0; ``raise`` refuses them, and takes no random numbers; ``ignore`` draws all.
            missing: What to do if the catalogue lacks a condition: ``population`` draws it from the model's population,
                of galaxies that are like what is known.
            squeeze: Whether to return a bare object for a single galaxy, as galsim_hub did.
            identifier: A column that tells galaxies apart (integers or text): random numbers then follow it, and a
                galaxy stays the same when other rows are dropped, added or sorted. ``rng`` gives one number in all.

        Returns:
            Unconvolved galaxies (convolved, with ``psf``), in the order of the rows; always a list, unless ``squeeze``.

        Raises:
            TypeError: If the catalogue has no named columns.
            ValueError: If columns are missing or not finite, or sizes do not match.
            RuntimeError: In a fork of a process that has used JAX (``multiprocessing`` without ``"spawn"``).

        Example:
            >>> galaxies = model.sample({"mag_auto": [23.0], "flux_radius": [9.0], "zphot": [0.8]})  # doctest: +SKIP
        """
        request = request_galaxies(
            self.model, cat, rng, n=n, missing=missing, outside=outside, identifier=identifier
        )
        if isinstance(flux, str):
            zero_point = self.magnitude_zero_point if magnitude_zero_point is None else magnitude_zero_point
            flux = fluxes_of_magnitudes(self.model, request.conditions, flux, zero_point)
        galaxies = self.build(
            request,
            self.profiles(request),
            noise=noise,
            x_interpolant=x_interpolant,
            k_interpolant=k_interpolant,
            pad_factor=pad_factor,
            noise_pad_size=noise_pad_size,
            gsparams=gsparams,
            flux=flux,
            half_light_radius=half_light_radius,
            magnitude_zero_point=magnitude_zero_point,
        )
        if psf is not None:
            import galsim

            self.check_psf(psf)
            galaxies = [galsim.Convolve(galaxy, psf) for galaxy in galaxies]
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

    def profiles(self, request: Request) -> Float[np.ndarray, "n y x"]:
        """Compute the light profiles [flux per pixel] of galaxies, in one go; NaN for those that are not drawn."""
        drawn = np.ones(len(request.base), bool) if request.drawn is None else request.drawn
        return drawn_profiles(self.model, request.base, request.conditions, drawn)

    def build(
        self, request: Request, profiles: Float[np.ndarray, "n y x"], **options
    ) -> "list[galsim.GSObject]":
        """Make GalSim objects of computed profiles; options as for :meth:`sample`."""
        about = self.model.recipe, self.magnitude_zero_point
        return build_galaxies(*about, profiles, noise_seed=request.noise_seed, **options)


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
