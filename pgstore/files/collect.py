"""Collection: deleting what nothing needs any more.

Nothing but this deletes blobs and chunks, nor the rows of old versions. What goes, and when:

- of a Volume, the versions before the floor: the newest so many stay, and any that a living session has pinned or that was the
  newest within the time of grace, for somebody may have begun to read it without a pin. Then the rows that only they had;
- of a NetworkFileSystem, files whose last name is gone for that time and which no living session holds;
- blobs that no inode refers to: those of deleted inodes, those that were left for a new one, uploads whose session died;
- chunks that no extent has.

It goes on in transactions of bounded size, which lock what they are about to delete, skip what is locked, and then look again in a
second statement, which sees what others have committed before our lock: a blob that a copy has just adopted is found in use, or its
adopter fails at the foreign key, with nothing done. So any number may collect at the same time, beside readers and writers, and may
be killed: what is still to be looked at is noted in `blob_left` and `chunk_left` by the transaction that made it so.

The rows of a version are deleted after the version's own row, in a later transaction. Whoever reads an old version and still finds
that row in the same or a later statement has been shown all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Final, TypeVar

from pgstore.client.session import DEAD_AFTER
from pgstore.core.operation import Many, Op, Query, Rows, atomic
from pgstore.core.statement import Statement
from pgstore.files.changes import LIVE

T = TypeVar("T")

GRACE_SECONDS: Final = 600.0
# Names, inodes, versions in one transaction. While an old snapshot is held each finds the dead ones of those before it again.
ROWS_AT_ONCE: Final = 5000
BLOBS_AT_ONCE: Final = 100
EXTENTS_AT_ONCE: Final = 20_000  # of these blobs, but for a single one that has more
CHUNKS_AT_ONCE: Final = 200  # of up to 1 MiB
TRANSACTIONS_IN_PASSING: Final = 200

_ALIVE: Final = f"s.heartbeat_at >= statement_timestamp() - interval '{DEAD_AFTER}'"
_GRACE_ENDED: Final = "statement_timestamp() - $2 * interval '1 second'"

# Whether the store is still there. Its deletion begins with this row: it waits for a transaction that has locked it, and then sees
# what that has written; once it has begun, nothing more is written.
STORE = Statement("SELECT 1 FROM pgstore.store WHERE id = $1 FOR KEY SHARE SKIP LOCKED", "int8")
STORES = Statement(
    """
    SELECT s.id, s.environment, s.kind, s.name
      FROM pgstore.store s
     WHERE s.kind IN ('volume', 'nfs')
       AND s.environment = coalesce($1, s.environment)
       AND ($2 IS NULL OR s.name = $2)
     ORDER BY s.environment, s.name, s.id
    """,
    "text text",
    reads=True,
)
# $2: of grace, in seconds. `settled` is the newest version that was the newest before that time; `oldest` the first that is left.
FLOOR = Statement(
    f"""
    SELECT s.kind,
           f.head - f.versions_kept + 1,
           (SELECT v.version
              FROM pgstore.volume_version v
             WHERE v.store_id = $1
               AND v.committed_at <= {_GRACE_ENDED}
             ORDER BY v.version DESC
             LIMIT 1) AS settled,
           (SELECT p.version
              FROM pgstore.version_pin p
             WHERE p.store_id = $1
               AND EXISTS (SELECT FROM pgstore.session s WHERE s.id = p.session_id AND {_ALIVE})
             ORDER BY p.version
             LIMIT 1) AS pinned,
           (SELECT v.version FROM pgstore.volume_version v WHERE v.store_id = $1 ORDER BY v.version LIMIT 1) AS oldest,
           EXISTS (SELECT FROM pgstore.blob_left l WHERE l.store_id = $1)
           OR s.kind = 'nfs' AND EXISTS (SELECT FROM pgstore.inode i WHERE i.store_id = $1 AND i.link_count = 0) AS has_left
      FROM pgstore.store s
      JOIN pgstore.file_system f ON f.store_id = s.id
     WHERE s.id = $1
       AND f.store_id = $1
    """,
    "int8 float8",
    reads=True,
)

FORGET_PINS = Statement(
    f"""
    DELETE FROM pgstore.version_pin
     WHERE store_id = $1
       AND NOT EXISTS (SELECT FROM pgstore.session s WHERE s.id = session_id AND {_ALIVE})
    """,
    "int8",
)
FORGET_HOLDS = Statement(
    f"""
    DELETE FROM pgstore.inode_hold
     WHERE store_id = $1
       AND NOT EXISTS (SELECT FROM pgstore.session s WHERE s.id = session_id AND {_ALIVE})
    """,
    "int8",
)

# Whoever pins a version locks its row, so that it is either skipped here, or its pin is seen by the next look.
LOCK_VERSIONS = Statement(
    """
    SELECT v.version
      FROM pgstore.volume_version v
     WHERE v.store_id = $1
       AND v.version < $2
     ORDER BY v.version
       FOR UPDATE SKIP LOCKED
     LIMIT $3
    """,
    "int8 int8 int8",
)
LOOK_AGAIN = Statement(
    f"""
    SELECT v.version,
           (SELECT min(p.version)
              FROM pgstore.version_pin p
             WHERE p.store_id = $1
               AND EXISTS (SELECT FROM pgstore.session s WHERE s.id = p.session_id AND {_ALIVE}))
      FROM pgstore.volume_version v
     WHERE v.store_id = $1
       AND v.version <= $2
     ORDER BY v.version
     LIMIT $3
    """,
    "int8 int8 int8",
)
DELETE_VERSIONS = Statement("DELETE FROM pgstore.volume_version WHERE store_id = $1 AND version < $2", "int8 int8")

# Places, and `$1::numeric`: see `changes`. Nobody changes rows that have ended, so only other collectors are skipped.
DELETE_NAMES = Statement(
    f"""
    DELETE FROM pgstore.dirent
     WHERE store_id = $1::numeric
       AND ctid = ANY (ARRAY(
           SELECT d.ctid
             FROM pgstore.dirent d
            WHERE d.store_id = $1
              AND d.version_to <= $2
              AND d.version_to < {LIVE}
            ORDER BY d.version_to
              FOR UPDATE SKIP LOCKED
            LIMIT $3))
    """,
    "int8 int8 int8",
)


def _delete_inodes(places: str) -> str:
    """Delete the inodes at *places* and note their blobs, in one order, lest two wait for each other. Gives the number deleted."""
    return f"""
    WITH gone AS (
         DELETE FROM pgstore.inode
          WHERE store_id = $1::numeric
            AND ctid = ANY (ARRAY({places}))
         RETURNING blob_id
    ), noted AS (
         INSERT INTO pgstore.blob_left (store_id, blob_id, left_at)
         SELECT DISTINCT $1, g.blob_id, timestamptz '-infinity'
           FROM gone g
          WHERE g.blob_id IS NOT NULL
          ORDER BY g.blob_id
             ON CONFLICT (store_id, blob_id) DO UPDATE SET left_at = greatest(excluded.left_at, blob_left.left_at)
    )
    SELECT count(*) FROM gone
    """


DELETE_INODES = Statement(
    _delete_inodes(
        f"""
           SELECT i.ctid
             FROM pgstore.inode i
            WHERE i.store_id = $1
              AND i.version_to <= $2
              AND i.version_to < {LIVE}
            ORDER BY i.version_to
              FOR UPDATE SKIP LOCKED
            LIMIT $3"""
    ),
    "int8 int8 int8",
)
_HELD: Final = f"""
    EXISTS (SELECT
              FROM pgstore.inode_hold h
              JOIN pgstore.session s ON s.id = h.session_id AND {_ALIVE}
             WHERE h.store_id = $1
               AND h.ino = i.ino)
