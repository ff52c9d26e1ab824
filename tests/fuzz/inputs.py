"""The doors of the package, and what must be true of whatever comes through them.

Each door has a sound input, changes that know its format, and an oracle. Doors with checksums (bundles, surveys,
posteriors) give what the sound input gives, or refuse. The others cannot know that a digit was another one: what they
accept must be what an independent reading of the same bytes finds (``tomllib``, ``csv``, Astropy, NumPy). Where one
library alone reads a format (ECSV, VOTable, HDF5 tables, parquet) there is no such reading: there, only faults count.
"""

import csv
import hashlib
import json
import math
import tomllib
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import galsim
import jax
import msgspec
import numpy as np
import tomli_w
from astropy.io import fits
from astropy.table import Table
from mutations import odd_arrays, odd_tree
from toys import bare_posterior, drawing_model, tiny_model, tiny_recipe, tiny_survey

from hiergal.hub import load_model, save_model
from hiergal.hub.bundle import read_metrics
from hiergal.hub.registry import read_registry
from hiergal.observation import Observation, check_observation
from hiergal.observation.psf import PSF
from hiergal.posterior.arviz_files import tree_of
from hiergal.posterior.to_arviz import load_arviz, posterior_to_arviz, save_arviz
from hiergal.publish.publish import read_published
from hiergal.recipe.recipe import load_recipe, recipe_to_toml
from hiergal.survey import StoreHeader, open_survey, write_store
from hiergal.survey.cutouts.files import open_folder, read_folder, read_npz
from hiergal.survey.cutouts.survey import from_arrays
from hiergal.survey.tables.catalog import read_catalog

__all__ = ["DOORS", "Door"]

Change = Callable[[Path, np.random.Generator], str]
SHAPE = (16, 24)
WRONG = "accepted, and not what is written in it"


