"""Queue: items put by some, taken by others, each by one.

One row of `queue_item` an item; taking is deleting. Two takers never get one item and never wait for each other: each passes over
what another has locked. A taker that finds nothing sleeps until a put wakes it (`client.waiters`). The order is that of ids, which
puts draw as they run.

A get starts at a low watermark, so that it need not pass the dead rows of what was taken. `watermark` proves that no item is ever
below it. Whatever inserts into `queue_item` takes part in the proof: read it before adding a statement that does.

The parts: `put` and `take` what their names say, `lease` what is taken for a time, `due` what comes back, `dead_letters`, `peek`
what leaves items where they are, and `clear`; `state` what a client knows and counts, `repair` what `pgstore check` mends. `base`
has the options and the bytes of items, `arguments` the checks of arguments, `sql` what several statements share.

Where a change belongs:

- An option of the Queue, fixed when it is made (`maxsize`), is a keyword of `from_name` and `ephemeral` in `base`, checked by
  `arguments.check_options`. What it is where it was not given stands in `_option_defaults`, unless that is None. Operations read
  it from `record.options`. Functions of sql/schema.sql that must obey it read `store.options`, where the comment lists all options.
- An option of `put` and `put_many` is a keyword of both in `put`, a field of `PutOptions`, and a part of the statement that
  `put_with_options` makes. A put without options keeps its plain statement, which is faster.
- An option of `get` and `get_many` is a keyword of both in `take`. What it changes in the statement is said in `take_with_options`;
  a get without options keeps its plain one. `overloads` repeats the keyword for type checkers, and says what the result is with it.
- A new table is entered in `pgstore.store_delete` (see `pgstore.store`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pgstore.core.operation import Op, operation
from pgstore.queue.base import T
from pgstore.queue.dead_letters import DeadLetter, DeadLetters
from pgstore.queue.lease import Lease
from pgstore.queue.peek import ItemIterator, Peeking
from pgstore.queue.put import Putting
from pgstore.queue.take import Taking
from pgstore.types import QueueInfo

if TYPE_CHECKING:
    from pgstore.store.objects import Objects

__all__ = ["DeadLetter", "ItemIterator", "Lease", "Queue"]


class Queue(Taking[T], Putting[T], Peeking[T], DeadLetters[T]):
    """
    A persistent first-in, first-out queue of any picklable items, shared by every client of the database.

    >>> q = Queue.from_name("tasks", create_if_missing=True)
    >>> q.put("a")
    >>> q.get()
    'a'
    >>> q.put_many(["b", "c"])
    >>> with q.get(lease=60) as lease:
    ...     print(lease.item)
    b

    For type checkers `Queue[Task]` says what the items are: `q: Queue[Task] = Queue.from_name("tasks")`.

    **Order.** Within a partition items come out in the order in which the puts ran, so those of one producer in its order. An
    item keeps the place of its put: one whose transaction commits late is taken next, before younger ones. `put_many` keeps its
    order. Puts with `ordered=True` come in the order of their commits, and wait for each other's. Items that come back from a
    lease, a delay or an interrupted call come at the end. Several consumers start items in order; which of them is done first,
    nobody knows.

    **How often an item is delivered.** Outside a transaction at most once: it is gone when `get` has it, and a consumer that
    dies then has lost it. In a transaction once, as far as its effects are in the same transaction: taking it and what is
    written with it are committed together, and an item whose transaction does not commit is back at its old place. With a lease
    at least once; with `lease.ack()` in the transaction that writes the result, the result counts once.

    **Leases** are for work too long for a transaction. `with q.get(lease=60) as lease:` acknowledges the item at the end of the
    block and gives it back after an exception; also `lease.ack()`, `nack(delay=)`, `extend()`. An item that is not acknowledged
    in time comes back when the lease ends, to the end of the queue, and the late worker's `ack` raises `LeaseLost`.
    `get(lease=60, renew=True)` prolongs the lease as long as the process lives and has not let go of it. What has failed comes
    again after a second, then two, four, up to a minute; a Queue made with `backoff=` begins with so many seconds, with None it
    comes at once. In a Queue made with `max_attempts=5` an item that failed so often is a dead letter: `dead_letters`,
    `revive`, `discard`.

    **Delays and repeats.** `put(item, delay=60)` puts it at the end of the queue when the time has come.
    `put(item, idempotency_key="order-7")` does nothing if there was a put with this key within a day, so it can be repeated;
    when a connection breaks it is, by itself.

    **Atomicity.** Each call is done wholly or not at all, `put_many` and `get_many` as well; only `clear` deletes ten thousand
    items at a time. What is put in one transaction can be taken when it commits, all of it at once.

    **Waiting.** `get` waits for an item for ever; with `timeout` it raises `queue.Empty` after so many seconds, with
    `block=False` it returns None. A put wakes one waiting get, a batch as many as it has items, however many wait; should the
    one that was woken be stopped or killed just then, another takes the item within a second. No consumer waits for another,
    nor does a put without options for another put. Waiting for an item holds no transaction open in which nothing was written.

    **Bounds in time.** `timeout` and `block=False` count for all that a call waits for, also locks of other transactions, a
    free connection, and a silent server, which has a second for each answer. A connection that broke is replaced all the same.
    Five seconds after its bound a call has ended. What the server cancelled did not happen; what got no answer is
    `OutcomeUnknown`.

    **Bounds in number.** In a Queue made with `maxsize=100` so many items wait, in all partitions together; `put` then waits
    for room, and `timeout` and `block=False` raise `queue.Full`. Such puts take turns, cost a transaction, and count what is
    there.

    **Looking.** `peek(n)` and `iterate()` leave items where they are. `iterate` looks once an item, passes over what was taken
    meanwhile and ends when nothing is left; `timeout=` waits for more, `iterate(after=iterator.position)` goes on where another
    stopped. `clear()` empties a partition, `clear(all=True)` all of them. `len` counts what can be taken.

    **Durability.** A call returns when the server has it on disk, or with `durable=False` (not in transactions) before: it is
    there within a second, and a crash of the server within it loses such a put and repeats such a get.

    **What a crash or an interrupt leaves.** A transaction that did not commit leaves nothing. What Ctrl-C or a cancelled task
    has stopped on its way is put back at the end of the queue, all of it in one step. Pressing Ctrl-C again does not stop that,
    nor does the end of the event loop or of the program, which waits for it. If the connection breaks while a put or get is
    under way it may have been done: the call raises `OutcomeUnknown`.

    **Limits.** An item to 256 MiB, the name of a partition to 64 bytes; any number of items and partitions. Nothing expires but
    by `partition_ttl`. A get costs the same in a long queue, in one of 100,000 partitions, and while someone holds an old
    snapshot that keeps the rows of taken items from being cleaned up. A client whose role owns the tables or the database runs
    `VACUUM` after 50,000 gets, in the background. `get_many` of more than eight items takes eight if all would be more than 2
    GiB; not where it last took small ones from the partition, and large ones follow.

    **Errors.** `queue.Empty` and `queue.Full` when the time to wait is over. `DeserializationError` if this process cannot load
    an item, for whatever reason: its bytes are in the error's `raw`, and `get` has taken it all the same, for the queue would
    stand still otherwise; `get_many` puts all that it took back, in one step and in its order, at the end of the queue; a lease
    is loaded when its `item` is asked for. `NotFoundError` if the Queue does not exist, or does not any more.

    **Trust.** Items are pickles: whoever may write to a Queue may run code in those who read it, unless all clients have
    signing keys (see `Client`).
    """

    if TYPE_CHECKING:
        objects: ClassVar[Objects[Queue[Any]]]

    @operation
    def info(self) -> Op[QueueInfo]:
        """Return the facts about this Queue that do not change."""
        record = yield from self._described()
        return QueueInfo(self._name, record.created_at, record.created_by)
