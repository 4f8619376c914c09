"""A mounted Volume and crashes of the server, which take what was uploaded, and not on its disk yet. Without kernel and daemon."""

from __future__ import annotations

import itertools
import os

import psycopg
import pytest

import pgstore
from pgstore.mount.backends import versioned
from pgstore.mount.daemon.backends import MountSpec
from pgstore.mount.protocol import Owner

LARGE = 300_000  # bytes; more than a row has room for
_NUMBERS = itertools.count()


@pytest.fixture
def volume(forgetful_server):
    with pgstore.Client(forgetful_server.url("mounted")) as client:
        name = f"volume{next(_NUMBERS)}"
        yield pgstore.Volume.from_name(name, create_if_missing=True, client=client).hydrate()


@pytest.fixture
def files(volume):
    spec = MountSpec(
        *("", "volume", int(volume.object_id[3:]), volume.name, "main", None, (), "/nowhere"),
        *(False, None, 8 << 20, None, 60.0),
        locks="local",
    )
    files = versioned.files_of(volume._runner, spec)
    yield files
    files.end()


@pytest.fixture
def new_file(files):
    """A function that makes a file, and returns what is open."""

    def new(name):
        return files.create(files.root, name, 0o644, os.O_RDWR, Owner(0, 0))[1]

    return new


def stored(volume, path):
    return b"".join(volume.read_file(path))


@pytest.mark.parametrize("written", [b"", b"x" * LARGE])
def test_what_a_crash_has_taken_of_a_large_file_is_uploaded_again(forgetful_server, volume, files, new_file, written):
    """
    Also where that is a hole: nothing but the file's blob itself.
    """
    file = new_file(b"file")
    file.write(0, written)
    file.contents.truncate(LARGE)
    file.contents.upload()
    forgetful_server.crash()

    files.commit()

    assert stored(volume, "file") == written.ljust(LARGE, b"\0")


def test_a_number_that_a_crash_lets_the_server_give_out_again_is_not_taken_for_ones_own(
    forgetful_server, volume, files, new_file
):
    """
    Two files would share their bytes.
    """
    first, second = new_file(b"first"), new_file(b"second")
    first.write(0, b"1" * LARGE)
    first.contents.upload()
    with psycopg.connect(forgetful_server.url("mounted"), autocommit=True) as connection:
        connection.execute("SELECT setval('pgstore.blob_id_seq', (SELECT max(id) FROM pgstore.blob), false)")

    second.write(0, b"2" * LARGE)
    files.commit()

    assert stored(volume, "first") == b"1" * LARGE
    assert stored(volume, "second") == b"2" * LARGE
