"""The daemon: how it starts, what it is told and asked, and how it ends."""

from __future__ import annotations

import os

import pytest

from pgstore import Volume
from tests.mount.conftest import notes


@pytest.fixture
def volume(client, store_name):
    return Volume.from_name(store_name, create_if_missing=True, client=client)


def test_files_are_served_while_it_is_mounted(memory, volume, place):
    with volume.mount(place, mode="fuse") as path:
        with open(f"{path}/a", "w") as file:
            file.write("a")
        assert os.listdir(place) == ["a"]
        volume.commit()

    assert os.listdir(place) == []
    assert notes(place)[1:] == ["commit", "end"]
