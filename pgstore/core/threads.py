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

_LOG: Final = logging.getLogger("pgstore")


def is_ending() -> bool:
    """Whether the interpreter is past its `atexit` functions: finalisers run, and other threads do not any more."""
    return sys.is_finalizing()


def start(thread: threading.Thread) -> None:
    """
    Start *thread* in an empty context: the caller's transaction is none of its.

    Raises:
        RuntimeError: the interpreter is about to end, or out of threads.
    """
    if is_ending():  # Python would wait for a thread that never runs
        raise RuntimeError("no thread can be started while the interpreter ends")
    Context().run(thread.start)


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
