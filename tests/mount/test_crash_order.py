"""What a mount of a NetworkFileSystem has done, and a crash takes of it: it comes back in the order in which it was done.

Here without kernel and daemon: nothing is brought to the disk, or back, in the background.
"""

from __future__ import annotations

import itertools
import os
from functools import partial
from typing import Any

import pytest

import pgstore
from pgstore import errors
from pgstore.client.history import only_server
from pgstore.fs.content.block_reader import BlockReader
from pgstore.fs.tree import nodes
from pgstore.fs.tree.live_nodes import LiveNodes
from pgstore.mount.backends import base, live
from pgstore.mount.daemon.backends import MountSpec
from pgstore.mount.protocol import AttributeChange, Owner

TEN = b"0123456789"
UNCHANGED = AttributeChange()
_NUMBERS = itertools.count()


@pytest.fixture
def nfs(forgetful_server):
    with pgstore.Client(forgetful_server.url("mounted")) as client:
        name = f"files{next(_NUMBERS)}"
        yield pgstore.NetworkFileSystem.from_name(name, create_if_missing=True, client=client).hydrate()


@pytest.fixture
def nfs_elsewhere(forgetful_server, nfs):
    with pgstore.Client(forgetful_server.url("mounted")) as client:
        yield pgstore.NetworkFileSystem.from_name(nfs.name, client=client).hydrate()


@pytest.fixture
def files(nfs):
    spec = MountSpec(
        *("", "nfs", int(nfs.object_id[3:]), nfs.name, "main", None, (), "/nowhere", False, None, 8 << 20, None, 60.0),
        locks="local",
    )
    files = live.LiveFiles(base.shared_of(nfs._runner, spec), spec)
    yield files
    files.end()


@pytest.fixture
def file(files):
    """An open file of ten bytes, which are on the disk."""
    _, file = files.create(files.root, b"file", 0o644, os.O_RDWR, Owner(0, 0))
    file.write(0, TEN)
    files.sync()
    yield file.contents
    file.release()


def stored(nfs, path="file"):
    return b"".join(nfs.read_file(path))


def test_what_was_appended_behind_a_truncation_comes_back_behind_it(forgetful_server, nfs, file):
    file.truncate(0)
    file.append(b"ab")
    forgetful_server.crash()

    file.append(b"cd")
    file.sync()

    assert stored(nfs) == b"abcd"


def test_after_a_crash_a_file_is_seen_with_what_was_appended(forgetful_server, nfs, files, file):
    """
    The kernel believes a size that it is told.
    """
    read = partial(file.read, 8, 9, BlockReader(file.shared.reading))
    looks = [
        lambda: files.attributes(file.ino).size_bytes,
        lambda: files.look_up(files.root, b"file").size_bytes,
        lambda: files.names(files.root, b"", 9)[0][1].size_bytes,
        lambda: len(b"".join(read())) + 8,
    ]
    for number, look in enumerate(looks, 1):
        file.append(b"x")
        forgetful_server.crash()

        assert look() == 10 + number

    file.truncate(9)
    forgetful_server.crash()
    assert b"".join(read()) == b"8"
    assert files.attributes(file.ino).size_bytes == 9


def test_a_truncation_within_what_was_appended_comes_back(forgetful_server, nfs, file):
    file.append(b"abcde")
    file.truncate(12)
    forgetful_server.crash()

    file.sync()

    assert stored(nfs) == TEN + b"ab"


def test_what_was_appended_behind_what_was_written_comes_back_behind_it(forgetful_server, nfs, file):
    file.write(5, b"w" * 10)
    file.append(b"tail")
    forgetful_server.crash()

    file.sync()

    assert stored(nfs) == b"01234" + b"w" * 10 + b"tail"


def test_what_was_written_over_what_was_appended_comes_back_over_it(forgetful_server, nfs, file):
    file.append(b"abcde")
    file.write(12, b"WW")
    file.upload()
    forgetful_server.crash()

    file.write(0, b"9")
    file.upload()
    file.settle()
    file.upload()
    file.sync()

    assert stored(nfs) == b"9" + TEN[1:] + b"abWWe"


def test_a_hole_in_what_was_appended_comes_back(forgetful_server, nfs, file):
    file.append(b"abcde")
    file.zero(11, 13)
    forgetful_server.crash()

    file.sync()

    assert stored(nfs) == TEN + b"a\0\0de"


def test_a_hole_is_made_after_a_truncation_that_a_crash_has_taken_is_back(forgetful_server, nfs, files, file):
    file.truncate(5)
    forgetful_server.crash()
    files.attributes(file.ino)
    file.settle()

    file.zero(1, 3)
    file.sync()

    assert stored(nfs) == b"0" + b"\0\0" + b"34"


def test_a_file_that_is_cut_while_another_cut_is_found_to_be_lost_is_no_longer_than_that(
    forgetful_server, nfs, file, monkeypatch
):
    """
    Another thread looks for what is lost.
    """
    file.truncate(5)
    forgetful_server.crash()
    nfs.stat("file")
    secure = file._secure_appended
    monkeypatch.setattr(file, "_secure_appended", lambda: (file.settle(), secure()))

    file.truncate(0)
    file.sync()

    assert stored(nfs) == b""


def test_what_was_lost_and_then_cut_away_is_waited_for_by_nobody(forgetful_server, nfs, file):
    """
    It will never be on the disk.
    """
    file.write(10, b"more")
    file.upload()
    forgetful_server.crash()
    nfs.stat("file")
    file.truncate(10)

    file.sync()

    assert file.is_safe
    assert stored(nfs) == TEN


