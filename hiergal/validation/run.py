"""A whole validation, from a model (or given galaxies) and a survey to numbers, figures and a report.

Real galaxies that the generator has not seen, the galaxies to be judged and parametric fits are made and measured
alike (:mod:`hiergal.validation.samples`), and every test of the package compares them: the galaxies with the real ones,
parametric fits with the real ones (what simulations drew before), and one half of the real ones with the other (the
floor). What the tests are, and what they can see, is in the modules that they come from.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jaxtyping import Int

from hiergal.model.trained import GalaxyModel
from hiergal.observation.observation import Observation
from hiergal.posterior.infer import infer
from hiergal.posterior.posterior import Posterior
from hiergal.runtime.extras import require_extra
from hiergal.runtime.fork import check_not_forked
from hiergal.runtime.progress import progress_bar
from hiergal.runtime.pytree import brief
from hiergal.runtime.seeds import check_seed, key_for
from hiergal.runtime.verdict import ALPHA, Verdict, holm
from hiergal.runtime.workers import in_order
from hiergal.survey.degrade import DEGRADED
from hiergal.survey.split import split_of
from hiergal.survey.store import SurveyStore
from hiergal.validation.arms import arm_tests
from hiergal.validation.candidates import (
    Candidate,
    candidate_of,
    fit_chi_square,
    limit_of,
    measured_of,
    noise_of,
)
from hiergal.validation.conditional import conditional_test
from hiergal.validation.galaxy_folder import read_galaxy_folder
from hiergal.validation.learned_tests import FEWEST_CLASSIFIED, memorization_test, pqmass_test
from hiergal.validation.model_tests import (
    LatentSamples,
    latent_tests,
    reconstruction_test,
    sample_latents,
)
from hiergal.validation.pixel_tests import pixel_classifier_test, pixel_features
from hiergal.validation.samples import Samples, halves, make_samples, samples_of
from hiergal.validation.shear import shear_tests
from hiergal.validation.spectra import beyond_band_test, residual_spectrum_test
from hiergal.validation.suite import Measured, cells_for, compare
from hiergal.validation.two_sample import energy_test

__all__ = ["GALAXIES", "Validation", "held_out", "validate"]

GALAXIES, TRAINED, RECONSTRUCTED = 2000, 500, 200
VALIDATE = 200  # purpose of a seed
FEWEST_GALAXIES = 10  # galaxies, for anything to be said


class Validation(NamedTuple):
    """Results of a validation.

    Attributes:
        observation: The real galaxies.
        samples: ``survey``, ``drawn`` and ``parametric``.
        verdicts: Verdicts against the survey's galaxies by sample: ``drawn``, ``parametric``, and ``floor``, of one
            half of the survey's against the other, if there are enough of them.
        made: The stamps, profiles and parametric fits.
        posterior: Posteriors of the first galaxies, if there is a model.
        latents: Latents, if there is a model.
    """

    observation: Observation
    samples: dict[str, Candidate]
    verdicts: dict[str, list[Verdict]]
    made: Samples
    posterior: Posterior | None
    latents: LatentSamples | None

    @property
    def passed(self) -> bool:
        """Whether no test saw a difference between the drawn galaxies and the survey's."""
        return all(verdict.passed for verdict in self.verdicts["drawn"])

    __repr__ = brief


