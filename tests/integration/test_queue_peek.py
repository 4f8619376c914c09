"""Looking at a Queue without taking: peek, iterate, clear."""

from __future__ import annotations

import contextlib
import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

import pgstore
from pgstore.client.transaction import Transaction
from pgstore.queue import peek
from pgstore.queue import put as put_module


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


def test_a_queue_tells_its_size_as_that_of_the_standard_library_does(call, client, store_name):
    store = pgstore.Queue.from_name(store_name, create_if_missing=True, client=client, maxsize=2)
    assert (call(store.qsize), call(store.empty), call(store.full)) == (0, True, False)

    store.put("a")
    assert (call(store.qsize), call(store.empty), call(store.full)) == (1, False, False)
    assert (call(store.qsize, partition="p"), call(store.empty, partition="p")) == (0, True)
    store.put("b", partition="p")
    assert (call(store.qsize), call(store.empty), call(store.full)) == (1, False, True)
    with pytest.raises(queue.Full):
        store.put("c", block=False)
    store.get()
    assert (call(store.qsize), call(store.empty), call(store.full)) == (0, True, False)


def test_a_queue_without_an_end_is_never_full(call, store, client, store_name):
    store.put_many(range(3))

    assert not call(store.full)
    pgstore.Queue.objects.delete(store_name, client=client)
    for operation in (store.full, store.empty, store.qsize):
        with pytest.raises(pgstore.NotFoundError):
            call(operation)


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
    assert queries == [store._CLEAR_DELAYED, store._NEWEST, store._CLEAR, store._CLEAR]

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
    store.put_many(range(peek.CLEAR_ITEMS + 1))

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


# ------------------------------------------------------------------------------------------------- what is due


@pytest.fixture
def due(client, store_name, sql):
    """Queues with one item, which is due and which nobody has moved back: delayed, or leased by a worker that died."""

    def make(kind, **options):
        store = pgstore.Queue.from_name(store_name, create_if_missing=True, client=client, **options)
        store.put("item", delay=60 if kind == "delayed" else 0)
        if kind == "leased":
            store.get(lease=60)
        sql(
            "UPDATE pgstore.queue_deferred SET due_at = now() - interval '1 s' WHERE store_id = %s",
            int(store.object_id.partition("-")[2]),
        )
        return pgstore.Queue.from_name(store_name, client=client)

    return make


@pytest.mark.parametrize("kind", ["delayed", "leased"])
@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (lambda store, call: call(store.len), 1),
        (lambda store, call: call(store.len, total=True), 1),
        (lambda store, call: call(store.peek), ["item"]),
        (lambda store, call: list(store.iterate()), ["item"]),
        (lambda store, call: list(store.iterate(timeout=0.1)), ["item"]),
    ],
)
def test_what_is_due_is_seen_as_it_would_be_taken(call, due, kind, look, expected):
    """
    Who starts workers by the depth of a queue must see what a worker would get.
    """
    store = due(kind)

    assert look(store, call) == expected
    assert call(store.get, block=False) == "item"


@pytest.mark.parametrize("kind", ["delayed", "leased"])
def test_views_show_what_is_due_as_items(due, kind, sql, store_name):
    due(kind)

    assert sql("SELECT item FROM pgstore.queue_items WHERE name = %s", store_name) == [("item",)]
    assert sql(
        "SELECT depth, leased, delayed, dead, oldest_age IS NOT NULL FROM pgstore.queue_stats WHERE name = %s",
        store_name,
    ) == [(1, 0, 0, 0, True)]


@pytest.mark.parametrize("kind", ["delayed", "leased"])
def test_clear_takes_what_is_due(call, due, kind):
    store = due(kind)

    call(store.clear)

    assert call(store.len) == 0
    assert call(store.get, block=False) is None


def test_a_last_lease_that_has_ended_is_a_dead_letter_for_all(call, due, sql, store_name):
    store = due("leased", max_attempts=1)

    (letter,) = call(store.dead_letters)
    assert (letter.item, letter.reason) == ("item", "the lease ended")
    assert (call(store.len), call(store.peek), list(store.iterate())) == (0, [], [])
    assert sql("SELECT depth, leased, dead FROM pgstore.queue_stats WHERE name = %s", store_name) == [(0, 0, 1)]
    assert sql("SELECT id FROM pgstore.queue_items WHERE name = %s", store_name) == []
    call(store.clear)
    assert call(store.revive, letter) == 1
    assert call(store.get, block=False) == "item"


