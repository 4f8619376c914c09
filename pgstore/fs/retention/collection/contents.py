"""Deleting contents: blobs that no inode refers to, and chunks that no blob has."""

from __future__ import annotations

from typing import Final

from pgstore.core.operation import Many, Op, Query
from pgstore.core.statement import Statement
from pgstore.fs.candidates import GRACE_OVER, note_blobs, note_chunks
from pgstore.fs.retention.collection.retained import ALIVE, GRACE_ENDED
from pgstore.fs.retention.collection.round import Round

BLOBS_AT_ONCE: Final = 100
EXTENTS_AT_ONCE: Final = 20_000  # of these blobs, but for a single one that has more
CHUNKS_AT_ONCE: Final = 200  # of up to 1 MiB

# Uploads whose session died become blobs to look at like others. If their writer comes back after all, it fails.
NOTE_UNFINISHED = Statement(
    f"""
    WITH dead AS (
         SELECT b.id AS blob_id, b.ctid
           FROM pgstore.blob b
          WHERE b.store_id = $1
            AND b.session_id IS NOT NULL
            AND NOT EXISTS (SELECT FROM pgstore.session s WHERE s.id = b.session_id AND {ALIVE})
            FOR UPDATE SKIP LOCKED
          LIMIT $2
    ), noted AS (
    {note_blobs("dead", noted_at=GRACE_OVER)}
    )
    UPDATE pgstore.blob
       SET session_id = NULL
     WHERE store_id::numeric = $1::numeric
       AND ctid = ANY (ARRAY(SELECT d.ctid FROM dead d))
    """,
    "int8 int8",
)

BLOBS_LEFT = Statement(
    f"""
    SELECT l.blob_id
      FROM pgstore.blob_candidate l
     WHERE l.store_id = $1
       AND l.noted_at <= {GRACE_ENDED}
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
          FROM pg_catalog.unnest($2) AS u (id)
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
         WHERE store_id::numeric = $1::numeric
           AND ctid = ANY (ARRAY(
               SELECT o.ctid
                 FROM pg_catalog.unnest($2) AS u (id)
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
      FROM pg_catalog.unnest($2) AS u (id)
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
    f"""
    WITH emptied AS (
         DELETE FROM pgstore.extent
          WHERE store_id::numeric = $1::numeric
            AND ctid = ANY (ARRAY(
                SELECT e.ctid
                  FROM pg_catalog.unnest($2) AS u (id)
                 CROSS JOIN LATERAL (
                       SELECT x.ctid
                         FROM pgstore.extent x
                        WHERE x.store_id = $1
                          AND x.blob_id = u.id
                       OFFSET 0) e))
         RETURNING chunk_id
    ), noted AS (
    {note_chunks("emptied")}
    )
    DELETE FROM pgstore.blob
     WHERE store_id::numeric = $1::numeric
       AND ctid = ANY (ARRAY(
           SELECT b.ctid
             FROM pg_catalog.unnest($2) AS u (id)
            CROSS JOIN LATERAL (
                  SELECT t.ctid
                    FROM pgstore.blob t
                   WHERE t.store_id = $1
                     AND t.id = u.id
                   LIMIT 1) b))
    """,
    "int8 int8[]",
)
FORGET_BLOBS = _delete("blob_candidate", "blob_id")

CHUNKS_LEFT = Statement(
    """
    SELECT l.chunk_id
      FROM pgstore.chunk_candidate l
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
      FROM pg_catalog.unnest($2) AS u (id)
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
    "SELECT count(*) FROM pg_catalog.unnest($2) AS u (id) WHERE pgstore.chunk_delete($1, u.id)", "int8 int8[]"
)
FORGET_CHUNKS = _delete("chunk_candidate", "chunk_id")


class DeletingContents(Round):
    """Deletes blobs and chunks."""

    def _delete_contents(self) -> Op[None]:
        yield from self._repeat(BLOBS_AT_ONCE, self._unfinished)
        yield from self._walk(self._blobs)
        yield from self._walk(self._chunks)

    def _unfinished(self) -> Op[int]:
        (noted,) = yield from self._many(Query(NOTE_UNFINISHED, self._store_id, BLOBS_AT_ONCE))
        return noted  # type: ignore[no-any-return]

    def _blobs(self, after: int) -> Op[int | None]:
        """Look at the noted blobs after *after*; returns the last of them, None if there are no more."""
        store_id = self._store_id
        (rows,) = yield from self._many(Query(BLOBS_LEFT, store_id, self._grace_seconds, after, BLOBS_AT_ONCE))
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
        deleted, _ = yield Many([Query(DELETE_BLOBS, store_id, free), Query(FORGET_BLOBS, store_id, done)])
        self.found.blobs += deleted
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
        deleted, ((unlinked,),), _ = yield Many(
            [
                Query(DELETE_CHUNKS, store_id, [chunk_id for chunk_id, _, _, is_object in free if not is_object]),
                Query(DELETE_OBJECTS, store_id, [chunk_id for chunk_id, _, _, is_object in free if is_object]),
                Query(FORGET_CHUNKS, store_id, [one for one in ids if one in ours or one not in there]),
            ]
        )
        self.found.chunks += deleted + unlinked
        self.found.size_bytes += sum(size_bytes or 0 for _, _, size_bytes, _ in free)
        last: int = ids[-1]
        return last
