"""Queue against lists, under generated operations of two clients: order, leases, delays, transactions that are rolled back."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import psycopg
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import pgstore
from pgstore.queue import due
from tests.fixtures.depth import examples

_numbers = itertools.count(1)

PARTITIONS = st.sampled_from([None, "p"])


@dataclass
class Model:
    """What is in a Queue, by partition."""

    waiting: dict[str | None, list[int]] = field(default_factory=lambda: {None: [], "p": []})
    delayed: dict[str | None, list[int]] = field(default_factory=lambda: {None: [], "p": []})
    leased: dict[int, str | None] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)


class QueueMachine(RuleBasedStateMachine):
    """Every operation happens on the Queue, through either client, and on the model."""

    database: str

    @initialize()
    def start(self):
        name = f"model-{next(_numbers)}"
        self.clients = [pgstore.Client(self.database), pgstore.Client(self.database)]
        self.queues = [pgstore.Queue.persist(name, client=client) for client in self.clients]
        self.model = Model()
        self.leases: dict[int, Any] = {}  # by item
        self.transaction: Any = None
        self.before: tuple[Model, dict[int, Any]] = (Model(), {})

    @property
    def queue(self):
        # Inside a transaction only its own client sees what is going on.
        return self.queues[0] if self.transaction else self.queues[next(_numbers) % 2]

    @rule(partition=PARTITIONS)
    def put(self, partition):
        item = next(_numbers)
        self.queue.put(item, partition=partition)
        self.model.waiting[partition].append(item)

    @rule(partition=PARTITIONS, count=st.integers(0, 4))
    def put_many(self, partition, count):
        items = [next(_numbers) for _ in range(count)]
        self.queue.put_many(items, partition=partition)
        self.model.waiting[partition] += items

    @rule(partition=PARTITIONS, key=st.sampled_from("ab"))
    def put_once(self, partition, key):
        item = next(_numbers)
        self.queue.put(item, partition=partition, idempotency_key=key)
        if key not in self.model.keys:
            self.model.keys.add(key)
            self.model.waiting[partition].append(item)

    @rule(partition=PARTITIONS)
    def put_delayed(self, partition):
        item = next(_numbers)
        self.queue.put(item, partition=partition, delay=3600)
        self.model.delayed[partition].append(item)

    @rule(partition=PARTITIONS)
    def get(self, partition):
        expected = self.model.waiting[partition].pop(0) if self.model.waiting[partition] else None
        assert self.queue.get(block=False, partition=partition) == expected

    @rule(partition=PARTITIONS, count=st.integers(1, 4))
    def get_many(self, partition, count):
        items = self.model.waiting[partition]
        expected, self.model.waiting[partition] = items[:count], items[count:]
        assert self.queue.get_many(count, block=False, partition=partition) == expected

    @rule(partition=PARTITIONS)
    def lease(self, partition):
        lease = self.queue.get(block=False, partition=partition, lease=600)
        if not self.model.waiting[partition]:
            assert lease is None
            return
        item = self.model.waiting[partition].pop(0)
        assert lease is not None
        assert lease.item == item
        self.model.leased[item] = partition
        self.leases[item] = lease

    def _some_lease(self):
        """The lease of either client; in a transaction one of its own."""
        for item, lease in self.leases.items():
            if self.transaction is None or lease._store._runner is self.clients[0]:
                return item, lease
        return None

    @precondition(lambda self: self._some_lease())
    @rule()
    def acknowledge(self):
        item, lease = self._some_lease()
        lease.ack()
        del self.leases[item], self.model.leased[item]

    @precondition(lambda self: self._some_lease())
    @rule()
    def give_back(self):
        item, lease = self._some_lease()
        lease.nack(0)
        del self.leases[item]
        partition = self.model.leased.pop(item)
        self.model.waiting[partition].append(item)

    @precondition(lambda self: self._some_lease())
    @rule()
    def postpone(self):
        item, lease = self._some_lease()
        lease.nack(3600)
        del self.leases[item]
        partition = self.model.leased.pop(item)
        self.model.delayed[partition].append(item)

    @precondition(lambda self: self.transaction is None and any(self.model.delayed.values()))
    @rule()
    def time_passes(self):
        """What is delayed comes back at the end, in the order in which it became due."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            connection.execute(
                """
                UPDATE pgstore.queue_deferred
                   SET due_at = due_at - interval '1 hour'
                 WHERE store_id = %s AND kind = 'd'
                """,
                [int(self.queues[0].hydrate().object_id[3:])],
            )
        # In either order, if they were put within one tick of the clock: the Queue says which.
        for partition, items in self.model.delayed.items():
            waiting = self.model.waiting[partition]
            found = self.queue.peek(len(waiting) + len(items) + 1, partition=partition)
            assert found[: len(waiting)] == waiting
            assert sorted(found[len(waiting) :]) == sorted(items)
            for taken in found:
                assert self.queue.get(block=False, partition=partition) == taken
            self.model.waiting[partition] = []
        self.model.delayed = {None: [], "p": []}

    @rule(partition=PARTITIONS)
    def clear(self, partition):
        self.queue.clear(partition=partition)
        self.model.waiting[partition] = []
        self.model.delayed[partition] = []

    @precondition(lambda self: self.transaction is None)
    @rule()
    def begin(self):
        self.transaction = self.clients[0].transaction()
        self.transaction.__enter__()
        self.before = copy.deepcopy(self.model), dict(self.leases)

    @precondition(lambda self: self.transaction is not None)
    @rule()
    def commit(self):
        self.transaction.__exit__(None, None, None)
        self.transaction = None

    @precondition(lambda self: self.transaction is not None)
    @rule()
    def roll_back(self):
        """What was taken is at its old place, what was put is gone, and what was said of leases was not said."""
        self.transaction.__exit__(ValueError, ValueError(), None)
        self.transaction = None
        self.model, self.leases = self.before

    @invariant()
    def agree(self):
        if not hasattr(self, "model"):
            return
        queue = self.queue
        for partition, items in self.model.waiting.items():
            assert queue.len(partition=partition) == len(items)
            assert queue.peek(100, partition=partition) == items
            assert list(queue.iterate(partition=partition)) == items
        assert queue.len(total=True) == sum(map(len, self.model.waiting.values()))

    def teardown(self):
        if getattr(self, "transaction", None):
            self.transaction.__exit__(ValueError, ValueError(), None)
        for client in getattr(self, "clients", ()):
            client.close()


def test_a_queue_behaves_like_lists(database, monkeypatch):
    monkeypatch.setattr(due, "CHECK_SECONDS", 0.0)
    QueueMachine.database = database

    run_state_machine_as_test(
        QueueMachine, settings=settings(max_examples=examples(15), stateful_step_count=30, deadline=None)
    )
