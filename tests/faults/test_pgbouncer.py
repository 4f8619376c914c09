"""A pooler in transaction mode: each transaction may meet another backend, so nothing may rest on the session."""

from __future__ import annotations

import time

import psycopg
import pytest

import pgstore
from pgstore.queue import put as put_module
from pgstore.queue import take as take_module
from pgstore.queue import watermark as watermark_module
from tests.faults.conftest import Background, look_rarely, until
from tests.fixtures.clients import Call


@pytest.fixture
def client(pgbouncer, own_database):
    client = pgstore.Client(pgbouncer.url(own_database))
    yield client
    client.close()


@pytest.fixture
def stores(client):
    return (
        pgstore.Dict.persist("entries", client=client).hydrate(),
        pgstore.Queue.persist("queue", client=client).hydrate(),
    )


def test_a_pooler_is_noticed(client, own_database, stores):
    """
    By the backend that answers, which is not the one that said hello.
    """
    connection = client._blocking.pool.acquire()
    assert connection.pooled
    client._blocking.pool.release(connection)

    with pgstore.Client(own_database) as direct:
        pgstore.Dict.persist("entries", client=direct).hydrate()
        connection = direct._blocking.pool.acquire()
        assert not connection.pooled
        direct._blocking.pool.release(connection)


def test_stores_work_through_a_pooler(call, client, stores):
    entries, queue = stores

    for _ in range(6):  # more than the pooler has connections: each meets several
        call(entries.put, "k", 1)
        call(entries.update, {"a": 1, ("b", 2): [2], "c": 3.5})
        assert call(entries.get, "k") == 1
        assert call(entries.len) == 4
        assert dict(call(entries.items)) == {"k": 1, "a": 1, ("b", 2): [2], "c": 3.5}
        assert call.iterate(entries.iterate_keys()) == call(entries.keys)
        assert call(entries.pop, "k") == 1
        assert call(entries.contains, "k") is False
        call(queue.put, "x")
        call(queue.put_many, range(10), partition="p")
        assert call(queue.len, total=True) == 11
        assert call(queue.get_many, 20, partition="p") == list(range(10))
        assert call(queue.get) == "x"
        call(entries.clear)


def test_statements_of_several_parts_work_through_a_pooler(call, client, stores, monkeypatch):
    _, queue = stores
    monkeypatch.setattr(put_module, "BATCH_ITEMS", 7)

    call(queue.put_many, range(50))

    assert call(queue.get_many, 100) == list(range(50))


def test_transactions_work_through_a_pooler(call, client, stores):
    entries, queue = stores

    def commit(number):
        if call.form == "blocking":
            with client.transaction() as tx:
                entries["n"] = number
                queue.put(number)
                with pytest.raises(LookupError), client.transaction():
                    entries["n"] = -1
                    raise LookupError
                tx.connection.execute("SELECT 1")
                entries["m"] = number
            return

        async def work():
            async with client.transaction() as tx:
                await entries.put.aio("n", number)
                await queue.put.aio(number)
                with pytest.raises(LookupError):
                    async with client.transaction():
                        await entries.put.aio("n", -1)
                        raise LookupError
                connection = await tx.get_connection()
                await connection.execute("SELECT 1")
                await entries.put.aio("m", number)

        call.run(work())

    for number in range(6):
        commit(number)
        assert dict(call(entries.items)) == {"n": number, "m": number}
    assert call(queue.get_many, 10) == list(range(6))


def test_twenty_threads_work_through_four_connections_of_a_pooler(pgbouncer, own_database):
    with pgstore.Client(pgbouncer.url(own_database), connections_max=20) as client:
        entries = pgstore.Dict.persist("entries", client=client)
        queue = pgstore.Queue.persist("queue", client=client)
        entries.hydrate()
        queue.hydrate()

        def work(number):
            for step in range(10):
                entries[number] = step
                assert entries[number] == step
                with client.transaction():
                    queue.put((number, step))
                    entries[number, "tx"] = step
            return [queue.get(timeout=30) for _ in range(10)]

        crowd = [Background(work, number) for number in range(20)]
        taken = [item for each in crowd for item in each.result(60)]

        assert sorted(taken) == [(number, step) for number in range(20) for step in range(10)]


