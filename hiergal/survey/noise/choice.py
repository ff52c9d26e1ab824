"""The noise of a survey: given with its stamps, or measured in them, and the choice between the two.

Galaxies of one exposure or mosaic share a noise spectrum, so they are stacked (:mod:`hiergal.survey.noise.spectrum`)
group by group: in catalogues of real galaxies the groups are those with one correlation file, in cutouts those with
one value of a catalogue column. A group with too few source-free pixels takes the spectrum of all groups together.

Every survey records the choice in its header's provenance: ``noise_spectrum`` is ``given`` or ``measured``, and
``noise_measured`` holds the measured level and spectrum of each group, with errors, next to the given one.
"""

import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float

from hiergal.observation.observation import Observation
from hiergal.observation.stationary import StationaryNoise
from hiergal.survey.noise.spectrum import (
    NoiseSpectrum,
    NoiseStack,
    add_observation,
    given_correlation,
    rms_of_pixels,
)

if TYPE_CHECKING:
    import galsim

    from hiergal.survey.real_catalog import RealCatalog

__all__ = [
    "MeasuredNoise",
    "NoiseSource",
    "check_source",
    "map_variation",
    "measure_in_catalog",
    "measure_in_cutouts",
    "measured_or_why",
    "noise_report",
    "with_measured_noise",
    "with_spectrum",
]

NoiseSource = Literal["given", "measured"]

GALAXIES = 2000  # that a spectrum is measured with
OPEN_FILES = 4
ALL = "all"
MAP_VARIATION = 0.1  # of the noise level inside a stamp, from which on a measured spectrum gives something up
MOST_LEVEL = (
    3.0  # of the given noise level, or its inverse: beyond, units are wrong, or stamps are full of galaxies
)
CLEAR_ERRORS, CLEAR_SHARE = 5.0, 0.05  # difference from the given spectrum that is pointed out


class MeasuredNoise(NamedTuple):
    """Noise spectra measured in a survey.

    Attributes:
        groups: Spectrum of each group of galaxies that has enough source-free pixels.
        whole: Spectrum of all galaxies together.
    """

    groups: dict[Any, NoiseSpectrum]
    whole: NoiseSpectrum

    def of(self, group: Any) -> NoiseSpectrum:
        """Return the spectrum of a group, or of all galaxies where the group has none."""
        return self.groups.get(group, self.whole)

    def summary(self) -> dict[str, Any]:
        """Return the entry for the survey's description."""
        each = {str(name): spectrum.summary() for name, spectrum in self.groups.items()}
        return each if len(each) > 1 else {ALL: self.whole.summary()}


def check_source(source: str) -> None:
    """Refuse unknown names of where the noise comes from."""
    if source not in get_args(NoiseSource):
        raise ValueError(f"noise_spectrum: expected 'given' or 'measured', got {source!r}")


