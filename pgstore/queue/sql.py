"""Parts that several statements of Queue share, and the names of what one letter stands for in its tables."""

from __future__ import annotations

from typing import Final

from pgstore.client.listener import CHANNEL, SOMEONE_WAITS

# queue_deferred.kind: an item that is leased, one that is put with a delay, and one whose last lease came to nothing.
LEASED: Final = "l"
DELAYED: Final = "d"
DEAD: Final = "x"

# The commit does not wait for the disk. As a part of the statement: the setting ends with it, and costs no trip of its own.
SET_ASYNC_COMMIT: Final = "set_config('synchronous_commit', 'off', true)"
ASYNC_COMMIT: Final = f"async_commit AS MATERIALIZED (SELECT {SET_ASYNC_COMMIT})"


def waking(rows: str, *, key: str, payload: str) -> str:
    """
    A SELECT that wakes those who wait for a topic if *rows* has any, and has one row then.

    *key* and *payload* are the names of the parameters with the topic's.
    """
    return f"""
        SELECT (SELECT pg_notify('{CHANNEL}', {payload}) WHERE {SOMEONE_WAITS.format(key=key)})
          FROM (SELECT 1 FROM {rows} LIMIT 1) AS some_item
    """
