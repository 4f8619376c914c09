"""What a client knows of its Queues, whichever handle it uses, and what it does for them a little later.

It counts how much it has taken for good. A row that every get updates would make all of them wait for each other, so each client
adds up its own and sends the sum every ten seconds (`queue_count` in sql/schema.sql). And it vacuums, for autovacuum looks once a
minute, in which a busy queue leaves millions of dead rows. Both run in the background (`client.scheduler`): no caller waits for
them.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any, Final

from pgstore import errors
from pgstore.client.mask import Swing
from pgstore.core import clock
from pgstore.core.operation import BeforeCommit, CommitHook, Op, Query, Rows
from pgstore.core.statement import Statement
from pgstore.queue.sql import ASYNC_COMMIT
from pgstore.queue.watermark import Watermark

SEND_SECONDS: Final = 10.0
VACUUM_ITEMS: Final = 50_000  # taken by a client between two checks whether vacuum is needed
VACUUM_REST: Final = 20  # times as long as the last vacuum took, for an old snapshot may make it of no use
VACUUM_REST_SECONDS: Final = 5.0
_PARTITIONS_MAX: Final = 10_000
_QUEUES_MAX: Final = 1000
_SLOTS: Final = 16


class PartitionState(Watermark):
    """What a client knows of a partition."""

    __slots__ = ("has_large", "has_waited", "is_awaited", "is_full", "mask_at", "masking", "swing")

    def __init__(self, servers_seen: int) -> None:
        super().__init__(servers_seen)
        self.is_awaited = False  # the last item had to be waited for
        self.has_waited = False  # ever
        self.swing = Swing()
        self.is_full = False  # items come faster than takers could be told of them
        self.masking: Any = None  # the ticket of those who take without anybody being told
        self.mask_at = 0.0  # when that may be tried again
        self.has_large = True  # items, as far as is known: of many it is better to ask first how large they are

    def note_take(self, rows: Rows, listening: int, *, waited: bool) -> None:
        """Note what a waiting taker took, where so many listen, at least."""
        self.is_full = self.swing.is_full(rows[-1][0], listening, waited=waited)
        masking = self.masking
        if masking is not None:
            if masking.mask.has_ended:
                self.masking = None
            else:
                masking.mask.take()


class QueueState:
    """What a client knows of a Queue, and how much it has taken from it and not sent yet."""

    def __init__(self, queues: ClientQueues, store_id: int) -> None:
        self._history = queues.history
        self.check_at = 0.0  # when to look for what has become due (see `due`)
        self._client_queues = queues
        self._store_id = store_id
        self._partitions: dict[str, PartitionState] = {}
        self._gets = 0
        self._cleared = 0
        self.has_unsent = False

    def partition(self, name: str, servers_seen: int) -> PartitionState:
        """What is known of a partition; nothing if it was learnt from another server."""
        state = self._partitions.get(name)
        if state is None or state.servers_seen != servers_seen:
            if len(self._partitions) >= _PARTITIONS_MAX:
                self._partitions.clear()
            # A new object: another thread may still write into the old one what it learnt from the server before.
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
        if not self._client_queues.schedule(self, self._send, SEND_SECONDS):
            self.has_unsent = False

    # Clients that meet in one row add to each other's sums, one after the other. Each statement locks one row, so none waits in a
    # circle.
    _ADD_COUNTS: Final = Statement(
        f"""
        WITH {ASYNC_COMMIT}
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

    def _send(self) -> Op[None]:
        with self._client_queues.lock:
            gets, cleared, self._gets, self._cleared, self.has_unsent = self._gets, self._cleared, 0, 0, False
        try:
            # In another history, such as that of a backup, these items may not have left.
            if (gets or cleared) and self._history is self._client_queues.history:
                yield Query(self._ADD_COUNTS, self._store_id, self._client_queues.slot, gets, cleared)
        except errors.StoreUnavailable:  # certainly not added
            with self._client_queues.lock:
                self._gets += gets
                self._cleared += cleared
            raise


class TransactionCounts(CommitHook):
    """How much a transaction of pgstore's own has taken; it counts when that commits."""

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
    """How much a transaction has taken from one Queue."""

    __slots__ = ("cleared", "gets")

    def __init__(self, gets: int = 0, cleared: int = 0) -> None:
        self.gets = gets
        self.cleared = cleared

    def count(self, gets: int = 0, cleared: int = 0) -> None:
        self.gets += gets
        self.cleared += cleared


def counter_of(queue: QueueState) -> Op[QueueState | QueueCounts]:
    """What counts the items that are about to be taken. Asked for before: an interrupt puts back only what the last query took."""
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
        self._history = client.history  # that of which the rest is known
        self._queues: dict[int, QueueState] = {}
        self._taken = 0  # by all handles, since vacuum was last considered
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

    def schedule(self, key: object, task: Callable[[], Op[None]], seconds: float) -> bool:
        """Have *task* run in the background in *seconds*, once for a *key*. False: the client is being closed."""
        scheduled: bool = self._client.scheduler.leave(key, task, seconds)
        return scheduled

    def note_dead_rows(self, items: int) -> None:
        """Note so many new dead rows."""
        with self.lock:
            self._taken += items
            if self._taken < VACUUM_ITEMS:
                return
            self._taken = 0
        self.schedule(self, self._vacuum, max(0.0, self._rests_until - clock.monotonic()))

    # Whether there are dead rows, and we may remove them. Else VACUUM would do nothing, with a warning.
    _IS_VACUUM_NEEDED: Final = Statement(
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
    # Keeps nobody out and waits for nobody: where a vacuum is under way already, ours or autovacuum's, SKIP_LOCKED does nothing,
    # and giving the end of the table back, which needs an exclusive lock, is left out.
    _VACUUM: Final = Statement("VACUUM (SKIP_LOCKED, TRUNCATE false) pgstore.queue_item", once=True)

    def _vacuum(self) -> Op[None]:
        if (yield Query(self._IS_VACUUM_NEEDED, VACUUM_ITEMS // 2)) != [(True,)]:
            return
        began = clock.monotonic()
        yield Query(self._VACUUM)
        ended = clock.monotonic()
        self._rests_until = ended + max(VACUUM_REST_SECONDS, VACUUM_REST * (ended - began))


def client_queues(client: Any) -> ClientQueues:
    """All Queues of *client*."""
    queues = client.shared.get(ClientQueues)
    if queues is None:
        queues = client.shared.setdefault(ClientQueues, ClientQueues(client))
    return queues  # type: ignore[no-any-return]
