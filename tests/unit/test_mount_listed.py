"""When the kernel may list a directory from its own memory."""

from __future__ import annotations

import pytest

from pgstore.core import clock
from pgstore.mount.listed import CHANGES_MAX, DIRECTORIES_MAX, Listed


@pytest.fixture
def now(monkeypatch):
    """A clock: `now[0]`."""
    now = [100.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def listed(now):
    """Directory 7 was opened, in state "a"."""
    listed = Listed()
    assert not listed.open(7, "a", 60.0)
    return listed


def test_a_listing_is_used_again_while_the_directory_is_in_its_state(listed):
    assert listed.open(7, "a", 60.0)
    assert not listed.open(7, "b", 60.0)
    assert listed.open(7, "b", 60.0)
    assert not listed.open(8, "b", 60.0)


def test_a_listing_is_used_for_half_the_time_of_its_attributes_however_often_it_is(listed, now):
    now[0] += 29
    assert listed.open(7, "a", 60.0)
    now[0] += 2

    assert not listed.open(7, "a", 60.0)
    assert listed.open(7, "a", 60.0)


def test_a_listing_is_not_used_when_asking_for_what_changed_costs_more(listed):
    listed.note_changes(CHANGES_MAX)
    assert listed.open(7, "a", 60.0)
    listed.note_changes(1)

    assert not listed.open(7, "a", 60.0)
    assert listed.open(7, "a", 60.0)


def test_what_was_forgotten_is_listed_anew(listed):
    listed.open(8, "a", 60.0)
    listed.forget([7, 9])
    assert not listed.open(7, "a", 60.0)

    assert listed.forget_all() == [8, 7]
    assert not listed.open(8, "a", 60.0)


def test_the_directories_opened_last_are_known(listed):
    for number in range(DIRECTORIES_MAX):
        listed.open(100 + number, "a", 60.0)

    assert 7 not in listed
    assert listed.open(100, "a", 60.0)
