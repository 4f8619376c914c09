"""Pinning a file while it is read or open, if that takes long.

Most uses are short: collection leaves alone for ten minutes what has gone out of use. So a file is pinned (`pins`)
only with the first use after its first minute.
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

PIN_AFTER_SECONDS: Final = 60.0


class FilePin:
    """
    A pin on inode *ino*, taken once it is needed.

    Args:
        since: of a Volume: the version since which the inode has been as it was read. None: of a NetworkFileSystem.
    """

    def __init__(self, session: Session, store_id: int, ino: int, since: int | None) -> None:
        self._session = session
        self._store_id = store_id
        self._ino = ino
        self._since = since
        self._pin_at = clock.monotonic() + PIN_AFTER_SECONDS
        self._release: Any = None
        self._history = session.history
        self._pid = os.getpid()

    def ensure(self) -> Op[None]:
        """
        Take the pin if it is time to. To be called before every use.

        Raises:
            StaleFile: the database was replaced meanwhile, and in the new one this inode may be another file.
        """
        if self._session.history is not self._history:
            raise errors.StaleFile(
                f"the file (inode {self._ino}) was opened before the database was replaced, by a restore or another server; "
                "open it again"
            )
        if self._release is None and clock.monotonic() >= self._pin_at:
            self._pin_at = clock.monotonic() + PIN_AFTER_SECONDS
            yield Autonomous(self._take())

    def release(self) -> None:
        """Give the pin back. Never blocks. Happens by itself when this object is garbage."""
        if self._release is not None and self._pid == os.getpid():
            self._release()

    def _take(self) -> Op[None]:
        pins = pins_of(self._session)
        try:
            pinned = yield from _what_to_pin(self._store_id, self._ino, self._since)
            yield from pins.keep(pinned)
        except (errors.VersionGone, errors.StaleFile, errors.AccessDenied):
            return  # collected, or made by the running transaction, or the role may only read. The next read finds out
        self._release = weakref.finalize(self, pins.release_later, pinned)
        self._release.atexit = False


# The newest version in which inode $2 is as it has been since version $3. No row: no version that is kept has it so.
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


def _what_to_pin(store_id: int, ino: int, since: int | None) -> Op[Kept]:
    if since is None:
        return inode_of(store_id, ino)
    rows: Rows = yield Query(LAST_VERSION, store_id, ino, since)
    if not rows:
        raise errors.VersionGone(
            f"the file (inode {ino}) has changed, and the version that was read is not kept any more"
        )
    return version_of(store_id, rows[0][0])
