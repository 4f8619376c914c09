"""Queue, both forms: order, waiting, what a transaction and a damaged item do."""

from __future__ import annotations

import decimal
import fractions
import queue as stdlib
import threading
import time
from typing import Any, ClassVar

import psycopg
import pytest

import pgstore
from pgstore.core.statement import Statement
from pgstore.errors import ValueTooLarge
from pgstore.queue import put, take


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


class Awkward:
    """Raises what it is told to when it is loaded."""

    raises: BaseException | None = None

    def __setstate__(self, state):
        if Awkward.raises is not None:
            raise Awkward.raises

    def __getstate__(self):
        return {"some": "state"}


FAILURES = [ValueError(), RecursionError(), MemoryError(), GeneratorExit(), StopIteration(), OSError()]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_whatever_loading_raises_get_gives_the_bytes_and_get_many_gives_all_back(call, store, monkeypatch, failure):
    """
    An object's own code can raise anything: it is one error, and nothing is lost over it.
    """
    call(store.put_many, ["a", Awkward(), "c"])
    monkeypatch.setattr(Awkward, "raises", failure)

    with pytest.raises(pgstore.DeserializationError) as caught:
        call(store.get_many, 3)
    assert b"Awkward" in caught.value.raw
    assert call(store.len) == 3
    assert call(store.get) == "a"
    with pytest.raises(pgstore.DeserializationError) as caught:
        call(store.get)

    assert b"Awkward" in caught.value.raw
    assert call(store.get) == "c"


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_what_a_signal_handler_raises_while_an_item_is_loaded_puts_it_back(store, monkeypatch, exception):
    """
    It stops the program, and is no reason to lose an item.
    """
    store.put_many([Awkward(), "b"])
    monkeypatch.setattr(Awkward, "raises", exception())

    for attempt in (store.get, lambda: store.get_many(2)):
        with pytest.raises(exception):
            attempt()

    assert store.len() == 2


DEPTH = 12_000  # above what any Python reads, and below what PostgreSQL does


@pytest.mark.parametrize(
    "json", ["[" * DEPTH + "]" * DEPTH, '{"a":' * DEPTH + "1" + "}" * DEPTH], ids=["lists", "objects"]
)
def test_json_nested_too_deeply_is_an_error_with_its_text(call, store, sql, json):
    """
    Postgres holds what Python's parser gives up on.
    """
    call(store.put, "first")
    _put_json(sql, store, json)
    call(store.put, "last")

    for attempt in (lambda: call(store.peek, 3), lambda: call(store.get_many, 3), lambda: call(store.get, lease=60)):
        with pytest.raises(pgstore.DeserializationError) as caught:
            lease = attempt()
            assert lease.item == "first"
            lease = attempt()
            lease.item  # noqa: B018
        assert caught.value.raw.replace(b" ", b"") == json.encode()
    assert call(store.get) == "last"


def test_json_numbers_of_any_length_are_items(call, store, sql):
    _put_json(sql, store, "1e5000")

    assert call(store.get) == 10**5000


def _put_json(sql, store, json):
    sql("SELECT pgstore.queue_put(%s::bigint, %s::jsonb)", int(store.hydrate().object_id.removeprefix("qu-")), json)


def test_items_put_back_keep_their_order_and_come_back_at_once(call, store, sql, monkeypatch):
    """
    In several statements where they are too large together for one, which is a transaction then.
    """
    monkeypatch.setattr(take, "BATCH_BYTES", 100)
    call(store.put_many, [f"{number}" * 60 for number in range(5)] + [Awkward()])
    monkeypatch.setattr(Awkward, "raises", ValueError())

    with pytest.raises(pgstore.DeserializationError):
        call(store.get_many, 6)

    transactions = "SELECT count(DISTINCT xmin::text) FROM pgstore.queue_item WHERE store_id = %s"
    assert sql(transactions, int(store.object_id.removeprefix("qu-"))) == [(1,)]
    assert [item[0] for item in call(store.get_many, 5)] == ["0", "1", "2", "3", "4"]


