"""Dict beside the database's own speed (pgbench, psycopg, asyncpg, SQLAlchemy) and the stores that it is measured against.

All values are pickled, by ours and by every peer; all sockets are Unix sockets where the server has one. "relaxed" means
`synchronous_commit = off` for Postgres, `appendfsync everysec` for Redis and diskcache's default.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import pickle
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
import sqlalchemy
import sqlalchemy.orm
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import pgstore
from pgstore.client.links.eagerness import Eagerness
from pgstore.core.operation import Query
from tests.benchmarks import peers
from tests.benchmarks.harness import Contest, Limit, Skipped, Turn
from tests.benchmarks.peers import Crew, Pgbench, together

ENTRIES = 20_000
MILLION = 1_000_000
EXPIRING = 100_000
BATCH = 1000
VALUE = {"user": 12345, "name": "some name", "tags": ["a", "b", "c"], "score": 0.5}
PROBE = "k0"
DATA = pickle.dumps(VALUE, 5)
INCREMENTERS = 8
UPDATERS = 4

Offer = Contest | Limit | Skipped


def contests(url: str) -> Iterator[Offer]:
    with Field(url) as field:
        yield from getting(field)
        yield from containing(field)
        yield from putting(field)
        yield from putting_many(field)
        yield from getting_many(field)
        yield from joining(field)
        yield from awaiting(field)
        yield from incrementing(field)
        yield from deadlocking(field)
        yield from counting(field)
        yield from iterating(field)


class Field:
    """What the contests are held on, each part made on first use: `--only` sets up no more than it needs."""

    def __init__(self, url: str) -> None:
        self.url = peers.by_socket(url)
        self.relaxed_url = make_conninfo(self.url, options="-c synchronous_commit=off")
        self._stack = contextlib.ExitStack()
        self._redis_sockets: dict[str, str] = {}
        self.keys = [f"k{i}" for i in random.Random(1).sample(range(ENTRIES), 4000)]

    def __enter__(self) -> Field:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="pgstore-benchmark-")))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # ---------------------------------------------------------------------------------------------------------- ours

    @functools.cached_property
    def client(self) -> pgstore.Client:
        return self._stack.enter_context(pgstore.Client(self.url))

    @functools.cached_property
    def relaxed_client(self) -> pgstore.Client:
        return self._stack.enter_context(pgstore.Client(self.relaxed_url))

    @functools.cached_property
    def store(self) -> pgstore.Dict:
        return self._filled("benchmark-dict", ENTRIES)

    @functools.cached_property
    def relaxed(self) -> pgstore.Dict:
        """The same store, through connections that do not wait for the disk."""
        return pgstore.Dict.from_name(str(self.store.name), client=self.relaxed_client)

    @functools.cached_property
    def million(self) -> pgstore.Dict:
        return self._filled("benchmark-dict-million", MILLION)

    @functools.cached_property
    def expiring(self) -> pgstore.Dict:
        """Half of the entries have a time to live, and of one in fifty it has passed without anyone collecting it."""
        store = self._filled("benchmark-dict-expiring", EXPIRING)
        self.connection.execute(
            """
            UPDATE pgstore.dict_entry
               SET expires_at = statement_timestamp()
                              + CASE WHEN right(key, 2) IN ('13', '87') THEN '-1h' ELSE '1h' END::interval
             WHERE store_id = $1::bigint
               AND right(key, 1)::int % 2 = 1
            """,
            (number_of(store),),
        )
        self.connection.execute("VACUUM (ANALYZE) pgstore.dict_entry")
        return store

    def empty(self, name: str) -> pgstore.Dict:
        store = pgstore.Dict.from_name(name, create_if_missing=True, client=self.client)
        self._stack.callback(pgstore.Dict.objects.delete, name, allow_missing=True, client=self.client)
        store.clear()
        return store

    def _filled(self, name: str, entries: int) -> pgstore.Dict:
        store = self.empty(name)
        copy = "COPY pgstore.dict_entry (store_id, key, codec, value) FROM STDIN"
        row = f"{number_of(store)}\tk%d\tp\t\\\\x{DATA.hex()}\n"
        with self.connection.cursor() as cursor, cursor.copy(copy) as stream:
            for first in range(0, entries, 10_000):
                stream.write("".join([row % i for i in range(first, min(entries, first + 10_000))]))
        self.connection.execute("VACUUM (ANALYZE) pgstore.dict_entry")
        return store

    # -------------------------------------------------------------------------------------------- the driver and others

    @functools.cached_property
    def connection(self) -> psycopg.Connection[Any]:
        return self._connected(self.url)

    @functools.cached_property
    def relaxed_connection(self) -> psycopg.Connection[Any]:
        return self._connected(self.relaxed_url)

    def _connected(self, url: str) -> psycopg.Connection[Any]:
        connection = self._stack.enter_context(psycopg.connect(url, autocommit=True, cursor_factory=psycopg.RawCursor))
        connection.execute("SET plan_cache_mode = force_generic_plan")
        return connection

    @functools.cached_property
    def reading(self) -> Query:
        """What `get` of the key `PROBE` sends."""
        return query_of(lambda: self.store.get.op(PROBE))

    @functools.cached_property
    def value_column(self) -> int:
        """Where the pickle stands in the rows of `get`."""
        cursor = self.connection.execute(self.reading.statement.sql, self.reading.values)
        return [column.name for column in cursor.description or ()].index("value")

    def upsert(self, connection: psycopg.Connection[Any]) -> Callable[[str], object]:
        """The statement of `put`, with a value pickled before, on a cursor that is kept."""
        cursor = connection.cursor(binary=True)
        writing = query_of(lambda: self.store.put.op(PROBE, VALUE))
        sql = writing.statement.sql
        before, after = split(writing.values)
        return lambda key: cursor.execute(sql, (*before, key, *after), prepare=True)

    def pgbench(self, make_op: Callable[[], Any], *, relaxed: bool = False) -> Callable[[], Turn]:
        """A candidate: one client of pgbench with the statement of an operation on `PROBE`, for a key drawn each time."""

        @functools.cache
        def bench() -> Pgbench:
            query = query_of(make_op)
            sql = " ".join(query.statement.sql.decode().split())
            # From the last to the first, for $1 is also the beginning of $10.
            for number, value in reversed(list(enumerate(query.values, start=1))):
                sql = sql.replace(f"${number}", literal(value))
            script = f"\\set i random(0, {ENTRIES - 1})\n{sql};\n"
            return Pgbench(self.relaxed_url if relaxed else self.url, script, self.folder)

        return lambda: bench().run()

    @functools.cached_property
    def redis(self) -> Any:
        return self._redis("everysec")

    @functools.cached_property
    def redis_always(self) -> Any:
        return self._redis("always")

    def _redis(self, appendfsync: str) -> Any:
        import redis

        client = redis.Redis(unix_socket_path=self.redis_socket(appendfsync))
        self._stack.callback(client.close)
        client.mset({f"k{i}": DATA for i in range(ENTRIES)})
        return client

    def redis_socket(self, appendfsync: str) -> str:
        if appendfsync not in self._redis_sockets:
            self._redis_sockets[appendfsync] = self._stack.enter_context(peers.redis_server(appendfsync))
        return self._redis_sockets[appendfsync]

    @functools.cached_property
    def diskcache(self) -> Any:
        return self._diskcache()

    def _diskcache(self, **settings: Any) -> Any:
        import diskcache

        folder = tempfile.mkdtemp(prefix="diskcache-", dir=self.folder)
        cache = self._stack.enter_context(diskcache.Cache(folder, eviction_policy="none", **settings))
        with cache.transact():
            for i in range(ENTRIES):
                cache[f"k{i}"] = VALUE
        return cache

    @functools.cached_property
    def diskcache_durable(self) -> Any:
        return self._diskcache(sqlite_synchronous=2)

    @functools.cached_property
    def sqlitedict(self) -> Any:
        import sqlitedict

        table = sqlitedict.SqliteDict(str(self.folder / "sqlitedict.sqlite"), autocommit=False)
        self._stack.callback(table.close)
        for i in range(ENTRIES):
            table[f"k{i}"] = VALUE
        table.commit()
        return table

    def crew(self, size: int, make_work: Callable[..., Any], *arguments: Any) -> Crew:
        crew = Crew(size, make_work, *arguments)
        self._stack.callback(crew.close)
        return crew


def query_of(make_op: Callable[[], Any]) -> Query:
    """The first thing an operation asks for: of one that is a single statement, all of it. (Some of them collect first.)"""
    while True:
        query = next(make_op())
        if isinstance(query, Query):
            return query


def split(values: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The parameters before the key and those after it."""
    place = values.index(PROBE)
    return values[:place], values[place + 1 :]


