"""Pins: versions of Volumes and files of NetworkFileSystems that collection must leave alone while this client uses them.

A pin is a row that names the client's session, in `version_pin` or `inode_pin`; it counts as long as that session is alive.
`Pins.keep` takes one and `Pins.release` gives it back; a finaliser, which may run anywhere, leaves that to the background. The same
thing may be kept several times: its row goes with the last.

Safe beside collection, for the row is inserted under a lock of what is kept: whoever collects either finds it locked and leaves
it, or has deleted it already, and then there is nothing left to keep.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Final

from pgstore import errors
from pgstore.client.session import Session, SessionHook
from pgstore.core.operation import Call, Many, Op, Query
from pgstore.core.statement import Statement
from pgstore.core.threads import Signal

# With time to spare: a session is dead after ten minutes without a heartbeat.
_ALIVE: Final = """EXISTS (SELECT
                    FROM pgstore.session s
                   WHERE s.id = $2
                     AND s.heartbeat_at > statement_timestamp() - interval '5 minutes')"""
# Result: whether the session is alive, and whether there is something to keep. Version 0, the Volume as it was made, has no row: it
# can be read as long as version 1, or while there is none.
PIN_VERSION = Statement(
    f"""
    WITH found AS (
         SELECT 1 AS one
           FROM pgstore.volume_version v
          WHERE v.store_id = $1 AND v.version::bigint = greatest($3, 1)
            FOR KEY SHARE
    ), empty AS (
         SELECT 1 AS one
           FROM pgstore.file_system f
          WHERE f.store_id = $1 AND f.head = 0 AND $3 = 0
            FOR SHARE
    ), pinned AS (
         INSERT INTO pgstore.version_pin (store_id, session_id, version)
         SELECT $1, s.id, $3
           FROM pgstore.session s
          WHERE s.id = $2 AND (EXISTS (SELECT FROM found) OR EXISTS (SELECT FROM empty))
             ON CONFLICT DO NOTHING
    )
    SELECT {_ALIVE},
           EXISTS (SELECT FROM found) OR EXISTS (SELECT FROM empty)
    """,
    "int8 int8 int8",
)
PIN_INODE = Statement(
    f"""
    WITH found AS (
         SELECT 1 AS one
           FROM pgstore.inode i
          WHERE i.store_id = $1 AND i.ino::bigint = $3 AND i.version_to = 9223372036854775807
            FOR KEY SHARE
    ), held AS (
         INSERT INTO pgstore.inode_pin (store_id, session_id, ino)
         SELECT $1, s.id, $3
           FROM pgstore.session s
          WHERE s.id = $2 AND EXISTS (SELECT FROM found)
             ON CONFLICT DO NOTHING
    )
    SELECT {_ALIVE}, EXISTS (SELECT FROM found)
    """,
    "int8 int8 int8",
)
UNPIN_VERSION = Statement(
    "DELETE FROM pgstore.version_pin WHERE store_id = $1 AND session_id = $2 AND version = $3", "int8 int8 int8"
)
UNPIN_INODE = Statement(
    "DELETE FROM pgstore.inode_pin WHERE store_id = $1 AND session_id = $2 AND ino = $3", "int8 int8 int8"
)


@dataclass(frozen=True, slots=True)
class Kept:
    """What can be kept: a version of a Volume, or an inode of a NetworkFileSystem."""

    store_id: int
    number: int
    """Of the version or inode."""
    is_version: bool

    @property
    def pin(self) -> Statement:
        return PIN_VERSION if self.is_version else PIN_INODE

    @property
    def unpin(self) -> Statement:
        return UNPIN_VERSION if self.is_version else UNPIN_INODE

    def gone(self) -> errors.Error:
        if self.is_version:
            return errors.VersionGone(f"version {self.number} is not kept any more; versions() lists those that are")
        return errors.StaleFile(
            f"the open file (inode {self.number}) was removed and then collected; nothing of it is left"
        )


def version_of(store_id: int, number: int) -> Kept:
    """A version of a Volume."""
    return Kept(store_id, number, is_version=True)


def inode_of(store_id: int, number: int) -> Kept:
    """A file of a NetworkFileSystem."""
    return Kept(store_id, number, is_version=False)


class Pins(SessionHook):
    """What one session keeps; `pins_of` gives it."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._lock = threading.RLock()  # reentrant: a signal handler may come in
        self._counts: dict[Kept, int] = {}
        self._closing: dict[Kept, Signal] = {}  # whose rows are being deleted
        self._unwanted: deque[Kept] = deque()

    def keep(self, kept: Kept) -> Op[None]:
        """
        Keep *kept* from collection, until `release` or the end of the session. To be run as `Autonomous`, outside the user's
        transaction.

        Raises:
            VersionGone, StaleFile: it was collected already.
        """
        while True:
            with self._lock:
                closing = self._closing.get(kept)
                if closing is None:
                    self._count_up(kept)  # before the row is there, or another could delete it
                    break
            yield Call(partial(closing.wait, _RELEASE_SECONDS_MAX))
        try:
            yield from self._take(kept)
        except BaseException:
            with self._lock:
                self._count_down(kept)
            raise

    def release(self, kept: Kept) -> Op[None]:
        """Give back what `keep` took. To be run outside the user's transaction."""
        with self._lock:
            if not self._count_down(kept):
                return
            closing = self._closing[kept] = Signal()
        try:
            session_id = self.session.id
            if session_id is not None:
                yield Query(kept.unpin, kept.store_id, session_id, kept.number)
        except BaseException:
            # It is unknown whether the row is still there: it counts until the background has deleted it.
            with self._lock:
                self._count_up(kept)
            self.release_later(kept)
            raise
        finally:
            with self._lock:
                del self._closing[kept]
            closing.set()

    def release_later(self, kept: Kept) -> None:
        """`release`, in the background. Safe in a finaliser."""
        self._unwanted.append(kept)

    @property
    def is_waiting(self) -> bool:
        return bool(self._unwanted)

    def with_heartbeat(self) -> Op[None]:
        """Give back what is not wanted; insert pins again that were deleted because the session was silent for too long."""
        while self._unwanted:
            yield from self.release(self._unwanted.popleft())
        with self._lock:
            wanted = list(self._counts)
        for kept in wanted:
            with contextlib.suppress(errors.VersionGone, errors.StaleFile):  # whoever reads it will find out
                yield from self._take(kept)

    def at_end(self) -> Op[None]:
        with self._lock:
            wanted = list(self._counts)
            self._counts.clear()
        self._unwanted.clear()
        if wanted:
            yield Many([Query(kept.unpin, kept.store_id, self.session.id, kept.number) for kept in wanted])

    def _take(self, kept: Kept) -> Op[None]:
        while True:
            session_id = yield from self.session.current()
            ((is_alive, is_there),) = yield Query(kept.pin, kept.store_id, session_id, kept.number)
            if not is_there:
                raise kept.gone()
            if is_alive:
                return
            yield from self.session.beat()

    def _count_up(self, kept: Kept) -> None:
        """To be called with the lock."""
        self._counts[kept] = self._counts.get(kept, 0) + 1

    def _count_down(self, kept: Kept) -> bool:
        """Returns whether that was the last. To be called with the lock."""
        count = self._counts.pop(kept, 0) - 1
        if count > 0:
            self._counts[kept] = count
        return count == 0


def pins_of(session: Session) -> Pins:
    """The pins of *session*."""
    return session.hook(Pins)


_RELEASE_SECONDS_MAX: Final = 60.0  # to wait for a release under way
