"""What a mount of a NetworkFileSystem knows of attributes."""

from __future__ import annotations

import pytest

from pgstore.core import clock
from pgstore.fs.model import DIRECTORY, FILE, Node
from pgstore.mount.backends import known as module
from pgstore.mount.backends.known import Known
from pgstore.mount.protocol import Attributes


@pytest.fixture
def known():
    return Known()


def node(ino, kind=FILE, data=None):
    return Node(ino, kind, 0, 0o644, 5, 7, 7, 0, 0, 1, None, None, None, None, None, data)


def attributes(ino, kind=DIRECTORY):
    return Attributes(ino, kind, 0o755, 0, 0, 0, 1, 7, 7, 7)


def test_what_was_read_before_a_change_is_not_known(known):
    """
    Whoever reads may be answered as it was before a change that another thread has noted by then.
    """
    state = known.state
    known.forget(3)

    known.note_file(node(1), state)
    known.note_directory(attributes(2), state)

    assert known.file(1) is known.directory(2) is None


def test_bytes_are_not_kept(known):
    known.note_file(node(1, data=b"bytes"), known.state)

    assert known.file(1) == node(1)


def test_each_kind_is_in_its_place(known):
    known.note_file(node(1, DIRECTORY), known.state)
    known.note_directory(attributes(2, FILE), known.state)

    assert known.file(1) is known.directory(2) is None


def test_files_are_known_for_a_moment_and_directories_until_they_are_changed(known, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    known.note_file(node(1), known.state)
    known.note_directory(attributes(2), known.state)
    now[0] += module.FILE_SECONDS * 0.9
    assert known.file(1) == node(1)

    now[0] += module.FILE_SECONDS * 0.2

    assert known.file(1) is None
    assert known.directory(2) == attributes(2)


def test_of_many_files_the_latest_are_known(known):
    for ino in range(module.FILES_MAX + 1):
        known.note_file(node(ino), known.state)

    assert known.file(0) is None
    assert known.file(module.FILES_MAX) == node(module.FILES_MAX)


def test_all_is_forgotten(known):
    known.note_file(node(1), known.state)
    known.note_directory(attributes(2), known.state)

    known.forget_all()

    assert known.file(1) is known.directory(2) is None
