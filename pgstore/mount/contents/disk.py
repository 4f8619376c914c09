"""The server's disk: what of a mount of a NetworkFileSystem is on it, and what a crash of the server would take.

Commits do not wait for the disk. Each is noted with a number that grows and the server that has it. A flush that begins after that,
and finds the same server, brings it to the disk: with it all that has a smaller number. What went to another server, and was not on
the disk before, may be lost: whoever noted it does it again.
"""

from __future__ import annotations

import errno
import itertools
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from pgstore.client.session import Session
from pgstore.core import clock, meanwhile

_SERVERS_MAX: Final = 16  # of which it is known what is on their disk; each is one crash


class Commit(NamedTuple):
    """One that has not waited for the disk."""

    number: int
    server: int | None
    """The server that had it, or one before: as it was known when the statement began."""


class Disk:
    """
    Args:
        flush: returns when all that was committed before is on the disk. It may take as long as the server is waited for.
        seconds: for which one flush waits for another.
    """

    def __init__(self, session: Session, flush: Callable[[], object], seconds: float) -> None:
        self._session = session
        self._flush = flush
        self._seconds = seconds
        self._numbers = itertools.count(1)
        self._changed = threading.Condition(threading.Lock())
        self._is_flushing = False
        self._flushed = 0  # the number with which the last flush began that has ended well
        self._safe: dict[int | None, int] = {}  # by server: what has a smaller number is on its disk
        self.is_unsafe = threading.Event()
        """Something was committed, and nobody has waited for it yet."""

    @property
    def server(self) -> int | None:
        """To be noted before a statement. None: a crash may go unnoticed, and each commit is to wait for the disk."""
        return self._session.server

    def mark(self) -> int:
        """A number greater than those of all commits so far."""
        return next(self._numbers)

    def committed(self, server: int | None) -> Commit:
        """
        Note a commit.

        Args:
            server: `server`, as it was before.
        """
        if not self.is_unsafe.is_set():
            self.is_unsafe.set()
        return Commit(next(self._numbers), server)

    def is_safe(self, commit: Commit) -> bool:
        """Whether it is known to be on the disk."""
        return commit.number < self._safe.get(commit.server, 0)

    def is_lost(self, commit: Commit) -> bool:
        """Whether the server may have lost it."""
        return commit.server != self._session.server and not self.is_safe(commit)

    def flushed(self, mark: int) -> None:
        """A statement has ended that has waited for the disk; *mark* was taken before."""
        server = self._session.server
        with self._changed:
            self._note(mark, server)

    def _note(self, mark: int, server: int | None) -> None:
        self._safe[server] = max(mark, self._safe.pop(server, 0))
        while len(self._safe) > _SERVERS_MAX:
            del self._safe[next(iter(self._safe))]

    def flush(self) -> None:
        """
        Bring to the disk what the server has. Several who ask at once share one statement.

        Raises:
            OSError: EIO: the server was away for too long.
        """
        mine = self.mark()
        give_up = clock.monotonic() + self._seconds
        with self._changed:
            while self._is_flushing:
                meanwhile.let_go()
                if not self._changed.wait(max(0.0, give_up - clock.monotonic())):
                    raise OSError(errno.EIO, "another flush waits for the server for too long")
                if self._flushed > mine:  # it began after this call
                    return
            self._is_flushing = True
        mark = self.mark()
        is_done = False
        try:
            self._flush()
            is_done = True
        finally:
            server = self._session.server
            with self._changed:
                self._is_flushing = False
                if is_done:
                    self._flushed = mark
                    self._note(mark, server)
                self._changed.notify_all()
