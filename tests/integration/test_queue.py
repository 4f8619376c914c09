"""Queue, both forms: order, waiting, what a transaction and a damaged item do."""

from __future__ import annotations

import queue as stdlib
import threading
import time

import pytest

import pgstore
from pgstore.errors import ValueTooLarge
from pgstore.queue import put


@pytest.fixture
def store(client, store_name):
    return pgstore.Queue.from_name(store_name, create_if_missing=True, client=client)


@pytest.fixture
def store_elsewhere(client_elsewhere, store_name):
    return pgstore.Queue.from_name(store_name, create_if_missing=True, client=client_elsewhere)


def test_items_come_out_in_the_order_in_which_they_went_in(call, store):
    call(store.put, "first")
    call(store.put_many, ["second", "third"])
    call(store.put, "fourth")

    assert call(store.get) == "first"
    assert call(store.get_many, 10) == ["second", "third", "fourth"]


def test_a_put_many_of_several_statements_keeps_its_order_and_is_all_or_nothing(call, store, monkeypatch):
    monkeypatch.setattr(put, "BATCH_ITEMS", 7)
    call(store.put_many, range(50))

    with pytest.raises(pgstore.SerializationError):
        call(store.put_many, [*range(50), threading.Lock()])

    assert call(store.get_many, 1000) == list(range(50))


def test_an_empty_put_many_puts_nothing(call, store):
    call(store.put_many, [])

    assert call(store.len) == 0


def test_get_without_blocking_gives_none_and_get_many_an_empty_list(call, store):
    """
    Modal's answer to an empty queue.
    """
    assert call(store.get, block=False) is None
    assert call(store.get_many, 5, block=False) == []


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_an_empty_queue_is_stdlibs_empty_after_the_timeout(call, store, timeout):
    with pytest.raises(stdlib.Empty, match="no item in pgstore.Queue"):
        call(store.get, timeout=timeout)
    with pytest.raises(stdlib.Empty):
        call(store.get_many, 5, timeout=timeout)


def test_get_many_takes_what_there_is_and_does_not_wait_for_more(call, store):
    call(store.put_many, ["a", "b"])

    assert call(store.get_many, 5, timeout=10) == ["a", "b"]


def test_get_many_never_takes_more_than_asked(call, store):
    call(store.put_many, range(10))

    assert call(store.get_many, 3) == [0, 1, 2]
    assert call(store.get_many, n_values=3) == [3, 4, 5]
    with pytest.raises(pgstore.InvalidError, match="not both"):
        call(store.get_many, 1, n_values=3)
    assert call(store.len) == 4


def test_a_waiting_get_receives_a_later_put(call, store, store_elsewhere):
    threading.Timer(0.15, store_elsewhere.put, ["late"]).start()
    started = time.monotonic()

    assert call(store.get, timeout=20) == "late"
    assert time.monotonic() - started < 10


def test_a_waiting_get_receives_an_item_that_a_rolled_back_get_gives_back(call, store, store_elsewhere):
    store_elsewhere.put("item")
    taken = threading.Event()

    def take_and_roll_back():
        with pytest.raises(RuntimeError), store_elsewhere._runner.transaction():
            assert store_elsewhere.get() == "item"
            taken.set()
            time.sleep(0.1)
            raise RuntimeError

    thread = threading.Thread(target=take_and_roll_back)
    thread.start()
    taken.wait(10)

    assert call(store.get, timeout=20) == "item"
    thread.join()


def test_partitions_are_queues_of_their_own(call, store):
    call(store.put, "default")
    call(store.put, "in a", partition="a")
    call(store.put_many, ["in b", "in b too"], partition="b")

    assert call(store.len) == 1
    assert call(store.len, partition="b") == 2
    assert call(store.len, total=True) == 4
    assert call(store.get, partition="a") == "in a"
    assert call(store.get, partition="a", block=False) is None
    assert call(store.get) == "default"
    with pytest.raises(pgstore.InvalidError, match="not both"):
        call(store.len, partition="a", total=True)


@pytest.mark.parametrize("partition", ["", "x" * 65, "ü" * 33, "nul\0", 5, "\ud800"])
def test_a_bad_partition_is_refused(call, store, partition):
    with pytest.raises(pgstore.InvalidError, match="partition"):
        call(store.put, 1, partition=partition)
    with pytest.raises(pgstore.InvalidError, match="partition"):
        call(store.get, partition=partition, block=False)


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True])
def test_a_bad_timeout_is_refused(call, store, timeout):
    with pytest.raises(pgstore.InvalidError, match="timeout"):
        call(store.get, timeout=timeout)


