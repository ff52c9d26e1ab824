"""Registries: lists of models that can be fetched, each with the checksum of its file.

A registry is a file ``index.toml``, in a folder or at an https address::

    schema_version = 1

    [[model]]
    name = "mock-acs"
    version = "1.0"
    url = "mock-acs-1.0.safetensors"    # beside the index, or an https address
    sha256 = "..."
    size = 8200000                      # bytes
    licence = "MIT"
    description = "..."

A person's registries are those of the environment variable ``HIERGAL_REGISTRIES`` (separated by spaces), then those
added with ``hiergal models registry add``. Names and versions are plain words, so that none can point out of a folder.
"""

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urljoin, urlparse

import msgspec
from msgspec import Meta

__all__ = [
    "Entry",
    "Word",
    "add_registry",
    "check_address",
    "read_registry",
    "registries",
    "remove_registry",
    "split_name",
]

INDEX = "index.toml"
SCHEMA_VERSION = 1
LARGEST_INDEX = 2**22  # bytes
TIMEOUT = 20.0  # seconds without an answer
VARIABLE = "HIERGAL_REGISTRIES"
WORD = r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)*"  # dots only between other characters: no "..", no hidden file
LOOPBACK = ("localhost", "127.0.0.1", "::1")

Word = Annotated[str, Meta(pattern=f"^{WORD}$", max_length=64)]


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model that a registry offers.

    Attributes:
        name: Name of the model.
        version: Its version.
        url: Where its file is: an https address, or a local path.
        sha256: Checksum of the file.
        size: Bytes of the file; 0 where nobody said.
        licence: What one may do with it, as an SPDX identifier.
        description: A sentence.
    """

    name: Word
    version: Word
    url: str
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    size: Annotated[int, Meta(ge=0)]
    licence: Annotated[str, Meta(min_length=1)]
    description: str = ""


class _Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema_version: int
    model: list[Entry] = []


def split_name(name: str) -> tuple[str, str | None]:
    """Split ``NAME`` or ``NAME@VERSION``.

    Raises:
        ValueError: If these are no plain words.

    Example:
        >>> split_name("mock-acs@1.0")
        ('mock-acs', '1.0')
    """
    word, _, version = name.partition("@")
    for part in (word, version) if "@" in name else (word,):
        if not re.fullmatch(WORD, part):
            raise ValueError(
                f"hub:{name}: expected hub:NAME or hub:NAME@VERSION of lower-case letters, digits, '-', '_' and '.', "
                f"got {part!r}"
            )
    return word, version or None


def registries() -> list[str]:
    """Return the registries of this person: of the environment first, then those added."""
    return list(dict.fromkeys([*os.environ.get(VARIABLE, "").split(), *_added()]))


def add_registry(source: str) -> list[Entry]:
    """Add a registry for this person, after a look at it.

    Args:
        source: A folder, a file or an https address.

    Returns:
        What it offers.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no registry.
    """
    if "://" not in source:
        source = str(Path(source).expanduser().absolute())
    found = read_registry(source)
    _write_added([*(one for one in _added() if one != source), source])
    return found


def remove_registry(source: str) -> None:
    """Forget a registry.

    Raises:
        ValueError: If it is not among those added.
    """
    there = _added()
    kept = [one for one in there if one not in (source, str(Path(source).expanduser().absolute()))]
    if len(kept) == len(there):
        raise ValueError(
            f"expected one of the registries {', '.join(there) or '(none was added)'}, got {source}"
        )
    _write_added(kept)


def read_registry(source: str) -> list[Entry]:
    """Read what a registry offers.

    Args:
        source: A folder, a file or an https address.

    Returns:
        Its models, with addresses in full.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no registry, of a newer schema, or names a file outside its folder.
    """
    if "://" in source:
        where = source if source.endswith(".toml") else urljoin(source.rstrip("/") + "/", INDEX)
        text = _fetch_text(where)
    else:
        path = Path(source)
        path = path / INDEX if path.is_dir() else path
        where, text = str(path), path.read_text(encoding="utf-8")
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{where}: expected a registry in TOML: {error}") from None
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{where}: expected a registry of schema version {SCHEMA_VERSION}, got {version}; update hiergal to read it"
        )
    try:
        index = msgspec.convert(content, _Index)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}: {error}") from None
    return [msgspec.structs.replace(entry, url=_absolute(entry.url, where)) for entry in index.model]


def check_address(url: str) -> None:
    """See to it that an address is one that models may come from.

    Raises:
        ValueError: If it is neither https, nor http on this machine.
    """
    parts = urlparse(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme != "http" or parts.hostname not in LOOPBACK:
        raise ValueError(f"{url}: expected an https address")


def _absolute(url: str, where: str) -> str:
    """An address in full; one without a scheme is a file beside the index, or below."""
    if "://" in url:
        check_address(url)
        return url
    parts = Path(unquote(url)).parts
    if not parts or Path(url).is_absolute() or ".." in parts or "\\" in url:
        raise ValueError(f"{where}: expected addresses of files beside the index, or below it, got {url!r}")
    return urljoin(where, url) if "://" in where else str(Path(where).parent / url)


def _fetch_text(url: str) -> str:
    import requests

    check_address(url)
    try:
        with requests.get(url, timeout=TIMEOUT, stream=True) as answer:
            answer.raise_for_status()
            content = answer.raw.read(LARGEST_INDEX + 1, decode_content=True)
    except requests.RequestException as error:
        raise OSError(f"{url}: cannot be reached: {error}") from None
    if len(content) > LARGEST_INDEX:
        raise ValueError(f"{url}: expected a registry of at most {LARGEST_INDEX} bytes, got more")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{url}: expected a registry in TOML: {error}") from None


def _settings() -> Path:
    import platformdirs

    return platformdirs.user_config_path("hiergal") / "registries.toml"


def _added() -> list[str]:
    path = _settings()
    if not path.is_file():
        return []
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), dict[str, list[str]])[
            "registries"
        ]
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, KeyError) as error:
        raise ValueError(f'{path}: expected registries = ["..."]: {error}; mend it, or remove it') from None


def _write_added(sources: list[str]) -> None:
    import tomli_w

    path = _settings()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.partial")
    fresh.write_text(tomli_w.dumps({"registries": sources}), encoding="utf-8")
    fresh.replace(path)
