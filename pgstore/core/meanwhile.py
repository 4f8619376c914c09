"""Serving others while one waits: a thread that serves goes on to let another one serve only when there is something to be served.

Waking another thread before each call that might wait costs more than most of these calls take. So who serves says what others
would ask by (`Attention`), turns that on for the length of a call, and whatever waits on its behalf looks at both: the answer to a
statement mostly comes first.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

_CURRENT: Final[ContextVar[Attention | None]] = ContextVar("pgstore_attention", default=None)


class Attention:
    """
    What a thread attends to while it waits for something else.

    Args:
        fd: can be read from once somebody asks for something.
        let_go: has another thread attend to it, if there is one.
    """

    def __init__(self, fd: int, let_go: Callable[[], object]) -> None:
        self._fd = fd
        self._let_go = let_go
        self._poller = select.poll()
        self._poller.register(fd, select.POLLIN)
        self.is_on = False

    def attend(self) -> None:
        """This is what the present thread attends to, whenever it is on."""
        _CURRENT.set(self)

    def wait_for(self, socket: int, events: int, milliseconds: float | None) -> bool | None:
        """
        Wait for *events* of *socket*, at most so many *milliseconds*; None: for ever.

        Returns whether they have come; None: nothing is attended to any more, and they may or may not.
        """
        poller = self._poller
        poller.register(socket, events)
        try:
            ready = poller.poll(milliseconds)
        finally:
            poller.unregister(socket)
        if any(fd == self._fd for fd, _ in ready):
            self.let_go()
            return None
        return bool(ready)

    def is_asked(self) -> bool:
        """Whether there is something to be attended to."""
        return bool(self._poller.poll(0))

    def let_go(self) -> None:
        """Have another thread attend to it, which this one does not any more."""
        if self.is_on:
            self.is_on = False
            self._let_go()


def current() -> Attention | None:
    """What the present thread attends to."""
    attention = _CURRENT.get()
    return attention if attention is not None and attention.is_on else None


def let_go() -> None:
    """The present thread is about to wait for other threads, or for long."""
    attention = current()
    if attention is not None:
        attention.let_go()
