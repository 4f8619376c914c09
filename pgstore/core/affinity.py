"""On which core a thread runs that serves others: on that of the program that waits for it.

The two take turns, and one core passes a turn on in some 3 µs. From one core to another it has to be interrupted, which costs both
more than most answers do, and on a virtual machine several times that. The kernel's scheduler does not know of it: it mostly wakes
a thread on another core, for that one is idle.

Only as long as one program asks for the next thing as soon as it was answered, and what it asks for needs no third: a database that
has the other core is better waited for on the one that the program has left. Whoever falls asleep may be woken on any core, and a
thread that is started may run on any.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Final

from pgstore.core import clock

ANSWERS: Final = 32  # to one program in a row, after which it is looked where that runs
ANSWER_SECONDS: Final = 0.001  # from one to the next on average, at most: else it pays for little

# Of these none lets another of its own priority run before it waits for something: on one core an answer would be read late.
_REAL_TIME: Final = (os.SCHED_FIFO, os.SCHED_RR)

_LOCAL: Final = threading.local()


class Following:
    """Whom the present thread serves. Its methods are called by that thread alone."""

    def __init__(self) -> None:
        self._asker = 0
        self._answers = 0  # to it in a row
        self._since = 0.0
        self._core: int | None = None  # on which the thread is kept
        self._before: set[int] = set()  # those on which it may run else
        self._is_possible = (os.cpu_count() or 1) > 1 and os.sched_getscheduler(0) not in _REAL_TIME
        _LOCAL.following = self

    def answered(self, asker: int) -> None:
        """The thread whose number is *asker* was answered at once; 0: nobody waits for it."""
        if asker != self._asker:
            if asker:
                self.leave()
                self._asker = asker
                self._since = clock.monotonic()
            return
        self._answers += 1
        if self._answers >= ANSWERS and asker:
            now = clock.monotonic()
            if now - self._since > ANSWERS * ANSWER_SECONDS:
                self.free()
            elif self._is_possible:
                self._follow(asker)
            self._answers, self._since = 0, now

    def leave(self) -> None:
        """What is asked for now is nothing that is answered at once."""
        self._asker = self._answers = 0
        self.free()

    def _follow(self, asker: int) -> None:
        try:
            core = _core_of(asker)
            if core == self._core:
                return
            self.free()
            before = os.sched_getaffinity(0)
            if core in before and len(before) > 1:
                os.sched_setaffinity(0, (core,))
                self._core, self._before = core, before
        except FileNotFoundError:  # it has ended
            self.free()
        except OSError:  # the system tells nothing of others, or lets nobody choose
            self.free()
            self._is_possible = False

    def free(self) -> None:
        """Let the thread run where it could before."""
        if self._core is not None:
            self._core = None
            with contextlib.suppress(OSError):  # others have taken those from the process, and given it some
                os.sched_setaffinity(0, self._before)


def free() -> None:
    """Let the present thread run where it could before it followed anybody."""
    following: Following | None = getattr(_LOCAL, "following", None)
    if following is not None:
        following.free()


def _core_of(thread: int) -> int:
    """On which core a thread has run last; proc_pid_stat(5), field 39."""
    with open(f"/proc/{thread}/stat", "rb") as stat:
        return int(stat.read().rpartition(b")")[2].split()[36])
