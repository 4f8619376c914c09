"""What a client knows of its Queues, whichever handle it uses, and what it owes them.

It owes counts: how much it has taken for good. A row that every get updates would make all of them wait for each other, so each
client adds its own up and tells every ten seconds (`queue_count` in sql/schema.sql). And it owes vacuum, for autovacuum looks once
a minute, in which a busy queue leaves millions of dead rows. Both are chores (`client.chores`): no caller waits for them.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any, Final

from pgstore import errors
from pgstore.core.clock import monotonic
from pgstore.core.operation import BeforeCommit, Op, Query
from pgstore.core.statement import Statement

ADVANCE_ITEMS = 2000  # taken from a partition between two attempts to raise its mark
ADVANCE_STATEMENT: Final = 7  # a statement counts as so many more
LEARN_LOOKS: Final = 16  # from a partition, after which its mark is asked for
FRESH_SECONDS: Final = 1.0  # after which another client may have raised a mark much further
TELL_SECONDS: Final = 10.0
VACUUM_ITEMS: Final = 50_000  # taken by a client between two looks whether vacuum is wanted
VACUUM_REST: Final = 20  # times as long as the last vacuum took, for an old snapshot may make it of no use
VACUUM_REST_SECONDS: Final = 5.0
_PARTITIONS_MAX: Final = 10_000
_QUEUES_MAX: Final = 1000
_SLOTS: Final = 16

COUNT: Final = Statement(
    """
    WITH relaxed AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
    INSERT INTO pgstore.queue_count AS c (store_id, slot, gets, cleared)
    SELECT s.id, $2, $3, $4
      FROM pgstore.store s
     CROSS JOIN relaxed
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
    reads=True,
)
# Where one is under way already, ours or autovacuum's, it is skipped: there is never more than one. Giving the end of the table
# back would take a lock that keeps everybody out.
VACUUM: Final = Statement("VACUUM (SKIP_LOCKED, TRUNCATE false) pgstore.queue_item", once=True)


class KnownPartition:
    """What is known of a partition: the mark below which it has nothing left (see `take`)."""

    __slots__ = ("advancing", "fresh_until", "has_large", "looks", "low", "servers_seen", "taken")

    def __init__(self, servers_seen: int) -> None:
        self.servers_seen = servers_seen  # by the client; when there are more, all this may be of another server
        self.low = 0
        self.fresh_until = 0.0  # until then `low` is good enough; after it the server looks the mark up
        self.looks = 0  # since the mark was asked for
        self.has_large = True  # items, as far as is known: of many it is better to ask first how large they are
        # Since the mark was raised. It starts at random: so the marks of partitions that are forgotten again and again still rise.
        self.taken = random.randrange(ADVANCE_ITEMS)
        self.advancing: tuple[Any, ...] = (None, None, None)  # what `queue_advance` wants to be told the next time

    def note(self, items: int) -> None:
        """So many were taken, by one statement. Each statement scans the dead rows anew, so small ones count extra."""
        self.taken += items + ADVANCE_STATEMENT

    @property
    def may_rise(self) -> bool:
        """Whether so much was taken that an attempt to raise the mark is worth its cost."""
        return self.taken >= ADVANCE_ITEMS

    @property
    def is_busy(self) -> bool:
        """Whether the mark is looked up so often that it had better be asked for and remembered."""
        return self.looks >= LEARN_LOOKS and monotonic() >= self.fresh_until


