"""From a trained run to a published model: a folder ``models/NAME`` with its description, quality and limits.

    model.json, recipe.toml, weights.safetensors    the bundle (:mod:`hiergal.hub.bundle`)
    metrics.json                                    what `hiergal validate` and the calibration checks found
    published.toml, CARD.md, *.png                  the card, for people

A model that has not been measured, or of which something is not said, is refused. Where the folder is in ``models/`` of
the source tree, ``hub:NAME`` finds it; a registry (:mod:`hiergal.hub.registry`) offers it to others as one file.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hiergal.hub.bundle import CARD, METADATA, load_model, read_card, read_metrics, save_model, texts_of
from hiergal.hub.published import PUBLISHED, Published, read_published
from hiergal.hub.registry import INDEX, Entry, read_registry
from hiergal.model.trained import GalaxyModel
from hiergal.publish.card import render_card
from hiergal.runtime.files import locked, resolved, write_whole
from hiergal.runtime.marks import PUBLISHED_AS
from hiergal.runtime.output import owned
from hiergal.runtime.texts import parse_toml, read_text
from hiergal.runtime.version import __version__

__all__ = ["add_to_registry", "publish"]

FIGURES = {"galaxies.png": "figures/galaxies.png", "coverage.png": "coverage.png"}
CHECKED = 512  # galaxies that are drawn, in full and in half precision
RING = 0.01  # of the flux in the outermost pixels: such a galaxy is cut off
KEPT = ("method", "galaxies", "draws", "seed", "passed", "used", "coverage", "joint_coverage")


def publish(
    run: str | Path,
    about: str | Path,
    *,
    validation: str | Path,
    calibrations: list[str | Path],
    out: str | Path = "models",
    overwrite: bool = False,
) -> Path:
    """Publish a trained model.

    Args:
        run: Folder of the run, with ``model`` in it.
        about: A TOML file with the fields of :class:`~hiergal.hub.published.Published`.
        validation: Folder that ``hiergal validate`` wrote for this model.
        calibrations: Folders that ``hiergal calibrate`` wrote for it, one for each method.
        out: Where published models go; the folder takes the model's name.
        overwrite: Whether to replace one that is there.

    Returns:
        The published model's folder.

    Raises:
        FileExistsError: If something is there that may not be replaced (:mod:`hiergal.runtime.output`).
        OSError: If something is missing or cannot be written.
        ValueError: If the model is incomplete, was measured before it was trained last, or is not described.
    """
    source, out = Path(run) / "model", Path(out)
    published = _read_about(Path(about))
    folder = out / published.name
    inputs = (source, about, validation, *calibrations)
    model = load_model(source)
    _check_complete(model, source)
    judged, measured = Path(validation), [Path(one) for one in calibrations]
    metrics = _metrics(judged, measured, source)
    figures = {"galaxies.png": judged / FIGURES["galaxies.png"]}
    figures["coverage.png"] = measured[0] / FIGURES["coverage.png"]
    whole = {
        "model": texts_of(source)[METADATA],  # with digests of all the rest
        "about": Path(about).read_bytes(),
        "metrics": metrics,
        "figures": [hashlib.sha256(file.read_bytes()).hexdigest() for file in figures.values()],
        "version": __version__,
    }
    with owned(folder, "model", run=whole, inputs=inputs, overwrite=overwrite, resume=False) as own:
        if own.finished:
            return folder
        runs = model.provenance.runs | {PUBLISHED_AS: own.digest}
        model = model.replace(provenance=msgspec.structs.replace(model.provenance, runs=runs))
        rounded, fresh = own.work / "rounded", own.result
        save_model(model, rounded, half_precision=True)
        metrics["half_precision"], metrics["edge"] = _drawn(model, load_model(rounded))
        card = render_card(model, published, metrics)
        save_model(model, fresh, half_precision=True, metrics=metrics, card=card)
        (fresh / PUBLISHED).write_bytes(Path(about).read_bytes())
        for name, file in figures.items():
            shutil.copy(file, fresh / name)
        own.put()
    return folder


def add_to_registry(model: str | Path, registry: str | Path) -> Entry:
    """Offer a published model in a registry: a folder with an ``index.toml``, which a web server may show to others.

    Args:
        model: Folder of a published model.
        registry: Folder of the registry; made if it is not there.

    Returns:
        What the registry says of it.

    Raises:
        OSError: If something cannot be read or written.
        ValueError: If the model is not a published one, or the registry has another one of this version.
    """
    published, registry = read_published(model), resolved(registry)
    registry.mkdir(parents=True, exist_ok=True)
    lock = registry / ".hiergal-registry.lock"
    with locked(lock, str(registry)):
        try:
            return _add(published, model, registry)
        finally:
            lock.unlink(missing_ok=True)


def _add(published: Published, model: str | Path, registry: Path) -> Entry:
    import tomllib

    import tomli_w

    index = registry / INDEX
    there = read_registry(str(registry)) if index.is_file() else []
    for one in there:
        if (one.name, one.version) != (published.name, published.version):
            continue
        if _is_offered(Path(one.url), one.sha256, Path(model)):
            return one
        raise ValueError(
            f"{index}: expected no {published.name} {published.version}, or this very one, got another one; a version "
            "never changes: give a new one"
        )
    file = registry / f"{published.name}-{published.version}.safetensors"
    save_model(
        load_model(model),
        file,
        metrics=read_metrics(model),
        card=read_card(model),
        half_precision=True,
        overwrite=True,  # of a run that was killed before it was in the index
    )
    with file.open("rb") as content:
        checksum = hashlib.file_digest(content, "sha256").hexdigest()
    entry = Entry(
        name=published.name,
        version=published.version,
        url=file.name,
        sha256=checksum,
        size=file.stat().st_size,
        licence=published.licence,
        description=published.description,
    )
    before = index.read_text(encoding="utf-8") if there else "schema_version = 1\n"
    text = (
        before.rstrip()
        + "\n\n"
        + tomli_w.dumps({"model": [msgspec.to_builtins(entry)]}, multiline_strings=False)
    )
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:  # models in one line, as TOML may have them, cannot be added to
        raise ValueError(f"{index}: expected a [[model]] for each of its models: {error}") from None
    write_whole(index, text.encode())
    return entry


def _is_offered(file: Path, checksum: str, model: Path) -> bool:
    """Whether a file of a registry is a published model: its texts have digests of all the rest."""
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != checksum:
        return False
    offered, texts = texts_of(file), {**texts_of(model), CARD: read_card(model)}
    return all(offered.get(name) == text for name, text in texts.items())


def _read_about(path: Path) -> Published:
    try:
        return msgspec.convert(parse_toml(read_text(path), str(path)), Published)
    except ValueError as error:  # msgspec's are such, too
        fields = ", ".join(field.name for field in msgspec.structs.fields(Published))
        raise ValueError(f"{path}: expected the fields {fields}: {error}") from None


def _check_complete(model: GalaxyModel, source: Path) -> None:
    missing = {
        "a latent flow (`hiergal fit-prior`)": model.flow is None,
        "the flow's marginal (`hiergal fit-prior`)": model.marginal is None,
        "a population (`hiergal fit-prior`)": model.population is None,
        "ranges of its conditions (`hiergal fit-prior`)": not model.provenance.condition_ranges,
        "units of its conditions (`hiergal fit-prior`)": not model.provenance.condition_units,
        "a posterior flow (`hiergal fit-posterior-flow`)": model.posterior_flow is None,
        "the width of its survey's PSF (`hiergal train`)": model.provenance.psf_fwhm_arcsec is None,
    }
    lacking = [what for what, is_missing in missing.items() if is_missing]
    if lacking:
        raise ValueError(f"{source}: expected a complete model; it lacks {'; '.join(lacking)}")


def _metrics(validation: Path, calibrations: list[Path], source: Path) -> dict[str, Any]:
    """Measured quality of this model as it is."""
    if not calibrations:
        raise ValueError("calibrations: expected at least one, got none; run `hiergal calibrate`")
    files = {"validation": validation / "metrics.json"}
    files |= {f"calibration {one}": one / "calibration.json" for one in calibrations}
    needed = [
        *files.values(),
        validation / FIGURES["galaxies.png"],
        calibrations[0] / FIGURES["coverage.png"],
    ]
    absent = [str(file) for file in needed if not file.is_file()]
    if absent:
        raise FileNotFoundError(
            f"expected what `hiergal validate` and `hiergal calibrate` write, missing: {', '.join(absent)}"
        )
    trained = (source / METADATA).stat().st_mtime
    old = [str(file) for file in files.values() if file.stat().st_mtime < trained]
    if old:
        raise ValueError(
            f"{source}: was written after it was measured; measure it again, for {', '.join(old)}"
        )
    read = {
        name: _measured(file, _Validation if name == "validation" else _Calibration)
        for name, file in files.items()
    }
    calibration = {}
    for one in calibrations:
        found = read[f"calibration {one}"]
        tests = found["verdicts"]
        calibration[found["method"]] = {name: found[name] for name in KEPT} | {
            "tests": len(tests),
            "tests_passed": sum(test["passed"] for test in tests),
            "failed": [test["words"] for test in tests if not test["passed"]],
        }
    return {"validation": read["validation"], "calibration": calibration}


class _Verdict(msgspec.Struct):
    statistic: float | None  # None where it is not a number
    error: float | None
    expected: float | None
    passed: bool


class _Validation(msgspec.Struct):
    galaxies: int
    passed: bool
    verdicts: dict[str, dict[str, _Verdict]]


class _Said(msgspec.Struct):
    words: str
    passed: bool


class _Calibration(msgspec.Struct):
    method: str
    galaxies: int
    draws: int
    seed: int
    passed: bool
    used: dict[str, int]
    coverage: dict[str, dict[str, float]]
    joint_coverage: dict[str, dict[str, float]]
    verdicts: list[_Said]


def _measured(file: Path, kind: type) -> dict[str, Any]:
    """Read measurements; those of another kind are refused."""
    content = file.read_bytes()
    try:
        found: Any = msgspec.json.decode(content, type=kind)
        if kind is _Validation and "drawn" not in found.verdicts:
            raise msgspec.ValidationError("expected verdicts on drawn galaxies")
    except msgspec.DecodeError as error:
        raise ValueError(f"{file}: expected what was measured of the model: {error}") from None
    return msgspec.json.decode(content)


def _drawn(model: GalaxyModel, stored: GalaxyModel) -> tuple[dict[str, float], dict[str, Any]]:
    """Errors by half precision, and the fraction of truncated galaxies, for some of the population."""
    from hiergal.simulate.profiles import profiles_from_base

    conditions = np.asarray(model.population)[:CHECKED]
    base = np.random.default_rng(0).normal(size=(len(conditions), model.recipe.generator.latents))
    full, half = (profiles_from_base(one, base, conditions) for one in (model, stored))
    flux = half.sum(axis=(1, 2))
    change = np.abs(half - full).max(axis=(1, 2)) / full.max(axis=(1, 2))
    precision = {
        "galaxies": len(conditions),
        "median_change_of_peak": float(np.median(change)),
        "largest_change_of_peak": float(change.max()),
        "largest_change_of_flux": float(np.abs(flux / full.sum(axis=(1, 2)) - 1).max()),
    }
    ring = 1 - half[:, 1:-1, 1:-1].sum(axis=(1, 2)) / flux
    cut = ring > RING
    typical = {
        name: float(np.median(column[cut])) if cut.any() else None
        for name, column in zip(model.flow.config.conditions, conditions.T, strict=True)
    }
    edge = {
        "galaxies": len(conditions),
        "share_of_flux": RING,
        "cut_off": float(cut.mean()),
        "error": float(np.sqrt(cut.mean() * (1 - cut.mean()) / len(cut))),
        "median_conditions": typical,
    }
    return precision, edge
