"""What a client knows of its Queues, whichever handle it uses, and what it owes them.

It owes counts: how much it has taken for good. A row that every get updates would make all of them wait for each other, so each
client adds its own up and tells every ten seconds (`queue_count` in sql/schema.sql). And it owes vacuum, for autovacuum looks once
a minute, in which a busy queue leaves millions of dead rows. Both are chores (`client.scheduler`): no caller waits for them.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any, Final

from pgstore import errors
from pgstore.core.clock import monotonic
from pgstore.core.operation import BeforeCommit, CommitHook, Op, Query
from pgstore.core.statement import Statement

ADVANCE_ITEMS = 2000  # taken from a partition between two attempts to raise its mark
ADVANCE_STATEMENT: Final = 7  # a statement counts as so many more
LEARN_TAKES: Final = 16  # from a partition, after which its mark is asked for
FRESH_SECONDS: Final = 1.0  # after which another client may have raised a mark much further
SEND_SECONDS: Final = 10.0
VACUUM_ITEMS: Final = 50_000  # taken by a client between two looks whether vacuum is wanted
VACUUM_REST: Final = 20  # times as long as the last vacuum took, for an old snapshot may make it of no use
VACUUM_REST_SECONDS: Final = 5.0
_PARTITIONS_MAX: Final = 10_000
_QUEUES_MAX: Final = 1000
_SLOTS: Final = 16

ADD_COUNTS: Final = Statement(
    """
    WITH async_commit AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
    INSERT INTO pgstore.queue_count AS c (store_id, slot, gets, cleared)
    SELECT s.id, $2, $3, $4
      FROM pgstore.store s
     CROSS JOIN async_commit
     WHERE s.id = $1
    ON CONFLICT (store_id, slot) DO UPDATE
       SET gets = c.gets + excluded.gets,
           cleared = c.cleared + excluded.cleared
    """,
    "int8 int4 int8 int8",
)
# Whether there is something to clear away, and we may. Else VACUUM would do nothing, with a warning.
VACUUM_WANTED: Final = Statement(
    """
    SELECT pg_stat_get_dead_tuples(t.oid) >= $1
           AND NOT pg_is_in_recovery()
           AND (pg_has_role(t.relowner, 'USAGE')
                OR pg_has_role((SELECT d.datdba FROM pg_catalog.pg_database d WHERE d.datname = current_database()), 'USAGE')
                OR CASE WHEN current_setting('server_version_num')::integer >= 170000
                        THEN has_table_privilege(t.oid, 'MAINTAIN') ELSE false END)
      FROM pg_catalog.pg_class t
     WHERE t.oid = 'pgstore.queue_item'::regclass::oid
    """,
    "int8",
    read_only=True,
)
# Where one is under way already, ours or autovacuum's, it is skipped: there is never more than one. Giving the end of the table
# back would take a lock that keeps everybody out.
VACUUM: Final = Statement("VACUUM (SKIP_LOCKED, TRUNCATE false) pgstore.queue_item", once=True)


class PartitionState:
    """What is known of a partition: the mark below which it has nothing left (see `take`)."""

    __slots__ = ("advance_state", "fresh_until", "has_large", "servers_seen", "taken", "takes", "watermark")

    def __init__(self, servers_seen: int) -> None:
        self.servers_seen = servers_seen  # by the client; when there are more, all this may be of another server
        self.watermark = 0
        self.fresh_until = 0.0  # until then `low` is good enough; after it the server looks the mark up
        self.takes = 0  # since the mark was asked for
        self.has_large = True  # items, as far as is known: of many it is better to ask first how large they are
        # Since the mark was raised. It starts at random: so the marks of partitions that are forgotten again and again still rise.
        self.taken = random.randrange(ADVANCE_ITEMS)
        self.advance_state: tuple[Any, ...] = (None, None, None)  # what `queue_advance` wants to be told the next time

    def note(self, items: int) -> None:
        """So many were taken, by one statement. Each statement scans the dead rows anew, so small ones count extra."""
        self.taken += items + ADVANCE_STATEMENT

    @property
    def should_advance(self) -> bool:
        """Whether so much was taken that an attempt to raise the mark is worth its cost."""
        return self.taken >= ADVANCE_ITEMS

    @property
    def should_learn(self) -> bool:
        """Whether the mark is looked up so often that it had better be asked for and remembered."""
        return self.takes >= LEARN_TAKES and monotonic() >= self.fresh_until


class QueueState:
    """What is known of a Queue, and what has been taken from it but not told."""

    def __init__(self, queues: ClientQueues, store_id: int) -> None:
        self._history = queues.history
        self.check_at = 0.0  # when to look for what has become due (see `lease`)
        self._client_queues = queues
        self._store_id = store_id
        self._partitions: dict[str, PartitionState] = {}
        self._gets = 0
        self._cleared = 0
        self.has_unsent = False

    def partition(self, name: str, servers_seen: int) -> PartitionState:
        """What is known of a partition; nothing, if it was learnt of another server."""
        state = self._partitions.get(name)
        if state is None or state.servers_seen != servers_seen:
            if len(self._partitions) >= _PARTITIONS_MAX:
                self._partitions.clear()
            # A new one: what another thread has just been told by the server before goes into the old one.
            state = self._partitions[name] = PartitionState(servers_seen)
        return state

    def note_dead_rows(self, items: int) -> None:
        """Note so many new dead rows."""
        self._client_queues.note_dead_rows(items)

    def count(self, gets: int = 0, cleared: int = 0) -> None:
        """Note that so many items have left; a negative number came back."""
        with self._client_queues.lock:
            self._gets += gets
            self._cleared += cleared
            if self.has_unsent:
                return
            self.has_unsent = True
        if not self._client_queues.leave(self, self._send, SEND_SECONDS):
            self.has_unsent = False

    def _send(self) -> Op[None]:
        with self._client_queues.lock:
            gets, cleared, self._gets, self._cleared, self.has_unsent = self._gets, self._cleared, 0, 0, False
        try:
            # In another history, such as that of a backup, these items may not have left.
            if (gets or cleared) and self._history is self._client_queues.history:
                yield Query(ADD_COUNTS, self._store_id, self._client_queues.slot, gets, cleared)
        except errors.StoreUnavailable:  # certainly not told
            with self._client_queues.lock:
                self._gets += gets
                self._cleared += cleared
            raise


class TransactionCounts(CommitHook):
    """What a transaction of pgstore's own has taken, and is counted when it commits."""

    def __init__(self) -> None:
        self._entries: dict[QueueState, QueueCounts] = {}

    def of(self, queue: QueueState) -> QueueCounts:
        entry = self._entries.get(queue)
        if entry is None:
            entry = self._entries[queue] = QueueCounts()
        return entry

    def mark(self) -> dict[QueueState, tuple[int, int]]:
        return {queue: (entry.gets, entry.cleared) for queue, entry in self._entries.items()}

    def rewind(self, mark: dict[QueueState, tuple[int, int]] | None) -> None:
        self._entries = {queue: QueueCounts(*counts) for queue, counts in (mark or {}).items()}

    def committed(self) -> None:
        for queue, entry in self._entries.items():
            queue.count(entry.gets, entry.cleared)
        self._entries = {}


