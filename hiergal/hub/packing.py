"""The arrays of a model, with names and a digest: as safetensors they hold numbers, and nothing that could run."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import jax
import numpy as np

from hiergal.runtime.inputs import input_path

__all__ = ["IN_FILES", "digest_of", "fill", "flatten", "read_arrays", "read_texts", "write_arrays"]

T = TypeVar("T")
# Parts of a model that have another name in its files, since 0.1.0.
IN_FILES = {"posterior_flow": "guide_flow"}
LARGEST_WEIGHT = 1e15  # of any array of a model: products of larger ones are not finite
LARGEST_HALF = float(np.finfo(np.float16).max)
STARTS = {
    b"PK": "a zip archive",
    b"\x80": "a pickle",
    b"\x1f\x8b": "a gzip archive",
    b"<": "a page of HTML or XML",
}


def flatten(model: object) -> dict[str, np.ndarray]:
    """Return the arrays of a record by the names of their places."""
    leaves = jax.tree_util.tree_leaves_with_path(model)
    return {_name(path): np.ascontiguousarray(leaf) for path, leaf in leaves}


def fill(template: T, arrays: Mapping[str, np.ndarray], where: str) -> T:
    """Put arrays into the places of a record of the same structure.

    Args:
        template: The record; its leaves say which shape and type is expected.
        arrays: Arrays by the names of their places; float16 stands for float32; float64 too, and stays it, where
            JAX computes in double precision.
        where: What to call them in an error.

    Raises:
        ValueError: If one is missing, superfluous, or of another shape or type.
    """
    expected = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(template)}
    if expected.keys() != arrays.keys():
        missing, extra = sorted(expected.keys() - arrays.keys()), sorted(arrays.keys() - expected.keys())
        raise ValueError(
            f"{where}: expected the arrays of its recipe; missing: {missing[:3]}, not known: {extra[:3]}"
        )
    double = cast(Any, jax.config).jax_enable_x64
    others = (np.float16, np.float64) if double else (np.float16,)
    for name, leaf in expected.items():
        got = arrays[name]
        if got.dtype.kind == "f" and not float(np.abs(got).max(initial=0)) <= LARGEST_WEIGHT:
            raise ValueError(
                f"{where}: {name}: expected finite numbers up to {LARGEST_WEIGHT:g}, got NaN, infinity or larger ones; "
                "fetch or train it again"
            )
        known = got.dtype == leaf.dtype or (got.dtype in others and leaf.dtype == np.float32)
        if got.shape != leaf.shape or not known:
            raise ValueError(
                f"{where}: {name}: expected {leaf.dtype} {leaf.shape}, got {got.dtype} {got.shape}"
            )

    def converted(path: tuple, leaf: Any) -> np.ndarray:
        array = arrays[_name(path)]
        return array if double and array.dtype == np.float64 else array.astype(leaf.dtype)

    # NumPy converts, and one call hands over: JAX would compile a program for each shape.
    return jax.device_put(jax.tree_util.tree_map_with_path(converted, template))


def digest_of(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of names, types, shapes and contents, whatever file they lie in.

    Example:
        >>> digest_of({"a": np.zeros(2)}) == digest_of({"b": np.zeros(2)})
        False
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def halve_precision(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays with those below a prefix in half precision.

    Raises:
        ValueError: If a number is beyond the range of half precision.
    """
    chosen = {name: array for name, array in arrays.items() if name.startswith(prefix)}
    for name, array in chosen.items():
        if np.abs(array).max(initial=0) > LARGEST_HALF:
            raise ValueError(
                f"{name}: expected numbers up to {LARGEST_HALF:g} for half precision, got larger ones"
            )
    return dict(arrays) | {name: array.astype(np.float16) for name, array in chosen.items()}


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], texts: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, with texts in its header.

    Raises:
        OSError: If it cannot be written.
    """
    from safetensors.numpy import save

    # Not by its own `save_file`, whose files no one else may read.
    path.write_bytes(save(dict(arrays), metadata=None if texts is None else dict(texts)))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of a safetensors file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not input_path(path, "a safetensors file").is_file():
        raise FileNotFoundError(f"{path}: expected a safetensors file, got no file")
    try:
        return load_file(path)
    except (SafetensorError, AttributeError, KeyError) as error:  # also of types that NumPy has not
        raise ValueError(f"{path}: expected a safetensors file{_instead(path)}: {error}") from None


def read_texts(path: Path) -> dict[str, str]:
    """Read the texts in the header of a safetensors file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is something else.
    """
    from safetensors import SafetensorError, safe_open

    if not input_path(path, "a safetensors file").is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path}: expected a safetensors file{_instead(path)}: {error}") from None


def _instead(path: Path) -> str:
    """Format that the first bytes of a file suggest: such files are never opened."""
    with path.open("rb") as file:
        start = file.read(4)
    return next(
        (f", got what looks like {name}" for head, name in STARTS.items() if start.startswith(head)), ""
    )


def _name(path: tuple) -> str:
    first, *rest = (str(getattr(part, "key", getattr(part, "name", part))) for part in path)
    return "/".join([IN_FILES.get(first, first), *rest])
