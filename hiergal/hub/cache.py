"""The cache: model files that were fetched, each whole and checked, or not there.

    CACHE/NAME/VERSION/model.safetensors    the bundle
    CACHE/NAME/VERSION/entry.toml           what the registry said of it
    CACHE/.fetching/SHA256.part             a download that can go on

A file is fetched next to its place, its checksum compared, and its folder renamed into place. Processes that want the
same file wait for the first of them. The folder is ``HIERGAL_CACHE``, or the user's cache of the platform.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from hiergal.hub.registry import CHUNK_BYTES, Entry, answer_of, check_address
from hiergal.runtime.extras import require_extra
from hiergal.runtime.inputs import input_path
from hiergal.runtime.progress import progress_bar
from hiergal.runtime.texts import parse_toml, read_text

__all__ = ["Cached", "cache_folder", "cached", "discard_damaged", "fetch", "incomplete", "verify"]

VARIABLE = "HIERGAL_CACHE"
MODEL, ENTRY = "model.safetensors", "entry.toml"
PATIENCE = 3600.0  # seconds that one process waits for another's download
Advance = Callable[..., None]


class Cached(NamedTuple):
    """A model in the cache.

    Attributes:
        entry: What its registry said of it.
        path: Its file.
    """

    entry: Entry
    path: Path


def cache_folder() -> Path:
    """Return the folder of fetched models."""
    import platformdirs

    chosen = os.environ.get(VARIABLE)
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("hiergal") / "models"


def cached() -> Iterator[Cached]:
    """Yield the available models."""
    for place in _places():
        entry = _read_entry(place / ENTRY)
        if (
            entry is not None
            and (place / MODEL).is_file()
            and place.parts[-2:] == (entry.name, entry.version)
        ):
            yield Cached(entry, place / MODEL)


def incomplete() -> list[Path]:
    """Return the folders in the cache that hold no whole model: fetching does not leave such."""
    whole = {model.path.parent for model in cached()}
    return [place for place in _places() if place not in whole]


def verify(model: Cached) -> None:
    """Compare a file with its checksum.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not what was fetched.
    """
    with model.path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != model.entry.sha256:
        raise ValueError(
            f"{model.path}: expected SHA-256 {model.entry.sha256}, got {got}: the file was changed; fetch it again "
            f"with `hiergal models fetch {model.entry.name}@{model.entry.version}`"
        )


def discard_damaged(model: Cached) -> bool:
    """Remove a model whose file is not what was fetched, and tell whether it was so."""
    try:
        verify(model)
    except ValueError:
        _remove(model.path.parent)
        return True
    return False


def fetch(entry: Entry, *, progress: bool = True) -> Path:
    """Bring a model into the cache.

    Args:
        entry: What to fetch.
        progress: Whether to show a progress bar.

    Returns:
        The path of its file.

    Raises:
        OSError: If it cannot be fetched, or the disk is full; what had come is kept, and the next call goes on from it.
        ValueError: If its checksum is not the registry's, or its address not one that models may come from; nothing is
            kept.
    """
    require_extra("hub", f"{entry.url}: fetching models")
    from filelock import FileLock, Timeout

    root = cache_folder()
    place, fetching = root / entry.name / entry.version, root / ".fetching"
    if _is_there(entry, place):  # perhaps in a cache that one may only read
        return place / MODEL
    if "://" in entry.url:
        check_address(entry.url)
    try:
        fetching.mkdir(parents=True, exist_ok=True)
        with FileLock(fetching / f"{entry.sha256}.lock", timeout=PATIENCE):
            if _is_there(entry, place):  # another process was first
                return place / MODEL
            return _fetch(entry, place, fetching, progress)
    except Timeout:
        raise OSError(
            f"{entry.url}: another process has been fetching it for an hour; is it stuck?"
        ) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno,
                f"the disk is full: {entry.name} {entry.version} takes {entry.size:,} bytes in {root}; make room, and "
                f"run the same again (what had come is kept), or set {VARIABLE} to another folder",
            ) from None
        raise


def _fetch(entry: Entry, place: Path, fetching: Path, progress: bool) -> Path:
    import pooch
    import tomli_w

    part = fetching / f"{entry.sha256}.part"
    fresh = fetching / f"{entry.sha256}.folder"
    if part.is_symlink():  # what it leads to is not ours
        part.unlink()
    _remove(fresh)
    fresh.mkdir()

    def download(url: str, output_file: str, _pooch: object) -> None:
        with progress_bar("fetching", entry.size or None, shown=progress) as advance:
            if "://" in url:
                _download(url, part, entry.size, advance)
            else:
                _copy(Path(url), part, entry.size, advance)
        part.replace(output_file)

    def retrieve() -> None:
        pooch.retrieve(
            entry.url, known_hash=f"sha256:{entry.sha256}", fname=MODEL, path=fresh, downloader=download
        )

    try:
        pooch.get_logger().setLevel("ERROR")  # the bar says it
        (fresh / ENTRY).write_text(tomli_w.dumps(msgspec.to_builtins(entry)), encoding="utf-8")
        resumed = part.exists()
        try:
            retrieve()
        except ValueError:  # pooch's, about the checksum: perhaps what had come before was another file's
            if not resumed:
                raise
            retrieve()
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove(place)
        fresh.rename(place)
    except ValueError as error:
        raise ValueError(
            f"{entry.url}: its SHA-256 is not the {entry.sha256} of the registry: the file was changed, or the "
            "registry is out of date; nothing was kept"
        ) from error
    finally:
        _remove(fresh)
    return place / MODEL


def _download(url: str, part: Path, size: int, advance: Advance) -> None:
    """Fetch a file, going on after what a stopped download left."""
    import requests

    there = part.stat().st_size if part.exists() else 0
    if size and there >= size:  # all of it, yet not the file that it should be
        part.unlink()
        there = 0
    try:
        with answer_of(url, {"Range": f"bytes={there}-"} if there else {}) as answer:
            too_long = there and answer.status_code == requests.codes.requested_range_not_satisfiable
            if not too_long:
                answer.raise_for_status()
                if answer.status_code != requests.codes.partial_content:
                    there = 0  # a server that starts again
                with _own_file(part, "r+b" if there else "wb") as file:
                    file.seek(there)
                    advance(there)
                    _write_all(answer.iter_content(CHUNK_BYTES), file, there, size, url, advance)
    except ConnectionError as error:
        kept = part.stat().st_size if part.exists() else 0
        raise ConnectionError(f"{error}; {kept:,} bytes are kept, run the same again to go on") from None
    if too_long:  # what is there is no beginning of this file
        part.unlink()
        _download(url, part, size, advance)


def _copy(source: Path, part: Path, size: int, advance: Advance) -> None:
    with input_path(source, "a model").open("rb") as file, _own_file(part, "wb") as out:
        _write_all(iter(lambda: file.read(CHUNK_BYTES), b""), out, 0, size, str(source), advance)


def _own_file(path: Path, mode: str) -> IO[Any]:
    """Open a file of the cache for writing, never what a link leads to that others put there."""
    return open(path, mode, opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600))


def _write_all(
    chunks: Iterable[bytes], file: IO[Any], there: int, size: int, url: str, advance: Advance
) -> None:
    for chunk in chunks:
        there += len(chunk)
        if size and there > size:
            file.truncate(0)
            raise OSError(f"{url}: expected {size:,} bytes, got more; nothing was kept")
        file.write(chunk)
        advance(len(chunk))
    if there < size:
        raise OSError(f"{url}: expected {size:,} bytes, got {there:,}; run the same again to go on")


def _places() -> list[Path]:
    return sorted(path for path in cache_folder().glob("[!.]*/[!.]*") if path.is_dir())


def _remove(folder: Path) -> None:
    """Remove a folder; of a link to one, the link alone."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _is_there(entry: Entry, place: Path) -> bool:
    there = _read_entry(place / ENTRY) if (place / MODEL).is_file() else None
    return there is not None and there.sha256 == entry.sha256


def _read_entry(path: Path) -> Entry | None:

    try:
        return msgspec.convert(parse_toml(read_text(path), str(path)), Entry)
    except (OSError, ValueError, msgspec.ValidationError):
        return None  # not a model that was fetched
