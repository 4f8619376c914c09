"""The history of a Volume: which versions are kept, pinning one, and restoring one.

Each commit makes a version; its tree is made of the rows that are valid in it. So restoring a version copies rows and no bytes: in
a new commit, rows that were valid then and are not now become valid again, and rows that are valid now and were not then end.

That a row is valid does not mean that it is part of the tree. Names that were written together with their directory are valid
since version 0, before the directory itself has a name. So both trees are followed from the root, along their directories, which
are fewer than their files.
"""

from __future__ import annotations

import threading
import weakref
from typing import Final

from pgstore import errors
from pgstore.client import Client
from pgstore.client.session import Session
from pgstore.core.operation import Autonomous, BeforeCommit, Many, Op, Query, Rows
from pgstore.core.statement import Statement
from pgstore.fs.commit.volume import INSERT_VERSION, NEXT_VERSION
from pgstore.fs.model import DIRECTORY, LIVE, ROOT, STATE_COLUMNS, StoreGone
from pgstore.fs.notifications import telling_version
from pgstore.fs.retention.pins import pins_of, version_of
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


def versions(store_id: int, *, before: int | None = None, limit: int | None = None) -> Op[list[VolumeVersion]]:
    """The versions that are kept, newest first: those before version *before*, at most *limit*."""
    rows: Rows = yield Query(VERSIONS, store_id, LIVE if before is None else before, LIVE if limit is None else limit)
    return [VolumeVersion(*row) for row in rows]


class VersionPin:
    """The pin of a handle on an old version: taken with the first use of the handle, given back when it is garbage."""

    def __init__(self, version: int) -> None:
        self._version = version
        self._lock = threading.Lock()
        # The session that has the pin. In a forked process it is not the client's, so the pin is taken again.
        self._session: weakref.ref[Session] | None = None
        self._store_id = 0
        self._history: object = None  # the history of the database in which it was taken

    def __reduce__(self) -> tuple[type[VersionPin], tuple[int]]:
        """An unpickled pin is not taken yet."""
        return VersionPin, (self._version,)

    def ensure(self, client: Client, store_id: int, change_set: BeforeCommit) -> Op[None]:
        """
        Take the pin, if this session does not have it yet.

        Args:
            change_set: the request for that of the current transaction.

        Raises:
            InvalidError, VersionGone, StoreGone: see `check_retained`.
        """
        session, history = client.session, client.history
        if self._has(session, store_id) and self._history is history:
            return
        kept = version_of(store_id, self._version)
        hooked = yield change_set
        keeping = pins_of(session).keep(kept)
        try:
            if hooked is not None and hooked.hook.version is not None:
                # Beside the transaction, which has the lock of commits, the pin might wait for that for ever. As a part of it it
                # does not; if the transaction is rolled back, the next heartbeat inserts the pin again.
                yield Autonomous(session.current())
                yield from keeping
            else:
                yield Autonomous(keeping)
        except errors.VersionGone:
            yield from check_retained(store_id, self._version)
            raise
        except errors.AccessDenied:
            self._session, self._store_id, self._history = weakref.ref(session), store_id, history
            return  # a role that may only read has no pins: a read raises when the version is gone
        with self._lock:
            is_first = not self._has(session, store_id)
            self._session, self._store_id, self._history = weakref.ref(session), store_id, history
        if is_first:
            weakref.finalize(self, pins_of(session).release_later, kept).atexit = False
        else:
            yield Autonomous(pins_of(session).release(kept))

    def _has(self, session: Session, store_id: int) -> bool:
        return self._session is not None and self._session() is session and self._store_id == store_id


HEAD = Statement("SELECT f.head FROM pgstore.file_system f WHERE f.store_id = $1", "int8", read_only=True)


def check_retained(store_id: int, version: int) -> Op[None]:
    """
    Raise an error if *version* cannot be read.

    Raises:
        InvalidError: there has never been such a version.
        VersionGone: it is not kept any more.
        StoreGone: the Volume does not exist any more.
    """
    ((is_retained,),), heads = yield Many([Query(IS_RETAINED, store_id, version), Query(HEAD, store_id)])
    if not heads:
        raise StoreGone
    if not is_retained:
        raise _not_retained(store_id, version, heads[0][0])


# Collection does not delete a version that is locked, nor a later one, before we have committed.
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

# Whether the name d is valid in version $2, and in the newest.
_THEN: Final = "d.version_from <= $2 AND d.version_to > $2"
_NOW: Final = f"d.version_to = {LIVE}"