def literal(value: Any) -> str:
    """A parameter as text for pgbench; of the key the expression that draws one."""
    match value:
        case None:
            return "NULL"
        case _ if value == PROBE:
            return "'k' || :i"
        case bytes():
            return f"'\\x{value.hex()}'"
        case bool() | int() | float():
            return str(value)
    return f"'{value}'"


def number_of(store: pgstore.Dict) -> int:
    return int(store.hydrate().object_id.removeprefix("di-"))


def each(keys: list[str], make: Callable[[], Callable[[str], object]]) -> Callable[[], float]:
    """A candidate that calls what *make* gives for every key."""

    def candidate() -> float:
        call = make()
        for key in keys:
            call(key)
        return len(keys)

    return candidate


def asleep(candidate: Callable[[], float]) -> Callable[[], float]:
    """*candidate*, no answer being awaited awake."""

    def run() -> float:
        with mock.patch.object(Eagerness, "catch", lambda *_: False):  # noqa: PT008 - a mock takes longer than a get
            return candidate()

    return run


def cpu_of(candidate: Callable[[], float]) -> Callable[[], Turn]:
    """*candidate*, its time being that of this process's CPU."""

    def run() -> Turn:
        began = time.process_time()
        amount = candidate()
        seconds = time.process_time() - began
        return Turn(amount, seconds, seconds)

    return run


