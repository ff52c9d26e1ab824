"""Results of a validation on disk: numbers, tables, figures for a paper, and a page with a summary in words.

==========================  ========================================================================================
``metrics.json``            every number, nested
``verdicts.ecsv``           a row for each test of each sample
``measurements.fits``       what was measured, a row for each galaxy, an extension for each sample and kind
``figures/``                PNG and PDF
``report.html``             all of it on one page
==========================  ========================================================================================
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from scipy import stats

from hiergal.model.trained import GalaxyModel
from hiergal.recipe.recipe import recipe_to_toml
from hiergal.reports.page import Finding, check_report_folder, package_versions, write_report
from hiergal.reports.validation_figures import FEWEST_SHOWN, figures_of, parametric_fits, residuals_of
from hiergal.runtime.files import write_json, write_whole
from hiergal.runtime.formatting import format_number
from hiergal.runtime.verdict import ALPHA, Verdict
from hiergal.survey.store import StoreHeader
from hiergal.validation.arms import BRIGHTER_THAN, FEWEST_BRIGHT, GOAL, bright, times_floor
from hiergal.validation.conditional import binned
from hiergal.validation.morphology_reference import morphology_distances, morphology_reference
from hiergal.validation.run import Validation
from hiergal.validation.shear import shear_bias

__all__ = ["metrics_of", "summary_of", "write_validation"]

FILES = ("metrics.json", "verdicts.ecsv", "measurements.fits")  # next to the page
ADVICE = "Train longer, on more galaxies, or with the recipe `standard`; the figures show where they differ."
FEW = 500  # galaxies, below which the page says what so few cannot show
POWER = 0.8  # of the smallest difference that would have been seen
PANELS = {
    "log10_m": "log10 M (KS)",
    "log10_i": "log10 I (KS)",
    "d": "D (KS)",
    "m20_gini": "Gini-M20 (total variation)",
    "d_log10_i": "I-D (total variation)",
}


def write_validation(
    folder: str | Path,
    found: Validation,
    header: StoreHeader,
    *,
    name: str,
    model: GalaxyModel | None = None,
    seed: int = 0,
    alpha: float = ALPHA,
    overwrite: bool = False,
) -> Path:
    """Write everything that a validation found.

    Args:
        folder: Where to.
        found: What was found.
        header: Header of the survey's store.
        name: What the galaxies that were judged are called.
        model: The model, if there is one.
        seed: Seed of the validation.
        alpha: Chance of any false alarm among all tests of a sample.
        overwrite: Whether to replace a report of hiergal that is there; anything else is never replaced.

    Returns:
        The path of the page.

    Raises:
        FileExistsError: If something is there that may not be replaced.
        OSError: If the folder cannot be written to.

    Example:
        >>> from hiergal.validation.run import validate
        >>> found = validate(survey, model=model, workers=1, progress=False)
        >>> page = write_validation("validation", found, survey.header, name="mock-acs", model=model)
        >>> page.name
        'report.html'
    """
    folder = Path(folder)
    check_report_folder(folder, (*FILES, "figures"), overwrite=overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    metrics = metrics_of(found)
    write_json(folder / "metrics.json", metrics)
    _write_tables(folder, found)
    verdicts = found.verdicts["drawn"]
    return write_report(
        folder,
        title=f"Validation of galaxies of {name}",
        figures=figures_of(found),
        metrics=metrics,
        summary=summary_of(found, name=name, alpha=alpha),
        findings=[Finding(*_in_words(verdict), ADVICE) for verdict in verdicts],
        tables=_tables(found, metrics, alpha),
        made={
            "survey": f"{header.survey} {header.band}",
            "galaxies": len(found.observation),
            "seed": seed,
            "chance of any false alarm": alpha,
            **package_versions(),
        },
        recipe="" if model is None else recipe_to_toml(model.recipe),
        vector=True,
        overwrite=True,
    )


def summary_of(found: Validation, *, name: str, alpha: float = ALPHA) -> str:
    """Summarise in words what passed, what failed and by how much.

    Args:
        found: What was found.
        name: What the galaxies that were judged are called.
        alpha: Chance of any false alarm.
    """
    verdicts, n = found.verdicts["drawn"], len(found.observation)
    failed = sorted((v for v in verdicts if not v.passed), key=lambda v: v.p_value)
    if failed:
        worst = "; ".join(v.words for v in failed[:3])
        sentences = [f"{len(failed)} of {len(verdicts)} tests failed. Clearest: {worst}."]
    else:
        sentences = [f"All {len(verdicts)} tests passed: nothing was seen that tells them apart."]
    sentences.append(
        f"They compared galaxies of {name} with {n} galaxies of the survey that it has not seen, "
        "with the same PSFs, stamps and noise. The chance that any of them fails for galaxies that are alike is "
        f"{100 * alpha:g} %."
    )
    others = found.verdicts["parametric"]
    sentences.append(
        f"Of parametric fits to the same galaxies, {sum(not v.passed for v in others)} of {len(others)} tests failed."
    )
    if "floor" in found.verdicts:
        floor = found.verdicts["floor"]
        sentences.append(
            f"One half of the survey's own galaxies against the other: {sum(not v.passed for v in floor)} of "
            f"{len(floor)} failed."
        )
    sentences.append(_arms_in_words(found))
    if n < FEW:
        sentences.append(
            "So few galaxies show large differences only: a mean size that is off by less than "
            f"{_seen(found, 'mean sigma', alpha)} or a mean ellipticity off by less than "
            f"{_seen(found, 'mean g', alpha)} would mostly go unnoticed, and no test here says much about rare "
            "galaxies. Passing with so few is no proof of realism; failing is a proof of the contrary."
        )
    return " ".join(sentences)


def metrics_of(found: Validation) -> dict[str, Any]:
    """Collect every number of a validation, nested.

    Args:
        found: What was found.
    """
    metrics: dict[str, Any] = {
        "galaxies": len(found.observation),
        "passed": found.passed,
        "verdicts": {
            sample: {v.name: {k: getattr(v, k) for k in _NUMBERS} for v in verdicts}
            for sample, verdicts in found.verdicts.items()
        },
        "failed_measurements": {
            name: {
                "moments": int((sample.measured.moments["flag"] != 0).sum()),
                "morphology": int((sample.measured.morphology["flag"] != 0).sum()),
            }
            for name, sample in found.samples.items()
        },
        "shear": {},
        "conditional": {},
        "arms": {
            "brighter_than": BRIGHTER_THAN,
            "galaxies": {name: len(bright(sample.arms)) for name, sample in found.samples.items()},
            "times_floor": times_floor(found.verdicts),
            "goal": GOAL,
        },
    }
    for name, sample in found.samples.items():
        if (np.asarray(sample.sheared["flag"]) == 0).sum() >= 2:
            metrics["shear"][name] = shear_bias(sample.sheared)._asdict()
    for quantity, residuals in residuals_of(found).items():
        table = binned(residuals, np.quantile(residuals.condition, [0.01, 0.25, 0.5, 0.75, 0.99]))
        metrics["conditional"][quantity] = {
            column: [None if np.isnan(x) else float(x) for x in table[column]] for column in table.colnames
        }
    distances = {}
    for name, sample in found.samples.items():
        if sample.paper is not None and len(sample) >= FEWEST_SHOWN:
            good = np.asarray(sample.measured.moments["flag"] == 0)
            distances[name] = {
                panel: d._asdict()
                for panel, d in morphology_distances(sample.paper, morphology_reference(), good=good).items()
            }
    if distances:
        metrics["against_published_cosmos"] = distances
    if found.posterior is not None:
        metrics["reconstruction"] = {
            "galaxies": len(found.posterior),
            "chi_square_median": float(np.median(found.posterior.chi_square)),
            "parametric_chi_square_median": float(np.median(parametric_fits(found)[1])),
        }
    return metrics


_NUMBERS = ("statistic", "error", "expected", "p_value", "passed")


def _in_words(verdict: Verdict) -> tuple[str, str, str, bool]:
    value = f"{format_number(verdict.statistic)} ± {format_number(verdict.error)}"
    return verdict.words, value, f"{format_number(verdict.expected)} if alike", verdict.passed


def _arms_in_words(found: Validation) -> str:
    """What was found about arms, or why nothing was."""
    ours, theirs = (len(bright(found.samples[name].arms)) for name in ("survey", "drawn"))
    counted = (
        f"{ours} of the survey's galaxies and {theirs} of the others are brighter than {BRIGHTER_THAN:g} and could be "
        "measured"
    )
    if min(ours, theirs) < FEWEST_BRIGHT:
        return (
            f"Arms were not tested: {counted}, and at least {FEWEST_BRIGHT} are needed; give more galaxies."
        )
    ratios = times_floor(found.verdicts)
    if not ratios:
        return f"Arms have no floor to be compared with: {counted}, too few to be halved; give more galaxies."
    worst = max(ratios, key=lambda name: ratios[name])
    return (
        f"Arms ({counted}): {sum(ratio <= GOAL for ratio in ratios.values())} of {len(ratios)} statistics are within "
        f"{GOAL:g} times the floor of half against half, the largest is {worst} with {ratios[worst]:.1f} times."
    )


def _seen(found: Validation, name: str, alpha: float) -> str:
    """The smallest difference of a mean that a test would have seen with a probability of 80 %, in words."""
    several = found.verdicts["drawn"]
    verdict = next(v for v in several if v.name == name)
    deviations = stats.norm.isf(alpha / (2 * len(several))) + stats.norm.ppf(POWER)
    return f"{100 * deviations * verdict.error:.1f} %"


def _tables(found: Validation, metrics: Mapping[str, Any], alpha: float) -> dict[str, list[dict[str, Any]]]:
    """Every test on every sample; distances to the published galaxies; arms; what could have been seen."""
    names = [v.name for v in found.verdicts["drawn"]]
    by_name = {sample: {v.name: v for v in several} for sample, several in found.verdicts.items()}
    titles = {"drawn": "drawn", "parametric": "parametric fits", "floor": "survey, half against half"}
    rows = []
    for name in names:
        row: dict[str, Any] = {"test": name}
        for sample, verdicts in by_name.items():
            if name in verdicts:
                v = verdicts[name]
                verdict = "passed" if v.passed else "failed"
                row[titles[sample]] = (
                    f"{format_number(v.statistic)} ± {format_number(v.error)} ({format_number(v.expected)} if alike), "
                    f"p = {v.p_value:.2g}, {verdict}"
                )
        rows.append(row)
    tables = {"Every test": rows}
    if "against_published_cosmos" in metrics:
        tables["Morphology against the real galaxies of COSMOS, as published"] = [
            {"statistic": label}
            | {
                sample: f"{d[panel]['distance']:.3f} ± {d[panel]['error']:.3f} ({d[panel]['floor']:.3f} by chance)"
                for sample, d in metrics["against_published_cosmos"].items()
            }
            for panel, label in PANELS.items()
        ]
    ratios = times_floor(found.verdicts)
    if ratios:
        tables[
            f"Arms of galaxies brighter than {BRIGHTER_THAN:g}, against half of the survey's by the other"
        ] = [
            {
                "statistic": name,
                "drawn over floor": f"{ratio:.2f}",
                f"within {GOAL:g}": "yes" if ratio <= GOAL else "no",
            }
            for name, ratio in ratios.items()
        ]
    tables["Sensitivity of the tests"] = [
        {
            "quantity": label,
            f"smallest difference that is seen in {100 * POWER:.0f} % of trials": _seen(found, name, alpha),
        }
        for name, label in (("mean sigma", "mean size"), ("mean g", "mean ellipticity"))
    ]
    return tables


def _write_tables(folder: Path, found: Validation) -> None:
    from astropy.io import fits

    rows = [(sample, *verdict) for sample, several in found.verdicts.items() for verdict in several]
    table = Table(rows=rows, names=("sample", *Verdict._fields))
    text = io.StringIO()
    table.write(text, format="ascii.ecsv")
    write_whole(folder / "verdicts.ecsv", text.getvalue().encode())
    hdus = [fits.PrimaryHDU()]
    for name, sample in found.samples.items():
        kinds = {
            **sample.measured._asdict(),
            "sheared": sample.sheared,
            "paper": sample.paper,
            "arms": sample.arms,
        }
        for kind, measurements in kinds.items():
            if measurements is not None:
                plain = Table(measurements, copy=False)
                plain.meta = {}
                hdu = fits.table_to_hdu(plain)
                hdu.name = f"{name}_{kind}"
                hdus.append(hdu)
    content = io.BytesIO()
    fits.HDUList(hdus).writeto(content)
    write_whole(folder / "measurements.fits", content.getvalue())
