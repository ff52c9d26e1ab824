"""Untrusted texts: their size and depth are bounded before a parser sees them.

A parser of TOML builds a table for each dot of a key: 60 kB of ``a.a.a...`` would take gigabytes.
"""

import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

__all__ = ["parse_toml", "read_text"]

LARGEST = 2**23  # bytes
DEEPEST = 32  # tables inside tables
MOST_PARTS = 100_000  # of all keys together: ten thousand models of a registry
TOKEN = re.compile(  # strings and comments, which hold what they like, and what builds tables
    r"\"{3}(?:[^\\\"]|\\.|\"(?!\"\"))*+\"{3}|'{3}(?:[^']|'(?!''))*+'{3}|\"(?:[^\"\\\n]|\\.)*+\"|'[^'\n]*+'"
    r"|\#[^\n]*+|\\.|[\[\]{}.,=\n]",
    re.DOTALL,
)


def read_text(path: str | Path, largest: int = LARGEST) -> str:
    """Read a text in UTF-8.

    Args:
        path: The file.
        largest: Bytes that it may have.

    Raises:
        OSError: If it cannot be read, or is no file: a pipe would be waited for without end.
        ValueError: If it is larger, or not in UTF-8.

    Example:
        >>> read_text("/dev/null")
        Traceback (most recent call last):
        ...
        OSError: /dev/null: expected a file, got a pipe, a device or a folder
    """
    path = Path(path)
    if path.exists() and not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"{path}: expected a file, got a pipe, a device or a folder")
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"{path}: expected a text of at most {largest:,} bytes, got more")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected a text in UTF-8: {error}") from None


def parse_toml(text: str, where: str, what: str = "a TOML file") -> dict[str, Any]:
    """Parse a text in TOML.

    Args:
        text: The text.
        where: What to call it in an error.
        what: What is expected, in an error.

    Raises:
        ValueError: If it is not TOML, too large, or too deep.

    Example:
        >>> parse_toml("a.b = 1", "demo")
        {'a': {'b': 1}}
    """
    if len(text) > LARGEST:
        raise ValueError(f"{where}: expected {what} of at most {LARGEST:,} characters, got {len(text):,}")
    depth = dots = parts = 0
    for token in TOKEN.finditer(text):
        match token[0]:
            case "[" | "{":
                depth, dots, parts = depth + 1, 0, parts + 1
            case "]" | "}":
                depth, dots = max(0, depth - 1), 0
            case "." | "=":
                dots, parts = dots + 1 if token[0] == "." else 0, parts + 1
            case "," | "\n":
                dots = 0
        if depth + dots > DEEPEST or parts > MOST_PARTS:
            limits = f"{DEEPEST} tables inside tables and {MOST_PARTS:,} parts of keys"
            raise ValueError(f"{where}: expected {what} with at most {limits}, got more")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a ValueError of numbers with thousands of digits, too
        raise ValueError(f"{where}: expected {what}: {str(error) or 'brackets without end'}") from None
