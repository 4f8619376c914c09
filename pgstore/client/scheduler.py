"""Scheduler: what is to be done a little later, off every caller's path.

There are two lanes, each with a thread that lives as long as there is something to do, so a client that has nothing left to do has
none. What may take long, such as a vacuum, or wait for a lock, goes on the ordinary lane; on the `urgent` one goes what is short,
comes again and again, and must not wait for that: the renewal of leases and locks, the heartbeat, closing idle connections. What is
on the urgent lane waits for nobody's rows, runs on a connection that is to be had even when all are busy (see `connection.pool`),
and has a few seconds for an answer.

A task that fails is dropped: it is for the better of others, and nobody waits for it. One that others depend on says that it is to
be tried again.

A lane does not keep its client alive; the operations that are left on it do.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from pgstore import errors
from pgstore.core import clock
from pgstore.core.operation import Op
from pgstore.core.threads import going_on, is_ending, start

CLOSE_SECONDS: Final = 2.0  # that closing waits for a task under way


class _Task(NamedTuple):
    at: float
    do: Callable[[], Any]
    again_seconds: float | None
    again_after_failure: bool
    can_wait: bool


class Lane:
    """What is done by one thread, in the order in which it is due."""

    def __init__(self, run: Callable[[Op[Any]], Any], name: str) -> None:
        """*run*: a method that runs an operation; *name*: of the thread."""
        self._run = weakref.WeakMethod(run)
        self._name = name
        self._pid = os.getpid()
        self._left: dict[object, _Task] = {}
        self._news = threading.Condition(threading.RLock())  # reentrant: a signal handler may come in
        self._thread: threading.Thread | None = None
        self._closed = False

    def leave(
        self,
        key: object,
        task: Callable[[], Op[Any]],
        seconds: float,
        *,
        again_seconds: float | None = None,
        again_after_failure: bool = False,
        can_wait: bool = False,
    ) -> bool:
        """
        Let the operation that *task* makes be run in *seconds*, unless one of this *key* is left already.

        Args:
            again_seconds: if the operation returns False, it is left again for so much later.
            again_after_failure: also if it fails.
            can_wait: when the client is closed before, it is not done; somebody else will.

        Returns:
            False: the client is being closed, and does nothing more.
        """
        if key in self._left:  # without the lock: some are left with every commit
            return True
        run = self._run()
        if run is None:
            return False
        return self.leave_call(
            key,
            lambda: run(task()),
            seconds,
            again_seconds=again_seconds,
            again_after_failure=again_after_failure,
            can_wait=can_wait,
        )

    def leave_call(
        self,
        key: object,
        function: Callable[[], Any],
        seconds: float,
        *,
        again_seconds: float | None = None,
        again_after_failure: bool = False,
        can_wait: bool = False,
    ) -> bool:
        """`leave`, for a function instead of an operation."""
        if key in self._left:
            return True
        if is_ending():
            return False
        with self._news:
            if key in self._left or self._closed:
                return not self._closed
            at = clock.monotonic() + seconds
            self._left[key] = _Task(at, function, again_seconds, again_after_failure, can_wait)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                try:
                    start(self._thread)
                except RuntimeError:  # closing does it
                    self._thread = None
            else:
                self._news.notify()
            return True

    def drop(self, key: object) -> None:
        """Do not do what is left of this *key*. One that is under way is not waited for, and may leave itself again."""
        with self._news:
            self._left.pop(key, None)
            self._news.notify()  # the thread ends with its last task

    def close(self, *, do: bool = True) -> None:
        """
        Stop, and with *do* do what is left and cannot wait, as far as the server can be reached.

        Nothing in a forked child, which has left nothing.
        """
        if os.getpid() != self._pid:
            return
        with self._news:
            self._closed = True
            left, self._left = self._left, {}
            thread = self._thread
            self._news.notify()
        for task in left.values() if do else ():
            if not task.can_wait:
                with contextlib.suppress(errors.Error):
                    task.do()
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_SECONDS)

    def work(self) -> None:
        """Do what is due."""
        while (due := self._take()) is not None:
            key, task = due
            finished: Any = not task.again_after_failure
            with going_on("work in the background"):
                finished = task.do()
            if finished is False and task.again_seconds is not None:
                self.leave_call(
                    key,
                    task.do,
                    task.again_seconds,
                    again_seconds=task.again_seconds,
                    again_after_failure=task.again_after_failure,
                    can_wait=task.can_wait,
                )

    def _take(self) -> tuple[object, _Task] | None:
        """The first that is due."""
        with self._news:
            for key, task in tuple(self._left.items()):
                if task.at <= clock.monotonic() and not self._closed:
                    del self._left[key]
                    return key, task
        return None

    def _work(self) -> None:
        while self._wait():
            self.work()

    def _wait(self) -> bool:
        """Wait until one is due; False: there is none left, and the thread ends."""
        with self._news:
            while self._left and not self._closed:
                seconds = min(task.at for task in self._left.values()) - clock.monotonic()
                if seconds <= 0:
                    return True
                self._news.wait(seconds)
            self._thread = None
            return False


class Scheduler(Lane):
    """The ordinary lane of a client; `urgent` is the other one."""

    def __init__(self, run: Callable[[Op[Any]], Any], run_urgently: Callable[[Op[Any]], Any]) -> None:
        super().__init__(run, "pgstore-scheduler")
        self.urgent = Lane(run_urgently, "pgstore-scheduler-urgent")

    def close(self, *, do: bool = True) -> None:
        self.urgent.close(do=False)
        super().close(do=do)