class QueueCounts:
    """What was taken from one Queue."""

    __slots__ = ("cleared", "gets")

    def __init__(self, gets: int = 0, cleared: int = 0) -> None:
        self.gets = gets
        self.cleared = cleared

    def count(self, gets: int = 0, cleared: int = 0) -> None:
        self.gets += gets
        self.cleared += cleared


def counter_of(queue: QueueState) -> Op[QueueState | QueueCounts]:
    """Where to count what is about to be taken. Asked for before that: an interrupt puts back only what the last query took."""
    hooked = yield BeforeCommit(TransactionCounts, TransactionCounts)
    if hooked is None or hooked.immediate:
        return queue
    entry: QueueCounts = hooked.hook.of(queue)
    return entry


class ClientQueues:
    """All Queues of a client."""

    def __init__(self, client: Any) -> None:
        self.lock = threading.RLock()  # reentrant: a signal handler may come in
        self.slot = random.randrange(_SLOTS)
        self._client = client
        self._history = client.history  # of which all is known that follows
        self._queues: dict[int, QueueState] = {}
        self._taken = 0  # by all handles, since vacuum was last thought of
        self._rests_until = 0.0

    @property
    def history(self) -> object:
        return self._client.history

    def queue(self, store_id: int) -> QueueState:
        if self._history is not self._client.history:
            with self.lock:
                self._history, self._queues = self._client.history, {}
        queue = self._queues.get(store_id)
        if queue is None:
            with self.lock:
                if len(self._queues) >= _QUEUES_MAX:
                    self._queues = {number: state for number, state in self._queues.items() if state.has_unsent}
                queue = self._queues.setdefault(store_id, QueueState(self, store_id))
        return queue

    def leave(self, key: object, task: Callable[[], Op[None]], seconds: float) -> bool:
        left: bool = self._client.scheduler.leave(key, task, seconds)
        return left

    def note_dead_rows(self, items: int) -> None:
        """Note so many new dead rows."""
        with self.lock:
            self._taken += items
            if self._taken < VACUUM_ITEMS:
                return
            self._taken = 0
        self.leave(self, self._vacuum, max(0.0, self._rests_until - monotonic()))

    def _vacuum(self) -> Op[None]:
        if (yield Query(VACUUM_WANTED, VACUUM_ITEMS // 2)) != [(True,)]:
            return
        began = monotonic()
        yield Query(VACUUM)
        ended = monotonic()
        self._rests_until = ended + max(VACUUM_REST_SECONDS, VACUUM_REST * (ended - began))


def client_queues(client: Any) -> ClientQueues:
    """The one of *client*."""
    queues = client.shared.get(ClientQueues)
    if queues is None:
        queues = client.shared.setdefault(ClientQueues, ClientQueues(client))
    return queues  # type: ignore[no-any-return]