def test_items_put_back_in_a_transaction_leave_it_usable(client, store, store_elsewhere, monkeypatch):
    store.put_many(["a", Awkward()])
    monkeypatch.setattr(Awkward, "raises", ValueError())

    with client.transaction():
        with pytest.raises(pgstore.DeserializationError):
            store.get_many(2)
        store.put("c")

    assert store_elsewhere.get() == "a"
    assert store_elsewhere.len() == 2


@pytest.mark.parametrize("options", [{}, {"lease": 60}, {"durable": False}], ids=["plain", "lease", "not durable"])
def test_a_result_of_many_large_items_is_bounded(call, store, monkeypatch, options):
    """
    Else get_many(1000) of large ones takes the process with it.
    """
    statement = Statement(take.TAKE_MANY.sql.decode().replace("2147483648", "5000"), " ".join(take.TAKE_MANY.types))
    monkeypatch.setattr(take, "TAKE_MANY", statement)
    monkeypatch.setattr(take, "_TAKE_MANY", take._TAKE_MANY.replace("2147483648", "5000"))
    take.take_with_options.cache_clear()
    call(store.put_many, [bytes(1000)] * 20)

    first = call(store.get_many, 20, **options)

    assert len(first) == take.FIT_FOR_CERTAIN
    assert call(store.len) == 12
    take.take_with_options.cache_clear()


def test_a_joined_connection_bounds_the_result_too(client, store, database, sql):
    """
    By the function that takes there.
    """
    (body,) = sql("SELECT prosrc FROM pg_proc WHERE oid = 'pgstore.queue_take'::regproc")[0]

    assert "sum(octet_length(o.payload))" in body
    assert "2147483648" in body
    store.put_many(range(20))
    with psycopg.connect(database) as connection, client.transaction(connection=connection):
        assert store.get_many(20) == list(range(20))


# ------------------------------------------------------------------------------------------------------------- signing

KEY, OTHER_KEY = b"k" * 32, b"o" * 32


@pytest.fixture
def signing(database, store_name):
    """A Queue of a client with these keys."""
    clients = []

    def make(*keys):
        clients.append(pgstore.Client(database, signing_keys=keys))
        return pgstore.Queue.persist(store_name, client=clients[-1])

    yield make
    for client in clients:
        client.close()


class Trap:
    """Tells when it is loaded."""

    loaded: ClassVar[list[int]] = []

    def __reduce__(self):
        return Trap.loaded.append, (1,)


@pytest.fixture(autouse=True)
def _trap_is_open():
    Trap.loaded.clear()


def test_signed_items_make_the_round_trip_under_any_of_the_keys(call, signing, sql):
    """
    Rotation: the new key signs, the old one is still accepted.
    """
    old, new = signing(OTHER_KEY), signing(KEY, OTHER_KEY)
    call(old.put, "old")
    call(new.put_many, ["many", "more"])
    call(new.put, "delayed", delay=0.001)
    call(new.put, "keyed", idempotency_key="k")
    call(new.put, "loose", durable=False)

    found: set[str] = set()
    while len(found) < 6:
        found.update(call(new.get_many, 10))

    assert found == {"old", "many", "more", "delayed", "keyed", "loose"}


def test_an_unsigned_item_is_refused_before_it_is_loaded(call, store, signing):
    """
    Whoever may write to the table may not run code in those who read it.
    """
    guarded = signing(KEY)
    call(store.put_many, [Trap(), "b"])

    for attempt in (
        lambda: call(guarded.peek),
        lambda: call.iterate(guarded.iterate()),
        lambda: call(guarded.get_many, 2),
        lambda: call(guarded.get, lease=60).item,
        lambda: call(guarded.get),
    ):
        with pytest.raises(pgstore.DeserializationError, match="not signed") as caught:
            attempt()
        assert caught.value.raw
    assert not Trap.loaded