DEFER = """
    WITH gone AS (DELETE FROM pgstore.queue_item WHERE store_id = %(store)s RETURNING *)
    INSERT INTO pgstore.queue_deferred (store_id, put_at, due_at, attempts, kind, payload)
    SELECT store_id, put_at, now() - interval '1 s', 1, 'l', payload FROM gone
"""
RETURN = """
    WITH gone AS (DELETE FROM pgstore.queue_deferred WHERE store_id = %(store)s RETURNING *)
    INSERT INTO pgstore.queue_item (store_id, put_at, payload) SELECT store_id, put_at, payload FROM gone
"""
DIE = "UPDATE pgstore.queue_deferred SET kind = 'x', due_at = NULL WHERE store_id = %(store)s"
EXPIRE = "UPDATE pgstore.queue_deferred SET kind = 'l', due_at = now() - interval '1 s' WHERE store_id = %(store)s"


@pytest.fixture
def moving(database):
    """A block in which somebody else moves the only item of a Queue to and fro; it is always at one of two places."""

    @contextlib.contextmanager
    def moving(store, *steps):
        ended = threading.Event()

        def move():
            with psycopg.connect(database, autocommit=True) as connection:
                while not ended.is_set():
                    for step in steps:
                        connection.execute(step, {"store": int(store.object_id.partition("-")[2])})

        with ThreadPoolExecutor(1) as others:
            mover = others.submit(move)
            try:
                yield
            finally:
                ended.set()
                mover.result(30)

    return moving


@pytest.mark.parametrize("look", ["peek", "len"])
def test_an_item_that_comes_back_meanwhile_is_seen_once(call, store, moving, look):
    store.put("item")

    with moving(store, DEFER, RETURN):
        seen = [call(store.peek, 5) if look == "peek" else call(store.len) for _ in range(400)]

    assert seen == [["item"] if look == "peek" else 1] * 400


def test_a_letter_that_dies_meanwhile_is_seen_once(call, client, store_name, moving):
    mortal = pgstore.Queue.from_name(store_name, create_if_missing=True, client=client, max_attempts=1)
    mortal.put("item")
    mortal.get(lease=60).nack()

    with moving(mortal, EXPIRE, DIE):
        seen = [[letter.item for letter in call(mortal.dead_letters)] for _ in range(400)]

    assert seen == [["item"]] * 400


def test_an_item_that_comes_back_while_it_is_cleared_is_gone(call, store, moving, sql):
    """
    It is somewhere all the time, so whoever clears the queue has to find it.
    """
    store_id = int(store.hydrate().object_id.partition("-")[2])

    for _ in range(40):
        store.put("item")
        sql(DEFER.replace("%(store)s", "%s"), store_id)
        with moving(store, RETURN):
            call(store.clear)
        assert store.len() == 0


def test_what_another_brings_back_meanwhile_is_iterated_over(call, store, store_elsewhere, sql):
    store_id = int(store.hydrate().object_id.partition("-")[2])
    store_elsewhere.hydrate()
    store.put("item")

    with ThreadPoolExecutor(1) as others:
        for _ in range(100):
            sql(DEFER.replace("%(store)s", "%s"), store_id)
            store_elsewhere._runner.shared.clear()
            bringing = others.submit(store_elsewhere.get, block=False, partition="another")
            assert call.iterate(store.iterate()) == ["item"]
            bringing.result(30)


def test_dead_letters_are_found_by_an_index_of_their_own(client, store_name, sql):
    store = pgstore.Queue.from_name(store_name, create_if_missing=True, client=client)
    store.put_many(range(3000), delay=60)
    sql("ANALYZE pgstore.queue_deferred")

    store_id = int(store.object_id.partition("-")[2])
    plan = sql(
        "EXPLAIN SELECT id FROM pgstore.queue_deferred WHERE store_id = %s AND kind = 'x' ORDER BY id LIMIT 100",
        store_id,
    )

    assert any("queue_deferred_dead" in line for (line,) in plan)


# -------------------------------------------------------------------------------------- partitions that are emptied


@pytest.fixture
def lapse(sql):
    """Lets the time of all partitions of a Queue be over."""

    def end(store):
        store_id = int(store.object_id.partition("-")[2])
        rows = sql(
            "UPDATE pgstore.queue_lapse SET lapses_at = now() - interval '1 s' WHERE store_id = %s AND lapses_at > now()",
            store_id,
        )
        assert rows
        return store_id

    return end


