"""Chores: what stores leave to be done a little later, off every caller's path.

A thread that does them lives as long as there are any, so a client that has nothing left to do has none. A chore that fails is
dropped: it is for the better of others, and nobody waits for it. Renewals of leases are not: what they fail by is tried again.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from pgstore import errors
from pgstore.core import clock
from pgstore.core.operation import Op
from pgstore.core.threads import going_on, is_ending, start

CLOSE_SECONDS: Final = 2.0  # that closing waits for a chore under way


class _Chore(NamedTuple):
    at: float
    make: Callable[[], Op[Any]]
    again_seconds: float | None
    can_wait: bool


class Chores:
    """What a client has to do later."""

    def __init__(self, run: Callable[[Op[Any]], Any]) -> None:
        self._run = run
        self._pid = os.getpid()
        self._left: dict[object, _Chore] = {}
        self._news = threading.Condition(threading.RLock())  # reentrant: a signal handler may come in
        self._thread: threading.Thread | None = None
        self._closed = False

    def leave(
        self,
        key: object,
        chore: Callable[[], Op[Any]],
        seconds: float,
        *,
        again_seconds: float | None = None,
        can_wait: bool = False,
    ) -> bool:
        """
        Let the operation that *chore* makes be run in *seconds*, unless one of this *key* is left already.

        Args:
            again_seconds: if the operation returns False, it is left again for so much later.
            can_wait: when the client is closed before, it is not done; somebody else will.

        Returns:
            False: the client is being closed, and does nothing more.
        """
        if key in self._left:  # without the lock: some are left with every commit
            return True
        if is_ending():
            return False
        with self._news:
            if key in self._left or self._closed:
                return not self._closed
            self._left[key] = _Chore(clock.monotonic() + seconds, chore, again_seconds, can_wait)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="pgstore-chores", daemon=True)
                try:
                    start(self._thread)
                except RuntimeError:  # closing does it
                    self._thread = None
            else:
                self._news.notify()
            return True

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
        for chore in left.values() if do else ():
            if not chore.can_wait:
                with contextlib.suppress(errors.Error):
                    self._run(chore.make())
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_SECONDS)

    def work(self) -> None:
        """Do what is due."""
        while (due := self._take()) is not None:
            key, chore = due
            finished = True
            with going_on("work in the background"):
                finished = self._run(chore.make())
            if finished is False and chore.again_seconds is not None:
                self.leave(
                    key, chore.make, chore.again_seconds, again_seconds=chore.again_seconds, can_wait=chore.can_wait
                )

    def _take(self) -> tuple[object, _Chore] | None:
        """The first that is due."""
        with self._news:
            for key, chore in self._left.items():
                if chore.at <= clock.monotonic() and not self._closed:
                    del self._left[key]
                    return key, chore
        return None

    def _work(self) -> None:
        while self._wait():
            self.work()

    def _wait(self) -> bool:
        """Wait until one is due; False: there is none left, and the thread ends."""
        with self._news:
            while self._left and not self._closed:
                seconds = min(chore.at for chore in self._left.values()) - clock.monotonic()
                if seconds <= 0:
                    return True
                self._news.wait(seconds)
            self._thread = None
            return False
