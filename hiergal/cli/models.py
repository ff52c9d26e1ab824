"""The verbs ``hiergal models``: list, describe and check models (see :mod:`hiergal.cli`).

hiergal models list                              models in the package, in the cache and in registries
hiergal models recipes                           recipes that came with the package
hiergal models info RECIPE|MODEL|hub:NAME        what a recipe or a model consists of
hiergal models fetch NAME                        a model into the cache
hiergal models verify                            whether models are what they were when they were published
hiergal models registry add|list|remove SOURCE   where models are looked for
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hiergal.cli import publish as cli_publish
from hiergal.cli.verbs import Verbs
from hiergal.runtime.formatting import plain
from hiergal.runtime.log import say

if TYPE_CHECKING:
    from hiergal.hub.names import AvailableModel
    from hiergal.model.trained import GalaxyModel

__all__ = ["models"]

models = Verbs(help="Find, fetch and describe models and recipes.")
registry = Verbs(help="Manage the registries in which models are looked for.")
models.add_typer(registry, name="registry")
cli_publish.add_to(models)

Source = Annotated[str, typer.Argument(help="A folder, an index file or an https address.")]
METRICS_SHOWN = 12
WIDEST = 10_000  # columns of a table that goes to a file or another program: nothing is wrapped


@models.command("list", examples=["hiergal models list", "hiergal models list --json"])
def models_list(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print the models that hub: finds: in the package, in the cache, in registries."""
    from hiergal.hub.names import available

    problems: list[str] = []
    nearest: dict[tuple[str, str], AvailableModel] = {}
    for offer in available(problems):
        nearest.setdefault((offer.name, offer.version), offer)
    rows = [_row(offer) for offer in nearest.values()]
    if as_json:
        typer.echo(json.dumps({"models": rows, "problems": problems}, indent=2))
        return
    if rows:
        _print_table(rows)
    else:
        say("no models; add a registry with `hiergal models registry add`")
    for problem in problems:
        say(f"could not be read: {plain(problem)}", err=True)


@models.command("recipes", examples=["hiergal models recipes"])
def models_recipes() -> None:
    """Print the recipes that came with the package: names for `--recipe`, stamps, training."""
    from hiergal.recipe.names import packaged_recipes
    from hiergal.recipe.recipe import load_recipe

    for name, path in packaged_recipes().items():
        recipe = load_recipe(path)
        ny, nx = recipe.shape
        say(
            f"{name:<22} {ny} x {nx} pixels of {recipe.pixel_scale_arcsec} arcsec, "
            f"{recipe.generator.latents} latents, {recipe.training.steps:,} steps of {recipe.training.batch}"
        )


@models.command("info", examples=["hiergal models info hub:mock-acs", "hiergal models info standard"])
def models_info(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|MODEL",
            help="A recipe: its name or a TOML file; or a model: a folder, a .safetensors file, hub:NAME, or "
            "https://...#sha256=...",
        ),
    ],
) -> None:
    """Print what a recipe or a model describes, and how many parameters its networks have."""
    from hiergal.hub.bundle import load_model
    from hiergal.hub.names import resolve
    from hiergal.model.blank import parameter_counts
    from hiergal.recipe.names import packaged_recipes
    from hiergal.recipe.recipe import load_recipe

    path = packaged_recipes().get(name) if not Path(name).exists() else None
    path = path or resolve(name)
    model = load_model(path) if path.is_dir() or path.suffix == ".safetensors" else None
    recipe = load_recipe(path) if model is None else model.recipe
    ny, nx = recipe.shape
    say(f"{recipe.name}: {ny} x {nx} pixels of {recipe.pixel_scale_arcsec} arcsec")
    if model is not None:
        for what, text in _published(path):
            say(f"{what:<12} {plain(text)}")
    say(f"latents      {recipe.generator.latents}, {recipe.covariance} covariance")
    say(f"conditions   {', '.join(recipe.flow.conditions)}")
    say(f"training     {recipe.training.steps:,} steps of {recipe.training.batch}")
    for part, count in parameter_counts(recipe)._asdict().items():
        say(f"{part:<12} {count:,} parameters ({4e-6 * count:.2f} MB)")
    if model is not None:
        for what, text in [*_origin(model), *_headlines(path)]:
            say(f"{what:<12} {plain(text)}")


@models.command("fetch", examples=["hiergal models fetch mock-acs", "hiergal models fetch mine@1.0"])
def models_fetch(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME", help="NAME, NAME@VERSION, or https://...#sha256=...")
    ],
) -> None:
    """Fetch models into the cache, and check that they load. What is there already is not fetched again."""
    from hiergal.hub.bundle import load_model
    from hiergal.hub.cache import cached, discard_damaged
    from hiergal.hub.names import packaged_models, resolve

    for name in names:
        for model in cached():
            entry = model.entry
            wanted = entry.sha256 in name or _is_called(name, entry.name, entry.version)
            if wanted and discard_damaged(model):
                say(f"{model.path}: was damaged, and is fetched again")
        before = {model.path for model in cached()}
        path = resolve(name if ":" in name else f"hub:{name}")
        load_model(path)
        if path in (folder for folder, _ in packaged_models()):
            said = "came with the package"
        else:
            said = "was in the cache" if path in before else "fetched"
        say(f"{name}: {said}: {path}")


