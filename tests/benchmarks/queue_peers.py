"""Queues side by side: each system as a worker with the same four calls, which can be made in any process.

A worker holds its own connection and one item, and `put`, `put_many`, `get` and `get_many` return how many items they moved.
Systems other than ours live in a database of their own on the same server, so that one that is only lent (`--url`) stays as it is.
pgmq is its SQL alone: a file named by PGSTORE_BENCH_PGMQ, else `share/pgmq.sql` of the Python environment.
"""

from __future__ import annotations

import abc
import asyncio
import base64
import contextlib
import json
import multiprocessing.util
import os
import pickle
import random
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import psycopg
from psycopg.conninfo import conninfo_to_dict

import pgstore
from pgstore.queue.take import TAKE
from pgstore.queue.watermark import WATERMARK
from tests.benchmarks import peers
from tests.benchmarks.peers import Work

QUEUE = "benchmark_queue"
SEVERAL = 100  # items of one `get_many`


def item_of(size: int) -> dict[str, Any]:
    """An item whose pickle has *size* bytes and which does not compress; JSON takes it too."""
    item: dict[str, Any] = {"user": 12345, "tags": ["a", "b"], "text": ""}
    missing = size - len(pickle.dumps(item, 5))
    for text_size in range(missing - 8, missing + 1):
        item["text"] = base64.b64encode(random.Random(1).randbytes(text_size))[:text_size].decode()
        if len(pickle.dumps(item, 5)) >= size:
            break
    return item


def pgmq_sql() -> Path:
    return Path(os.environ.get("PGSTORE_BENCH_PGMQ") or Path(sys.prefix, "share", "pgmq.sql"))


