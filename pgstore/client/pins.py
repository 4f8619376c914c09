"""Pins: versions of Volumes and files of NetworkFileSystems that collection must leave alone while this client uses them.

A version is pinned, an inode is held: a row that names the client's session, and counts as long as that is alive. Whoever wants one
gets it by `keep` and gives it back by `release`; a finaliser, which may run anywhere, only notes it for the housekeeper. The same
thing may be wanted several times; its row goes with the last.

Safe beside collection, for the row is inserted under a lock of what is kept: whoever collects either finds it locked and leaves it,
or has deleted it already, and then there is nothing left to keep.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from pgstore import errors
from pgstore.core.operation import Call, Many, Op, Query
from pgstore.core.statement import Statement

if TYPE_CHECKING:
    from pgstore.client.session import Session

# With time to spare: ten minutes without a beat end a session.
_ALIVE: Final = """EXISTS (SELECT
                    FROM pgstore.session s
                   WHERE s.id = $2
                     AND s.heartbeat_at > statement_timestamp() - interval '5 minutes')"""
# Result: whether the session is alive, and whether there is something to keep. Version 0, the Volume as it was made, has no row: it
# can be read as long as version 1, or while there is none.
PIN = Statement(
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
HOLD = Statement(
    f"""
    WITH found AS (
         SELECT 1 AS one
           FROM pgstore.inode i
          WHERE i.store_id = $1 AND i.ino::bigint = $3 AND i.version_to = 9223372036854775807
            FOR KEY SHARE
    ), held AS (
         INSERT INTO pgstore.inode_hold (store_id, session_id, ino)
         SELECT $1, s.id, $3
           FROM pgstore.session s
          WHERE s.id = $2 AND EXISTS (SELECT FROM found)
             ON CONFLICT DO NOTHING
    )
    SELECT {_ALIVE}, EXISTS (SELECT FROM found)
    """,
    "int8 int8 int8",
)
UNPIN = Statement(
    "DELETE FROM pgstore.version_pin WHERE store_id = $1 AND session_id = $2 AND version = $3", "int8 int8 int8"
)
LET_GO = Statement(
    "DELETE FROM pgstore.inode_hold WHERE store_id = $1 AND session_id = $2 AND ino = $3", "int8 int8 int8"
)


@dataclass(frozen=True, slots=True)
class Kept:
    """What can be kept."""

    store_id: int
    number: int
    is_version: bool
    """Of a Volume; else *number* is that of an inode of a NetworkFileSystem."""

    @property
    def taking(self) -> Statement:
        return PIN if self.is_version else HOLD

    @property
    def giving(self) -> Statement:
        return UNPIN if self.is_version else LET_GO

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


class Pins:
    """What one session keeps."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.RLock()  # reentrant: a signal handler may come in
        self._counts: dict[Kept, int] = {}
        self._closing: dict[Kept, threading.Event] = {}  # whose rows are being deleted
        self._unwanted: deque[Kept] = deque()

    def __bool__(self) -> bool:
        return bool(self._counts or self._unwanted)

    @property
    def has_unwanted(self) -> bool:
        return bool(self._unwanted)

    def keep(self, kept: Kept) -> Op[None]:
        """
        Keep *kept* from collection, until `release` or the end of the session. To be run outside the user's transaction (`Apart`).

        Raises:
            VersionGone, StaleFile: it was collected already.
        """
        while True:
            with self._lock:
                closing = self._closing.get(kept)
                if closing is None:
                    self._count(kept)  # before the row is there, or another could delete it
                    break
            yield Call(partial(closing.wait, _PATIENCE_SECONDS))
        try:
            yield from self._take(kept)
        except BaseException:
            with self._lock:
                self._discount(kept)
            raise

    def release(self, kept: Kept) -> Op[None]:
        """Give back what `keep` got. To be run outside the user's transaction."""
        with self._lock:
            if not self._discount(kept):
                return
            closing = self._closing[kept] = threading.Event()
        try:
            session_id = self._session.id
            if session_id is not None:
                yield Query(kept.giving, kept.store_id, session_id, kept.number)
        except BaseException:
            # Whether the row is still there nobody knows: it is wanted until the housekeeper has got rid of it.
            with self._lock:
                self._count(kept)
            self.release_later(kept)
            raise
        finally:
            with self._lock:
                del self._closing[kept]
            closing.set()

    def release_later(self, kept: Kept) -> None:
        """`release`, by the housekeeper. Safe in a finaliser."""
        self._unwanted.append(kept)

    def release_all(self) -> Op[None]:
        """Give everything back: the session ends."""
        with self._lock:
            wanted = list(self._counts)
            self._counts.clear()
        self._unwanted.clear()
        if wanted:
            yield Many([Query(kept.giving, kept.store_id, self._session.id, kept.number) for kept in wanted])

    def renew(self) -> Op[None]:
        """Give back what is not wanted; insert again what was deleted with a session that was taken for dead."""
        while self._unwanted:
            yield from self.release(self._unwanted.popleft())
        with self._lock:
            wanted = list(self._counts)
        for kept in wanted:
            with contextlib.suppress(errors.VersionGone, errors.StaleFile):  # whoever reads it will find out
                yield from self._take(kept)

    def _take(self, kept: Kept) -> Op[None]:
        while True:
            session_id = yield from self._session.current()
            ((is_alive, is_there),) = yield Query(kept.taking, kept.store_id, session_id, kept.number)
            if not is_there:
                raise kept.gone()
            if is_alive:
                return
            yield from self._session.beat()

    def _count(self, kept: Kept) -> None:
        """With the lock."""
        self._counts[kept] = self._counts.get(kept, 0) + 1

    def _discount(self, kept: Kept) -> bool:
        """Count down; whether that was the last. With the lock."""
        count = self._counts.pop(kept, 0) - 1
        if count > 0:
            self._counts[kept] = count
        return count == 0


_PATIENCE_SECONDS: Final = 60.0
