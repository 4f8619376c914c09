"""History of a Volume: which versions are kept, keeping one, and going back to one.

A version is a commit; its tree is made of the rows that are valid at it. So going back copies rows, no bytes: what was valid then
and is not now becomes valid again, as one new commit, and what is valid now and was not then ends.

"Valid" is not all. A directory's names may have version 0 as their beginning, if they were made with it: nothing leads to them
before there is a name for the directory. So both trees are followed from the root; of directories, which are fewer than files.
"""

from __future__ import annotations

import threading
import weakref
from typing import Final

from pgstore import errors
from pgstore.client import Client
from pgstore.client.pins import version_of
from pgstore.client.session import Session
from pgstore.core.operation import Autonomous, Many, Op, Query, Rows
from pgstore.core.statement import Statement
from pgstore.fs.commit.volume import INSERT_VERSION, NEXT_VERSION
from pgstore.fs.model import DIRECTORY, LIVE, ROOT, StoreGone
from pgstore.fs.tree.resolve import IS_RETAINED
from pgstore.types import VolumeVersion

VERSIONS = Statement(
    """
    SELECT v.version, v.committed_at
      FROM pgstore.volume_version v
     WHERE v.store_id = $1
       AND v.version::bigint < $2
     ORDER BY v.version DESC
     LIMIT $3
    """,
    "int8 int8 int8",
    read_only=True,
)
HEAD = Statement("SELECT f.head FROM pgstore.file_system f WHERE f.store_id = $1", "int8", read_only=True)
# Collection skips a version that is locked, and all later ones.
LOCK_VERSION = Statement(
    """
    SELECT 1
      FROM pgstore.volume_version v
     WHERE v.store_id = $1
       AND v.version::bigint = greatest($2, 1)
       FOR KEY SHARE
    """,
    "int8 int8",
)

# Whether the name d is there in version $2, and in the newest.
_THEN: Final = "d.version_from <= $2 AND d.version_to > $2"
_NOW: Final = f"d.version_to = {LIVE}"


def _directories(tree: str, is_there: str) -> str:
    """The subquery `<tree>_directory`: directories to which names that are there lead from the root."""
    return f"""
    {tree}_directory AS (
         SELECT {ROOT}::bigint AS ino
          UNION
         SELECT e.ino
           FROM {tree}_directory t
          CROSS JOIN LATERAL (
                SELECT d.ino
                  FROM pgstore.dirent d
                 WHERE d.store_id = $1
                   AND d.parent = t.ino
                   AND d.kind = '{DIRECTORY}'
                   AND {is_there}
                OFFSET 0) e
    )"""


def _inodes(tree: str, is_there: str) -> str:
    """The subquery `<tree>_inode`: all that names lead to which are there in these directories."""
    return f"""
    {tree}_inode AS MATERIALIZED (
         SELECT {ROOT}::bigint AS ino
          UNION
         SELECT e.ino
           FROM {tree}_directory t
          CROSS JOIN LATERAL (
                SELECT d.ino
                  FROM pgstore.dirent d
                 WHERE d.store_id = $1
                   AND d.parent = t.ino
                   AND {is_there}
                OFFSET 0) e
    )"""


_THEN_DIRECTORY: Final = _directories("then", _THEN)
_NOW_DIRECTORY: Final = _directories("now", _NOW)
_THEN_INODE: Final = _inodes("then", _THEN)
_NOW_INODE: Final = _inodes("now", _NOW)
# In this order: the inodes are found by the names. At version $3 end those that are not as they were in version $2, be it that
# they have changed since, or that they were not there. EXCEPT is hashed or sorted, however many there are; NOT IN, and NOT EXISTS
# where few were expected, would compare each with each.
END_INODES = Statement(
    f"""
    WITH RECURSIVE {_THEN_DIRECTORY}, {_NOW_DIRECTORY}, {_THEN_INODE}, {_NOW_INODE}
    UPDATE pgstore.inode
       SET version_to = $3
     WHERE store_id::numeric = $1::numeric
       AND ctid = ANY (ARRAY(
           SELECT i.ctid
             FROM (SELECT n.ino, $2 AS unless_from FROM now_inode n
                    UNION ALL
                   (SELECT n.ino, -1 FROM now_inode n EXCEPT SELECT t.ino, -1 FROM then_inode t)) c
            CROSS JOIN LATERAL (
                  SELECT o.ctid, o.version_from
                    FROM pgstore.inode o
                   WHERE o.store_id = $1
                     AND o.ino::bigint = c.ino
                     AND o.version_to = {LIVE}
                   LIMIT 1) i
            WHERE i.version_from > c.unless_from))
    """,
    "int8 int8 int8",
)
END_NAMES = Statement(
    f"""
    WITH RECURSIVE {_THEN_DIRECTORY}, {_NOW_DIRECTORY}
    UPDATE pgstore.dirent
       SET version_to = $3
     WHERE store_id::numeric = $1::numeric
       AND ctid = ANY (ARRAY(
           SELECT e.ctid
             FROM (SELECT n.ino, $2 AS unless_from FROM now_directory n
                    UNION ALL
                   (SELECT n.ino, -1 FROM now_directory n EXCEPT SELECT t.ino, -1 FROM then_directory t)) c
            CROSS JOIN LATERAL (
                  SELECT d.ctid, d.version_from
                    FROM pgstore.dirent d
                   WHERE d.store_id = $1
                     AND d.parent = c.ino
                     AND d.version_to = {LIVE}
                  OFFSET 0) e
            WHERE e.version_from > c.unless_from))
    """,
    "int8 int8 int8",
)
# ctime, $4: of the change that this is to the inode; programs that look for changes go by it.
REVIVE_INODES = Statement(
    f"""
    WITH RECURSIVE {_THEN_DIRECTORY}, {_THEN_INODE}
    INSERT INTO pgstore.inode
           (store_id, ino, version_from, kind, mode, uid, gid, link_count, size_bytes, mtime_ns, ctime_ns, blob_id, link_target,
            inline_data, parent, xattrs)
    SELECT $1, i.ino, $3, i.kind, i.mode, i.uid, i.gid, i.link_count, i.size_bytes, i.mtime_ns, $4, i.blob_id, i.link_target,
           i.inline_data, i.parent, i.xattrs
      FROM then_inode t
     CROSS JOIN LATERAL (
           SELECT *
             FROM pgstore.inode n
            WHERE n.store_id = $1
              AND n.ino::bigint = t.ino
              AND n.version_from <= $2
              AND n.version_to > $2
            LIMIT 1) i
     WHERE i.version_to < {LIVE}
    """,
    "int8 int8 int8 int8",
)
REVIVE_NAMES = Statement(
    f"""
    WITH RECURSIVE {_THEN_DIRECTORY}
    INSERT INTO pgstore.dirent (store_id, parent, name, version_from, ino, kind)
    SELECT $1, t.ino, e.name, $3, e.ino, e.kind
      FROM then_directory t
     CROSS JOIN LATERAL (
           SELECT d.name, d.ino, d.kind
             FROM pgstore.dirent d
            WHERE d.store_id = $1
              AND d.parent = t.ino
              AND d.version_from <= $2
              AND d.version_to > $2
              AND d.version_to < {LIVE}
           OFFSET 0) e
    """,
    "int8 int8 int8",
)
NOW_NS = Statement("SELECT (extract(epoch FROM statement_timestamp()) * 1000000000::numeric)::bigint", read_only=True)