def versus(
    name: str, ours: Any, reference: Any, goal: float | None, reference_name: str, why_not: str = "", **more: Any
) -> Offer:
    """A contest, unless there is a reason why not."""
    if why_not:
        return Skipped(f"{name} : {reference_name}", why_not)
    return Contest(name, ours, reference, goal, more.pop("unit", "op/s"), reference_name, **more)


NO_REDIS = peers.missing("redis", "hiredis", program="redis-server")
NO_DISKCACHE = peers.missing("diskcache")
NO_SQLITEDICT = peers.missing("sqlitedict")
NO_ASYNCPG = peers.missing("asyncpg")


def lacking(*names: str) -> str:
    absent = [name for name in names if not hasattr(pgstore.Dict, name)]
    return f"Dict has no {', '.join(absent)}" if absent else ""


# ------------------------------------------------------------------------------------------------------------ one key


def getting(field: Field) -> Iterator[Offer]:
    ours = each(field.keys * 4, lambda: field.store.get)
    brief = each(field.keys, lambda: field.store.get)
    bench = field.pgbench(lambda: field.store.get.op(PROBE))
    yield versus("get", ours, bench, 0.7, "pgbench -M prepared, 1 client")

    def by_redis(key: str) -> Any:
        return pickle.loads(field.redis.get(key))

    yield versus("get", brief, each(field.keys, lambda: by_redis), 1.0, "redis-py", NO_REDIS)
    yield versus("get", brief, each(field.keys, lambda: by_core(field)), 2.5, "SQLAlchemy Core, held connection")
    yield versus("get", brief, each(field.keys, lambda: by_cursor(field)), 1.0, "psycopg, kept cursor, prepared")
    yield versus(
        "get", brief, each(field.keys, lambda: field.diskcache.get), None, "diskcache, no server", NO_DISKCACHE
    )
    yield versus(
        "get", brief, each(field.keys, lambda: field.sqlitedict.get), None, "sqlitedict, no server", NO_SQLITEDICT
    )

    yield versus("get", brief, asleep(brief), None, "the same, asleep at once")

    # Of the two 12 µs and 8 µs are wanted; what a µs of CPU is worth changes with the machine's mood.
    floor = each(field.keys, lambda: by_libpq(field))
    yield versus("get, client CPU alone", cpu_of(brief), cpu_of(floor), 1.5, "psycopg.pq exec_prepared", unit="µs")


