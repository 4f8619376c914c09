"""Puts that say more: bounded queues, idempotency keys, commit order, and commits that do not wait for the disk."""

from __future__ import annotations

import queue as stdlib
import threading
import time

import psycopg
import pytest

import pgstore
from pgstore.queue import put
from pgstore.queue.put import put_with_options
from pgstore.queue.take import take_with_options


@pytest.fixture
def store(client, store_name):
    return pgstore.Queue.from_name(store_name, create_if_missing=True, client=client)


@pytest.fixture
def store_elsewhere(client_elsewhere, store_name):
    return pgstore.Queue.from_name(store_name, create_if_missing=True, client=client_elsewhere)


@pytest.fixture
def bounded(client, store_name):
    return pgstore.Queue.from_name(f"{store_name}-b", create_if_missing=True, client=client, maxsize=3)


@pytest.fixture
def bounded_elsewhere(client_elsewhere, bounded):
    return pgstore.Queue.from_name(bounded.hydrate().name, client=client_elsewhere)


# ------------------------------------------------------------------------------------------------------------ bounds


def test_a_full_queue_is_stdlibs_full(call, bounded):
    call(bounded.put_many, [1, 2])
    call(bounded.put, 3, timeout=0)

    with pytest.raises(stdlib.Full, match="no room .* maxsize=3"):
        call(bounded.put, 4, block=False)
    with pytest.raises(stdlib.Full):
        call(bounded.put, 4, timeout=0.05)

    assert call(bounded.get_many, 9) == [1, 2, 3]


def test_put_many_goes_in_whole_or_not_at_all(call, bounded):
    bounded.put_many([1, 2])

    with pytest.raises(stdlib.Full):
        call(bounded.put_many, [3, 4], block=False)
    with pytest.raises(pgstore.InvalidError, match="never"):
        call(bounded.put_many, range(4))

    assert bounded.peek(9) == [1, 2]


def test_the_bound_is_of_all_partitions_together(call, bounded, bounded_elsewhere):
    """
    It is to keep a queue from growing without end, which it also does in ever new partitions.
    """
    bounded.put_many([1, 2])
    call(bounded.put, 3, partition="p")

    for partition in (None, "p", "q"):
        with pytest.raises(stdlib.Full):
            call(bounded_elsewhere.put, 4, block=False, partition=partition)
    threading.Timer(0.3, bounded_elsewhere.get).start()
    call(bounded.put, 4, timeout=20, partition="q")

    assert bounded.len(total=True) == 3


def test_puts_into_different_partitions_never_overfill(bounded, bounded_elsewhere):
    ended = threading.Semaphore(0)

    def produce(handle, partition):
        for number in range(10):
            handle.put(number, timeout=30, partition=partition)
        ended.release()

    names = [f"p{number}" for number in range(6)]
    for number, name in enumerate(names):
        threading.Thread(target=produce, args=((bounded, bounded_elsewhere)[number % 2], name), daemon=True).start()
    most = taken = 0
    while taken < 60:
        most = max(most, bounded.len(total=True))
        taken += sum(len(bounded.get_many(2, block=False, partition=name)) for name in names)

    assert most <= 3
    for _ in names:
        assert ended.acquire(timeout=10)


@pytest.mark.parametrize("way", ["get", "lease", "clear", "clear all"])
def test_a_waiting_put_goes_in_when_there_is_room(call, bounded, bounded_elsewhere, way):
    make_room = {
        "get": bounded_elsewhere.get,
        "lease": lambda: bounded_elsewhere.get(lease=60),
        "clear": bounded_elsewhere.clear,
        "clear all": lambda: bounded_elsewhere.clear(all=True),
    }[way]
    bounded.put_many([1, 2, 3])
    threading.Timer(0.3, make_room).start()
    started = time.monotonic()

    call(bounded.put, 4, timeout=20)

    assert time.monotonic() - started < 10
    assert 4 in bounded.peek(9)


@pytest.mark.parametrize("level", ["REPEATABLE_READ", "SERIALIZABLE"])
def test_where_it_would_count_an_old_snapshot_a_put_is_refused(client, database, bounded, level):
    """
    The bound holds at every level of isolation. The transaction goes on.
    """
    bounded.put_many([1, 2])

    with psycopg.connect(database) as connection:
        connection.isolation_level = psycopg.IsolationLevel[level]
        connection.execute("SELECT 1")
        bounded.put(3)
        with client.transaction(connection):
            for operation, given in ((bounded.put, 4), (bounded.put_many, [4])):
                with pytest.raises(pgstore.InvalidError, match="not READ COMMITTED"):
                    operation(given, block=False)
            assert bounded.get() == 1
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="cannot put into a Queue made with maxsize"):
            connection.execute("SELECT pgstore.queue_put(%s, '4')", [bounded.name])

    assert bounded.len() == 3