def test_a_changed_or_moved_item_is_refused_before_it_is_loaded(call, signing, store_name, sql):
    guarded = signing(KEY)
    elsewhere = pgstore.Queue.persist(f"{store_name}-other", client=guarded._runner)
    call(elsewhere.put, Trap())
    call(guarded.put, "item")
    number = int(guarded.object_id.removeprefix("qu-"))

    sql(
        "UPDATE pgstore.queue_item SET payload = set_byte(payload, 20, 1 + get_byte(payload, 20)) WHERE store_id = %s",
        number,
    )
    with pytest.raises(pgstore.DeserializationError, match="signed by none"):
        call(guarded.get)
    sql(
        "UPDATE pgstore.queue_item SET store_id = %s WHERE store_id = %s",
        number,
        int(elsewhere.object_id.removeprefix("qu-")),
    )
    with pytest.raises(pgstore.DeserializationError, match="signed by none"):
        call(guarded.get)
    assert not Trap.loaded


def test_an_item_moved_to_another_partition_is_refused_before_it_is_loaded(call, signing, sql):
    """
    What may be asked of one worker may not be asked of another.
    """
    guarded = signing(KEY)
    call(guarded.put_many, [Trap(), Trap()], partition="low")
    number = int(guarded.object_id.removeprefix("qu-"))
    for partition in ("", "high"):
        sql(
            "UPDATE pgstore.queue_item SET partition = %s WHERE store_id = %s AND id = (SELECT min(id) FROM "
            "pgstore.queue_item WHERE store_id = %s AND partition = 'low')",
            partition,
            number,
            number,
        )

    for attempt in (
        lambda: call(guarded.peek),
        lambda: call(guarded.get_many, 1, partition="high"),
        lambda: call(guarded.get, lease=60).item,
        lambda: call(guarded.get, partition="high"),
    ):
        with pytest.raises(pgstore.DeserializationError, match="signed by none"):
            attempt()
    assert not Trap.loaded


def test_signed_items_are_read_without_keys_and_shown_in_sql(call, store, signing, sql, store_name):
    """
    Keys are for those who want to be sure; JSON runs no code and needs none.
    """
    guarded = signing(KEY)
    call(guarded.put_many, [{"a": 1}, "b"])
    _put_json(sql, guarded, '{"c": 3}')

    shown = sql("SELECT item FROM pgstore.queue_items WHERE name = %s ORDER BY id", store_name)

    assert [item for (item,) in shown] == [{"a": 1}, "b", {"c": 3}]
    assert call(store.get_many, 2) == [{"a": 1}, "b"]
    assert call(guarded.get) == {"c": 3}


def test_signed_items_survive_leases_transactions_and_being_put_back(call, signing):
    guarded = signing(KEY)
    guarded.put_many(["a", "b"])
    call(call(guarded.get, lease=60).nack, 0)

    with guarded._runner.transaction():
        assert guarded.get() == "b"
        guarded.put("c")

    assert call(guarded.get_many, 5) == ["a", "c"]


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


class Two:
    """As `numpy.int64(2)`."""

    def __index__(self):
        return 2


class Tenth:
    """As `numpy.float32(0.1)`, and what is only a little like it."""

    def __float__(self):
        return 0.1


def test_a_number_is_what_can_be_one(call, store):
    for tenth in (Tenth(), fractions.Fraction(1, 10), decimal.Decimal("0.1")):
        with pytest.raises(stdlib.Empty):
            call(store.get, timeout=tenth)
        call(store.put, "item", delay=tenth)
        assert call(store.get, timeout=30) == "item"
    store.put_many(range(4))
    assert call(store.peek, Two()) == [0, 1]
    assert call(store.get_many, Two()) == [0, 1]
    bad: list[Any] = ["1", True, None, [], complex(1)]
    for no_number in bad:
        with pytest.raises(pgstore.InvalidError):
            call(store.peek, no_number)


def test_a_mistake_in_many_names_the_item(call, store):
    with pytest.raises(pgstore.SerializationError, match="item 2 of put_many"):
        call(store.put_many, [0, 1, threading.Lock()])
