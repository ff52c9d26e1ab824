"""Results of a calibration on disk: ``calibration.json`` with each verdict, and three figures.

=====================  =================================================================================
``calibration.json``   coverage of each quantity, diagnostics, verdicts
``ranks``              ranks of the truth among the draws, which are uniform for a calibrated posterior
``coverage``           share of the truths in regions of each probability, of several quantities together
``z_scores``           distance of the truth from the mean, in standard deviations, against contraction
=====================  =================================================================================

Figures are PNG and PDF. The folder belongs to the run, as that of a validation does (:mod:`hiergal.runtime.folder`).
"""

from pathlib import Path
from typing import Any

import numpy as np

from hiergal.hub.bundle import load_model
from hiergal.hub.digest import digest_of_model
from hiergal.hub.names import resolve
from hiergal.reports import figures
from hiergal.runtime.files import write_json
from hiergal.runtime.folder import owned_folder
from hiergal.runtime.seeds import check_seed
from hiergal.runtime.version import __version__
from hiergal.survey.schema import digest_of_store
from hiergal.survey.store import open_survey
from hiergal.validation.calibration.checks import sbc_ranks, z_scores_and_contraction
from hiergal.validation.calibration.study import CalibrationStudy, calibrate_model, check_size

__all__ = ["NAMES", "calibrate"]

KINDS = ("png", "pdf")
NAMES = (
    "calibration.json",
    *(f"{name}.{kind}" for name in ("ranks", "coverage", "z_scores") for kind in KINDS),
)


def calibrate(
    model: str | Path,
    survey: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    method: str = "flow",
    galaxies: int = 2000,
    draws: int = 199,
    batch: int = 32,
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Calibrate a trained model, and write numbers and figures.

    Args:
        model: ``hub:NAME``, a path or an address.
        survey: The survey that it was trained on.
        out: Folder for numbers and figures.
        seed: Seed of galaxies, noise and draws.
        method: As for :func:`hiergal.posterior.infer`.
        galaxies: How many to simulate.
        draws: Posterior draws of each.
        batch: Galaxies in one call of the compiled program.
        overwrite: Whether to replace another calibration in the folder.
        progress: Whether to show a progress bar.

    Returns:
        ``passed``, whether all tests passed; ``summary``, how many; ``verdicts``, each in words.

    Raises:
        FileExistsError: If the folder holds something else, or another calibration.
        OSError: If something cannot be read or written.
        ValueError: If an argument is wrong.

    Example:
        >>> found = calibrate("hub:mock-acs", survey.path, "calibration", galaxies=20, draws=39)
        >>> found["passed"] in (True, False)
        True
    """
    path = resolve(model)
    choices: dict[str, Any] = {"method": method, "galaxies": galaxies, "draws": draws, "batch": batch}
    choices["seed"] = check_seed(seed)
    check_size(galaxies, draws)
    run = {
        "model": digest_of_model(path),
        "survey": digest_of_store(survey),
        **choices,
        "version": __version__,
    }
    with owned_folder(
        out, "calibration", run=run, names=NAMES, inputs=(path, survey), overwrite=overwrite
    ) as own:
        if not own.finished:
            found = calibrate_model(load_model(path), open_survey(survey), **choices, progress=progress)
            _write(own.path, found, choices)
            count = sum(verdict.passed for verdict in found.verdicts)
            own.done(
                passed=found.passed,
                summary=f"{count} of {len(found.verdicts)} tests passed",
                verdicts=[_in_words(verdict) for verdict in found.verdicts],
            )
        return own.results


def _write(folder: Path, found: CalibrationStudy, choices: dict[str, Any]) -> None:
    told = {name: choices[name] for name in ("method", "galaxies", "draws", "seed")}
    write_json(folder / "calibration.json", told | found.numbers())
    title = f"{choices['method']}, {choices['galaxies']} galaxies of the model itself"
    draws, truth = found.draws, found.truth
    ranks = {name: sbc_ranks(draws[name], truth[name]) for name in draws}
    flux, true = np.log(draws["flux"]), np.log(truth["flux"])
    scores = z_scores_and_contraction(flux, true, float(true.var()))
    pages = {
        "ranks": figures.rank_histograms(ranks, choices["draws"], title=title),
        "coverage": figures.expected_coverage(found.shares, title=title),
        "z_scores": figures.z_scores(*scores, quantity="logarithm of the flux", title=title),
    }
    for name, figure in pages.items():
        for kind in KINDS:
            figure.savefig(folder / f"{name}.{kind}", dpi=150)


def _in_words(verdict: Any) -> str:
    return f"{'passed' if verdict.passed else 'FAILED'}, p = {verdict.p_value:.3g}: {verdict.words}"