"""
# Whoever holds an inode locks its row, so that it is either skipped here, or its hold is seen when deleting.
LOCK_NAMELESS = Statement(
    f"""
    SELECT i.ino
      FROM pgstore.inode i
     WHERE i.store_id = $1
       AND i.link_count = 0
       AND i.ctime_ns <= (extract(epoch FROM {_GRACE_ENDED}) * 1000000000)::bigint
       AND i.ino > $3
       AND NOT {_HELD}
     ORDER BY i.ino
       FOR UPDATE SKIP LOCKED
     LIMIT $4
    """,
    "int8 float8 int8 int8",
)
DELETE_NAMELESS = Statement(
    _delete_inodes(
        f"""
           SELECT i.ctid
             FROM unnest($2) AS u (ino)
            CROSS JOIN LATERAL (
                  SELECT n.ctid, n.ino
                    FROM pgstore.inode n
                   WHERE n.store_id = $1
                     AND n.ino = u.ino
                     AND n.version_to = {LIVE}
                     AND n.link_count = 0
                   LIMIT 1) i
            WHERE NOT {_HELD}"""
    ),
    "int8 int8[]",
)

# Uploads whose session died become blobs to look at like others. If their writer comes back after all, it fails.
NOTE_UNFINISHED = Statement(
    f"""
    WITH dead AS (
         SELECT b.id, b.ctid AS place
           FROM pgstore.blob b
          WHERE b.store_id = $1
            AND b.session_id IS NOT NULL
            AND NOT EXISTS (SELECT FROM pgstore.session s WHERE s.id = b.session_id AND {_ALIVE})
            FOR UPDATE SKIP LOCKED
          LIMIT $2
    ), noted AS (
         INSERT INTO pgstore.blob_left (store_id, blob_id, left_at)
         SELECT $1, d.id, timestamptz '-infinity'
           FROM dead d
          ORDER BY d.id
             ON CONFLICT (store_id, blob_id) DO UPDATE SET left_at = greatest(excluded.left_at, blob_left.left_at)
    )
    UPDATE pgstore.blob
       SET session_id = NULL
     WHERE store_id = $1::numeric
       AND ctid = ANY (ARRAY(SELECT d.place FROM dead d))
    """,
    "int8 int8",
)

BLOBS_LEFT = Statement(
    f"""
    SELECT l.blob_id
      FROM pgstore.blob_left l
     WHERE l.store_id = $1
       AND l.left_at <= {_GRACE_ENDED}
       AND l.blob_id > $3
     ORDER BY l.blob_id
       FOR UPDATE SKIP LOCKED
     LIMIT $4
    """,
    "int8 float8 int8 int8",
)


def _lock(table: str) -> Statement:
    return Statement(
        f"""
        SELECT o.id
          FROM unnest($2) AS u (id)
         CROSS JOIN LATERAL (
               SELECT t.id
                 FROM pgstore.{table} t
                WHERE t.store_id = $1
                  AND t.id = u.id
                  FOR UPDATE SKIP LOCKED
                LIMIT 1) o
        """,
        "int8 int8[]",
    )


def _delete(table: str, column: str) -> Statement:
    return Statement(
        f"""
        DELETE FROM pgstore.{table}
         WHERE store_id = $1::numeric
           AND ctid = ANY (ARRAY(
               SELECT o.ctid
                 FROM unnest($2) AS u (id)
                CROSS JOIN LATERAL (
                      SELECT t.ctid
                        FROM pgstore.{table} t
                       WHERE t.store_id = $1
                         AND t.{column} = u.id
                       LIMIT 1) o))
        """,
        "int8 int8[]",
    )


# An inode's foreign key locks the blob it comes to refer to: the blob is skipped, or the next look sees the inode.
LOCK_BLOBS = _lock("blob")
# Blobs of $2 that exist: whether an inode refers to them, else how many extents they have.
BLOBS_NOW = Statement(
    """
    SELECT b.id, i.one IS NOT NULL, e.count
      FROM unnest($2) AS u (id)
     CROSS JOIN LATERAL (
           SELECT t.id
             FROM pgstore.blob t
            WHERE t.store_id = $1
              AND t.id = u.id
            LIMIT 1) b
      LEFT JOIN LATERAL (
           SELECT 1 AS one
             FROM pgstore.inode n
            WHERE n.store_id = $1
              AND n.blob_id = b.id
            LIMIT 1) i ON true
     CROSS JOIN LATERAL (
           SELECT count(*) AS count
             FROM pgstore.extent x
            WHERE x.store_id = $1
              AND x.blob_id = b.id
              AND i.one IS NULL) e
    """,
    "int8 int8[]",
)
# In one statement, so that whoever reads chunks of a blob and sees the blob has been shown all of them.
DELETE_BLOBS = Statement(
    """
    WITH emptied AS (
         DELETE FROM pgstore.extent
          WHERE store_id = $1::numeric
            AND ctid = ANY (ARRAY(
                SELECT e.ctid
                  FROM unnest($2) AS u (id)
                 CROSS JOIN LATERAL (
                       SELECT x.ctid
                         FROM pgstore.extent x
                        WHERE x.store_id = $1
                          AND x.blob_id = u.id
                       OFFSET 0) e))
         RETURNING chunk_id
    ), noted AS (
         INSERT INTO pgstore.chunk_left (store_id, chunk_id)
         SELECT DISTINCT $1, e.chunk_id
           FROM emptied e
          ORDER BY e.chunk_id
             ON CONFLICT (store_id, chunk_id) DO UPDATE SET left_at = greatest(excluded.left_at, chunk_left.left_at)
    )
    DELETE FROM pgstore.blob
     WHERE store_id = $1::numeric
       AND ctid = ANY (ARRAY(
           SELECT b.ctid
             FROM unnest($2) AS u (id)
            CROSS JOIN LATERAL (
                  SELECT t.ctid
                    FROM pgstore.blob t
                   WHERE t.store_id = $1
                     AND t.id = u.id
                   LIMIT 1) b))
    """,
    "int8 int8[]",
)
FORGET_BLOBS = _delete("blob_left", "blob_id")

CHUNKS_LEFT = Statement(
    """
    SELECT l.chunk_id
      FROM pgstore.chunk_left l
     WHERE l.store_id = $1
       AND l.chunk_id > $2
     ORDER BY l.chunk_id
       FOR UPDATE SKIP LOCKED
     LIMIT $3
    """,
    "int8 int8 int8",
)
LOCK_CHUNKS = _lock("chunk")
# octet_length of a value stored out of line is in its pointer: nothing is read. Large objects do not tell their size so cheaply.
CHUNKS_NOW = Statement(
    """
    SELECT c.id, e.one IS NOT NULL, c.size_bytes, c.is_object
      FROM unnest($2) AS u (id)
     CROSS JOIN LATERAL (
           SELECT t.id, octet_length(t.data) AS size_bytes, t.large_object IS NOT NULL AS is_object
             FROM pgstore.chunk t
            WHERE t.store_id = $1
              AND t.id = u.id
            LIMIT 1) c
      LEFT JOIN LATERAL (
           SELECT 1 AS one
             FROM pgstore.extent x
            WHERE x.store_id = $1
              AND x.chunk_id = c.id
            LIMIT 1) e ON true
    """,
    "int8 int8[]",
)
DELETE_CHUNKS = _delete("chunk", "id")
# Each takes a lock of the table that the server has for all together, until the transaction ends.
DELETE_OBJECTS = Statement(
    "SELECT count(*) FROM unnest($2) AS u (id) WHERE pgstore.chunk_delete($1, u.id)", "int8 int8[]"
)
FORGET_CHUNKS = _delete("chunk_left", "chunk_id")

# What a collection with floor $3 would find. Reads all of it: for people, not in passing.
SURVEY = Statement(
    f"""
    WITH going AS (
         SELECT i.blob_id, i.ctid AS place
           FROM pgstore.inode i
          WHERE i.store_id = $1
            AND i.version_to <= $3
            AND i.version_to < {LIVE}
          UNION ALL
         SELECT i.blob_id, i.ctid
           FROM pgstore.inode i
          WHERE i.store_id = $1
            AND i.link_count = 0
            AND $4 = 'nfs'
            AND i.ctime_ns <= (extract(epoch FROM {_GRACE_ENDED}) * 1000000000)::bigint
            AND NOT {_HELD}
    ), candidate AS (
         SELECT g.blob_id AS id
           FROM going g
          WHERE g.blob_id IS NOT NULL
          UNION
         SELECT l.blob_id
           FROM pgstore.blob_left l
          WHERE l.store_id = $1
            AND l.left_at <= {_GRACE_ENDED}
          UNION
         SELECT b.id
           FROM pgstore.blob b
          WHERE b.store_id = $1
            AND b.session_id IS NOT NULL
            AND NOT EXISTS (SELECT FROM pgstore.session s WHERE s.id = b.session_id AND {_ALIVE})
    ), free AS MATERIALIZED (
         SELECT b.id
           FROM candidate c
           JOIN pgstore.blob b ON b.store_id = $1 AND b.id = c.id
          WHERE NOT EXISTS (SELECT
                              FROM pgstore.inode i
                             WHERE i.store_id = $1
                               AND i.blob_id = b.id
                               AND i.ctid NOT IN (SELECT g.place FROM going g))
    ), loose AS MATERIALIZED (
         SELECT c.id
           FROM (SELECT e.chunk_id AS id
                   FROM free f
                   JOIN pgstore.extent e ON e.store_id = $1 AND e.blob_id = f.id
                  UNION
                 SELECT l.chunk_id
                   FROM pgstore.chunk_left l
                  WHERE l.store_id = $1) c
          WHERE NOT EXISTS (SELECT
                              FROM pgstore.extent e
                             WHERE e.store_id = $1
                               AND e.chunk_id = c.id
                               AND e.blob_id NOT IN (SELECT f.id FROM free f))
    )
    SELECT (SELECT count(*) FROM pgstore.volume_version v WHERE v.store_id = $1 AND v.version < $3),
           (SELECT count(*) FROM pgstore.dirent d WHERE d.store_id = $1 AND d.version_to <= $3 AND d.version_to < {LIVE}),
           (SELECT count(*) FROM going),
           (SELECT count(*) FROM free),
           c.count,
           c.size_bytes
      FROM (SELECT count(*) AS count, coalesce(sum(octet_length(k.data)), 0)::bigint AS size_bytes
              FROM loose l
              JOIN pgstore.chunk k ON k.store_id = $1 AND k.id = l.id) c
    """,
    "int8 float8 int8 text",
    reads=True,
)


@dataclass
class Collected:
    """What was deleted, in rows and bytes of file contents."""

    versions: int = 0
    names: int = 0
    inodes: int = 0
    blobs: int = 0
    chunks: int = 0
    size_bytes: int = 0

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))


class _StoreGone(Exception):
    """The file system was deleted meanwhile, with all there was to collect."""


class Collection:
    """
    One round of collection in one file system.

    Args:
        grace_seconds: how long a reader may take who has neither a pin nor a hold.
        transactions_max: do not more than so much; None: all there is to do.
    """

    def __init__(
        self, store_id: int, *, grace_seconds: float = GRACE_SECONDS, transactions_max: int | None = None
    ) -> None:
        self.found = Collected()
        self.is_complete = False  # there will be nothing to do before somebody changes something
        self._store_id = store_id
        self._grace = grace_seconds
        self._left = transactions_max
        self._waits = False  # for a time of grace to pass

    def run(self) -> Op[Collected]:
        """Delete what nothing needs. To be run outside transactions."""
        try:
            yield from self._run()
        except _StoreGone:
            self.is_complete = True
        return self.found

    def survey(self) -> Op[Collected]:
        """What `run` would delete."""
        facts = yield from self._facts()
        if facts is None:
            return Collected()
        kind, floor, _ = facts
        # As in `_rows`: with version 1 the Volume as it was made stays, too.
        ((*counts,),) = yield Query(SURVEY, self._store_id, self._grace, floor if floor > 1 else 0, kind)
        return Collected(*counts)

    def _run(self) -> Op[None]:
        facts = yield from self._facts()
        if facts is None:
            raise _StoreGone
        kind, floor, oldest = facts
        yield from self._atomic(self._forget_the_dead)
        if oldest is not None and floor > oldest:
            yield from self._repeat(ROWS_AT_ONCE, lambda: self._versions(floor))
        if kind == "volume":
            yield from self._rows()
        else:
            yield from self._walk(self._nameless)
        yield from self._repeat(BLOBS_AT_ONCE, self._unfinished)
        yield from self._walk(self._blobs)
        yield from self._walk(self._chunks)
        yield from self._facts()
        self.is_complete = self._left != 0 and not self._waits

    # ------------------------------------------------------------------------------------------------ transactions

    def _atomic(self, body: Callable[[], Op[T]]) -> Op[T | None]:
        """Run *body* in a transaction, if another one is allowed."""
        if self._left == 0:
            return None
        if self._left is not None:
            self._left -= 1
        return (yield from atomic(body()))

    def _repeat(self, at_once: int, body: Callable[[], Op[int]]) -> Op[None]:
        """Run *body*, which says how many rows it has dealt with, until they are fewer than *at_once*."""
        while ((yield from self._atomic(body)) or 0) >= at_once:
            pass

    def _walk(self, body: Callable[[int], Op[int | None]]) -> Op[None]:
        """Run *body* from one id to the next that it returns, to the end."""
        after: int | None = 0
        while after is not None:
            after = yield from self._atomic(partial(body, after))

    def _many(self, *queries: Query) -> Op[list[Any]]:
        """Run *queries*, the first of a transaction, in one round trip with the look whether the store is still there."""
        store, *results = yield Many([Query(STORE, self._store_id), *queries])
        if not store:
            raise _StoreGone
        return list(results)

    # ------------------------------------------------------------------------------------------------------ versions

    def _facts(self) -> Op[tuple[str, int, int | None] | None]:
        """The kind of the file system, the first version to keep, and the first that there is."""
        rows: Rows = yield Query(FLOOR, self._store_id, self._grace)
        if not rows:
            return None
        kind, kept_from, settled, pinned, oldest, has_left = rows[0]
        self._waits = has_left or (
            oldest is not None and kept_from > oldest and (settled is None or settled < kept_from)
        )
        floor: int = min(bound for bound in (kept_from, settled or 0, pinned) if bound is not None)
        return kind, floor, oldest

    def _forget_the_dead(self) -> Op[None]:
        yield from self._many(Query(FORGET_PINS, self._store_id), Query(FORGET_HOLDS, self._store_id))

    def _versions(self, floor: int) -> Op[int]:
        locked, now = yield from self._many(
            Query(LOCK_VERSIONS, self._store_id, floor, ROWS_AT_ONCE),
            Query(LOOK_AGAIN, self._store_id, floor, ROWS_AT_ONCE + 1),
        )
        ours = {row[0] for row in locked}
        bound = next((version for version, _ in now if version not in ours), floor)
        if now and now[0][1] is not None:
            bound = min(bound, now[0][1])
        deleted: int = yield Query(DELETE_VERSIONS, self._store_id, bound)
        self.found.versions += deleted
        return deleted

    def _rows(self) -> Op[None]:
        """Delete the rows that ended with the first version that is left, or earlier."""
        facts = yield from self._facts()
        if facts is None:
            raise _StoreGone
        *_, oldest = facts
        # While version 1 is there, so is the Volume as it was made.
        if oldest is None or oldest == 1:
            return
        yield from self._repeat(ROWS_AT_ONCE, lambda: self._names(oldest))
        yield from self._repeat(ROWS_AT_ONCE, lambda: self._inodes(oldest))

    def _names(self, floor: int) -> Op[int]:
        (deleted,) = yield from self._many(Query(DELETE_NAMES, self._store_id, floor, ROWS_AT_ONCE))
        self.found.names += deleted
        return deleted  # type: ignore[no-any-return]

    def _inodes(self, floor: int) -> Op[int]:
        (((deleted,),),) = yield from self._many(Query(DELETE_INODES, self._store_id, floor, ROWS_AT_ONCE))
        self.found.inodes += deleted
        return deleted  # type: ignore[no-any-return]

    # ---------------------------------------------------------------------------------------------------- live files

    def _nameless(self, after: int) -> Op[int | None]:
        """Delete files without names after inode *after*; returns the last of them, None if there are no more."""
        (rows,) = yield from self._many(Query(LOCK_NAMELESS, self._store_id, self._grace, after, ROWS_AT_ONCE))
        if not rows:
            return None
        inos = [row[0] for row in rows]
        ((deleted,),) = yield Query(DELETE_NAMELESS, self._store_id, inos)
        self.found.inodes += deleted
        last: int = inos[-1]
        return last

    # ------------------------------------------------------------------------------------------------------ contents

    def _unfinished(self) -> Op[int]:
        (noted,) = yield from self._many(Query(NOTE_UNFINISHED, self._store_id, BLOBS_AT_ONCE))
        return noted  # type: ignore[no-any-return]

    def _blobs(self, after: int) -> Op[int | None]:
        """Look at the noted blobs after *after*; returns the last of them, None if there are no more."""
        store_id = self._store_id
        (rows,) = yield from self._many(Query(BLOBS_LEFT, store_id, self._grace, after, BLOBS_AT_ONCE))
        if not rows:
            return None
        ids = [row[0] for row in rows]
        locked, now = yield Many([Query(LOCK_BLOBS, store_id, ids), Query(BLOBS_NOW, store_id, ids)])
        ours = {row[0] for row in locked}
        facts = {blob_id: (is_used, extents) for blob_id, is_used, extents in now}
        free: list[int] = []
        done: list[int] = []
        room = EXTENTS_AT_ONCE
        for blob_id in ids:
            is_used, extents = facts.get(blob_id, (True, 0))
            if not is_used and blob_id in ours:
                if free and extents > room:
                    break
                free.append(blob_id)
                room -= extents
            if blob_id in ours or blob_id not in facts:
                done.append(blob_id)
            after = blob_id
        if free:
            self.found.blobs += yield Query(DELETE_BLOBS, store_id, free)
        yield Query(FORGET_BLOBS, store_id, done)
        return after

    def _chunks(self, after: int) -> Op[int | None]:
        """Look at the noted chunks after *after*; returns the last of them, None if there are no more."""
        store_id = self._store_id
        (rows,) = yield from self._many(Query(CHUNKS_LEFT, store_id, after, CHUNKS_AT_ONCE))
        if not rows:
            return None
        ids = [row[0] for row in rows]
        locked, now = yield Many([Query(LOCK_CHUNKS, store_id, ids), Query(CHUNKS_NOW, store_id, ids)])
        ours = {row[0] for row in locked}
        there = {row[0] for row in now}
        free = [row for row in now if row[0] in ours and not row[1]]
        rows_free = [row[0] for row in free if not row[3]]
        objects_free = [row[0] for row in free if row[3]]
        if rows_free:
            self.found.chunks += yield Query(DELETE_CHUNKS, store_id, rows_free)
        if objects_free:
            ((deleted,),) = yield Query(DELETE_OBJECTS, store_id, objects_free)
            self.found.chunks += deleted
        self.found.size_bytes += sum(row[2] or 0 for row in free)
        yield Query(
            FORGET_CHUNKS, store_id, [chunk_id for chunk_id in ids if chunk_id in ours or chunk_id not in there]
        )
        last: int = ids[-1]
        return last


def collect_in_passing(store_id: int) -> Op[bool]:
    """A short round of collection; whether there will be nothing to do before the next change. A chore of the client."""
    collection = Collection(store_id, transactions_max=TRANSACTIONS_IN_PASSING)
    yield from collection.run()
    return collection.is_complete
