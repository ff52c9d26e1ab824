"""Models by name: found where they are nearest, fetched whole and checked, or not at all."""

import errno
import hashlib
import importlib
import io
import multiprocessing
import os
import pickle
import shutil
import threading
import zipfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial

import jax
import msgspec
import numpy as np
import pytest
import tomli_w
from registry_server import serve
from toys import tiny_model, tiny_recipe

from hiergal.hub import cache, load_model, registry, resolve, save_model
from hiergal.hub.cache import cached, fetch, incomplete, verify
from hiergal.hub.names import available
from hiergal.hub.published import Published
from hiergal.hub.registry import Entry, add_registry, read_registry, registries, remove_registry

LOCATE = importlib.import_module("hiergal.hub.names")  # the package has a function of the same name
NAME, FILE = "toy", "toy-1.0.safetensors"


@pytest.fixture(scope="module")
def model():
    return tiny_model(tiny_recipe((16, 24)))


@pytest.fixture(scope="module")
def content(model, tmp_path_factory):
    """The bytes of a model's file."""
    path = tmp_path_factory.mktemp("model") / "toy.safetensors"
    save_model(model, path)
    return path.read_bytes()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A person without models, registries or settings; returns the folder of the cache."""
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("HIERGAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HIERGAL_REGISTRIES", raising=False)
    monkeypatch.setattr(LOCATE, "packaged_models", lambda *_: iter(()))
    return tmp_path / "cache"


@pytest.fixture
def server():
    with serve() as found:
        yield found


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def entry(content, url=FILE, **changes):
    """What a registry says of a model."""
    about = {"name": NAME, "version": "1.0", "url": url, "sha256": sha256(content), "size": len(content)}
    return about | {"licence": "MIT", "description": "a toy"} | changes


def index(*entries, **changes):
    return tomli_w.dumps({"schema_version": 1, "model": list(entries)} | changes).encode()


def publish(server, content, url=FILE, monkeypatch=None, **changes):
    """Offer a model on the server; returns its entry with the address in full."""
    server.files |= {"/index.toml": index(entry(content, url, **changes)), f"/{url}": content}
    if monkeypatch is not None:
        monkeypatch.setenv("HIERGAL_REGISTRIES", server.url)
    return msgspec.convert(entry(content, f"{server.url}/{url}", **changes), Entry)


def nothing_in(folder):
    """Whether there is neither a model, nor a part of one, nor a folder of one being made."""
    left = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return not left and not list(cached()) and not list(folder.glob("[!.]*/*"))


def locks_are_free(folder):
    from filelock import FileLock

    for path in folder.glob(".fetching/*.lock"):
        FileLock(path, timeout=0).acquire().lock.release()
    return True


# Where a name is looked for


def test_the_package_comes_first_then_the_cache_then_registries(
    home, server, content, model, monkeypatch, tmp_path
):
    publish(server, content, monkeypatch=monkeypatch)
    path = resolve(f"hub:{NAME}", progress=False)
    assert path == home / NAME / "1.0" / "model.safetensors"
    jax.tree.map(np.testing.assert_array_equal, load_model(f"hub:{NAME}@1.0"), model)
    asked = len(server.asked)
    assert resolve(f"hub:{NAME}") == path  # from the cache: nobody is asked
    assert len(server.asked) == asked
    about = Published(NAME, "1.0", "MIT", "a toy", "tests", "all", "none")
    monkeypatch.setattr(LOCATE, "packaged_models", lambda *_: iter([(tmp_path / "packaged", about)]))
    assert resolve(f"hub:{NAME}@1.0") == tmp_path / "packaged"
    assert [offer.source for offer in available()] == ["package", "cache", server.url]


@pytest.mark.parametrize("kind", ["folder", "file", "address"])
def test_a_registry_is_a_folder_a_file_or_an_address(kind, server, content, monkeypatch, tmp_path):
    versions = ("1.9", "1.10", "1.10-rc1", "1.10rc2")
    entries = [entry(content, f"models/{version}.safetensors", version=version) for version in versions]
    files = {"/index.toml": index(*entries)} | {f"/models/{v}.safetensors": content for v in versions}
    server.files |= files
    folder = tmp_path / "a registry"
    (folder / "models").mkdir(parents=True)
    for name, text in files.items():
        (folder / name[1:]).write_bytes(text)
    source = {"folder": str(folder), "file": str(folder / "index.toml"), "address": server.url}[kind]
    monkeypatch.setattr(LOCATE, "registries", lambda: [source])
    assert resolve(f"hub:{NAME}", progress=False).parent.name == "1.10"
    assert resolve(f"hub:{NAME}@1.9", progress=False).parent.name == "1.9"
    assert [offer.version for offer in available()] == ["1.10", "1.9", "1.10", "1.10rc2", "1.10-rc1", "1.9"]
    with pytest.raises(FileNotFoundError, match="hub:toy@2.0: no such model .* toy@1.10, toy@1.9, toy@1.10"):
        resolve(f"hub:{NAME}@2.0")


def test_without_network_what_is_in_the_cache_works(content, model, monkeypatch):
    with serve() as server:
        publish(server, content, monkeypatch=monkeypatch)
        address = f"{server.url}/{FILE}#sha256={sha256(content)}"
        for name in (f"hub:{NAME}", address):
            resolve(name, progress=False)
    for name in (f"hub:{NAME}", f"hub:{NAME}@1.0", address):
        jax.tree.map(np.testing.assert_array_equal, load_model(name), model)
    for name in ("hub:other", f"hub:{NAME}@2.0"):
        with pytest.raises(FileNotFoundError) as caught:
            resolve(name)
        assert f"could not be read: {server.url}/index.toml: cannot be fetched" in str(caught.value)


def test_a_registry_that_breaks_off_or_says_no_is_named(server, content, monkeypatch):
    publish(server, content, monkeypatch=monkeypatch)
    server.cut["/index.toml"] = 40
    with pytest.raises(FileNotFoundError, match="could not be read: http.*index.toml: cannot be fetched"):
        resolve("hub:toy")
    server.files.clear()
    with pytest.raises(FileNotFoundError, match="index.toml: cannot be fetched: 404"):
        resolve("hub:toy")


def test_a_cache_that_one_may_only_read_serves_names_and_addresses(home, server, content, monkeypatch):
    publish(server, content, monkeypatch=monkeypatch)
    address = f"{server.url}/{FILE}#sha256={sha256(content)}"
    names = (f"hub:{NAME}", address)
    before = [resolve(name, progress=False) for name in names]
    monkeypatch.setattr("filelock.FileLock", lambda *_, **__: pytest.fail("a lock was written"))
    assert [resolve(name, progress=False) for name in names] == before


@pytest.mark.parametrize(
    "name", ["hub:", "hub:../evil", "hub:a/b", "hub:a@", "hub:a@..", "hub:A", "hub:a@1/2", "hub:.a"]
)
def test_names_are_plain_words(name):
    with pytest.raises(ValueError, match="expected hub:NAME or hub:NAME@VERSION"):
        resolve(name)


def test_variables_and_the_persons_own_cache(home, monkeypatch, tmp_path):
    assert cache.cache_folder() == home
    monkeypatch.setenv("HIERGAL_CACHE", "~/models")
    assert cache.cache_folder() == tmp_path / "home/models"
    monkeypatch.delenv("HIERGAL_CACHE")
    assert cache.cache_folder().is_relative_to(tmp_path / "home")
    assert not list(cached())
    monkeypatch.setenv("HIERGAL_REGISTRIES", "one two  one")
    assert registries() == ["one", "two"]


# Downloads


def test_a_cut_download_goes_on_where_it_stopped(home, server, content, monkeypatch):
    wanted = publish(server, content)
    half = 2 * registry.CHUNK_BYTES
    server.cut[f"/{FILE}"] = half + 1
    with pytest.raises(
        OSError, match=f"{FILE}: cannot be fetched: .*; {half:,} bytes are kept, run the same again"
    ):
        fetch(wanted, progress=False)
    assert not list(cached()) and not list(home.glob("[!.]*")) and locks_are_free(home)
    server.cut.clear()
    assert fetch(wanted, progress=False).read_bytes() == content
    assert server.models_asked() == [None, f"bytes={half}-"]
    assert not list(home.glob(".fetching/*.part")) and not incomplete()


def test_a_server_that_gives_no_parts_gives_all_again(server, content):
    wanted = publish(server, content)
    server.cut[f"/{FILE}"] = len(content) // 2
    with pytest.raises(OSError, match="bytes are kept"):
        fetch(wanted, progress=False)
    server.cut.clear()
    server.ranges = False
    assert fetch(wanted, progress=False).read_bytes() == content


@pytest.mark.parametrize("size", ["said", "not said"])
@pytest.mark.parametrize("there", ["another beginning", "as long", "longer", "whole", "empty"])
def test_what_a_stopped_download_left_cannot_be_in_the_way(home, server, content, there, size):
    wanted = publish(server, content, **({} if size == "said" else {"size": 0}))
    left = {
        "another beginning": b"?" * 1000,
        "as long": b"?" * len(content),
        "longer": content + b"?",
        "whole": content,
        "empty": b"",
    }[there]
    (home / ".fetching").mkdir(parents=True)
    (home / f".fetching/{wanted.sha256}.part").write_bytes(left)
    (home / f".fetching/{wanted.sha256}.folder/nested").mkdir(parents=True)  # of a process that was killed
    assert fetch(wanted, progress=False).read_bytes() == content
    assert not list(home.glob(".fetching/*.part")) and not list(home.glob(".fetching/*.folder"))


def test_links_in_the_cache_are_not_followed(home, server, content, tmp_path):
    wanted = publish(server, content)
    precious, folder = tmp_path / "precious", tmp_path / "folder"
    precious.write_text("precious")
    folder.mkdir()
    (folder / "precious").touch()
    (home / ".fetching").mkdir(parents=True)
    (home / f".fetching/{wanted.sha256}.part").symlink_to(precious)
    (home / f".fetching/{wanted.sha256}.folder").symlink_to(folder)
    (home / NAME).mkdir()
    (home / NAME / "1.0").symlink_to(folder)
    path = fetch(wanted, progress=False)
    assert path.read_bytes() == content and not path.is_symlink() and not path.parent.is_symlink()
    assert precious.read_text() == "precious" and [p.name for p in folder.iterdir()] == ["precious"]


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda c: bytes([c[0] ^ 1]) + c[1:], ValueError, "its SHA-256 is not the"),
        (lambda c: c[:-1] + bytes([c[-1] ^ 1]), ValueError, "its SHA-256 is not the"),
        (lambda c: c[:-100], OSError, "expected .* bytes, got .*; run the same again"),
        (lambda c: c + b"more", OSError, "expected .* bytes, got more; nothing was kept"),
    ],
)
def test_a_file_that_is_not_what_was_announced_is_refused(
    home, server, content, tmp_path, change, error, message, local
):
    wanted = publish(server, content)
    server.files[f"/{FILE}"] = change(content)
    if local:
        (tmp_path / FILE).write_bytes(change(content))
        wanted = msgspec.structs.replace(wanted, url=str(tmp_path / FILE))
    with pytest.raises(error, match=f"{FILE}: {message}"):
        fetch(wanted, progress=False)
    assert not list(cached()) and not list(home.glob("[!.]*")) and locks_are_free(home)
    if error is ValueError:
        assert nothing_in(home)
    server.files[f"/{FILE}"] = content  # once it is right, it is fetched
    (tmp_path / FILE).write_bytes(content)
    assert fetch(wanted, progress=False).read_bytes() == content


def test_a_wrong_checksum_in_the_registry_keeps_nothing(home, server, content, monkeypatch):
    publish(server, content, monkeypatch=monkeypatch, sha256="0" * 64)
    with pytest.raises(ValueError, match=f"its SHA-256 is not the {'0' * 64} of the registry"):
        resolve("hub:toy", progress=False)
    assert nothing_in(home) and locks_are_free(home)


class Trap:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def a_zip():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../outside.txt", "nothing")
    return buffer.getvalue()


@pytest.mark.parametrize(("evil", "kind"), [(pickle.dumps(Trap()), "a pickle"), (a_zip(), "a zip archive")])
def test_what_was_published_as_no_model_is_refused_unopened(home, server, evil, kind, monkeypatch):
    publish(server, evil, monkeypatch=monkeypatch)
    with pytest.raises(ValueError, match=f"expected a safetensors file, got what looks like {kind}"):
        load_model("hub:toy")
    assert not list(home.parent.rglob("outside.txt"))


@pytest.mark.slow
def test_processes_and_threads_download_once(server, content):
    wanted = publish(server, content)
    server.pause = 0.5
    with ThreadPoolExecutor(3) as pool:
        paths = set(pool.map(partial(fetch, progress=False), [wanted] * 3))
    assert len(paths) == len(server.models_asked()) == 1
    shutil.rmtree(paths.pop().parent)
    server.pause = 4.0  # the slower of the processes has begun by then
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        paths = set(pool.map(partial(fetch, progress=False), [wanted] * 2))
    assert len(paths) == 1 and len(server.models_asked()) == 2
    assert paths.pop().read_bytes() == content


def test_a_download_that_is_stuck_is_said_to_be(home, server, content, monkeypatch):
    from filelock import FileLock

    wanted = publish(server, content)
    monkeypatch.setattr(cache, "PATIENCE", 0.05)
    (home / ".fetching").mkdir(parents=True)
    with FileLock(home / f".fetching/{wanted.sha256}.lock"):
        with pytest.raises(OSError, match="another process has been fetching it for an hour"):
            fetch(wanted, progress=False)
    assert fetch(wanted, progress=False).read_bytes() == content


class FullDisk(io.FileIO):
    """A file on a disk with room for some bytes."""

    room = 10_000

    def write(self, data):
        if self.tell() >= self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(memoryview(data)[: self.room - self.tell()])


def test_a_full_disk_is_said_and_what_had_come_is_kept(home, server, content):
    other = publish(server, content, version="0.9", url="old.safetensors")
    fetch(other, progress=False)
    changed = content + b" "  # another file, so that it is fetched
    wanted = publish(server, changed)

    def open_on_a_full_disk(path, mode):
        return io.BufferedWriter(FullDisk(path, mode.replace("b", "")))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hiergal.hub.cache._own_file", open_on_a_full_disk)
        with pytest.raises(
            OSError, match="the disk is full: toy 1.0 takes .* bytes in .*make room"
        ) as caught:
            fetch(wanted, progress=False)
    assert caught.value.errno == errno.ENOSPC
    assert (
        [found.entry.version for found in cached()] == ["0.9"] and not incomplete() and locks_are_free(home)
    )
    asked = len(server.models_asked())
    assert fetch(wanted, progress=False).read_bytes() == changed
    assert server.models_asked()[asked:] == [f"bytes={FullDisk.room}-"]
    for found in cached():
        verify(found)


def test_a_changed_file_in_the_cache_is_found(server, content):
    path = fetch(publish(server, content), progress=False)
    (found,) = cached()
    verify(found)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(
        ValueError, match=r"expected SHA-256 .*the file was changed; .*`hiergal models fetch toy@1.0`"
    ):
        verify(found)


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"name = 3", b"[", b"", None])
def test_a_damaged_entry_is_no_model_and_is_fetched_again(server, content, damage, monkeypatch):
    path = fetch(publish(server, content, monkeypatch=monkeypatch), progress=False)
    about = path.parent / "entry.toml"
    about.unlink() if damage is None else about.write_bytes(damage)
    assert not list(cached()) and incomplete() == [path.parent]
    assert resolve("hub:toy", progress=False) == path
    assert len(list(cached())) == 1 and not incomplete()


def test_a_folder_that_bears_another_name_is_no_model(home, server, content):
    path = fetch(publish(server, content), progress=False)
    shutil.copytree(path.parent, home / "better" / "9.0")
    assert [found.path for found in cached()] == [path]
    assert incomplete() == [home / "better" / "9.0"]


# What registries may say

TOY = {"name": NAME, "version": "1.0", "url": FILE, "sha256": "0" * 64, "size": 9, "licence": "MIT"}
EVIL = [
    ({"name": "../evil"}, "model"),
    ({"name": "evil\n"}, "model"),
    ({"name": ".fetching"}, "model"),
    ({"name": "e" * 65}, "model"),
    ({"version": "../../evil"}, "model"),
    ({"version": ".."}, "model"),
    ({"sha256": "0" * 63}, "model"),
    ({"sha256": "0" * 64 + "\n"}, "model"),
    ({"size": -1}, "model"),
    ({"size": 1.5}, "model"),
    ({"size": "9"}, "model"),
    ({"licence": ""}, "model"),
    ({"more": 1}, "unknown field `more`"),
    ({"url": ""}, "next to the index"),
    ({"url": "../evil"}, "next to the index"),
    ({"url": "%2e%2e/evil"}, "next to the index"),
    ({"url": "a/../../evil"}, "next to the index"),
    ({"url": "/etc/passwd"}, "next to the index"),
    ({"url": "//evil.org/file"}, "next to the index"),
    ({"url": "..\\evil"}, "next to the index"),
    ({"url": "file:/etc/passwd"}, "next to the index"),
    ({"url": "http:evil"}, "next to the index"),
    ({"url": "evil\0"}, "next to the index"),
    ({"url": "file:///etc/passwd"}, "expected an https address"),
    ({"url": "ftp://evil.org/file"}, "expected an https address"),
    ({"url": "http://evil.org/file"}, "expected an https address"),
    ({"url": "http://127.0.0.1@evil.org/file"}, "expected an https address"),
    ({"url": "http://evil.org\\@127.0.0.1/file"}, "expected an https address"),
    ({"url": "https://"}, "expected an https address"),
    ({"url": "https://[evil/file"}, "expected an https address"),
]


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize(("change", "message"), EVIL)
def test_what_points_elsewhere_or_is_misspelt_is_refused(
    home, server, tmp_path, change, message, far, monkeypatch
):
    text = index(TOY | change)
    server.files["/index.toml"] = text
    (tmp_path / "index.toml").write_bytes(text)
    source = server.url if far else str(tmp_path)
    with pytest.raises(ValueError, match="index.toml: ") as caught:
        read_registry(source)
    assert message in str(caught.value)
    monkeypatch.setenv("HIERGAL_REGISTRIES", source)
    with pytest.raises(FileNotFoundError, match="what could not be read: .*index.toml"):
        resolve("hub:toy")
    assert not home.exists()


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (index(schema_version=2), "expected a registry of schema version 1, got 2; update hiergal"),
        (index(schema_version="1"), "expected a registry of schema version 1, got 1"),
        (b"", "expected a registry of schema version 1, got None"),
        (index(more=1), "unknown field `more`"),
        (index(model=3), "Expected `array`"),
        (index({"name": "toy"}), "missing required field `version`"),
        (b"<html>", "expected a registry in TOML"),
        (b"\xff\xfe\x00", "expected a registry in TOML"),
        (b"x = " + b"[" * 100_000, "expected a registry in TOML"),
        (b"#" * (registry.LARGEST_INDEX + 1), "expected a registry of at most 4194304 bytes, got more"),
    ],
)
def test_what_is_no_registry_is_refused(server, tmp_path, text, message, far):
    server.files["/index.toml"] = text
    (tmp_path / "index.toml").write_bytes(text)
    with pytest.raises(ValueError, match="index.toml: ") as caught:
        read_registry(server.url if far else str(tmp_path))
    assert message in str(caught.value)


def test_redirects_lead_to_permitted_addresses_alone(home, server, content, monkeypatch):
    wanted = publish(server, content, monkeypatch=monkeypatch)
    server.redirects = {"/moved": f"/{FILE}"}
    moved = msgspec.structs.replace(wanted, url=f"{server.url}/moved")
    assert fetch(moved, progress=False).read_bytes() == content
    shutil.rmtree(home)
    server.redirects = {path: "http://models.invalid/elsewhere" for path in ("/moved", "/index.toml")}
    with pytest.raises(
        OSError, match="/moved: leads to 'http://models.invalid/elsewhere': expected an https address"
    ):
        fetch(moved, progress=False)
    assert nothing_in(home) and locks_are_free(home)
    with pytest.raises(FileNotFoundError, match="index.toml: leads to 'http://models.invalid/elsewhere'"):
        resolve("hub:toy")
    server.redirects = {"/moved": "file:///etc/passwd"}
    with pytest.raises(OSError, match="/moved: leads to 'file:///etc/passwd'"):
        fetch(moved, progress=False)
    with pytest.raises(ValueError, match="expected an https address"):
        fetch(msgspec.structs.replace(wanted, url="http://models.invalid/x"), progress=False)


def test_addresses_carry_the_checksum(home, server, content, model):
    publish(server, content)
    address = f"{server.url}/{FILE}"
    jax.tree.map(np.testing.assert_array_equal, load_model(f"{address}#sha256={sha256(content)}"), model)
    shutil.rmtree(home)
    with pytest.raises(ValueError, match="its SHA-256 is not the"):
        resolve(f"{address}#sha256={'0' * 64}", progress=False)
    assert nothing_in(home)
    for fragment in ("", "#", "#sha256=", f"#sha256={'0' * 63}", f"#md5={'0' * 32}"):
        with pytest.raises(ValueError, match="expected the checksum of the file in the address"):
            resolve(address + fragment)
    for evil in ("http://models.invalid/x", "file:///etc/passwd", "s3://bucket/x"):
        with pytest.raises(ValueError, match="expected an https address"):
            resolve(f"{evil}#sha256={'0' * 64}")


# A person's registries


def test_registries_are_added_and_removed(server, content, tmp_path, monkeypatch):
    publish(server, content)
    (tmp_path / "index.toml").write_bytes(index(entry(content)))
    monkeypatch.chdir(tmp_path)
    assert [one.name for one in add_registry(".")] == [NAME]
    add_registry(server.url)
    add_registry(".")  # twice is once
    monkeypatch.setenv("HIERGAL_REGISTRIES", "/first")
    assert registries() == ["/first", server.url, str(tmp_path)]
    assert registry._settings().is_relative_to(tmp_path)
    remove_registry(".")
    remove_registry(server.url)
    assert registries() == ["/first"]
    with pytest.raises(ValueError, match=r"expected one of the registries \(none was added\), got other"):
        remove_registry("other")


def test_what_is_no_registry_is_not_added(server, tmp_path):
    for source, error in (
        (server.url, OSError),
        (str(tmp_path / "nowhere"), OSError),
        ("http://models.invalid", ValueError),
        ("ftp://models.invalid", ValueError),
    ):
        with pytest.raises(error, match=source):
            add_registry(source)
    assert registries() == []


@pytest.mark.parametrize("text", [b"registries = 3", b"other = []", b"[", b"\xff", b"registries = [1]"])
def test_damaged_settings_are_named_and_spare_what_is_there(server, content, text):
    path = fetch(publish(server, content), progress=False)
    settings = registry._settings()
    settings.parent.mkdir(parents=True)
    settings.write_bytes(text)
    with pytest.raises(
        ValueError, match=r"registries.toml: expected registries = .*; correct it, or remove it"
    ):
        registries()
    assert resolve("hub:toy") == path
    problems = []
    assert [offer.source for offer in available(problems)] == ["cache"] and "registries.toml" in problems[0]
    with pytest.raises(ValueError, match=r"registries.toml"):
        resolve("hub:other")


def test_a_reader_never_sees_a_part(home, server, content):
    wanted = publish(server, content)
    server.pause = 0.4
    thread = threading.Thread(target=fetch, args=(wanted,), kwargs={"progress": False})
    thread.start()
    seen = []
    while thread.is_alive():
        seen += [found.path.read_bytes() for found in cached()]
    thread.join()
    assert all(one == content for one in seen) and len(list(cached())) == 1 and locks_are_free(home)
