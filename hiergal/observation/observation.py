"""Observations: everything that is known about a batch of galaxies, in one record.

Image, PSF, noise, mask, catalogue row and identifier of a galaxy travel together, so that nothing can fall out of
step. Check data once, where they enter (:func:`check_observation`); inside the package a record is trusted.

Conventions: arrays are ``[..., y, x]``; pixel (0, 0) is the centre of the lower-left pixel; fluxes are in the unit that
``photometry`` states, and where it states none, in that of the model they meet; a mask is True where a pixel is
*excluded*. Records hold native arrays alone: what else is given is converted (:mod:`hiergal.observation.arrays`).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from hiergal.observation.arrays import exact_identifiers, native, native_mask, pixel_scale_from
from hiergal.observation.assemble import observation_fields, padded_psf
from hiergal.observation.checks import bad_rows
from hiergal.observation.noise import NoiseModel
from hiergal.observation.photometry import Photometry
from hiergal.observation.psf import PSF, same_scale
from hiergal.runtime.pytree import Array, Record, Rows, record, rows_with_axis, static

__all__ = ["Observation", "check_observation"]

PSF_SUM_TOLERANCE = 0.02

if TYPE_CHECKING:
    Stamps = Any
else:  # None to be simulated: what is observed has an image (:func:`check_observation`), and is used without asking
    Stamps = Float[Array, "n y x"] | None


@record
class Observation(Record):
    """A batch of observed galaxies.

    Attributes:
        image: Observed stamps [flux per pixel], [n, y, x]; None to let the model simulate them.
        psf: Effective PSF of each galaxy, on its own stamp.
        noise: Noise model of each galaxy.
        mask: Pixels to exclude, [n, y, x], or None when every pixel counts.
        catalog: Columns of the catalogue by name, [n] each: ``mag_auto`` [mag], ``flux_radius`` [0.03 arcsec
            pixels], ``zphot``, whatever the survey has.
        identifier: Identifier of each galaxy in its survey, [n]: whole numbers, or text.
        pixel_scale_arcsec: Width of a pixel [arcsec].
        photometry: Unit and zero point of the fluxes; None for those of whatever model they meet.

    Example:
        >>> psf = np.full((3, 3), 1 / 9)
        >>> galaxies = Observation.from_arrays(np.zeros((2, 8, 8)), psf=psf, rms=0.1, pixel_scale_arcsec=0.03)
        >>> len(galaxies), galaxies.image.shape
        (2, (2, 8, 8))
    """

    image: Stamps
    psf: PSF
    noise: NoiseModel
    mask: Bool[Array, "n y x"] | None
    catalog: Mapping[str, Float[Array, "n"]]
    identifier: Int[Array, "n"] | Shaped[np.ndarray, "n"]
    pixel_scale_arcsec: float = static()
    photometry: Photometry | None = static(default=None)

    def __post_init__(self) -> None:
        """Convert arrays to native ones, also in JAX's tree functions; masked pixels join the mask."""
        image, mask = self.image, native_mask(self.mask)
        if isinstance(image, np.ma.MaskedArray):
            hidden = np.ma.getmaskarray(image)
            image = np.where(hidden, 0, np.ma.getdata(image))
            if hidden.any():
                mask = hidden if mask is None else np.asarray(mask) | hidden
        catalog = {
            name: native(column, f"catalog[{name!r}]", masked="nan", double=True)
            for name, column in self.catalog.items()
        }
        identifier = self.identifier
        if not (isinstance(identifier, jax.Array) or _plain_identifiers(identifier)):
            identifier = exact_identifiers(identifier)
        made = {
            "image": native(image, "image"),
            "psf": self.psf.replace() if isinstance(self.psf, PSF) else self.psf,
            "noise": self.noise.replace() if isinstance(self.noise, NoiseModel) else self.noise,
            "mask": mask,
            "catalog": catalog,
            "identifier": identifier,
            "pixel_scale_arcsec": pixel_scale_from(self.pixel_scale_arcsec),
        }
        for name, value in made.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_arrays(cls, image: Any, **about: Any) -> "Observation":
        """Make observations of arrays of any kind, of one galaxy [y, x] or of many [n, y, x].

        Args:
            image: Stamps; NaN and masked pixels mean no data.
            **about: As for :func:`hiergal.observation.assemble.observation_fields`: ``psf``, one of ``rms``,
                ``variance`` and ``weight``, and ``mask``, ``pixel_scale_arcsec``, ``flux_unit``,
                ``magnitude_zero_point``, ``catalog``, ``identifier``. PSFs are padded to one of few sizes, so that
                programs are compiled for few.

        Raises:
            TypeError: If an array holds no numbers.
            ValueError: With what was expected, what came, and what to do.

        Example:
            >>> psf = np.full((3, 3), 1 / 9)
            >>> stamp = np.zeros((8, 8))
            >>> galaxy = Observation.from_arrays(stamp, psf=psf, rms=0.1, pixel_scale_arcsec=0.03, flux_unit="nJy")
            >>> len(galaxy), str(galaxy.photometry)
            (1, 'nJy at zero point 31.4 mag')
        """
        fields = observation_fields(image, **about)
        fields["psf"] = padded_psf(fields["psf"], fields["image"].shape[1:])
        return cls(**fields)

    def in_photometry(self, photometry: Photometry) -> "Observation":
        """Return the galaxies with images and noise in other units; those that state none are taken to be in these.

        Args:
            photometry: Unit and zero point that fluxes shall have.

        Raises:
            ValueError: If the two contradict themselves, or are of different magnitude systems.

        Example:
            >>> psf = np.full((3, 3), 1 / 9)
            >>> about = {"psf": psf, "rms": 1, "pixel_scale_arcsec": 0.03, "flux_unit": "nJy"}
            >>> galaxy = Observation.from_arrays(np.ones((4, 4)), **about)
            >>> round(float(galaxy.in_photometry(Photometry("uJy", 23.9)).image[0, 0, 0]), 6)
            0.001
        """
        factor = 1.0 if self.photometry is None else self.photometry.factor_to(photometry)
        if factor == 1:
            return self.replace(photometry=photometry)
        image = None if self.image is None else self.image * np.float32(factor)
        return self.replace(image=image, noise=self.noise.scaled(factor), photometry=photometry)

    def bare(self) -> "Observation":
        """Return the arrays alone: no catalogue, names or photometry, with which programs would be compiled again."""
        rows = np.arange(len(self), dtype=np.int32)
        return self.replace(catalog={}, identifier=rows, photometry=None)

    def __len__(self) -> int:
        """Return the number of galaxies."""
        return self.identifier.shape[0]

    def __getitem__(self, rows: Rows) -> "Observation":
        """Take some of the galaxies, in the order asked for; of one row, too, axes stay: [1, y, x].

        Raises:
            IndexError: If there is no such galaxy.

        Example:
            >>> galaxies = Observation.from_arrays(
            ...     np.zeros((3, 8, 8)), psf=np.full((3, 3), 1 / 9), rms=0.1, pixel_scale_arcsec=0.03
            ... )
            >>> galaxies[0].image.shape, len(galaxies[-2:]), len(galaxies[[True, False, True]])
            ((1, 8, 8), 2, 2)
        """
        rows = rows_with_axis(rows, len(self))
        return jax.tree.map(lambda leaf: leaf[rows], self)

    def __repr__(self) -> str:
        """Describe it in one line."""
        n, image = self.identifier.shape[0], self.image
        shape = "no image" if image is None else f"{image.dtype}[{', '.join(map(str, image.shape))}]"
        parts = [
            f"image={shape}",
            f"pixel_scale_arcsec={self.pixel_scale_arcsec}",
            f"psf={'x'.join(map(str, self.psf.stamp.shape[1:]))} pixels",
            f"noise={type(self.noise).__name__}",
            f"mask={'no' if self.mask is None else 'yes'}",
            f"catalog=({', '.join(self.catalog)})",
            f"photometry={str(self.photometry) if self.photometry else 'not stated'}",
        ]
        return f"Observation({n} {'galaxy' if n == 1 else 'galaxies'}, {', '.join(parts)})"