@pytest.mark.parametrize("operation", ["put", "put_many"])
def test_a_partition_is_empty_after_its_time_for_all_who_look(call, store, store_elsewhere, sql, lapse, operation):
    put = getattr(store, operation)
    call(put, ["item"], partition="p", partition_ttl=60)
    call(put, ["item"], partition="p", partition_ttl=60, delay=30)
    store.put("other", partition="q")
    assert call(store.len, partition="p") == 1

    store_id = lapse(store)

    assert call(store.len, partition="p") == 0
    assert call(store.len, total=True) == 1
    assert call(store.peek, 5, partition="p") == []
    assert list(store.iterate(partition="p")) == []
    assert sql("SELECT item FROM pgstore.queue_items WHERE store_id = %s", store_id) == [("other",)]
    assert sql("SELECT depth FROM pgstore.queue_stats WHERE store_id = %s", store_id) == [(1,)]
    assert call(store_elsewhere.get, block=False, partition="p") is None
    assert call(store_elsewhere.get, block=False, partition="q") == "other"
    for table in ("queue_item", "queue_deferred", "queue_lapse"):
        assert sql(f"SELECT count(*) FROM pgstore.{table} WHERE store_id = %s", store_id) == [(0,)]


def test_a_later_put_prolongs_the_time_of_a_partition(call, store, store_elsewhere, sql):
    call(store.put, 1, partition="p", partition_ttl=1000)
    call(store.put, 2, partition="p", partition_ttl=5000)

    ((left,),) = sql(
        "SELECT extract(epoch FROM lapses_at - now()) FROM pgstore.queue_lapse WHERE store_id = %s",
        int(store.object_id.partition("-")[2]),
    )
    assert 4000 < left <= 5000
    assert call(store_elsewhere.get_many, 5, partition="p") == [1, 2]


@pytest.mark.parametrize("options", [{}, {"maxsize": 9}], ids=["unbounded", "bounded"])
@pytest.mark.parametrize("operation", ["put", "put_many"])
@pytest.mark.parametrize("in_transaction", [False, True], ids=["alone", "in a transaction"])
def test_a_put_whose_key_was_used_changes_no_time(client, store_name, sql, operation, options, in_transaction):
    """
    It does nothing: a partition whose producers only repeat themselves is emptied all the same.
    """
    store = pgstore.Queue.from_name(store_name, create_if_missing=True, client=client, **options)
    put, item = getattr(store, operation), ["item"]
    put(item, partition="p", partition_ttl=60, idempotency_key="k")
    store_id = int(store.object_id.partition("-")[2])
    before = sql("SELECT * FROM pgstore.queue_lapse WHERE store_id = %s", store_id)
    assert len(before) == 1

    with client.transaction() if in_transaction else contextlib.nullcontext():
        put(item, partition="p", partition_ttl=5000, idempotency_key="k")
        put(item, partition="never", partition_ttl=5000, idempotency_key="k")

    assert before == sql("SELECT * FROM pgstore.queue_lapse WHERE store_id = %s", store_id)
    assert store.len(total=True) == 1


def test_a_put_of_several_statements_gives_all_of_it_the_time(call, store, lapse, monkeypatch):
    monkeypatch.setattr(put_module, "BATCH_ITEMS", 2)
    call(store.put_many, range(5), partition="p", partition_ttl=60)

    lapse(store)

    assert call(store.len, partition="p") == 0


def test_what_is_put_after_the_time_stays(call, store, store_elsewhere, lapse):
    store.put_many([1, 2], partition="p", partition_ttl=60)
    store.put("for good", partition="q", partition_ttl=60)
    lapse(store)

    call(store.put, 3, partition="p", partition_ttl=60)
    call(store.put, 4, partition="q")

    assert call(store.peek, 5, partition="p") == [3]
    assert call(store.len, partition="q") == 1
    assert call(store_elsewhere.get_many, 5, partition="p") == [3]
    assert call(store_elsewhere.get_many, 5, partition="q") == [4]


def test_a_put_that_is_undone_leaves_the_time_as_it_was(client, store, sql):
    store.hydrate()
    with pytest.raises(ZeroDivisionError), client.transaction():
        store.put(1, partition="p", partition_ttl=60)
        1 / 0  # noqa: B018

    assert sql(
        "SELECT count(*) FROM pgstore.queue_lapse WHERE store_id = %s", int(store.object_id.partition("-")[2])
    ) == [(0,)]


@pytest.mark.parametrize("bad", [0, -1, "x", True, float("inf")])
def test_a_partition_ttl_is_a_time(call, store, bad):
    with pytest.raises(pgstore.InvalidError, match="partition_ttl"):
        call(store.put, 1, partition="p", partition_ttl=bad)
