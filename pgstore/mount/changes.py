"""What has changed lately: of which inodes attributes that were read a while ago are not to be given to the kernel any more.

It knows of what is written through the mount, and was told to forget what others have changed. If it is then given attributes as
they were before, since they were being read meanwhile, it believes those.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

REMEMBERED_MAX: Final = 10_000


class RecentChanges:
    """Its methods wait for nobody. A change is noted when whoever reads finds what is new, and before the kernel is told."""

    def __init__(self, remembered_max: int = REMEMBERED_MAX) -> None:
        self._remembered_max = remembered_max
        self._lock = threading.Lock()
        self._last: OrderedDict[int, int] = OrderedDict()  # when each inode changed last
        self._all_before = 0  # when all may have changed
        self.now = 0
        """The number of changes so far, to be noted before something is read."""

    def note(self, ino: int) -> None:
        with self._lock:
            self.now += 1
            self._last[ino] = self.now
            self._last.move_to_end(ino)
            if len(self._last) > self._remembered_max:
                _, self._all_before = self._last.popitem(last=False)

    def note_all(self) -> None:
        with self._lock:
            self.now += 1
            self._all_before = self.now
            self._last.clear()

    def all_since(self, then: int) -> bool:
        """Whether any inode may have changed after *then*."""
        return self._all_before > then

    def since(self, ino: int, then: int) -> bool:
        """Whether *ino* may have changed after *then*."""
        return self._all_before > then or self._last.get(ino, 0) > then
