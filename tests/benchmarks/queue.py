"""Queue beside its own bare statements and the queues that it is measured against (`queue_peers`).

Every system carries the same items, of 100 bytes and of 10 kB as pickles, and serialises them with each call; the bare statements
get theirs pickled before. What empties a queue is given a full one before each turn, and its dead rows are cleared away, which is
not timed. "relaxed" is `durable=False`, or `appendfsync everysec` of Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import multiprocessing
import os
import pickle
import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

import pgstore
from pgstore.queue.take import TAKE
from tests.benchmarks import peers
from tests.benchmarks.harness import Contest, Limit, Skipped, Turn
from tests.benchmarks.peers import Crew, together
from tests.benchmarks.queue_peers import QUEUE, SEVERAL, SYSTEMS, Bare, Worker, connected, fill_ours, item_of, labour
from tests.fixtures.server import migrate

SMALL, LARGE = 100, 10_000  # bytes
NAMES: Final = {SMALL: "100 B", LARGE: "10 kB"}
CLIENTS: Final = 8
SECONDS: Final = 0.4  # of a crew's turn
ALWAYS, EVERYSEC = "redis-py, appendfsync always", "redis-py, appendfsync everysec"
BARE: Final = "bare statement"

Offer = Contest | Limit | Skipped


def contests(url: str) -> Iterator[Offer]:
    with Field(url) as field:
        for size in (SMALL, LARGE):
            yield from putting(field, size)
            yield from putting_at_once(field, size)
            yield from putting_many(field, size)
            yield from getting(field, size)
            yield from getting_many(field, size)
            yield from getting_at_once(field, size)
        yield from relaxing(field)
        yield from awaiting(field)
        yield from leasing(field)
        yield from waking(field)
        yield from idling(field)
        yield from pinning(field)
        yield from growing(field)
        yield from parting(field)
        yield from listening(field)
        yield from churning(field)


class Field:
    """What the contests are held on; systems are installed, and servers started, on first use."""

    def __init__(self, url: str) -> None:
        self.url = peers.by_socket(url)
        self._stack = contextlib.ExitStack()
        self._addresses: dict[str, str] = {}
        self._workers: dict[tuple[str, int], Any] = {}

    def __enter__(self) -> Field:
        with pgstore.Client(self.url) as client:
            pgstore.Queue.objects.create(QUEUE, allow_existing=True, client=client)
        for name in (QUEUE, Bare.name):
            self._stack.callback(self._delete, name)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _delete(self, name: str) -> None:
        with pgstore.Client(self.url) as client:
            pgstore.Queue.objects.delete(name, allow_missing=True, client=client)

    # ------------------------------------------------------------------------------------------------------- systems

    def address(self, system: str) -> str:
        """Where a system's queue is, made ready."""
        if system not in self._addresses:
            kind = SYSTEMS[system]
            if system.startswith("redis"):
                address = self._stack.enter_context(peers.redis_server(system.rpartition(" ")[2]))
            elif issubclass(kind, Bare) or system.startswith("ours"):
                address = self.url
            else:
                address = self.database_of_peers
            kind.install(address)
            self._addresses[system] = address
        return self._addresses[system]

    @functools.cached_property
    def database_of_peers(self) -> str:
        return self.new_database()

    def new_database(self, *, migrated: bool = False) -> str:
        """A database that is dropped in the end; with *migrated* one that has the schema pgstore."""
        name = f"pgstore_benchmark_{random.randbytes(4).hex()}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        self._stack.callback(self._drop, name)
        address = make_conninfo(self.url, dbname=name)
        if migrated:
            migrate(address)
        return address

    def _drop(self, name: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def worker(self, system: str, size: int) -> Any:
        """A client of *system* in this process."""
        if (system, size) not in self._workers:
            worker = self._workers[system, size] = SYSTEMS[system](self.address(system), size)
            self._stack.callback(worker.close)
        return self._workers[system, size]

    def fill(self, system: str, items: int, size: int) -> None:
        SYSTEMS[system].fill(self.address(system), items, size)

    # ----------------------------------------------------------------------------------------------------- candidates

    def alone(
        self, system: str, size: int, call: str, items: int, *arguments: Any, full: int = 0
    ) -> Callable[[], Turn]:
        """One client that repeats *call* until it has moved *items*, on a queue that holds *full* when it begins."""

        def candidate() -> Turn:
            worker = self.worker(system, size)
            self.fill(system, full, size)
            work = getattr(worker, call)

            def repeat() -> float:
                done = 0
                while done < items:
                    done += work(*arguments)
                return done

            return timed(repeat)

        return candidate

    def crewed(
        self,
        stack: contextlib.ExitStack,
        system: str,
        size: int,
        call: str,
        *,
        full: int = 0,
        factor: int = 1,
        seconds: float = SECONDS,
    ) -> Callable[[], Turn]:
        """Eight processes, each of which repeats *call*, which moves *factor* items."""

        @functools.cache
        def crew() -> Crew:
            crew = Crew(CLIENTS, labour, system, self.address(system), size, call)
            stack.callback(crew.close)
            return crew

        def candidate() -> Turn:
            crew()
            self.fill(system, full, size)
            turn = together(crew().work(seconds))
            return Turn(turn.amount * factor, turn.wall_seconds, turn.cpu_seconds)

        return candidate


def timed(call: Callable[[], float]) -> Turn:
    """The turn of *call* alone: what was made ready before it does not count."""
    cpu_began, began = time.process_time(), time.perf_counter()
    amount = call()
    return Turn(amount, time.perf_counter() - began, time.process_time() - cpu_began)


def versus(name: str, ours: Any, reference: Any, goal: float | None, system: str, **more: Any) -> Offer:
    """A contest with *system*, or why it is not held."""
    why_not = SYSTEMS[system].why_not
    if why_not:
        return Skipped(f"{name} : {system}", why_not)
    return Contest(name, ours, reference, goal, more.pop("unit", "item/s"), system, **more)


# -------------------------------------------------------------------------------------------------- moving items, durably


def putting(field: Field, size: int) -> Iterator[Offer]:
    def by(system: str) -> Callable[[], Turn]:
        return field.alone(system, size, "put", 150)

    name = f"put {NAMES[size]}"
    for system, goal in ((BARE, 0.8), (ALWAYS, 1.0), ("pgmq", 1.0), ("procrastinate", 2.0), ("pgqueuer", None)):
        yield versus(name, by("ours"), by(system), goal, system)


def putting_at_once(field: Field, size: int) -> Iterator[Offer]:
    name = f"put {NAMES[size]}, {CLIENTS} clients"
    goals = {BARE: 0.8, "NOTIFY with each": 1.5, ALWAYS: 1.3, "pgmq": 1.0, "procrastinate": 2.0, "pgqueuer": 5.0}
    if size == LARGE:
        goals |= {ALWAYS: 1.0}
    with contextlib.ExitStack() as ours_stack:
        ours = field.crewed(ours_stack, "ours", size, "put")
        for system, goal in goals.items():
            with contextlib.ExitStack() as stack:
                yield versus(name, ours, field.crewed(stack, system, size, "put"), goal, system)
    if size == SMALL:
        with contextlib.ExitStack() as stack:
            ours, bare = (field.crewed(stack, system, size, "put_in_transaction") for system in ("ours", BARE))
            yield versus(f"{name}, in transactions of their own", ours, bare, 0.75, BARE)


def putting_many(field: Field, size: int) -> Iterator[Offer]:
    count = 1000 if size == SMALL else 100

    def by(system: str) -> Callable[[], Turn]:
        batches = {"procrastinate": 1, "pgqueuer": 2}.get(system, 5)
        return field.alone(system, size, "put_many", batches * count, count)

    name = f"put_many({count}) {NAMES[size]}"
    yield versus(f"{name}; reference by COPY", by("ours"), by(BARE), 0.5, BARE)
    goals = {"pgmq": 3.0, "pgqueuer": 8.0, "procrastinate": 15.0, ALWAYS: None, EVERYSEC: None}
    if size == LARGE:
        goals |= {"pgqueuer": 1.0, "procrastinate": 4.0}
    for system, goal in goals.items():
        yield versus(name, by("ours"), by(system), goal, system)


def getting(field: Field, size: int) -> Iterator[Offer]:
    items = 150

    def by(system: str) -> Callable[[], Turn]:
        return field.alone(system, size, "get", items, full=4 * items)

    name = f"get {NAMES[size]}"
    goals = {BARE: 0.8, "pgmq": 1.1, "pgqueuer": 3.0, "procrastinate": 3.0, ALWAYS: None}
    for system, goal in goals.items():
        yield versus(name, by("ours"), by(system), goal, system)


def getting_many(field: Field, size: int) -> Iterator[Offer]:
    items = 10 * SEVERAL

    def by(system: str) -> Callable[[], Turn]:
        return field.alone(system, size, "get_many", items, full=20_000 if size == SMALL else 5000)

    name = f"get_many({SEVERAL}) {NAMES[size]}"
    goals: dict[str, float | None] = {BARE: 0.8, "pgmq": 3.0, "pgqueuer": 6.0, ALWAYS: 0.6, EVERYSEC: None}
    if size == LARGE:
        goals |= {"pgmq": 2.0, "pgqueuer": 2.5, ALWAYS: None}
    for system, goal in goals.items():
        yield versus(name, by("ours"), by(system), goal, system)


def getting_at_once(field: Field, size: int) -> Iterator[Offer]:
    for call, full, factor, seconds in (
        ("get", 10_000, 1, SECONDS),
        ("get_many", 120_000 if size == SMALL else 20_000, SEVERAL, SECONDS / 2),
    ):
        name = f"{call} {NAMES[size]}, {CLIENTS} clients"
        goals: dict[str, float | None] = {BARE: 0.8, "pgmq": 1.0, "pgqueuer": 5.0, "procrastinate": 5.0, ALWAYS: None}
        if call == "get_many":
            goals = {BARE: 0.8, "pgmq": 2.5 if size == SMALL else 1.5}
        with contextlib.ExitStack() as ours_stack:
            ours = field.crewed(ours_stack, "ours", size, call, full=full, factor=factor, seconds=seconds)
            for system, goal in goals.items():
                enough = min(full, 5000) if system in ("pgqueuer", "procrastinate") else full  # they fill slowly
                with contextlib.ExitStack() as stack:
                    theirs = field.crewed(stack, system, size, call, full=enough, factor=factor, seconds=seconds)
                    yield versus(name, ours, theirs, goal, system)


def relaxing(field: Field) -> Iterator[Offer]:
    def by(system: str, call: str, full: int = 0) -> Callable[[], Turn]:
        return field.alone(system, SMALL, call, 1000, full=full)

    relaxed = "ours, relaxed"
    yield versus("put 100 B, relaxed", by(relaxed, "put"), by(EVERYSEC, "put"), 1.0, EVERYSEC)
    with contextlib.ExitStack() as stack:
        ours, theirs = (field.crewed(stack, system, SMALL, "put") for system in (relaxed, EVERYSEC))
        yield versus(f"put 100 B, relaxed, {CLIENTS} clients", ours, theirs, 1.0, EVERYSEC)
    yield versus("get 100 B, relaxed", by(relaxed, "get", 2000), by(EVERYSEC, "get", 2000), None, EVERYSEC)


# ------------------------------------------------------------------------------------------------------- on an event loop


def awaiting(field: Field) -> Iterator[Offer]:
    """Each `.aio` form beside the bare statement on psycopg's `AsyncConnection`, one task and eight at a time."""
    item = item_of(SMALL)
    payload = pickle.dumps(item, 5)

    @functools.cache
    def runner() -> asyncio.Runner:
        runner = field._stack.enter_context(asyncio.Runner())
        field._stack.callback(lambda: runner.run(client().aclose()))
        return runner

    @functools.cache
    def client() -> pgstore.Client:
        return field._stack.enter_context(pgstore.Client(field.url))

    @functools.cache
    def queue() -> pgstore.Queue:
        return pgstore.Queue.from_name(QUEUE, client=client()).hydrate()

    @functools.cache
    def cursors() -> tuple[int, list[Any]]:
        async def connect() -> list[Any]:
            made = []
            for _ in range(CLIENTS):
                connection = await psycopg.AsyncConnection.connect(
                    field.url, autocommit=True, cursor_factory=psycopg.AsyncRawCursor
                )
                field._stack.callback(lambda each: runner().run(each.close()), connection)
                await connection.execute("SET plan_cache_mode = force_generic_plan")
                await connection.execute("SET enable_seqscan = off")
                made.append(connection.cursor(binary=True))
            return made

        with connected(field.address(BARE)) as connection:
            ((store_id,),) = connection.execute("SELECT id FROM pgstore.store WHERE name = $1", [Bare.name])
        return store_id, runner().run(connect())

    async def put(_: int) -> int:
        await queue().put.aio(item)
        return 1

    async def put_bare(number: int) -> int:
        store_id, made = cursors()
        await made[number].execute(Bare.sql_put, (store_id, "", payload), prepare=True)
        return 1

    async def get(_: int) -> int:
        return int(await queue().get.aio(block=False) is not None)

    async def get_bare(number: int) -> int:
        store_id, made = cursors()
        await made[number].execute(TAKE.sql, (store_id, "", 1, 0), prepare=True)
        return len(await made[number].fetchall())

    async def put_many(_: int) -> int:
        await queue().put_many.aio([item] * 1000)
        return 1000

    async def get_many(_: int) -> int:
        return len(await queue().get_many.aio(SEVERAL, block=False))

    async def get_many_bare(number: int) -> int:
        store_id, made = cursors()
        await made[number].execute(TAKE.sql, (store_id, "", SEVERAL, 0), prepare=True)
        return len(await made[number].fetchall())

    def candidate(work: Any, system: str, items: int, tasks: int = 1, full: int = 0) -> Callable[[], Turn]:
        async def one(number: int) -> int:
            done = 0
            while done < items:
                moved = await work(number)
                assert moved
                done += moved
            return done

        async def all_of_them() -> Turn:
            cpu_began, began = time.process_time(), time.perf_counter()
            done = sum(await asyncio.gather(*map(one, range(tasks))))
            return Turn(done, time.perf_counter() - began, time.process_time() - cpu_began)

        def run() -> Turn:
            field.fill(system, full, SMALL)
            queue()
            cursors()
            return runner().run(all_of_them())

        return run

    for tasks in (1, CLIENTS):
        suffix = f", {tasks} tasks" if tasks > 1 else ""
        items = 150 if tasks == 1 else 100
        both = candidate(put, "ours", items, tasks), candidate(put_bare, BARE, items, tasks)
        yield versus(f"put.aio 100 B{suffix}", *both, 0.8, BARE)
        full = 2 * items * tasks
        both = candidate(get, "ours", items, tasks, full), candidate(get_bare, BARE, items, tasks, full)
        yield versus(f"get.aio 100 B{suffix}", *both, 0.8, BARE)
    both = candidate(get_many, "ours", 1000, 1, 2000), candidate(get_many_bare, BARE, 1000, 1, 2000)
    yield versus(f"get_many.aio({SEVERAL}) 100 B", *both, 0.8, BARE)
    both = candidate(put_many, "ours", 5000), field.alone("ours", SMALL, "put_many", 5000, 1000)
    yield Contest("put_many.aio(1000) 100 B", *both, 0.9, "item/s", "blocking")


# --------------------------------------------------------------------------------------------------------------- leases


def leasing(field: Field) -> Iterator[Offer]:
    """What a lease costs, and what the leases of others cost those who only put and get."""
    items = 150
    yield versus(
        "get(lease=) and ack 100 B",
        field.alone("ours", SMALL, "lease", items, full=4 * items),
        field.alone("pgmq", SMALL, "lease", items, full=4 * items),
        1.0,
        "pgmq",
    )
    many = 50_000

    def among_leases(call: str) -> Callable[[], Turn]:
        run = field.alone("ours", SMALL, call, items, full=4 * items)

        def candidate() -> Turn:
            with connected(field.url) as connection:
                ((store_id,),) = connection.execute("SELECT id FROM pgstore.store WHERE name = $1", [QUEUE])
                connection.execute(
                    """
                    INSERT INTO pgstore.queue_deferred (store_id, kind, due_at, payload, attempts)
                    SELECT $1, 'l', now() + '1 hour', 'x', 1
                      FROM generate_series(1, $2)
                    """,
                    [store_id, many],
                )
                try:
                    return run()
                finally:
                    connection.execute("DELETE FROM pgstore.queue_deferred WHERE store_id = $1", [store_id])
                    connection.execute("VACUUM pgstore.queue_deferred")

        return candidate

    for call in ("put", "get"):
        plain = field.alone("ours", SMALL, call, items, full=4 * items)
        yield Contest(f"{call} 100 B, {many:,} leased", among_leases(call), plain, 0.9, "item/s", "none leased")


# -------------------------------------------------------------------------------------------------------------- waiting


class Consumer:
    """A process that takes one item after another and tells when it had each, by the clock that all processes share."""

    def __init__(self, make: Callable[[str], Callable[[], object]], address: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=consume, args=(make, address, there), daemon=True)
        self._process.start()
        self._pipe.recv()
        self._rng = random.Random(1)

    def delays(self, put: Callable[[], object], times: int) -> list[float]:
        """Let it wait, put, and see how long it took until it had the item; in seconds, *times* times."""
        found = []
        for _ in range(times):
            pause(self._rng)
            began = time.monotonic()
            put()
            found.append(self._pipe.recv() - began)
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.join()


def consume(make: Callable[[str], Callable[[], object]], address: str, pipe: Any) -> None:
    take = make(address)
    pipe.send("ready")
    while True:
        take()
        pipe.send(time.monotonic())


def blocking_get(address: str) -> Callable[[], object]:
    return pgstore.Queue.from_name(QUEUE, client=pgstore.Client(address)).hydrate().get


def awaited_get(address: str) -> Callable[[], object]:
    loop = asyncio.new_event_loop()
    queue = pgstore.Queue.from_name(QUEUE, client=pgstore.Client(address)).hydrate()
    return lambda: loop.run_until_complete(queue.get.aio())


def polling_pgmq(address: str) -> Callable[[], object]:
    """At its default, which looks ten times a second."""
    connection = psycopg.connect(address, autocommit=True, prepare_threshold=0)

    def get() -> None:
        while not (row := connection.execute("SELECT * FROM pgmq.read_with_poll(%s, 30, 1)", (QUEUE,)).fetchone()):
            pass
        connection.execute("SELECT pgmq.delete(%s, %s::bigint)", (QUEUE, row[0]))

    return get


def blocking_pop(address: str) -> Callable[[], object]:
    import redis

    client: Any = redis.Redis(unix_socket_path=address)
    return lambda: client.blpop(QUEUE, 0)


WAKES: Final = 30


def waking(field: Field) -> Iterator[Offer]:
    def woken(system: str, make: Any, percent: int, times: int = WAKES) -> Callable[[], Turn]:
        def candidate() -> Turn:
            field.fill(system, 0, SMALL)
            worker = field.worker(system, SMALL)
            consumer = Consumer(make, field.address(system))
            try:
                return Turn(1, percentile(consumer.delays(worker.put, times), percent), 0)
            finally:  # it would take the items of the calls that are timed alone
                consumer.close()

        return candidate

    def alone() -> Turn:
        """The median of a put and that of a get, each timed by itself and after as long a pause as the others make."""
        field.fill("ours", 0, SMALL)
        worker, rng = field.worker("ours", SMALL), random.Random(1)
        medians = [percentile(each_call(call, WAKES, lambda: pause(rng)), 50) for call in (worker.put, worker.get)]
        return Turn(1, sum(medians), 0)

    both = "a put and a get, alone"
    p50, p99 = (woken("ours", blocking_get, percent) for percent in (50, 99))
    yield Contest("wake-up, p50", p50, alone, 1.3, "µs", both, rounds_max=7)
    yield Contest("wake-up, p99", p99, alone, 5.0, "µs", f"{both}, p50", rounds_max=7)
    yield Contest("wake-up of get.aio, p50", woken("ours", awaited_get, 50), alone, 1.3, "µs", both, rounds_max=7)
    pgmq = woken("pgmq", polling_pgmq, 50, 10)
    yield versus("wake-up, p50", p50, pgmq, 1 / 20, "pgmq", unit="µs", rounds_max=5)
    redis = woken(EVERYSEC, blocking_pop, 50)
    yield versus("wake-up, p50", p50, redis, None, EVERYSEC, unit="µs", rounds_max=5)


def pause(rng: random.Random) -> None:
    """As those who put now and then: it leaves caches and cores cold."""
    time.sleep(rng.uniform(0.01, 0.03))


def each_call(call: Callable[[], object], times: int, before: Callable[[], None] = lambda: None) -> list[float]:
    found = []
    for _ in range(times):
        before()
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return found


def percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


IDLE_AFTER, IDLE_FOR = 60, 40  # seconds


def idling(field: Field) -> Iterator[Offer]:
    def queries() -> float:
        name = f"pgstore-idle-{random.randbytes(4).hex()}"
        consumer = Consumer(blocking_get, make_conninfo(field.url, application_name=name))
        looks: set[Any] = set()
        try:
            field.fill("ours", 0, SMALL)
            time.sleep(IDLE_AFTER)
            with connected(field.url) as connection:
                until = time.monotonic() + IDLE_FOR
                while time.monotonic() < until:
                    look = "SELECT pid, query_start FROM pg_stat_activity WHERE application_name = $1"
                    looks.update(connection.execute(look, [name]).fetchall())
                    time.sleep(0.1)
        finally:
            consumer.close()
        connections = len({pid for pid, _ in looks})
        return (len(looks) - connections) / IDLE_FOR

    yield Limit("queries of an idle waiting get", queries, 1.3, "/s", rounds_max=1)


# ------------------------------------------------------------------------------------------- old snapshots, long queues

DEAD: Final = 100_000
PROBES: Final = 120


def median_get(work: Callable[[], object], items: int = PROBES) -> Turn:
    """The median time of a call, as a turn."""
    cpu_began = time.process_time()
    median = percentile(each_call(work, items), 50)
    return Turn(1, median, (time.process_time() - cpu_began) / items)


def pinning(field: Field) -> Iterator[Offer]:
    """Someone keeps a snapshot open while 100,000 items pass through, and all that were taken stay as dead rows."""
    with contextlib.ExitStack() as stack:
        payload = pickle.dumps(item_of(SMALL), 5)
        numbers = itertools.count()

        @functools.cache
        def pinned() -> pgstore.Queue:
            client = stack.enter_context(pgstore.Client(field.url))
            queue = pgstore.Queue.from_name(QUEUE, client=client).hydrate()
            fill_ours(field.url, QUEUE, 0, payload)
            pin(field.url)
            for _ in range(DEAD // 1000):
                queue.put_many([item_of(SMALL)] * 1000)
                while queue.get_many(500, block=False):
                    pass
            return queue

        def pin(address: str) -> None:
            connection = stack.enter_context(psycopg.connect(address))
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            connection.execute("SELECT 1")

        def ours() -> Turn:
            pinned().put_many([item_of(SMALL)] * PROBES)
            return median_get(lambda: pinned().get(block=False, durable=False))

        def ours_anew() -> Turn:
            pinned().put_many([item_of(SMALL)] * (PROBES + 1))
            with pgstore.Client(field.url) as client:
                queue = pgstore.Queue.from_name(QUEUE, client=client)
                queue.get(block=False)
                return median_get(lambda: queue.get(block=False, durable=False))

        def baseline() -> Turn:
            """In a partition of which nothing was taken yet."""
            partition = f"new-{next(numbers)}"
            pinned().put_many([item_of(SMALL)] * PROBES, partition=partition)
            return median_get(lambda: pinned().get(block=False, durable=False, partition=partition))

        @functools.cache
        def plainly() -> Worker:
            pinned()
            worker = Bare(field.address(BARE), SMALL)
            stack.callback(worker.close)
            worker.connection.execute("SET synchronous_commit = off")
            worker.store_id = int(pinned().object_id.removeprefix("qu-"))
            return worker

        def plain() -> Turn:
            pinned().put_many([item_of(SMALL)] * 20)
            return median_get(plainly().get, 20)

        @functools.cache
        def pgmq() -> Worker:
            worker = SYSTEMS["pgmq"](field.address("pgmq"), SMALL)
            stack.callback(worker.close)
            worker.fill(worker.address, DEAD, SMALL)
            pin(worker.address)
            with psycopg.connect(worker.address, autocommit=True) as connection:
                connection.execute(f"DELETE FROM pgmq.q_{QUEUE}")
            worker.connection.execute("SET synchronous_commit = off")
            return worker

        def by_pgmq() -> Turn:
            pgmq().put_many(20)
            return median_get(pgmq().get, 20)

        name = f"get relaxed, p50, old snapshot and {DEAD:,} dead rows"
        yield Contest(name, ours, baseline, 2.0, "µs", "a partition without dead rows")
        yield Contest(f"{name}, new client", ours_anew, baseline, 2.0, "µs", "a partition without dead rows")
        yield Contest(name, ours, plain, 1 / 10, "µs", "the statement from the first id on")
        yield versus(name, ours, by_pgmq, 1 / 20, "pgmq", unit="µs")


def growing(field: Field) -> Iterator[Offer]:
    """Plans are made, and kept, while the queue is all but empty."""
    yield from grown_to(field, 200_000)
    if os.environ.get("PGSTORE_BENCH_LARGE"):
        yield from grown_to(field, 10_000_000)
    else:
        yield Skipped("a queue of 10,000,000", "it takes minutes and 5 GB; PGSTORE_BENCH_LARGE=1 asks for it")


def grown_to(field: Field, many: int) -> Iterator[Offer]:
    payload = pickle.dumps(item_of(SMALL), 5)

    @functools.cache
    def place() -> list[pgstore.Queue]:
        address = field.new_database(migrated=True)
        queues = []
        for name in ("small", "grown"):
            client = field._stack.enter_context(pgstore.Client(address))
            queue = pgstore.Queue.persist(name, client=client)
            queue.put_many([item_of(SMALL)] * 30)
            for _ in range(12):
                queue.get(durable=False)
            queues.append(queue)
        with connected(address) as connection:
            connection.execute(
                "INSERT INTO pgstore.queue_item (store_id, payload) SELECT $1, $2 FROM generate_series(1, $3)",
                [int(queues[1].object_id.removeprefix("qu-")), payload, many],
            )
            if many > 1_000_000:  # else autovacuum and the checkpointer would be what is measured
                connection.execute("VACUUM pgstore.queue_item")
                connection.execute("CHECKPOINT")
        return queues

    def small() -> Turn:
        place()[0].put_many([item_of(SMALL)] * PROBES)
        return median_get(lambda: place()[0].get(block=False, durable=False))

    def grown() -> Turn:
        return median_get(lambda: place()[1].get(block=False, durable=False))

    def putting(number: int) -> Callable[[], Turn]:
        return lambda: median_get(lambda: place()[number].put(item_of(SMALL), durable=False))

    yield Contest(f"get relaxed, p50, queue grown to {many:,}", grown, small, 2.0, "µs", "a small queue")
    yield Contest(f"put relaxed, p50, queue grown to {many:,}", putting(1), putting(0), 1.5, "µs", "a small queue")


PARTITIONS: Final = 100_000


def parting(field: Field) -> Iterator[Offer]:
    """Puts and gets here and there in 100,000 partitions, beside those in one."""
    rng = random.Random(4)

    @functools.cache
    def scattered() -> pgstore.Queue:
        client = field._stack.enter_context(pgstore.Client(field.url))
        queue = pgstore.Queue.ephemeral(client=client).hydrate()
        with connected(field.url) as connection:
            connection.execute(
                """
                INSERT INTO pgstore.queue_item (store_id, partition, payload)
                SELECT $1, 'p' || n % $2, $3
                  FROM generate_series(1, 2 * $2) n
                """,
                [int(queue.object_id.removeprefix("qu-")), PARTITIONS, pickle.dumps(item_of(SMALL), 5)],
            )
            connection.execute("VACUUM (ANALYZE) pgstore.queue_item")
        return queue

    def partition() -> str:
        return f"p{rng.randrange(PARTITIONS)}"

    def many_partitions(call: str) -> Callable[[], Turn]:
        def candidate() -> Turn:
            queue, item = scattered(), item_of(SMALL)
            if call == "put":
                return timed(lambda: len([queue.put(item, partition=partition(), durable=False) for _ in range(500)]))
            return timed(
                lambda: len([queue.get(block=False, partition=partition(), durable=False) for _ in range(500)])
            )

        return candidate

    for call in ("put", "get"):
        one = field.alone("ours, relaxed", SMALL, call, 500, full=1000)
        yield Contest(
            f"{call} 100 B, relaxed, {PARTITIONS:,} partitions",
            many_partitions(call),
            one,
            0.75,
            "item/s",
            "one partition",
        )


# -------------------------------------------------------------------------------------------------- listeners elsewhere

LISTENERS: Final = 20


def listening(field: Field) -> Iterator[Offer]:
    with contextlib.ExitStack() as stack:

        @functools.cache
        def listeners() -> list[Consumer]:
            made = [Consumer(waiting_elsewhere, field.url) for _ in range(LISTENERS)]
            for consumer in made:
                stack.callback(consumer.close)
            time.sleep(1)
            return made

        def among_listeners(system: str) -> Callable[[], Turn]:
            run = field.crewed(stack, system, SMALL, "put")

            def candidate() -> Turn:
                listeners()
                return run()

            return candidate

        name = f"put 100 B, {CLIENTS} clients, {LISTENERS} waiting elsewhere"
        yield versus(name, among_listeners("ours"), among_listeners(BARE), 0.75, BARE)
        yield versus(name, among_listeners("ours"), among_listeners("NOTIFY with each"), 1.5, "NOTIFY with each")


def waiting_elsewhere(address: str) -> Callable[[], object]:
    """A get that waits for an item that nobody puts."""
    return pgstore.Queue.ephemeral(client=pgstore.Client(address)).hydrate().get


# ----------------------------------------------------------------------------------------------------------------- churn

CHURNED: Final = 1_000_000


def churning(field: Field) -> Iterator[Offer]:
    """Items that go through a queue, 1,000 at a time, with autovacuum as it is."""

    def churn(system: str, items: int) -> Turn:
        worker = field.worker(system, SMALL)

        def work() -> float:
            for _ in range(items // 1000):
                worker.put_many(1000)
                for _ in range(1000 // SEVERAL):
                    worker.get_many()
            return items

        return timed(work)

    def fresh(system: str, items: int) -> Callable[[], Turn]:
        def candidate() -> Turn:
            field.fill(system, 0, SMALL)
            return churn(system, items)

        return candidate

    yield versus(
        "put_many(1000), 10 × get_many(100)", fresh("ours", 20_000), fresh("pgmq", 5000), 4.0, "pgmq", rounds_max=7
    )

    @functools.cache
    def long_run() -> tuple[float, float, float]:
        """How much slower the last quarter was than the first, a get after it than before, and the space taken."""
        address = field.new_database(migrated=True)
        client = field._stack.enter_context(pgstore.Client(address))
        queue = pgstore.Queue.persist(QUEUE, client=client)
        item = item_of(SMALL)

        def probe() -> float:
            queue.put_many([item] * PROBES)
            return median_get(lambda: queue.get(block=False, durable=False)).wall_seconds

        queue.put(item)
        queue.get()
        before = probe()
        quarters = []
        for _ in range(4):
            began = time.perf_counter()
            for _ in range(CHURNED // 4000):
                queue.put_many([item] * 1000)
                for _ in range(1000 // SEVERAL):
                    queue.get_many(SEVERAL, block=False)
            quarters.append(time.perf_counter() - began)
        after = probe()
        size = "SELECT pg_total_relation_size('pgstore.queue_item')"
        with connected(address) as connection:
            ((grown,),) = connection.execute(size)
            connection.execute("VACUUM FULL pgstore.queue_item")
            queue.put_many([item] * 200_000)
            ((full,),) = connection.execute(size)
        return quarters[3] / quarters[0], after / before, grown / full

    name = f"{CHURNED:,} items churned"
    yield Limit(f"{name}: time of the last quarter to the first", lambda: long_run()[0], 1.25, rounds_max=1)
    yield Limit(f"{name}: get p50 relaxed after to before", lambda: long_run()[1], 2.0, rounds_max=1)
    yield Limit(f"{name}: space to that of 200,000 items", lambda: long_run()[2], 3.0, rounds_max=1)
