"""What must stay: the newest versions, what living sessions have pinned, and what went out of use only a short time ago."""

from __future__ import annotations

from typing import Final, NamedTuple

from pgstore.client.session import DEAD_AFTER
from pgstore.core.operation import Op, Query, Rows
from pgstore.core.statement import Statement
from pgstore.fs.model import StoreGone
from pgstore.fs.retention.collection.round import Round

# Whether the session `s` is alive.
ALIVE: Final = f"s.heartbeat_at >= statement_timestamp() - interval '{DEAD_AFTER}'"
# What went out of use before this instant may be deleted. $2: the time of grace, in seconds.
GRACE_ENDED: Final = "statement_timestamp() - $2 * interval '1 second'"
# Whether a living session has pinned the inode `i` of store $1.
PINNED: Final = f"""
    EXISTS (SELECT
              FROM pgstore.inode_pin h
              JOIN pgstore.session s ON s.id = h.session_id AND {ALIVE}
             WHERE h.store_id = $1
               AND h.ino = i.ino::bigint)
"""

# `before_grace`: the newest version of those committed before the time of grace; `oldest`: the first that is left.
FLOOR = Statement(
    f"""
    SELECT s.kind,
           f.head - f.versions_kept::integer + 1,
           (SELECT v.version
              FROM pgstore.volume_version v
             WHERE v.store_id = $1
               AND v.committed_at <= {GRACE_ENDED}
             ORDER BY v.version DESC
             LIMIT 1) AS before_grace,
           (SELECT p.version
              FROM pgstore.version_pin p
             WHERE p.store_id = $1
               AND EXISTS (SELECT FROM pgstore.session s WHERE s.id = p.session_id AND {ALIVE})
             ORDER BY p.version
             LIMIT 1) AS pinned,
           (SELECT v.version FROM pgstore.volume_version v WHERE v.store_id = $1 ORDER BY v.version LIMIT 1) AS oldest,
           EXISTS (SELECT FROM pgstore.blob_candidate l WHERE l.store_id = $1)
           OR s.kind = 'nfs'
              AND EXISTS (SELECT FROM pgstore.inode i WHERE i.store_id = $1 AND i.link_count::integer = 0) AS has_candidates
      FROM pgstore.store s
      JOIN pgstore.file_system f ON f.store_id = s.id
     WHERE s.id = $1
       AND f.store_id = $1
    """,
    "int8 float8",
    read_only=True,
)

FORGET_VERSION_PINS = Statement(
    f"""
    DELETE FROM pgstore.version_pin
     WHERE store_id = $1
       AND NOT EXISTS (SELECT FROM pgstore.session s WHERE s.id = session_id AND {ALIVE})
    """,
    "int8",
)
FORGET_INODE_PINS = Statement(
    f"""
    DELETE FROM pgstore.inode_pin
     WHERE store_id = $1
       AND NOT EXISTS (SELECT FROM pgstore.session s WHERE s.id = session_id AND {ALIVE})
    """,
    "int8",
)


class Retention(NamedTuple):
    """What must stay of a file system."""

    kind: str  # volume, nfs
    floor: int  # the first version to keep
    oldest: int | None  # the first version that is left
    waits: bool  # something can be deleted when its time of grace is over


class RetentionRound(Round):
    """A round that knows what must stay."""

    def _retention(self) -> Op[Retention]:
        rows: Rows = yield Query(FLOOR, self._store_id, self._grace_seconds)
        if not rows:
            raise StoreGone
        kind, kept_from, before_grace, pinned, oldest, has_candidates = rows[0]
        waits = has_candidates or (
            oldest is not None and kept_from > oldest and (before_grace is None or before_grace < kept_from)
        )
        floor: int = min(bound for bound in (kept_from, before_grace or 0, pinned) if bound is not None)
        return Retention(kind, floor, oldest, waits)

    def _forget_dead_pins(self) -> Op[None]:
        """Delete the pins of sessions that died."""
        yield from self._many(Query(FORGET_VERSION_PINS, self._store_id), Query(FORGET_INODE_PINS, self._store_id))
