"""Telling those who wait for a topic that there is something: as many of them as there is something for, or everybody.

Whoever waits holds a shared advisory lock on the topic's key (`client.waiters`). Whoever changes something tries the exclusive
lock, and notifies only if that fails: an unconditional NOTIFY takes a lock on the whole database until the commit is through, and
costs eight producers most of their speed. A lock needs no row, is seen without a commit, and goes away with a dead client.

PostgreSQL before 19 signals every session that listens, whatever its channel; what is told to one waiter alone at least wakes no
other program. `pgstore.wake` (sql/schema.sql) chooses who is told, and says there what a notification looks like.
"""

from __future__ import annotations

import zlib
from typing import Final

from pgstore.core.operation import Query, Topic
from pgstore.core.statement import Statement

CHANNEL: Final = "pgstore"  # of what is meant for everybody; each waiter has another one for itself (`client.waiters`)
LOCK_CLASS: Final = 0x70677374  # "pgst": the first half of the lock's key
SLOT_CLASS: Final = 0x70677400  # plus the slot: of those who have one

# As a condition in SQL: someone waits for the topic whose key is parameter {key}. The lock is given back at once, also when the
# transaction goes on: kept until the commit, it would make putters take each other for waiters.
SOMEONE_WAITS: Final = (
    f"CASE WHEN pg_try_advisory_lock({LOCK_CLASS}, {{key}})"
    f" THEN NOT pg_advisory_unlock({LOCK_CLASS}, {{key}}) ELSE true END"
)
_WAKE_IF_AWAITED: Final = Statement(
    f"SELECT pgstore.wake($1, $2, $3) WHERE {SOMEONE_WAITS.format(key='$1')}", "int4 text int8"
)
_NOTIFY_IF_AWAITED: Final = Statement(
    f"SELECT pg_notify('{CHANNEL}', $2) WHERE {SOMEONE_WAITS.format(key='$1')}", "int4 text"
)


def lock_key(topic: Topic) -> int:
    """The second half of the topic's advisory lock key. Topics that share one cost each other a needless wake-up."""
    key = zlib.crc32(topic.payload.encode())
    return key - (1 << 32) if key >= 1 << 31 else key


def telling(topic: Topic, count: int) -> Query:
    """The query that tells *count* of those who wait for *topic*; where it is for everybody, all of them."""
    if topic.for_everybody:
        return Query(_NOTIFY_IF_AWAITED, lock_key(topic), f"- 1 0 {topic.payload}")
    return Query(_WAKE_IF_AWAITED, lock_key(topic), topic.payload, count)
