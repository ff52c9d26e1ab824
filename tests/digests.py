"""Digests of what hiergal computes, to show that a change of the code changed no number.

::

    python tests/digests.py before.json                         # with one commit
    python tests/digests.py after.json                          # with another one, on the same machine
    python tests/digests.py --compare before.json after.json    # exit status 1 if a number of the first is another one
    python tests/digests.py after.json --only survey drawing    # some of the groups

A digest is the SHA-256 of dtype, shape and bytes of an array: surveys, drawn galaxies, posteriors by every method,
checks and predictions, a deblended scene, tables of the commands, and short trainings. Bits depend on the kind of CPU,
the number of its cores, and the versions of JAX and XLA, so digests are compared between commits on one machine.
``tests/test_same_numbers.py`` compares with stored values instead, within tolerances; ``--reference`` writes these.

Everything goes through names at the top of the package (but for one), and through the command, whose spelling is in
:func:`commands`.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import runpy
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from astropy.io import fits
from astropy.table import Table

import hiergal
from hiergal.posterior.scenes.deblend import deblend

__all__ = ["GROUPS", "REFERENCE", "arrays_of", "digest", "subsample", "unpacked"]

DATA = Path(__file__).parent / "data"
REFERENCE = DATA / "reference_values.npz"
OLD = DATA / "written_by_0.1.0"
MODEL = "hub:mock-acs"
GALAXIES, INFERRED, SEED = 24, 4, 11
CATALOG = {
    "mag_auto": np.array([20.7, 21.8, 22.6, 23.3, 24.1, 22.2]),
    "flux_radius": np.array([14.0, 11.0, 8.5, 7.0, 5.5, 15.0]),
    "zphot": np.array([0.3, 0.5, 0.8, 1.0, 0.7, 0.4]),
}
METHODS = ("laplace", "amortized", "flow", "importance", "map", "nuts", "auto")
LARGE = ("laplace", "amortized")  # methods that large networks are used with, too
DRAWS = 10
SURVEYS = {"recipe": "middle.zarr", "recipe_pyramid": "white.zarr"}  # that recipes are trained on
OLD_NAMES = {"elbo": "bound", "kl": "divergence", "kl_per_latent": "divergence_per_latent"}  # of 0.1.0
LARGEST = 12  # numbers of an array that the reference keeps


def commands(folder: Path) -> dict[str, tuple[str, ...]]:
    """The words of each command; the one place that knows how they are spelt."""

    def to(name: str) -> str:
        return str(folder / name)

    tiny = ("--recipe", to("tiny.toml"), "--seed", "4")
    few = ("--draws", str(DRAWS), "--limit", str(INFERRED), "--seed", "2")
    return {
        "mock": ("survey", "mock", to("mock.zarr"), "-n", str(GALAXIES), "--stamp", "64", "--workers", "1")
        + ("--seed", str(SEED)),
        "white": ("survey", "mock", to("white.zarr"), "-n", "60", "--stamp", "32", "--workers", "1")
        + ("--noise", "white", "--seed", "3"),
        "middle": ("survey", "mock", to("middle.zarr"), "-n", "30", "--stamp", "48", "--workers", "1")
        + ("--seed", "9"),
        "degrade": ("survey", "degrade", to("mock.zarr"), to("degraded.zarr"), "--noise-factor", "1.5")
        + ("--workers", "1", "--seed", "5"),
        "cutouts": ("survey", "cutouts", to("cutouts.npz"), to("cutouts.zarr"))
        + ("--magnitude-zero-point", "25.94", "--pixel-scale-arcsec", "0.03"),
        "profiles": (
            "sample",
            to("catalog.fits"),
            "--model",
            MODEL,
            "--out",
            to("profiles.fits"),
            "--seed",
            "6",
        ),
        "stamps": ("sample", to("catalog.fits"), "--model", MODEL, "--out", to("stamps.fits"), "--seed", "6")
        + ("--survey", "LSST", "--band", "i", "--stamp", "32"),
        "table": ("infer", to("mock.zarr"), "--model", MODEL, "--out", to("table.fits"), *few),
        "conditioned": ("infer", to("mock.zarr"), "--model", MODEL, "--out", to("conditioned.fits"))
        + ("--conditions", *few),
        "train": ("train", to("white.zarr"), "--out", to("tiny"), *tiny),
        "flow": ("flow", to("tiny/model"), to("white.zarr"), "--seed", "4"),
        "guide": ("guide", to("tiny/model"), to("white.zarr"), "--simulations", "100", "--refine", "4")
        + ("--seed", "4"),
    } | {
        f"train {name}": ("train", to(survey), "--out", to(name), "--recipe", str(OLD / f"{name}.toml"))
        + ("--seed", "4")
        for name, survey in SURVEYS.items()
    }


TINY = """
name = "tiny"
shape = [32, 32]
[generator]
channels = 4
[encoder]
channels = 4
templates = 8
features = 16
[training]
steps = 12
batch = 16
evaluate_every = 6
[flow]
layers = 2
hidden = 16
steps = 20
batch = 32
[guide_flow]
layers = 1
hidden = 8
steps = 10
batch = 32
"""


def unpacked(folder: Path) -> Path:
    """Unpack the files of an earlier version, unless they are there."""
    if not folder.exists():
        with tarfile.open(OLD / "files.tar.xz") as archive:
            archive.extractall(folder, filter="data")
    return folder


class Work:
    """A folder in which the groups find what others have made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, name: str) -> None:
        """Run a command of this name, unless it was run."""
        done = self.folder / f"done {name}"
        if done.exists():
            return
        before, sys.argv = sys.argv, ["hiergal", *commands(self.folder)[name]]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is computed is the question
                runpy.run_module("hiergal.cli", run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"{' '.join(sys.argv)}: ended with {end.code}") from None
        finally:
            sys.argv = before
        done.touch()

    def survey(self, name: str):
        """A survey, made by the command of this name."""
        self.run(name)
        return hiergal.open_store(self.folder / f"{'degraded' if name == 'degrade' else name}.zarr")

    @property
    def galaxies(self):
        """Mock galaxies to infer."""
        return self.survey("mock").read(np.arange(INFERRED))

    def tiny(self):
        """A model of small networks, and galaxies of its survey."""
        folder = unpacked(self.folder / "written before")
        store = hiergal.open_store(folder / "cutouts.zarr")
        return hiergal.load_model(folder / "model"), store.read(np.arange(INFERRED))


