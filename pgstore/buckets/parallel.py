"""What the files of all buckets share in this process: threads that make requests, and the memory for what they carry.

So the memory does not grow with the number of open files: each has one part under way at any time, and more only while the common
budget has room for them.
"""

from __future__ import annotations

import os
import threading
from typing import Final

from pgstore.core.workers import Workers

PART_BYTES: Final = 8 << 20
"""Of objects that are read or written in several requests at a time."""
THREADS_MAX: Final = 16
BUDGET_BYTES: Final = 64 << 20


class Budget:
    """So many bytes, taken and given back."""

    def __init__(self, size_bytes: int) -> None:
        self._free = size_bytes
        self._lock = threading.Lock()

    def take(self, size_bytes: int) -> bool:
        """Take so many bytes; False: there are not as many."""
        with self._lock:
            if size_bytes > self._free:
                return False
            self._free -= size_bytes
        return True

    def give(self, size_bytes: int) -> None:
        with self._lock:
            self._free += size_bytes

    @property
    def free_bytes(self) -> int:
        return self._free


class Shared:
    def __init__(self) -> None:
        self.workers = Workers(THREADS_MAX, "pgstore-bucket")
        self.budget = Budget(BUDGET_BYTES)


_shared = Shared()


def shared() -> Shared:
    """What all buckets of this process share."""
    return _shared


def _after_fork_in_child() -> None:
    global _shared
    _shared = Shared()  # the threads were not taken along


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
