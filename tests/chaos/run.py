"""A run: a server, workers, faults for a while, recovery, and the audit."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

import pgstore
from pgstore.admin.check import run_checks
from pgstore.admin.gc import collect
from tests.chaos import drills, faults
from tests.chaos.drills.drill import Auditor, Drill
from tests.chaos.journal import FOREIGN, REFUSED, Log
from tests.chaos.worker import STOP, Task, work
from tests.fixtures.pgbouncer import PgBouncer
from tests.fixtures.proxy import Proxy
from tests.fixtures.server import Server, migrate

RECOVERY_SECONDS = 45.0  # after the last fault, in which each worker must do something more, and end
OPERATION_SECONDS_MAX = 45.0  # an operation that takes longer is a violation, whatever goes wrong
ENTRY_BYTES = 250  # that an operation takes in a journal, about

# Errors that say what was done to a worker; any other is a finding.
EXPECTED = ("StoreUnavailable", "TimedOut", "LockTimeout", "LeaseLost", "SerializationConflict", "OwnStatementFailed")
EXPECTED_TEXTS = (
    "canceling statement due to user request",
    "an earlier statement of this transaction failed",
    "the time of the call was over",
    "the server crashed or was replaced",
    "before the database was replaced",
)


@dataclass
class Result:
    """What a run has shown."""

    seed: int
    directory: Path
    seconds: float
    struck: Counter[str]
    """How many were hit, by the name of the fault."""
    log: Log
    violations: dict[str, list[str]] = field(default_factory=dict)
    """Promises that were broken, a sentence each, by the drill or by what has found them."""

    @property
    def is_good(self) -> bool:
        return not any(self.violations.values())


@dataclass(frozen=True)
class Plan:
    """What a run is to be like."""

    directory: Path
    seed: int
    seconds: float
    workers: int = 6
    hands: int = 2
    faults: Sequence[faults.Fault] = faults.ALL
    faults_per_second: float = 2.0
    drills: Sequence[Drill] = drills.ALL


class Run:
    """One run of a plan. A scene for faults."""

    def __init__(
        self, plan: Plan, server: Server, proxy: Proxy, *, url: str | None = None, pooler: PgBouncer | None = None
    ) -> None:
        """
        Args:
            url: of the database named chaos, for workers and audit; default: workers use it by turns directly and through *proxy*.
            pooler: one in front of *server*, through which every third worker goes then.
        """
        self.plan = plan
        self.server = server
        self.proxy = proxy
        self._pooler = pooler
        self.rng = random.Random(plan.seed)
        self.paused: set[int] = set()
        self.struck: Counter[str] = Counter({fault.name: 0 for fault in plan.faults})
        own_url = server.create_database("chaos")
        self.url = url or own_url
        self._urls = [url] if url else [own_url, proxy.url(own_url), *([pooler.url(own_url)] if pooler else [])]
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.chaos.worker"])
        self._numbers = itertools.count()
        self._crew: dict[str, BaseProcess] = {}
        self._tasks: dict[str, Task] = {}
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._backends = faults.Backends(self.url)
        self._failed: list[str] = []

    # ------------------------------------------------------------------------------------------- what faults use

    @property
    def processes(self) -> list[BaseProcess]:
        return list(self._crew.values())

    def later(self, seconds: float, action: Callable[[], object]) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), action))

    def backends(self, action: str, condition: str) -> int:
        return self._backends.strike(action, condition, self.rng)

    def wait_for_work(self, operations: int) -> None:
        """Wait until the workers have done about so many operations more."""
        enough = self._noted() + operations * ENTRY_BYTES
        deadline = time.monotonic() + RECOVERY_SECONDS
        while self._noted() < enough and time.monotonic() < deadline:
            time.sleep(0.02)

    def _noted(self) -> int:
        return sum(path.stat().st_size for path in self.plan.directory.glob("*.journal"))

    # -------------------------------------------------------------------------------------------------- a run

    def run(self) -> Result:
        began = time.monotonic()
        migrate(self.url)
        with pgstore.Client(self.url) as client, psycopg.connect(self.url, autocommit=True) as connection:
            for drill in self.plan.drills:
                drill.prepare(client, connection)
        try:
            for number in range(self.plan.workers):
                self._start(f"w{number}", self._urls[number % len(self._urls)], is_async=number % 4 >= 2)
            self._strike_until(time.monotonic() + self.plan.seconds)
            self._put_right()
            self._recover()
        finally:
            self._end()
        log = Log.read(self.plan.directory)
        result = Result(self.plan.seed, self.plan.directory, time.monotonic() - began, self.struck, log)
        result.violations = self.audit(log)
        return result

    def audit(self, log: Log) -> dict[str, list[str]]:
        """Promises that were broken, a sentence each, by the drill or by what has found them."""
        return {source: list(found) for source, found in self._audits(log)}

    def _start(self, place: str, url: str, *, is_async: bool) -> None:
        name = f"{place}g{next(self._numbers)}"
        task = Task(
            url,
            self.plan.directory,
            place,
            name,
            is_async,
            self.plan.hands,
            [drill.name for drill in self.plan.drills],
            self.plan.seed,
        )
        process = self._context.Process(target=work, args=(task,), name=name, daemon=True)
        process.start()
        self._crew[place] = process
        self._tasks[place] = task

    def _strike_until(self, end: float) -> None:
        weights = [fault.weight for fault in self.plan.faults]
        next_strike = time.monotonic() + self._pause()
        while (now := time.monotonic()) < end:
            while self._due and self._due[0][0] <= now:
                heapq.heappop(self._due)[2]()
            self._replace_the_dead()
            if now >= next_strike and self.plan.faults:
                (fault,) = self.rng.choices(self.plan.faults, weights)
                self.struck[fault.name] += fault.strike(self)
                next_strike = time.monotonic() + self._pause()
            if self.is_enough():
                return
            time.sleep(max(0.0, min(next_strike - time.monotonic(), 0.02)))

    def is_enough(self) -> bool:
        """Whether the run may end before its time."""
        return False

    def _pause(self) -> float:
        return self.rng.expovariate(self.plan.faults_per_second)

    def _replace_the_dead(self) -> None:
        for place, process in list(self._crew.items()):
            if process.is_alive():
                continue
            process.join()
            if process.exitcode not in (-signal.SIGKILL, 255):  # 255: multiprocessing could not find out
                self._failed.append(f"{process.name} ended by itself, with {process.exitcode}")
            task = self._tasks[place]
            self._start(place, task.url, is_async=task.is_async)

    def _put_right(self) -> None:
        """Undo what is still wrong, so that everything could work again."""
        while self._due:
            heapq.heappop(self._due)[2]()

    def _recover(self) -> None:
        """Each worker does something more, by itself, and ends."""
        self._replace_the_dead()
        deadline = time.monotonic() + RECOVERY_SECONDS
        sizes = {process.name: self._size(process.name) for process in self.processes}
        idle = set(sizes)
        while idle and time.monotonic() < deadline:
            time.sleep(0.02)
            idle = {name for name in idle if self._size(name) <= sizes[name] + 4 * ENTRY_BYTES}
        (self.plan.directory / STOP).touch()
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                os.kill(process.pid or 0, signal.SIGUSR1)  # has it write down where it is
                process.join(1.0)
                self._failed.append(f"{process.name} did not come to an end: see {process.name}.log")
            elif process.exitcode:
                self._failed.append(f"{process.name} ended with {process.exitcode}: see {process.name}.log")
        self._failed += [f"{name} has done nothing more after the last fault" for name in idle]

    def _size(self, name: str) -> int:
        with contextlib.suppress(FileNotFoundError):
            return (self.plan.directory / f"{name}.journal").stat().st_size
        return 0

    def _end(self) -> None:
        self._put_right()
        for process in self.processes:
            process.kill()
            process.join()
        self._backends.close()

    # ------------------------------------------------------------------------------------------------ its audit

    def _audits(self, log: Log) -> Iterator[tuple[str, Iterator[str]]]:
        yield "workers", iter(self._failed)
        yield "answers", _unexpected(log)
        url = make_conninfo(self.url, application_name="audit")
        with pgstore.Client(url) as client, psycopg.connect(url, autocommit=True) as connection:
            auditor = Auditor(client, connection)
            yield "backends", _left_behind(auditor, "state <> 'idle'" if self._pooler else "true")
            yield "pgstore check", _damage(self.url)
            for drill in self.plan.drills:
                yield drill.name, drill.audit(log, auditor)
            collect(client, grace_seconds=0.0)
            yield "check after collection", _damage(self.url)


def _unexpected(log: Log) -> Iterator[str]:
    """Answers that no fault explains, and operations that took too long."""
    for entry in log.entries:
        if entry.outcome == FOREIGN:
            yield f"an error that is not pgstore's: {entry.worker}#{entry.number} {entry.what}: {entry.answer}"
        elif entry.outcome == REFUSED:
            name, _, text = entry.answer.partition(": ")
            if name not in EXPECTED and not any(each in text for each in EXPECTED_TEXTS):
                yield f"an error that says something else than what happened: {entry}"
        if entry.ended != float("inf") and entry.ended - entry.began > OPERATION_SECONDS_MAX:
            yield f"took {entry.ended - entry.began:.1f} s: {entry}"


def _left_behind(auditor: Auditor, condition: str) -> Iterator[str]:
    """Backends of workers that have ended and that the server still has when it must have noticed. A pooler keeps idle ones."""
    query = f"""
        SELECT pid, state, left(query, 100) FROM pg_stat_activity
         WHERE application_name = 'pgstore' AND backend_type = 'client backend' AND datname = 'chaos' AND {condition}
    """
    deadline = time.monotonic() + 10.0
    while (left := auditor.rows(query)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for row in left:
        yield f"a backend goes on: {row}"


def _damage(url: str) -> Iterator[str]:
    report = run_checks(url)
    for finding in report.findings:
        yield f"{finding.check}: {len(finding.rows)} rows, {finding.columns}, the first {finding.rows[0]}"
    for failure in report.failures:
        yield f"{failure.check} could not run: {failure.error}"