def validate(
    store: SurveyStore,
    *,
    model: GalaxyModel | None = None,
    images: str | Path | None = None,
    profiles: bool = False,
    galaxies: int = GALAXIES,
    seed: int = 0,
    alpha: float = ALPHA,
    workers: int | None = None,
    progress: bool = True,
) -> Validation:
    """Compare a model, or given galaxies, with a survey.

    Args:
        store: The survey; of one that the model was trained on, only the galaxies kept apart are used.
        model: A trained model with a latent flow; or None with ``images``.
        images: A folder of galaxies (:mod:`hiergal.validation.galaxy_folder`); or None with ``model``.
        profiles: Whether those are unconvolved profiles without noise, rather than stamps as the survey sees them.
        galaxies: Number of galaxies at most.
        seed: Seed of everything random.
        alpha: Chance of any false alarm among all tests of a sample.
        workers: Number of processes or threads, or None for one per available core.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If neither or both of model and images are given, or they do not fit the survey.

    Example:
        >>> found = validate(survey, model=model, workers=1, progress=False)
        >>> found.passed in (True, False)
        True
    """
    require_extra("validate", "validation")
    check_seed(seed)
    check_not_forked()
    if (model is None) == (images is None):
        raise ValueError("expected a model, or a folder of images; give one of the two")
    key = key_for(seed, VALIDATE)
    trained = None
    if model is not None:
        store = store.in_photometry(model.provenance.photometry)
        rows, seen = held_out(store, model)
        _enough(len(rows))
        observation = store.read(rows[:galaxies])
        with progress_bar("samples", len(observation), shown=progress) as advance:
            made = make_samples(model, observation, key=key, workers=workers, on_progress=advance)
        trained = None if seen is None else store.read(seen[:TRAINED])
    else:
        folder = read_galaxy_folder(cast(Path, images), store)
        _enough(len(folder.rows))
        observation = store.read(folder.rows[:galaxies])
        with progress_bar("samples", len(observation), shown=progress) as advance:
            made = samples_of(
                folder.images[:galaxies],
                observation,
                profiles=profiles,
                key=key,
                workers=workers,
                on_progress=advance,
            )

    truth = (
        store.truth(rows[:galaxies] if model is not None else folder.rows[:galaxies])
        if store.has_truth
        else None
    )
    options: dict[str, Any] = {"workers": workers, "progress": progress}
    samples = {
        name: candidate_of(name, stamps, profile, observation, **options)
        for name, stamps, profile in (
            ("survey", made.real, truth),
            ("drawn", made.drawn, made.profile),
            ("parametric", made.parametric, made.twins.profile),
        )
    }
    seen = None if trained is None else measured_of("training", trained.image, trained, **options)
    first, second = halves(len(observation), seed=seed)
    pairs = {
        "drawn": (samples["survey"], samples["drawn"]),
        "parametric": (samples["survey"], samples["parametric"]),
    }
    if len(first) >= FEWEST_CLASSIFIED:
        pairs["floor"] = (samples["survey"][first], samples["survey"][second])
    limit = limit_of(observation)
    verdicts: dict[str, list[Verdict]] = {}
    copied = None if seen is None else (seen, trained)
    do = partial(_compare, limit=limit, seed=seed, alpha=alpha)
    tasks = [(*pair, copied if name == "drawn" else None) for name, pair in pairs.items()]
    with progress_bar("comparisons", len(tasks), shown=progress) as advance:
        results = in_order(do, tasks, workers=workers, threads=True)
        for name, found in zip(pairs, results, strict=True):
            verdicts[name] = found
            advance()
    for name in ("drawn", "parametric"):  # not the halves, which are different galaxies
        verdicts[name] += _pairwise(*pairs[name], seed=seed, alpha=alpha)
    posterior = latents = None
    if model is not None:
        latents = sample_latents(model, observation, key=jax.random.fold_in(key, 1))
        part = np.arange(min(RECONSTRUCTED, len(observation)))
        posterior = infer(
            model, observation[part], key=jax.random.fold_in(key, 2), draws=20, progress=progress
        )
        verdicts["drawn"] += latent_tests(latents, seed=seed, alpha=alpha)
        verdicts["drawn"] += _reconstructions(posterior, observation[part], made, seed=seed, alpha=alpha)
    verdicts = {name: holm(several, alpha=alpha) for name, several in verdicts.items()}
    return Validation(observation, samples, verdicts, made, posterior, latents)


