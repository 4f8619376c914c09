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
# The first halves of locks' keys, which are listed at `pgstore.wake`.
LOCK_CLASS: Final = 0x70677374  # "pgst"
EVERYBODY_CLASS: Final = 0x7067736F  # "pgso"
MASK_CLASS: Final = 0x7067736D  # "pgsm"
SLOT_CLASS: Final = 0x70677400  # plus the slot


def _is_taken(lock_class: int, key: str, *, shared: bool = False) -> str:
    """
    A condition in SQL: somebody has the lock.

    It is given back at once, also when the transaction goes on: kept until the commit, it would make putters take each other for
    waiters.
    """
    kind = "_shared" if shared else ""
    return (
        f"CASE WHEN pg_try_advisory_lock{kind}({lock_class}, {key})"
        f" THEN NOT pg_advisory_unlock{kind}({lock_class}, {key}) ELSE true END"
    )


# As a condition in SQL: someone waits for the topic whose key is parameter {key}.
SOMEONE_WAITS: Final = _is_taken(LOCK_CLASS, "{key}")
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


def waking_one(*, key: str, topic: str) -> str:
    """
    Conditions for a CASE in SQL with what they lead to, always true: one of those who wait is told of one item, if anybody waits.

    Where one with the first slot waits alone, this says what `pgstore.wake` would. To call that after a pause of some milliseconds
    takes 0.07 ms more, of the one that an item takes from a put to a get.
    """
    others = " OR ".join(
        (
            _is_taken(SLOT_CLASS + 1, key, shared=True),
            _is_taken(EVERYBODY_CLASS, key),
            _is_taken(EVERYBODY_CLASS, "0"),
            _is_taken(MASK_CLASS, key, shared=True),
            f"NOT {_is_taken(SLOT_CLASS, key, shared=True)}",
        )
    )
    return f"""
        WHEN NOT {_is_taken(LOCK_CLASS, key)} THEN true
        WHEN {others} THEN (pgstore.wake({key}, {topic}, 1) IS NULL) IS NOT NULL
        ELSE (pg_notify('{CHANNEL}_' || ({key} & 255)::text, '0 1 0 ' || {topic}) IS NULL) IS NOT NULL
    """