class Door(NamedTuple):
    """A way into the package.

    Attributes:
        make: Writes a sound input into a folder, and returns its path.
        read: Reads it, and returns a digest of all that was read.
        change: A change that knows the format; it returns a word for it.
        faithful: Whether what was read is what the file says, by an independent reading; None where bytes are checked,
            and only what the sound input gave is right.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    change: Change
    faithful: Callable[[Path, Any], bool] | None = None


def stamps(n: int = 3) -> Observation:
    """Some galaxies."""
    y, x = np.mgrid[-2:3, -3:4]
    psf = np.exp(-(x**2 + y**2 + 0.3 * x * y) / 3) * np.ones((n, 1, 1))
    psf = PSF((psf / psf.sum(axis=(1, 2), keepdims=True)).astype(np.float32), pixel_scale_arcsec=0.03)
    return tiny_survey(n, SHAPE, psf)


def digest(tree: Any) -> str:
    """A digest of arrays and texts."""
    result = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        result.update(f"{path}{array.dtype}{array.shape}".encode())
        result.update(repr(array.tolist()).encode())
    return result.hexdigest()


def toml_change(path: Path, rng: np.random.Generator) -> str:
    """Change a TOML file as a table; what TOML cannot say (None) is said in words."""
    tree, kind = odd_tree(tomllib.loads(path.read_text()), rng)
    try:
        path.write_text(tomli_w.dumps(tree))
    except (TypeError, ValueError, RecursionError):
        path.write_text(path.read_text() + "\n" + "a." * int(rng.integers(1, 40_000)) + "b = 1\n")
        kind = "long key"
    return kind


def json_change(name: str) -> Change:
    """Change a JSON file of a folder as a tree."""

    def act(path: Path, rng: np.random.Generator) -> str:
        files = sorted(path.rglob(name))
        file = files[rng.integers(len(files))]
        tree, kind = odd_tree(json.loads(file.read_text()), rng)
        file.write_text(json.dumps(tree, default=str))
        return f"{file.relative_to(path)}: {kind}"

    return act


# -- recipes, registries, descriptions of models -------------------------------------------------------------------


def make_recipe(folder: Path) -> Path:
    path = folder / "recipe.toml"
    path.write_text(recipe_to_toml(tiny_recipe(SHAPE)))
    return path


def recipe_says(path: Path, found: Any) -> bool:
    """Each key of the file is in the recipe, with its value, and all numbers are finite."""

    def within(said: Any, got: Any) -> bool:
        if isinstance(said, dict):
            return isinstance(got, dict) and all(
                key in got and within(value, got[key]) for key, value in said.items()
            )
        if isinstance(said, list):
            return len(said) == len(got) and all(map(within, said, got))
        return said == got and (not isinstance(said, float) or math.isfinite(said))

    return within(tomllib.loads(path.read_text()), json.loads(json.dumps(found)))


def make_registry(folder: Path) -> Path:
    model = {
        "name": "toy",
        "version": "1.0",
        "url": "toy.safetensors",
        "sha256": "a" * 64,
        "size": 10,
        "licence": "MIT",
    }
    (folder / "index.toml").write_text(
        tomli_w.dumps({"schema_version": 1, "model": [model, model | {"version": "2"}]})
    )
    return folder


def registry_says(path: Path, found: Any) -> bool:
    said = tomllib.loads((path / "index.toml").read_text()).get("model", [])
    inside = all(
        Path(one["url"]).resolve().is_relative_to(path.resolve()) or "://" in one["url"] for one in found
    )
    names = [(one["name"], one["version"], one["sha256"], one["size"]) for one in said]
    return inside and names == [(one["name"], one["version"], one["sha256"], one["size"]) for one in found]


def make_published(folder: Path) -> Path:
    words = ("licence", "description", "intended_use", "limits", "citation")
    (folder / "published.toml").write_text(
        tomli_w.dumps({"name": "a", "version": "1"} | dict.fromkeys(words, "text"))
    )
    return folder


# -- bundles, surveys, posteriors: with checksums ------------------------------------------------------------------


def make_bundle(folder: Path) -> Path:
    save_model(tiny_model(), folder / "model", metrics={"a": {"b": 1.0}})
    return folder / "model"


def make_one_file(folder: Path) -> Path:
    save_model(tiny_model(), folder / "model.safetensors", metrics={"a": {"b": 1.0}})
    return folder / "model.safetensors"


def read_bundle(path: Path) -> Any:
    model = load_model(path)
    read_metrics(path)
    return digest([model, recipe_to_toml(model.recipe), str(model.provenance)])


def bundle_change(path: Path, rng: np.random.Generator) -> str:
    """Change a text of a bundle, or its weights, without a change of the digests."""
    if rng.integers(3):
        return (
            json_change("m*.json")(path, rng) if rng.integers(2) else toml_change(path / "recipe.toml", rng)
        )
    return weights_change(path / "weights.safetensors", rng)


def weights_change(path: Path, rng: np.random.Generator) -> str:
    """Change the header of a safetensors file as a tree, and its length with it."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    tree, kind = odd_tree(json.loads(content[8 : 8 + length]), rng)
    header = json.dumps(tree, default=str).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    return kind


def make_survey(folder: Path) -> Path:
    header = StoreHeader(survey="toy", band="r", pixel_scale_arcsec=0.03, magnitude_zero_point=25.0)
    write_store(folder / "survey.zarr", header, [(stamps(), None)])
    return folder / "survey.zarr"


def read_survey(path: Path) -> Any:
    store = open_survey(path)
    return digest([store.read(), str(store.header)])


