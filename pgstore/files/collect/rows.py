"""Deleting versions, and the names and inodes that nothing leads to any more."""

from __future__ import annotations

from typing import Final

from pgstore.core.operation import Op, Query
from pgstore.core.statement import Statement
from pgstore.files.changes import LIVE
from pgstore.files.collect.kept import ALIVE, GRACE_ENDED, HELD, Deciding, Facts

# Names, inodes, versions in one transaction. While an old snapshot is held each finds the dead ones of those before it again.
ROWS_AT_ONCE: Final = 5000

# Whoever pins a version locks its row, so that it is either skipped here, or its pin is seen by the next look.
LOCK_VERSIONS = Statement(
    """
    SELECT v.version
      FROM pgstore.volume_version v
     WHERE v.store_id = $1
       AND v.version::bigint < $2
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
               AND EXISTS (SELECT FROM pgstore.session s WHERE s.id = p.session_id AND {ALIVE}))
      FROM pgstore.volume_version v
     WHERE v.store_id = $1
       AND v.version::bigint <= $2
     ORDER BY v.version
     LIMIT $3
    """,
    "int8 int8 int8",
)
DELETE_VERSIONS = Statement(
    "DELETE FROM pgstore.volume_version WHERE store_id = $1 AND version::bigint < $2", "int8 int8"
)

# Places, and `$1::numeric`: see `writing`. Nobody changes rows that have ended, so only other collectors are skipped.
DELETE_NAMES = Statement(
    f"""
    DELETE FROM pgstore.dirent
     WHERE store_id::numeric = $1::numeric
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
          WHERE store_id::numeric = $1::numeric
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
# Whoever holds an inode locks its row, so that it is either skipped here, or its hold is seen when deleting.
LOCK_NAMELESS = Statement(
    f"""
    SELECT i.ino
      FROM pgstore.inode i
     WHERE i.store_id = $1
       AND i.link_count::integer = 0
       AND i.ctime_ns <= (extract(epoch FROM {GRACE_ENDED}) * 1000000000::numeric)::bigint
       AND i.ino::bigint > $3
       AND NOT {HELD}
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
             FROM pg_catalog.unnest($2) AS u (ino)
            CROSS JOIN LATERAL (
                  SELECT n.ctid, n.ino
                    FROM pgstore.inode n
                   WHERE n.store_id = $1
                     AND n.ino::bigint = u.ino
                     AND n.version_to = {LIVE}
                     AND n.link_count::integer = 0
                   LIMIT 1) i
            WHERE NOT {HELD}"""
    ),
    "int8 int8[]",
)


class DeletingRows(Deciding):
    """Deletes versions, names and inodes."""

    def _delete_versions(self, facts: Facts) -> Op[None]:
        """Delete the versions that need not stay, and then the rows that ended with the first that is left, or earlier."""
        if facts.oldest is not None and facts.floor > facts.oldest:
            yield from self._repeat(ROWS_AT_ONCE, lambda: self._versions(facts.floor))
        oldest = (yield from self._facts()).oldest
        # While version 1 is there, so is the Volume as it was made.
        if oldest is None or oldest == 1:
            return
        yield from self._repeat(ROWS_AT_ONCE, lambda: self._names(oldest))
        yield from self._repeat(ROWS_AT_ONCE, lambda: self._inodes(oldest))

    def _delete_nameless(self) -> Op[None]:
        """Delete files that have no name."""
        yield from self._walk(self._nameless)

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

    def _names(self, floor: int) -> Op[int]:
        (deleted,) = yield from self._many(Query(DELETE_NAMES, self._store_id, floor, ROWS_AT_ONCE))
        self.found.names += deleted
        return deleted  # type: ignore[no-any-return]

    def _inodes(self, floor: int) -> Op[int]:
        (((deleted,),),) = yield from self._many(Query(DELETE_INODES, self._store_id, floor, ROWS_AT_ONCE))
        self.found.inodes += deleted
        return deleted  # type: ignore[no-any-return]

    def _nameless(self, after: int) -> Op[int | None]:
        """Delete files without names after inode *after*; returns the last of them, None if there are no more."""
        (rows,) = yield from self._many(Query(LOCK_NAMELESS, self._store_id, self._grace_seconds, after, ROWS_AT_ONCE))
        if not rows:
            return None
        inos = [row[0] for row in rows]
        ((deleted,),) = yield Query(DELETE_NAMELESS, self._store_id, inos)
        self.found.inodes += deleted
        last: int = inos[-1]
        return last
