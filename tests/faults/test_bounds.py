"""`timeout=` and `block=False` bound a whole call: locks of others, a free connection, a server that has fallen silent.

A server has a second for each answer (`core.limit`), so nothing here takes less; the longest time allowed is what tells a bound
from none.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue as stdlib
import threading
import time
from typing import Any

import psycopg
import pytest

import pgstore
from pgstore.connection import base
from pgstore.core import limit
from pgstore.core.clock import Deadline
from tests.faults.conftest import Background, until
from tests.fixtures.clients import Call

NOT_GRANTED = "SELECT count(*) FROM pg_locks WHERE NOT granted"
LONGEST = 5.0  # seconds, in which a call with a bound of next to nothing returns
TERMS = ({"block": False}, {"timeout": 0.1})


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    monkeypatch.setattr(limit, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(base, "CANCEL_SECONDS", 0.5)


@pytest.fixture
def client(own_database):
    with pgstore.Client(own_database) as client:
        yield client


@pytest.fixture
def elsewhere(own_database):
    with pgstore.Client(own_database) as client:
        yield client


@pytest.fixture
def queue(client):
    return pgstore.Queue.from_name("q", create_if_missing=True, client=client).hydrate()


@pytest.fixture
def bounded(client):
    return pgstore.Queue.from_name("b", create_if_missing=True, client=client, maxsize=10).hydrate()


def there(queue, elsewhere):
    return pgstore.Queue.from_name(queue.name, client=elsewhere).hydrate()


@contextlib.contextmanager
def in_time():
    began = time.monotonic()
    yield
    assert time.monotonic() - began < LONGEST


PUTS: dict[str, tuple[dict[str, Any], bool]] = {
    "room": ({}, True),
    "many": ({}, True),
    "key": ({"idempotency_key": "k"}, False),
    "order": ({"ordered": True}, False),
    "partition_ttl": ({"partition_ttl": 60}, False),
}


@pytest.mark.parametrize("terms", TERMS, ids=str)
@pytest.mark.parametrize("kind", PUTS)
def test_a_put_with_a_bound_does_not_wait_for_the_transaction_of_another(
    call, queue, bounded, client, elsewhere, kind, terms
):
    """
    Which may stay open for ever. Nothing is put, and the caller knows.
    """
    options, is_bounded = PUTS[kind]
    mine = bounded if is_bounded else queue
    other = there(mine, elsewhere)
    with elsewhere.transaction():
        other.put("held", **options)
        with in_time(), pytest.raises(stdlib.Full, match="somebody else holds"):
            if kind == "many":
                call(mine.put_many, ["mine"], **options, **terms)
            else:
                call(mine.put, "mine", **options, **terms)

    assert mine.get_many(9) == ["held"]
    call(mine.put, "later")
    assert call(mine.get) == "later"


@pytest.mark.parametrize("kind", ["room", "key", "order", "partition_ttl"])
def test_a_put_that_gave_up_leaves_its_transaction_usable(queue, bounded, client, elsewhere, kind):
    """
    As with one that finds the Queue full.
    """
    options, is_bounded = PUTS[kind]
    mine = bounded if is_bounded else queue
    other = there(mine, elsewhere)
    entries = pgstore.Dict.persist("entries", client=client)
    with elsewhere.transaction():
        other.put("held", **options)
        with client.transaction():
            entries["before"] = 1
            with in_time(), pytest.raises(stdlib.Full):
                mine.put("mine", timeout=0, **options)
            entries["after"] = 2

    assert entries.get_many(["before", "after"]) == {"before": 1, "after": 2}


@pytest.mark.parametrize("is_async", [False, True])
def test_a_put_in_a_joined_transaction_gives_up_as_well(own_database, bounded, client, elsewhere, is_async):
    """
    There the waiting is psycopg's.
    """
    other = there(bounded, elsewhere)

    def blocking():
        with psycopg.connect(own_database) as connection:
            with client.transaction(connection), pytest.raises(stdlib.Full):
                bounded.put("mine", block=False)
            return connection.execute("SELECT 1").fetchone()

    async def awaiting():
        async with await psycopg.AsyncConnection.connect(own_database) as connection:
            async with client.transaction(connection):
                with pytest.raises(stdlib.Full):
                    await bounded.put.aio("mine", block=False)
            return await (await connection.execute("SELECT 1")).fetchone()

    with elsewhere.transaction():
        other.put("held")
        with in_time():
            assert (asyncio.run(awaiting()) if is_async else blocking()) == (1,)

    assert bounded.get_many(9) == ["held"]


@pytest.mark.parametrize("terms", TERMS, ids=str)
def test_a_get_with_a_bound_does_not_wait_for_a_lock_of_the_table(call, own_database, queue, terms):
    queue.put("there")
    call(queue.len)
    with psycopg.connect(own_database) as connection:
        connection.execute("LOCK TABLE pgstore.queue_item")
        with in_time(), pytest.raises(stdlib.Empty, match="somebody else holds"):
            call(queue.get, **terms)
        with in_time(), pytest.raises(stdlib.Empty):
            call(queue.get_many, 3, **terms)
        with in_time(), pytest.raises(stdlib.Empty):
            call(queue.get, lease=9, **terms)

    assert call(queue.get) == "there"


def test_a_lock_with_a_bound_does_not_wait_for_the_statement_of_another(call, own_database, client):
    """
    One who has it only in a transaction that has not committed keeps it all the same.
    """
    entries = pgstore.Dict.persist("entries", client=client).hydrate()
    call(entries.len)
    with psycopg.connect(own_database) as connection:
        connection.execute("LOCK TABLE pgstore.dict_lock")
        with in_time(), pytest.raises(pgstore.LockTimeout):
            call(entries.lock("k", timeout=0.1).acquire)
        with in_time():
            assert call(entries.lock("k").acquire, block=False) is False

    assert call(entries.lock("k", timeout=9).acquire) is True


def test_a_bound_counts_for_a_free_connection(own_database):
    """
    The transaction has the one, and a put that waits for a lock the one in reserve that it may have.
    """
    with pgstore.Client(own_database, connections_max=1) as client:
        queue = pgstore.Queue.persist("q", client=client).hydrate()
        entries = pgstore.Dict.persist("entries", client=client).hydrate()
        with psycopg.connect(own_database) as connection:
            connection.execute("LOCK TABLE pgstore.queue_item")
            with client.transaction():
                entries["mine"] = 1
                waiting = Background(queue.put, "first")
                until(lambda: connection.execute(NOT_GRANTED).fetchone() == (1,))
                with in_time(), pytest.raises(stdlib.Full, match="connections_max"):
                    Background(queue.put, "second", timeout=0.1).result()
                with in_time(), pytest.raises(stdlib.Empty, match="connections_max"):
                    Background(queue.get, block=False).result()
        waiting.result()

        assert queue.get_many(9) == ["first"]


SILENT: dict[str, tuple[str, Any, type[Exception]]] = {
    "put": ("queue", lambda call, queue: call(queue.put, "mine", timeout=0.1), pgstore.OutcomeUnknown),
    "put with room": (
        "bounded",
        lambda call, bounded: call(bounded.put, "mine", block=False),
        pgstore.StoreUnavailable,
    ),
    "get": ("queue", lambda call, queue: call(queue.get, timeout=0.1), pgstore.StoreUnavailable),
    "get at once": ("queue", lambda call, queue: call(queue.get, block=False), pgstore.StoreUnavailable),
    "lock": ("entries", lambda call, entries: call(entries.lock("k", timeout=0.1).acquire), pgstore.StoreUnavailable),
    "watch": ("entries", lambda call, entries: call.iterate(entries.watch(timeout=0.1)), pgstore.StoreUnavailable),
}


@pytest.mark.parametrize("form", ["blocking", "aio"])
def test_a_call_with_a_bound_ends_where_the_server_is_silent(own_database, proxy, form):
    """
    A frozen machine keeps its connections. What was sent may have been done; what only looks has found nothing. Each call has a
    client of its own, so that all wait at the same time.
    """
    connected, stalled = threading.Barrier(len(SILENT) + 1, timeout=30), threading.Event()

    def ends(kind, call, stores):
        """How long the call takes, on a thread that has a connection."""
        call(stores["queue"].put, "before")
        call(stores["queue"].get)
        connected.wait()
        stalled.wait()
        store, act, error = SILENT[kind]
        began = time.monotonic()
        with pytest.raises(error):
            act(call, stores[store])
        return time.monotonic() - began

    with contextlib.ExitStack() as stack:
        calls = {kind: Call(form) for kind in SILENT}
        stores: dict[str, dict[str, Any]] = {}
        for kind, call in calls.items():
            stack.callback(call.close)
            client = call.client(proxy.url(own_database))
            stores[kind] = {
                "queue": pgstore.Queue.persist("q", client=client).hydrate(),
                "bounded": pgstore.Queue.from_name("b", create_if_missing=True, client=client, maxsize=10).hydrate(),
                "entries": pgstore.Dict.from_name("d", create_if_missing=True, client=client, watch=True).hydrate(),
            }
        waiting = {kind: Background(ends, kind, call, stores[kind]) for kind, call in calls.items()}
        connected.wait()
        proxy.stall()
        stalled.set()
        try:
            seconds = {kind: each.result() for kind, each in waiting.items()}
        finally:
            proxy.resume()

        assert sum(seconds.values()) < len(SILENT) * LONGEST, seconds
        for kind, call in calls.items():
            call(stores[kind]["queue"].put, "after")
        left = calls["put"](stores["put"]["queue"].get_many, 9)
        assert [item for item in left if item != "mine"] == ["after"] * len(SILENT)


@pytest.mark.parametrize("terms", TERMS, ids=str)
def test_a_call_with_a_bound_replaces_a_connection_that_has_broken(call, own_database, queue, terms):
    """
    The bound is for items, room and locks: a restart of the server is no error of the next call.
    """
    entries = pgstore.Dict.persist("entries", client=queue._client).hydrate()
    for act in (
        lambda: call(queue.get, **terms),
        lambda: call(queue.put, "there", **terms),
        lambda: call(queue.get_many, 3, lease=9, **terms),
        lambda: call(entries.lock("k", **({} if "block" in terms else terms)).acquire, block=terms.get("block", True)),
    ):
        with contextlib.suppress(stdlib.Empty):
            call(queue.get, **terms)
        with psycopg.connect(own_database) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 9000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        with in_time(), contextlib.suppress(stdlib.Empty):
            act()


@pytest.mark.parametrize("terms", TERMS, ids=str)
@pytest.mark.parametrize("is_back", [True, False])
def test_a_call_with_a_bound_waits_a_moment_for_a_server_that_is_gone(call, own_database, proxy, terms, is_back):
    """
    And no longer: within five seconds it says so.
    """
    client = call.client(proxy.url(own_database))
    queue = pgstore.Queue.persist("q", client=client).hydrate()
    queue.put("there")
    call(queue.len)
    proxy.refuse()
    proxy.cut()
    back = threading.Timer(1.0, proxy.accept)
    if is_back:
        back.start()
    with in_time():
        if is_back:
            assert call(queue.get, **terms) == "there"
        else:
            with pytest.raises(pgstore.StoreUnavailable):
                call(queue.get, **terms)
    if not is_back:
        proxy.accept()


def test_bounds_within_bounds_count_both():
    def wait_seconds():
        return round(limit.wait_seconds() or 0)

    with limit.bounded_by(Deadline.after(50)):
        with limit.bounded_by(Deadline.after(5)):
            assert wait_seconds() == 5
        with limit.bounded_by(Deadline.after(500)):
            assert wait_seconds() == 50
        with limit.bounded_by(Deadline.after(None)):
            assert wait_seconds() == 50
    assert limit.wait_seconds() is None


def test_a_bound_of_one_call_is_not_that_of_the_next(call, own_database, queue, elsewhere):
    other = there(queue, elsewhere)
    with elsewhere.transaction():
        other.put("held", ordered=True)
        with pytest.raises(stdlib.Full):
            call(queue.put, "mine", block=False, ordered=True)

        assert limit.current() is None


def test_a_peer_that_is_gone_is_noticed_by_the_settings_of_the_connection():
    """
    Without them TCP tries for a quarter of an hour. What the URL says, counts.
    """
    from pgstore.connection.handshake import conninfo

    given = psycopg.conninfo.conninfo_to_dict(conninfo("postgresql://host/db?keepalives_idle=77"))

    assert (given["tcp_user_timeout"], given["keepalives_idle"]) == ("20000", "77")
