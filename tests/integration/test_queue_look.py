"""Looking at a Queue without taking: peek, iterate, clear."""

from __future__ import annotations

import threading

import pytest

import pgstore
from pgstore.client.transaction import Transaction
from pgstore.queue import look


@pytest.fixture
def store(client, store_name):
    return pgstore.Queue.from_name(store_name, create_if_missing=True, client=client)


@pytest.fixture
def store_elsewhere(client_elsewhere, store_name):
    return pgstore.Queue.from_name(store_name, create_if_missing=True, client=client_elsewhere)


def test_peek_shows_the_oldest_and_takes_nothing(call, store):
    assert call(store.peek) == []
    store.put_many(["a", "b", "c"])
    store.put("other", partition="p")

    assert call(store.peek) == ["a"]
    assert call(store.peek, 2) == ["a", "b"]
    assert call(store.peek, 9, partition="p") == ["other"]
    assert store.len(total=True) == 4
    with pytest.raises(pgstore.InvalidError, match="peek"):
        call(store.peek, 0)


def test_iterate_gives_all_items_and_takes_nothing(call, store):
    store.put_many(range(5))

    assert call.iterate(store.iterate()) == list(range(5))
    assert call.iterate(store.iterate(partition="p")) == []
    assert store.len() == 5


def test_iterate_looks_anew_for_every_item(call, store):
    """
    What others have taken since is passed over: a page fetched ahead would make a consumer wait for items that are gone.
    """
    store.put_many(range(6))
    iterator = store.iterate()
    seen = call.iterate(iterator, items_max=1)

    store.get_many(4)

    assert [*seen, *call.iterate(iterator)] == [0, 4, 5]


def test_iterate_goes_on_after_a_position(call, store):
    store.put_many(range(5))
    iterator = store.iterate()
    call.iterate(iterator, items_max=2)

    assert call.iterate(store.iterate(after=iterator.position)) == [2, 3, 4]


@pytest.mark.parametrize("argument", ["timeout", "item_poll_timeout"])
def test_iterate_waits_for_a_further_item(call, store, store_elsewhere, argument):
    store.put("first")
    threading.Timer(0.15, store_elsewhere.put, ["late"]).start()

    assert call.iterate(store.iterate(**{argument: 20}), items_max=2) == ["first", "late"]
    assert call.iterate(store.iterate(**{argument: 0.05})) == ["first", "late"]


def test_iterate_in_a_transaction_sees_what_it_has_put(client, store, store_elsewhere):
    with client.transaction():
        store.put("mine")
        assert list(store.iterate()) == ["mine"]
        assert list(store_elsewhere.iterate()) == []


def test_iterate_goes_on_behind_a_damaged_item(call, store, sql):
    store.put_many(["bad", "good"])
    sql("UPDATE pgstore.queue_item SET payload = '\\x80' WHERE id = %s", next(_positions(store)))
    iterator = store.iterate()

    with pytest.raises(pgstore.DeserializationError):
        call.iterate(iterator)

    assert call.iterate(store.iterate(after=iterator.position)) == ["good"]


def test_bad_arguments_of_iterate_are_refused(store):
    with pytest.raises(pgstore.InvalidError, match="not both"):
        store.iterate(1, item_poll_timeout=1)
    with pytest.raises(pgstore.InvalidError, match="position"):
        store.iterate(after="7")
    with pytest.raises(pgstore.InvalidError, match="position"):
        store.iterate(after=1 << 63)
    with pytest.raises(pgstore.InvalidError, match="timeout"):
        store.iterate(-1)


def test_a_missing_queue_is_not_found_by_looking(call, client, store_name):
    missing = pgstore.Queue.from_name(store_name, client=client)

    for operation in (missing.peek, missing.clear):
        with pytest.raises(pgstore.NotFoundError):
            call(operation)
    with pytest.raises(pgstore.NotFoundError):
        call.iterate(missing.iterate())


def test_clear_says_that_a_queue_was_deleted_and_asks_once_for_all(call, client, store, monkeypatch):
    """
    One question of the beginning answers both: whether there is a Queue, and up to which item to clear.
    """
    store.put("item")
    queries = []
    original = Transaction.query

    def query(transaction, request):
        queries.append(request.statement)
        return original(transaction, request)

    monkeypatch.setattr(Transaction, "query", query)
    with client.transaction():
        store.clear()
    assert queries == [look.NEWEST, look.CLEAR, look.CLEAR, look.CLEAR_DELAYED]

    pgstore.Queue.objects.delete(store.name, client=client)
    with pytest.raises(pgstore.NotFoundError):
        call(store.clear)


def test_clear_empties_one_partition_or_all(call, store, monkeypatch):
    store.put_many(range(5))
    store.put_many(range(5), partition="a")
    store.put_many(range(5), partition="b")

    call(store.clear, partition="a")
    assert [store.len(), store.len(partition="a"), store.len(partition="b")] == [0 + 5, 0, 5]
    call(store.clear)
    assert [store.len(), store.len(partition="b")] == [0, 5]
    call(store.clear, all=True)

    assert store.len(total=True) == 0
    with pytest.raises(pgstore.InvalidError, match="not both"):
        call(store.clear, partition="a", all=True)


def test_clear_removes_more_than_one_statement_does(call, store):
    store.put_many(range(look.CLEAR_ITEMS + 1))

    call(store.clear)

    assert store.len() == 0


def test_clear_does_not_wait_for_an_item_in_the_hands_of_a_transaction(call, client_elsewhere, store, store_elsewhere):
    store.put_many(["held", "other"])

    with pytest.raises(RuntimeError), client_elsewhere.transaction():
        assert store_elsewhere.get() == "held"
        call(store.clear)
        raise RuntimeError

    assert store.peek(9) == ["held"]


def test_a_partition_key_is_validated_as_modal_does():
    assert pgstore.Queue.validate_partition_key("ü") == "ü".encode()
    assert pgstore.Queue.validate_partition_key(None) == b""
    with pytest.raises(pgstore.InvalidError, match="partition"):
        pgstore.Queue.validate_partition_key("x" * 65)


def test_partition_ttl_is_accepted_and_nothing_expires(call, store):
    call(store.put, "a", partition="p", partition_ttl=1)
    call(store.put_many, ["b"], partition="p", partition_ttl=1)

    assert store.peek(9, partition="p") == ["a", "b"]


def _positions(store):
    iterator = store.iterate()
    for _ in iterator:
        yield iterator.position
