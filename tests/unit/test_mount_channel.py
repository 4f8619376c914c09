"""The channel to the kernel: how its next request is waited for."""

from __future__ import annotations

import socket

import pytest

from pgstore.core import clock
from pgstore.mount import channel, kernel
from pgstore.mount.channel import Channel, Request

STEP = channel.AWAKE_SECONDS / 10


class Kernel:
    """The other side, which asks for something after a number of looks, each of which takes a tenth of the time spent awake."""

    def __init__(self, monkeypatch, device, theirs):
        self.channel = Channel(device)
        self._theirs = theirs
        self._look = self.channel._poll
        self._now = 0.0
        self._looks = self._asks_after = 0
        monkeypatch.setattr(clock, "monotonic", lambda: self._now)
        monkeypatch.setattr(self.channel, "_poll", self._looked)

    def _looked(self, milliseconds):
        assert milliseconds == 0
        self._now += STEP
        self._looks += 1
        if self._looks == self._asks_after:
            self._ask()
        return self._look(0)

    def _ask(self):
        self._theirs.send(kernel.IN_HEADER.pack(kernel.IN_HEADER.size, kernel.STATFS, 2, 1, 0, 0, 1))

    def looks(self, *, asks_after=0):
        """How often it is looked for a request, which comes after so many looks; 0: when nobody looks any more."""
        self._looks, self._asks_after = 0, asks_after
        if not asks_after:
            self.channel._wait_awake()
            self._ask()
            self.channel._sleeps_left += 1  # `read` itself is not to look
        request = Request()
        assert self.channel.read(request)
        assert request.opcode == kernel.STATFS
        return self._looks


@pytest.fixture
def asking(monkeypatch):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield Kernel(monkeypatch, ours.fileno(), theirs)


def test_a_request_that_comes_soon_is_found_awake(asking):
    assert [asking.looks(asks_after=3) for _ in range(5)] == [3] * 5


def test_who_looks_in_vain_sleeps_and_does_not_look_the_next_times(asking):
    looks = [asking.looks() for _ in range(300)]

    assert looks[0] > 0
    assert sum(count > 0 for count in looks) < 10


def test_it_is_looked_more_often_again_where_requests_come_soon(asking):
    for _ in range(50):
        asking.looks()
    tries = 0
    while asking.channel._sleeps:
        asking.channel._sleeps_left = 0  # it is its turn to look
        asking.looks(asks_after=1)
        tries += 1

    assert 0 < tries < 10
    assert [asking.looks(asks_after=2) for _ in range(5)] == [2] * 5


def test_who_is_about_to_sleep_says_so_and_who_finds_a_request_awake_does_not(asking):
    sleeps = []
    asking._looks, asking._asks_after = 0, 3
    assert asking.channel.read(Request(), lambda: sleeps.append("found"))

    def slept():
        sleeps.append("slept")
        asking._ask()

    asking._looks, asking._asks_after = 0, 0
    assert asking.channel.read(Request(), slept)

    assert sleeps == ["slept"]