def test_a_waiting_get_polls_through_a_pooler(call, stores, own_database):
    """
    Neither LISTEN nor locks of the session work there; it takes a little longer, and loses nothing.
    """
    _, queue = stores
    getting = Background(call, queue.get)

    with pgstore.Client(own_database) as direct:
        pgstore.Queue.persist("queue", client=direct).put("item")

    assert getting.result() == "item"


def test_with_a_listen_url_a_waiting_get_is_notified(call: Call, pgbouncer, own_database, eye, monkeypatch):
    look_rarely(monkeypatch)
    client = pgstore.Client(pgbouncer.url(own_database), listen_url=own_database)
    queue = pgstore.Queue.persist("queue", client=client)
    queue.hydrate()
    getting = Background(call, queue.get)
    until(eye.waiting)

    with pgstore.Client(pgbouncer.url(own_database)) as other:
        pgstore.Queue.persist("queue", client=other).put("item")

    assert getting.result(5.0) == "item"
    if call.form == "aio":
        call.run(client.aclose())
    client.close()


def test_a_pooler_in_session_mode_lets_a_waiting_get_be_notified(
    call: Call, session_pooler, own_database, eye, monkeypatch
):
    """
    There a client has a server connection of its own: nothing has to be asked again and again.
    """
    look_rarely(monkeypatch)
    client = pgstore.Client(session_pooler.url(own_database))
    queue = pgstore.Queue.persist("queue", client=client)
    queue.hydrate()
    getting = Background(call, queue.get)
    until(eye.waiting)

    with pgstore.Client(own_database) as other:
        pgstore.Queue.persist("queue", client=other).put("item")

    assert getting.result(5.0) == "item"
    if call.form == "aio":
        call.run(client.aclose())
    client.close()


def test_a_pooler_in_transaction_mode_is_not_taken_for_one_in_session_mode(call: Call, client, stores):
    """
    Also while nobody else uses it, when a lone connection meets the same backend each time.
    """
    _, queue = stores
    getting = Background(call, queue.get, timeout=20)

    until(lambda: any(each.listener._polls for each in (client._blocking, *client._loops.values())))

    queue.put("item")
    assert getting.result(10.0) == "item"


def test_nothing_is_left_on_the_poolers_connections(call, client, stores, pgbouncer, own_database, eye):
    """
    The next client of the pooler gets them as they are: with our settings, locks or statements.
    """
    entries, queue = stores
    names = ("plan_cache_mode", "default_transaction_isolation", "enable_seqscan", "jit", "client_encoding")
    settings = [eye.value("SELECT current_setting(%s)", name) for name in names]
    for _ in range(6):
        call(entries.put, "k", 1)
        call(queue.put, "x")
        call(queue.get)
    with client.transaction() as tx:
        tx.connection.execute("SELECT 1")
        entries["k"] = 2
    with pytest.raises(pgstore.errors.QueueEmpty):
        call(queue.get, timeout=0.2)

    with psycopg.connect(pgbouncer.url(own_database), autocommit=True, prepare_threshold=None) as other:
        for _ in range(8):
            found = [other.execute("SELECT current_setting(%s)", [name]).fetchone() for name in names]
            assert found == [(setting,) for setting in settings]
            assert other.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
            assert other.execute("SELECT count(*) FROM pg_listening_channels()").fetchone() == (0,)
    assert eye.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
    assert eye.value("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%%'") == 0


def test_marks_rise_counts_are_told_and_leases_renewed_through_a_pooler(
    call, client, stores, own_database, monkeypatch
):
    """
    A mark is looked up by each statement there: nothing that is remembered could be of another server.
    """
    monkeypatch.setattr(watermark_module, "ADVANCE_ITEMS", 1)
    monkeypatch.setattr(take_module, "RENEWED_SECONDS_MIN", 0.1)
    _, queue = stores
    queue.put("held")
    lease = call(queue.get, lease=0.6, renew=True)

    for number in range(10):
        call(queue.put, number)
        assert call(queue.get) == number
    time.sleep(1.0)
    assert call(queue.get, block=False) is None
    call(lease.ack)
    client.close()

    with psycopg.connect(own_database) as connection:
        assert connection.execute("SELECT puts, gets FROM pgstore.queue_stats").fetchone() == (11, 11)
        ((low, last),) = connection.execute("SELECT low, last_value FROM pgstore.queue_head, pgstore.queue_item_id_seq")
    assert last - 3 <= low <= last + 1