def test_attributes_that_others_have_set_after_a_crash_stay(forgetful_server, nfs_elsewhere, files, file):
    files.set_attributes(file.ino, UNCHANGED._replace(mode=0o640, uid=7))
    forgetful_server.crash()
    nfs_elsewhere.chmod("file", 0o604)

    files.sync_names()

    found = files.attributes(file.ino)
    assert (found.mode, found.uid) == (0o604, 7)


def test_attributes_that_were_set_one_after_the_other_come_back(forgetful_server, files, file):
    for mode in (0o600, 0o640, 0o600):
        files.set_attributes(file.ino, UNCHANGED._replace(mode=mode, mtime_ns=mode))
    forgetful_server.crash()

    files.sync_names()

    found = files.attributes(file.ino)
    assert (found.mode, found.mtime_ns) == (0o600, 0o600)


def test_a_time_that_was_set_after_writing_comes_back_with_what_was_written(forgetful_server, nfs, files, file):
    """
    As `cp -p`, tar and rsync set it.
    """
    file.write(0, b"new")
    files.set_attributes(file.ino, UNCHANGED._replace(mtime_ns=12345))
    forgetful_server.crash()

    files.look_up(files.root, b"file")
    file.sync()

    assert stored(nfs) == b"new" + TEN[3:]
    assert files.attributes(file.ino).mtime_ns == 12345


def test_a_time_of_a_directory_that_was_set_comes_back_after_its_names(forgetful_server, files):
    """
    As tar sets it.
    """
    directory = files.make(files.root, b"d", "d", 0o755, Owner(0, 0)).ino
    made = [files.make(directory, name, "p", 0o644, Owner(0, 0)).ino for name in (b"a", b"b")]
    files.link(made[0], directory, b"c")
    files.rename(directory, b"a", directory, b"e", 0)
    files.remove(directory, b"b")
    files.set_attributes(directory, UNCHANGED._replace(mtime_ns=12345))
    forgetful_server.crash()

    files.sync_names()

    assert [name for name, _ in files.names(directory, b"", 9)] == [b"c", b"e"]
    assert files.attributes(directory).mtime_ns == 12345


def test_names_that_were_exchanged_come_back_so(forgetful_server, files):
    first, second = (files.make(files.root, name, "p", 0o644, Owner(0, 0)).ino for name in (b"a", b"b"))
    files.sync()
    for _ in range(3):
        files.rename(files.root, b"a", files.root, b"b", nodes.RENAME_EXCHANGE)
    forgetful_server.crash()
    files.rename(files.root, b"a", files.root, b"c", 0)

    files.sync_names()

    found: list[Any] = [files.look_up(files.root, name) for name in (b"c", b"b")]
    assert [each.ino for each in found] == [second, first]


def test_a_rename_whose_answer_was_lost_is_on_the_disk_after_fsync(forgetful_server, nfs, files, monkeypatch):
    files.make(files.root, b"a", "p", 0o644, Owner(0, 0))
    files.sync()
    rename = LiveNodes.rename
    attempts = []

    def lose(self, *arguments, **options):
        attempts.append(arguments)
        yield from rename(self, *arguments, **options)
        raise errors.OutcomeUnknown("the connection broke")

    monkeypatch.setattr(LiveNodes, "rename", lose)
    files.rename(files.root, b"a", files.root, b"b", 0)
    monkeypatch.undo()

    files.sync_names()
    forgetful_server.crash()

    assert len(attempts) == 2
    assert [entry.path for entry in nfs.listdir("/")] == ["b"]


@pytest.mark.parametrize("is_done", [True, False], ids=["done", "not done"])
def test_names_are_exchanged_once_though_an_answer_was_lost(forgetful_server, files, monkeypatch, is_done):
    """
    Twice would be not at all.
    """
    first, second = (files.make(files.root, name, "p", 0o644, Owner(0, 0)).ino for name in (b"a", b"b"))
    rename = LiveNodes.rename
    attempts = []

    def lose(self, *arguments, **options):
        attempts.append(arguments)
        renamed = (yield from rename(self, *arguments, **options)) if is_done or len(attempts) > 1 else None
        if len(attempts) == 1:
            raise errors.OutcomeUnknown("the connection broke")
        return renamed

    monkeypatch.setattr(LiveNodes, "rename", lose)
    files.rename(files.root, b"a", files.root, b"b", nodes.RENAME_EXCHANGE)
    monkeypatch.undo()
    forgetful_server.crash()
    files.sync_names()

    found: list[Any] = [files.look_up(files.root, name) for name in (b"a", b"b")]
    assert [each.ino for each in found] == [second, first]
    assert len(attempts) == (1 if is_done else 2)


def test_an_extended_attribute_is_on_the_disk_when_it_is_set(forgetful_server, files, file):
    files.set_extended_attribute(file.ino, b"user.a", b"1", 0)
    forgetful_server.crash()

    assert files.extended_attributes(file.ino) == {b"user.a": b"1"}


def test_what_is_meant_for_one_server_is_begun_by_no_other(forgetful_server, nfs, file):
    server = nfs._runner.server
    forgetful_server.crash()

    with only_server(server), pytest.raises(errors.StoreUnavailable, match="has crashed"):
        nfs.chmod("file", 0o600)

    assert nfs._runner.server != server
    assert nfs.stat("file").mode == 0o644
    nfs.chmod("file", 0o600)