def _plain_identifiers(identifier: Any) -> bool:
    return type(identifier) is np.ndarray and identifier.dtype.kind in "iuU" and identifier.dtype.isnative


def check_observation(observation: Observation) -> Observation:
    """Check everything that can be wrong with a batch of observations, and report all of it at once.

    Args:
        observation: Observations with an image, PSFs and noise.

    Returns:
        The same observations.

    Raises:
        ValueError: With one line for each problem: what was expected, what came, and what to do.

    Example:
        >>> import numpy as np
        >>> from hiergal.observation.independent import WhiteNoise
        >>> psf = PSF(np.full((2, 3, 3), 1 / 9), pixel_scale_arcsec=0.03)
        >>> stamps = np.zeros((2, 8, 8)); stamps[1, 4, 4] = np.nan
        >>> noise = WhiteNoise(np.array([0.1, 0.0]))
        >>> check_observation(Observation(stamps, psf, noise, None, {}, np.arange(2), pixel_scale_arcsec=0.03))
        Traceback (most recent call last):
        ...
        ValueError: 2 problems with the observations:
        - image: expected finite pixels, got NaN or infinity in 1 of 2 galaxies (first: 1); mask those pixels
        - noise.sigma: expected positive and finite values, got others in 1 of 2 galaxies (first: 1)
    """
    problems = list(_problems(jax.tree.map(np.asarray, observation)))
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ValueError("\n- ".join([f"{count} with the observations:", *problems]))
    return observation