def by_core(field: Field) -> Callable[[str], Any]:
    store_id = number_of(field.store)
    select, connection = _core(field)
    return lambda key: pickle.loads(connection.execute(select, {"store_id": store_id, "key": key}).one()[1])


@functools.cache
def _core(field: Field) -> tuple[Any, Any]:
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(field.url))
    connection = field._stack.enter_context(engine.connect()).execution_options(isolation_level="AUTOCOMMIT")
    connection.execute(sqlalchemy.text("SET plan_cache_mode = force_generic_plan"))
    entry = sqlalchemy.table(
        "dict_entry", *map(sqlalchemy.column, ("store_id", "key", "codec", "value", "expires_at")), schema="pgstore"
    )
    alive = sqlalchemy.or_(entry.c.expires_at.is_(None), entry.c.expires_at > sqlalchemy.func.statement_timestamp())
    select = sqlalchemy.select(entry.c.codec, entry.c.value).where(
        entry.c.store_id == sqlalchemy.bindparam("store_id"), entry.c.key == sqlalchemy.bindparam("key"), alive
    )
    return select, connection


def by_cursor(field: Field) -> Callable[[str], Any]:
    cursor = field.connection.cursor(binary=True)
    sql, column = field.reading.statement.sql, field.value_column
    before, after = split(field.reading.values)

    def get(key: str) -> Any:
        row = cursor.execute(sql, (*before, key, *after), prepare=True).fetchone()
        return pickle.loads(row[column])  # type: ignore[index]

    return get


def by_libpq(field: Field) -> Callable[[str], Any]:
    """The floor: parameters packed before except for the key, one column read, errors ignored."""
    pgconn = field.connection.pgconn
    statement, column = field.reading.statement, field.value_column
    packed: list[Any] = statement.pack(field.reading.values)
    place = field.reading.values.index(PROBE)
    pgconn.prepare(b"by_libpq", statement.sql, statement.oids)

    def get(key: str) -> Any:
        packed[place] = key.encode()
        result = pgconn.exec_prepared(b"by_libpq", packed, statement.formats, 1)
        return pickle.loads(result.get_value(0, column))  # type: ignore[arg-type]

    return get


def containing(field: Field) -> Iterator[Offer]:
    ours = each(field.keys, lambda: field.store.contains)
    yield versus("contains", ours, each(field.keys, lambda: field.redis.exists), 1.0, "redis-py EXISTS", NO_REDIS)


