"""What a mount of a NetworkFileSystem asks the database for once, since the kernel asks for it again and again."""

from __future__ import annotations

import os
from typing import ClassVar

import pytest

import pgstore
from pgstore.core import clock
from pgstore.fs.model import FILE
from pgstore.mount.backends import base, hearing, known, live
from pgstore.mount.options import Options
from pgstore.mount.protocol import AttributeChange, Owner
from pgstore.mount.with_fuse import spec_of


class Asking(live.LiveFiles):
    """Files of a mount, which list for which inodes the database was asked."""

    caching = hearing.HEARD
    asked: ClassVar[list[int]] = []

    def _node(self, ino, *, with_contents=False):
        self.asked.append(ino)
        return super()._node(ino, with_contents=with_contents)


@pytest.fixture
def files(client, store_name):
    nfs = pgstore.NetworkFileSystem.from_name(store_name, create_if_missing=True, client=client).hydrate()
    spec = spec_of(nfs, client.run(nfs._resolve_id()), (), "/mounted", Options())
    found = Asking(base.shared_of(client, spec), spec)
    found.asked.clear()
    return found


@pytest.fixture
def file(files):
    """One that was made through the mount, and is open."""
    _, made = files.create(files.root, b"file", 0o644, os.O_RDWR, Owner(0, 0))
    yield made
    made.release()


CHANGES = {
    "uploaded": lambda files, file: (file.write(0, b"text"), file.flush()),
    "appended to": lambda files, file: file.contents.append(b"text"),
    "cut": lambda files, file: files.truncate(file.ino, 9, file),
    "punched": lambda files, file: (file.write(0, b"text" * 9), file.contents.zero(4, 8), file.flush()),
    "given a mode": lambda files, file: files.set_attributes(file.ino, AttributeChange(mode=0o600)),
    "given an attribute": lambda files, file: files.set_extended_attribute(file.ino, b"user.a", b"1", 0),
    "linked": lambda files, file: files.link(file.ino, files.root, b"linked"),
    "removed": lambda files, file: files.remove(files.root, b"file"),
    "replaced": lambda files, file: files.rename(files.root, b"another", files.root, b"file", 0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_is_asked_for_once_until_it_is_changed(files, file, change):
    """
    After it was made, opened, written to or read the kernel asks for its attributes.
    """
    files.make(files.root, b"another", FILE, 0o644, Owner(0, 0))
    file.write(0, b"1234567")
    assert files.attributes_now(file.ino).size_bytes == 7  # not uploaded yet
    file.flush()
    before = files.attributes(file.ino)
    assert files.asked == [file.ino]
    assert files.attributes_now(file.ino) == before

    CHANGES[change](files, file)
    found = files.attributes_now(file.ino)

    there = files.attributes(file.ino)
    assert there != before
    assert found in (None, there)
    assert files.attributes_now(file.ino) == there


def test_a_file_is_asked_for_again_after_a_moment(files, file, monkeypatch):
    now = clock.monotonic() + known.FILE_SECONDS
    monkeypatch.setattr(clock, "monotonic", lambda: now)

    assert files.attributes_now(file.ino) is None


def test_where_others_changes_are_not_heard_of_a_file_is_asked_for_each_time(files, file, monkeypatch):
    monkeypatch.setattr(Asking, "caching", hearing.UNHEARD)

    assert files.attributes_now(file.ino) is None


def test_what_an_opening_has_asked_for_is_not_asked_again(files, file):
    """
    fstat(2) after open(2), and the bytes of a small file that was written here: the kernel has not kept what fills no page.
    """
    file.write(0, b"text")
    file.sync()
    files._secure()  # the mount does not need to keep the bytes any more
    files.asked.clear()

    again = files.open(file.ino, os.O_RDONLY)
    found = files.attributes_now(file.ino)
    text = again.read_now(0, 4096)
    again.release()

    assert files.asked == [file.ino]
    assert found.size_bytes == 4
    assert b"".join(text) == b"text"
