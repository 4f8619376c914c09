"""Parts that several statements of Queue share, and the names of what one letter stands for in its tables."""

from __future__ import annotations

from typing import Final

from pgstore.client.waking import SOMEONE_WAITS

# queue_deferred.kind: an item that is leased, one that is put with a delay, and one whose last lease came to nothing.
LEASED: Final = "l"
DELAYED: Final = "d"
DEAD: Final = "x"

# The commit does not wait for the disk. As a part of the statement: the setting ends with it, and costs no trip of its own.
SET_ASYNC_COMMIT: Final = "set_config('synchronous_commit', 'off', true)"
ASYNC_COMMIT: Final = f"async_commit AS MATERIALIZED (SELECT {SET_ASYNC_COMMIT})"


def waking(rows: str, *, key: str, topic: str, to_come: bool = False) -> str:
    """
    A SELECT that tells as many of those who wait for a topic as there are *rows*, if any, and has one row then.

    *key* and *topic* are the names of the parameters with the topic's key and payload. *to_come*: the rows cannot be taken yet, and
    one who waits is told, to know when.
    """
    count = "0" if to_come else "r.number"
    return f"""
        SELECT (SELECT pgstore.wake({key}, {topic}, {count}) WHERE {SOMEONE_WAITS.format(key=key)})
          FROM (SELECT count(*) AS number FROM {rows}) AS r
         WHERE r.number > 0
    """