def fields_of(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    """All arrays of a record, dictionary or array, by their names in it."""
    if value is None or isinstance(value, str):
        return
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        for key, one in value.items():
            yield from fields_of(f"{name}/{key}", one)
    else:
        yield name, np.asarray(value)


def table_of(name: str, path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """All images and columns of a FITS file."""
    with fits.open(path, memmap=False) as file:
        for number, hdu in enumerate(file):
            if hdu.data is None:
                continue
            if hdu.data.dtype.names is None:
                yield f"{name}/image", np.asarray(hdu.data)
                continue
            table = Table.read(file, hdu=number)
            yield from ((f"{name}/{column}", np.asarray(table[column])) for column in table.colnames)


def survey(work: Work) -> Iterator[tuple[str, np.ndarray]]:
    """Mock surveys with correlated and with white noise."""
    for name in ("mock", "white"):
        store = work.survey(name)
        yield from fields_of(name, store.read(np.arange(len(store))))
        yield from fields_of(f"{name}/store catalog", dict(store.catalog))


def other_surveys(work: Work) -> Iterator[tuple[str, np.ndarray]]:
    """A degraded survey, and one of cutouts with masked pixels."""
    rng = np.random.default_rng(8)
    image = rng.normal(size=(5, 24, 32)).astype(np.float32)
    image[0, 3, 4] = np.nan
    psf = np.tile(np.outer([1, 3, 2], [1, 2, 1]) / 24, (5, 1, 1))
    rms = rng.uniform(0.5, 2, image.shape).astype(np.float32)
    np.savez(work.folder / "cutouts.npz", image=image, psf=psf, rms=rms, mag_auto=rng.normal(22, 1, 5))
    work.run("mock")
    for name in ("degrade", "cutouts"):
        store = work.survey(name)
        yield from fields_of(name, store.read(np.arange(len(store))))


def drawing(work: Work) -> Iterator[tuple[str, np.ndarray]]:
    """Galaxies for a catalogue: as arrays, as GalSim objects, and in files."""
    import galsim

    model, catalog = hiergal.load_model(MODEL), Table(CATALOG)
    yield "profiles", hiergal.draw_profiles(model, catalog, key=jax.random.key(3))
    catalog.write(work.folder / "catalog.fits", overwrite=True)
    galaxies = hiergal.GenerativeGalaxyModel(MODEL).sample(catalog, rng=galsim.BaseDeviate(1))
    psf = galsim.Kolmogorov(fwhm=0.3)
    drawn = [galsim.Convolve(one, psf).drawImage(nx=40, ny=36, scale=0.05).array for one in galaxies]
    yield "galsim", np.stack(drawn)
    yield "galsim flux", np.array([one.flux for one in galaxies])
    for name in ("profiles", "stamps"):
        work.run(name)
        yield from table_of(f"file of {name}", work.folder / f"{name}.fits")


def posterior(method: str) -> Callable[[Work], Iterator[tuple[str, np.ndarray]]]:
    """Posteriors by one method."""

    def group(work: Work) -> Iterator[tuple[str, np.ndarray]]:
        how = {"method": method, "draws": DRAWS, "batch": INFERRED}
        if method in LARGE:
            found = hiergal.infer(hiergal.load_model(MODEL), work.galaxies, key=jax.random.key(5), **how)
            yield from fields_of("mock-acs", found)
        found = hiergal.infer(*work.tiny(), key=jax.random.key(5), **how)
        yield from fields_of("tiny", found)

    group.__doc__ = f"Posteriors by the method {method}."
    return group


def judging(work: Work) -> Iterator[tuple[str, np.ndarray]]:
    """What is checked and predicted from posteriors, and posteriors informed by conditions."""
    model, galaxies = work.tiny()
    how = {"method": "laplace", "draws": DRAWS, "batch": INFERRED}
    found = hiergal.infer(model, galaxies, key=jax.random.key(5), **how)
    yield "interval", np.stack(hiergal.interval(found.summary.flux, 0.68))
    known = Table({name: galaxies.catalog[name] for name in CATALOG})
    informed = hiergal.infer(model, galaxies, key=jax.random.key(5), conditions=known, **how)
    yield from fields_of("with conditions", informed)
    checks = hiergal.check_fits(model, galaxies, found, key=jax.random.key(6), replicates=50)
    yield from fields_of("check_fits", checks)
    predicted = hiergal.predict(model, galaxies, found, key=jax.random.key(7), draws=4)
    yield from fields_of("predict", predicted)


def tables(work: Work) -> Iterator[tuple[str, np.ndarray]]:
    """Tables of posteriors, as the command writes them."""
    work.run("mock")
    for name in ("table", "conditioned"):
        work.run(name)
        yield from table_of(name, work.folder / f"{name}.fits")


def scene(work: Work) -> Iterator[tuple[str, np.ndarray]]:
    """Two galaxies on one stamp, deblended."""
    model, both = work.tiny()
    image = np.asarray(both.image)
    one = both[np.arange(1)].replace(image=image[:1] + np.roll(image[1:2], (2, 7), axis=(1, 2)))
    positions = np.array([[[0.0, 0.0], [7.0, 2.0]]], np.float32)
    how = {"key": jax.random.key(9), "draws": DRAWS, "batch": 1}
    yield from fields_of("curved", deblend(model, one, positions, position_error_pix=0.5, **how))
    yield from fields_of("laplace", deblend(model, one, positions, method="laplace", **how))


def trained(work: Work, name: str) -> Iterator[tuple[str, np.ndarray]]:
    """History and weights of a run."""
    from safetensors.numpy import load_file

    lines = (work.folder / name / "history.jsonl").read_text().splitlines()
    history = [json.loads(line) for line in lines]
    for key in sorted(history[0]):
        if "second" not in key:
            yield f"history/{OLD_NAMES.get(key, key)}", np.array([line[key] for line in history], float)
    yield from sorted(load_file(work.folder / name / "model" / "weights.safetensors").items())


def training(work: Work) -> Iterator[tuple[str, np.ndarray]]:
    """A training of a few steps, with both flows."""
    (work.folder / "tiny.toml").write_text(TINY)
    for name in ("white", "train", "flow", "guide"):
        work.run(name)
    yield from trained(work, "tiny")


def other_training(name: str) -> Callable[[Work], Iterator[tuple[str, np.ndarray]]]:
    """A training in which no option has its default."""

    def group(work: Work) -> Iterator[tuple[str, np.ndarray]]:
        work.run(SURVEYS[name].removesuffix(".zarr"))
        work.run(f"train {name}")
        yield from trained(work, name)

    group.__doc__ = f"A training by {name}.toml."
    return group


GROUPS: dict[str, Callable[[Work], Iterator[tuple[str, np.ndarray]]]] = {
    "survey": survey,
    "other surveys": other_surveys,
    "drawing": drawing,
    **{method: posterior(method) for method in METHODS},
    "judging": judging,
    "tables": tables,
    "scene": scene,
    "training": training,
    **{f"training by {name}": other_training(name) for name in SURVEYS},
}


def arrays_of(group: str, folder: Path) -> dict[str, np.ndarray]:
    """Compute a group.

    Args:
        group: Its name in ``GROUPS``.
        folder: Where files go; groups that share one share their files.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {f"{group}/{name}": value for name, value in GROUPS[group](Work(folder))}


def digest(array: np.ndarray) -> str:
    """SHA-256 of dtype, shape and bytes."""
    array = np.ascontiguousarray(array)
    array = array.astype(array.dtype.newbyteorder("<"))
    head = f"{array.dtype.str} {array.shape} ".encode()
    content = repr(array.tolist()).encode() if array.dtype.kind == "O" else array.tobytes()
    return hashlib.sha256(head + content).hexdigest()


def subsample(array: np.ndarray) -> np.ndarray:
    """Some numbers of an array, evenly spread, the first and the last among them; its size comes first."""
    flat = np.ravel(array)
    flat = flat.astype(str) if flat.dtype.kind in "OUS" else flat.astype(float)
    kept = flat[np.linspace(0, flat.size - 1, min(flat.size, LARGEST)).astype(int)]
    return kept if kept.dtype.kind == "U" else np.concatenate([[flat.size], kept]).astype(np.float64)


def compare(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Names whose numbers are others, or no longer there."""
    return [
        f"{name}: {'not there' if name not in after else 'other'}"
        for name in before
        if after.get(name) != before[name]
    ]


def main(words: list[str] | None = None) -> int:
    """Write digests, or compare them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", nargs="?", type=Path, help="JSON file to write")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="groups to compute")
    parser.add_argument("--compare", nargs=2, type=Path, metavar="JSON")
    parser.add_argument("--reference", type=Path, metavar="NPZ", help="write numbers, too")
    chosen = parser.parse_args(words)
    if chosen.compare:
        before, after = (json.loads(path.read_text()) for path in chosen.compare)
        wrong = compare(before, after)
        print(*wrong, f"{len(before) - len(wrong)} of {len(before)} the same to the bit", sep="\n")
        more = sorted(set(after) - set(before))
        if more:
            print("only in the second:", *more)
        return int(bool(wrong))
    if chosen.out is None:
        parser.error("expected a file to write, or --compare")
    found, digests = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for group in chosen.only:
            began = time.monotonic()
            of_group = arrays_of(group, Path(folder))
            found |= of_group
            digests |= {name: digest(value) for name, value in of_group.items()}
            chosen.out.write_text(
                json.dumps(digests, indent=1) + "\n"
            )  # with what is there, should it be stopped
            print(f"{group}: {time.monotonic() - began:.1f} s", file=sys.stderr)
    print(chosen.out.read_text(), end="")
    if chosen.reference:
        numbers = {name: subsample(value) for name, value in found.items()}
        np.savez_compressed(chosen.reference, **numbers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
