"""Deleting versions, names that only deleted versions had, and inodes that nothing leads to any more."""

from __future__ import annotations

from typing import Final

from pgstore.core.operation import Op, Query
from pgstore.core.statement import Statement
from pgstore.fs.candidates import GRACE_OVER, note_blobs
from pgstore.fs.model import LIVE
from pgstore.fs.retention.collection.retained import ALIVE, GRACE_ENDED, PINNED, Retention, RetentionRound

# Names, inodes or versions in one transaction. While an old snapshot is held, each transaction scans the dead rows of those before
# it again: few large ones are quicker than many small ones.
ROWS_AT_ONCE: Final = 5000

# To pin a version one locks its row. So either we skip the row here, or `VERSIONS_NOW` sees the pin.
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
VERSIONS_NOW = Statement(
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

# By ctid, as in `fs.commit.statements`. Nobody but collection changes rows that have ended, so the only ones that SKIP LOCKED
# leaves out are those that another collection is deleting.
DELETE_NAMES = Statement(
    f"""
    DELETE FROM pgstore.dirent
     WHERE store_id + 0::bigint = $1
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


def _delete_inodes(ctids: str) -> str:
    """Delete the inodes that the query *ctids* names, and note their blobs. One row: how many were deleted."""
    return f"""
    WITH gone AS (
         DELETE FROM pgstore.inode
          WHERE store_id + 0::bigint = $1
            AND ctid = ANY (ARRAY({ctids}))
         RETURNING blob_id
    ), noted AS (
    {note_blobs("gone", noted_at=GRACE_OVER)}
    )
    SELECT count(*) FROM gone
    """


# As `DELETE_NAMES`.
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
# To pin an inode one locks its row. So either we skip the row here, or `DELETE_NAMELESS` sees the pin.
LOCK_NAMELESS = Statement(
    f"""
    SELECT i.ino
      FROM pgstore.inode i
     WHERE i.store_id = $1
       AND i.link_count::integer = 0
       AND i.ctime_ns <= (extract(epoch FROM {GRACE_ENDED}) * 1000000000::numeric)::bigint
       AND i.ino::bigint > $3
       AND NOT {PINNED}
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
            WHERE NOT {PINNED}"""
    ),
    "int8 int8[]",
)


class DeletingRows(RetentionRound):
    """Deletes versions, names and inodes."""

    def _delete_versions(self, retention: Retention) -> Op[None]:
        """Delete the versions before the floor, and then the rows that ended no later than the oldest version that is left."""
        if retention.oldest is not None and retention.floor > retention.oldest:
            yield from self._repeat(ROWS_AT_ONCE, lambda: self._versions(retention.floor))
        oldest = (yield from self._retention()).oldest
        # While version 1 is kept, so is version 0, the Volume as it was made.
        if oldest is None or oldest == 1:
            return
        yield from self._repeat(ROWS_AT_ONCE, lambda: self._names(oldest))
        yield from self._repeat(ROWS_AT_ONCE, lambda: self._inodes(oldest))

    def _delete_nameless(self) -> Op[None]:
        """Delete files that have no name any more."""
        yield from self._walk(self._nameless)

    def _versions(self, floor: int) -> Op[int]:
        locked, now = yield from self._many(
            Query(LOCK_VERSIONS, self._store_id, floor, ROWS_AT_ONCE),
            Query(VERSIONS_NOW, self._store_id, floor, ROWS_AT_ONCE + 1),
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
