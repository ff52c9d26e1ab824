"""Simulation-based calibration of a trained model: galaxies of its own prior, observed, inferred, and compared.

Galaxies are drawn from the model's prior, observed with PSFs and noise of galaxies of the survey that it was not
trained on, and inferred. Ranks, coverage and z-scores of every latent, flux, size and ellipticity are tested, and the
coverage of the last four together (:mod:`hiergal.validation.calibration.checks`). Simulations depend on the seed alone,
so that methods are compared on the same galaxies. What is found goes to disk in :mod:`hiergal.reports.calibration`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from hiergal.measure.profile import summarize_profile
from hiergal.model.trained import GalaxyModel
from hiergal.observation.observation import Observation
from hiergal.posterior.infer import infer
from hiergal.posterior.posterior import METHODS, Posterior, credible_interval
from hiergal.posterior.samplers.importance import LARGEST_K_HAT
from hiergal.posterior.samplers.posterior_flow import simulate
from hiergal.runtime.pytree import brief
from hiergal.runtime.seeds import key_for
from hiergal.runtime.verdict import Verdict
from hiergal.survey.split import split_of
from hiergal.survey.store import SurveyStore
from hiergal.validation.calibration.checks import (
    PROBABILITIES,
    calibration_tests,
    fewest_draws,
    tarp_coverage,
)

__all__ = ["QUANTITIES", "CalibrationStudy", "calibrate_model", "check_size", "simulate_survey"]

SIMULATED, INFERRED = 400, 401  # purposes of the seed
QUANTITIES = ("flux", "hlr_arcsec", "g1", "g2")
DECODED = 200  # galaxies decoded together


class CalibrationStudy(NamedTuple):
    """Results of a calibration.

    Attributes:
        draws: Posterior draws of each quantity, [s, n].
        truth: Its true values, [n].
        shares: For each group of quantities, the share of draws nearer to a random point than the truth is, [n].
        posterior: The posteriors.
        verdicts: A verdict for each test.
    """

    draws: dict[str, Float[np.ndarray, "s n"]]
    truth: dict[str, Float[np.ndarray, "n"]]
    shares: dict[str, Float[np.ndarray, "n"]]
    posterior: Posterior
    verdicts: list[Verdict]

    __repr__ = brief

    @property
    def passed(self) -> bool:
        """Whether all tests passed."""
        return all(verdict.passed for verdict in self.verdicts)

    def numbers(self) -> dict[str, object]:
        """Return all numbers, as JSON can hold them."""
        found = self.posterior.statistics
        used = {name: int((self.posterior.method == i).sum()) for i, name in enumerate(METHODS)}
        return {
            "passed": self.passed,
            "used": {name: count for name, count in used.items() if count},
            "k_hat_below_0.7": float(np.mean(found["k_hat"] < LARGEST_K_HAT)),
            "ess_median": float(np.median(found["ess"])),
            "r_hat_largest": float(np.nanmax(found["r_hat"], initial=-np.inf)),
            "coverage": _coverage(self.draws, self.truth),
            "joint_coverage": {
                name: {f"{p:.2f}": float(np.mean(share <= p)) for p in PROBABILITIES}
                for name, share in self.shares.items()
            },
            "verdicts": [verdict._asdict() for verdict in self.verdicts],
        }


def calibrate_model(
    model: GalaxyModel,
    store: SurveyStore,
    *,
    seed: int,
    method: str = "flow",
    galaxies: int = 2000,
    draws: int = 199,
    batch: int = 32,
    progress: bool = False,
) -> CalibrationStudy:
    """Infer galaxies of a model's own prior, and test how often its credible intervals hold the truth.

    Args:
        model: A trained model.
        store: The survey that it was trained on.
        seed: Seed of galaxies, noise and draws.
        method: As for :func:`hiergal.posterior.infer`.
        galaxies: How many to simulate.
        draws: Posterior draws of each.
        batch: Galaxies in one call of the compiled program.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If the survey does not fit to the model, or as for :func:`hiergal.posterior.infer`.

    Example:
        >>> found = calibrate_model(model, survey, seed=0, galaxies=20, draws=39)
        >>> found.passed in (True, False)
        True
    """
    check_size(galaxies, draws)
    store = store.in_photometry(model.provenance.photometry)
    observation, truth = simulate_survey(model, store, galaxies, seed)
    posterior = infer(
        model,
        observation,
        key=key_for(seed, INFERRED),
        method=method,
        draws=draws,
        batch=batch,
        progress=progress,
    )
    values = _draws_of(posterior)
    latents = [name for name in truth if name not in QUANTITIES]
    shares = {
        "joint: " + ", ".join(QUANTITIES): _joint(values, truth, QUANTITIES, seed),
        f"joint: {len(latents)} latents": _joint(values, truth, latents, seed),
    }
    verdicts = calibration_tests(values, truth, joint=QUANTITIES, seed=seed)
    return CalibrationStudy(values, truth, shares, posterior, verdicts)


def check_size(galaxies: int, draws: int) -> None:
    """Refuse studies that are too small for their tests, before anything is inferred."""
    least = fewest_draws()
    if galaxies < 2 or draws < least:
        raise ValueError(
            f"expected at least 2 galaxies and {least} draws of each (for intervals of {max(PROBABILITIES):.4g}), got "
            f"{galaxies} and {draws}"
        )


def simulate_survey(
    model: GalaxyModel, store: SurveyStore, galaxies: int, seed: int
) -> tuple[Observation, dict[str, Float[np.ndarray, "n"]]]:
    """Draw galaxies from a model, observed like galaxies of the survey that it was not trained on.

    Args:
        model: A trained model.
        store: The survey, in the model's photometry.
        galaxies: How many; the PSFs and noise of the survey's galaxies repeat if there are fewer.
        seed: Seed of galaxies and noise.

    Returns:
        The observations, and the true values of each quantity and latent.
    """
    unseen = split_of(store, model.recipe).test
    like = store.read(np.resize(unseen, galaxies)).replace(identifier=np.arange(galaxies))
    known = jax.jit(simulate)(
        model, like, model.latent_flow().expand((galaxies,)), key=key_for(seed, SIMULATED)
    )
    latents = np.asarray(known.latents)
    blocks = [model.decode(jax.numpy.asarray(latents[i : i + DECODED])) for i in range(0, galaxies, DECODED)]
    parts = [summarize_profile(profile, model.recipe.pixel_scale_arcsec) for profile in blocks]
    truth = {name: np.concatenate([np.asarray(getattr(part, name)) for part in parts]) for name in QUANTITIES}
    truth |= {f"z{i}": latents[:, i] for i in range(latents.shape[1])}
    return jax.tree.map(np.asarray, known.observation), truth


def _draws_of(posterior: Posterior) -> dict[str, Float[np.ndarray, "s n"]]:
    latents = np.asarray(posterior.latents)
    draws = {name: np.asarray(getattr(posterior.summary, name)) for name in QUANTITIES}
    return draws | {f"z{i}": latents[..., i] for i in range(latents.shape[-1])}


def _coverage(
    draws: dict[str, Float[np.ndarray, "s n"]], truth: dict[str, Float[np.ndarray, "n"]]
) -> dict[str, dict[str, float]]:
    """Share of the truths in central intervals of each probability."""

    def share(name: str, probability: float) -> float:
        low, high = credible_interval(draws[name], probability)
        return float(np.mean((low <= truth[name]) & (truth[name] <= high)))

    return {name: {f"{p:.2f}": share(name, p) for p in PROBABILITIES} for name in draws}


def _joint(
    draws: dict[str, Float[np.ndarray, "s n"]],
    truth: dict[str, Float[np.ndarray, "n"]],
    names: Sequence[str],
    seed: int,
) -> Float[np.ndarray, "n"]:
    together = [np.stack([kind[name] for name in names], axis=-1) for kind in (draws, truth)]
    return tarp_coverage(*together, seed=seed)
