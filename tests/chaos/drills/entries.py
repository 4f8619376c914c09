"""Drills with Dicts: sums, chains of compare-and-set, locks, and stores that end with their process."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

import pgstore
from tests.chaos.drills.drill import Auditor, Drill
from tests.chaos.hand import Hand
from tests.chaos.journal import Log


def _dict(name: str, client: pgstore.Client) -> pgstore.Dict[str, Any]:
    return pgstore.Dict.from_name(name, create_if_missing=True, client=client)


class Counters(Drill):
    """
    Each increment that was answered is counted, each that was refused is not, and no two have the same answer.

    Some increment two counters in one transaction that also inserts into the worker's own table: all three or none.
    """

    name = "counters"
    weight: ClassVar[int] = 3
    KEYS = tuple(f"c{number}" for number in range(4))

    def prepare(self, client: pgstore.Client, connection: Any) -> None:
        counters = _dict(self.name, client)
        counters.update({**dict.fromkeys(self.KEYS, 0), "left": 0, "right": 0})
        connection.execute("CREATE TABLE chaos_transfer (token text PRIMARY KEY, amount int NOT NULL)")

    async def step(self, hand: Hand) -> None:
        counters = _dict(self.name, hand.client)
        if hand.rng.random() < 0.7:
            key = hand.rng.choice(self.KEYS)
            await hand.do(self.name, "increment", {"key": key}, counters.increment, key, 1)
            return
        token, amount = hand.token(), hand.rng.randint(1, 9)

        async def transfer() -> None:
            async with hand.transaction() as tx:
                await hand.call(counters.increment, "left", -amount)
                await hand.call(counters.increment, "right", amount)
                await tx.execute("INSERT INTO chaos_transfer VALUES (%s, %s)", token, amount)

        await hand.attempt(self.name, "transfer", {"token": token, "amount": amount}, transfer)

    def audit(self, log: Log, auditor: Auditor) -> Iterator[str]:
        found = dict(_dict(self.name, auditor.client).items())
        for key in self.KEYS:
            entries = [entry for entry in log.of(self.name, "increment") if entry.facts["key"] == key]
            done = sum(entry.was_done for entry in entries)
            possible = done + sum(entry.is_in_doubt for entry in entries)
            if not done <= found[key] <= possible:
                yield f"counter {key} is {found[key]}, but {done} to {possible} increments may have happened"
            answers = Counter(entry.answer for entry in entries if entry.was_done)
            for answer, times in answers.items():
                if times > 1:
                    yield f"{times} increments of {key} were told that they made it {answer}"
        transfers = dict(auditor.rows("SELECT token, amount FROM chaos_transfer"))
        if not -found["left"] == found["right"] == sum(transfers.values()):
            yield f"left {found['left']}, right {found['right']} and the table {sum(transfers.values())} have come apart"
        for entry in log.of(self.name, "transfer"):
            if entry.was_done and entry.facts["token"] not in transfers:
                yield f"lost: {entry}"
            if entry.was_not_done and entry.facts["token"] in transfers:
                yield f"refused and done: {entry}"


class Chains(Drill):
    """Of all who want to replace one value one succeeds: what was answered True is in the chain of values, what False is not."""

    name = "compare-and-set"
    weight: ClassVar[int] = 2
    KEYS = tuple(f"chain{number}" for number in range(3))

    def prepare(self, client: pgstore.Client, connection: Any) -> None:
        _dict(self.name, client).update(dict.fromkeys(self.KEYS, "start"))

    async def step(self, hand: Hand) -> None:
        chains = _dict(self.name, hand.client)
        key = hand.rng.choice(self.KEYS)
        outcome, old = await hand.do(self.name, "read", {"key": key}, chains.get, key)
        if outcome == "ok":
            new = hand.token()
            facts = {"key": key, "old": old, "new": new}
            await hand.do(self.name, "replace", facts, chains.compare_and_set, key, old, new)

    def audit(self, log: Log, auditor: Auditor) -> Iterator[str]:
        chains = _dict(self.name, auditor.client)
        replacements = {entry.facts["new"]: entry for entry in log.of(self.name, "replace")}
        links: set[str] = set()
        for key in self.KEYS:
            value = chains[key]
            while value != "start":
                entry = replacements.get(value)
                if entry is None or entry.facts["key"] != key or value in links:
                    yield f"{key} had the value {value}, which nobody gave it, or twice"
                    break
                links.add(value)
                value = entry.facts["old"]
        for new, entry in replacements.items():
            if entry.was_done and entry.answer is not (new in links):
                yield f"answered {entry.answer}, but it is {'' if new in links else 'not '}in the chain: {entry}"
            if entry.was_not_done and new in links:
                yield f"refused and done: {entry}"
        for entry in log.of(self.name, "read"):
            if entry.was_done and entry.answer != "start" and entry.answer not in links:
                yield f"a value was read that was never there: {entry}"


class Locks(Drill):
    """A lock has one holder until that one gives it up or its time is over; each acquisition has a token of its own."""

    name = "locks"
    KEYS = ("lock0", "lock1")
    TTL_SECONDS = 1.5

    def prepare(self, client: pgstore.Client, connection: Any) -> None:
        _dict(self.name, client).hydrate()

    async def step(self, hand: Hand) -> None:
        key = hand.rng.choice(self.KEYS)
        lock = _dict(self.name, hand.client).lock(key, timeout=2.0, ttl=self.TTL_SECONDS)

        async def acquire() -> int:
            await hand.call(lock.acquire)
            return lock.token

        outcome, token = await hand.attempt(self.name, "acquire", {"key": key}, acquire)
        if outcome == "ok":
            await hand.do(self.name, "work", {}, _dict(self.name, hand.client).get, key)
            await hand.do(self.name, "release", {"key": key, "token": token}, lock.release)

    def audit(self, log: Log, auditor: Auditor) -> Iterator[str]:
        releases = {entry.facts["token"]: entry.began for entry in log.of(self.name, "release")}
        for key in self.KEYS:
            taken = [entry for entry in log.of(self.name, "acquire") if entry.was_done and entry.facts["key"] == key]
            if len({entry.answer for entry in taken}) < len(taken):
                yield f"a token of {key} was given out twice"
            taken.sort(key=lambda entry: entry.answer)
            for first, second in itertools.pairwise(taken):
                sole_until = min(first.began + self.TTL_SECONDS, releases.get(first.answer, float("inf")))
                if second.ended < sole_until:
                    yield f"two holders of {key} at once: {first}; {second}"
        late = auditor.rows(
            "SELECT key, expires_at FROM pgstore.dict_lock WHERE expires_at > now() + %s * interval '1 second'",
            self.TTL_SECONDS,
        )
        if late:
            yield f"locks that last for longer than any was taken: {late}"


class Ephemerals(Drill):
    """Stores that end with their owner, and after its death with its session."""

    name = "ephemeral stores"

    def prepare(self, client: pgstore.Client, connection: Any) -> None:
        pass

    async def step(self, hand: Hand) -> None:
        async def use() -> None:
            store = pgstore.Dict.ephemeral(client=hand.client)
            await hand.call(store.put, "k", hand.name)
            found = await hand.call(store.get, "k")
            assert found == hand.name, f"{found!r} was never put"

        await hand.attempt(self.name, "use", {}, use)

    def audit(self, log: Log, auditor: Auditor) -> Iterator[str]:
        # As if ten minutes without a heartbeat had passed.
        auditor.rows("UPDATE pgstore.session SET heartbeat_at = heartbeat_at - interval '11 minutes'")
        while auditor.rows("SELECT pgstore.session_sweep(interval '10 minutes')") != [(0,)]:  # a hundred at a time
            pass
        for table, condition in (("session", "true"), ("store", "session_id IS NOT NULL"), ("version_pin", "true")):
            ((left,),) = auditor.rows(f"SELECT count(*) FROM pgstore.{table} WHERE {condition}")
            if left:
                yield f"{left} rows of pgstore.{table} outlived their sessions"
