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

# Blobs of uploads whose session died become candidates. Two collections do not note the same: the second skips what the first has
# locked. A writer that comes back after all finds its blob without its session, and fails.
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
     WHERE store_id + 0::bigint = $1
       AND ctid = ANY (ARRAY(SELECT d.ctid FROM dead d))
    """,
    "int8 int8",
)

# Another collection at work on a candidate has locked it: it is skipped, so that two do not delete the same.
BLOB_CANDIDATES = Statement(
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
    """Lock those of the rows $2 that nobody else has locked, and return their ids."""
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
         WHERE store_id + 0::bigint = $1
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


# An inode that begins to refer to a blob locks the blob, by its foreign key. So either we skip the blob, or `BLOBS_NOW` sees the
# inode.
LOCK_BLOBS = _lock("blob")
# Those of the blobs $2 that exist: whether an inode refers to them, and if none does, how many extents they have.
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
# Extents and blob in one statement, so that a reader that still sees the blob has been shown all of its extents.
DELETE_BLOBS = Statement(
    f"""
    WITH emptied AS (
         DELETE FROM pgstore.extent
          WHERE store_id + 0::bigint = $1
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
     WHERE store_id + 0::bigint = $1
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

# As `BLOB_CANDIDATES`.
CHUNK_CANDIDATES = Statement(
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
# An extent that begins to have a chunk locks the chunk, by its foreign key. So either we skip the chunk, or `CHUNKS_NOW` sees the
# extent.
LOCK_CHUNKS = _lock("chunk")
# The octet_length of a value stored out of line stands in the row, so that no bytes are read. Large objects have no such cheap
# size.
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
# Unlinking takes a lock for each object until the transaction ends, out of a table that all share: hence `CHUNKS_AT_ONCE`.
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
        """Delete what can be of the candidates after blob *after*. Returns the last one looked at, None if there are no more."""
        store_id = self._store_id
        (rows,) = yield from self._many(Query(BLOB_CANDIDATES, store_id, self._grace_seconds, after, BLOBS_AT_ONCE))
        if not rows:
            return None
        ids = [row[0] for row in rows]
        locked, now = yield Many([Query(LOCK_BLOBS, store_id, ids), Query(BLOBS_NOW, store_id, ids)])
        ours = {row[0] for row in locked}
        existing = {blob_id: (is_used, extents) for blob_id, is_used, extents in now}
        free: list[int] = []
        done: list[int] = []
        room = EXTENTS_AT_ONCE
        for blob_id in ids:
            is_used, extents = existing.get(blob_id, (True, 0))
            if not is_used and blob_id in ours:
                if free and extents > room:
                    break
                free.append(blob_id)
                room -= extents
            if blob_id in ours or blob_id not in existing:
                done.append(blob_id)
            after = blob_id
        deleted, _ = yield Many([Query(DELETE_BLOBS, store_id, free), Query(FORGET_BLOBS, store_id, done)])
        self.found.blobs += deleted
        return after

    def _chunks(self, after: int) -> Op[int | None]:
        """Delete what can be of the candidates after chunk *after*. Returns the last one looked at, None if there are no more."""
        store_id = self._store_id
        (rows,) = yield from self._many(Query(CHUNK_CANDIDATES, store_id, after, CHUNKS_AT_ONCE))
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