def test_a_put_waits_in_a_transaction_too(client, bounded, bounded_elsewhere):
    bounded.put_many([1, 2, 3])
    threading.Timer(0.3, bounded_elsewhere.get).start()

    with client.transaction():
        bounded.put(4, timeout=20)

    assert bounded.peek(9) == [2, 3, 4]


def test_the_room_of_a_transaction_that_gets_is_announced_with_its_commit(
    call, client_elsewhere, bounded, bounded_elsewhere
):
    bounded.put_many([1, 2, 3])

    def make_room():
        with client_elsewhere.transaction():
            bounded_elsewhere.get_many(2)

    threading.Timer(0.3, make_room).start()
    call(bounded.put_many, [4, 5], timeout=20)

    assert bounded.peek(9) == [3, 4, 5]


def test_eight_producers_never_overfill(bounded, bounded_elsewhere):
    """
    Counting in the statement that also takes the lock would count what was there before the lock was free.
    """
    most = 0
    left = threading.Semaphore(0)

    def produce(handle):
        for number in range(10):
            handle.put(number, timeout=30)
        left.release()

    producers = [threading.Thread(target=produce, args=(h,)) for h in (bounded, bounded_elsewhere) * 4]
    for producer in producers:
        producer.start()
    taken = 0
    while taken < 80:
        most = max(most, bounded.len())
        taken += len(bounded.get_many(2, timeout=30))
    for producer in producers:
        producer.join()

    assert most <= 3


def test_a_put_of_sql_finds_the_queue_full(bounded, sql):
    bounded.put_many([1, 2])
    sql("SELECT pgstore.queue_put(%s, '3')", bounded.name)

    with pytest.raises(psycopg.Error) as caught:
        sql("SELECT pgstore.queue_put(%s, '4')", bounded.name)

    assert caught.value.sqlstate == "53400"
    assert bounded.peek(9) == [1, 2, 3]


def test_an_item_of_a_bounded_queue_that_cannot_be_loaded_is_taken_as_of_others(call, bounded, sql):
    bounded.put_many(["bad", "good"])
    sql(
        "UPDATE pgstore.queue_item SET payload = '\\x80' WHERE id = (SELECT min(id) FROM pgstore.queue_item WHERE store_id = %s)",
        int(bounded.object_id.removeprefix("qu-")),
    )

    with pytest.raises(pgstore.DeserializationError):
        call(bounded.get_many, 2)

    assert bounded.len() == 2


# -------------------------------------------------------------------------------------------------- idempotency keys


def test_a_put_with_a_used_key_does_nothing(call, store):
    call(store.put, "a", idempotency_key="k")
    call(store.put, "b", idempotency_key="k")
    call(store.put_many, ["c"], idempotency_key="k")
    call(store.put_many, ["d", "e"], idempotency_key="other")
    call(store.put_many, ["d", "e"], idempotency_key="other")

    assert call(store.get_many, 9) == ["a", "d", "e"]
    call(store.put, "a", idempotency_key="k")
    assert store.len() == 0


def test_a_key_of_a_put_that_was_rolled_back_is_free(client, store):
    with pytest.raises(RuntimeError), client.transaction():
        store.put("a", idempotency_key="k")
        raise RuntimeError

    store.put("b", idempotency_key="k")

    assert store.get_many(9) == ["b"]


def test_of_two_puts_at_once_with_one_key_one_counts(client, store, store_elsewhere):
    """
    The second waits to see what becomes of the first.
    """
    other = threading.Thread(target=store_elsewhere.put, args=("second",), kwargs={"idempotency_key": "k"})
    with client.transaction():
        store.put("first", idempotency_key="k")
        other.start()
        other.join(0.2)
        assert other.is_alive()
    other.join()

    assert store.get_many(9) == ["first"]


def test_a_key_holds_for_several_statements_and_for_delays_and_bounds(call, store, bounded, monkeypatch):
    monkeypatch.setattr(put, "BATCH_ITEMS", 2)
    for _ in range(2):
        call(store.put_many, range(5), idempotency_key="k")
        call(store.put, "later", delay=60, idempotency_key="later")
        call(bounded.put_many, [1, 2], block=False, idempotency_key="k")
        call(bounded.put_many, [1, 2], block=False, idempotency_key="k")

    assert store.get_many(9) == list(range(5))
    assert bounded.peek(9) == [1, 2]


