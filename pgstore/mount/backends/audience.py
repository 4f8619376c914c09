"""Whether anybody listens to what a mount changes. Mostly nobody does, and then nothing is told: it would come back to us alone.

Who begins to listen says so. Then we tell again, and once that anything may have changed: what was done silently before that is
over by then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from pgstore.core import clock
from pgstore.core.operation import Op
from pgstore.fs.notifications import FileChanges

_LOOK_SECONDS: Final = 5.0  # between looks whether all others have left


class Audience:
    """
    Args:
        run: runs an operation in the name of the mount.
    """

    def __init__(self, run: Callable[[Op[Any]], Any]) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._is_ending = False  # somebody waits until nothing is done silently any more
        self._is_away = False
        self._is_owed = False  # something was done silently, and nobody was told since that it may have been anything
        self._silent = 0  # operations under way
        self._look_at = 0.0

    def begin(self) -> bool:
        """Something is to be done. Returns whether it is told to nobody; then `end` is to be called after it."""
        with self._lock:
            self._silent += self._is_away
            return self._is_away

    def end(self) -> None:
        with self._lock:
            self._silent -= 1
            if self._is_ending:
                self._changed.notify_all()

    def look(self, changes: FileChanges) -> None:
        """Find out whether anybody else listens, if nobody has for a while. By the thread that listens."""
        if self._is_away:
            if not changes.is_heard:  # nor would we hear of who begins to listen
                self.comes(changes)
        elif changes.is_heard and clock.monotonic() >= self._look_at:
            self._look_at = clock.monotonic() + _LOOK_SECONDS
            if self._run(changes.is_sole()):
                with self._lock:
                    self._is_away = self._is_owed = True

    def begins(self, changes: FileChanges) -> None:
        """We have begun to listen, perhaps anew."""
        if self._is_owed:  # who began while we did not has missed something
            self.comes(changes)

    def comes(self, changes: FileChanges) -> None:
        """Somebody may have begun to listen."""
        self.ends()
        self._look_at = clock.monotonic() + _LOOK_SECONDS
        if not self._is_owed:
            return
        self._run(changes.tell_anything())
        with self._lock:
            was_silent = self._silent > 0
            self._is_ending = True
            self._changed.wait_for(lambda: not self._silent)
            self._is_ending = False
        if was_silent:
            self._run(changes.tell_anything())
        self._is_owed = False

    def ends(self) -> None:
        """Who begins to listen is not heard of any more: tell of everything."""
        with self._lock:
            self._is_away = False
