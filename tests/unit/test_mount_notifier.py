"""What the kernel is told to forget."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator

import pytest

from pgstore.mount import kernel
from pgstore.mount.changes import RecentChanges
from pgstore.mount.channel import Channel
from pgstore.mount.notifier import Notifier

ROOT = 77


class Listening:
    """A channel whose other end is the test's."""

    def __init__(self, **options: int) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.settimeout(10)
        self.notifier = Notifier(Channel(self._theirs.fileno()), ROOT, RecentChanges(), **options)

    def next(self) -> tuple[int, bytes]:
        message = self._ours.recv(65536)
        length, code, unique = kernel.OUT_HEADER.unpack_from(message)
        assert (length, unique) == (len(message), 0)
        return code, message[kernel.OUT_HEADER.size :]

    def has_next(self) -> bool:
        """Whether a message has come already."""
        return bool(select.select([self._ours], [], [], 0)[0])

    def inode(self) -> tuple[int, int]:
        """The inode that is to be forgotten, and from where on its pages."""
        code, body = self.next()
        assert code == kernel.NOTIFY_INVAL_INODE
        node, offset, length = kernel.NOTIFY_INVAL_INODE_OUT.unpack_from(body)
        assert length == 0
        return node, offset

    def name(self) -> tuple[int, bytes]:
        code, body = self.next()
        assert code == kernel.NOTIFY_INVAL_ENTRY
        parent, length, flags = kernel.NOTIFY_INVAL_ENTRY_OUT.unpack_from(body)
        assert flags == 0
        name = body[kernel.NOTIFY_INVAL_ENTRY_OUT.size :]
        assert name == name[:length] + b"\0"
        return parent, name[:length]

    def end(self) -> None:
        self.notifier.stop()
        self._ours.close()
        self._theirs.close()


@pytest.fixture
def listening() -> Iterator[Listening]:
    listening = Listening()
    yield listening
    listening.end()


def test_what_is_said_twice_is_sent_once_and_contents_take_their_attributes_along(listening):
    for _ in range(3):
        listening.notifier.forget_attributes(5)
        listening.notifier.forget_contents(5)
        listening.notifier.forget_attributes(5)
        listening.notifier.forget_attributes(6)

    listening.notifier.start()

    assert [listening.inode(), listening.inode()] == [(5, 0), (6, -1)]
    listening.notifier.forget_attributes(7)
    assert listening.inode() == (7, -1)


def test_a_name_takes_along_the_listing_and_the_attributes_of_its_directory(listening):
    listening.notifier.forget_name(5, b"first")
    listening.notifier.forget_name(5, b"second")
    listening.notifier.start()

    assert [listening.name(), listening.name()] == [(5, b"first"), (5, b"second")]
    assert listening.inode() == (5, 0)


def test_what_is_mounted_is_called_one(listening):
    listening.notifier.forget_name(ROOT, b"name")
    listening.notifier.start()

    assert listening.name() == (1, b"name")
    assert listening.inode() == (1, 0)


def test_too_many_names_become_all_where_the_kernel_can():
    listening = Listening(queued_max=10)
    listening.notifier.knows_epochs = True
    for number in range(100):
        listening.notifier.forget_name(5, b"%d" % number)

    listening.notifier.start()

    assert listening.next() == (kernel.NOTIFY_INC_EPOCH, b"")
    listening.end()


def test_a_full_queue_makes_who_adds_to_it_wait():
    listening = Listening(queued_max=10)

    def add() -> None:
        for each in range(30):
            listening.notifier.forget_attributes(each)

    adding = threading.Thread(target=add)
    adding.start()
    adding.join(0.05)
    assert adding.is_alive()

    listening.notifier.start()

    assert [listening.inode() for _ in range(30)] == [(each, -1) for each in range(30)]
    adding.join(10)
    assert not adding.is_alive()
    listening.end()


def test_after_the_end_nothing_is_sent_and_nobody_waits(listening):
    listening.notifier.start()
    listening.notifier.stop()

    listening.notifier.forget_attributes(5)

    listening._ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        listening.next()


def test_who_waits_until_the_kernel_was_told_finds_that_it_was(listening):
    """
    A reload is followed by programs that look at once: then no name may lead where it led before.
    """
    listening.notifier.start()

    for ino in range(100, 300):
        listening.notifier.forget_attributes(ino)
        listening.notifier.wait_until_forgotten()

        assert listening.has_next()
        assert listening.inode()[0] == ino
