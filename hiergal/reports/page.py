"""The report of a run: one HTML page that holds everything, and its figures as PNG next to it.

The page needs no network, no script and no other file: figures are embedded. What a run measured is given to it in
words (:class:`Finding`) and in full (``metrics``); what may differ between two runs of one seed, such as times, goes
into ``made`` and never into the metrics. Every file is whole, or not there.
"""

import base64
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hiergal.runtime.files import write_whole
from hiergal.runtime.folder import owned_names
from hiergal.runtime.formatting import format_number
from hiergal.runtime.plotting import _image, png_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Finding",
    "check_page",
    "check_report_folder",
    "package_versions",
    "template",
    "verdict_lines",
    "write_report",
]

TEMPLATE = "report.html.j2"
GENERATOR = b'<meta name="generator" content="hiergal">'  # what tells a report of ours
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
PACKAGES = ("hiergal", "jax", "jaxlib", "flax", "numpyro", "optax", "galsim", "numpy", "scipy", "arviz")


class Finding(NamedTuple):
    """One number that matters, in words.

    Attributes:
        statement: What was measured, such as "68 % intervals of total flux hold the truth for".
        value: The number with its error and unit, such as "66.1 ± 2.4 %".
        goal: What it should be, such as "60 to 76 %"; empty if there is no goal.
        met: Whether it is so; None if there is no goal.
        advice: What to do where it is not met.
    """

    statement: str
    value: str
    goal: str = ""
    met: bool | None = None
    advice: str = ""


def verdict_lines(findings: Sequence[Finding]) -> list[str]:
    """List the missed goals, and what to do about each, after a line of counts.

    Example:
        >>> verdict_lines([Finding("coverage", "43 %", "60 to 76 %", False, "Use --method flow.")])[1]
        'NOT MET: coverage 43 % (goal: 60 to 76 %). Use --method flow.'
    """
    judged = [finding for finding in findings if finding.met is not None]
    missed = [finding for finding in judged if not finding.met]
    if not missed:
        return [f"All {len(judged)} numbers with a goal meet it."] if judged else []
    lines = [f"{len(missed)} of {len(judged)} numbers with a goal do not meet it:"]
    for number, one in enumerate(missed):
        # The same advice for one after the other is said once, behind the last of them.
        again = number + 1 < len(missed) and missed[number + 1].advice == one.advice
        advice = "" if again else one.advice
        lines.append(f"NOT MET: {one.statement} {one.value} (goal: {one.goal}). {advice}".rstrip())
    return lines


