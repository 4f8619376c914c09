"""What of a mount is known to be on the server's disk, and what a crash may have taken."""

from __future__ import annotations

import threading

import pytest

from pgstore.mount.contents.disk import Disk
from pgstore.mount.contents.unsafe import Unsafe


class Server:
    """As a session knows it."""

    def __init__(self):
        self.server = 1
        self.flushes = 0
        self.during = lambda: None

    def flush(self):
        self.flushes += 1
        self.during()


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def disk(server):
    return Disk(server, server.flush, 10.0)


def test_a_flush_brings_to_the_disk_what_was_committed_before_it_began(server, disk):
    before = disk.committed(disk.server)
    meanwhile = []
    server.during = lambda: meanwhile.append(disk.committed(disk.server))

    disk.flush()

    assert disk.is_safe(before)
    assert not disk.is_safe(meanwhile[0])


def test_a_crash_takes_what_was_not_on_the_disk(server, disk):
    safe = disk.committed(disk.server)
    disk.flush()
    lost = disk.committed(disk.server)
    assert not disk.is_lost(lost)

    server.server = 2

    assert disk.is_lost(lost)
    assert not disk.is_lost(safe)


def test_a_flush_after_a_crash_does_not_make_safe_what_the_server_before_had(server, disk):
    """
    Also where it crashes during the flush, which is then sent to the next one.
    """
    lost = disk.committed(disk.server)

    def crash():
        server.server = 2

    server.during = crash
    disk.flush()

    assert disk.is_lost(lost)


def test_a_statement_that_waits_for_the_disk_is_a_flush(disk):
    before = disk.committed(disk.server)
    mark = disk.mark()
    after = disk.committed(disk.server)

    disk.flushed(mark)

    assert disk.is_safe(before)
    assert not disk.is_safe(after)


def test_who_asks_during_a_flush_waits_for_the_next_one_together_with_others(server, disk):
    is_begun, may_end = threading.Event(), threading.Event()

    def wait():
        is_begun.set()
        may_end.wait(10)

    server.during = wait
    threads = [threading.Thread(target=disk.flush) for _ in range(5)]
    threads[0].start()
    is_begun.wait(10)
    commit = disk.committed(disk.server)
    for thread in threads[1:]:
        thread.start()
    while sum(thread.is_alive() for thread in threads) < 5:
        pass
    may_end.set()
    for thread in threads:
        thread.join(10)

    assert disk.is_safe(commit)
    assert 2 <= server.flushes <= 5


def test_a_flush_that_fails_makes_nothing_safe_and_the_next_one_may_succeed(server, disk):
    commit = disk.committed(disk.server)

    def fail():
        raise OSError("the server is away")

    server.during = fail
    with pytest.raises(OSError, match="away"):
        disk.flush()
    assert not disk.is_safe(commit)

    server.during = lambda: None
    disk.flush()

    assert disk.is_safe(commit)


def test_what_was_written_after_a_cut_that_was_lost_is_kept_though_it_is_on_the_disk(server, disk):
    """
    Cutting the file again takes it away.
    """
    unsafe = Unsafe(disk)
    unsafe.wrote(disk.committed(disk.server), [(0, 10)])
    disk.flush()
    unsafe.cut(disk.committed(disk.server), 0)
    server.server = 2
    unsafe.wrote(disk.committed(disk.server), [(10, 20)])
    disk.flush()

    assert unsafe.has_cut
    assert unsafe.forget_safe() == [(0, 10)]
    assert unsafe.take_lost() == ([], 0)

    assert unsafe.written == [(10, 20)]
