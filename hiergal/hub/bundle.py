"""A trained model on disk.

A bundle is a folder of ``recipe.toml`` (how the networks are built), ``weights.safetensors`` (their numbers),
``model.json`` (schema version, units, what it was trained on, digests of weights and texts) and, once measured,
``metrics.json``, and once published its card, ``CARD.md``; or one safetensors file that carries the same texts in its
header. Loading executes nothing from
them: the recipe is checked, the networks are rebuilt from it, and every array has to have the name, shape and type
that they expect. A bundle is whole, or not there (:mod:`hiergal.runtime.output`).

Schema versions: 1 had no population, no units of conditions, and a digest of the file in place of one of the arrays;
it loads. Later ones than this are refused.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import msgspec
import numpy as np

from hiergal.hub.packing import (
    IN_FILES,
    digest_of,
    fill,
    flatten,
    halve_precision,
    read_arrays,
    read_texts,
    write_arrays,
)
from hiergal.model.blank import blank_model
from hiergal.model.provenance import Provenance
from hiergal.model.trained import DENSITIES, GalaxyModel, check_model
from hiergal.recipe.recipe import network_modules, parse_recipe, recipe_to_toml
from hiergal.runtime.fork import check_not_forked
from hiergal.runtime.output import owned
from hiergal.runtime.texts import read_text
from hiergal.runtime.work import settle

__all__ = ["load_model", "read_card", "read_metrics", "save_model", "texts_of"]

SCHEMA_VERSION = 2
RECIPE, WEIGHTS, METADATA, METRICS = "recipe.toml", "weights.safetensors", "model.json", "metrics.json"
CARD = "CARD.md"
ONE_FILE = ".safetensors"
LARGEST_POPULATION = 2**20
LARGEST_TEXT = 2**26  # bytes of metrics: figures are drawn from them
NETWORKS = "params/"
FIRST_FIELDS = (  # of a provenance, when digests of texts began; later ones stand after them
    "survey",
    "band",
    "flux_unit",
    "magnitude_zero_point",
    "galaxies",
    "seed",
    "version",
    "condition_ranges",
    "survey_provenance",
    "condition_units",
    "psf_fwhm_arcsec",
)


def save_model(
    model: GalaxyModel,
    path: str | Path,
    *,
    metrics: Mapping[str, Any] | None = None,
    card: str | None = None,
    half_precision: bool = False,
    overwrite: bool = False,
) -> None:
    """Write a bundle: whole, or not at all.

    Args:
        model: The model.
        path: A folder; or a file, if its name ends in ``.safetensors``.
        metrics: What was measured of the model: whatever JSON can hold.
        card: What people read of it, in Markdown.
        half_precision: Whether the weights of generator and encoder are stored as float16, in half the space; densities
            stay as they are.
        overwrite: Whether to replace a model that is there; anything else is never replaced.

    Raises:
        FileExistsError: If something is there that may not be replaced.
        OSError: If it cannot be written; what was there before stays.
        ValueError: If a weight is beyond the range of half precision.

    Example:
        >>> save_model(model, "runs/first/model")
    """
    path, arrays = Path(path), flatten(check_model(model))
    if half_precision:
        arrays = halve_precision(arrays, NETWORKS)
    fitted: dict[str, Any] = {name: getattr(model, name) is not None for name in DENSITIES}
    metadata = _Metadata(
        **fitted,
        schema_version=SCHEMA_VERSION,
        provenance=model.provenance,
        weights_sha256=digest_of(arrays),
        population=0 if model.population is None else len(model.population),
        network_modules=network_modules(model.recipe),
    )
    texts = {RECIPE: recipe_to_toml(model.recipe)}
    if metrics is not None:
        texts[METRICS] = _pretty(metrics)
    metadata = msgspec.structs.replace(metadata, texts_sha256=_digest_of_texts(metadata, texts))
    texts[METADATA] = _pretty(_described(metadata))
    if card is not None:
        texts[CARD] = card
    with owned(path, "model", overwrite=overwrite) as own:
        write_bundle(own.result, arrays, texts)
        own.put()


def write_bundle(path: Path, arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> None:
    """Write the files of a bundle to a name that is free: a folder, or one file if it ends in ``.safetensors``.

    Args:
        path: A name that the caller owns.
        arrays: Arrays of the model by name.
        texts: Texts by the names of their files.

    Raises:
        OSError: If it cannot be written.
    """
    if path.suffix == ONE_FILE:
        write_arrays(path, arrays, texts)
        return
    path.mkdir()
    write_arrays(path / WEIGHTS, arrays)
    for name, text in texts.items():
        (path / name).write_text(text, encoding="utf-8")


def load_model(name: str | Path) -> GalaxyModel:
    """Read a bundle.

    Args:
        name: A folder or a file; or ``hub:NAME`` or an address, see :func:`hiergal.hub.resolve`.

    Raises:
        OSError: If a file is missing or cannot be read.
        ValueError: If a file is damaged, of a newer schema, does not fit the recipe, or has a network of a kind whose
            module has not been imported (it is named, not imported: a bundle runs no code).

    Example:
        >>> model = load_model("hub:mock-acs")
        >>> model.recipe.pixel_scale_arcsec
        0.03
    """
    check_not_forked()
    from hiergal.hub.names import resolve

    path = settle(resolve(name))
    texts, one_file = texts_of(path), path.suffix == ONE_FILE
    metadata = _read_metadata(texts[METADATA], f"{path}: {METADATA}" if one_file else str(path / METADATA))
    where = f"{path}: {RECIPE}" if one_file else str(path / RECIPE)
    recipe = parse_recipe(texts[RECIPE], where, metadata.network_modules, warn=False)
    weights = path if one_file else path / WEIGHTS
    damaged = f"{weights}: its SHA-256 is not the recorded one: the file is damaged; fetch it again"
    if metadata.schema_version == 1 and _sha256(weights) != metadata.weights_sha256:
        raise ValueError(damaged)
    arrays = read_arrays(weights)
    if metadata.schema_version > 1 and digest_of(arrays) != metadata.weights_sha256:
        raise ValueError(damaged)
    densities = tuple(name for name in DENSITIES if getattr(metadata, name))
    with jax.enable_x64(False):  # what files hold does not follow from how JAX computes here
        template = jax.eval_shape(
            lambda: blank_model(recipe, metadata.provenance, densities, metadata.population)
        )
    model = fill(template, arrays, str(weights))
    if metadata.texts_sha256 and _digest_of_texts(metadata, texts) != metadata.texts_sha256:
        raise ValueError(
            f"{path}: the SHA-256 of {RECIPE}, {METADATA} and {METRICS} is not the recorded one: one of them was "
            "changed or damaged; fetch it again (`hiergal models fetch`)"
        )
    return model


def read_metrics(name: str | Path) -> dict[str, Any]:
    """Read what was measured of a model; empty if nothing was.

    Args:
        name: As for :func:`load_model`.

    Raises:
        OSError: If the bundle cannot be read.
        ValueError: If its metrics are no JSON.

    Example:
        >>> read_metrics("hub:mock-acs")["validation"]["passed"] in (True, False)
        True
    """
    from hiergal.hub.names import resolve

    path = resolve(name)
    try:
        return msgspec.json.decode(texts_of(path).get(METRICS, "{}"), type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"{path}: expected metrics as a JSON object: {error}") from None


def read_card(name: str | Path) -> str:
    """Read the card of a published model, in Markdown.

    Args:
        name: As for :func:`load_model`.

    Raises:
        OSError: If it has none, or cannot be read.
        ValueError: If it is damaged.

    Example:
        >>> "mock-acs" in read_card("hub:mock-acs")
        True
    """
    from hiergal.hub.names import resolve

    path = resolve(name)
    if path.suffix == ONE_FILE:
        text = texts_of(path).get(CARD)
    else:
        text = _read_text(path / CARD) if (path / CARD).is_file() else None
    if text is None:
        raise FileNotFoundError(
            f"{path}: expected a published model with a card, {CARD}; `hiergal models info` prints what is known of "
            "others"
        )
    return text


class _Metadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema_version: int
    provenance: Provenance
    weights_sha256: str
    flow: bool
    marginal: bool = False
    posterior_flow: bool = msgspec.field(default=False, name=IN_FILES["posterior_flow"])
    population: Annotated[int, msgspec.Meta(ge=0, le=LARGEST_POPULATION)] = 0
    texts_sha256: str = ""  # of recipe, metrics and these fields but this one; models from before had none
    network_modules: dict[str, str] = {}  # that define generator and encoder, if they are not of this package


def _pretty(content: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(content), indent=2).decode()


def _described(metadata: _Metadata) -> dict[str, Any]:
    """The fields of a model's description; models whose networks are of this package have no modules."""
    about = msgspec.to_builtins(metadata)
    return about if metadata.network_modules else {k: v for k, v in about.items() if k != "network_modules"}


