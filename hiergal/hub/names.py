"""From the name of a model to its files: ``hub:NAME``, an address, or a path.

``hub:NAME`` (or ``hub:NAME@VERSION``) is looked for among the models that came with the package, then in the cache,
then in the registries (:mod:`hiergal.hub.registry`), from where it is fetched. So what is there needs no network.
An address carries the checksum of its file: ``https://.../model.safetensors#sha256=...``.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urldefrag

from hiergal.hub.cache import cached, fetch
from hiergal.hub.published import Published, read_published
from hiergal.hub.registry import Entry, check_address, read_registry, registries, split_name

__all__ = ["AvailableModel", "is_published", "resolve", "available", "packaged_models"]


class AvailableModel(NamedTuple):
    """A model that ``hub:`` finds.

    Attributes:
        name: Its name.
        version: Its version.
        licence: Its licence, as an SPDX identifier.
        description: A sentence.
        source: ``package``, ``cache``, or the registry.
        path: Its files, or None before it is fetched.
        entry: What its registry says of it; None for a model that came with the package.
    """

    name: str
    version: str
    licence: str
    description: str
    source: str
    path: Path | None
    entry: Entry | None


def resolve(name: str | Path, *, progress: bool = True) -> Path:
    """Return the folder or file of a model, fetching it if need be.

    Args:
        name: A path, ``hub:NAME``, ``hub:NAME@VERSION``, or ``https://...#sha256=...``.
        progress: Whether to show a progress bar while fetching.

    Raises:
        OSError: If it is not there, or cannot be fetched.
        ValueError: If the name is none, or the file not the one that was announced.

    Example:
        >>> resolve("runs/first/model").name
        'model'
    """
    text = str(name)
    if text.startswith("hub:"):
        return _find(text.removeprefix("hub:"), progress)
    if isinstance(name, str) and "://" in text:
        return fetch(_entry_of_address(text), progress=progress)
    return Path(name)


def available(problems: list[str] | None = None) -> Iterator[AvailableModel]:
    """Yield what there is, nearest first; registries are asked last.

    Args:
        problems: A list that takes a sentence for each registry that cannot be read.
    """
    problems = [] if problems is None else problems
    for path, about in packaged_models(problems):
        yield AvailableModel(
            about.name, about.version, about.licence, about.description, "package", path, None
        )
    for entry, path in sorted(cached(), key=lambda model: _order(model.entry.version), reverse=True):
        yield AvailableModel(
            entry.name, entry.version, entry.licence, entry.description, "cache", path, entry
        )
    try:
        sources = registries()
    except ValueError as error:
        problems.append(str(error))
        return
    for source in sources:
        try:
            entries = read_registry(source)
        except (OSError, ValueError) as error:
            problems.append(str(error))
            continue
        for entry in sorted(entries, key=lambda entry: _order(entry.version), reverse=True):
            yield AvailableModel(
                entry.name, entry.version, entry.licence, entry.description, source, None, entry
            )


def packaged_models(problems: list[str] | None = None) -> Iterator[tuple[Path, Published]]:
    """Yield the models that came with the package: in its wheel, or in the source tree around it.

    Args:
        problems: A list to which a sentence is added for each without a readable description.

    Raises:
        OSError: If one cannot be read, and ``problems`` is None.
        ValueError: The same, if it is no description of a model.
    """
    here = Path(__file__).parent
    source_tree = here.parents[1]
    folders = [here / "models"] + [source_tree / "models"] * (source_tree / "pyproject.toml").is_file()
    for folder in folders:
        for path in sorted(folder.glob("*/published.toml")):
            try:
                about = read_published(path.parent)
            except (OSError, ValueError) as error:
                if problems is None:
                    raise
                problems.append(str(error))
            else:
                yield path.parent, about


def is_published(name: str) -> bool:
    """Return whether ``hub:`` finds a name in the package or in the cache, without any registry.

    Args:
        name: A name, or a name and ``@`` and a version.

    Example:
        >>> is_published("mock-acs"), is_published("runs/first/model")
        (True, False)
    """
    word, _, version = name.partition("@")
    unreadable: list[str] = []  # is no reason to fail here
    there = [(about.name, about.version) for _, about in packaged_models(unreadable)]
    there += [(entry.name, entry.version) for entry, _ in cached()]
    return any(word == one and version in ("", of) for one, of in there)


def _find(name: str, progress: bool) -> Path:
    word, version = split_name(name)
    problems: list[str] = []
    others: list[str] = []
    for offer in available(problems):
        if offer.name == word and version in (None, offer.version):
            if offer.path is None and offer.entry is not None:
                return fetch(offer.entry, progress=progress)
            if offer.path is not None:
                return offer.path
        others.append(f"{offer.name}@{offer.version}")
    known = ", ".join(dict.fromkeys(others)) or "no models"
    failed = f"; what could not be read: {'; '.join(problems)}" if problems else ""
    raise FileNotFoundError(
        f"hub:{name}: no such model in the package, in the cache or in {len(registries())} registries, which have "
        f"{known}{failed}; add a registry with `hiergal models registry add`"
    )


def _entry_of_address(address: str) -> Entry:
    url, fragment = urldefrag(address)
    check_address(url)
    checksum = re.fullmatch("sha256=([0-9a-f]{64})", fragment)
    if checksum is None:
        raise ValueError(
            f"{address}: expected the checksum of the file in the address, {url}#sha256=... (64 hexadecimal digits), "
            "so that it is what its author made"
        )
    return Entry("address", checksum[1], url, checksum[1], 0, "unknown")


def _order(version: str) -> tuple:
    """Versions in the order of their numbers; 1.0-rc1 and 1.0rc1 come before 1.0, and 1.0 before 1.0.1."""
    parts = re.findall("[0-9]+|[a-z]+", version)
    numbers = [(True, int(part), "") if part.isdigit() else (False, 0, part) for part in parts]
    return (*numbers, (True, -1, ""))