def _directories(tree: str, is_there: str) -> str:
    """The subquery `<tree>_directory`: the directories to which valid names lead from the root."""
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
    """The subquery `<tree>_inode`: all to which valid names in these directories lead."""
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
# These four run in this order, for the inodes are found by the names. With version $3 end the inodes that have changed since
# version $2, or did not exist in it. EXCEPT hashes or sorts, however many rows there are; NOT IN, and a NOT EXISTS that was
# planned for few, would compare each with each.
END_INODES = Statement(
    f"""
    WITH RECURSIVE {_THEN_DIRECTORY}, {_NOW_DIRECTORY}, {_THEN_INODE}, {_NOW_INODE}
    UPDATE pgstore.inode
       SET version_to = $3
     WHERE store_id + 0::bigint = $1
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
     WHERE store_id + 0::bigint = $1
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
# ctime is $4, the present: restoring is a change of the inode, and programs that look for changes compare ctimes.
REVIVE_INODES = Statement(
    f"""
    WITH RECURSIVE {_THEN_DIRECTORY}, {_THEN_INODE}
    INSERT INTO pgstore.inode (store_id, ino, version_from, ctime_ns, {STATE_COLUMNS})
    SELECT $1, t.ino, $3, $4, {STATE_COLUMNS}
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
# One row, none if the version is gone: collection takes a version's row before what belongs to it alone.
SIZE = Statement(
    f"""
    WITH RECURSIVE {_THEN_DIRECTORY}
    SELECT s.files, s.size_bytes
      FROM pgstore.volume_version v
     CROSS JOIN LATERAL (
           SELECT count(*) AS files, coalesce(sum(i.size_bytes::bigint), 0::numeric)::bigint AS size_bytes
             FROM then_directory t
            CROSS JOIN LATERAL (
                  SELECT d.ino
                    FROM pgstore.dirent d
                   WHERE d.store_id = $1
                     AND d.parent = t.ino
                     AND d.kind <> '{DIRECTORY}'
                     AND {_THEN}
                  OFFSET 0) e
            CROSS JOIN LATERAL (
                  SELECT n.size_bytes
                    FROM pgstore.inode n
                   WHERE n.store_id = $1
                     AND n.ino::bigint = e.ino
                     AND n.version_from <= $2
                     AND n.version_to > $2
                   LIMIT 1) i) s
     WHERE v.store_id = $1
       AND v.version::bigint = $2
    """,
    "int8 int8",
    read_only=True,
)
# Names that came or went with version $2, and names of files that it changed. No index leads to them: all names of the store are
# read. Of a name that went the path is that of the version before.
CHANGES = Statement(
    f"""
    WITH RECURSIVE changed AS (
         SELECT d.parent, d.name::bytea AS name, bool_or(d.version_from = $2) AS came, bool_or(d.version_to = $2) AS went
           FROM pgstore.dirent d
          WHERE d.store_id = $1
            AND (d.version_from = $2 OR d.version_to = $2)
          GROUP BY d.parent, d.name::bytea
          UNION
         SELECT d.parent, d.name::bytea, true, true
           FROM pgstore.inode i
           JOIN pgstore.inode o
             ON o.store_id = $1
            AND o.ino::bigint = i.ino::bigint
            AND o.version_to = $2
           JOIN pgstore.dirent d
             ON d.store_id = $1
            AND d.ino = i.ino::bigint
            AND {_THEN}
          WHERE i.store_id = $1
            AND i.version_from = $2
            AND i.kind::"char" <> '{DIRECTORY}'
    ), path AS (
         SELECT c.parent AS directory, c.name AS path, c.came, c.went, CASE WHEN c.came THEN $2 ELSE $2 - 1::bigint END AS version
           FROM changed c
          UNION ALL
         SELECT e.parent, e.name || '/'::bytea || p.path, p.came, p.went, p.version
           FROM path p
          CROSS JOIN LATERAL (
                SELECT d.parent, d.name::bytea AS name
                  FROM pgstore.inode i
                  JOIN pgstore.dirent d
                    ON d.store_id = $1
                   AND d.parent = i.parent
                   AND d.ino = p.directory
                   AND d.version_from <= p.version
                   AND d.version_to > p.version
                 WHERE i.store_id = $1
                   AND i.ino::bigint = p.directory
                   AND i.version_from <= p.version
                   AND i.version_to > p.version
                 LIMIT 1) e
          WHERE p.directory <> {ROOT}
    )
    SELECT p.path, p.came, p.went
      FROM path p
     WHERE p.directory = {ROOT}
     ORDER BY p.path
    """,
    "int8 int8",
    read_only=True,
)
NOW_NS = Statement("SELECT (extract(epoch FROM statement_timestamp()) * 1000000000::numeric)::bigint", read_only=True)


def size(store_id: int, version: int) -> Op[tuple[int, int] | None]:
    """How many names *version* has but those of directories, and how many bytes their files have; None: it is gone."""
    rows: Rows = yield Query(SIZE, store_id, version)
    return (rows[0][0], rows[0][1]) if rows else None


def changes(store_id: int, version: int) -> Op[list[tuple[bytes, bool, bool]]]:
    """
    What *version* changed: paths, whether each came, and whether it went; both: it was replaced, or changed.

    A directory that came or went stands for all that was in it.
    """
    rows: Rows = yield Query(CHANGES, store_id, version)
    whole = {(path, came, went) for path, came, went in rows if came != went}
    found = []
    for path, came, went in rows:
        names = path.split(b"/")
        if not any((b"/".join(names[:depth]), came, went) in whole for depth in range(1, len(names))):
            found.append((path, came, went))
    return found


def restore(store_id: int, version: int) -> Op[int]:
    """
    Make the tree what it was in *version*, by one commit. Returns the version that the commit makes.

    In a transaction that has not changed the Volume yet; other commits wait for its end. The time it takes is proportional to the
    size of both trees, for no index tells which rows have changed since.

    Raises:
        InvalidError, VersionGone, StoreGone: see `check_retained`.
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
            telling_version(store_id, new),
        ]
    )
    restored: int = new
    return restored


def _not_retained(store_id: int, version: int, head: int) -> errors.Error:
    if not 0 <= version <= head:
        return errors.InvalidError(f"there is no version {version}; the newest is {head}")
    return version_of(store_id, version).gone()
