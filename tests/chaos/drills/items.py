"""Drills with Queues: items taken once, leased jobs, a Queue with a bound, and moves between two together with a table."""

from __future__ import annotations

import itertools
import pickle
import queue
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, ClassVar

import pgstore
from pgstore import errors
from tests.chaos.drills.drill import Auditor, Drill
from tests.chaos.hand import Hand
from tests.chaos.journal import Entry, Log

IN_QUEUE = """
    SELECT i.payload
      FROM pgstore.{table} i
      JOIN pgstore.store s ON s.id = i.store_id
     WHERE s.name = %s
"""


def _queue(name: str, client: pgstore.Client) -> pgstore.Queue[str]:
    return pgstore.Queue.from_name(name, create_if_missing=True, client=client)


def _left(name: str, auditor: Auditor) -> Counter[str]:
    """What is in a queue, leased and delayed items included."""
    return Counter(
        _item_of(payload)
        for table in ("queue_item", "queue_deferred")
        for (payload,) in auditor.rows(IN_QUEUE.format(table=table), name)
    )


def _item_of(payload: bytes) -> str:
    """The item of a row, which is a text of ours."""
    return str(pickle.loads(payload))


def _judge_puts(puts: list[Entry], seen: set[str]) -> Iterator[str]:
    """What was refused is not there, what several were put by one call is there as a whole."""
    for entry in puts:
        if entry.was_not_done and seen & set(entry.facts["items"]):
            yield f"refused and done: {entry}"


class Parcels(Drill):
    """Items are taken at once and for good: each put that was answered is taken by one get, or lost with one in doubt, or there."""

    name = "items"
    weight: ClassVar[int] = 4

    def prepare(self, client: pgstore.Client, connection: Any) -> None:
        _queue(self.name, client).hydrate()
        connection.execute("CREATE TABLE chaos_taken (item text NOT NULL)")

    async def step(self, hand: Hand) -> None:
        store = _queue(self.name, hand.client)
        choice = hand.rng.random()
        if choice < 0.3:
            item = hand.token()
            await hand.do(self.name, "put", {"items": [item]}, store.put, item)
        elif choice < 0.4:
            items = [hand.token() for _ in range(hand.rng.randint(2, 4))]
            await hand.do(self.name, "put", {"items": items}, store.put_many, items)
        elif choice < 0.5:
            await self._put_until_it_is_known(hand, store)
        elif choice < 0.75:
            await hand.attempt(self.name, "get", {"n": 1}, lambda: self._get(hand, store))
        elif choice < 0.85:
            n = hand.rng.randint(2, 4)
            await hand.do(self.name, "get", {"n": n}, store.get_many, n, block=False)
        else:
            await hand.attempt(self.name, "take", {}, lambda: self._take(hand, store))

    async def _put_until_it_is_known(self, hand: Hand, store: pgstore.Queue[str]) -> None:
        """With a key a put may be repeated for as long as nobody knows what became of it."""
        item = hand.token()

        async def put() -> None:
            for attempts_left in range(5, -1, -1):
                try:
                    await hand.call(store.put, item, idempotency_key=item)
                    return
                except errors.StoreUnavailable:
                    if not attempts_left:
                        raise errors.OutcomeUnknown("tried again and again") from None

        await hand.attempt(self.name, "put", {"items": [item]}, put)

    async def _get(self, hand: Hand, store: pgstore.Queue[str]) -> list[str]:
        try:
            return [await hand.call(store.get, timeout=hand.rng.choice((0.05, 0.5)))]
        except queue.Empty:
            return []

    async def _take(self, hand: Hand, store: pgstore.Queue[str]) -> list[str]:
        async with hand.transaction() as tx:
            items: list[str] = await hand.call(store.get_many, 2, block=False)
            for item in items:
                await tx.execute("INSERT INTO chaos_taken VALUES (%s)", item)
        return items

    def audit(self, log: Log, auditor: Auditor) -> Iterator[str]:
        puts, gets, takes = (log.of(self.name, what) for what in ("put", "get", "take"))
        left = _left(self.name, auditor)
        rows = Counter(item for (item,) in auditor.rows("SELECT item FROM chaos_taken"))
        answered = Counter(item for entry in gets if entry.was_done for item in entry.answer)
        found = left + rows + answered
        for item, times in found.items():
            if times > 1:
                yield f"doubled: {item} {times} times: left {left[item]}, table {rows[item]}, answered {answered[item]}"
        possible = {item for entry in puts for item in entry.facts["items"]}
        if nobodys := set(found) - possible:
            yield f"items that nobody has put: {nobodys}"
        yield from _judge_puts(puts, set(found))
        for entry in takes:
            if entry.was_done and not set(entry.answer) <= set(rows):
                yield f"answered and not in the table: {entry}"
        put = {item for entry in puts if entry.was_done for item in entry.facts["items"]}
        missing = put - set(found)
        in_doubt = sum(entry.facts["n"] for entry in gets if entry.is_in_doubt)
        if len(missing) > in_doubt:
            yield f"lost: {len(missing)} items, but gets in doubt have taken at most {in_doubt}: {sorted(missing)[:9]}"


