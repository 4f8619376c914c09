"""Keeping a file from collection while it is read or open, if that takes long.

Most files are not: whatever was there a minute ago is not collected, so only with the first call after that minute is it pinned or
held (`pins`).
"""

from __future__ import annotations

import os
import weakref
from typing import Any, Final

from pgstore import errors
from pgstore.client.session import Session
from pgstore.core import clock
from pgstore.core.operation import Autonomous, Op, Query, Rows
from pgstore.core.statement import Statement
from pgstore.fs.retention.pins import Kept, inode_of, pins_of, version_of

KEEP_AFTER_SECONDS: Final = 60.0

# The newest version in which inode $2 was as it has been since version $3. No row: it is not so in any version that is kept.
LAST_VERSION = Statement(
    """
    SELECT least(i.version_to - 1, f.head)
      FROM pgstore.inode i
      JOIN pgstore.file_system f ON f.store_id = $1
     WHERE i.store_id = $1
       AND i.ino::bigint = $2
       AND i.version_from = $3
    """,
    "int8 int8 int8",
    read_only=True,
)


class Keeping:
    """
    The use of inode *ino*.

    Args:
        since: of a Volume: the version since which the inode has been what is used of it. None: of a NetworkFileSystem.
    """

    def __init__(self, session: Session, store_id: int, ino: int, since: int | None) -> None:
        self._session = session
        self._store_id = store_id
        self._ino = ino
        self._since = since
        self._keep_at = clock.monotonic() + KEEP_AFTER_SECONDS
        self._release: Any = None
        self._history = session.history
        self._pid = os.getpid()

    def keep(self) -> Op[None]:
        """
        To be called with every use.

        Raises:
            StaleFile: the database has another history by now, in which the numbers of the file may be another's.
        """
        if self._session.history is not self._history:
            raise errors.StaleFile(
                f"the file (inode {self._ino}) was opened before the database was replaced, by a restore or another server; "
                "open it again"
            )
        if self._release is None and clock.monotonic() >= self._keep_at:
            self._keep_at = clock.monotonic() + KEEP_AFTER_SECONDS
            yield Autonomous(self._begin())

    def release(self) -> None:
        """End the use. Never blocks; done by itself when nobody has this any more."""
        if self._release is not None and self._pid == os.getpid():
            self._release()

    def _begin(self) -> Op[None]:
        pins = pins_of(self._session)
        try:
            kept = yield from self._kept()
            yield from pins.keep(kept)
        except (errors.VersionGone, errors.StaleFile, errors.AccessDenied):
            return  # gone, or made by this very transaction, or not for a role that only reads. Reading finds out
        self._release = weakref.finalize(self, pins.release_later, kept)
        self._release.atexit = False

    def _kept(self) -> Op[Kept]:
        if self._since is None:
            return inode_of(self._store_id, self._ino)
        rows: Rows = yield Query(LAST_VERSION, self._store_id, self._ino, self._since)
        if not rows:
            raise errors.VersionGone(
                f"the file (inode {self._ino}) has changed, and the version that was read is not kept any more"
            )
        return version_of(self._store_id, rows[0][0])
