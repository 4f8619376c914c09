"""Directories that the kernel has listed: whether it may list them again from its own memory, without asking.

With the names it was given attributes, which it believes for a time of their own; what it has no attributes of it asks for, file by
file. So a listing is used again only while it spares more than that would cost: while it is young, came with all attributes, and
little of what they say is known to be out of date.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Final, NamedTuple

from pgstore.core import clock

DIRECTORIES_MAX: Final = 4_096
# Files that others have changed since: about as many requests as a listing of ten thousand takes.
CHANGES_MAX: Final = 100


class Listed:
    """Its methods wait for nobody."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[int, _Listing] = OrderedDict()  # the one opened last at the end
        self._changes = 0

    def __contains__(self, directory: int) -> bool:
        return directory in self._known

    def open(self, directory: int, state: Hashable, seconds: float) -> bool:
        """
        *directory* is opened. Returns whether the kernel's listing of it is to be used; if not, the one that it makes now is noted.

        Args:
            state: what is another one whenever the names are others.
            seconds: for which the kernel believes the attributes that it is given.
        """
        now = clock.monotonic()
        with self._lock:
            known = self._known.get(directory)
            if (
                known is not None
                and known.state == state
                and now < known.until
                and self._changes - known.changes <= CHANGES_MAX
            ):
                self._known.move_to_end(directory)
                return True
            # Half of it: whoever lists takes a while until it has asked for the last one.
            self._known[directory] = _Listing(state, now + seconds / 2, self._changes)
            self._known.move_to_end(directory)
            if len(self._known) > DIRECTORIES_MAX:
                self._known.popitem(last=False)
            return False

    def forget(self, directories: Iterable[int]) -> None:
        """What the kernel has of them is not to be used again."""
        with self._lock:
            for directory in directories:
                self._known.pop(directory, None)

    def forget_all(self) -> list[int]:
        """`forget` all. Returns which they are."""
        with self._lock:
            known = list(self._known)
            self._known.clear()
            return known

    def note_changes(self, count: int) -> None:
        """Of *count* files the kernel has to ask for attributes, wherever they are."""
        self._changes += count


class _Listing(NamedTuple):
    state: Hashable
    until: float
    changes: int