class KnownQueue:
    """What is known of a Queue, and what has been taken from it but not told."""

    def __init__(self, house: Household, store_id: int) -> None:
        self._history = house.history
        self.check_at = 0.0  # when to look for what has become due (see `lease`)
        self._house = house
        self._store_id = store_id
        self._partitions: dict[str, KnownPartition] = {}
        self._gets = 0
        self._cleared = 0
        self.owes = False

    def partition(self, name: str, servers_seen: int) -> KnownPartition:
        """What is known of a partition; nothing, if it was learnt of another server."""
        known = self._partitions.get(name)
        if known is None or known.servers_seen != servers_seen:
            if len(self._partitions) >= _PARTITIONS_MAX:
                self._partitions.clear()
            # A new one: what another thread has just been told by the server before goes into the old one.
            known = self._partitions[name] = KnownPartition(servers_seen)
        return known

    def took(self, items: int) -> None:
        """Note so many new dead rows."""
        self._house.took(items)

    def count(self, gets: int = 0, cleared: int = 0) -> None:
        """Note that so many items have left; a negative number came back."""
        with self._house.lock:
            self._gets += gets
            self._cleared += cleared
            if self.owes:
                return
            self.owes = True
        if not self._house.leave(self, self._tell, TELL_SECONDS):
            self.owes = False

    def _tell(self) -> Op[None]:
        with self._house.lock:
            gets, cleared, self._gets, self._cleared, self.owes = self._gets, self._cleared, 0, 0, False
        try:
            # In another history, such as that of a backup, these items may not have left.
            if (gets or cleared) and self._history is self._house.history:
                yield Query(COUNT, self._store_id, self._house.slot, gets, cleared)
        except errors.StoreUnavailable:  # certainly not told
            with self._house.lock:
                self._gets += gets
                self._cleared += cleared
            raise


class Tally:
    """What a transaction of pgstore's own has taken, and is counted when it commits."""

    def __init__(self) -> None:
        self._entries: dict[KnownQueue, TallyEntry] = {}

    def of(self, queue: KnownQueue) -> TallyEntry:
        entry = self._entries.get(queue)
        if entry is None:
            entry = self._entries[queue] = TallyEntry()
        return entry

    def before_commit(self) -> Op[None]:
        yield from ()

    def with_commit(self) -> list[Query]:
        return []

    def mark(self) -> dict[KnownQueue, tuple[int, int]]:
        return {queue: (entry.gets, entry.cleared) for queue, entry in self._entries.items()}

    def rewind(self, mark: dict[KnownQueue, tuple[int, int]] | None) -> None:
        self._entries = {queue: TallyEntry(*counts) for queue, counts in (mark or {}).items()}

    def committed(self) -> None:
        for queue, entry in self._entries.items():
            queue.count(entry.gets, entry.cleared)
        self._entries = {}


class TallyEntry:
    """What was taken from one Queue."""

    __slots__ = ("cleared", "gets")

    def __init__(self, gets: int = 0, cleared: int = 0) -> None:
        self.gets = gets
        self.cleared = cleared

    def count(self, gets: int = 0, cleared: int = 0) -> None:
        self.gets += gets
        self.cleared += cleared


def tally(queue: KnownQueue) -> Op[KnownQueue | TallyEntry]:
    """Where to count what is about to be taken. Asked for before that: an interrupt puts back only what the last query took."""
    enrolment = yield BeforeCommit(Tally, Tally)
    if enrolment is None or enrolment.immediate:
        return queue
    entry: TallyEntry = enrolment.participant.of(queue)
    return entry


class Household:
    """All Queues of a client."""

    def __init__(self, client: Any) -> None:
        self.lock = threading.RLock()  # reentrant: a signal handler may come in
        self.slot = random.randrange(_SLOTS)
        self._client = client
        self._history = client.history  # of which all is known that follows
        self._queues: dict[int, KnownQueue] = {}
        self._taken = 0  # by all handles, since vacuum was last thought of
        self._rests_until = 0.0

    @property
    def history(self) -> object:
        return self._client.history

    def queue(self, store_id: int) -> KnownQueue:
        if self._history is not self._client.history:
            with self.lock:
                self._history, self._queues = self._client.history, {}
        queue = self._queues.get(store_id)
        if queue is None:
            with self.lock:
                if len(self._queues) >= _QUEUES_MAX:
                    self._queues = {number: known for number, known in self._queues.items() if known.owes}
                queue = self._queues.setdefault(store_id, KnownQueue(self, store_id))
        return queue

    def leave(self, key: object, chore: Callable[[], Op[None]], seconds: float) -> bool:
        left: bool = self._client.chores.leave(key, chore, seconds)
        return left

    def took(self, items: int) -> None:
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


def household(client: Any) -> Household:
    """The one of *client*."""
    house = client.shared.get(Household)
    if house is None:
        house = client.shared.setdefault(Household, Household(client))
    return house  # type: ignore[no-any-return]