@models.command("verify", examples=["hiergal models verify", "hiergal models verify mock-acs"])
def models_verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="NAME or NAME@VERSION; default all.")
    ] = None,
) -> None:
    """Check the models of the package and of the cache. The exit status is 1 if one is not what was published."""
    from hiergal.hub.bundle import load_model
    from hiergal.hub.cache import cached, incomplete, verify
    from hiergal.hub.names import packaged_models

    checks: list[tuple[str, str, str, Callable[..., Any], Any]]
    checks = [(about.name, about.version, "package", load_model, path) for path, about in packaged_models()]
    checks += [(model.entry.name, model.entry.version, "cache", verify, model) for model in cached()]
    checks += [(place.parent.name, place.name, "cache", _refuse, place) for place in incomplete()]
    for wanted in names or ():
        if not any(_is_called(wanted, name, version) for name, version, *_ in checks):
            there = ", ".join(f"{name}@{version}" for name, version, *_ in checks) or "none"
            raise ValueError(f"{wanted}: expected a model in the package or in the cache ({there})")
    wrong = 0
    for name, version, where, check, model in checks:
        if names and not any(_is_called(wanted, name, version) for wanted in names):
            continue
        try:
            check(model)
        except (OSError, ValueError) as error:
            wrong += 1
            say(f"{name}@{version} ({where}): wrong: {error}")
        else:
            say(f"{name}@{version} ({where}): right")
    raise typer.Exit(1 if wrong else 0)


@registry.command("add", examples=["hiergal models registry add /data/models"])
def registry_add(source: Source) -> None:
    """Add a registry to search for models."""
    from hiergal.hub.registry import add_registry

    found = add_registry(source)
    say(f"{source}: {', '.join(f'{one.name}@{one.version}' for one in found) or 'no models yet'}")


@registry.command("list", examples=["hiergal models registry list"])
def registry_list() -> None:
    """Print the registries: those of HIERGAL_REGISTRIES first, then those added."""
    from hiergal.hub.registry import registries

    for source in registries():
        say(source)


@registry.command("remove", examples=["hiergal models registry remove /data/models"])
def registry_remove(source: Source) -> None:
    """Stop looking for models in a registry that was added; what was fetched from it stays."""
    from hiergal.hub.registry import remove_registry

    remove_registry(source)
    say(f"{source}: removed")


def _row(offer: "AvailableModel") -> dict[str, Any]:
    if offer.entry is not None and offer.path is None:
        size = offer.entry.size or None  # None: not stated
    else:
        size = 0 if offer.path is None else _bytes_of(offer.path)
    return {
        "name": offer.name,
        "version": offer.version,
        "where": offer.source,
        "licence": offer.licence,
        "size": size,
        "description": offer.description,
    }


def _bytes_of(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in rows[0]:
        table.add_column(column, overflow="fold", justify="right" if column == "size" else "left")
    for row in rows:
        size = "" if row["size"] is None else f"{1e-6 * row['size']:.2f} MB"
        texts = row | {"size": size}
        table.add_row(*(Text(plain(text)) for text in texts.values()))
    Console(width=None if sys.stdout.isatty() else WIDEST).print(table)


def _published(path: Path) -> list[tuple[str, str]]:
    """Description of a published model, its own or its registry's."""
    from hiergal.hub.cache import cached
    from hiergal.hub.published import PUBLISHED, read_published

    if (path / PUBLISHED).is_file():
        about = read_published(path)
    else:
        about = next((model.entry for model in cached() if model.path == path), None)
    if about is None:
        return []
    return [
        ("published", f"{about.name} {about.version}"),
        ("licence", about.licence),
        ("description", about.description),
    ]


def _origin(model: "GalaxyModel") -> list[tuple[str, str]]:
    """Training survey of a model, and its conditions."""
    from hiergal.model.trained import DENSITIES

    origin = model.provenance
    width = origin.psf_fwhm_arcsec
    ranges = [
        (name, *origin.condition_ranges.get(name, (None, None)), origin.condition_units.get(name, ""))
        for name in dict.fromkeys([*model.recipe.flow.conditions, *origin.condition_ranges])
    ]
    densities = [name for name in DENSITIES if getattr(model, name) is not None]
    population = "none" if model.population is None else f"conditions of {len(model.population):,} galaxies"
    return [
        ("survey", f"{origin.survey}, band {origin.band}"),
        ("trained on", f"{origin.galaxies:,} galaxies, by hiergal {origin.version}, seed {origin.seed}"),
        ("pixel scale", f"{model.recipe.pixel_scale_arcsec} arcsec"),
        ("zero point", f"{origin.magnitude_zero_point} mag, fluxes in {origin.flux_unit}"),
        ("PSF width", "not recorded" if width is None else f"{width:.3g} arcsec (median FWHM)"),
        *((name, f"{_range(low, high)} {unit}".rstrip()) for name, low, high, unit in ranges),
        *(
            (f"{name}, of fits" if name in ("flux", "hlr_arcsec") else f"{name}, trained", _range(*limits))
            for name, limits in origin.trained_ranges.items()
        ),
        ("densities", ", ".join(densities) or "none"),
        ("population", population),
    ]


def _range(low: float | None, high: float | None) -> str:
    return "range not recorded" if low is None else f"{low:.4g} to {high:.4g}"


def _headlines(path: Path) -> list[tuple[str, str]]:
    """The first numbers among what was measured: those that stand alone, and those one level below."""
    from hiergal.hub.bundle import read_metrics
    from hiergal.runtime.formatting import format_number

    found = []
    for name, value in read_metrics(path).items():
        inside = (
            {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
        )
        found += [(key, one) for key, one in inside.items() if isinstance(one, bool | int | float | str)]
    return [("measured", f"{key} {format_number(value)}") for key, value in found[:METRICS_SHOWN]]


def _is_called(wanted: str, name: str, version: str) -> bool:
    return wanted.removeprefix("hub:") in (name, f"{name}@{version}")


def _refuse(place: Path) -> None:
    raise ValueError(f"{place}: expected a whole model, with what its registry said of it; remove the folder")
