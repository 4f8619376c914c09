"""What goes on in a database now: samples of counters and estimates, and the rates between them.

A sample must cost next to nothing, however many stores and rows there are: nothing is counted by reading whole tables.

- Rows and bytes of a Dict or a file system are estimates: its share of the table as the last ANALYZE saw it, of the rows and bytes
  that the table has now. Dead rows and old versions count.
- A Queue is looked into (`live_sql.QUEUES`): up to 1,000 items are counted; of what has more the rest is an estimate.
- As much is spent on that as `SHARE_OF_CORE` allows: with many Queues each has its turn, those with something in them more often.
- Clients tell every ten seconds what they took of a Queue, so its rates are those of the last twenty.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from pgstore import errors
from pgstore.admin import live_sql as sql
from pgstore.admin.live_model import (
    CallState,
    DictState,
    FileState,
    QueueState,
    Sample,
    ServerState,
    SessionState,
    Totals,
)
from pgstore.admin.mounts import MountedStore, mounts
from pgstore.admin.slow_statements import SlowStatements
from pgstore.client import Client
from pgstore.client.waking import lock_key
from pgstore.core import clock, limit
from pgstore.core.clock import Deadline
from pgstore.core.operation import Op, Query, Rows, Topic

SHARE_OF_CORE: Final = 0.004  # of the server, for looking into queues; the rest of a sample takes about half as much
CREDIT_SECONDS_MAX: Final = 0.2
# What a look costs the server: what was counted, as measured, but at least half of the time that passed. All of it would be too
# much on a server that is busy, where most of it is waiting for a processor; and dead rows are seen in the time alone.
QUEUE_SECONDS: Final = 30e-6
ITEM_SECONDS: Final = 0.2e-6
BATCH_SECONDS: Final = 0.01
BATCH_MIN, BATCH_MAX = 5, 50
WINDOW_SECONDS: Final = 20.0
ANSWER_SECONDS_MAX: Final = 5.0
SESSIONS_MAX: Final = 50
_BUSY: Final = 8  # a queue with something in it is looked into so many times as often

# How often what seldom changes is asked for.
_STORES_SECONDS: Final = 30.0
_SHARES_SECONDS: Final = 60.0
_SESSIONS_SECONDS: Final = 5.0
_MOUNTS_SECONDS: Final = 5.0


@dataclass
class _Seen:
    """What one look into a queue has found."""

    at: float
    depth: int
    is_cut: bool
    oldest_at: datetime | None
    leased: int
    delayed: int
    dead: int


@dataclass
class _Queue:
    """What is remembered of a queue between samples."""

    seen: _Seen | None = None
    past: deque[tuple[float, int, int, bool]] = field(default_factory=deque)
    """Times, with how many items there were then, how many had left, and whether the first number is too small."""


@dataclass(frozen=True)
class _Share:
    """How the rows of a table are shared by the stores."""

    common: dict[int, float]
    others: float
    """The share of each store that is not among the common ones."""

    def of(self, store_id: int) -> float:
        return self.common.get(store_id, self.others)


class Live:
    """
    Takes samples of one database; each call of `sample` is compared with the one before.

    Args:
        environment: stores of this one alone; None: all.
    """

    def __init__(self, client: Client, environment: str | None = None) -> None:
        self._client = client
        self._environment = environment
        self._credit = CREDIT_SECONDS_MAX
        self._batch = BATCH_MAX // 2
        self._last_at: float | None = None
        self._commits: int | None = None
        self._tables: dict[str, tuple[Any, ...]] = {}
        self._stores: Rows = []
        self._stores_changed: Any = None
        self._asked: dict[str, float] = {}
        self._shares: dict[str, _Share] = {}
        self._sessions: Rows = []
        self._mounts: list[MountedStore] = []
        self._queues: dict[int, _Queue] = {}
        self._statements = SlowStatements(client)

    def sample(self) -> Sample:
        """
        What there is now. The first has no rates.

        Raises:
            StoreUnavailable, AccessDenied, SchemaError: the database cannot be asked now; the next call tries again.
        """
        with limit.bounded_by(Deadline.after(ANSWER_SECONDS_MAX)):
            return self._sample()

    def _sample(self) -> Sample:
        at = clock.monotonic()
        seconds = None if self._last_at is None else max(at - self._last_at, 1e-3)
        ((now, commits, rollbacks, *about),) = self._rows(sql.SERVER)
        tables = {row[0]: row[1:] for row in self._rows(sql.TABLES)}
        self._refresh(at, tables)
        left = {store_id: (gets, cleared) for store_id, gets, cleared in self._rows(sql.LEFT)}
        queues = {row[0]: row for row in self._stores if row[2] in ("queue", "app")}
        self._look(queues, left, at)
        waiters: dict[int, int] = dict(self._rows(sql.WAITERS))
        heads = {row[0]: row[1:] for row in self._rows(sql.HEADS)}
        done = commits + rollbacks
        server = ServerState(_rate(done, self._commits, seconds), *about)
        sample = Sample(
            taken_at=now,
            seconds=seconds,
            server=server,
            totals=self._totals(tables, seconds),
            queues=[self._queue(row, now, waiters, tables) for row in queues.values() if row[2] == "queue"],
            calls=[self._calls(row, now) for row in queues.values() if row[2] == "app"],
            dicts=[self._dict(row, tables) for row in self._stores if row[2] == "dict"],
            files=[self._files(row, tables, heads) for row in self._stores if row[2] in ("volume", "nfs")],
            sessions=[_session(row, now) for row in self._sessions],
            sessions_total=self._sessions[0][8] if self._sessions else 0,
            mounts=self._mounts,
            statements=self._statements.busiest(at),
            statements_missing=self._statements.missing,
            not_looked_into=sum(1 for store_id in queues if self._queues[store_id].seen is None),
        )
        self._last_at, self._commits, self._tables = at, done, tables
        return sample

    def _rows(self, *query: Any) -> Rows:
        return self._client.run(_rows(Query(*query)))

    def _refresh(self, at: float, tables: dict[str, tuple[Any, ...]]) -> None:
        """Ask anew for what seldom changes, where it has changed or the time has come."""
        changed = tables.get("store", ())[2:]
        if changed != self._stores_changed or self._is_due("stores", at, _STORES_SECONDS):
            self._stores = self._rows(sql.STORES, self._environment)
            self._stores_changed = changed
            self._asked["stores"] = at
            there = {row[0] for row in self._stores if row[2] in ("queue", "app")}
            self._queues = {store_id: self._queues.get(store_id, _Queue()) for store_id in there}
        if self._is_due("shares", at, _SHARES_SECONDS):
            self._shares = {name: _share(*rest) for name, *rest in self._rows(sql.SHARES)}
            self._asked["shares"] = at
        if self._is_due("sessions", at, _SESSIONS_SECONDS):
            self._sessions = self._rows(sql.SESSIONS, SESSIONS_MAX)
            self._asked["sessions"] = at
        if self._is_due("mounts", at, _MOUNTS_SECONDS):
            with contextlib.suppress(errors.Error, OSError):  # a daemon that ends while it is asked
                self._mounts = mounts()
            self._asked["mounts"] = at

    def _is_due(self, what: str, at: float, seconds: float) -> bool:
        asked = self._asked.get(what)
        return asked is None or at - asked >= seconds

    def _look(self, queues: Iterable[int], left: dict[int, tuple[int, int]], at: float) -> None:
        """Look into as many queues as there is credit for, first into those whose turn it is most."""
        if self._last_at is not None:
            self._credit = min(CREDIT_SECONDS_MAX, self._credit + SHARE_OF_CORE * (at - self._last_at))
        waiting = sorted(queues, key=lambda store_id: self._urgency(store_id, left, at), reverse=True)
        while waiting and self._credit > 0:
            batch, waiting = waiting[: self._batch], waiting[self._batch :]
            rows = self._rows(sql.QUEUES, batch)
            for store_id, depth, is_cut, oldest_at, leased, delayed, dead, _ in rows:
                seen = _Seen(clock.monotonic(), depth, is_cut, oldest_at, leased, delayed, dead)
                self._note(self._queues[store_id], seen, sum(left.get(store_id, (0, 0))))
            passed = max((row[-1] for row in rows), default=0.0)  # that of the last row is all of it
            counted = sum(row[1] + row[4] + row[5] + row[6] for row in rows)
            spent = max(passed / 2, len(batch) * QUEUE_SECONDS + counted * ITEM_SECONDS)
            self._credit -= spent
            self._batch = round(min(max(self._batch * BATCH_SECONDS / spent, BATCH_MIN), BATCH_MAX))

    def _urgency(self, store_id: int, left: dict[int, tuple[int, int]], at: float) -> float:
        queue = self._queues[store_id]
        if queue.seen is None:
            return float("inf")
        is_busy = (
            queue.seen.depth
            or queue.seen.leased
            or (queue.past and queue.past[-1][2] != sum(left.get(store_id, (0, 0))))
        )
        return (at - queue.seen.at) * (_BUSY if is_busy else 1)

    def _note(self, queue: _Queue, seen: _Seen, left: int) -> None:
        queue.seen = seen
        present = seen.depth + seen.leased + seen.delayed + seen.dead
        queue.past.append((seen.at, present, left, seen.is_cut))
        while len(queue.past) > 2 and queue.past[1][0] <= seen.at - WINDOW_SECONDS:
            queue.past.popleft()

    def _totals(self, tables: dict[str, tuple[Any, ...]], seconds: float | None) -> Totals:
        def column(index: int, *names: str) -> int:
            return sum(int(tables[name][index]) for name in names if name in tables)

        def rate(*counters: tuple[str, int]) -> float | None:
            now = sum(int(tables[name][index]) for name, index in counters if name in tables)
            before = sum(int(self._tables[name][index]) for name, index in counters if name in self._tables)
            return _rate(now, before if self._tables else None, seconds)

        return Totals(
            dict_entries=column(0, "dict_entry"),
            dict_bytes=column(1, "dict_entry"),
            dict_changes_per_second=rate(("dict_entry", 2), ("dict_entry", 3), ("dict_entry", 4)),
            queue_items=column(0, "queue_item", "queue_deferred"),
            queue_bytes=column(1, "queue_item", "queue_deferred"),
            puts_per_second=rate(("queue_item", 2)),
            gets_per_second=rate(("queue_item", 4)),
            file_bytes=column(1, "inode", "chunk"),
            file_changes_per_second=rate(("inode", 2), ("inode", 3)),
            calls_spawned_per_second=rate(("spawned_call", 2)),
        )

    def _queue(
        self, row: Any, now: datetime, waiters: dict[int, int], tables: dict[str, tuple[Any, ...]]
    ) -> QueueState:
        store_id, environment, _, name = row
        queue = self._queues[store_id]
        seen = queue.seen
        puts, gets = _queue_rates(queue)
        key = lock_key(Topic(store_id, "")) & 0xFFFFFFFF
        if seen is None:
            return QueueState(environment, name, store_id, waiters=waiters.get(key, 0))
        depth = seen.depth
        if seen.is_cut and "queue_item" in self._shares and "queue_item" in tables:
            depth = max(depth, round(self._shares["queue_item"].of(store_id) * tables["queue_item"][0]))
        return QueueState(
            environment,
            name,
            store_id,
            depth,
            seen.is_cut,
            _age(now, seen.oldest_at),
            seen.leased,
            seen.delayed,
            seen.dead,
            waiters.get(key, 0),
            puts,
            gets,
        )

    def _calls(self, row: Any, now: datetime) -> CallState:
        store_id, environment, _, name = row
        queue = self._queues[store_id]
        seen = queue.seen
        if seen is None:
            return CallState(environment, name, store_id)
        _, ended = _queue_rates(queue)
        oldest = _age(now, seen.oldest_at)
        return CallState(
            environment, name, store_id, seen.depth + seen.delayed, seen.is_cut, oldest, seen.leased, ended
        )

    def _dict(self, row: Any, tables: dict[str, tuple[Any, ...]]) -> DictState:
        store_id, environment, _, name = row
        entries, size_bytes = self._estimate(store_id, "dict_entry", tables)
        return DictState(environment, name, store_id, entries, size_bytes)

    def _files(self, row: Any, tables: dict[str, tuple[Any, ...]], heads: dict[int, tuple[Any, ...]]) -> FileState:
        store_id, environment, kind, name = row
        head, committed_at, storage, chunk_size_bytes = heads.get(store_id, (0, None, "r", 0))
        files, inline_bytes = self._estimate(store_id, "inode", tables)
        chunks, chunk_bytes = self._estimate(store_id, "chunk", tables)
        if storage == "l" and chunks is not None:
            chunk_bytes = chunks * chunk_size_bytes  # they are full, for all we know
        known = [size for size in (inline_bytes, chunk_bytes) if size is not None]
        version = head if kind == "volume" else None
        return FileState(environment, kind, name, store_id, files, sum(known) if known else None, version, committed_at)

    def _estimate(self, store_id: int, table: str, tables: dict[str, tuple[Any, ...]]) -> tuple[int | None, int | None]:
        """Rows and bytes that the store has in the table; None: it was never analyzed."""
        share = self._shares.get(table)
        if share is None or table not in tables:
            return None, None
        rows, size_bytes, *_ = tables[table]
        return round(share.of(store_id) * max(rows, 0)), round(share.of(store_id) * size_bytes)


def _rows(query: Query) -> Op[Rows]:
    return (yield query)  # type: ignore[no-any-return]


def _rate(now: int, before: int | None, seconds: float | None) -> float | None:
    """A second; None: not known. Counters that began anew, as after a crash, tell what came since."""
    if before is None or seconds is None:
        return None
    return (now - before if now >= before else now) / seconds


def _queue_rates(queue: _Queue) -> tuple[float | None, float | None]:
    """Puts and gets a second, of the last twenty seconds."""
    if len(queue.past) < 2:
        return None, None
    (began, items_before, left_before, cut_before), (ended, items, left, cut) = queue.past[0], queue.past[-1]
    seconds = max(ended - began, 1e-3)
    gone = max(left - left_before, 0)
    puts = None if cut or cut_before else max(items - items_before + gone, 0) / seconds
    return puts, gone / seconds


def _share(n_distinct: float, values: list[int] | None, frequencies: list[float] | None) -> _Share:
    common = dict(zip(values or [], frequencies or [], strict=True))
    # A negative number is a share of the rows, of which each store then has few.
    others = n_distinct - len(common)
    return _Share(common, max(1 - sum(common.values()), 0) / others if others >= 1 else 0.0)


def _session(row: Any, now: datetime) -> SessionState:
    session_id, host, pid, started_at, heartbeat_at, stores, versions, inodes, _ = row
    return SessionState(session_id, host, pid, started_at, _age(now, heartbeat_at) or 0.0, stores, versions, inodes)


def _age(now: datetime, then: datetime | None) -> float | None:
    return None if then is None else max((now - then).total_seconds(), 0.0)
