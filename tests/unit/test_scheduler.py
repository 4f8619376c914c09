"""The scheduler: two lanes, threads that end with their work, and tasks that are done again."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from pgstore import errors
from pgstore.client.scheduler import Scheduler
from tests.faults.conftest import until


class Runner:
    """Runs operations that ask for nothing."""

    def run(self, op):
        try:
            next(op)
        except StopIteration as done:
            return done.value
        raise AssertionError("an operation of these tests asked for something")


@pytest.fixture
def runner():
    return Runner()


@pytest.fixture
def scheduler(runner):
    scheduler = Scheduler(runner.run, runner.run)
    yield scheduler
    scheduler.close(do=False)


def op(function):
    def make():
        return function()
        yield

    return make


def test_a_long_task_does_not_keep_what_is_urgent_waiting(scheduler):
    """
    A vacuum may take minutes, and a lease has ended by then.
    """
    release, renewed = threading.Event(), threading.Event()
    scheduler.leave("vacuum", op(release.wait), 0.0)

    scheduler.urgent.leave("lease", op(renewed.set), 0.0)

    assert renewed.wait(20)
    release.set()


def test_threads_end_with_their_work(scheduler):
    done = threading.Event()
    scheduler.urgent.leave("a", op(done.set), 0.0)
    assert done.wait(20)

    until(lambda: scheduler.urgent._thread is None)
    assert scheduler._thread is None


def test_what_is_not_done_yet_is_done_again(scheduler):
    results = [False, False, True]
    scheduler.leave("a", op(lambda: results.pop(0)), 0.0, again_seconds=0.0)

    until(lambda: scheduler._thread is None)
    assert results == []


@pytest.mark.parametrize("again", [False, True])
def test_what_fails_is_dropped_unless_others_depend_on_it(scheduler, again):
    calls = []

    def fail():
        calls.append(1)
        if len(calls) < 3:
            raise errors.StoreUnavailable("away")
        return True

    scheduler.urgent.leave_call("a", fail, 0.0, again_seconds=0.0, again_after_failure=again)

    until(lambda: scheduler.urgent._thread is None)
    assert len(calls) == (3 if again else 1)


def test_what_was_dropped_is_not_done(scheduler):
    scheduler.urgent.leave_call("a", lambda: pytest.fail("done"), 60.0)

    scheduler.urgent.drop("a")

    scheduler.urgent.drop("a")
    assert scheduler.urgent._left == {}


def test_closing_does_what_cannot_wait_and_nothing_after_that(scheduler):
    done = []
    scheduler.leave("now", op(lambda: done.append("now")), 60.0)
    scheduler.leave("later", op(lambda: done.append("later")), 60.0, can_wait=True)
    scheduler.urgent.leave("lease", op(lambda: done.append("lease")), 60.0)

    scheduler.close()

    assert done == ["now"]
    assert not scheduler.leave("more", op(lambda: None), 0.0)
    assert not scheduler.urgent.leave("more", op(lambda: None), 0.0)


def test_a_lane_does_not_keep_its_client_alive_but_an_operation_that_is_left_does():
    """
    A client that was dropped without being closed ends with its connections, and not only when they have been idle for long.
    """
    runner = Runner()
    scheduler, ends = Scheduler(runner.run, runner.run), weakref.ref(runner)
    scheduler.urgent.leave_call("idle", lambda: True, 60.0)
    scheduler.leave("counts", op(lambda: None), 60.0)
    del runner
    gc.collect()
    assert ends() is not None

    scheduler.drop("counts")
    until(lambda: gc.collect() is None or ends() is None)

    assert not scheduler.leave("more", op(lambda: None), 0.0)
    scheduler.close()
