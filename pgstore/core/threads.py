"""Threads in the background: how they start, and what they do about failures.

While the interpreter ends no thread runs but the one that ends it. A thread that is started then, or a lock that another one has
in hand, is waited for in vain: see `is_ending`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
from collections.abc import Generator
from contextvars import Context
from typing import Final

from pgstore import errors
from pgstore.core import affinity

_LOG: Final = logging.getLogger("pgstore")


def is_ending() -> bool:
    """Whether the interpreter is past its `atexit` functions: finalisers run, and other threads do not any more."""
    return sys.is_finalizing()


def start(thread: threading.Thread) -> None:
    """
    Start *thread* in an empty context: the caller's transaction is none of its, nor the core on which the caller is kept.

    Raises:
        RuntimeError: the interpreter is about to end, or out of threads.
    """
    if is_ending():  # Python would wait for a thread that never runs
        raise RuntimeError("no thread can be started while the interpreter ends")
    affinity.free()
    Context().run(thread.start)


class Signal:
    """
    An event to wait for, as `threading.Event`, for threads that may be interrupted.

    An interrupt in the wait of a `threading.Event` can come out as a RuntimeError ("release unlocked lock"): that wait is made of
    lines of Python, between which its lock is free. This one is one call. `set` never waits, so finalisers and signal handlers may.
    """

    __slots__ = ("_is_set", "_lock")

    def __init__(self) -> None:
        self._is_set = False
        self._lock = threading.Lock()  # free while it is set
        self._lock.acquire()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self._let_through()

    def clear(self) -> None:
        self._is_set = False
        self._lock.acquire(blocking=False)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is set, at most *seconds*; None: for ever. Returns whether it is."""
        if not self._is_set and self._lock.acquire(timeout=-1 if seconds is None else _bounded(seconds)):
            self._let_through()  # whoever else waits
        return self._is_set

    def _let_through(self) -> None:
        with contextlib.suppress(RuntimeError):  # free already
            self._lock.release()


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), threading.TIMEOUT_MAX)


@contextlib.contextmanager
def going_on(what: str, loop: asyncio.AbstractEventLoop | None = None) -> Generator[None, None, None]:
    """
    Go on after the block whatever fails in it: nobody would notice that a thread in the background has ended.

    A server that cannot be reached is nothing unusual; what else goes wrong is said in the log. A task of *loop* ends with it.
    """
    try:
        yield
    except errors.Error as exc:
        _LOG.debug("%s failed: %s", what, exc)
    except Exception:
        if loop is not None and loop.is_closed():
            raise
        _LOG.warning("%s failed", what, exc_info=True)
