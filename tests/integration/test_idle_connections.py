"""Connections that nobody uses are closed, and nobody notices but the server."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import pytest
from psycopg.conninfo import make_conninfo

import pgstore
from pgstore.connection import pool


@pytest.fixture(autouse=True)
def _short_times(monkeypatch):
    monkeypatch.setattr(pool, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(pool, "LOOK_SECONDS", 0.05)


@pytest.fixture
def store(client, store_name):
    return pgstore.Dict.persist(store_name, client=client)


def backends(sql):
    return {pid for (pid,) in sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'pgstore'")}


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_idle_connection_is_closed_and_opened_again_when_it_is_needed(store, sql):
    before = backends(sql)
    store["k"] = 1
    mine = backends(sql) - before
    assert len(mine) == 1

    wait_until(lambda: not mine & backends(sql))

    assert store["k"] == 1


def test_a_connection_in_use_is_not_closed(client, store, sql):
    before = backends(sql)
    with client.transaction():
        store["k"] = 1
        mine = backends(sql) - before
        time.sleep(0.5)
        assert mine & backends(sql)
        assert store["k"] == 1


def test_transactions_that_find_their_stores_open_no_connection_each(database, store_name, monkeypatch, sql):
    """
    A store is found beside the transaction under way, on a connection more, which the next transaction takes.
    """
    monkeypatch.setattr(pool, "IDLE_SECONDS", 60.0)
    monkeypatch.setattr(pool, "LOOK_SECONDS", 60.0)
    named = make_conninfo(database, application_name=store_name)
    names = [store_name, f"{store_name}-2"]
    seen = set()
    with pgstore.Client(named) as client:
        for name in names:
            pgstore.Dict.persist(name, client=client).hydrate()
        for number in range(5):
            with client.transaction():
                for name in names:
                    pgstore.Dict.from_name(name, client=client).put("number", number)
            seen |= {pid for (pid,) in sql(f"SELECT pid FROM pg_stat_activity WHERE application_name = '{store_name}'")}

    assert len(seen) <= 2


def test_the_connection_of_a_thread_that_has_ended_is_closed(store, sql):
    store.hydrate()
    before = backends(sql)
    opened: set[int] = set()

    def work():
        store.put("k", 1)
        opened.update(backends(sql) - before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    wait_until(lambda: not opened & backends(sql))


@pytest.mark.parametrize("blocking", [True, False])
def test_a_client_that_merely_waits_has_one_connection(database, store_name, monkeypatch, sql, blocking):
    """
    It is told, and looks, on the one on which it listens.
    """
    monkeypatch.setattr(pool, "IDLE_SECONDS", 300.0)
    monkeypatch.setattr(pool, "REST_SECONDS", 1.0)
    taken = []

    named = make_conninfo(database, application_name=store_name)  # other clients of this process come and go meanwhile

    def connections():
        return sql(f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{store_name}'")[0][0]

    with pgstore.Client(named) as waiting, pgstore.Client(database) as other:
        queue = pgstore.Queue.persist(store_name, client=waiting)

        def work():
            taken.append(queue.get() if blocking else asyncio.run(queue.get.aio()))

        thread = threading.Thread(target=work)
        thread.start()
        wait_until(lambda: connections() == 2)
        wait_until(lambda: connections() == 1)
        pgstore.Queue.persist(store_name, client=other).put("item")
        thread.join()

    assert taken == ["item"]


def test_an_event_loop_closes_what_is_idle(client, store, sql):
    async def work():
        before = backends(sql)
        await store.put.aio("k", 1)
        mine = backends(sql) - before
        while mine & backends(sql):  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.05)
        assert await store.get.aio("k") == 1
        await client.aclose()

    asyncio.run(asyncio.wait_for(work(), 20))


def test_a_client_that_is_dropped_closes_its_connection(database, store_name, sql, monkeypatch):
    """
    What closes idle connections must not keep it alive.
    """
    monkeypatch.setattr(pool, "IDLE_SECONDS", 300.0)
    before = backends(sql)
    client = pgstore.Client(database)
    pgstore.Dict.persist(store_name, client=client).put("k", 1)
    mine = backends(sql) - before
    assert len(mine) == 1

    del client
    gc.collect()

    wait_until(lambda: not mine & backends(sql))


def test_the_thread_that_closes_idle_connections_ends_with_them(client, store):
    store["k"] = 1
    assert client.scheduler.urgent._thread is not None

    wait_until(lambda: client.scheduler.urgent._thread is None)

    store["k"] = 2
    assert client.scheduler.urgent._thread is not None
