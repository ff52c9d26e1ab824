"""Inputs: any path that a file can have works, pipes and devices are refused at once, and only damage is called so."""

import os
import shutil
import socket

import numpy as np
import pytest

from hiergal.runtime.inputs import input_path
from hiergal.survey import StoreHeader, open_survey, write_store

HEADER = StoreHeader(survey="a", band="b", pixel_scale_arcsec=0.03, magnitude_zero_point=25.0)


@pytest.mark.parametrize("folder", ["a b", "é#1?x%20", "x&y;", "~h", "-o", "[a]*"])
def test_any_path_of_a_survey(tmp_path, monkeypatch, make_observation, folder):
    (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    image = make_observation("white", n=3).image
    write_store(f"{folder}/s.zarr", HEADER, [(make_observation("white", n=3), None)])
    os.symlink(f"{folder}/s.zarr", "link")
    monkeypatch.setenv("HOME", str(tmp_path / folder))
    for path in (f"{folder}/../{folder}/s.zarr", "link", "link/../s.zarr", "~/s.zarr"):
        monkeypatch.chdir(tmp_path)
        store = open_survey(path)
        monkeypatch.chdir("/")  # a store that is open stays so
        np.testing.assert_array_equal(store.read([2, 0]).image, image[[2, 0]])


def test_only_damage_is_called_damage(tmp_path, make_observation):
    path = tmp_path / "crc checksum.zarr"
    write_store(path, HEADER, [(make_observation("white", n=3), None)])
    store = open_survey(path)
    shard = next(file for file in (path / "image" / "c").rglob("*") if file.is_file())
    content = bytearray(shard.read_bytes())
    content[10] ^= 255
    shard.write_bytes(content)
    with pytest.raises(OSError, match="expected intact data in .*, got a damaged array 'image'"):
        store.read()
    store = open_survey(path)
    shutil.rmtree(path)
    with pytest.raises(OSError, match="expected to read the array 'image' of .*, got: .*NOT_FOUND") as caught:
        store.read()
    assert "damaged" not in str(caught.value)


def test_pipes_devices_and_sockets_are_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for path, words in (("pipe", "FIFO"), ("/dev/zero", "a device"), ("socket", "a socket")):
            with pytest.raises(
                OSError, match=f"expected a catalogue, got .*{words}.*write the data to a file"
            ):
                input_path(path, "a catalogue")
    with pytest.raises(OSError, match="null byte"):
        input_path("a\0b")
    assert str(input_path("no/such/file")) == "no/such/file"
