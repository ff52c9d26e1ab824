"""The quickstart's report: its figures, and its summary in words."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hiergal.measure.profile import summarize_profile
from hiergal.model.trained import GalaxyModel
from hiergal.observation.observation import Observation
from hiergal.posterior.posterior import Posterior
from hiergal.recipe.recipe import recipe_to_toml
from hiergal.reports import figures
from hiergal.reports.page import Finding, package_versions, write_report
from hiergal.runtime.seeds import SAMPLE, key_for
from hiergal.survey.store import SurveyStore
from hiergal.training.history import TrainInfo
from hiergal.validation.model_tests import sample_latents

if TYPE_CHECKING:
    from hiergal.cli.quickstart.metrics import Drawn

__all__ = ["findings_of", "write_quickstart_report"]

SUMMARY = (
    "hiergal drew a mock survey like HST/ACS imaging of COSMOS, learnt a generative model from its noisy, blurred "
    "stamps, fitted a flow to the latents, inferred posteriors of galaxies that the model had not seen, and drew new "
    "ones. Every number below was measured on those unseen galaxies."
)
TOO_NARROW = (
    "These errors are too small: the small model is smoother than these galaxies. Widen them by what this "
    "table shows, or train the recipe `standard` on more galaxies; models/README.md says how far that goes."
)
TOO_WIDE = "These errors are too large: train longer."
MISFIT = "The model does not reproduce these galaxies: train longer, or with the recipe `standard`."
OVERFIT = "The noise that the survey states is larger than that of its stamps: check it."
NAMES = {"flux": "total flux", "hlr_arcsec": "half-light radius", "g1": "g1", "g2": "g2"}


def write_quickstart_report(
    out: Path,
    *,
    metrics: dict[str, Any],
    model: GalaxyModel,
    history: tuple[TrainInfo, ...],
    store: SurveyStore,
    observation: Observation,
    posterior: Posterior,
    truth: np.ndarray,
    drawn: "Drawn",
    real: tuple[Observation, Posterior] | None,
) -> Path:
    """Write ``report.html`` and its figures.

    Args:
        out: Folder of the run.
        metrics: What was measured.
        model: The trained model, with its flow.
        history: Evaluations of the training.
        store: The survey.
        observation: Unseen galaxies.
        posterior: Their posteriors.
        truth: Their true profiles [flux per pixel].
        drawn: Galaxies drawn for their conditions.
        real: Real galaxies and their posteriors, if there are any.

    Returns:
        The path of the page.
    """
    shown: dict[str, tuple[Any, str]] = {
        "survey": (
            figures.survey_stamps(observation),
            "Stamps of the survey, from bright to faint; the number is the magnitude.",
        ),
        "training": (
            figures.training_curves(history),
            "Evidence lower bound, reduced chi-square and divergence from the prior on validation galaxies.",
        ),
        "reconstructions": (
            figures.reconstructions(observation, posterior, truth),
            "Unseen galaxies: input, posterior-mean reconstruction, residual in units of the noise, deconvolved mean "
            "and standard deviation, and the truth (unconvolved, noise-free).",
        ),
        "latents": (
            _corner(model, observation),
            "Latents of unseen galaxies, by the guide (upper right), and draws of the flow for the same conditions "
            "(lower left); dashed: the prior. Compare Fig. 4 of the paper.",
        ),
        "drawn": (
            _drawn(drawn),
            "Survey galaxies; galaxies drawn for the same magnitude, size and redshift with the same PSF and noise; "
            "the same without noise. Compare Fig. 1 of the paper.",
        ),
        "moments": (
            figures.sizes_and_ellipticities(drawn.survey_moments, drawn.moments),
            "Adaptive second moments of survey and drawn galaxies. Compare Fig. 6 of the paper.",
        ),
        "coverage": (
            figures.coverage(*_coverage(metrics), metrics["mock"]["galaxies"]),
            "Coverage of central posterior intervals, against their nominal probability.",
        ),
        "fluxes": (
            figures.intervals(
                np.asarray(summarize_profile(truth, observation.pixel_scale_arcsec).flux),
                posterior.summary.flux,
                unit=model.provenance.flux_unit,
            ),
            "Inferred against true total flux of unseen galaxies, with 68 % intervals.",
        ),
    }
    if real is not None:
        for number, page in enumerate(figures.reconstruction_pages(*real, title="Real COSMOS galaxies"), 1):
            shown[f"cosmos_dev_{number}"] = (
                page,
                "Real HST/ACS galaxies in COSMOS, with their own PSFs and noise.",
            )
    return write_report(
        out,
        title="hiergal quickstart",
        figures=shown,
        metrics=metrics,
        summary=SUMMARY,
        findings=findings_of(metrics),
        made={
            "training galaxies": model.provenance.galaxies,
            "seed": model.provenance.seed,
            "training time [s]": round(history[-1].seconds),
            "survey": store.header.survey,
            **package_versions(),
        },
        recipe=recipe_to_toml(model.recipe),
        overwrite=True,
    )


def _corner(model: GalaxyModel, observation: Observation):
    """Samples of the guide, which the flow learns, next to samples of the flow."""
    latents = sample_latents(model, observation, key=key_for(model.provenance.seed, SAMPLE))
    magnitude = np.asarray(observation.catalog["mag_auto"])
    return figures.latent_corner(latents.survey, magnitude, latents.flow, magnitude)


def _drawn(drawn: "Drawn"):
    observation = drawn.survey
    magnitude = observation.catalog["mag_auto"]
    rows = np.argsort(magnitude)[np.linspace(0, len(magnitude) - 1, 10).astype(int)]
    return figures.drawn_galaxies(
        observation.image[rows],
        drawn.noisy[rows],
        drawn.clean[rows],
        [f"{magnitude[row]:.1f}" for row in rows],
        noise_level=np.asarray(observation.noise.rms())[rows],
        pixel_scale_arcsec=observation.pixel_scale_arcsec,
    )


def _coverage(metrics: dict[str, Any]):
    table = metrics["mock"]["coverage"]
    nominal = np.array([float(probability) for probability in table["flux"]])
    return nominal, {
        NAMES[name]: np.array([row["fraction"] for row in rows.values()]) for name, rows in table.items()
    }


def findings_of(metrics: dict[str, Any]) -> list[Finding]:
    """Return the numbers that matter, with their goals, and what to do where one is missed.

    Args:
        metrics: What the quickstart measured.
    """
    mock, drawn = metrics["mock"], metrics["drawn"]
    found = [
        _within("median reduced chi-square of the reconstruction", mock["chi_square_median"], 0.97, 1.05),
        _within("the same for the brightest quarter", mock["chi_square_median_brightest_quarter"], 0.0, 1.2),
    ]
    for quantity, (probability, low, high) in itertools.product(NAMES, (("0.68", 60, 76), ("0.95", 90, 98))):
        share = mock["coverage"][quantity][probability]
        value, error = 100 * share["fraction"], 100 * share["error"]
        found.append(
            Finding(
                f"{float(probability):.0%} intervals of {NAMES[quantity]} hold the truth for",
                f"{value:.1f} ± {error:.1f} %",
                f"{low} to {high} %",
                low <= value <= high,
                TOO_NARROW if value < low else TOO_WIDE,
            )
        )
    for name, quantity, limit in (("size_arcsec", "size", 5), ("ellipticity", "ellipticity", 10)):
        excess, error = 100 * (drawn[name]["ratio"] - 1), 100 * drawn[name]["ratio_error"]
        found.append(
            Finding(
                f"mean {quantity} of drawn galaxies, against the survey's",
                f"{excess:+.1f} ± {error:.1f} %",
                f"within {limit} %",
                abs(excess) <= limit,
                "Train longer, or with the recipe `standard`; `hiergal validate` says more.",
            )
        )
    if "cosmos_dev" in metrics:
        real = metrics["cosmos_dev"]
        found.append(
            Finding(
                f"real COSMOS galaxies with finite posteriors (of {real['galaxies']})",
                "all" if real["all_finite"] else "not all",
                "all",
                real["all_finite"],
                "Look at these galaxies in the figures: masks and noise first.",
            )
        )
        value = real["chi_square_median_fainter_than_23"]
        found.append(_within("their median reduced chi-square, fainter than magnitude 23", value, 0.0, 1.2))
    return found


def _within(statement: str, value: float, low: float, high: float) -> Finding:
    goal = f"{low:g} to {high:g}" if low else f"below {high:g}"
    return Finding(statement, f"{value:.3f}", goal, low <= value <= high, MISFIT if value > high else OVERFIT)
