"""The card of a published model: use, training, quality and limits."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hiergal.hub.published import Published
from hiergal.model.blank import parameter_counts
from hiergal.model.trained import GalaxyModel
from hiergal.posterior.verdict import NOISE_ROOM, PSF_ROOM

__all__ = ["render_card"]

TRAINED = (  # ranges beyond which posteriors are flagged, in words, with their units
    ("flux", "flux of fits", ""),
    ("hlr_arcsec", "half-light radius of fits", "arcsec"),
    ("noise_level", "noise", "per pixel"),
    ("psf_fwhm_arcsec", "PSF width, by its noise-equivalent area", "arcsec"),
)
LEVELS = ("0.50", "0.68", "0.90", "0.95")


def render_card(model: GalaxyModel, published: Published, metrics: Mapping[str, Any]) -> str:
    """Write the card in Markdown.

    Args:
        model: The model.
        published: What its authors say of it.
        metrics: What was measured (:func:`hiergal.publish.publish.publish`).
    """
    parts = [
        f"# {published.name} {published.version}",
        published.description,
        "## Intended use",
        published.intended_use,
        _usage(model, published),
        "## Training data",
        _training(model),
        "## Limits",
        published.limits,
        _edge(model, metrics["edge"]),
        "## How real its galaxies are",
        _validation(metrics["validation"]),
        "![Unseen galaxies of the survey, and those drawn for them](galaxies.png)",
        "## How well calibrated its posteriors are",
        _calibration(metrics["calibration"]),
        "![Joint coverage](coverage.png)",
        "## Files",
        _files(model, metrics["half_precision"]),
        "## Licence",
        f"{published.licence}.",
        "## How to cite",
        published.citation,
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _usage(model: GalaxyModel, published: Published) -> str:
    names = model.flow.config.conditions
    typical = np.median(np.asarray(model.population), axis=0)
    columns = ", ".join(f'"{name}": [{value:.4g}]' for name, value in zip(names, typical, strict=True))
    return f"""```python
import hiergal

model = hiergal.GenerativeGalaxyModel("hub:{published.name}")
galaxies = model.sample({{{columns}}})  # GalSim objects
```"""


def _training(model: GalaxyModel) -> str:
    origin, recipe = model.provenance, model.recipe
    ny, nx = recipe.shape
    rows = [
        ("survey", f"{origin.survey}, {origin.band}"),
        ("galaxies", f"{origin.galaxies:,}"),
        ("stamps", f"{ny} x {nx} pixels of {recipe.pixel_scale_arcsec} arcsec"),
        ("PSF", f"{origin.psf_fwhm_arcsec:.3f} arcsec at the median (full width at half maximum)"),
        ("fluxes", f"{origin.flux_unit}, magnitude zero point {origin.magnitude_zero_point}"),
        (
            "recipe",
            f"{recipe.name}, {recipe.training.steps:,} steps of {recipe.training.batch}, seed {origin.seed}",
        ),
        ("code", f"hiergal {origin.version}"),
    ]
    rows += [
        (f"`{name}`", f"{low:.4g} to {high:.4g} [{origin.condition_units.get(name, 'not stated')}]")
        for name, (low, high) in origin.condition_ranges.items()
    ]
    rows += [
        (words, f"{ranges[0]:.4g} to {ranges[1]:.4g} [{_unit(origin.flux_unit, unit)}]")
        for name, words, unit in TRAINED
        if (ranges := origin.trained_ranges.get(name)) is not None
    ]
    rows += [(f"survey: {name}", str(value)) for name, value in origin.survey_provenance.items()]
    table = _table(("", ""), rows)
    if not origin.trained_ranges:
        return table
    return table + (
        "\n\nPosteriors outside these ranges of flux and half-light radius (and of noise and PSF width, where these "
        f"are more than {NOISE_ROOM:g} and {PSF_ROOM:g} times beyond) are flagged: see `hiergal.posterior.verdict`."
    )


def _unit(flux_unit: str, unit: str) -> str:
    return unit if unit == "arcsec" else f"{flux_unit} {unit}".strip()


def _validation(metrics: Mapping[str, Any]) -> str:
    verdicts = metrics["verdicts"]
    drawn = verdicts["drawn"]
    passed = sum(verdict["passed"] for verdict in drawn.values())
    others = [name for name in ("parametric", "floor") if name in verdicts]
    titles = {"parametric": "parametric fits", "floor": "survey, half against half"}
    rows = []
    for name, verdict in drawn.items():
        row = [
            name,
            _number(verdict["expected"], ".3g"),
            _with_error(verdict),
            "yes" if verdict["passed"] else "**no**",
        ]
        for other in others:
            row.append(_with_error(verdicts[other][name]) if name in verdicts[other] else "")
        rows.append(tuple(row))
    table = _table(("test", "if alike", "drawn", "passed", *(titles[other] for other in others)), rows)
    return (
        f"`hiergal validate` with {metrics['galaxies']:,} galaxies that it has not seen: {passed} of {len(drawn)} "
        "tests see no difference (chance of any false alarm: 1 %). What each statistic is, "
        f"`hiergal.validation` says.\n\n{table}"
    )


def _calibration(calibration: Mapping[str, Any]) -> str:
    parts = []
    for method, found in calibration.items():
        together = {name: shares for name, shares in found["joint_coverage"].items()}
        quantities = {name: shares for name, shares in found["coverage"].items() if not name.startswith("z")}
        latents = {name: shares for name, shares in found["coverage"].items() if name.startswith("z")}
        rows = [
            (name, *(f"{100 * shares[level]:.1f}" for level in LEVELS)) for name, shares in quantities.items()
        ]
        if latents:
            worst = [
                100
                * max(
                    (shares[level] for shares in latents.values()), key=lambda x, p=level: abs(x - float(p))
                )
                for level in LEVELS
            ]
            rows.append(("the worst latent", *(f"{value:.1f}" for value in worst)))
        rows += [
            (name, *(f"{100 * shares[level]:.1f}" for level in LEVELS)) for name, shares in together.items()
        ]
        errors = [
            f"{100 * (float(level) * (1 - float(level)) / found['galaxies']) ** 0.5:.1f}" for level in LEVELS
        ]
        failed = "".join(f"\n- {words}" for words in found["failed"])
        parts.append(
            f"`{method}` on {found['galaxies']:,} galaxies drawn from the model itself, {found['draws']} draws each: "
            f"{found['tests_passed']} of {found['tests']} tests passed{':' + failed if failed else '.'}\n\n"
            f"Truths in central intervals [%] (errors: {', '.join(errors)}):\n\n"
            + _table(("", *(f"{100 * float(level):.0f} %" for level in LEVELS)), rows)
        )
    return "\n\n".join(parts)


def _edge(model: GalaxyModel, edge: Mapping[str, Any]) -> str:
    side = min(model.recipe.shape) * model.recipe.pixel_scale_arcsec
    typical = ", ".join(
        f"{name} {value:.3g}" for name, value in edge["median_conditions"].items() if value is not None
    )
    share, error = 100 * edge["cut_off"], 100 * edge["error"]
    return (
        f"Stamps are {side:.3g} arcsec wide. Of {edge['galaxies']} galaxies of the population, "
        f"{share:.1f} ± {error:.1f} % have more than {100 * edge['share_of_flux']:.0f} % of their light in the outer "
        f"ring of pixels, and end abruptly there{f' (at the median: {typical})' if typical else ''}."
    )


def _files(model: GalaxyModel, half: Mapping[str, float]) -> str:
    counts = parameter_counts(model.recipe)._asdict()
    numbers = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return (
        f"Parameters: {numbers}. Weights of generator and encoder are stored in half precision: of {half['galaxies']} "
        f"galaxies, that changes fluxes by {100 * half['largest_change_of_flux']:.2g} % at most, and pixels by "
        f"{100 * half['median_change_of_peak']:.2g} % of the peak at the median "
        f"({100 * half['largest_change_of_peak']:.2g} % at most). All numbers are in `metrics.json`, the networks in "
        "`recipe.toml`."
    )


def _with_error(verdict: Mapping[str, Any]) -> str:
    return f"{_number(verdict['statistic'], '.3g')} ± {_number(verdict['error'], '.2g')}"


def _number(value: float | None, form: str) -> str:
    return "not a number" if value is None else format(value, form)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
