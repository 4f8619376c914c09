"""Functions: what a call in a worker costs, beside a process pool and beside transactions of the same weight."""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pgstore
from tests.benchmarks.harness import Contest, Limit, Skipped

CALLS = 100
MAPPED = 1000
SPAWNED = 100
STARTS = 20
ROUNDS = 5
REPOSITORY = Path(__file__).parents[2]


def nothing(x: object = None) -> None:
    """What the process pool runs."""


def contests(url: str) -> Iterator[Contest | Limit | Skipped]:
    os.environ["PGSTORE_URL"] = url
    from tests.benchmarks import app_functions as functions

    with functions.app.run(), ProcessPoolExecutor(os.cpu_count()) as pool:
        yield from calling(functions, pool)
        yield from starting(functions)
        yield from memory(functions)
    yield from spawning(functions, url)


def calling(functions: Any, pool: ProcessPoolExecutor) -> Iterator[Contest | Limit]:
    remote, mapped = functions.nothing.remote, functions.nothing.map

    def ours() -> float:
        for _ in range(CALLS):
            remote()
        return CALLS

    def theirs() -> float:
        for _ in range(CALLS):
            pool.submit(nothing).result()
        return CALLS

    def per_call() -> float:
        began = time.perf_counter()
        return (ours() and time.perf_counter() - began) / CALLS * 1e3

    def ours_mapped() -> float:
        return len(list(mapped(range(MAPPED))))

    def theirs_mapped() -> float:
        return len(list(pool.map(nothing, range(MAPPED))))

    def seconds_mapped() -> float:
        began = time.perf_counter()
        return (ours_mapped() and time.perf_counter() - began) / MAPPED * 1e3

    yield Contest("warm .remote()", ours, theirs, unit="ms", reference_name="ProcessPoolExecutor")
    yield Limit("warm .remote()", per_call, 3, "ms")
    yield Contest("map of 1,000", ours_mapped, theirs_mapped, unit="/s", reference_name="ProcessPoolExecutor")
    yield Limit("map of 1,000, for one", seconds_mapped, 1000 / 300, "ms")


def starting(functions: Any) -> Iterator[Limit]:
    """A worker that nobody has used, until its function has listed the mount."""

    def cold() -> float:
        volumes = {"/data": functions.volume}
        fresh = pgstore.App().function(volumes=volumes, scaledown_window=2)(functions.look.get_raw_f())
        began = time.perf_counter()
        fresh.remote()
        return time.perf_counter() - began

    yield Limit("cold worker with a mount", cold, 0.9, "s")


def memory(functions: Any) -> Iterator[Limit]:
    """What an idle worker takes whose program imports nothing but pgstore."""
    yield Limit("idle worker", lambda: _megabytes(functions.pid.remote()), 80, "MB", 3)


def _megabytes(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1000
    raise AssertionError("every process has a VmRSS")


def spawning(functions: Any, url: str) -> Iterator[Contest | Limit]:
    """Spawned calls are rows: beside transactions of one put and one INSERT. There is no run, so nobody takes them meanwhile."""
    with worker(url):
        yield Limit("from commit to start, by pgstore worker", lambda: _delay(functions), 5, "ms", ROUNDS)
    spawn = functions.nothing.spawn
    with pgstore.Client(url) as client:
        queue = pgstore.Queue.from_name("benchmark-app", create_if_missing=True, client=client)
        with client.transaction() as tx:
            tx.connection.execute("CREATE TABLE benchmark_app (id bigint PRIMARY KEY, payload bytea)")
        numbers = itertools.count()

        def ours() -> float:
            for number in range(SPAWNED):
                spawn(number)
            return SPAWNED

        def transactions() -> float:
            for number in range(SPAWNED):
                with client.transaction() as tx:
                    queue.put(number)
                    tx.connection.execute("INSERT INTO benchmark_app VALUES (%s, %s)", [next(numbers), b"x" * 100])
            return SPAWNED

        yield Contest("spawn", ours, transactions, 0.7, "/s", "transactions of a put and an INSERT")


@contextlib.contextmanager
def worker(url: str) -> Iterator[None]:
    """`pgstore worker`, until the end of the block."""
    command = [sys.executable, "-m", "pgstore", "worker", "-m", "tests.benchmarks.app_functions"]
    with subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, "PGSTORE_URL": url}) as process:
        try:
            yield
        finally:
            process.terminate()


def _delay(functions: Any) -> float:
    """The median of the times from the commit of a spawn to the start of its function, in milliseconds."""
    delays = []
    for _ in range(STARTS):
        with pgstore.transaction():
            call = functions.began.spawn()
        committed = time.time()
        delays.append((call.get(timeout=60) - committed) * 1e3)
        time.sleep(0.05)
    return statistics.median(delays)
