"""Queue: items put by some, taken by others, each by one.

One row of `queue_item` an item; taking is deleting. Two takers never get one item and never wait for each other: each passes
over what another has locked. A taker that finds nothing sleeps until a put wakes it (`client.listener`).

Order: items of one partition are taken in the order of their ids, which puts draw as they run. So the items of one producer come
out in its order, and a transaction that commits late brings its items in at their old place. An item that comes back from a
rollback is taken next; one that was stopped on its way, by Ctrl-C or a cancelled task, is put again at the end.

A get starts at a mark below which nothing is left, so that it need not pass the dead rows of what was taken (`take`, and
`queue_advance` in sql/schema.sql). Whatever inserts has to take part in the proof of that mark: `base.INSERTING`.

The parts: `put` and `take` what their names say, `lease` what is taken for a time, delayed or dead, `peek` what leaves items where
they are, and `clear`.
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
    from pgstore.store.handle import Objects

__all__ = ["DeadLetter", "ItemIterator", "Lease", "Queue"]


class Queue(Taking[T], Putting[T], Peeking[T], DeadLetters[T]):
    """
    A persistent first-in, first-out queue of any picklable items.

    Outside a transaction a `get` takes the item for good. Inside `pgstore.transaction()` an item is given back, at its old
    place, if the transaction does not commit. With `get(lease=60)` it comes back unless it is acknowledged within the minute.

    >>> q = Queue.from_name("tasks", create_if_missing=True)
    >>> q.put("a")
    ... q.get()
    'a'
    """

    if TYPE_CHECKING:
        objects: ClassVar[Objects[Queue[Any]]]

    @operation
    def info(self) -> Op[QueueInfo]:
        """Return the facts about this Queue that do not change."""
        record = yield from self._described()
        return QueueInfo(self._name, record.created_at, record.created_by)
