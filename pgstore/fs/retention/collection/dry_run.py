"""What a collection would delete. It reads all of that, which takes time: for people who ask, not for the background."""

from __future__ import annotations

from pgstore.core.operation import Op, Query
from pgstore.core.statement import Statement
from pgstore.fs.model import LIVE, StoreGone
from pgstore.fs.retention.collection.retained import ALIVE, GRACE_ENDED, PINNED, RetentionRound
from pgstore.fs.retention.collection.round import Collected

# $3: the first version to keep.
WOULD_DELETE = Statement(
    f"""
    WITH going AS (
         SELECT i.blob_id, i.ctid
           FROM pgstore.inode i
          WHERE i.store_id = $1
            AND i.version_to <= $3
            AND i.version_to < {LIVE}
          UNION ALL
         SELECT i.blob_id, i.ctid
           FROM pgstore.inode i
          WHERE i.store_id = $1
            AND i.link_count::integer = 0
            AND $4 = 'nfs'
            AND i.ctime_ns <= (extract(epoch FROM {GRACE_ENDED}) * 1000000000::numeric)::bigint
            AND NOT {PINNED}
    ), candidate AS (
         SELECT g.blob_id AS id
           FROM going g
          WHERE g.blob_id IS NOT NULL
          UNION
         SELECT l.blob_id
           FROM pgstore.blob_candidate l
          WHERE l.store_id = $1
            AND l.noted_at <= {GRACE_ENDED}
          UNION
         SELECT b.id
           FROM pgstore.blob b
          WHERE b.store_id = $1
            AND b.session_id IS NOT NULL
            AND NOT EXISTS (SELECT FROM pgstore.session s WHERE s.id = b.session_id AND {ALIVE})
    ), free AS MATERIALIZED (
         SELECT b.id
           FROM candidate c
           JOIN pgstore.blob b ON b.store_id = $1 AND b.id = c.id
          WHERE NOT EXISTS (SELECT
                              FROM pgstore.inode i
                             WHERE i.store_id = $1
                               AND i.blob_id = b.id
                               AND i.ctid NOT IN (SELECT g.ctid FROM going g))
    ), loose AS MATERIALIZED (
         SELECT c.id
           FROM (SELECT e.chunk_id AS id
                   FROM free f
                   JOIN pgstore.extent e ON e.store_id = $1 AND e.blob_id = f.id
                  UNION
                 SELECT l.chunk_id
                   FROM pgstore.chunk_candidate l
                  WHERE l.store_id = $1) c
          WHERE NOT EXISTS (SELECT
                              FROM pgstore.extent e
                             WHERE e.store_id = $1
                               AND e.chunk_id = c.id
                               AND e.blob_id NOT IN (SELECT f.id FROM free f))
    )
    SELECT (SELECT count(*) FROM pgstore.volume_version v WHERE v.store_id = $1 AND v.version::bigint < $3),
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
    read_only=True,
)


class DryRun(RetentionRound):
    """A round that deletes nothing, and tells what it would."""

    def dry_run(self) -> Op[Collected]:
        """What `run` would delete."""
        try:
            retention = yield from self._retention()
        except StoreGone:
            return Collected()
        # As in `rows`: with version 1 stays version 0, the Volume as it was made.
        floor = retention.floor if retention.floor > 1 else 0
        ((*counts,),) = yield Query(WOULD_DELETE, self._store_id, self._grace_seconds, floor, retention.kind)
        return Collected(*counts)
