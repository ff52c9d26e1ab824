"""The figures of a validation: those of Lanusse et al. (2020) for its galaxies, and some more, with captions."""

from typing import Any

import numpy as np

from hiergal.measure.power_spectrum import Spectrum, mean_spectrum, radial_power
from hiergal.reports import figures
from hiergal.validation.arms import BRIGHTER_THAN, FEWEST_BRIGHT, bright
from hiergal.validation.candidates import fit_chi_square, limit_of
from hiergal.validation.conditional import Residuals, conditional_residuals
from hiergal.validation.morphology_reference import morphology_reference
from hiergal.validation.run import Validation

__all__ = ["FEWEST_SHOWN", "figures_of", "parametric_fits", "residuals_of"]

FEWEST_SHOWN = 10  # galaxies of a distribution that is drawn
SHOWN = 10  # galaxies of Fig. 1, and of each bin of magnitude
BINS = (
    0.1,
    0.5,
    1.0,
)  # ranks of magnitude where bins end: the few brightest show what the many faint ones cannot
BRIGHTEST = 10  # galaxies that are shown with draws of their posteriors
SIZES = {"flux_radius": 0.03, "hlr_arcsec": 1.0}  # columns of half-light radii, in arcsec
REFERENCES = {"COSMOS": "cosmos", "parametric fits": "parametric", "published mock": "mock"}


def figures_of(found: Validation) -> dict[str, tuple[Any, str]]:
    """The figures of the paper for these galaxies, and some more, with captions."""
    samples, observation = found.samples, found.observation
    catalog = observation.catalog
    magnitude = np.asarray(catalog["mag_auto"]) if "mag_auto" in catalog else None
    brightness = (
        -np.asarray(samples["survey"].measured.moments["amplitude"]) if magnitude is None else magnitude
    )
    order = np.argsort(brightness)
    shown: dict[str, tuple[Any, str]] = {
        "galaxies": (
            _next_to_each_other(found, order, SHOWN),
            "Galaxies of the survey that the generator has not seen; those drawn for them, with the same PSF and "
            "noise; the same without noise, where it is known. Compare Fig. 1 of Lanusse et al. (2020).",
        )
    }
    ends = np.round(np.array([0.0, *BINS]) * len(order)).astype(int)
    for name, first, last in zip(("bright", "middle", "faint"), ends[:-1], ends[1:], strict=True):
        part = order[first:last]
        if len(part) and magnitude is not None:
            low, high = magnitude[part[[0, -1]]]
            title = f"Magnitudes {low:.1f} to {high:.1f}: galaxies of the survey, and drawn for the same conditions"
            shown[f"galaxies_{name}"] = (
                _next_to_each_other(found, part, SHOWN, title=title),
                f"The same for one of three bins of magnitude, {low:.2f} to {high:.2f}: above each other, galaxies of "
                "the same magnitude, size and redshift, on one arcsinh stretch. Can you tell them apart?",
            )
    if found.latents is not None and magnitude is not None:
        shown["latents"] = (
            figures.latent_corner(found.latents.survey, magnitude, found.latents.flow, magnitude),
            "Latents of unseen galaxies, by the guide (upper right), and draws of the flow for the same conditions "
            "(lower left); dashed: the prior. Compare Fig. 4.",
        )
    if found.posterior is not None:
        part = observation[np.arange(len(found.posterior))]
        image, chi_square = parametric_fits(found)
        shown["reconstructions"] = (
            figures.fits_side_by_side(
                part,
                found.posterior.image_mean,
                image,
                {"model": found.posterior.chi_square, "parametric": chi_square},
            ),
            "Unseen galaxies from small to large: observed, reconstructed by the model, the best parametric fit, "
            "and both residuals in standard deviations of the noise. Compare Fig. 5.",
        )
        if found.posterior.origin is not None and len(found.posterior.latents) > 1:
            truth = samples["survey"].profile
            shown["brightest"] = (
                figures.brightest_posteriors(
                    found.posterior, None if truth is None else truth[: len(part)], count=BRIGHTEST
                ),
                "The brightest of the galaxies with posteriors: the true profile where it is known, the stamp, the "
                "posterior mean, two draws and the standard deviation, all but the stamp deconvolved.",
            )
    arms = {name: bright(sample.arms) for name, sample in samples.items()}
    if min(len(table) for table in arms.values()) >= FEWEST_BRIGHT:
        shown["arms"] = (
            figures.amplitudes_of_rings(arms),
            f"Azimuthal modes of elliptical rings of galaxies brighter than {BRIGHTER_THAN:g}, with PSF and noise: "
            "lopsidedness (m = 1), arms and bars (m = 2, 3), what of m = 2 winds, and how fast its phase drifts with "
            "radius: 2 / tan(pitch) for two arms, 0 for a bar.",
        )
    moments = {name: sample.measured.moments for name, sample in samples.items()}
    if min((table["flag"] == 0).sum() for table in moments.values()) >= FEWEST_SHOWN:
        shown["moments"] = (
            figures.sizes_and_ellipticities(
                moments["survey"], moments["drawn"], moments["parametric"], title="Sizes and ellipticities"
            ),
            "Adaptive second moments, nothing corrected for PSF or noise. Compare Fig. 6a.",
        )
        conditions = {} if magnitude is None else {"catalogue magnitude": magnitude}
        for name, factor in SIZES.items():
            if name in catalog:
                conditions["catalogue half-light radius [arcsec]"] = factor * np.asarray(catalog[name])
                break
        if conditions:
            shown["ellipticities"] = (
                figures.mean_ellipticity(moments, conditions),
                "Mean ellipticity in bins of what the catalogue says of the survey's galaxy. Compare Fig. 6b.",
            )
    residuals = residuals_of(found)
    if residuals:
        shown["conditions"] = (
            figures.conditional_scatter(residuals),
            "Size and flux of drawn galaxies, as measured, relative to the survey's galaxy whose conditions they "
            "were asked for. Conditions do not fix a galaxy: nature scatters, too. Compare Fig. 7.",
        )
    paper = {name: sample.paper for name, sample in samples.items() if sample.paper is not None}
    if len(paper) == len(samples) and len(observation) >= FEWEST_SHOWN:
        references = {label: morphology_reference(key) for label, key in REFERENCES.items()}
        shown["mid"] = (
            figures.morphology_curves(paper, references),
            "Multimode, intensity and deviation on the central 64x64 pixels, smoothed alike, next to the published "
            "samples. Compare Fig. 8.",
        )
        shown["planes"] = (
            figures.morphology_planes(paper, references),
            "Gini-M20 and I-D next to the published samples: real COSMOS galaxies, their parametric fits, and the "
            "mocks of Lanusse et al. (2020). Compare Fig. 9.",
        )
    shown |= _spectra(found)
    return shown