def putting(field: Field) -> Iterator[Offer]:
    few, many = field.keys[:200], field.keys[:3000]

    def put(store: pgstore.Dict) -> Callable[[str], object]:
        return lambda key: store.put(key, VALUE)

    def dumped(set_item: Callable[[str, bytes], object]) -> Callable[[str], object]:
        return lambda key: set_item(key, pickle.dumps(VALUE, 5))

    def placed(cache: Any) -> Callable[[str], object]:
        return lambda key: cache.set(key, VALUE)

    durable_bench = field.pgbench(lambda: field.store.put.op(PROBE, VALUE))
    relaxed_bench = field.pgbench(lambda: field.store.put.op(PROBE, VALUE), relaxed=True)

    durable = each(few, lambda: put(field.store))
    yield versus(
        "put, durable",
        durable,
        each(few, lambda: field.upsert(field.connection)),
        0.85,
        "bare upsert, psycopg, prepared",
    )
    always = each(few, lambda: dumped(field.redis_always.set))
    yield versus("put, durable", durable, always, 0.9, "redis-py, appendfsync always", NO_REDIS)
    yield versus("put, durable", durable, durable_bench, 0.7, "pgbench -M prepared, 1 client")
    full = each(few, lambda: placed(field.diskcache_durable))
    yield versus("put, durable", durable, full, 0.6, "diskcache, synchronous=FULL, no server", NO_DISKCACHE)

    relaxed = each(many, lambda: put(field.relaxed))
    everysec = each(many, lambda: dumped(field.redis.set))
    yield versus("put, relaxed", relaxed, everysec, 0.8, "redis-py, appendfsync everysec", NO_REDIS)
    yield versus("put, relaxed", relaxed, relaxed_bench, 0.7, "pgbench -M prepared, 1 client")

    def put_and_commit() -> float:
        for key in few:
            field.sqlitedict[key] = VALUE
            field.sqlitedict.commit()
        return len(few)

    yield versus("put, relaxed", relaxed, put_and_commit, None, "sqlitedict + commit, no server", NO_SQLITEDICT)


# ---------------------------------------------------------------------------------------------------------- many keys


def putting_many(field: Field) -> Iterator[Offer]:
    rng = random.Random(2)
    batches = 5

    def batch() -> dict[str, Any]:
        return {f"k{i}": VALUE for i in rng.sample(range(ENTRIES), BATCH)}

    def ours() -> float:
        for _ in range(batches):
            field.relaxed.update(batch())
        return batches * BATCH

    def executes() -> float:
        upsert = field.upsert(field.relaxed_connection)
        with field.relaxed_connection.transaction():
            for key in batch():
                upsert(key)
        return BATCH

    def transact() -> float:
        for _ in range(batches):
            with field.diskcache.transact():
                for key, value in batch().items():
                    field.diskcache[key] = value
        return batches * BATCH

    def mset() -> float:
        for _ in range(batches):
            field.redis.mset({key: pickle.dumps(value, 5) for key, value in batch().items()})
        return batches * BATCH

    name = f"update({BATCH}), relaxed"
    yield versus(name, ours, executes, 7.0, "as many executes in a transaction", unit="key/s")
    yield versus(name, ours, transact, 1.0, "diskcache transact, no server", NO_DISKCACHE, unit="key/s")
    yield versus(name, ours, mset, 0.2, "redis-py MSET", NO_REDIS, unit="key/s")


def getting_many(field: Field) -> Iterator[Offer]:
    rng = random.Random(3)
    batches = 5

    def batch() -> list[str]:
        return [f"k{i}" for i in rng.sample(range(ENTRIES), BATCH)]

    def ours() -> float:
        for _ in range(batches):
            assert len(field.store.get_many(batch())) == BATCH  # type: ignore[attr-defined, unused-ignore]
        return batches * BATCH

    def mget() -> float:
        for _ in range(batches):
            keys = batch()
            {key: pickle.loads(data) for key, data in zip(keys, field.redis.mget(keys), strict=True)}
        return batches * BATCH

    def single() -> float:
        {key: field.store.get(key) for key in batch()}
        return BATCH

    name = f"get_many({BATCH})"
    absent = lacking("get_many")
    yield versus(name, ours, mget, 0.25, "redis-py MGET", absent or NO_REDIS, unit="key/s")
    yield versus(name, ours, single, 5.0, "as many single gets", absent, unit="key/s")


# ----------------------------------------------------------------------------------------------- transactions and tasks


