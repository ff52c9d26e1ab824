"""A trained model, in memory and on disk.

A bundle is a folder of three files: ``recipe.toml`` (how the networks are built), ``weights.safetensors`` (their
numbers) and ``model.json`` (schema version, units, what it was trained on, checksum of the weights). Loading
executes nothing from them: the recipe is checked, the networks are rebuilt from it, and every array has to have the
name, shape and type that they expect. A bundle is written beside its target and renamed: it is whole, or not there.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from jaxtyping import Float

from hiergal.architecture import (
    encoder_of,
    generator_of,
    guide_flow_config,
    marginal_config,
    renderer_of,
)
from hiergal.flow import ConditionalFlow
from hiergal.noise import WhiteNoise
from hiergal.observation import Observation
from hiergal.psf import PSF
from hiergal.recipe import Recipe, load_recipe, recipe_to_toml
from hiergal.records import Array, Record, record, static

__all__ = ["GalaxyModel", "ParameterCounts", "Provenance", "load_model", "parameter_counts", "save_model"]

SCHEMA_VERSION = 1
DENSITIES = ("flow", "marginal", "guide_flow")
RECIPE, WEIGHTS, METADATA = "recipe.toml", "weights.safetensors", "model.json"


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model was trained on, and in which units it speaks.

    Attributes:
        survey: Name of the survey.
        band: Its filter.
        flux_unit: Unit of fluxes.
        magnitude_zero_point: Magnitude of a source of unit flux [mag].
        galaxies: Number of training galaxies.
        seed: Seed of the training.
        version: Version of hiergal that trained it.
        condition_ranges: Smallest and largest value of each condition among the training galaxies.
        survey_provenance: What the survey says of itself.
    """

    survey: str
    band: str
    flux_unit: str
    magnitude_zero_point: float
    galaxies: int
    seed: int
    version: str
    condition_ranges: dict[str, tuple[float, float]] = {}
    survey_provenance: dict[str, Any] = {}


@record
class GalaxyModel(Record):
    """A trained model: generator, guide, and the flow over its latents.

    Attributes:
        params: Parameters of the networks, by NumPyro's site names.
        flow: Density of the latents given conditions, or None before it is fitted.
        recipe: How the networks are built.
        provenance: What the model was trained on.
        marginal: Density of the latents where no conditions are known, or None before it is fitted.
        guide_flow: Shape of posteriors beyond their Laplace approximation (:mod:`hiergal.guide_flow`), or None before
            it is fitted.
    """

    params: dict[str, Any]
    flow: ConditionalFlow | None
    recipe: Recipe = static()
    provenance: Provenance = static()
    marginal: ConditionalFlow | None = None
    guide_flow: ConditionalFlow | None = None

    def decode(self, z: Float[jax.Array, "n d"]) -> Float[jax.Array, "n y x"]:
        """Return the light profiles g(z) [flux per pixel]."""
        return generator_of(self.recipe).apply({"params": self.params["generator$params"]}, z)

    def render(self, profile: Float[Array, "*n y x"], psf: PSF) -> Float[jax.Array, "*n y x"]:
        """Return noise-free stamps of profiles at PSFs [flux per pixel]: see :func:`hiergal.model.render`."""
        return renderer_of(self.recipe)(profile, psf)

    def encode(self, observation: Observation) -> Float[jax.Array, "n outputs"]:
        """Return the outputs of the guide's network."""
        return encoder_of(self.recipe).apply({"params": self.params["encoder$params"]}, observation)


