"""Serving others while one waits: another thread is asked to only where there is something to be served."""

from __future__ import annotations

import select
import socket

import pytest

from pgstore.core import meanwhile
from pgstore.core.meanwhile import Attention


@pytest.fixture
def pair():
    """Two ends, of what is waited for."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def asking():
    """Two ends, of what others ask by."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def let_go():
    return []


@pytest.fixture
def attention(asking, let_go):
    attention = Attention(asking[0].fileno(), lambda: let_go.append(True))
    attention.is_on = True
    attention.attend()
    yield attention
    attention.is_on = False


def test_what_comes_first_lets_nothing_go(attention, pair, let_go):
    pair[1].send(b"x")

    assert attention.wait_for(pair[0].fileno(), select.POLLIN, 10_000) is True
    assert (let_go, meanwhile.current()) == ([], attention)


def test_what_does_not_come_is_waited_for_so_long(attention, pair, let_go):
    assert attention.wait_for(pair[0].fileno(), select.POLLIN, 1) is False
    assert let_go == []


def test_where_something_is_asked_it_is_let_go_once(attention, asking, pair, let_go):
    asking[1].send(b"x")

    assert attention.wait_for(pair[0].fileno(), select.POLLIN, 10_000) is None
    meanwhile.let_go()

    assert (let_go, meanwhile.current()) == ([True], None)


def test_who_is_about_to_wait_for_something_else_lets_go(attention, let_go):
    meanwhile.let_go()

    assert let_go == [True]


def test_who_attends_to_nothing_lets_nothing_go(attention, let_go):
    attention.is_on = False

    meanwhile.let_go()

    assert (let_go, meanwhile.current()) == ([], None)
