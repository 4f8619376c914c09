"""`python -m tests.verify_queue [--items N] [--url URL]`: prove that a Queue loses nothing and gives nothing out twice.

Four processes put, with slow commits and rollbacks; four take: in transactions of which one in ten is rolled back, outside of any,
by leases of which one in ten is given back, and one in transactions that is killed (SIGKILL) again and again, wherever it is. What
was taken is written to a table, by those in transactions in the same one. In the end that table has each item once.

A small run is among the tests (`tests/integration/test_queue_verify.py`). A million items, the default here, take a few minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg

import pgstore
from pgstore.queue import watermark
from tests.fixtures.server import Server, migrate

PRODUCERS = 4
QUEUE = "verified"
STALLED_SECONDS = 30.0  # without progress nothing more will come
LEASE_SECONDS = 10.0
AHEAD = 100  # more than these wait for no producer: in a long queue an item that comes late is never the oldest


@dataclass(frozen=True)
class Verdict:
    """What a run has shown."""

    put: int
    lost: int
    doubled: int
    unknown: int
    """Items taken that nobody has put."""
    killed: int
    low: int
    """The watermark in the end; 0 if it was never raised."""
    left: int
    """Rows of the queue that are still there."""
    seconds: float

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.doubled or self.unknown or self.left) and self.killed > 0 and self.low > 0


def verify(url: str, items: int, *, kill_every: float = 1.0) -> Verdict:
    """Let *items* pass through a Queue of the database at *url*, which gets a table of its own for this."""
    began = time.monotonic()
    share = items // PRODUCERS
    with psycopg.connect(url, autocommit=True) as connection, pgstore.Client(url) as client:
        connection.execute("CREATE UNLOGGED TABLE verified_taken (producer int, number int)")
        queue = pgstore.Queue.persist(QUEUE, client=client).hydrate()
        context = multiprocessing.get_context("spawn")

        def start(work: Callable[..., None], *arguments: Any) -> Any:
            process = context.Process(target=work, args=(url, *arguments), daemon=True)
            process.start()
            return process

        producers = [start(produce, number, share) for number in range(PRODUCERS)]
        consumers = [start(work, number) for number, work in enumerate((in_transactions, at_once, by_leases))]
        victims = (start(in_transactions, 100 + number) for number in itertools.count())
        victim, killed, killed_at = next(victims), 0, time.monotonic()
        progress, progress_at, taken = -1, time.monotonic(), 0
        try:
            while taken < share * PRODUCERS and time.monotonic() < progress_at + STALLED_SECONDS:
                time.sleep(0.05 if items < 100_000 else 0.5)  # what was taken is counted each time
                if time.monotonic() > killed_at + kill_every * random.uniform(0.5, 1.5):
                    victim.kill()
                    victim.join()
                    victim, killed, killed_at = next(victims), killed + 1, time.monotonic()
                ((taken,),) = connection.execute("SELECT count(*) FROM verified_taken")
                if taken != progress:
                    progress, progress_at = taken, time.monotonic()
            ended = [process.exitcode for process in (*producers, *consumers)]
            assert not any(ended), (
                f"a process has failed, with {ended}"
            )  # what is lost may keep producers waiting for ever
        finally:
            for process in (*producers, *consumers, victim):
                process.kill()
                process.join()
        return _judge(connection, queue, share, killed, time.monotonic() - began)


def _judge(connection: Any, queue: pgstore.Queue, share: int, killed: int, seconds: float) -> Verdict:
    def value(query: str, *values: Any) -> int:
        return int(connection.execute(query, values).fetchone()[0] or 0)

    expected = f"SELECT p, n FROM generate_series(0, {PRODUCERS - 1}) p, generate_series(0, {share - 1}) n"
    store_id = int(queue.object_id.removeprefix("qu-"))
    rows = "(SELECT count(*) FROM pgstore.{} WHERE store_id = %s)"
    return Verdict(
        put=share * PRODUCERS,
        lost=value(f"SELECT count(*) FROM ({expected} EXCEPT SELECT producer, number FROM verified_taken) AS lost"),
        doubled=value("SELECT count(*) - count(DISTINCT (producer, number)) FROM verified_taken"),
        unknown=value(
            f"SELECT count(*) FROM (SELECT producer, number FROM verified_taken EXCEPT {expected}) AS unknown"
        ),
        killed=killed,
        low=value("SELECT max(low) FROM pgstore.queue_head WHERE store_id = %s", store_id),
        left=value(f"SELECT {rows.format('queue_item')} + {rows.format('queue_deferred')}", store_id, store_id),
        seconds=seconds,
    )


# ------------------------------------------------------------------------------------------------------- the processes


@contextlib.contextmanager
def opened(url: str) -> Iterator[tuple[pgstore.Client, pgstore.Queue]]:
    watermark.ADVANCE_ITEMS = 10  # the watermark follows closely: an item that comes late is behind it, if it can be
    with pgstore.Client(url) as client:
        yield client, pgstore.Queue.from_name(QUEUE, client=client)


def produce(url: str, producer: int, count: int) -> None:
    rng = random.Random(producer)
    with opened(url) as (client, queue):
        done = 0
        while done < count:
            while queue.len() > AHEAD:
                time.sleep(0.005)
            size = min(count - done, rng.choice((1, 1, 10, 200)))
            items = [(producer, number) for number in range(done, done + size)]
            if rng.random() < 0.2:  # the ids are drawn now, and seen by others much later, or never
                with contextlib.suppress(ZeroDivisionError), client.transaction():
                    queue.put_many(items)
                    time.sleep(rng.choice((0, 0.001, 0.03)))
                    if rng.random() < 0.3:
                        raise ZeroDivisionError
                    done += size
            else:
                if size == 1:
                    queue.put(items[0])
                else:
                    queue.put_many(items)
                done += size


def note(connection: Any, items: list[tuple[int, int]]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO verified_taken VALUES (%s, %s)", items)


def wanted(rng: random.Random) -> int:
    return rng.choice((1, 7, 100))


def in_transactions(url: str, number: int) -> None:
    rng = random.Random(number)
    with opened(url) as (client, queue):
        while True:
            with contextlib.suppress(ZeroDivisionError), client.transaction() as tx:
                n = wanted(rng)
                items = queue.get_many(n)
                assert len(items) <= n
                note(tx.connection, items)
                if rng.random() < 0.1:
                    time.sleep(rng.choice((0, 0.03)))
                    raise ZeroDivisionError


def at_once(url: str, number: int) -> None:
    """Each item is gone when it was taken: what is not written down then is lost."""
    rng = random.Random(number)
    with psycopg.connect(url) as connection, opened(url) as (_, queue):
        while True:
            n = wanted(rng)
            items = queue.get_many(n) if n > 1 else [queue.get()]
            assert len(items) <= n
            note(connection, items)
            connection.commit()


def by_leases(url: str, number: int) -> None:
    rng = random.Random(number)
    with opened(url) as (client, queue):
        while True:
            for lease in queue.get_many(wanted(rng) // 4 + 1, lease=LEASE_SECONDS, renew=True):
                if rng.random() < 0.1:
                    lease.nack(rng.choice((0, 0.1)))
                    continue
                with client.transaction() as tx:
                    note(tx.connection, [lease.item])
                    lease.ack()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.verify_queue", description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--url", help="a migrated database to use; default: a server of its own")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        url = arguments.url
        if url is None:
            url = stack.enter_context(Server()).create_database("verify")
            migrate(url)
        verdict = verify(url, arguments.items)
    print(verdict)
    sys.exit(0 if verdict.is_good else 1)


if __name__ == "__main__":
    main()