def _digest_of_texts(metadata: _Metadata, texts: Mapping[str, str]) -> str:
    about = _described(msgspec.structs.replace(metadata, texts_sha256=""))
    # Fields that came later count where they say something: models from before keep their digests.
    for field in msgspec.structs.fields(Provenance)[len(FIRST_FIELDS) :]:
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        if about["provenance"][field.name] == msgspec.to_builtins(default):
            del about["provenance"][field.name]
    digest = hashlib.sha256(msgspec.json.encode(about))
    for name in (RECIPE, METRICS):
        if name in texts:
            digest.update(f"\0{name}\0{texts[name]}".encode())
    return digest.hexdigest()


def texts_of(path: Path) -> Mapping[str, str]:
    """Read the texts of a bundle by the names of their files; of a folder, without its card.

    Args:
        path: The bundle, a folder or a file.

    Raises:
        OSError: If one is missing or cannot be read.
        ValueError: If a file is no bundle.

    Example:
        >>> from hiergal.hub.names import resolve
        >>> "recipe.toml" in texts_of(resolve("hub:mock-acs"))
        True
    """
    if path.suffix == ONE_FILE:
        texts = read_texts(path)
        if not texts.keys() >= {RECIPE, METADATA}:
            raise ValueError(
                f"{path}: expected a model with {RECIPE} and {METADATA} in its header, got none of these"
            )
        return texts
    if not (path / METADATA).is_file():
        from hiergal.hub.names import is_published

        known = not path.exists() and is_published(path.name)
        mend = (
            f'the hub has a model of this name: load "hub:{path.name}"'
            if known
            else "train one with `hiergal train`"
        )
        raise FileNotFoundError(f"{path}: expected a trained model (a folder with {METADATA}); {mend}")
    files = [path / RECIPE, path / METADATA] + [path / METRICS] * (path / METRICS).is_file()
    return {file.name: _read_text(file) for file in files}


def _read_text(file: Path) -> str:
    return read_text(file, LARGEST_TEXT)


def _read_metadata(text: str | bytes, where: str) -> _Metadata:
    try:
        content = msgspec.json.decode(text)
        version = content["schema_version"]
    except (msgspec.DecodeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{where}: expected the description of a model: {error}") from None
    if version not in range(1, SCHEMA_VERSION + 1):
        raise ValueError(
            f"{where}: expected schema version 1 to {SCHEMA_VERSION}, got {version}; update hiergal to read it"
        )
    try:
        return msgspec.convert(content, _Metadata)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}: {error}") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
