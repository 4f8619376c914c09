"""What is in Queues, counted: per Queue and per partition."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import pgstore
from pgstore.client import Client
from pgstore.core.operation import Op, Query, Rows
from pgstore.core.statement import Statement

# The newest first.
LIST = Statement(
    """
    SELECT s.name, s.created_at, s.created_by, pg_catalog.count(DISTINCT q.partition), pg_catalog.count(q.store_id)
      FROM pgstore.store s
      LEFT JOIN pgstore.queue_items q ON q.store_id = s.id
     WHERE s.environment = $1
       AND s.kind = 'queue'
       AND s.name IS NOT NULL
     GROUP BY s.id
     ORDER BY s.created_at DESC, s.id DESC
    """,
    "text",
    read_only=True,
)
STATS = Statement(
    """
    SELECT name, depth, oldest_at, oldest_age, leased, delayed, dead, puts, gets, cleared
      FROM pgstore.queue_stats
     WHERE environment = $1
       AND name IS NOT NULL
       AND ($2 IS NULL OR store_id = $2)
     ORDER BY name
    """,
    "text int8",
    read_only=True,
)
PARTITIONS = Statement(
    """
    SELECT partition, count(*), min(put_at)
      FROM pgstore.queue_items
     WHERE store_id = $1
     GROUP BY partition
     ORDER BY partition
    """,
    "int8",
    read_only=True,
)


@dataclass(frozen=True)
class QueueSummary:
    """A named Queue and how much is in it."""

    name: str
    created_at: datetime
    created_by: str | None
    partitions: int
    """With items that can be taken."""
    total_size: int
    """Items that can be taken, of all partitions."""


@dataclass(frozen=True)
class QueueStats:
    """A row of the view `pgstore.queue_stats`."""

    name: str
    depth: int
    oldest_at: datetime | None
    oldest_age: timedelta | None
    leased: int
    delayed: int
    dead: int
    puts: int
    gets: int
    cleared: int


@dataclass(frozen=True)
class Partition:
    """A partition that has items."""

    name: str
    """Empty: the default one."""
    items: int
    oldest_at: datetime


def queues(client: Client, environment: str) -> list[QueueSummary]:
    """The named Queues of *environment*, newest first; their items are counted."""
    return [QueueSummary(*row) for row in client.run(_rows(Query(LIST, environment)))]


def stats(client: Client, environment: str, queue: pgstore.Queue | None = None) -> list[QueueStats]:
    """What waits in the named Queues of *environment*, or in one, and what has gone through; by name."""
    store_id = None if queue is None else client.run(queue._resolve_id())
    return [QueueStats(*row) for row in client.run(_rows(Query(STATS, environment, store_id)))]


def partitions(client: Client, queue: pgstore.Queue) -> list[Partition]:
    """The partitions of a Queue that have items, by name."""
    store_id = client.run(queue._resolve_id())
    return [Partition(*row) for row in client.run(_rows(Query(PARTITIONS, store_id)))]


def _rows(query: Query) -> Op[Rows]:
    return (yield query)  # type: ignore[no-any-return]