@pytest.mark.parametrize("n", [0, -1, None, "3", 1.5, True])
def test_a_bad_number_of_items_is_refused(call, store, n):
    with pytest.raises(pgstore.InvalidError, match="get_many"):
        call(store.get_many, n)


def test_len_counts_and_a_queue_is_always_true(store):
    store.put_many(range(5))

    assert len(store) == store.len() == 5
    assert bool(store)
    store.get_many(5)
    assert bool(store)


def test_an_item_that_cannot_be_pickled_is_refused(call, store):
    with pytest.raises(pgstore.SerializationError, match="lock"):
        call(store.put, threading.Lock())


def test_an_item_above_the_limit_is_refused(call, store, monkeypatch):
    monkeypatch.setattr("pgstore.serializers.values.VALUE_BYTES_MAX", 1000)

    with pytest.raises(ValueTooLarge):
        call(store.put, b"x" * 1001)


def test_a_damaged_item_is_taken_by_get_with_its_bytes_in_the_error(call, store, sql):
    """
    It must not block the queue for ever.
    """
    call(store.put_many, ["bad", "good"])
    _damage_first(sql, store)

    with pytest.raises(pgstore.DeserializationError) as caught:
        call(store.get)

    assert caught.value.raw == b"\x80"
    assert call(store.get) == "good"


def test_get_many_with_a_damaged_item_gives_all_of_them_back(call, store, sql):
    call(store.put_many, ["a", "b", "c"])
    _damage_first(sql, store)

    with pytest.raises(pgstore.DeserializationError):
        call(store.get_many, 3)

    assert call(store.len) == 3
    with pytest.raises(pgstore.DeserializationError):
        call(store.get)
    assert call(store.get_many, 3) == ["b", "c"]


def test_two_takers_get_different_items(client, store, store_elsewhere):
    """
    A worker still holding an item neither shares it nor makes the next one wait.
    """
    store.put_many(["first", "second"])

    with client.transaction():
        mine = store.get()
        theirs = store_elsewhere.get()

    assert (mine, theirs) == ("first", "second")


def test_a_rolled_back_get_returns_its_item_to_its_old_place(client, store):
    store.put_many([1, 2, 3])

    with pytest.raises(RuntimeError), client.transaction():
        assert store.get() == 1
        raise RuntimeError

    assert store.get_many(3) == [1, 2, 3]


def test_items_of_an_open_transaction_are_not_there_for_others(client, store, store_elsewhere):
    with client.transaction():
        store.put("mine")
        assert store_elsewhere.get(block=False) is None
        assert store.get(block=False) == "mine"
        store.put("for all")

    assert store_elsewhere.get() == "for all"


def test_eight_consumers_share_a_thousand_items_without_loss_or_doubles(client, store, store_elsewhere):
    taken: list[int] = []
    failures: list[BaseException] = []

    def consume(handle):
        try:
            while True:
                taken.extend(handle.get_many(7, timeout=1))
        except stdlib.Empty:
            pass
        except BaseException as exc:
            failures.append(exc)

    consumers = [threading.Thread(target=consume, args=(h,)) for h in (store, store_elsewhere) * 4]
    for consumer in consumers:
        consumer.start()
    for start in range(0, 1000, 50):
        store.put_many(range(start, start + 50))
    for consumer in consumers:
        consumer.join()

    assert failures == []
    assert sorted(taken) == list(range(1000))


def _damage_first(sql, store):
    store_id = int(store.hydrate().object_id.removeprefix("qu-"))
    sql(
        """
        UPDATE pgstore.queue_item SET payload = '\\x80'
         WHERE store_id = %s AND id = (SELECT min(id) FROM pgstore.queue_item WHERE store_id = %s)
        """,
        store_id,
        store_id,
    )


def test_arguments_may_have_the_names_that_modal_gives_them(call, store):
    call(store.put, v="a")
    call(store.put, v=None)
    call(store.put_many, vs=["b", "c"])
    call(store.put_many, items=["d"])
    call(store.put, item="e")

    assert call(store.get_many, n_values=9) == ["a", None, "b", "c", "d", "e"]


def test_an_argument_is_given_once(call, store):
    for operation, names in ((store.put, ("item", "v")), (store.put_many, ("items", "vs"))):
        with pytest.raises(pgstore.InvalidError, match=names[1]):
            call(operation)
        with pytest.raises(pgstore.InvalidError, match=names[1]):
            call(operation, **{name: ["x"] for name in names})