def joining(field: Field) -> Iterator[Offer]:
    keys = field.keys[:1500]
    field.store.hydrate()  # before the transactions that are timed

    @functools.cache
    def connection() -> psycopg.Connection[Any]:
        """A program's own: default cursors, default threshold of preparing."""
        return field._stack.enter_context(psycopg.connect(field.url, cursor_factory=psycopg.RawCursor))

    @functools.cache
    def session() -> Any:
        engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(field.url))
        return field._stack.enter_context(sqlalchemy.orm.Session(engine))

    def joined(subject: Callable[[], Any]) -> float:
        with field.client.transaction(subject()):
            for key in keys:
                field.store.get(key)
        subject().commit()
        return len(keys)

    def bare() -> float:
        sql, column = field.reading.statement.sql, field.value_column
        before, after = split(field.reading.values)
        execute = connection().execute
        for key in keys:
            pickle.loads(execute(sql, (*before, key, *after)).fetchone()[column])  # type: ignore[index]
        connection().commit()
        return len(keys)

    yield versus("get, joined to a Connection", lambda: joined(connection), bare, 1.4, "bare conn.execute", unit="µs")
    yield versus("get, joined to a Session", lambda: joined(session), bare, 1.4, "bare conn.execute", unit="µs")


def awaiting(field: Field) -> Iterator[Offer]:
    keys = field.keys[:2000]

    @functools.cache
    def runner() -> asyncio.Runner:
        runner = field._stack.enter_context(asyncio.Runner())
        field._stack.callback(lambda: runner.run(field.client.aclose()))
        return runner

    async def ours() -> float:
        get = field.store.get.aio
        for key in keys:
            await get(key)
        return len(keys)

    @functools.cache
    def prepared() -> Any:
        async def connect() -> Any:
            import asyncpg

            given: dict[str, Any] = dict(conninfo_to_dict(field.url))
            connection = await asyncpg.connect(
                host=given["host"],
                port=given["port"],
                user=given["user"],
                password=given.get("password"),
                database=given["dbname"],
            )
            await connection.execute("SET plan_cache_mode = force_generic_plan")
            return await connection.prepare(field.reading.statement.sql.decode())

        return runner().run(connect())

    async def reference() -> float:
        fetchval, column = prepared().fetchval, field.value_column
        before, after = split(field.reading.values)
        for key in keys:
            pickle.loads(await fetchval(*before, key, *after, column=column))
        return len(keys)

    def blocking(candidate: Callable[[], Any]) -> Callable[[], float]:
        def run() -> float:
            number_of(field.store)
            if candidate is reference:
                prepared()
            return runner().run(candidate())

        return run

    yield versus("get.aio", blocking(ours), blocking(reference), 0.4, "asyncpg, prepared fetchval", NO_ASYNCPG)


# ---------------------------------------------------------------------------------------------- several at the same time


def increment(url: str, name: str) -> Callable[[], object]:
    store: Any = pgstore.Dict.from_name(name, client=pgstore.Client(url))
    store.hydrate()
    return lambda: store.increment("counter")


def increment_redis(socket: str) -> Callable[[], object]:
    import redis

    client = redis.Redis(unix_socket_path=socket)
    return lambda: client.incr("counter")


def incrementing(field: Field) -> Iterator[Offer]:
    name = f"increment by {INCREMENTERS} processes, relaxed"
    if absent := lacking("increment"):
        yield Skipped(name, absent)
        return
    done: list[Turn] = []
    shares: list[float] = []

    @functools.cache
    def crew() -> Crew:
        field.empty("benchmark-dict-counter")
        return field.crew(INCREMENTERS, increment, field.relaxed_url, "benchmark-dict-counter")

    @functools.cache
    def redis_crew() -> Crew:
        return field.crew(INCREMENTERS, increment_redis, field.redis_socket("everysec"))

    def ours() -> Turn:
        turns = crew().work(0.5)
        shares.append(max(turn.amount for turn in turns) / max(1, min(turn.amount for turn in turns)))
        done.append(together(turns))
        return done[-1]

    def lost() -> float:
        if not done:
            ours()
        return sum(turn.amount for turn in done) - pgstore.Dict.from_name(
            "benchmark-dict-counter", client=field.client
        ).get("counter", 0)

    def share() -> float:
        if not shares:
            ours()
        return shares.pop()

    yield versus(name, ours, lambda: together(redis_crew().work(0.5)), 0.5, "redis-py INCR, everysec", NO_REDIS)
    yield Limit(f"{name}: lost", lost, 0, rounds_max=1)
    yield Limit(f"{name}: fastest worker to slowest", share, 2.5)


