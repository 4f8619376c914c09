"""Locks of whole files that exclude programs at other mounts: flock(2) by rows that expire.

A row is one open file's. The mount renews those that it has; of a mount that is gone they expire within half a minute. Whoever
waits asks again, soon at first.
"""

from __future__ import annotations

import errno
import logging
import secrets
import threading
from typing import Final

from pgstore.core.operation import Op, Query
from pgstore.core.statement import Statement
from pgstore.mount.contents.shared import Shared
from pgstore.mount.protocol import Lock

_LOG: Final = logging.getLogger("pgstore")
LEASE_SECONDS: Final = 30.0
RENEW_SECONDS: Final = 8.0
_FIRST_PAUSE_SECONDS: Final = 0.01
_PAUSE_SECONDS_MAX: Final = 0.25

# Locks the inode, and so waits for who is just writing to the file.
TAKE = Statement("SELECT pgstore.file_lock($1, $2, $3, $4, $5)", "int8 int8 text bool float8")
RELEASE = Statement(
    "DELETE FROM pgstore.file_lock WHERE store_id = $1 AND ino = $2 AND holder = $3", "int8 int8 text", repeatable=True
)
# Returns which there are still.
RENEW = Statement(
    """
    UPDATE pgstore.file_lock
       SET expires_at = statement_timestamp() + $4 * interval '1 second'
     WHERE store_id = $1
       AND (ino, holder) IN (SELECT u.ino, u.holder FROM unnest($2, $3) AS u (ino, holder))
    RETURNING holder
    """,
    "int8 int8[] text[] float8",
    repeatable=True,
)


class _Held:
    """A lock that was taken."""

    __slots__ = ("ino",)

    def __init__(self, ino: int) -> None:
        self.ino = ino


class SharedLocks:
    """The locks that one mount has."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._mutex = threading.Lock()
        self._held: dict[str, _Held] = {}  # by holder

    def new_holder(self) -> str:
        return f"{self._shared.origin}/{secrets.token_hex(8)}"

    def take(self, ino: int, holder: str, lock: Lock, given_up: threading.Event | None) -> bool:
        """
        Have *lock* in place of what *holder* has. Returns False if others keep it from that: at once, or once *given_up* is set.

        Raises:
            OSError: ESTALE: there is no such file any more; EIO: the server is away.
        """
        if lock is Lock.NONE:
            self.release(ino, holder)
            return True
        pause = _FIRST_PAUSE_SECONDS
        while True:
            is_taken = self._shared.persistently(lambda: self._take(ino, holder, lock))
            if is_taken is None:
                raise OSError(errno.ESTALE, "the file is not there any more")
            if is_taken:
                self._keep(ino, holder)
                return True
            if given_up is None or given_up.wait(pause):
                return False
            pause = min(2 * pause, _PAUSE_SECONDS_MAX)

    def _take(self, ino: int, holder: str, lock: Lock) -> Op[bool | None]:
        is_exclusive = lock is Lock.EXCLUSIVE
        ((is_taken,),) = yield Query(TAKE, self._shared.store_id, ino, holder, is_exclusive, LEASE_SECONDS)
        return is_taken  # type: ignore[no-any-return]

    def release(self, ino: int, holder: str) -> None:
        with self._mutex:
            if self._held.pop(holder, None) is None:
                return
        self._shared.persistently(lambda: self._release(ino, holder))

    def _release(self, ino: int, holder: str) -> Op[None]:
        yield Query(RELEASE, self._shared.store_id, ino, holder)

    def _keep(self, ino: int, holder: str) -> None:
        with self._mutex:
            is_first = not self._held
            self._held[holder] = _Held(ino)
        if is_first:
            self._shared.client.scheduler.urgent.leave(
                self, self._renew, RENEW_SECONDS, again_seconds=RENEW_SECONDS, again_after_failure=True, can_wait=True
            )

    def _renew(self) -> Op[bool]:
        """Renew all; True: there is none left."""
        with self._mutex:
            held = dict(self._held)
        if not held:
            return True
        rows = yield Query(
            RENEW, self._shared.store_id, [each.ino for each in held.values()], list(held), LEASE_SECONDS
        )
        for holder in held.keys() - {row[0] for row in rows}:
            with self._mutex:
                is_lost = self._held.get(holder) is held[holder]  # not given back, and not taken anew meanwhile
                if is_lost:
                    del self._held[holder]
            if is_lost:
                _LOG.warning(
                    "the lock of a file (inode %d) was lost: it was not renewed for %g s",
                    held[holder].ino,
                    LEASE_SECONDS,
                )
        return False