def write_report(
    folder: str | Path,
    *,
    title: str,
    figures: "Mapping[str, tuple[Figure, str]]",
    metrics: Mapping[str, Any],
    summary: str = "",
    findings: Sequence[Finding] = (),
    tables: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    made: Mapping[str, Any] | None = None,
    recipe: str = "",
    vector: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write ``report.html`` and ``figures/NAME.png`` of a run.

    Args:
        folder: Folder of the run; made if it is not there.
        title: Title of the page.
        figures: Figures and their captions by name, in the order of the page; the names become file names.
        metrics: What was measured, nested as it is in ``metrics.json``.
        summary: A sentence or two that say what was done.
        findings: The numbers that matter.
        tables: Further tables by heading: rows that map columns to values.
        made: How it was made: seed, wall time, versions (:func:`package_versions`).
        recipe: The recipe of the model, as TOML.
        vector: Whether to write ``figures/NAME.pdf`` too, for print.
        overwrite: Whether to replace a report of hiergal that is there; anything else is never replaced.

    Returns:
        The path of the page.

    Raises:
        ValueError: If the name of a figure cannot be a file name.
        FileExistsError: If something is there that may not be replaced.
        OSError: If the folder cannot be written to.
    """
    wrong = [name for name in figures if not FILE_NAME.fullmatch(name)]
    if wrong:
        raise ValueError(
            f"figures: expected names of letters, digits, '-' and '_', got {wrong[0]!r}; rename it"
        )
    folder = Path(folder)
    files = [f"figures/{name}.{kind}" for name in figures for kind in ("png", "pdf")[: 1 + vector]]
    check_report_folder(folder, files, overwrite=overwrite)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    shown = []
    for name, (figure, caption) in figures.items():
        png = png_of(figure)
        write_whole(folder / "figures" / f"{name}.png", png)
        if vector:
            write_whole(folder / "figures" / f"{name}.pdf", _image(figure, "pdf"))
        shown.append({"name": name, "caption": caption, "data": base64.b64encode(png).decode("ascii")})
    page = template(TEMPLATE).render(
        title=title,
        summary=summary,
        verdict=verdict_lines(findings),
        findings=sorted(findings, key=lambda finding: finding.met is not False),  # what failed stands first
        has_goals=any(finding.goal for finding in findings),
        figures=shown,
        tables=[_table(heading, rows) for heading, rows in (tables or {}).items()],
        metrics=[(name, format_number(value)) for name, value in _flat(metrics)],
        made=[(name, format_number(value)) for name, value in (made or {}).items()],
        recipe=recipe,
    )
    write_whole(folder / "report.html", page.encode("utf-8"))
    return folder / "report.html"


def check_report_folder(folder: str | Path, files: Iterable[str], *, overwrite: bool = False) -> None:
    """Check that a report may be written into a folder: see :mod:`hiergal.runtime.output` for the rule.

    Args:
        folder: The folder.
        files: What is written next to ``report.html``, below the folder; with a report of ours these are ours, too. In
            a folder that a run owns (:mod:`hiergal.runtime.folder`), nothing is asked.
        overwrite: Whether to replace a report of ours.

    Raises:
        FileExistsError: If something is there that may not be replaced.
    """
    folder = Path(folder)
    page = folder / "report.html"
    if page.name in owned_names(folder):
        return
    if not os.path.lexists(page):
        taken = next((name for name in files if os.path.lexists(folder / name)), None)
    elif _is_report(page):
        if not overwrite:
            raise FileExistsError(
                f"{page}: expected no report, got one of another run; choose another folder, or pass overwrite=True "
                "(--overwrite) to replace it"
            )
        return
    else:
        taken = page.name
    if taken is not None:
        raise FileExistsError(
            f"{folder}: expected a folder without {taken}, or a report of hiergal in it, got something else; nothing "
            "is touched: choose another folder"
        )


def check_page(page: str | Path, *, overwrite: bool = False) -> None:
    """Check that a page that is one file may be written, by the rule of :func:`check_report_folder`.

    Args:
        page: The file.
        overwrite: Whether to replace a page of ours.

    Raises:
        FileExistsError: If something is there that may not be replaced.
    """
    page = Path(page)
    if page.name in owned_names(page.parent) or not os.path.lexists(page):
        return
    if not _is_report(page):
        raise FileExistsError(
            f"{page}: expected a free name, or a page of hiergal, got something else; nothing is touched: choose "
            "another name"
        )
    if not overwrite:
        raise FileExistsError(
            f"{page}: expected no page, got one of another run; choose another name, or pass overwrite=True "
            "(--overwrite) to replace it"
        )


def _is_report(page: Path) -> bool:
    if not page.is_file():
        return False
    with page.open("rb") as file:
        return GENERATOR in file.read(4096)


def package_versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of the packages that a result depends on; those not installed are left out.

    Example:
        >>> package_versions(["numpy", "no-such-package"]) == {"numpy": np.__version__}
        True
    """
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def template(name: str) -> Any:
    """Return a template of this package, for pages that escape what they are given.

    Args:
        name: Its file.
    """
    from jinja2 import Environment, StrictUndefined

    source = resources.files("hiergal.reports").joinpath(name).read_text(encoding="utf-8")
    return Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(source)


def _table(heading: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return {
        "heading": heading,
        "columns": columns,
        "rows": [[format_number(row.get(column)) for column in columns] for row in rows],
    }


def _flat(metrics: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the numbers of nested metrics with dotted names."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
