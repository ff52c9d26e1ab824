"""What is done to a sound input: generic damage of bytes, and changes of its structure, by a seeded generator."""

import copy
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["GENERIC", "files_of", "odd_arrays", "odd_tree", "spoil_bytes"]

NAMES = (
    "\x1b[2J\x1b]0;owned\x07",
    "naïve ☃",
    "a" * 5000,
    "",
    "..",
    "../../etc/passwd",
    "x\ny",
    "\u202e",
    "-1",
)
ODD_VALUES = (
    float("nan"), float("inf"), -float("inf"), -1, 0, 1e308, -1e308, 10**9, 10**18, 2**63, 10**400, 1e-320, True, None,
    "", "text", [], {}, [1, 2, 3], {"a": {"b": 1}}, "\x1b[31m", [[[[]]]],
)  # fmt: skip
STARTS = (
    b"PK\x03\x04",
    b"\x80\x04\x95",
    b"\x1f\x8b\x08",
    b"<html>",
    b"SIMPLE  =",
    b"\x89HDF\r\n\x1a\n",
    b"\x93NUMPY",
)


def files_of(path: Path) -> list[Path]:
    """The files of an input, in one order."""
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def spoil_bytes(path: Path, rng: np.random.Generator) -> str:
    """Damage one file of an input, whatever it is; the word for what was done."""
    files = files_of(path)
    file = files[rng.integers(len(files))]
    kind = list(GENERIC)[rng.integers(len(GENERIC))]
    GENERIC[kind](file, rng)
    return f"{kind} {file.name}"


def _edit(
    change: Callable[[bytearray, np.random.Generator], bytes],
) -> Callable[[Path, np.random.Generator], None]:
    def act(file: Path, rng: np.random.Generator) -> None:
        file.write_bytes(bytes(change(bytearray(file.read_bytes()), rng)))

    return act


def _flip(content: bytearray, rng: np.random.Generator) -> bytes:
    for _ in range(int(rng.integers(1, 9))):
        if content:
            content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    return content


def _truncate(content: bytearray, rng: np.random.Generator) -> bytes:
    return content[: rng.integers(len(content) + 1)]


def _remove(content: bytearray, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(len(content) + 1))
    return content[:start] + content[start + int(rng.integers(1, 65)) :]


def _repeat(content: bytearray, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(len(content) + 1))
    return content[:start] + content[start : start + int(rng.integers(1, 65))] + content[start:]


def _insert(content: bytearray, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(len(content) + 1))
    return content[:start] + rng.bytes(int(rng.integers(1, 65))) + content[start:]


def _huge_size(content: bytearray, rng: np.random.Generator) -> bytes:
    """Some aligned field of eight bytes says that there are many."""
    if len(content) >= 8:
        start = 8 * int(rng.integers(len(content) // 8))
        content[start : start + 8] = struct.pack("<Q", int(rng.choice([2**31, 2**40, 2**62])))
    return content


def _link_out(file: Path, rng: np.random.Generator) -> None:
    elsewhere = file.parent.parent / f"elsewhere-{file.name}"
    shutil.move(file, elsewhere)
    elsewhere.write_bytes(b"secret")
    file.symlink_to(elsewhere)


def _loop(file: Path, rng: np.random.Generator) -> None:
    file.unlink()
    file.symlink_to(file.name)


def _fifo(file: Path, rng: np.random.Generator) -> None:
    file.unlink()
    os.mkfifo(file)


def _folder(file: Path, rng: np.random.Generator) -> None:
    file.unlink()
    file.mkdir()


def _device(file: Path, rng: np.random.Generator) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


GENERIC: dict[str, Callable[[Path, np.random.Generator], None]] = {
    "flip": _edit(_flip),
    "truncate": _edit(_truncate),
    "remove": _edit(_remove),
    "repeat": _edit(_repeat),
    "insert": _edit(_insert),
    "size": _edit(_huge_size),
    "empty": _edit(lambda content, rng: b""),
    "zeros": _edit(lambda content, rng: bytes(len(content))),
    "noise": _edit(lambda content, rng: rng.bytes(len(content))),
    "type": _edit(lambda content, rng: STARTS[rng.integers(len(STARTS))] + rng.bytes(200)),
    "start": _edit(lambda content, rng: STARTS[rng.integers(len(STARTS))] + content[8:]),
    "link": _link_out,
    "loop": _loop,
    "fifo": _fifo,
    "folder": _folder,
    "device": _device,
    "missing": lambda file, rng: file.unlink(),
}


def odd_tree(tree: dict[str, Any], rng: np.random.Generator) -> tuple[dict[str, Any], str]:
    """Change one place of nested tables: a key goes, is renamed or added, a value is odd, or something is very deep."""
    tree = copy.deepcopy(tree)
    places = list(_places(tree))
    holder, key = places[rng.integers(len(places))]
    match kind := ("remove", "value", "value", "value", "rename", "add", "deep")[rng.integers(7)]:
        case "remove":
            del holder[key]
        case "value":
            holder[key] = copy.deepcopy(ODD_VALUES[rng.integers(len(ODD_VALUES))])
        case "rename" if isinstance(holder, dict):
            holder[NAMES[rng.integers(len(NAMES))]] = holder.pop(key)
        case "add" if isinstance(holder, dict):
            holder[NAMES[rng.integers(len(NAMES))]] = 1
        case _:
            deep: Any = 1
            for _ in range(int(rng.choice([20, 200]))):
                deep = {"a": deep} if rng.integers(2) else [deep]
            holder[key] = deep
    return tree, f"{kind} {str(key)[:30]!r}"


def odd_arrays(arrays: dict[str, np.ndarray], rng: np.random.Generator) -> tuple[dict[str, Any], str]:
    """Change one array: its numbers, shape, type, or that it is there."""
    arrays = {name: np.array(value) for name, value in arrays.items()}
    name = sorted(arrays)[rng.integers(len(arrays))]
    value, odd = arrays[name], (np.nan, np.inf, -np.inf, 1e30, -1e30, 3e38, -1.0, 0.0, 1e-40)
    number = odd[rng.integers(len(odd))]
    kinds = (
        "one",
        "one",
        "all",
        "shape",
        "rank",
        "empty",
        "text",
        "object",
        "complex",
        "remove",
        "rename",
        "bits",
    )
    kind = kinds[rng.integers(len(kinds))]
    if value.dtype.kind != "f" and kind in ("one", "all"):
        value = value.astype(float)
    match kind:
        case "one":
            value.flat[rng.integers(value.size)] = number
        case "all":
            value[...] = number
        case "shape":
            value = value[..., : max(0, value.shape[-1] - 1)]
        case "rank":
            value = value[None]
        case "empty":
            value = value[:0]
        case "text":
            value = np.full(value.shape, "text")
        case "object":
            value = np.full(value.shape, None, object)
        case "complex":
            value = value.astype(complex)
        case "bits":
            raw = bytearray(np.ascontiguousarray(value).tobytes())
            raw[rng.integers(len(raw))] ^= 1 << int(rng.integers(8))
            value = np.frombuffer(bytes(raw), value.dtype).reshape(value.shape)
    if kind in ("remove", "rename"):
        del arrays[name]
    if kind != "remove":
        arrays[NAMES[rng.integers(len(NAMES))] if kind == "rename" else name] = value
    return arrays, f"{kind} {name}"


def _places(tree: Any) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(items):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


def as_json(tree: Any) -> str:
    """JSON, also of numbers that it has not."""
    return json.dumps(tree, default=str)