def versions(store_id: int, *, before: int | None = None, limit: int | None = None) -> Op[list[VolumeVersion]]:
    """The versions that are kept, newest first: those before version *before*, at most *limit*."""
    rows: Rows = yield Query(VERSIONS, store_id, LIVE if before is None else before, LIVE if limit is None else limit)
    return [VolumeVersion(*row) for row in rows]


class VersionPin:
    """The pin of a handle on an old version: taken with the first use, given back when nobody has the handle any more."""

    def __init__(self, version: int) -> None:
        self._version = version
        self._lock = threading.Lock()
        # Which has it; not that of the parent of a process that was forked.
        self._session: weakref.ref[Session] | None = None
        self._store_id = 0
        self._history: object = None  # of the client, in which it was taken

    def __reduce__(self) -> tuple[type[VersionPin], tuple[int]]:
        """Whoever unpickles it has yet to take it."""
        return VersionPin, (self._version,)

    def ensure(self, client: Client, store_id: int) -> Op[None]:
        """
        Take the pin, if it was not taken yet.

        Raises:
            InvalidError, VersionGone, StoreGone: see `check_kept`.
        """
        session, history = client.session, client.history
        if self._has(session, store_id) and self._history is history:
            return
        kept = version_of(store_id, self._version)
        try:
            yield Autonomous(session.pins.keep(kept))
        except errors.VersionGone:
            yield from check_retained(store_id, self._version)
            raise
        except errors.AccessDenied:
            self._session, self._store_id, self._history = weakref.ref(session), store_id, history
            return  # a role that only reads: it finds out when the version goes, and does not ask again
        with self._lock:
            is_first = not self._has(session, store_id)
            self._session, self._store_id, self._history = weakref.ref(session), store_id, history
        if is_first:
            weakref.finalize(self, session.pins.release_later, kept).atexit = False
        else:
            yield Autonomous(session.pins.release(kept))

    def _has(self, session: Session, store_id: int) -> bool:
        return self._session is not None and self._session() is session and self._store_id == store_id


def check_retained(store_id: int, version: int) -> Op[None]:
    """
    Raise what is to be said about *version* if it cannot be read.

    Raises:
        InvalidError: there has never been such a version.
        VersionGone: it is not kept any more.
        StoreGone: nor is the Volume.
    """
    ((is_retained,),), heads = yield Many([Query(IS_RETAINED, store_id, version), Query(HEAD, store_id)])
    if not heads:
        raise StoreGone
    if not is_retained:
        raise _not_retained(store_id, version, heads[0][0])


def restore(store_id: int, version: int) -> Op[int]:
    """
    Make the tree what it was in *version*, by one commit. Returns the version that this makes.

    To be run in a transaction that has not changed the Volume yet; it holds the lock of the file system's row until it ends. Takes
    time in proportion to both trees: no index tells which live rows have begun since.

    Raises:
        InvalidError, VersionGone, StoreGone: see `check_kept`.
    """
    locked, heads, ((now_ns,),) = yield Many(
        [Query(LOCK_VERSION, store_id, version), Query(NEXT_VERSION, store_id), Query(NOW_NS)]
    )
    if not heads:
        raise StoreGone
    new = heads[0][0]
    if not 0 <= version < new or not (locked or new == 1):
        raise _not_retained(store_id, version, new - 1)
    yield Many(
        [
            Query(END_INODES, store_id, version, new),
            Query(END_NAMES, store_id, version, new),
            Query(REVIVE_INODES, store_id, version, new, now_ns),
            Query(REVIVE_NAMES, store_id, version, new),
            Query(INSERT_VERSION, store_id, new),
        ]
    )
    restored: int = new
    return restored


def _not_retained(store_id: int, version: int, head: int) -> errors.Error:
    if not 0 <= version <= head:
        return errors.InvalidError(f"there is no version {version}; the newest is {head}")
    return version_of(store_id, version).gone()
