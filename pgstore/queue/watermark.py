"""The low watermark of a partition: an id below which it has no items, and never will have. A get starts there.

Without it a get passes the dead row of every item taken since the oldest snapshot that somebody in the database holds: with 50,000
of them it took 4.3 ms instead of 0.06. A watermark that is too low costs time; one that is too high hides items for ever. So it is
raised only to what is proven:

1. Ids come from one sequence. Whoever inserts into `queue_item` first takes a shared advisory lock of the Queue, then draws ids,
   and keeps the lock to the end of the transaction (`INSERTING`). The lock keeps nobody out; it shows who may have ids that cannot
   be seen yet. Nor is it waited for, since every login of the database may hold it: where it is not to be had, `queue_inserting`
   takes a lock that shows the same.
2. `queue_advance` (sql/schema.sql) reads the last id that the sequence gave, then notes who holds that lock. Whoever drew an id up
   to the last and is not noted has ended: its items are visible, or were rolled back.
3. As long as one of those noted is still there, it answers "not yet" and is asked again later. Once they are gone, every id up to
   the last is visible or will never be. The new watermark is the id of the oldest item that is visible, or else one more than the
   last.
4. An item that another transaction is taking is visible until that commits, so it holds the watermark back: it may be given back.
   To its own transaction it is invisible, so the watermark is raised outside of it, and under READ COMMITTED, in which each step
   sees what was committed before.
5. After a crash or a failover the sequence may give ids again. A watermark that was begun on another server is begun anew; one that
   a client remembers is forgotten when a connection leads to a server that may be another.
6. Items that come back (a lease, an interrupted get) get new ids, since their old ones may lie below the watermark.

It is kept in `queue_head.low`, which is raised after some thousand items and never lowered. A statement that is given none looks it
up. A busy client remembers it for a second, for under an old snapshot that row, too, has dead versions to be passed.

If a sequence falls behind the watermark all the same, after a switch by logical replication, `pgstore check` finds what was put
below it, and `queue.repair` moves it.
"""

from __future__ import annotations

import random
from typing import Any, Final

from pgstore.client.notifications import in_transaction
from pgstore.core import clock
from pgstore.core.operation import Autonomous, Op, Query, Rows
from pgstore.core.statement import Statement
from pgstore.queue.sql import ASYNC_COMMIT

ADVANCE_ITEMS = 2000  # taken from a partition between two attempts to raise its watermark
ADVANCE_STATEMENT: Final = 7  # a statement counts as so many items more
LEARN_TAKES: Final = 16  # statements that take from a partition, after which its watermark is asked for
FRESH_SECONDS: Final = 1.0  # after which another client may have raised a watermark much further

# ------------------------------------------------------------------------------------------------------ who inserts

INSERT_LOCK_CLASS: Final = 0x70677369  # "pgsi"


def insert_lock(store_id: str) -> str:
    """SQL that takes the lock of those who insert into the Queue *store_id*, an expression; never NULL."""
    return (
        f"CASE WHEN pg_try_advisory_xact_lock_shared({INSERT_LOCK_CLASS}, ({store_id} % 2147483648)::integer)"
        f" THEN true ELSE pgstore.queue_inserting({store_id}) END"
    )


INSERT_LOCK: Final = insert_lock("$1")
# A part of every statement that inserts into queue_item, which reads from it before the first id is drawn. Never waits.
INSERTING: Final = f"inserting AS MATERIALIZED (SELECT {INSERT_LOCK})"
# Only if there is something to insert: `gone` has rows.
INSERTING_WHAT_IS_GONE: Final = (
    f"inserting AS MATERIALIZED (SELECT {INSERT_LOCK} FROM (SELECT FROM gone LIMIT 1) AS some_item)"
)

# ------------------------------------------------------------------------------------------------------- who takes

# The watermark that a statement was told, or if it was told 0 the one that is kept. Looked up once, before the first row.
WATERMARK: Final = """
    CASE WHEN {watermark} > 0
         THEN {watermark}
         ELSE coalesce((SELECT low FROM pgstore.queue_head WHERE store_id = $1 AND partition = $2), 0)
     END
"""