def update(url: str, name: str) -> Callable[[], object]:
    store = pgstore.Dict.from_name(name, client=pgstore.Client(url))
    store.hydrate()
    rng = random.Random()
    return lambda: store.update({f"k{i}": VALUE for i in rng.sample(range(2 * BATCH), BATCH)})


def deadlocking(field: Field) -> Iterator[Offer]:
    def deadlocks() -> float:
        count = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        (before,) = field.connection.execute(count).fetchone() or (0,)
        field.empty("benchmark-dict-updated")
        crew = field.crew(UPDATERS, update, field.relaxed_url, "benchmark-dict-updated")
        done = together(crew.work(3.0))
        assert done.amount > UPDATERS
        time.sleep(1.5)  # the statistics of a backend are reported once a second at most
        return field.connection.execute(count).fetchone()[0] - before  # type: ignore[index]

    yield Limit(f"update({BATCH}) by {UPDATERS} processes of {2 * BATCH} keys: deadlocks", deadlocks, 0, rounds_max=1)


# ----------------------------------------------------------------------------------------------------------- all keys


def counting(field: Field) -> Iterator[Offer]:
    def ours(store: Callable[[], pgstore.Dict]) -> Callable[[], float]:
        return lambda: float(len([store().len() for _ in range(2)]))

    def reference(store: Callable[[], pgstore.Dict]) -> Callable[[], float]:
        def count() -> float:
            store_id = number_of(store())
            for _ in range(2):
                field.connection.execute(
                    "SELECT count(*) FROM pgstore.dict_entry WHERE store_id = $1", (store_id,), prepare=True
                ).fetchone()
            return 2

        return count

    for name, store in (
        (f"len of {MILLION:,}", lambda: field.million),
        (f"len of {EXPIRING:,} with TTL", lambda: field.expiring),
    ):
        yield versus(name, ours(store), reference(store), 1.1, "count(*)", unit="ms")


def iterating(field: Field) -> Iterator[Offer]:
    name = f"iterate_items of {MILLION:,}"

    def ours() -> float:
        count = 0
        for _ in field.million.iterate_items():
            count += 1
        assert count == MILLION
        return count

    def fetchall() -> float:
        cursor = field.connection.cursor(binary=True)
        cursor.execute("SELECT key, value FROM pgstore.dict_entry WHERE store_id = $1", (number_of(field.million),))
        for _, data in cursor.fetchall():
            pickle.loads(data)
        return MILLION

    def first_item() -> float:
        began = time.perf_counter()
        next(iter(field.million.iterate_items()))
        return (time.perf_counter() - began) * 1e3

    def growth() -> float:
        return peers.in_process(iterate_measured, field.url, field.million.name)

    yield versus(name, ours, fetchall, 0.7, "fetchall + loads", unit="item/s", rounds_max=5)
    yield Limit(f"{name}: first item", first_item, 50, "ms")
    yield Limit(f"{name}: peak memory", growth, 16, "MB", rounds_max=3)


def iterate_measured(url: str, name: str) -> float:
    with pgstore.Client(url) as client:
        store = pgstore.Dict.from_name(name, client=client)
        store.get("k1")

        def work() -> None:
            for _ in store.iterate_items():
                pass

        return peers.peak_growth_megabytes(work)
