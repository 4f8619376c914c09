"""Chores: what stores leave to be done a little later, off every caller's path.

A thread that does them lives as long as there are any, so a client that has nothing left to do has none. What is left when the
client is closed is done then. A chore that fails is dropped: it is for the better of others, and nobody waits for it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any

from pgstore import errors
from pgstore.core.clock import monotonic
from pgstore.core.operation import Op

if TYPE_CHECKING:
    from pgstore.client import Client

CLOSE_SECONDS = 2.0  # that closing waits for a chore under way


class Chores:
    """What a client has to do later."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._pid = os.getpid()
        self._left: dict[object, tuple[float, Callable[[], Op[Any]]]] = {}  # by key: when, and what
        self._news = threading.Condition(threading.RLock())  # reentrant: a signal handler may come in
        self._thread: threading.Thread | None = None
        self._closed = False

    def leave(self, key: object, chore: Callable[[], Op[Any]], seconds: float) -> bool:
        """
        Let the operation that *chore* makes be run in *seconds*, unless one of this *key* is left already.

        False: the client is being closed, and does nothing more.
        """
        with self._news:
            if key in self._left or self._closed:
                return not self._closed
            self._left[key] = (monotonic() + seconds, chore)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="pgstore-chores", daemon=True)
                try:
                    # In an empty context: the caller's transaction is none of ours.
                    Context().run(self._thread.start)
                except RuntimeError:  # the interpreter is about to exit, or out of threads: closing does it
                    self._thread = None
            else:
                self._news.notify()
            return True

    def close(self, *, do: bool = True) -> None:
        """
        Stop, and with *do* do what is left, as far as the server can be reached.

        Nothing in a forked child, which has left nothing.
        """
        if os.getpid() != self._pid:
            return
        with self._news:
            self._closed = True
            left, self._left = self._left, {}
            thread = self._thread
            self._news.notify()
        for _, chore in left.values() if do else ():
            with contextlib.suppress(errors.Error):
                self._client.run(chore())
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_SECONDS)

    def _work(self) -> None:
        while (chore := self._next()) is not None:
            with contextlib.suppress(errors.Error):
                self._client.run(chore())

    def _next(self) -> Callable[[], Op[Any]] | None:
        """Wait for the first chore that is due; None: there is none left."""
        with self._news:
            while self._left and not self._closed:
                key, (when, chore) = min(self._left.items(), key=lambda item: item[1][0])
                if when <= monotonic():
                    del self._left[key]
                    return chore
                self._news.wait(when - monotonic())
            self._thread = None
            return None
