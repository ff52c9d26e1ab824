"""Registries: lists of models that can be fetched, each with the checksum of its file.

A registry is a file ``index.toml``, in a folder or at an https address::

    schema_version = 1

    [[model]]
    name = "mock-acs"
    version = "1.0"
    url = "mock-acs-1.0.safetensors"    # next to the index, or an https address
    sha256 = "..."
    size = 8200000                      # bytes
    licence = "MIT"
    description = "..."

A person's registries are those of the environment variable ``HIERGAL_REGISTRIES`` (separated by spaces), then those
added with ``hiergal models registry add``. Names and versions are plain words, so that none can point out of a folder.
"""

import ipaddress
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote, urljoin, urlparse

import msgspec
from msgspec import Meta

from hiergal.runtime.extras import require_extra
from hiergal.runtime.files import resolved, write_whole
from hiergal.runtime.inputs import input_path
from hiergal.runtime.texts import parse_toml, read_text

if TYPE_CHECKING:
    from requests import Response

__all__ = [
    "Entry",
    "Word",
    "add_registry",
    "answer_of",
    "check_address",
    "read_registry",
    "registries",
    "remove_registry",
    "split_name",
]

INDEX = "index.toml"
SCHEMA_VERSION = 1
LARGEST_INDEX = 2**22  # bytes
CHUNK_BYTES = 2**14  # bytes; of a connection that breaks, less than this is lost
TIMEOUT = 20.0  # seconds without an answer
VARIABLE = "HIERGAL_REGISTRIES"
WORD = r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)*"  # dots only between other characters: no "..", no hidden file
LOOPBACK = ("localhost", "127.0.0.1", "::1")

Word = Annotated[str, Meta(pattern=rf"\A{WORD}\Z", max_length=64)]


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model that a registry offers.

    Attributes:
        name: Name of the model.
        version: Its version.
        url: Where its file is: an https address, or a local path.
        sha256: Checksum of the file.
        size: Bytes of the file; 0 where not stated.
        licence: What one may do with it, as an SPDX identifier.
        description: A sentence.
    """

    name: Word
    version: Word
    url: str
    sha256: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
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
        text = _fetch_index(where)
    else:
        path = Path(source)
        path = path / INDEX if path.is_dir() else path
        with input_path(path, "a registry").open("rb") as file:
            where, text = str(path), file.read(LARGEST_INDEX + 1)
    if len(text) > LARGEST_INDEX:
        raise ValueError(f"{where}: expected a registry of at most {LARGEST_INDEX} bytes, got more")
    try:
        content = parse_toml(text.decode(), where, "a registry in TOML")
    except UnicodeDecodeError as error:
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
    """Check that models may be downloaded from an address.

    Raises:
        ValueError: If it is neither https, nor http on this machine.
    """
    try:
        parts = urlparse(url)
        host = parts.hostname
    except ValueError:  # brackets that do not match
        parts, host = urlparse(""), None
    plain = url.isprintable() and not set(url) & set("\\ ")  # readers of addresses disagree about those
    if (
        not plain
        or not host
        or not (parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK))
    ):
        raise ValueError(f"{url!r}: expected an https address")


@contextmanager
def answer_of(url: str, headers: dict[str, str] | None = None) -> "Iterator[Response]":
    """Request an address, and follow redirects to addresses that models may come from.

    Args:
        url: The address.
        headers: What to say besides.

    Yields:
        The answer, to be read in pieces.

    Raises:
        OSError: If it leads elsewhere; a ConnectionError if it does not come, says no, or breaks off.
        ValueError: If the address is none that models may come from.
    """
    require_extra("hub", f"{url}: fetching")
    import requests

    def look_where_it_leads(answer: "Response", **_: object) -> None:
        if not answer.is_redirect:
            return
        target = urljoin(answer.url, answer.headers["location"])
        try:
            check_address(target)
            _check_same_side(url, target)
        except ValueError as error:
            answer.close()
            raise OSError(f"{url}: leads to {error}") from None

    check_address(url)
    headers = {"Accept-Encoding": "identity"} | (headers or {})
    hooks = {"response": look_where_it_leads}
    try:
        with requests.get(url, headers=headers, hooks=hooks, timeout=TIMEOUT, stream=True) as answer:
            yield answer
    except requests.RequestException as error:
        raise ConnectionError(f"{url}: cannot be fetched: {error}") from None


def _absolute(url: str, where: str) -> str:
    """An address in full; one without a scheme is a file next to the index, or below."""
    if "://" in url:
        try:
            check_address(url)
            if "://" in where:
                _check_same_side(where, url, look_up=False)  # when it is fetched, its name is looked up
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        return url
    parts = Path(unquote(url)).parts
    strange = not url.isprintable() or set(url) & set("\\:")  # with a colon, it might be of a scheme
    if not parts or strange or Path(unquote(url)).is_absolute() or ".." in parts:
        raise ValueError(f"{where}: expected addresses of files next to the index, or below it, got {url!r}")
    return urljoin(where, url) if "://" in where else str(Path(where).parent / url)


def _check_same_side(first: str, target: str, *, look_up: bool = True) -> None:
    """Refuse redirections from outside to an address of the user's own machine or network."""
    if urlparse(first).scheme == "https" and urlparse(target).scheme != "https":
        raise ValueError(f"{target!r}: expected an https address, as the one that leads there is")
    if _is_private(target, look_up) and not _is_private(first, look_up):
        raise ValueError(f"{target!r}: expected a public address, got one of this machine or its network")


def _is_private(url: str, look_up: bool) -> bool:
    host = urlparse(url).hostname or ""
    if host in LOOPBACK or host.endswith(".localhost"):
        return True
    flags = 0 if look_up else socket.AI_NUMERICHOST
    try:
        found = [str(info[4][0]) for info in socket.getaddrinfo(host, None, flags=flags)]
    except (OSError, UnicodeError):  # no such name: it cannot be asked either
        return False
    return any(not ipaddress.ip_address(one.partition("%")[0]).is_global for one in found)


def _fetch_index(url: str) -> bytes:
    content = b""
    with answer_of(url) as answer:
        answer.raise_for_status()
        for chunk in answer.iter_content(CHUNK_BYTES):
            content += chunk
            if len(content) > LARGEST_INDEX:
                break
    return content


def _settings() -> Path:
    import platformdirs

    return platformdirs.user_config_path("hiergal") / "registries.toml"


def _added() -> list[str]:
    path = _settings()
    if not path.is_file():
        return []
    try:
        return msgspec.convert(parse_toml(read_text(path), str(path)), dict[str, list[str]])["registries"]
    except (ValueError, msgspec.ValidationError, KeyError) as error:
        raise ValueError(
            f'{path}: expected registries = ["..."]: {error}; correct it, or remove it'
        ) from None


def _write_added(sources: list[str]) -> None:
    import tomli_w

    path = _settings()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(resolved(path), tomli_w.dumps({"registries": sources}).encode())
