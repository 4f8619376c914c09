"""Waiting awake: only as long as it pays."""

from __future__ import annotations

import pytest

from pgstore.connection import spin_wait
from pgstore.connection.spin_wait import AWAKE_SECONDS, SLEEPS_MAX, SpinWait
from pgstore.core import clock, meanwhile
from pgstore.core.meanwhile import Attention
from pgstore.core.statement import Statement

STEP = AWAKE_SECONDS / 10


class Server:
    """A connection whose answers come after a number of looks; each look takes a tenth of the time that is spent awake."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.looks = 0
        self.answers_after = 0
        monkeypatch.setattr(clock, "monotonic", lambda: self.now)

    def consume_input(self):
        self.looks += 1
        self.now += STEP

    def is_busy(self):
        return self.looks < self.answers_after

    def ask(self, spin, statement, *, answers_after):
        """Whether the answer was caught, and after how many looks."""
        self.looks, self.answers_after = 0, answers_after
        return spin.catch(self, statement), self.looks


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(SpinWait, "_latest", None)
    return Server(monkeypatch)


@pytest.fixture
def spin(server):
    """Of the only connection that is in use."""
    spin = SpinWait()
    server.ask(spin, Statement("SELECT"), answers_after=1)
    return spin


def test_an_answer_that_comes_at_once_is_awaited_awake(server, spin):
    quick = Statement("SELECT 1")

    assert [server.ask(spin, quick, answers_after=3) for _ in range(100)] == [(True, 3)] * 100


def test_for_a_statement_that_takes_long_nobody_stays_awake(server, spin):
    """
    But for one time in a thousand, to see whether it is still so.
    """
    slow = Statement("SELECT pg_sleep(1)")
    awake = [server.ask(spin, slow, answers_after=1_000_000)[1] > 0 for _ in range(5 * SLEEPS_MAX)]

    assert awake[0]
    assert awake[:SLEEPS_MAX].count(True) < 12
    assert awake[-SLEEPS_MAX:].count(True) <= 1


def test_in_vain_no_more_time_is_spent_than_asleep(server, spin):
    began = server.now
    assert server.ask(spin, Statement("SELECT pg_sleep(1)"), answers_after=1_000_000) == (
        False,
        pytest.approx(11, abs=1),
    )
    assert server.now - began < 1.2 * AWAKE_SECONDS


def test_a_slow_statement_does_not_keep_the_client_from_being_quick_with_another(server, spin):
    slow, quick = Statement("INSERT"), Statement("SELECT 1")

    for _ in range(100):
        server.ask(spin, slow, answers_after=1_000_000)
        assert server.ask(spin, quick, answers_after=2) == (True, 2)


def test_a_statement_that_is_quick_again_is_noticed(server, spin):
    statement = Statement("SELECT 1")
    for _ in range(3000):
        server.ask(spin, statement, answers_after=1_000_000)

    caught = [server.ask(spin, statement, answers_after=2)[0] for _ in range(3 * SLEEPS_MAX)]

    assert caught.count(True) > 2 * SLEEPS_MAX - 10
    assert all(caught[SLEEPS_MAX:])


def test_where_connections_take_turns_nobody_stays_awake(server):
    """
    Two threads: while one looks for its answer the other could not run.
    """
    statement = Statement("SELECT 1")
    one, other = SpinWait(), SpinWait()

    for _ in range(50):
        assert server.ask(one, statement, answers_after=1) == (False, 0)
        assert server.ask(other, statement, answers_after=1) == (False, 0)


def test_statements_of_one_use_are_not_remembered(server, spin):
    """
    Each scan has its own: a connection that remembered them would grow for ever.
    """
    for _ in range(100):
        server.ask(spin, Statement("FETCH FORWARD 100 FROM scan", once=True), answers_after=1_000_000)

    assert not spin._sleeps


class Attending(Attention):
    """Somebody who serves others, who ask for something after a number of looks."""

    def __init__(self, *, asked_after=None):
        self.has_let_go: list[bool] = []
        super().__init__(0, lambda: self.has_let_go.append(True))
        self._looks, self._asked_after = 0, asked_after
        self.is_on = True

    def is_asked(self):
        self._looks += 1
        return self._looks == self._asked_after


@pytest.fixture
def attend(monkeypatch):
    monkeypatch.setattr(spin_wait, "ATTENDING_SECONDS", 5 * AWAKE_SECONDS)

    def attend(attending):
        monkeypatch.setattr(meanwhile, "current", lambda: attending if attending.is_on else None)
        return attending

    return attend


def test_who_serves_those_who_wait_stays_awake_longer(server, spin, attend):
    attend(Attending())

    assert server.ask(spin, Statement("SELECT 1"), answers_after=30) == (True, 30)


def test_who_is_asked_meanwhile_lets_another_serve_and_sleeps(server, spin, attend):
    """
    And nothing is learned from that about how long the answer takes.
    """
    attending = attend(Attending(asked_after=3))
    statement = Statement("SELECT 1")

    assert server.ask(spin, statement, answers_after=30) == (False, 3)
    assert attending.has_let_go == [True]
    assert server.ask(spin, statement, answers_after=2) == (True, 2)
