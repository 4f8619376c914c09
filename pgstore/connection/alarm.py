"""A bound for statements on a connection of the caller's, whose waiting is psycopg's.

A thread looks now and then at those that have one (a thread for each would cost as much as the statement): it asks the server to
cancel, and where that is of no use closes the socket under the statement. The connection is of no more use then, to anybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from types import TracebackType
from typing import Any, Final

import psycopg

from pgstore.connection import cancel_seconds
from pgstore.core import limit
from pgstore.core.clock import monotonic
from pgstore.core.threads import start

_LOOK_SECONDS: Final = 0.1
_LINGER_SECONDS: Final = 10.0  # without anything to look at

_set: Final[set[Alarm]] = set()
_starting = threading.RLock()  # reentrant: a signal handler may come in
_watcher: threading.Thread | None = None


class Alarm:
    """Ends what is done on *connection* in the `with` block when the time of the call is over (`core.limit`)."""

    __slots__ = ("_at", "_bound", "_cancelled", "_connection", "_lock", "_over", "_seconds")

    def __init__(self, connection: Any) -> None:
        seconds = limit.wait_seconds()
        self._bound = None if seconds is None else limit.current()
        if seconds is None or self._bound is None:
            return
        self._connection = connection
        self._at = monotonic() + seconds
        self._seconds = cancel_seconds()
        self._cancelled = self._over = False
        self._lock = threading.Lock()  # what comes after the block is not cancelled

    def __enter__(self) -> None:
        if self._bound is not None:
            _set.add(self)
            if _watcher is None:
                _begin_to_watch()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bound is not None:
            _set.discard(self)
            with self._lock:
                self._over = True

    def look(self) -> None:
        """Ring if it is time."""
        if monotonic() < self._at:
            return
        with self._lock, contextlib.suppress(psycopg.Error, OSError):
            # An interrupt may have come as the block began or ended: its call has no bound any more, and nothing is under way.
            if self._over or self._bound is None or self._bound.at is None:
                _set.discard(self)
            elif not self._cancelled:
                self._cancelled = True
                self._at = monotonic() + self._seconds
                cancelling = self._connection.cancel_safe(timeout=self._seconds)
                if asyncio.iscoroutine(cancelling):
                    asyncio.run(cancelling)
            else:
                _set.discard(self)
                with socket.socket(fileno=os.dup(self._connection.fileno())) as wire:
                    wire.shutdown(socket.SHUT_RDWR)


def _begin_to_watch() -> None:
    global _watcher
    with _starting:
        if _watcher is None:
            watcher = threading.Thread(target=_watch, name="pgstore-alarm", daemon=True)
            with contextlib.suppress(RuntimeError):  # the interpreter is about to end
                start(watcher)
                _watcher = watcher


def _watch() -> None:
    global _watcher
    used_at = monotonic()
    while True:
        time.sleep(_LOOK_SECONDS)
        for alarm in tuple(_set):
            used_at = monotonic()
            alarm.look()
        if monotonic() > used_at + _LINGER_SECONDS:
            with _starting:
                watcher, _watcher = _watcher, None
                if not _set:
                    return
                _watcher = watcher  # one was set before it could see that nobody looks


def _forget_after_fork() -> None:
    global _starting, _watcher
    _starting, _watcher = threading.RLock(), None
    _set.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
