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
from contextvars import Context
from types import TracebackType
from typing import Any, Final

import psycopg

from pgstore.client.links import CUT_OFF_SECONDS
from pgstore.core import limit
from pgstore.core.clock import monotonic

_LOOK_SECONDS: Final = 0.1
_LINGER_SECONDS: Final = 10.0  # without anything to look at

_set: Final[set[Alarm]] = set()
_starting: Final = threading.Lock()
_watcher: threading.Thread | None = None


class Alarm:
    """Ends what is done on *connection* in the `with` block when the time of the call is over (`core.limit`)."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        seconds = limit.patience()
        self._at = None if seconds is None else monotonic() + seconds
        self._cancelled = self._over = False
        self._lock = threading.Lock()  # what comes after the block is not cancelled

    def __enter__(self) -> None:
        if self._at is not None:
            _set.add(self)
            _see_to_it()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._at is not None:
            _set.discard(self)
            with self._lock:
                self._over = True

    def look(self) -> None:
        """Ring if it is time."""
        assert self._at is not None
        if monotonic() < self._at:
            return
        with self._lock, contextlib.suppress(psycopg.Error, OSError):
            if self._over:
                return
            if not self._cancelled:
                self._cancelled = True
                self._at = monotonic() + CUT_OFF_SECONDS
                cancelling = self._connection.cancel_safe(timeout=CUT_OFF_SECONDS)
                if asyncio.iscoroutine(cancelling):
                    asyncio.run(cancelling)
            else:
                _set.discard(self)
                with socket.socket(fileno=os.dup(self._connection.fileno())) as wire:
                    wire.shutdown(socket.SHUT_RDWR)


def _see_to_it() -> None:
    global _watcher
    with _starting:
        if _watcher is None or not _watcher.is_alive():  # not alive: in a forked child
            _watcher = threading.Thread(target=_watch, name="pgstore-alarm", daemon=True)
            Context().run(_watcher.start)


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
                if not _set:
                    _watcher = None
                    return
