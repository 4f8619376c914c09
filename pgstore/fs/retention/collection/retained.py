"""What stays: the newest versions, and what living sessions use or somebody may have begun to use a short time ago."""

from __future__ import annotations

from typing import Final, NamedTuple

from pgstore.client.session import DEAD_AFTER
from pgstore.core.operation import Op, Query, Rows
from pgstore.core.statement import Statement
from pgstore.fs.content.blobs import StoreGone
from pgstore.fs.retention.collection.round import Round

# Of a session `s`.
ALIVE: Final = f"s.heartbeat_at >= statement_timestamp() - interval '{DEAD_AFTER}'"
# $2: of grace, in seconds.
GRACE_ENDED: Final = "statement_timestamp() - $2 * interval '1 second'"
# Whether a living session has the inode `i` of store $1.
HELD: Final = f"""
    EXISTS (SELECT
              FROM pgstore.inode_hold h
              JOIN pgstore.session s ON s.id = h.session_id AND {ALIVE}
             WHERE h.store_id = $1
               AND h.ino = i.ino::bigint)
"""

# `settled` is the newest version that was the newest before the time of grace; `oldest` the first that is left.
FLOOR = Statement(
    f"""
    SELECT s.kind,
           f.head - f.versions_kept::integer + 1,
           (SELECT v.version
              FROM pgstore.volume_version v
             WHERE v.store_id = $1
               AND v.committed_at <= {GRACE_ENDED}
             ORDER BY v.version DESC
             LIMIT 1) AS settled,
           (SELECT p.version
              FROM pgstore.version_pin p
             WHERE p.store_id = $1
               AND EXISTS (SELECT FROM pgstore.session s WHERE s.id = p.session_id AND {ALIVE})
             ORDER BY p.version
             LIMIT 1) AS pinned,
           (SELECT v.version FROM pgstore.volume_version v WHERE v.store_id = $1 ORDER BY v.version LIMIT 1) AS oldest,
           EXISTS (SELECT FROM pgstore.blob_candidate l WHERE l.store_id = $1)
           OR s.kind = 'nfs'
              AND EXISTS (SELECT FROM pgstore.inode i WHERE i.store_id = $1 AND i.link_count::integer = 0) AS has_left
      FROM pgstore.store s
      JOIN pgstore.file_system f ON f.store_id = s.id
     WHERE s.id = $1
       AND f.store_id = $1
    """,
    "int8 float8",
    read_only=True,
)

FORGET_PINS = Statement(
    f"""
    DELETE FROM pgstore.version_pin
     WHERE store_id = $1
       AND NOT EXISTS (SELECT FROM pgstore.session s WHERE s.id = session_id AND {ALIVE})
    """,
    "int8",
)
FORGET_HOLDS = Statement(
    f"""
    DELETE FROM pgstore.inode_hold
     WHERE store_id = $1
       AND NOT EXISTS (SELECT FROM pgstore.session s WHERE s.id = session_id AND {ALIVE})
    """,
    "int8",
)


class Facts(NamedTuple):
    """What there is of a file system, and what must stay of it."""

    kind: str  # volume, nfs
    floor: int  # the first version to keep
    oldest: int | None  # the first version that there is
    waits: bool  # something will go when a time of grace has passed


class Deciding(Round):
    """Finds out what stays."""

    def _facts(self) -> Op[Facts]:
        rows: Rows = yield Query(FLOOR, self._store_id, self._grace_seconds)
        if not rows:
            raise StoreGone
        kind, kept_from, settled, pinned, oldest, has_left = rows[0]
        waits = has_left or (oldest is not None and kept_from > oldest and (settled is None or settled < kept_from))
        floor: int = min(bound for bound in (kept_from, settled or 0, pinned) if bound is not None)
        return Facts(kind, floor, oldest, waits)

    def _forget_the_dead(self) -> Op[None]:
        """Delete what sessions that died have kept."""
        yield from self._many(Query(FORGET_PINS, self._store_id), Query(FORGET_HOLDS, self._store_id))
