"""Chores: what operations leave to be done later, by a thread, so that no call takes longer for it.

The thread starts with the first chore that is noted, does what is due, and ends when there is nothing left. A chore noted again
before it was done is done once. It is never urgent: an error leaves it for the next time that somebody notes it.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Final

from pgstore import errors
from pgstore.core import clock
from pgstore.core.operation import Op

if TYPE_CHECKING:
    from pgstore.client import Client

DELAY_SECONDS = 60.0  # from noting to doing: at most one round a minute
AGAIN_SECONDS = 300.0  # to the next round of what was not finished
_PATIENCE_SECONDS: Final = 2.0  # for the round that runs when the client is closed


class Chores:
    """The chores of one client."""

    def __init__(self, client: Client) -> None:
        self._client = weakref.ref(client)  # what is left to be done keeps no client
        self._lock = threading.Lock()
        self._due: dict[Hashable, tuple[float, Callable[[], Op[bool]]]] = {}
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def note(self, key: Hashable, chore: Callable[[], Op[bool]]) -> None:
        """
        Have the operation that *chore* gives run in a minute; again later as long as it returns False.

        It should be a short one, for it is not interrupted: whoever closes the client waits for it, though not for long.
        """
        if key in self._due:  # without the lock: this is called with every commit
            return
        with self._lock:
            if key in self._due or self._closed.is_set():
                return
            self._due[key] = (clock.monotonic() + DELAY_SECONDS, chore)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="pgstore-chores", daemon=True)
                self._thread.start()

    def close(self) -> None:
        self._closed.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_PATIENCE_SECONDS)

    def _work(self) -> None:
        while not self._closed.wait(self._seconds_to_next()):
            self.work()
            with self._lock:
                if not self._due or self._client() is None:
                    self._thread = None
                    return

    def _seconds_to_next(self) -> float:
        with self._lock:
            return max(0.0, min(at for at, _ in self._due.values()) - clock.monotonic())

    def work(self) -> None:
        """Do what is due."""
        with self._lock:
            due = [(key, chore) for key, (at, chore) in self._due.items() if at <= clock.monotonic()]
        client = self._client()
        for key, chore in due:
            if self._closed.is_set() or client is None:
                return
            finished = True
            with contextlib.suppress(errors.Error):
                finished = client.run(chore())
            with self._lock:
                if finished:
                    del self._due[key]
                else:
                    self._due[key] = (clock.monotonic() + AGAIN_SECONDS, chore)