class Watermark:
    """What a client knows of the watermark of one partition, and when it should raise it or ask for it."""

    __slots__ = ("advance_state", "fresh_until", "servers_seen", "taken", "takes", "value")

    def __init__(self, servers_seen: int) -> None:
        self.servers_seen = servers_seen  # by the client; when there are more, all this may be of another server
        self.value = 0
        self.fresh_until = 0.0  # until then `value` is good enough; after it the server looks the watermark up
        self.takes = 0  # statements since the watermark was asked for
        # Items since it was raised. Begins at random: so the watermarks of partitions that are forgotten again and again still
        # rise.
        self.taken = random.randrange(ADVANCE_ITEMS)
        self.advance_state: tuple[Any, ...] = (None, None, None)  # what `queue_advance` wants to be told the next time

    def known(self) -> int:
        """The watermark to tell the server; 0 if it had better look."""
        return self.value if clock.monotonic() < self.fresh_until else 0

    def note(self, items: int) -> None:
        """So many were taken, by one statement. Each statement scans the dead rows anew, so small ones count extra."""
        self.taken += items + ADVANCE_STATEMENT

    @property
    def should_advance(self) -> bool:
        """Whether so much was taken that an attempt to raise the watermark is worth its cost."""
        return self.taken >= ADVANCE_ITEMS

    @property
    def should_learn(self) -> bool:
        """Whether the server looks the watermark up so often that it had better be asked for once and remembered."""
        return self.takes >= LEARN_TAKES and clock.monotonic() >= self.fresh_until

    def advance(self, client: Any, store_id: int, partition: str) -> Op[None]:
        """
        Raise the watermark; not before those are through who were inserting at the first attempt.

        Before items are taken, for an interrupt puts back only what the last query took. Outside of a transaction, to which what it
        has taken, and may yet give back, is invisible.
        """
        self.taken = 0
        statement = ADVANCE if (yield from in_transaction()) else ADVANCE_ASYNC_COMMIT
        value, *advance_state = yield Autonomous(_advance(statement, store_id, partition, self.advance_state))
        if value is None:
            self.advance_state = tuple(advance_state)
            return
        self.advance_state = (None, None, None)
        self._trust(client, value)

    def learn(self, client: Any, store_id: int, partition: str) -> Op[None]:
        """Ask for the watermark that is kept, once for the gets of a second."""
        self._trust(client, (yield Autonomous(_read(store_id, partition))))

    def _trust(self, client: Any, value: int) -> None:
        """Use *value* for a second, without looking."""
        self.takes = 0
        # Behind a pooler the server may be replaced unnoticed, and the watermark be of another.
        if not client.is_pooled:
            self.value = max(self.value, value)
            self.fresh_until = clock.monotonic() + FRESH_SECONDS


# Two clients that raise one watermark at once: the row of queue_head has the higher of the two values in the end, both proven.
ADVANCE: Final = Statement(
    "SELECT * FROM pgstore.queue_advance($1, $2, $3, $4, $5)", "int8 text int8 text[] text", repeatable=True
)
# Where nothing else is committed with it: a watermark that a crash takes back does no harm.
ADVANCE_ASYNC_COMMIT: Final = Statement(
    f"WITH {ASYNC_COMMIT} SELECT a.* FROM async_commit CROSS JOIN pgstore.queue_advance($1, $2, $3, $4, $5) AS a",
    "int8 text int8 text[] text",
    repeatable=True,
)


def _advance(statement: Statement, store_id: int, partition: str, advance_state: tuple[Any, ...]) -> Op[Any]:
    """The new watermark, None as long as somebody is inserting, and what to say the next time."""
    rows: Rows = yield Query(statement, store_id, partition, *advance_state)
    return rows[0]


READ_WATERMARK: Final = Statement(
    "SELECT low FROM pgstore.queue_head WHERE store_id = $1 AND partition = $2", "int8 text", read_only=True
)


def _read(store_id: int, partition: str) -> Op[int]:
    rows: Rows = yield Query(READ_WATERMARK, store_id, partition)
    return rows[0][0] if rows else 0
