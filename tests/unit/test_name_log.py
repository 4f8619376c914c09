"""What was done to names is done again where a crash has taken it, in its order."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from pgstore.mount.backends.name_log import NameLog
from pgstore.mount.contents.disk import Disk


class Server:
    """As a session knows it, with what it has."""

    history = object()

    def __init__(self):
        self.server = 1
        self.there: list[str] = []

    def crash(self):
        self.server += 1
        self.there.clear()


class Shared:
    names_brought_back = 0

    def __init__(self, server):
        self.session = server
        self.disk = Disk(server, lambda: None, 10.0)

    def within_timeout(self, make):
        for request in make():
            raise AssertionError(f"asked for {request}")


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def log(server):
    shared: Any = Shared(server)
    return NameLog(shared)


def make(server, name, *, within=None, first=lambda: None):
    def again():
        first()
        if within is not None and within not in server.there:
            raise OSError(errno.ENOENT, "no such directory")
        server.there.append(name)
        yield from ()

    return again


def test_what_a_crash_has_taken_is_done_again_in_its_order(server, log):
    log.note(1, "d", make(server, "d"))
    log.note(1, "d/f", make(server, "d/f", within="d"))
    server.crash()

    log.bring_back()

    assert server.there == ["d", "d/f"]
    assert not log.is_lost


def test_what_another_crash_takes_meanwhile_is_done_again_as_well(server, log, caplog):
    crashes = [server.crash]
    log.note(1, "d", make(server, "d"))
    log.note(1, "d/f", make(server, "d/f", within="d", first=lambda: crashes.pop()() if crashes else None))
    server.crash()

    log.bring_back()

    assert server.there == ["d", "d/f"]
    assert not log.is_lost
    assert "cannot be done again" not in caplog.text


def test_what_cannot_be_done_again_is_said_once_and_holds_up_nothing(server, log, caplog):
    log.note(1, "gone/f", make(server, "gone/f", within="gone"))
    log.note(1, "f", make(server, "f"))
    server.crash()

    log.bring_back()
    log.bring_back()

    assert server.there == ["f"]
    assert caplog.text.count("has lost gone/f, which cannot be done again") == 1
