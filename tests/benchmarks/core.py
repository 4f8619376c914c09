"""The foundation: what a call costs beside the driver itself, and what commits cost beside silent ones."""

from __future__ import annotations

import multiprocessing
import pickle
import random
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import psycopg
import sqlalchemy

import pgstore
from pgstore.dict import entries
from tests.benchmarks.harness import Contest

KEYS = 20_000
VALUE = {"id": 1, "name": "x" * 20, "tags": ["a", "b"], "score": None}
CLIENTS = 8


def contests(url: str) -> Iterator[Contest]:
    with pgstore.Client(url) as client:
        yield from reading(client, url)
        yield from committing(client, url)


# ----------------------------------------------------------------------------------------------------------- reading


def reading(client: pgstore.Client, url: str) -> Iterator[Contest]:
    store = pgstore.Dict.persist("benchmark-core", client=client)
    store.update({f"k{i}": VALUE for i in range(KEYS)})
    store_id = int(store.hydrate().object_id.removeprefix("di-"))
    keys = [f"k{i}" for i in random.Random(1).sample(range(KEYS), 4000)]

    def ours() -> float:
        get = store.get
        for key in keys:
            get(key)
        return len(keys)

    connection = psycopg.connect(url, autocommit=True)
    connection.execute("SET plan_cache_mode = force_generic_plan")
    connection.execute("ANALYZE pgstore.dict_entry")
    cursor = connection.cursor(binary=True)
    statement = entries.GET.sql.decode().replace("$1", "%(store_id)s").replace("$2", "%(key)s")

    def by_cursor() -> float:
        for key in keys:
            cursor.execute(statement, {"store_id": store_id, "key": key}, prepare=True)
            pickle.loads(cursor.fetchone()[1])  # type: ignore[index]
        return len(keys)

    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url))
    held = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    entry = sqlalchemy.table(
        "dict_entry", *map(sqlalchemy.column, ("store_id", "key", "codec", "value", "expires_at")), schema="pgstore"
    )
    alive = sqlalchemy.or_(entry.c.expires_at.is_(None), entry.c.expires_at > sqlalchemy.func.statement_timestamp())
    select = sqlalchemy.select(entry.c.codec, entry.c.value).where(
        entry.c.store_id == sqlalchemy.bindparam("store_id"), entry.c.key == sqlalchemy.bindparam("key"), alive
    )

    def by_core() -> float:
        for key in keys:
            pickle.loads(held.execute(select, {"store_id": store_id, "key": key}).one()[1])
        return len(keys)

    yield Contest("Dict.get", ours, by_cursor, 1.0, "op/s", "reused binary cursor, prepared, + loads")
    yield Contest("Dict.get", ours, by_core, 2.5, "op/s", "SQLAlchemy Core, held connection, + loads")
    connection.close()
    held.close()
    store.clear()


# -------------------------------------------------------------------------------------------------------- committing


def committing(client: pgstore.Client, url: str) -> Iterator[Contest]:
    pgstore.Queue.objects.create("benchmark-core", allow_existing=True, client=client)
    context = multiprocessing.get_context("spawn")
    crews = [[_start(context, url, notify) for _ in range(CLIENTS)] for notify in (True, False)]

    def candidate(crew: list[tuple[Any, Connection]]) -> float:
        for _, pipe in crew:
            pipe.send(100)
        return sum(pipe.recv() for _, pipe in crew)

    yield Contest(
        f"{CLIENTS} clients, transaction of Queue.put + commit",
        lambda: candidate(crews[0]),
        lambda: candidate(crews[1]),
        0.75,
        "op/s",
        "the same without any notify",
    )
    for process, pipe in crews[0] + crews[1]:
        pipe.send(0)
        process.join()


def _start(context: Any, url: str, notify: bool) -> tuple[Any, Connection]:
    here, there = context.Pipe()
    process = context.Process(target=_commit_on_demand, args=(url, notify, there), daemon=True)
    process.start()
    return process, here


def _commit_on_demand(url: str, notify: bool, pipe: Connection) -> None:
    from pgstore.client.announcements import Announcements

    if not notify:
        Announcements.with_commit = lambda self: []  # type: ignore[method-assign]
    with pgstore.Client(url) as client:
        queue = pgstore.Queue.from_name("benchmark-core", client=client)
        while amount := pipe.recv():
            for _ in range(amount):
                with client.transaction():
                    queue.put("item")
            pipe.send(amount)