class Worker(abc.ABC):
    """One client of one system."""

    why_not: ClassVar[str] = ""  # it cannot run here

    def __init__(self, address: str, size: int) -> None:
        self.address = address
        self.item = item_of(size)
        self.payload = pickle.dumps(self.item, 5)
        self.text = json.dumps(self.item)

    @staticmethod  # noqa: B027 - not all need it
    def install(address: str) -> None:
        """Make the queue."""

    @staticmethod
    @abc.abstractmethod
    def fill(address: str, items: int, size: int) -> None:
        """Let the queue hold so many items, and nothing else in its way."""

    @abc.abstractmethod
    def put(self) -> int:
        """Put the item. This and the others return how many were moved."""

    @abc.abstractmethod
    def put_many(self, items: int) -> int:
        """Put it so many times at once."""

    @abc.abstractmethod
    def get(self) -> int:
        """Take an item."""

    def get_many(self) -> int:
        """Take `SEVERAL` at once."""
        raise NotImplementedError(f"{type(self).__name__} takes one at a time")

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of the connection."""


def some(count: int, wanted: int = 1) -> int:
    """*count*, if the queue did not run dry: a measurement of empty gets would say nothing."""
    if count != wanted:
        raise RuntimeError(f"{count} items instead of {wanted}: the queue was not filled far enough")
    return count


@contextlib.contextmanager
def connected(address: str, **more: Any) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(address, autocommit=True, cursor_factory=psycopg.RawCursor, **more) as connection:
        yield connection


# --------------------------------------------------------------------------------------------------------------- ours


class Ours(Worker):
    name = QUEUE

    def __init__(self, address: str, size: int) -> None:
        super().__init__(address, size)
        self.client = pgstore.Client(address)
        self.queue = pgstore.Queue.from_name(self.name, create_if_missing=True, client=self.client).hydrate()
        self.batches: dict[int, list[Any]] = {}

    @classmethod
    def fill(cls, address: str, items: int, size: int) -> None:
        fill_ours(address, cls.name, items, pickle.dumps(item_of(size), 5))

    def put(self) -> int:
        self.queue.put(self.item)
        return 1

    def put_in_transaction(self) -> int:
        with self.client.transaction():
            self.queue.put(self.item)
        return 1

    def put_many(self, items: int) -> int:
        self.queue.put_many([self.item] * items)
        return items

    def get(self) -> int:
        return some(self.queue.get(block=False) is not None)

    def get_many(self) -> int:
        return some(len(self.queue.get_many(SEVERAL, block=False)), SEVERAL)

    def lease(self) -> int:
        lease = self.queue.get(block=False, lease=60)
        assert lease is not None
        lease.ack()
        return 1

    def close(self) -> None:
        self.client.close()


class OursRelaxed(Ours):
    """The same calls with `durable=False`."""

    def put(self) -> int:
        self.queue.put(self.item, durable=False)
        return 1

    def get(self) -> int:
        return some(self.queue.get(block=False, durable=False) is not None)


def fill_ours(address: str, name: str, items: int, payload: bytes, partition: str = "") -> None:
    """Let a Queue hold *items*, of which none was taken before."""
    with connected(address) as connection:
        ((store_id,),) = connection.execute("SELECT id FROM pgstore.store WHERE kind = 'queue' AND name = $1", [name])
        connection.execute("DELETE FROM pgstore.queue_item WHERE store_id = $1", [store_id])
        if items:
            connection.execute(
                """
                INSERT INTO pgstore.queue_item (store_id, partition, payload)
                SELECT $1, $2, $3
                  FROM generate_series(1, $4)
                """,
                [store_id, partition, payload, items],
            )
        connection.execute("VACUUM (ANALYZE) pgstore.queue_item")


class Bare(Worker):
    """The statements alone, on our table: prepared, from a kept cursor, of an item that was pickled before."""

    name = f"{QUEUE}_bare"
    sql_put = "INSERT INTO pgstore.queue_item (store_id, partition, payload) VALUES ($1, $2, $3)"
    autocommit: ClassVar[bool] = True

    def __init__(self, address: str, size: int) -> None:
        super().__init__(address, size)
        self.connection = psycopg.connect(address, autocommit=True, cursor_factory=psycopg.RawCursor)
        self.connection.execute("SET plan_cache_mode = force_generic_plan")
        self.connection.execute("SET enable_seqscan = off")
        self.cursor = self.connection.cursor(binary=True)
        ((self.store_id,),) = self.connection.execute(
            "SELECT id FROM pgstore.store WHERE kind = 'queue' AND name = $1", [self.name]
        )
        self.sql_get = TAKE.sql.decode().replace(WATERMARK.format(watermark="$4"), "$4")
        self.lines: dict[int, bytes] = {}
        self.connection.autocommit = self.autocommit

    @classmethod
    def install(cls, address: str) -> None:
        with pgstore.Client(address) as client:
            pgstore.Queue.objects.create(cls.name, allow_existing=True, client=client)

    @classmethod
    def fill(cls, address: str, items: int, size: int) -> None:
        fill_ours(address, cls.name, items, pickle.dumps(item_of(size), 5))

    def put(self) -> int:
        self.cursor.execute(self.sql_put, (self.store_id, "", self.payload), prepare=True)
        return 1

    def put_in_transaction(self) -> int:
        with self.connection.transaction():
            self.cursor.execute(self.sql_put, (self.store_id, "", self.payload), prepare=True)
        return 1

    def put_many(self, items: int) -> int:
        """By COPY, of text that was made before."""
        if items not in self.lines:
            self.lines[items] = f"{self.store_id}\t\t\\\\x{self.payload.hex()}\n".encode() * items
        with self.cursor.copy("COPY pgstore.queue_item (store_id, partition, payload) FROM STDIN") as copy:
            copy.write(self.lines[items])
        return items

    def get(self) -> int:
        return some(len(self._take(1)))

    def get_many(self) -> int:
        return some(len(self._take(SEVERAL)), SEVERAL)

    def _take(self, items: int) -> list[Any]:
        return self.cursor.execute(self.sql_get, (self.store_id, "", items, 0), prepare=True).fetchall()

    def close(self) -> None:
        self.connection.close()


class Loud(Bare):
    """A notification with every put."""

    name = f"{QUEUE}_loud"
    sql_put = f"WITH put AS ({Bare.sql_put} RETURNING 1) SELECT pg_notify('benchmark', '1') FROM put"


# --------------------------------------------------------------------------------------------------------------- pgmq


class Pgmq(Worker):
    why_not = "" if pgmq_sql().is_file() else f"no {pgmq_sql()}; PGSTORE_BENCH_PGMQ may name another"
    table = f"pgmq.q_{QUEUE}"

    def __init__(self, address: str, size: int) -> None:
        super().__init__(address, size)
        self.connection = psycopg.connect(address, autocommit=True, prepare_threshold=0)

    @staticmethod
    def install(address: str) -> None:
        with psycopg.connect(address, autocommit=True) as connection:
            if connection.execute("SELECT to_regclass('pgmq.meta')").fetchone() == (None,):
                connection.execute(pgmq_sql().read_bytes())
            connection.execute("SELECT pgmq.create(%s)", (QUEUE,))

    @classmethod
    def fill(cls, address: str, items: int, size: int) -> None:
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(f"TRUNCATE {cls.table}")
            if items:
                text = json.dumps(item_of(size))
                connection.execute(
                    "SELECT count(*) FROM pgmq.send_batch(%s, array_fill(%s::jsonb, ARRAY[%s]))", (QUEUE, text, items)
                )
            connection.execute(f"VACUUM (ANALYZE) {cls.table}")

    def put(self) -> int:
        self.connection.execute("SELECT pgmq.send(%s, %s::jsonb)", (QUEUE, json.dumps(self.item)))
        return 1

    def put_many(self, items: int) -> int:
        texts = [json.dumps(self.item) for _ in range(items)]
        self.connection.execute("SELECT count(*) FROM pgmq.send_batch(%s, %s::jsonb[])", (QUEUE, texts))
        return items

    def get(self) -> int:
        return some(len(self.connection.execute("SELECT * FROM pgmq.pop(%s)", (QUEUE,)).fetchall()))

    def get_many(self) -> int:
        rows = self.connection.execute("SELECT msg_id, message FROM pgmq.read(%s, 30, %s)", (QUEUE, SEVERAL)).fetchall()
        self._delete([row[0] for row in rows])
        return some(len(rows), SEVERAL)

    def lease(self) -> int:
        """Read one for a time, then delete it."""
        rows = self.connection.execute("SELECT msg_id, message FROM pgmq.read(%s, 30, 1)", (QUEUE,)).fetchall()
        self._delete([row[0] for row in rows])
        return some(len(rows))

    def _delete(self, ids: list[int]) -> None:
        self.connection.execute("SELECT count(*) FROM pgmq.delete(%s, %s::bigint[])", (QUEUE, ids))

    def close(self) -> None:
        self.connection.close()


# ----------------------------------------------------------------------------------------------- asynchronous libraries


class Looping(Worker):
    """A worker of a library that has coroutines only."""

    def __init__(self, address: str, size: int) -> None:
        super().__init__(address, size)
        self.loop = asyncio.new_event_loop()
        self.run = self.loop.run_until_complete


class Pgqueuer(Looping):
    why_not = peers.missing("pgqueuer", "asyncpg")

    def __init__(self, address: str, size: int) -> None:
        import asyncpg
        from pgqueuer import qm  # noqa: F401 - its modules import each other in a circle; this one has to come first
        from pgqueuer.adapters.persistence.queries import EntrypointExecutionParameter
        from pgqueuer.db import AsyncpgDriver
        from pgqueuer.queries import Queries

        super().__init__(address, size)
        given: dict[str, Any] = dict(conninfo_to_dict(address))
        given["database"] = given.pop("dbname")
        self.connection = self.run(asyncpg.connect(**given))
        self.queries = Queries(AsyncpgDriver(self.connection))
        self.entrypoints = {"e": EntrypointExecutionParameter(0)}
        self.manager = uuid4()

    @classmethod
    def install(cls, address: str) -> None:
        worker = cls(address, 100)
        worker.run(worker.queries.install())
        worker.close()

    @classmethod
    def fill(cls, address: str, items: int, size: int) -> None:
        worker = cls(address, size)
        worker.run(worker.connection.execute("TRUNCATE pgqueuer, pgqueuer_log"))
        for first in range(0, items, 10_000):
            count = min(10_000, items - first)
            worker.run(worker.queries.enqueue(["e"] * count, [worker.payload] * count, [0] * count))
        worker.run(worker.connection.execute("VACUUM (ANALYZE) pgqueuer"))
        worker.close()

    def put(self) -> int:
        self.run(self.queries.enqueue("e", pickle.dumps(self.item, 5)))
        return 1

    def put_many(self, items: int) -> int:
        payloads = [pickle.dumps(self.item, 5) for _ in range(items)]
        self.run(self.queries.enqueue(["e"] * items, payloads, [0] * items))
        return items

    def get(self) -> int:
        return self._get(1)

    def get_many(self) -> int:
        return self._get(SEVERAL)

    def _get(self, items: int) -> int:
        return some(self.run(self._take(items)), items)

    async def _take(self, items: int) -> int:
        jobs = await self.queries.dequeue(items, self.entrypoints, self.manager, None, timedelta(seconds=30))
        await self.queries.log_jobs([(job, "successful", None) for job in jobs])
        return len(jobs)

    def close(self) -> None:
        self.run(self.connection.close())
        self.loop.close()


class Procrastinate(Looping):
    why_not = peers.missing("procrastinate")

    def __init__(self, address: str, size: int) -> None:
        import procrastinate

        super().__init__(address, size)
        self.app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=address, min_size=1, max_size=1))
        self.run(self.app.open_async())
        self.task = self.app.task(queue=QUEUE, name="e")(_task)
        self.number = self.run(self.app.job_manager.register_worker())

    @staticmethod
    def install(address: str) -> None:
        import procrastinate

        app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=address))
        with app.open():
            app.schema_manager.apply_schema()

    @classmethod
    def fill(cls, address: str, items: int, size: int) -> None:
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute("SET client_min_messages = warning")
            connection.execute("TRUNCATE procrastinate_jobs, procrastinate_events CASCADE")
            if items:
                worker = cls(address, size)
                for first in range(0, items, 1000):
                    worker.put_many(min(1000, items - first))
                worker.close()
            connection.execute("VACUUM (ANALYZE) procrastinate_jobs")

    def put(self) -> int:
        self.run(self.task.defer_async(v=self.item))
        return 1

    def put_many(self, items: int) -> int:
        self.run(self.task.batch_defer_async(*[{"v": self.item}] * items))
        return items

    def get(self) -> int:
        return some(self.run(self._take()))

    async def _take(self) -> int:
        from procrastinate.jobs import Status

        job = await self.app.job_manager.fetch_job(None, self.number)
        if job is None:
            return 0
        await self.app.job_manager.finish_job(job, Status.SUCCEEDED, delete_job=True)
        return 1

    def close(self) -> None:
        self.run(self.app.close_async())
        self.loop.close()


def _task(v: Any) -> None:
    """What nobody runs."""


# -------------------------------------------------------------------------------------------------------------- Redis


class Redis(Worker):
    """A list; *address* is the socket of a server, whose settings say when it waits for the disk."""

    why_not = peers.missing("redis", "hiredis", program="redis-server")

    def __init__(self, address: str, size: int) -> None:
        import redis

        super().__init__(address, size)
        self.redis: Any = redis.Redis(unix_socket_path=address)

    @classmethod
    def fill(cls, address: str, items: int, size: int) -> None:
        worker = cls(address, size)
        worker.redis.delete(QUEUE)
        for first in range(0, items, 1000):
            worker.redis.rpush(QUEUE, *[worker.payload] * min(1000, items - first))
        worker.close()

    def put(self) -> int:
        self.redis.rpush(QUEUE, pickle.dumps(self.item, 5))
        return 1

    def put_many(self, items: int) -> int:
        self.redis.rpush(QUEUE, *[pickle.dumps(self.item, 5) for _ in range(items)])
        return items

    def get(self) -> int:
        found = self.redis.blpop(QUEUE, 1)
        return some(found is not None and pickle.loads(found[1]) is not None)

    def get_many(self) -> int:
        return some(len([pickle.loads(data) for data in self.redis.lpop(QUEUE, SEVERAL) or ()]), SEVERAL)

    def close(self) -> None:
        self.redis.close()


SYSTEMS: dict[str, Any] = {  # the class of each
    "ours": Ours,
    "ours, relaxed": OursRelaxed,
    "bare statement": Bare,
    "NOTIFY with each": Loud,
    "pgmq": Pgmq,
    "pgqueuer": Pgqueuer,
    "procrastinate": Procrastinate,
    "redis-py, appendfsync always": Redis,
    "redis-py, appendfsync everysec": Redis,
}


def labour(system: str, address: str, size: int, call: str) -> Work:
    """What a member of a crew repeats."""
    worker = SYSTEMS[system](address, size)
    multiprocessing.util.Finalize(None, worker.close, exitpriority=1)  # a child of multiprocessing runs no atexit
    work: Work = getattr(worker, call)
    return work