def _next_to_each_other(found: Validation, order: np.ndarray, count: int, **options: Any) -> Any:
    """Survey and drawn galaxies, evenly over an order of them."""
    rows = order[np.linspace(0, len(order) - 1, min(count, len(order))).astype(int)]
    observation, drawn = found.observation[rows], found.samples["drawn"]
    clean = drawn.images[rows]
    if drawn.profile is not None:
        clean = fit_chi_square(drawn.profile[rows], observation)[0]
    magnitude = observation.catalog.get("mag_auto")
    return figures.drawn_galaxies(
        observation.image,
        drawn.images[rows],
        clean,
        None if magnitude is None else [f"{one:.1f}" for one in np.asarray(magnitude)],
        noise_level=found.samples["survey"].noise_rms[rows],
        pixel_scale_arcsec=observation.pixel_scale_arcsec,
        **options,
    )


def residuals_of(found: Validation) -> dict[str, Residuals]:
    """Sizes and fluxes against the requested ones, where the catalogue has them."""
    catalog = found.observation.catalog
    real, drawn = (found.samples[name].measured.moments for name in ("survey", "drawn"))
    result = {}
    for name, factor in SIZES.items():
        if name in catalog:
            result["size"] = conditional_residuals(
                real, drawn, factor * np.asarray(catalog[name], float), "size"
            )
            break
    if "mag_auto" in catalog:
        result["flux"] = conditional_residuals(real, drawn, np.asarray(catalog["mag_auto"], float), "flux")
    return {name: residuals for name, residuals in result.items() if len(residuals.condition) >= FEWEST_SHOWN}


def parametric_fits(found: Validation) -> tuple[np.ndarray, np.ndarray]:
    """Images and chi-squares of the parametric fits to the galaxies that have posteriors."""
    n = 0 if found.posterior is None else len(found.posterior)
    return fit_chi_square(found.made.twins.profile[:n], found.observation[np.arange(n)])


def _spectra(found: Validation) -> dict[str, tuple[Any, str]]:
    """Power of profiles within and beyond the band limit, and of whitened residuals."""
    shown: dict[str, tuple[Any, str]] = {}
    observation, scale = found.observation, found.observation.pixel_scale_arcsec
    known = {name: s.profile for name, s in found.samples.items() if s.profile is not None}
    names = {"survey": "truth", "drawn": "drawn", "parametric": "parametric"}
    if "drawn" in known:
        shown["profiles"] = (
            figures.power_spectra(
                {
                    names[name]: mean_spectrum(profile, pixel_scale_arcsec=scale)
                    for name, profile in known.items()
                },
                limit=limit_of(observation),
                ylabel="mean power of profiles, over flux squared",
                title="Power beyond the band limit of the survey",
            ),
            "Power spectra of unconvolved profiles of unit flux, with errors by bootstrap over galaxies. Beyond "
            "the dotted line the survey sees next to nothing: what a generator has there it made up.",
        )
    if found.posterior is not None:
        part = observation[np.arange(len(found.posterior))]
        whitened = np.asarray(part.noise.whiten(part.image - found.posterior.image_mean, part.mask))
        rings = radial_power(whitened, pixel_scale_arcsec=scale)
        error = rings.power.std(axis=0, ddof=1) / np.sqrt(len(whitened))
        shown["residuals"] = (
            figures.power_spectra(
                {"residuals": Spectrum(rings.frequency, rings.power.mean(axis=0), error)},
                ylabel="mean power of whitened residuals",
                expected=1.0,
                title="Power of the residuals of reconstructions",
            ),
            "Power of residuals, over that of the noise. Above one: light that the model does not have. Below one: "
            "what the fit takes up of the noise.",
        )
    return shown