class Jobs(Drill):
    """
    Leased items: each is done once, comes again until it is, is in one worker's hands at a time, and never comes after it was done.

    Half of them are acknowledged in a transaction with a row of the worker's own.
    """

    name = "jobs"
    weight: ClassVar[int] = 4
    LEASE_SECONDS = 1.5

    def prepare(self, client: pgstore.Client, connection: Any) -> None:
        _queue(self.name, client).hydrate()
        connection.execute("CREATE TABLE chaos_done (item text NOT NULL)")

    async def step(self, hand: Hand) -> None:
        store = _queue(self.name, hand.client)
        if hand.rng.random() < 0.35:
            item = hand.token()
            await hand.do(self.name, "put", {"items": [item]}, store.put, item)
            return
        leases: list[pgstore.Lease[str]] = []
        renew = hand.rng.random() < 0.3

        async def lease() -> str | None:
            try:
                leases.append(await hand.call(store.get, lease=self.LEASE_SECONDS, renew=renew, timeout=0.2))
            except queue.Empty:
                return None
            return leases[0].item

        await hand.attempt(self.name, "lease", {}, lease)
        if leases:
            await self._end(hand, leases[0])

    async def _end(self, hand: Hand, lease: pgstore.Lease[str]) -> None:
        facts = {"item": lease.item, "attempt": lease.attempt}
        choice = hand.rng.random()
        if choice < 0.4:
            await hand.do(self.name, "acknowledge", facts, lease.ack)
        elif choice < 0.8:

            async def record() -> None:
                async with hand.transaction() as tx:
                    await tx.execute("INSERT INTO chaos_done VALUES (%s)", lease.item)
                    await hand.call(lease.ack)

            await hand.attempt(self.name, "record", facts, record)
        elif choice < 0.9:
            await hand.do(self.name, "give back", facts, lease.nack, hand.rng.choice((0, 0.1)))
        else:
            await hand.do(self.name, "extend", facts, lease.extend, self.LEASE_SECONDS)  # and forget it

    def audit(self, log: Log, auditor: Auditor) -> Iterator[str]:
        puts = log.of(self.name, "put")
        left = _left(self.name, auditor)
        rows = Counter(item for (item,) in auditor.rows("SELECT item FROM chaos_done"))
        ends = defaultdict(list)
        for entry in log.of(self.name, "acknowledge", "record", "give back", "extend"):
            ends[entry.facts["item"]].append(entry)
        deliveries = defaultdict(list)
        for entry in log.of(self.name, "lease"):
            if entry.was_done and entry.answer is not None:
                deliveries[entry.answer].append(entry)
        yield from _judge_puts(puts, set(left) | set(rows) | set(deliveries))
        for item in (item for entry in puts for item in entry.facts["items"]):
            done = [entry for entry in ends[item] if entry.what in ("acknowledge", "record")]
            if rows[item] + left[item] > 1 or sum(entry.was_done for entry in done) > 1:
                yield f"doubled: {item}: {rows[item]} times in the table, {left[item]} left; {'; '.join(map(str, done))}"
            for entry in done:
                if entry.was_done and (left[item] or (entry.what == "record" and not rows[item])):
                    yield f"answered and not done: {entry}"
                if entry.was_not_done and entry.what == "record" and rows[item] and len(done) == 1:
                    yield f"refused and done: {entry}"
            yield from self._judge_deliveries(deliveries[item], done, ends[item])
        for entry in puts:
            (item,) = entry.facts["items"]
            in_doubt = any(end.is_in_doubt and end.what in ("acknowledge", "record") for end in ends[item])
            acknowledged = any(end.was_done and end.what in ("acknowledge", "record") for end in ends[item])
            if entry.was_done and not (left[item] or rows[item] or acknowledged or in_doubt):
                yield f"lost: {entry}; {'; '.join(map(str, ends[item]))}"
        late = auditor.rows(
            "SELECT id, due_at FROM pgstore.queue_deferred WHERE kind = 'l' AND due_at > now() + %s * interval '1 second'",
            self.LEASE_SECONDS,
        )
        if late:
            yield f"leases that last for longer than any was taken or renewed: {late}"

    def _judge_deliveries(self, deliveries: list[Entry], done: list[Entry], ends: list[Entry]) -> Iterator[str]:
        for entry in done:
            if entry.was_done:
                for delivery in deliveries:
                    if delivery.began > entry.ended:
                        yield f"delivered after it was done: {entry}; {delivery}"
        for first, second in itertools.combinations(deliveries, 2):
            if second.ended < first.ended:
                first, second = second, first
            given_up = [end.began for end in ends if end.what != "extend" and end.worker == first.worker]
            given_up = [began for began in given_up if began >= first.ended]
            if second.ended < min([first.began + self.LEASE_SECONDS, *given_up]):
                yield f"in two hands at once: {first}; {second}"