def measure_in_catalog(
    catalog: "RealCatalog", stamp_shape: tuple[int, int], rows: np.ndarray
) -> MeasuredNoise:
    """Measure noise in the cutouts of real galaxies, those with one correlation file together.

    The cutouts themselves are read, not stamps: what is drawn around a cutout to fill a stamp has the given spectrum.

    Args:
        catalog: An open catalogue.
        stamp_shape: (ny, nx) of the survey's stamps [pixels].
        rows: Galaxies to choose from; up to 2,000 of them, evenly spaced, are read.

    Raises:
        ValueError: If too few pixels are free of sources.

    Example:
        >>> measure_in_catalog(catalog, (64, 64), catalog.rows).whole.level  # doctest: +SKIP
    """
    real, scale = catalog.real, catalog.pixel_scale_arcsec
    files = real.noise_file_name
    given: dict[Any, np.ndarray | None] = {}

    def stamps() -> Iterator[tuple[Any, np.ndarray]]:
        for row in rows[:: -(-len(rows) // GALAXIES)]:
            group = None if files is None else files[row]
            if group not in given:
                given[group] = _drawn(real.getNoise(row), max(stamp_shape) // 2, scale)
            yield group, np.asarray(real.getGalImage(row).array, float) / np.sqrt(real.variance[row])
            if len(real.loaded_files) > OPEN_FILES:  # GalSim keeps all it has read in memory
                real.close()

    stacks: dict[Any, NoiseStack] = {}
    whole: Any = None
    for group, image in stamps():
        whole = whole or NoiseStack(stamp_shape, given[group])
        if group not in stacks:
            stacks[group] = NoiseStack(stamp_shape, given[group])
        for stack in (stacks[group], whole):
            stack.add([image])
    return _results(stacks, whole)


def measure_in_cutouts(
    batches: Iterable[Observation], group: str | None = None, *, galaxies: int = GALAXIES
) -> MeasuredNoise:
    """Measure noise in cutouts.

    Args:
        batches: Observations with their given noise.
        group: Column of the catalogue that tells exposures or mosaics apart; None if all galaxies share one spectrum.
        galaxies: Number of galaxies after which to stop reading.

    Raises:
        ValueError: If too few pixels are free of sources, or the column is not there.

    Example:
        >>> measure_in_cutouts([survey.read()]).whole.level > 0
        True
    """
    stacks: dict[Any, NoiseStack] = {}
    whole, seen = None, 0
    for observation in batches:
        shape = observation.image.shape[-2:]
        whole = whole or NoiseStack(shape, given_correlation(observation.noise, shape))
        labels = _labels(observation, group)
        for label in np.unique(labels):
            if group is not None and label not in stacks:
                stacks[label] = NoiseStack(shape, whole.given)
            for stack in (whole, stacks[label]) if group is not None else (whole,):
                add_observation(stack, observation, labels == label)
        seen += len(observation)
        if seen >= galaxies:
            break
    if whole is None:
        raise ValueError("expected galaxies to measure noise with, got none; check the source")
    return _results(stacks, whole)


def with_measured_noise(
    observation: Observation, measured: MeasuredNoise, group: str | None = None
) -> Observation:
    """Assign to observations stationary noise of the measured spectrum, scaled to each galaxy's given level.

    Args:
        observation: Observations with their given noise.
        measured: What was measured.
        group: Column of the catalogue that tells exposures or mosaics apart.

    Example:
        >>> with_measured_noise(observation, measure_in_cutouts([survey.read()])).noise.power.shape
        (4, 64, 33)
    """
    labels = _labels(observation, group)
    power = None
    for label in np.unique(labels):
        rows = labels == label
        found: Any = with_spectrum(observation, measured.of(label)).noise
        power = np.where(rows[:, None, None], found.power, found.power if power is None else power)
    vary = map_variation(observation) > MAP_VARIATION
    if vary.any():
        warnings.warn(
            f"the noise maps of {vary.sum()} of {len(vary)} galaxies vary by more than {MAP_VARIATION:.0%} inside a "
            "stamp; noise of a measured spectrum has one level for each stamp, the median of its map",
            stacklevel=2,
        )
    return observation.replace(noise=found.replace(power=power))


def with_spectrum(observation: Observation, spectrum: NoiseSpectrum) -> Observation:
    """Assign to observations stationary noise of a measured spectrum, scaled to each galaxy's given level.

    The level of a galaxy with a variance map is the median over its pixels with data: the map's variation inside a
    stamp is given up for the correlation between pixels. Masks stay.

    Args:
        observation: Observations with any noise.
        spectrum: What was measured.

    Example:
        >>> measured = measure_in_cutouts([survey.read()])
        >>> with_spectrum(observation, measured.whole).noise.power.shape
        (4, 64, 33)
    """
    ny, nx = observation.image.shape[-2:]
    level = np.array(observation.noise.rms(), float)
    if observation.mask is not None:
        seen = np.where(np.asarray(observation.mask), np.nan, rms_of_pixels(observation).astype(float))
        some = np.isfinite(seen).any(axis=(1, 2))
        level[some] = np.nanmedian(seen[some], axis=(1, 2))
    power = level[:, None, None] ** 2 * spectrum.on((ny, nx))
    return observation.replace(noise=StationaryNoise(power.astype(np.float32), width=nx))


def map_variation(observation: Observation) -> Float[np.ndarray, "n"]:
    """Return by how much the noise level varies inside each stamp: standard deviation over median."""
    sigma = rms_of_pixels(observation).astype(float)
    if observation.mask is not None:
        sigma = np.where(np.asarray(observation.mask), np.nan, sigma)
    some = np.isfinite(sigma).any(axis=(1, 2))
    variation = np.zeros(len(sigma))
    variation[some] = np.nanstd(sigma[some], axis=(1, 2)) / np.nanmedian(sigma[some], axis=(1, 2))
    return variation


def noise_report(provenance: dict[str, Any]) -> str:
    """Return lines on the noise of a survey: which spectrum it states, and how the measured one differs from the given.

    Args:
        provenance: Of the survey's header.

    Example:
        >>> noise_report({"noise_spectrum": "given"})
        'noise: as given'
    """
    used = provenance.get("noise_spectrum", "given")
    lines = [f"noise: {'as measured in the stamps' if used == 'measured' else 'as given'}"]
    if "noise_not_measured" in provenance:
        lines.append(f"not measured in the stamps: {provenance['noise_not_measured']}")
    differ = False
    for name, found in islice(provenance.get("noise_measured", {}).items(), 4):
        bands = found["bands"]
        where = "" if name == ALL else f" ({name})"
        lines += [
            f"measured in {found['pixels']} source-free pixels of {found['galaxies']} galaxies{where}: level "
            f"{found['level_ratio']:.3f} +- {found['level_error']:.3f} of the given one",
            "  cycles per pixel   measured / given power",
        ]
        rows = zip(*(np.array(bands[key]) for key in ("frequency", "ratio", "error", "given")), strict=True)
        for frequency, ratio, error, given in rows:
            lines.append(f"  {frequency:16.3f}   {ratio:.3f} +- {error / given:.3f}")
            differ |= abs(ratio - 1) > max(CLEAR_ERRORS * error / given, CLEAR_SHARE)
    if differ and used == "given":
        lines.append(
            "the noise in the stamps differs from the given one: errors of fluxes and shapes will be wrong by as much; "
            "use --noise-spectrum measured"
        )
    return "\n".join(lines)


def check_level(measured: MeasuredNoise) -> None:
    """Refuse measured noise whose level has nothing to do with the given one.

    Raises:
        ValueError: If it is more than three times as high, or as low.
    """
    level = measured.whole.level
    if not 1 / MOST_LEVEL < level < MOST_LEVEL:
        raise ValueError(
            f"expected noise in the stamps of about the given level, got {level:.3g} of it in {measured.whole.pixels} "
            "pixels without sources; check the units of the noise, and whether the stamps hold any blank sky"
        )


def measured_or_why(measure: Any, source: str) -> tuple[MeasuredNoise | None, dict[str, Any]]:
    """Measure noise, and return it with what a survey records.

    Args:
        measure: Measures the noise.
        source: Which noise the survey will state: if it is the measured one, it has to be there.

    Raises:
        ValueError: If noise that cannot be measured is to be stated.
    """
    try:
        measured = measure()
        check_level(measured)
    except ValueError as error:
        if source == "measured":
            raise
        return None, {"noise_spectrum": source, "noise_not_measured": str(error).partition(";")[0]}
    return measured, {"noise_spectrum": source, "noise_measured": measured.summary()}


def _results(stacks: dict[Any, NoiseStack], whole: NoiseStack) -> MeasuredNoise:
    groups = {}
    for name, stack in stacks.items():
        try:
            groups[name] = stack.result()
        except ValueError:  # too few pixels: all groups together stand in
            continue
    together = next(iter(groups.values())) if len(stacks) == len(groups) == 1 else whole.result()
    return MeasuredNoise(groups, together)


def _labels(observation: Observation, group: str | None) -> np.ndarray:
    if group is None:
        return np.zeros(len(observation))
    if group not in observation.catalog:
        raise ValueError(
            f"noise_group: expected a column of the catalogue, {', '.join(observation.catalog) or 'which has none'}, "
            f"got {group!r}"
        )
    return np.nan_to_num(np.asarray(observation.catalog[group], float), nan=-1.0)


def _drawn(noise: "galsim.BaseCorrelatedNoise", reach: int, scale: float) -> np.ndarray:
    """Draw the correlation function of given noise of unit variance up to a lag."""
    import galsim

    image = galsim.Image(2 * reach + 1, 2 * reach + 1, scale=scale, dtype=float)
    noise.drawImage(image)
    return image.array / image.array[reach, reach]