def held_out(
    store: SurveyStore, model: GalaxyModel
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "m"] | None]:
    """Return the rows of a survey that a model has not seen, and those that it was trained on, if it was.

    Args:
        store: A survey.
        model: A trained model; it was trained on this survey if both state the same provenance, except for
            the resolution: a model of a degraded survey is judged with the sharper one's galaxies
            (:mod:`hiergal.survey.degrade`).
    """
    ours, theirs = (
        {name: value for name, value in made.items() if not name.startswith(DEGRADED)}
        for made in (store.header.provenance, model.provenance.survey_provenance)
    )
    if ours != theirs:
        return np.arange(len(store)), None
    split = split_of(store, model.recipe)
    if len(split.train) != model.provenance.galaxies:
        return np.arange(len(store)), None
    return split.test, split.train


def _enough(galaxies: int) -> None:
    if galaxies < FEWEST_GALAXIES:
        raise ValueError(
            f"expected at least {FEWEST_GALAXIES} galaxies that the generator has not seen, got {galaxies}; give a "
            "larger survey"
        )


def _compare(
    real: Candidate,
    other: Candidate,
    seen: tuple[Measured, Observation] | None,
    *,
    limit: float | None,
    seed: int,
    alpha: float,
) -> list[Verdict]:
    """All tests of stamps and profiles; those of arms if there are enough bright galaxies."""
    chances: dict[str, Any] = {"seed": seed, "alpha": alpha}
    verdicts = compare(real.measured, other.measured, trained=None if seen is None else seen[0], **chances)
    if min(len(real), len(other)) >= FEWEST_CLASSIFIED:
        stamps = (real.images, other.images, real.noise_rms, other.noise_rms)
        verdicts.append(pixel_classifier_test(*stamps, **chances))
        pairs = [(real.images, real.noise_rms), (other.images, other.noise_rms)]
        if seen is not None:
            pairs.append((np.asarray(seen[1].image), noise_of(seen[1])))
        features = pixel_features(*pairs)
        verdicts.append(energy_test(*features[:2], "pixels", **chances))
        cells = cells_for(len(real) + len(other))
        verdicts.append(pqmass_test(*features[:2], "pixels", references=cells, **chances))
        if seen is not None:
            verdicts.append(memorization_test(features[1], features[2], features[0], "pixels", **chances))
    verdicts += shear_tests(real.sheared, other.sheared, **chances)
    verdicts += arm_tests(real.arms, other.arms, **chances)
    if limit is not None and real.profile is not None and other.profile is not None:
        scale = real.pixel_scale_arcsec
        verdicts.append(
            beyond_band_test(real.profile, other.profile, limit, pixel_scale_arcsec=scale, **chances)
        )
    return verdicts


def _pairwise(real: Candidate, other: Candidate, *, seed: int, alpha: float) -> list[Verdict]:
    """Sizes and fluxes of galaxies that share their conditions."""
    moments = real.measured.moments, other.measured.moments
    if sum((moments[0]["flag"] == 0) & (moments[1]["flag"] == 0)) < FEWEST_GALAXIES:
        return []
    return [conditional_test(*moments, quantity, seed=seed, alpha=alpha) for quantity in ("size", "flux")]


def _reconstructions(
    posterior: Posterior, observation: Observation, made: Samples, *, seed: int, alpha: float
) -> list[Verdict]:
    """Chi-square against the parametric fits, and the spectrum of what is left."""
    _, parametric = fit_chi_square(made.twins.profile[: len(posterior)], observation)
    fitted = np.asarray(made.twins.table["flag"][: len(posterior)] == 0)
    residual = observation.noise.whiten(observation.image - posterior.image_mean, observation.mask)
    return [
        reconstruction_test(posterior.chi_square[fitted], parametric[fitted], seed=seed, alpha=alpha),
        residual_spectrum_test(
            np.asarray(residual), pixel_scale_arcsec=observation.pixel_scale_arcsec, alpha=alpha
        ),
    ]