class Room(Drill):
    """A Queue with a bound never holds more; a put either finds room or says that there is none, and has then not happened."""

    name = "room"
    ROOM = 6

    def _store(self, client: pgstore.Client) -> pgstore.Queue[str]:
        return pgstore.Queue.from_name(self.name, create_if_missing=True, maxsize=self.ROOM, client=client)

    def prepare(self, client: pgstore.Client, connection: Any) -> None:
        self._store(client).hydrate()

    async def step(self, hand: Hand) -> None:
        store = self._store(hand.client)
        choice = hand.rng.random()
        if choice < 0.5:
            items = [hand.token() for _ in range(hand.rng.choice((1, 1, 2)))]
            partition = hand.rng.choice((None, "other"))

            async def put() -> bool:
                try:
                    await hand.call(store.put_many, items, partition=partition, timeout=hand.rng.choice((0.1, 1.0)))
                except queue.Full:
                    return False
                return True

            await hand.attempt(self.name, "put", {"items": items}, put)
        elif choice < 0.8:
            partition = hand.rng.choice((None, "other"))
            await hand.do(self.name, "get", {"n": 2}, store.get_many, 2, block=False, partition=partition)
        else:
            await hand.do(self.name, "count", {}, store.len, total=True)

    def audit(self, log: Log, auditor: Auditor) -> Iterator[str]:
        puts, gets = log.of(self.name, "put"), log.of(self.name, "get")
        left = _left(self.name, auditor)
        found = left + Counter(item for entry in gets if entry.was_done for item in entry.answer)
        for item, times in found.items():
            if times > 1:
                yield f"doubled: {item}"
        yield from _judge_puts(puts, set(found))
        for entry in puts:
            if entry.was_done and entry.answer is False and set(found) & set(entry.facts["items"]):
                yield f"full and done: {entry}"
        put = {item for entry in puts if entry.was_done and entry.answer for item in entry.facts["items"]}
        missing = put - set(found)
        in_doubt = sum(entry.facts["n"] for entry in gets if entry.is_in_doubt)
        if len(missing) > in_doubt:
            yield f"lost: {len(missing)} items, but gets in doubt have taken at most {in_doubt}: {sorted(missing)[:9]}"
        for entry in log.of(self.name, "count"):
            if entry.was_done and entry.answer > self.ROOM:
                yield f"more than there is room for: {entry}"
        if left.total() > self.ROOM:
            yield f"{left.total()} items are left, and there is room for {self.ROOM}"


class Moves(Drill):
    """
    An item goes from one queue to another, together with a row in the worker's table: it is always in one of the queues.

    Some moves are part of a transaction of the worker's own, which ours joins.
    """

    name = "moves"
    weight: ClassVar[int] = 2
    TO = "moves-to"

    def prepare(self, client: pgstore.Client, connection: Any) -> None:
        _queue(self.name, client).hydrate()
        _queue(self.TO, client).hydrate()
        connection.execute("CREATE TABLE chaos_moved (item text NOT NULL)")

    async def step(self, hand: Hand) -> None:
        source, target = _queue(self.name, hand.client), _queue(self.TO, hand.client)
        if hand.rng.random() < 0.5:
            item = hand.token()
            await hand.do(self.name, "put", {"items": [item]}, source.put, item)
            return

        joined = hand.rng.random() < 0.3

        async def move() -> str | None:
            async with hand.transaction(joined=joined) as tx:
                item: str | None = await hand.call(source.get, block=False)
                if item is not None:
                    await hand.call(target.put, item)
                    await tx.execute("INSERT INTO chaos_moved VALUES (%s)", item)
            return item

        await hand.attempt(self.name, "move", {"joined": joined}, move)

    def audit(self, log: Log, auditor: Auditor) -> Iterator[str]:
        source, target = _left(self.name, auditor), _left(self.TO, auditor)
        rows = Counter(item for (item,) in auditor.rows("SELECT item FROM chaos_moved"))
        if rows != target:
            yield f"table and queue have come apart: {rows - target} {target - rows}"
        found = source + target
        for item, times in found.items():
            if times > 1:
                yield f"doubled: {item}"
        puts = log.of(self.name, "put")
        yield from _judge_puts(puts, set(found))
        for entry in puts:
            if entry.was_done and not set(entry.facts["items"]) <= set(found):
                yield f"lost: {entry}"
        for entry in log.of(self.name, "move"):
            if entry.was_done and entry.answer is not None and entry.answer not in target:
                yield f"answered and not moved: {entry}"