def _problems(observation: Observation):
    """Yield a sentence for each problem; content is looked at only where shapes allow it."""
    image, mask = observation.image, observation.mask
    identifier = observation.identifier
    if image is None or image.ndim != 3:
        yield f"image: expected stamps of shape [n, y, x], got {'None' if image is None else image.shape}"
        return
    n = image.shape[0]
    if identifier.shape != (n,):
        yield f"identifier: expected one for each of {n} galaxies, got shape {identifier.shape}"
        identifier = np.arange(n)
    if mask is not None and (mask.shape != image.shape or mask.dtype != bool):
        yield f"mask: expected booleans of shape {image.shape}, got {mask.dtype} of shape {mask.shape}"
        mask = None
    if mask is not None:
        yield from bad_rows(
            "mask", "at least one pixel that is not masked", "none", mask.all(axis=(1, 2)), identifier
        )
    hidden = np.zeros_like(image, bool) if mask is None else mask
    bad = (~np.isfinite(image) & ~hidden).any(axis=(1, 2))
    yield from bad_rows("image", "finite pixels", "NaN or infinity", bad, identifier, "; mask those pixels")
    if not observation.pixel_scale_arcsec > 0:
        yield f"pixel_scale_arcsec: expected a positive width, got {observation.pixel_scale_arcsec}"
    yield from _psf_problems(observation.psf, n, observation.pixel_scale_arcsec, identifier)
    if isinstance(observation.noise, NoiseModel):
        yield from observation.noise.problems(image.shape, mask, identifier)
    else:
        yield f"noise: expected a noise model, such as WhiteNoise, got {type(observation.noise).__name__}"
    for name, column in observation.catalog.items():
        if column.shape != (n,):
            yield f"catalog[{name!r}]: expected one value for each of {n} galaxies, got shape {column.shape}"


def _psf_problems(psf: PSF, n: int, pixel_scale_arcsec: float, identifier: np.ndarray):
    stamp = psf.stamp
    if stamp.ndim != 3 or stamp.shape[0] != n:
        yield f"psf.stamp: expected one PSF for each of {n} galaxies, [n, py, px], got shape {stamp.shape}"
        return
    if stamp.shape[1] % 2 == 0 or stamp.shape[2] % 2 == 0:
        yield (
            f"psf.stamp: expected an odd number of pixels along y and x, so that a central pixel is the origin, got "
            f"{stamp.shape[1:]}; draw or pad it to an odd size"
        )
    if not same_scale(psf.pixel_scale_arcsec, pixel_scale_arcsec):
        yield (
            f"psf.pixel_scale_arcsec: expected the scale of the image, {pixel_scale_arcsec} arcsec, got "
            f"{psf.pixel_scale_arcsec}; resample the PSF"
        )
    finite = np.isfinite(stamp).all(axis=(1, 2))
    total = np.where(finite[:, None, None], stamp, 0).sum(axis=(1, 2), dtype=float)
    yield from bad_rows("psf.stamp", "finite pixels", "NaN or infinity", ~finite, identifier)
    bad = finite & ~(np.abs(total - 1) < PSF_SUM_TOLERANCE)
    if bad.any():
        worst = total[bad][np.argmax(np.abs(total[bad] - 1))]
        got, mend = f"sums as far off as {worst:.4g}", "; divide each by its sum"
        yield from bad_rows("psf.stamp", "PSFs that sum to 1", got, bad, identifier, mend)