def save_model(model: GalaxyModel, folder: str | Path) -> None:
    """Write a bundle, replacing one that is there.

    Raises:
        OSError: If it cannot be written; what was there before stays.

    Example:
        >>> save_model(model, "runs/first/model")  # doctest: +SKIP
    """
    from safetensors.numpy import save_file

    folder = Path(folder)
    fresh, old = folder.with_name(f"{folder.name}.partial"), folder.with_name(f"{folder.name}.old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file({name: np.ascontiguousarray(value) for name, value in _flatten(model).items()}, fresh / WEIGHTS)
    (fresh / RECIPE).write_text(recipe_to_toml(model.recipe), encoding="utf-8")
    metadata = _Metadata(
        schema_version=SCHEMA_VERSION,
        provenance=model.provenance,
        weights_sha256=_sha256(fresh / WEIGHTS),
        flow=model.flow is not None,
        marginal=model.marginal is not None,
        guide_flow=model.guide_flow is not None,
    )
    (fresh / METADATA).write_bytes(msgspec.json.format(msgspec.json.encode(metadata), indent=2))
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_model(folder: str | Path) -> GalaxyModel:
    """Read a bundle.

    Raises:
        OSError: If a file is missing or cannot be read.
        ValueError: If a file is damaged, of a newer schema, or does not fit the recipe.

    Example:
        >>> model = load_model("runs/quickstart/model")  # doctest: +SKIP
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = Path(folder)
    if not (folder / METADATA).is_file():
        raise FileNotFoundError(
            f"{folder}: expected a trained model (a folder with {METADATA}); train one with `hiergal train`"
        )
    metadata = _read_metadata(folder / METADATA)
    recipe = load_recipe(folder / RECIPE)
    if _sha256(folder / WEIGHTS) != metadata.weights_sha256:
        raise ValueError(
            f"{folder / WEIGHTS}: its SHA-256 is not the recorded one: the file is damaged; fetch it again"
        )
    try:
        arrays = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS}: expected a safetensors file: {error}") from None
    densities = tuple(name for name in DENSITIES if getattr(metadata, name))
    template = jax.eval_shape(lambda: _blank(recipe, metadata.provenance, densities))
    return _fill(template, arrays, str(folder / WEIGHTS))


class ParameterCounts(NamedTuple):
    """How many numbers a model has.

    Attributes:
        encoder: Of the guide's network.
        generator: Of the generator.
        flow: Of the flow over the latents.
    """

    encoder: int
    generator: int
    flow: int


def parameter_counts(recipe: Recipe) -> ParameterCounts:
    """Count the parameters of the networks that a recipe describes, without building them.

    Example:
        >>> parameter_counts(Recipe()).flow
        39200
    """
    nobody = Provenance("", "", "", 0.0, 0, 0, "")
    model = jax.eval_shape(lambda: _blank(recipe, nobody, ("flow",)))
    parts = (model.params["encoder$params"], model.params["generator$params"], model.flow.params)
    return ParameterCounts(*(sum(leaf.size for leaf in jax.tree.leaves(part)) for part in parts))


class _Metadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema_version: int
    provenance: Provenance
    weights_sha256: str
    flow: bool
    marginal: bool = False
    guide_flow: bool = False


def _read_metadata(path: Path) -> _Metadata:
    try:
        content = msgspec.json.decode(path.read_bytes())
        version = content["schema_version"]
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected the description of a model: {error}") from None
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path}: expected schema version {SCHEMA_VERSION}, got {version}; update hiergal to read it"
        )
    try:
        return msgspec.convert(content, _Metadata)
    except msgspec.ValidationError as error:
        raise ValueError(f"{path}: {error}") from None


def _blank(recipe: Recipe, provenance: Provenance, densities: tuple[str, ...]) -> GalaxyModel:
    """A model with untrained parameters: what a bundle of this recipe, with these densities, must hold."""
    key, (ny, nx), d = jax.random.key(0), recipe.shape, recipe.generator.latents
    psf = PSF(jnp.ones((1, 3, 3)) / 9, pixel_scale_arcsec=recipe.pixel_scale_arcsec)
    noise = WhiteNoise(jnp.ones(1))
    example = Observation(
        jnp.zeros((1, ny, nx)), psf, noise, None, {}, jnp.zeros(1, int), recipe.pixel_scale_arcsec
    )
    params = {
        "generator$params": generator_of(recipe).init(key, jnp.zeros((1, d)))["params"],
        "encoder$params": encoder_of(recipe).init(key, example)["params"],
    }
    configs = {
        "flow": recipe.flow,
        "marginal": marginal_config(recipe),
        "guide_flow": guide_flow_config(recipe),
    }
    fitted = {name: ConditionalFlow.untrained(key, configs[name], d) for name in densities}
    return GalaxyModel(params, fitted.pop("flow", None), recipe, provenance, **fitted)


def _flatten(model: GalaxyModel) -> dict[str, np.ndarray]:
    return {_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(model)}


def _name(path: tuple) -> str:
    return "/".join(str(getattr(part, "key", getattr(part, "name", part))) for part in path)


def _fill(template: GalaxyModel, arrays: dict[str, np.ndarray], where: str) -> GalaxyModel:
    expected = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(template)}
    if expected.keys() != arrays.keys():
        missing, extra = sorted(expected.keys() - arrays.keys()), sorted(arrays.keys() - expected.keys())
        raise ValueError(
            f"{where}: expected the arrays of its recipe; missing: {missing[:3]}, not known: {extra[:3]}"
        )
    for name, leaf in expected.items():
        got = arrays[name]
        if got.shape != leaf.shape or got.dtype != leaf.dtype:
            raise ValueError(
                f"{where}: {name}: expected {leaf.dtype} {leaf.shape}, got {got.dtype} {got.shape}"
            )
    return jax.tree_util.tree_map_with_path(lambda path, _: jnp.asarray(arrays[_name(path)]), template)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
