"""Puts while consumers wait: how many a second, how late they are seen, and how many statements that takes.

The reference is a put that tells nobody, with consumers that look every 50 ms and then take as fast as they can: a take is a commit
too, so no way of waking can be faster. Consumers are processes, and are made anew for each turn.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import psycopg

import pgstore
from pgstore.core.operation import Query
from pgstore.queue.put import PUT_WITHOUT_NOTIFY
from pgstore.serializers import dumps
from tests.benchmarks.harness import Contest, Limit, Turn

SERVER_OPTIONS: Final = "-c max_connections=300 -c shared_preload_libraries=pg_stat_statements"
SECONDS: Final = 1.5
LOOK_SECONDS: Final = 0.05
PACED: Final = 200  # puts of a turn, 100 a second
QUEUE: Final = "crowd"
POISON: Final = "end"


def contests(url: str) -> Iterator[Contest | Limit]:
    with pgstore.Client(url) as client, psycopg.connect(url, autocommit=True) as eye:
        eye.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        field = Field(url, client, eye)
        for waiting, goal in ((0, 0.9), (1, 0.6), (10, 0.4), (40, 0.3)):
            yield Contest(
                f"put at full rate, {waiting} waiting",
                partial(field.full_rate, waiting, "ours"),
                partial(field.full_rate, waiting, "silent"),
                goal,
                "puts/s",
                "nobody told, a look every 50 ms",
                3,
            )
        for waiting in (1, 40):
            what = f"100 puts a second, {waiting} waiting"
            yield Limit(f"{what}: until it is taken, p50", partial(field.delay, waiting), 5.0, "ms", 3)
            yield Limit(
                f"{what}: statements a put, the put among them",
                partial(field.statements, waiting),
                4.0,
                "",
                3,
            )
        yield Limit("50 waiting, nothing put: statements a second", partial(field.idle, 50), 10.0, "", 1)


class Field:
    """A Queue, and who waits for it."""

    def __init__(self, url: str, client: pgstore.Client, eye: psycopg.Connection) -> None:
        self._url, self._client, self._eye = url, client, eye
        self._queue = pgstore.Queue.persist(QUEUE, client=client).hydrate()
        self._store_id = int(self._queue.object_id.removeprefix("qu-"))
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["pgstore"])

    @contextlib.contextmanager
    def crowd(self, waiting: int, how: str) -> Iterator[list[Any]]:
        """*waiting* consumers; the pipes on which each tells its delays in the end."""
        self._queue.clear()
        pipes, processes = [], []
        for _ in range(waiting):
            pipe, there = self._context.Pipe()
            process = self._context.Process(target=consume, args=(self._url, how, there), daemon=True)
            process.start()
            there.close()
            pipes.append(pipe)
            processes.append(process)
        for pipe in pipes:
            pipe.recv()
        time.sleep(0.5 + 0.02 * waiting)
        try:
            yield pipes
        finally:
            for process in processes:
                process.kill()
                process.join()

    def put(self, how: str) -> Callable[[], object]:
        if how == "ours":
            return lambda: self._queue.put(time.monotonic())
        executor: Any = self._client.executor(blocking=True)
        return lambda: executor.query_now(
            Query(PUT_WITHOUT_NOTIFY, self._store_id, "", dumps(time.monotonic(), "item"))
        )

    def full_rate(self, waiting: int, how: str) -> Turn:
        put = self.put(how)
        with self.crowd(waiting, how):
            began, cpu, puts = time.monotonic(), time.process_time(), 0
            while time.monotonic() - began < SECONDS:
                put()
                puts += 1
            return Turn(puts, time.monotonic() - began, time.process_time() - cpu)

    def delay(self, waiting: int) -> float:
        put = self.put("ours")
        with self.crowd(waiting, "ours") as pipes:
            pace(put)
            self._queue.put_many([POISON] * waiting)
            return statistics.median(itertools.chain(*(pipe.recv() for pipe in pipes))) * 1e3

    def statements(self, waiting: int) -> float:
        put = self.put("ours")
        with self.crowd(waiting, "ours"):
            pace(put)
            before = self._statements()
            pace(put)
            return (self._statements() - before) / PACED

    def idle(self, waiting: int) -> float:
        with self.crowd(waiting, "ours"):
            time.sleep(12.0)
            before = self._statements()
            time.sleep(10.0)
            return (self._statements() - before) / 10.0

    def _statements(self) -> int:
        row = self._eye.execute("SELECT sum(calls) FROM pg_stat_statements").fetchone()
        assert row is not None
        return int(row[0])


def pace(put: Callable[[], object]) -> None:
    for _ in range(PACED):
        put()
        time.sleep(0.01)


def consume(url: str, how: str, pipe: Any) -> None:
    queue = pgstore.Queue.from_name(QUEUE, client=pgstore.Client(url)).hydrate()
    delays: list[float] = []
    pipe.send("ready")
    while True:
        item = queue.get(block=how == "ours")
        if item is None:
            time.sleep(LOOK_SECONDS)
        elif item == POISON:
            pipe.send(delays)
            return
        else:
            delays.append(time.monotonic() - item)
