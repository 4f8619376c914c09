"""On which core a thread runs that serves others."""

from __future__ import annotations

import os
import threading
from functools import partial

import pytest

from pgstore.core import affinity, clock, threads
from pgstore.core.affinity import ANSWER_SECONDS, ANSWERS, Following

CORES = sorted(os.sched_getaffinity(0))
pytestmark = pytest.mark.skipif(len(CORES) < 2, reason="needs two cores to choose from")


class Program:
    """A thread that stays on one core."""

    def __init__(self):
        self.core: int | None = CORES[0]
        self.number = 0
        self._told, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.moves_to(self.core)

    def _run(self):
        self.number = threading.get_native_id()
        while self._told.acquire() and self.core is not None:
            os.sched_setaffinity(0, (self.core,))
            self._done.release()

    def moves_to(self, core):
        self.core = core
        self._told.release()
        self._done.acquire()

    def end(self):
        if not self._thread.is_alive():
            return
        self.core = None
        self._told.release()
        self._thread.join()
        while os.path.exists(f"/proc/{self.number}"):  # the system's thread ends a moment later
            os.sched_yield()


@pytest.fixture
def programs():
    """Two, on the first core."""
    both = Program(), Program()
    yield both
    for each in both:
        each.end()


@pytest.fixture
def following(monkeypatch):
    """Whom this thread serves, by a clock that stands."""
    monkeypatch.setattr(clock, "monotonic", lambda: 1.0)
    monkeypatch.setattr(os, "sched_getscheduler", lambda _: os.SCHED_OTHER)
    found = Following()
    yield found
    found.free()
    del affinity._LOCAL.following


def serve(following, program, *, times=ANSWERS + 1):
    for _ in range(times):
        following.answered(program.number)


def cores():
    return sorted(os.sched_getaffinity(0))


def test_who_answers_one_program_again_and_again_runs_where_that_runs(following, programs):
    program, _ = programs
    serve(following, program, times=ANSWERS)
    assert cores() == CORES  # not yet

    serve(following, program, times=1)
    assert cores() == CORES[:1]

    program.moves_to(CORES[1])
    serve(following, program, times=ANSWERS)
    assert cores() == CORES[1:2]


def test_who_answers_several_programs_runs_anywhere(following, programs):
    program, another = programs
    serve(following, program)

    following.answered(another.number)
    assert cores() == CORES

    for _ in range(ANSWERS):
        for each in programs:
            following.answered(each.number)
    assert cores() == CORES


@pytest.mark.parametrize("what", ["leave", "free"])
def test_who_waits_for_something_else_runs_anywhere(following, programs, what):
    serve(following, programs[0])

    getattr(following, what)()

    assert cores() == CORES


def test_what_nobody_waits_for_changes_nothing(following, programs):
    for _ in range(ANSWERS):
        serve(following, programs[0], times=1)
        following.answered(0)
        serve(following, programs[0], times=1)

    assert cores() == CORES[:1]


def test_who_asks_seldom_is_not_followed(following, programs, monkeypatch):
    serve(following, programs[0])

    for answer in range(ANSWERS):
        monkeypatch.setattr(clock, "monotonic", partial(float, 1.0 + 2 * ANSWER_SECONDS * answer))
        serve(following, programs[0], times=1)

    assert cores() == CORES


def test_a_program_that_has_ended_is_not_followed_and_the_next_one_is(following, programs):
    ended, program = programs
    serve(following, ended)
    ended.end()
    serve(following, ended, times=ANSWERS)
    assert cores() == CORES

    serve(following, program)
    assert cores() == CORES[:1]


def test_where_the_system_forbids_it_nobody_is_followed(following, programs, monkeypatch):
    asked = []

    def refused(thread, wanted):
        asked.append(wanted)
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", refused)
    serve(following, programs[0], times=10 * ANSWERS)

    assert len(asked) == 1


def test_who_has_real_time_priority_follows_nobody(programs, monkeypatch):
    monkeypatch.setattr(os, "sched_getscheduler", lambda _: os.SCHED_RR)
    following = Following()

    serve(following, programs[0])

    assert cores() == CORES
    del affinity._LOCAL.following


def test_a_thread_that_is_started_meanwhile_may_run_anywhere(following, programs):
    serve(following, programs[0])
    seen = []
    thread = threading.Thread(target=lambda: seen.append(cores()))

    threads.start(thread)
    thread.join()

    assert seen == [CORES]