def make_posterior(ending: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        model, galaxies = tiny_model(), stamps()
        latents = np.random.default_rng(1).normal(size=(6, 3, model.recipe.generator.latents))
        save_arviz(
            posterior_to_arviz(bare_posterior(latents, galaxies), galaxies, model), folder / f"p{ending}"
        )
        return folder / f"p{ending}"

    return make


def read_posterior(path: Path) -> Any:
    tree = tree_of(load_arviz(path))
    return digest(
        [
            {str(name): str(one.values.tolist()) for name, one in node.variables.items()}
            for node in tree.subtree
        ]
    )


def hdf5_change(path: Path, rng: np.random.Generator) -> str:
    """Put into an HDF5 file what leads out of it, or a number that was not there."""
    import h5py

    kind = ("external", "link", "soft", "virtual", "huge", "number", "remove", "attribute")[rng.integers(8)]
    with h5py.File(path, "r+") as file:
        group = file["posterior"] if "posterior" in file else file
        name = sorted(name for name in group if isinstance(group[name], h5py.Dataset))[0]
        match kind:
            case "external":
                group.create_dataset("stolen", (4,), "u1", external=[("/etc/hostname", 0, 4)])
            case "link":
                group["stolen"] = h5py.ExternalLink("/etc/hostname", "/x")
            case "soft":
                group["stolen"] = h5py.SoftLink("/nowhere")
            case "virtual":
                layout = h5py.VirtualLayout((4,), "u1")
                layout[:] = h5py.VirtualSource("/etc/hostname", "x", (4,))
                group.create_virtual_dataset("stolen", layout)
            case "huge":
                group.create_dataset("bomb", (2**40,), "u1", chunks=(2**20,))
            case "number" if group[name].dtype.kind in "iuf" and group[name].size:
                group[name][...] = np.full(group[name].shape, 3, group[name].dtype)
            case "remove":
                del group[name]
            case _:
                group.attrs["\x1b[31m"] = "\x1b[2J"
    return kind


# -- tables, cutouts, arrays ---------------------------------------------------------------------------------------


def columns() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    numbers = {name: rng.uniform(1, 25, 12).round(4) for name in ("mag_auto", "flux_radius", "zphot")}
    return numbers | {"identifier": 36411448540268969 + np.arange(12)}


def make_table(ending: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path, table = folder / f"catalog{ending}", Table(columns())
        match ending:
            case ".npz":
                np.savez(path, **columns())
            case ".hdf5":
                table.write(path, path="catalog", serialize_meta=False)
            case ".parquet":
                table.write(path)
            case ".xml":
                table.write(path, format="votable")
            case _:
                table.write(path)
        return path

    return make


def read_table(path: Path) -> Any:
    table = read_catalog(path, ["mag_auto", "flux_radius", "zphot", "identifier"])
    return {
        name: np.ma.filled(np.ma.asarray(table[name]).astype(object), None).tolist()
        for name in table.colnames
    }


def table_change(path: Path, rng: np.random.Generator) -> str:
    """Other columns, in the same format."""
    changed, kind = odd_arrays(columns(), rng)
    ending = "".join(path.suffixes)
    path.unlink()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if ending == ".npz":
                np.savez(path, **{name or "none": value for name, value in changed.items()})
            else:
                options = {".hdf5": {"path": "catalog"}, ".xml": {"format": "votable"}}.get(ending, {})
                Table(changed).write(path, **options)
    except Exception:  # a format that cannot say it
        path.write_text(
            json.dumps({name: np.asarray(value).tolist() for name, value in changed.items()}, default=str)
        )
    return kind


def same_numbers(said: Any, found: Any) -> bool:
    """Whether two columns have the same values; masked and NaN are alike."""
    for one, other in zip(said, found, strict=True):
        gone = [value is None or value != value or value == "" for value in (one, other)]
        if any(gone):
            if not all(gone):
                return False
        elif str(one).strip() != str(other).strip():
            try:
                if not np.isclose(float(one), float(other), rtol=1e-12, equal_nan=True):
                    return False
            except (TypeError, ValueError):
                return False
    return True


def csv_says(path: Path, found: Any) -> bool:
    with path.open(newline="") as file:
        rows = list(csv.reader(line for line in file if line.strip()))
    named = {name.strip().lower(): place for place, name in enumerate(rows[0])}
    nothing = {"nan", "", "--", "none", "null"}
    for name, column in found.items():
        said = [None if row[named[name]].strip().lower() in nothing else row[named[name]] for row in rows[1:]]
        if not same_numbers(said, column):
            return False
    return True


def fits_says(path: Path, found: Any) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(path) as hdus:
            data = next(hdu.data for hdu in hdus if isinstance(hdu, fits.BinTableHDU))
            said = {name.lower(): data[name].tolist() for name in data.names}
    return all(same_numbers(said[name], column) for name, column in found.items())


def npz_says(path: Path, found: Any) -> bool:
    with np.load(path, allow_pickle=False) as file:
        return all(same_numbers(file[name].tolist(), column) for name, column in found.items())


def arrays() -> dict[str, np.ndarray]:
    galaxies = stamps()
    return {
        "image": np.array(galaxies.image),
        "psf": np.array(galaxies.psf.stamp),
        "rms": np.full(galaxies.image.shape, 0.5, np.float32),
        "mask": np.zeros(galaxies.image.shape, bool),
    }


def make_cutouts_npz(folder: Path) -> Path:
    np.savez(folder / "cutouts.npz", **arrays())
    return folder / "cutouts.npz"


def make_cutouts(folder: Path) -> Path:
    (folder / "cutouts").mkdir()
    given = arrays()
    header = {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CD1_1": -0.03 / 3600,
        "CD2_2": 0.03 / 3600,
        "CD1_2": 0.0,
    }
    for row in range(3):
        hdus = [fits.PrimaryHDU()]
        for name in ("image", "rms", "psf", "mask"):
            value = given[name][row]
            about = fits.Header(header) if name == "image" else None
            hdus.append(
                fits.ImageHDU(value.astype(np.int16) if name == "mask" else value, about, name=name.upper())
            )
        fits.HDUList(hdus).writeto(folder / f"cutouts/{row + 1}.fits", checksum=True)
    return folder / "cutouts"


def observed(found: Any, images: np.ndarray) -> dict[str, Any]:
    """What a door for stamps made: checked, and with pixels that were given wherever they are not masked."""
    check_observation(found)
    image = np.asarray(found.image)
    used = np.ones(image.shape, bool) if found.mask is None else ~np.asarray(found.mask)
    given = np.asarray(images, np.float32)
    # A PSF or a noise map that is accepted is one; a pixel that is accepted is the one that was given.
    sound = bool(
        np.isfinite(image[used]).all() and np.array_equal(image[used], given.reshape(image.shape)[used])
    )
    return {"sound": sound, "digest": digest(found)}


def read_cutouts(path: Path) -> Any:
    folder = open_folder(path, None)
    batches = [from_arrays(**values) for _, values in read_folder(folder)]
    images = []
    for file in folder.files:
        with fits.open(file) as hdus:
            images.append(hdus["IMAGE"].data)
    return observed(batches[0], np.array(images))


def read_cutouts_npz(path: Path) -> Any:
    values = read_npz(path, 0.03)
    return observed(from_arrays(**values), np.asarray(values["image"], float))


def npz_change(path: Path, rng: np.random.Generator) -> str:
    changed, kind = odd_arrays(arrays(), rng)
    np.savez(path, **{name or "none": value for name, value in changed.items()})
    return kind


def cutouts_change(path: Path, rng: np.random.Generator) -> str:
    """Other pixels, or a header that says something else."""
    file = sorted(path.glob("*.fits"))[rng.integers(3)]
    with fits.open(file) as hdus:
        hdus = fits.HDUList([hdu.copy() for hdu in hdus])
    hdu = hdus[int(rng.integers(1, len(hdus)))]
    if rng.integers(2):
        value, kind = odd_arrays({"data": np.array(hdu.data)}, rng)
        data = next(iter(value.values()), None)
        hdu.data = data if data is None or data.dtype.kind in "iuf" else np.asarray(hdu.data)[..., :-1]
    else:
        key = ("CD1_1", "CTYPE1", "BUNIT", "EXTNAME", "BSCALE", "EXTVER", "CRPIX1")[rng.integers(7)]
        hdu.header[key] = (0.0, -1e300, "x", 10**9, 3)[rng.integers(5)]
        kind = f"header {key}"
    hdus.writeto(file, overwrite=True, output_verify="ignore", checksum=True)
    return kind


def read_arrays(path: Path) -> Any:
    """Arrays in memory, as somebody's script has them; a file carries them here."""
    with np.load(path, allow_pickle=True) as file:
        values = {name: file[name] for name in file.files}
    image, known = values.pop("image", None), ("psf", "rms", "mask")
    extra = sorted(set(values) - set(known))
    if extra:  # in a call of Python, it would be a TypeError of Python's
        raise TypeError(f"expected arrays, got {extra[:1]}")
    return observed(Observation.from_arrays(image, **values, pixel_scale_arcsec=0.03), image)


def is_sound(path: Path, found: Any) -> bool:
    return found["sound"]


# -- configurations of GalSim --------------------------------------------------------------------------------------


def make_configuration(folder: Path) -> Path:
    model = folder / "model"
    save_model(drawing_model(), model)
    tree = {
        "input": {"generative_model": {"file_name": str(model)}},
        "psf": {"type": "Gaussian", "fwhm": 0.2},
        "gal": {"type": "GenerativeModelGalaxy", "mag_auto": 22.0, "flux_radius": 7.0, "zphot": 0.7},
        "image": {"type": "Single", "size": 24, "pixel_scale": 0.1, "random_seed": 1},
    }
    (folder / "config.yaml").write_text(json.dumps(tree))  # JSON is YAML
    return folder / "config.yaml"


def read_configuration(path: Path) -> Any:
    """Draw it. What GalSim refuses before hiergal is called, in whatever words, is refused."""
    import hiergal.galsim.config  # noqa: F401

    try:
        tree = galsim.config.ReadConfig(str(path))[0]
        image = galsim.config.BuildImage(tree).array
    except Exception as error:
        ours = any("/hiergal/" in frame.filename for frame in traceback.extract_tb(error.__traceback__)[1:])
        if ours and not isinstance(error, galsim.GalSimError):
            raise
        raise ValueError(f"expected a configuration, got: {error}") from None
    return {"sound": bool(np.isfinite(image).all()), "digest": digest(image)}


def configuration_change(path: Path, rng: np.random.Generator) -> str:
    """Change what is ours: the model, and the fields of a galaxy."""
    tree = json.loads(path.read_text())
    ours, kind = odd_tree({"gal": tree["gal"], "input": tree["input"]}, rng)
    path.write_text(json.dumps(tree | ours if "gal" in ours else ours, default=str))
    return kind


def in_words(struct: Any) -> Any:
    return msgspec.to_builtins(struct)


DOORS: dict[str, Door] = {
    "recipe": Door(make_recipe, lambda path: in_words(load_recipe(path)), toml_change, recipe_says),
    "registry": Door(
        make_registry, lambda path: in_words(read_registry(str(path))),
        lambda path, rng: toml_change(path / "index.toml", rng), registry_says,
    ),
    "published": Door(
        make_published, lambda path: in_words(read_published(path)),
        lambda path, rng: toml_change(path / "published.toml", rng),
        lambda path, found: tomllib.loads((path / "published.toml").read_text()) == found,
    ),
    "bundle": Door(make_bundle, read_bundle, bundle_change),
    "one file": Door(make_one_file, read_bundle, weights_change),
    "survey": Door(make_survey, read_survey, json_change("*.json")),
    "posterior.nc": Door(make_posterior(".nc"), read_posterior, hdf5_change),
    "posterior.zarr": Door(make_posterior(".zarr"), read_posterior, json_change("zarr.json")),
    "csv": Door(make_table(".csv"), read_table, table_change, csv_says),
    "fits": Door(make_table(".fits"), read_table, table_change, fits_says),
    "npz": Door(make_table(".npz"), read_table, table_change, npz_says),
    "ecsv": Door(make_table(".ecsv"), read_table, table_change, lambda path, found: True),
    "votable": Door(make_table(".xml"), read_table, table_change, lambda path, found: True),
    "hdf5": Door(make_table(".hdf5"), read_table, table_change, lambda path, found: True),
    "parquet": Door(make_table(".parquet"), read_table, table_change, lambda path, found: True),
    "cutouts": Door(make_cutouts, read_cutouts, cutouts_change, is_sound),
    "cutouts.npz": Door(make_cutouts_npz, read_cutouts_npz, npz_change, is_sound),
    "arrays": Door(make_cutouts_npz, read_arrays, npz_change, is_sound),
    "configuration": Door(make_configuration, read_configuration, configuration_change, is_sound),
}  # fmt: skip