def test_keys_are_forgotten_after_a_day(call, store, sql, monkeypatch):
    monkeypatch.setattr("random.random", lambda: 0.0)
    call(store.put, "a", idempotency_key="old")
    sql(
        "UPDATE pgstore.queue_key SET put_at = now() - interval '25 hours' WHERE store_id = %s",
        int(store.object_id.removeprefix("qu-")),
    )

    call(store.put, "b", idempotency_key="new")
    call(store.put, "a", idempotency_key="old")

    assert store.get_many(9) == ["a", "b", "a"]


@pytest.mark.parametrize("key", ["", "x" * 1025, "nul\0", "\ud800", 5])
def test_a_bad_key_is_refused(call, store, key):
    with pytest.raises(pgstore.InvalidError, match="idempotency_key"):
        call(store.put, 1, idempotency_key=key)


def test_a_put_on_terms_into_a_missing_queue_is_not_found(call, client, store, bounded, store_name):
    for queue, terms in ((store, {"idempotency_key": "k"}), (store, {"delay": 1}), (bounded, {})):
        queue.hydrate()
        pgstore.Queue.objects.delete(queue.name, allow_missing=True, client=client)

        with pytest.raises(pgstore.NotFoundError):
            call(queue.put, 1, block=False, **terms)


# ------------------------------------------------------------------------------------------------------------- order


def test_ordered_puts_wait_for_each_other(client, store, store_elsewhere):
    """
    Without it the item of the slow transaction, put first, would appear before one that was taken already.
    """
    other = threading.Thread(target=store_elsewhere.put, args=("second",), kwargs={"ordered": True})
    with client.transaction():
        store.put("first", ordered=True)
        other.start()
        store_elsewhere.put("elsewhere", ordered=True, partition="p")
        store_elsewhere.put("not ordered")
        other.join(0.2)
        assert other.is_alive()
        assert store_elsewhere.get_many(9) == ["not ordered"]
    other.join()

    assert store.get_many(9) == ["first", "second"]


def test_the_turn_is_taken_before_the_id(store, sql):
    """
    An id drawn while waiting for the turn would be below those of puts that came first.
    """
    store.hydrate()
    slow, fast = [
        pgstore.Queue.from_name(store.name, client=pgstore.Client(store._runner.settings.url)) for _ in range(2)
    ]
    with slow._runner.transaction():
        slow.put(0, ordered=True)
        waiting = threading.Thread(target=fast.put, args=(2,), kwargs={"ordered": True})
        waiting.start()
        time.sleep(0.2)
        slow.put(1, ordered=True)
    waiting.join()

    assert store.get_many(9) == [0, 1, 2]
    for each in (slow, fast):
        each._runner.close()


# -------------------------------------------------------------------------------------------------------- durability


def test_what_need_not_be_durable_is_put_and_taken(call, store, bounded):
    call(store.put, "a", durable=False)
    call(store.put_many, ["b", "c"], durable=False, ordered=True, idempotency_key="k")
    call(bounded.put, "d", durable=False)

    assert call(store.get, durable=False) == "a"
    assert call(store.get_many, 1, durable=False) == ["b"]
    assert call(store.get, durable=False, lease=60).item == "c"
    assert call(bounded.get, durable=False) == "d"


@pytest.mark.parametrize("operation", ["put", "get"])
def test_the_commit_of_such_a_statement_does_not_wait_for_the_disk(store, database, operation):
    """
    The setting holds until the end of the transaction, which is the statement where it stands alone.
    """
    store.put("item")
    store_id = int(store.object_id.removeprefix("qu-"))
    if operation == "put":
        statement, _ = put_with_options(
            delayed=False, keyed=False, ordered=False, async_commit=True, bounded=False, notify=False, repeatable=False
        )
        values = [store_id, "", [b"x"]]
    else:
        statement = take_with_options(leased=False, async_commit=True, notify=False)
        values = [store_id, "", 1, 0]

    with psycopg.connect(database) as connection:
        cursor = psycopg.RawCursor(connection)
        cursor.execute(statement.sql, values)
        assert cursor.rowcount == 1
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("off",)
        connection.commit()
        assert connection.execute("SHOW synchronous_commit").fetchone() != ("off",)


def test_in_a_transaction_durability_is_not_one_stores_to_say(client, store):
    store.put("item")

    with client.transaction():
        for operation in (lambda: store.put(1, durable=False), lambda: store.get(durable=False)):
            with pytest.raises(pgstore.InvalidError, match="durable"):
                operation()

    assert store.get_many(9) == ["item"]
