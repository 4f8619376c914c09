"""Waiting in a thread that may be interrupted."""

from __future__ import annotations

import contextlib
import signal
import threading
import time

import pytest

from pgstore.core.threads import Signal


class Interrupted(Exception):
    """What the handler raises, as Ctrl-C does a KeyboardInterrupt."""


@pytest.fixture
def alarmed():
    """SIGALRM interrupts the main thread."""

    def interrupt(*_):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    yield
    with contextlib.suppress(Interrupted):
        signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_an_interrupt_of_a_wait_is_what_comes_out_of_it(alarmed):
    """
    Of a wait for a `threading.Event` about one in 1,500 is a RuntimeError instead.
    """
    interrupts = 0
    give_up = time.monotonic() + 20
    while interrupts < 15_000 and time.monotonic() < give_up:
        event = Signal()
        try:
            signal.setitimer(signal.ITIMER_REAL, 1e-5 + interrupts % 60 * 1e-6)
            for _ in range(200):
                event.wait(2e-5)
        except Interrupted:
            interrupts += 1

    assert interrupts > 1_000


def test_all_who_wait_are_let_through():
    event = Signal()
    through = []
    threads = [threading.Thread(target=lambda: through.append(event.wait(30))) for _ in range(4)]
    for thread in threads:
        thread.start()

    event.set()

    for thread in threads:
        thread.join(30)
    assert through == [True] * 4


def test_it_can_be_cleared_and_waited_for_again():
    event = Signal()
    event.set()
    event.set()
    assert event.wait(0)
    assert event.wait(0)

    event.clear()

    assert not event.wait(0.01)
    assert not event.is_set()
    event.set()
    assert event.wait(30)
