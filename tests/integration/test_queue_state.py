"""What a client does for its Queues a little later: it sends how much it took, and vacuums."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest

import pgstore
from pgstore.core.operation import Query
from pgstore.queue import state
from tests.faults.conftest import until


@pytest.fixture
def store(client, store_name):
    return pgstore.Queue.from_name(store_name, create_if_missing=True, client=client, max_attempts=1).hydrate()


@pytest.fixture
def counts(sql):
    """A call that gives what has been put into a Queue, taken from it, and cleared away."""

    def counts(store):
        (row,) = sql("SELECT puts, gets, cleared FROM pgstore.queue_stats WHERE name = %s", store.name)
        return row

    return counts


# ------------------------------------------------------------------------------------------------------------- counts


def test_after_a_clean_close_the_counts_are_right(call, client, store, counts, sql):
    call(store.put_many, range(10))
    call(store.put, 10, partition="p", delay=60)
    sql("SELECT pgstore.queue_put(%s, '1')", store.name)
    call(store.get)
    call(store.get_many, 2)
    call(call(store.get, lease=60).ack)
    call(store.get, lease=60)
    dead = call(store.get, lease=60)
    call(dead.nack)
    call(store.discard)
    call(store.clear, all=True)

    client.close()

    # Put: 12. Taken: 4. Still there: one that is leased. Cleared: one dead, one delayed, five waiting.
    assert counts(store) == (12, 4, 7)
    client.close()
    assert counts(store) == (12, 4, 7)


def test_what_is_not_told_yet_is_missing_in_both(client, store, counts):
    store.put_many(range(5))
    store.get()

    assert counts(store) == (4, 0, 0)
    client.close()
    assert counts(store) == (5, 1, 0)


def test_a_client_tells_by_itself(call, store, counts, monkeypatch):
    monkeypatch.setattr(state, "SEND_SECONDS", 0.05)
    store.put_many(range(5))

    call(store.get_many, 3)
    until(lambda: counts(store) == (5, 3, 0))
    call(store.get)
    until(lambda: counts(store) == (5, 4, 0))


def test_clients_that_tell_at_once_are_added_up(database, store, counts):
    def work():
        with pgstore.Client(database) as client:
            queue = pgstore.Queue.from_name(store.name, client=client)
            for _ in range(50):
                queue.put(1)
                queue.get()

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert counts(store) == (200, 200, 0)


def test_what_a_transaction_takes_counts_when_it_commits(call, client, store, counts):
    store.put_many(range(10))
    with client.transaction():
        store.get()
        with pytest.raises(RuntimeError), client.transaction():
            store.get_many(3)
            raise RuntimeError
        store.get()
    with pytest.raises(RuntimeError), client.transaction():
        store.get_many(5)
        store.clear()
        raise RuntimeError

    client.close()

    assert counts(store) == (10, 2, 0)


def test_what_could_not_be_loaded_does_not_count(call, client, store, counts, sql):
    store.put_many(["bad", "good"])
    sql(
        "UPDATE pgstore.queue_item SET payload = '\\x80' WHERE store_id = %s AND payload LIKE '%%bad%%'",
        int(store.object_id.removeprefix("qu-")),
    )
    with pytest.raises(pgstore.DeserializationError):
        call(store.get_many, 2)

    client.close()

    assert counts(store) == (2, 0, 0)


def test_counts_go_with_the_queue(client, store, sql):
    store.put(1)
    store.get()
    client.close()
    look = "SELECT count(*) FROM pgstore.queue_count WHERE store_id = %s"
    number = int(store.object_id.removeprefix("qu-"))
    assert sql(look, number) == [(1,)]

    pgstore.Queue.objects.delete(store.name, client=client)

    assert sql(look, number) == [(0,)]


def test_a_thread_for_what_is_left_to_do_ends_with_it(client, store, monkeypatch):
    monkeypatch.setattr(state, "SEND_SECONDS", 0.05)
    store.put(1)
    assert client.scheduler._thread is None

    store.get()

    assert client.scheduler._thread is not None
    until(lambda: client.scheduler._thread is None)


# ------------------------------------------------------------------------------------------------------------- vacuum


@pytest.fixture
def busy(own_database, monkeypatch):
    """A Queue of a database of its own, whose client thinks of vacuum after 100 items."""
    monkeypatch.setattr(state, "VACUUM_ITEMS", 100)
    monkeypatch.setattr(state, "VACUUM_REST_SECONDS", 0.0)
    with pgstore.Client(own_database) as client:
        yield pgstore.Queue.persist("busy", client=client).hydrate()


def vacuums(url):
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT vacuum_count, n_dead_tup FROM pg_stat_user_tables WHERE relname = 'queue_item'"
        ).fetchone()


def take_many(call, queue):
    queue.put_many(range(300))
    for _ in range(3):
        call(queue.get_many, 100)
        time.sleep(1.1)  # the statistics of a session are reported once a second
        queue.put(1)
        call(queue.get)


def test_a_client_that_takes_much_clears_away(call, busy, own_database):
    take_many(call, busy)

    until(lambda: vacuums(own_database)[0] >= 1)


def test_nobody_waits_for_vacuum_and_it_waits_for_nobody(call, busy, own_database):
    """
    Another vacuum is under way, as its lock on the table says.
    """
    with psycopg.connect(own_database) as connection:
        connection.execute("LOCK TABLE pgstore.queue_item IN SHARE UPDATE EXCLUSIVE MODE")
        take_many(call, busy)
        until(lambda: busy._runner.scheduler._left == {} or len(busy._runner.scheduler._left) == 1)

        assert vacuums(own_database)[0] == 0


@pytest.mark.parametrize("granted", [False, True])
def test_vacuum_is_wanted_only_with_the_right_to(server, own_database, granted):
    name = f"vacuumer_{granted}".lower()
    with psycopg.connect(own_database, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN")
        try:
            connection.execute(f"GRANT pgstore_{'owner' if granted else 'writer'} TO {name}")
            with pgstore.Client(own_database.replace("postgres@", f"{name}@")) as client:
                pgstore.Queue.persist("queue", client=client).put(1)
                rows = client.run(_wanted())
            assert rows == [(granted,)]
        finally:
            connection.execute(f"DROP OWNED BY {name}")
            connection.execute(f"DROP ROLE {name}")


def _wanted():
    return (yield Query(state.ClientQueues._IS_VACUUM_NEEDED, 0))


# -------------------------------------------------------------------------------------------------------- many of them


def test_what_a_client_remembers_of_partitions_is_bounded(client, store, monkeypatch):
    monkeypatch.setattr(state, "_PARTITIONS_MAX", 10)
    for number in range(95):
        store.put(number, partition=f"p{number}")
        assert store.get(partition=f"p{number}") == number

    queues = state.client_queues(client)
    assert len(queues.queue(int(store.object_id.removeprefix("qu-")))._partitions) <= 10


def test_what_a_client_remembers_of_queues_is_bounded(client, store_name, monkeypatch, counts):
    """
    What is not told yet is not forgotten.
    """
    monkeypatch.setattr(state, "_QUEUES_MAX", 10)
    first = pgstore.Queue.persist(store_name, client=client)
    first.put(1)
    first.get()
    for _ in range(30):
        with pgstore.Queue.ephemeral(client=client) as queue:
            assert queue.get(block=False) is None

    assert len(state.client_queues(client)._queues) <= 11
    client.close()
    assert counts(first) == (1, 1, 0)
