"""The low watermark, below which a Queue has nothing left: gets start there, and it must never pass an item that is to come."""

from __future__ import annotations

import queue as stdlib
import random
import threading
import time

import psycopg
import pytest

import pgstore
from pgstore.admin.check import run_checks
from pgstore.admin.repair import repair
from pgstore.queue import watermark
from pgstore.queue.state import client_queues
from pgstore.queue.watermark import INSERT_LOCK_CLASS


@pytest.fixture(autouse=True)
def _advance_at_every_get(monkeypatch):
    monkeypatch.setattr(watermark, "ADVANCE_ITEMS", 1)


@pytest.fixture
def store(client, store_name):
    return pgstore.Queue.from_name(store_name, create_if_missing=True, client=client).hydrate()


@pytest.fixture
def store_elsewhere(client_elsewhere, store_name):
    return pgstore.Queue.from_name(store_name, create_if_missing=True, client=client_elsewhere)


@pytest.fixture
def head(sql):
    """A call that gives the watermark of a Queue, 0 without one."""

    def head(store):
        rows = sql("SELECT low FROM pgstore.queue_head WHERE store_id = %s AND partition = ''", number(store))
        return rows[0][0] if rows else 0

    return head


def partition_state(store):
    """What the client of a Queue knows of its default partition."""
    return client_queues(store._runner).queue(number(store)).partition("", store._runner.servers_seen)


def trust(store, value):
    """Let the client take *value* for the watermark, and not look for it."""
    partition_state(store).value = value
    partition_state(store).fresh_until = float("inf")


def number(store) -> int:
    return int(store.object_id.removeprefix("qu-"))


def work(store, times=3):
    """Puts and gets that raise the watermark as far as it may go."""
    for _ in range(times):
        store.put("work")
        assert store.get() == "work"


def test_the_watermark_follows_what_is_taken(call, store, head):
    """
    Else a get would pass the dead rows of all items taken since the oldest snapshot in the database.
    """
    store.put_many(range(100))
    call(store.get_many, 99)

    call(store.get)
    call(store.get, block=False)
    first = head(store)
    store.put("next")
    call(store.get)
    call(store.get, block=False)

    assert 0 < first < head(store)
    assert partition_state(store).value == head(store)


def test_an_item_of_a_transaction_that_commits_late_is_not_passed(call, client_elsewhere, store, store_elsewhere):
    """
    Its id is below those that are taken meanwhile; the lock says that it may be on its way.
    """
    with client_elsewhere.transaction():
        store_elsewhere.put("late")
        for _ in range(3):
            call(store.put, "work")
            assert call(store.get) == "work"

    assert call(store.get, timeout=0) == "late"


@pytest.mark.parametrize("way", ["sql", "many", "ordered", "lease", "revive"])
def test_every_way_in_is_counted_as_inserting(client_elsewhere, store, store_elsewhere, way):
    store.put("late")
    lease = store.get(lease=60)
    lease._store = store_elsewhere
    if way == "revive":
        with client_elsewhere.transaction() as tx:
            tx.connection.execute(
                "UPDATE pgstore.queue_deferred SET kind = 'x', due_at = NULL WHERE store_id = %s", [number(store)]
            )
    ways = {
        "sql": lambda tx: tx.connection.execute("SELECT pgstore.queue_put(%s, '\"late\"')", [store.name]),
        "many": lambda tx: store_elsewhere.put_many(["late"]),
        "ordered": lambda tx: store_elsewhere.put("late", ordered=True),
        "lease": lambda tx: lease.nack(0),
        "revive": lambda tx: store_elsewhere.revive(),
    }

    with client_elsewhere.transaction() as tx:
        ways[way](tx)
        work(store)

    assert store.get(timeout=0) == "late"


def test_an_item_that_a_rolled_back_get_gives_back_is_not_passed(call, client_elsewhere, store, store_elsewhere):
    """
    While it is taken it is still to be seen, and holds the watermark back.
    """
    store.put("held")
    with pytest.raises(RuntimeError), client_elsewhere.transaction():
        assert store_elsewhere.get() == "held"
        for _ in range(3):
            call(store.put, "work")
            assert call(store.get) == "work"
        raise RuntimeError

    assert call(store.get, timeout=0) == "held"


@pytest.mark.parametrize("connections_max", [1, 2])
def test_a_transaction_does_not_pass_what_it_has_itself_taken(database, store, connections_max):
    """
    To itself the item is gone for good; with a single connection there is no other to look from.
    """
    with pgstore.Client(database, connections_max=connections_max) as client:
        mine = pgstore.Queue.from_name(store.name, client=client)
        assert (
            mine.get(block=False, partition="other") is None
        )  # so that nothing but the items is taken in the transaction
        store.put_many(["held", "a", "b"])
        with pytest.raises(RuntimeError), client.transaction():
            assert [mine.get() for _ in range(3)] == ["held", "a", "b"]
            assert mine.get(block=False) is None
            raise RuntimeError

        assert mine.get_many(9, timeout=0) == ["held", "a", "b"]


def test_an_empty_get_in_an_open_transaction_does_not_hold_the_watermark_back(
    client_elsewhere, store, store_elsewhere, head
):
    """
    As it would if the lock of the table were asked who inserts: a waiting consumer has that as well.
    """
    with client_elsewhere.transaction() as tx:
        tx.connection.execute("SELECT 1")
        assert store_elsewhere.get(block=False) is None
        work(store)

        assert head(store) > 0


@pytest.mark.filterwarnings("ignore::pgstore.exception.AsyncUsageWarning")
def test_an_item_put_back_lies_above_the_watermark(call, store, store_elsewhere, sql):
    """
    At its old place nobody would find it: with it gone others have raised the watermark.
    """
    store.put_many(["bad", "good"])
    sql("UPDATE pgstore.queue_item SET payload = '\\x80' WHERE store_id = %s AND payload LIKE '%%bad%%'", number(store))
    original = store._put_back

    def put_back(*arguments):
        work(store_elsewhere)
        return original(*arguments)

    store._put_back = put_back
    with pytest.raises(pgstore.DeserializationError):
        call(store.get_many, 2)

    assert store_elsewhere.len() == 2
    with pytest.raises(pgstore.DeserializationError):
        store_elsewhere.get(timeout=0)
    assert store_elsewhere.get(timeout=0) == "good"


def test_who_inserts_is_known_and_waits_for_nobody_also_where_a_stranger_holds_its_lock(store, database, sql):
    """
    Every login of the database may hold an advisory lock. An id that nobody knows of would be passed, and its item lost.
    """
    puts = {
        "put": lambda _: store.put(1),
        "many": lambda _: store.put_many([1, 2]),
        "terms": lambda _: store.put(1, ordered=True),
        "sql": lambda connection: connection.execute("SELECT pgstore.queue_put(%s, '1')", [store.name]),
    }
    for put in puts.values():
        with psycopg.connect(database) as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", [INSERT_LOCK_CLASS, number(store) % 2**31])
            with store._runner.transaction() as tx:
                put(tx.connection)
                assert sql(ADVANCE, number(store)) == [(None,)]
        store.clear()
        assert sql(ADVANCE, number(store)) != [(None,)]


ADVANCE = "SELECT low FROM pgstore.queue_advance(%s, '', NULL, NULL, NULL)"


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_the_watermark_is_not_raised_by_what_an_old_snapshot_sees(store, database, level):
    with psycopg.connect(database) as connection:
        connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level.upper()}")
        assert connection.execute(ADVANCE, [number(store)]).fetchone() == (None,)


def test_a_sequence_that_was_never_used_has_no_id_to_pass(own_database):
    """
    Its last value is then the one that comes next.
    """
    with pgstore.Client(own_database) as client, psycopg.connect(own_database, autocommit=True) as connection:
        queue = pgstore.Queue.persist("queue", client=client).hydrate()
        connection.execute(ADVANCE, [number(queue)])

        queue.put("first")

        assert queue.get(timeout=0) == "first"


def test_a_watermark_is_forgotten_with_the_server_that_it_was_of(call, client, store, store_elsewhere):
    """
    One that takes over after a failover may give out ids again that the old one gave out last.
    """
    work(store)
    trust(store, 1 << 60)
    store_elsewhere.put("item")
    assert call(store.get, block=False) is None

    client.note_server(None)

    assert call(store.get, timeout=0) == "item"


def test_a_waiting_get_forgets_it_too(call, client, store, store_elsewhere):
    work(store)
    trust(store, 1 << 60)
    threading.Timer(0.2, client.note_server, [None]).start()
    threading.Timer(0.4, store_elsewhere.put, ["item"]).start()

    assert call(store.get, timeout=20) == "item"


def test_a_watermark_begun_on_another_server_is_not_raised_to_its_ids(store, sql, head):
    sql("SELECT low FROM pgstore.queue_advance(%s, '', %s, '{}', 'another server')", number(store), 1 << 60)

    assert head(store) < 1 << 60
    store.put("item")
    assert store.get(timeout=0) == "item"


def test_a_callers_connection_keeps_its_planner_settings(client, store, database):
    """
    There the function brings its own: a plan with a sequential scan, cached while the queue was empty, would stay.
    """
    store.put_many(["first", "second"])
    with psycopg.connect(database) as connection:
        with client.transaction(connection):
            assert store.get() == "first"
        assert connection.execute("SHOW enable_seqscan").fetchone() == ("on",)
        connection.rollback()

    assert store.get_many(9) == ["first", "second"]


# ------------------------------------------------------------------------------------------------------------ repair


@pytest.fixture
def check():
    """A call that tells which checks find something, and one that repairs what they found."""

    def check(url):
        report = run_checks(url)
        assert not report.failures
        return {finding.check: finding for finding in report.findings}

    return check


def rewind(connection, sequence):
    """As on a server that was fed by logical replication."""
    connection.execute(f"ALTER SEQUENCE pgstore.{sequence} RESTART")


def test_sequences_behind_ids_in_use_are_found_and_repaired(own_database, check):
    """
    What is put meanwhile would have an id that the watermark has passed, or that a row has.
    """
    with pgstore.Client(own_database) as client, psycopg.connect(own_database, autocommit=True) as connection:
        queue = pgstore.Queue.persist("queue", client=client).hydrate()
        work(queue, times=20)
        queue.put_many([1, 2], partition="other")
        queue.get(partition="other", lease=60)
        assert check(own_database) == {}

        for sequence in ("queue_item_id_seq", "queue_deferred_id_seq"):
            rewind(connection, sequence)
        found = check(own_database)
        assert set(found["sequences"].of("of")) == {"queue_head.low", "queue_item.id", "queue_deferred.id"}
        assert [done.kept for done in repair(client, list(found.values()))] == [False]

        assert check(own_database) == {}
        queue.put("after")
        assert queue.get(timeout=0) == "after"
        assert queue.get(partition="other", lease=60).item == 2


def test_items_below_the_watermark_are_found_and_come_out_in_their_order(call, own_database, check):
    """
    They were put while the sequence was behind. What was there before, above the watermark, comes first.
    """
    client = call.client(own_database)
    with pgstore.Client(own_database) as other, psycopg.connect(own_database, autocommit=True) as connection:
        queue = pgstore.Queue.from_name("queue", create_if_missing=True, client=client)
        work(pgstore.Queue.from_name("queue", client=other, create_if_missing=True), times=20)
        call(queue.put, "before")
        call(queue.put, "elsewhere", partition="p")
        rewind(connection, "queue_item_id_seq")
        call(queue.put_many, ["A", "B"])
        call(queue.put, "C")
        assert call(queue.get_many, 9, block=False) == ["before"]
        found = check(own_database)
        assert found["queue_watermarks"].of("items") == [3]

        done = list(repair(other, list(found.values())))

        assert [each.what for each in done][1:] == ["3 items below the watermark put at the end of partition ''"]
        assert check(own_database) == {}
        call(queue.put, "after")
        assert call(queue.get_many, 9, block=False) == ["A", "B", "C", "after"]
        assert call(queue.get, partition="p") == "elsewhere"


def test_items_below_the_watermark_alone_are_found(own_database, check):
    """
    The sequence has been set right without looking at what was put before.
    """
    with pgstore.Client(own_database) as client, psycopg.connect(own_database, autocommit=True) as connection:
        queue = pgstore.Queue.persist("queue", client=client).hydrate()
        work(queue, times=20)
        connection.execute(
            "INSERT INTO pgstore.queue_item (store_id, id, payload, codec) VALUES (%s, 1, '1', 'j')", [number(queue)]
        )
        found = check(own_database)
        assert set(found) == {"queue_watermarks"}
        waiter = threading.Thread(target=lambda: taken.append(queue.get(timeout=20)))
        taken: list[object] = []
        waiter.start()

        list(repair(client, list(found.values())))

        waiter.join()
        assert taken == [1]
        assert check(own_database) == {}


def test_nobody_puts_while_items_are_moved(own_database, check):
    """
    An item of a put that has not committed would be missed, and lie below the watermark for ever.
    """
    with (
        pgstore.Client(own_database) as client,
        psycopg.connect(own_database, autocommit=True) as connection,
        psycopg.connect(own_database) as putting,
        pgstore.Client(own_database) as elsewhere,
    ):
        queue = pgstore.Queue.persist("queue", client=client).hydrate()
        work(queue, times=20)
        rewind(connection, "queue_item_id_seq")
        found = check(own_database)
        putting.execute(
            "INSERT INTO pgstore.queue_item (store_id, payload, codec) VALUES (%s, '2', 'j')", [number(queue)]
        )
        repairing = threading.Thread(target=lambda: list(repair(elsewhere, list(found.values()))))
        repairing.start()
        repairing.join(0.3)
        assert repairing.is_alive()
        putting.commit()
        repairing.join()

        assert check(own_database) == {}
        assert queue.get(timeout=0) == 2


def test_nothing_is_lost_or_doubled(database, store, head):
    """
    Slow commits, rolled back puts and gets, and a consumer whose connection is killed with items in hand.
    """
    put: list[tuple[int, int]] = []
    taken: list[tuple[int, int]] = []
    failures: list[BaseException] = []
    lock = threading.Lock()
    producing = threading.Event()

    def produce(producer):
        rng = random.Random(producer)
        with pgstore.Client(database) as client:
            queue = pgstore.Queue.from_name(store.name, client=client)
            for start in range(0, 150, 3):
                items = [(producer, start + offset) for offset in range(3)]
                try:
                    with client.transaction():
                        queue.put_many(items)
                        time.sleep(rng.choice([0, 0, 0.001, 0.02]))
                        if rng.random() < 0.1:
                            raise ZeroDivisionError
                except ZeroDivisionError:
                    queue.put_many(items)
                with lock:
                    put.extend(items)

    def consume(consumer):
        rng = random.Random(100 + consumer)
        with pgstore.Client(database) as client:
            queue = pgstore.Queue.from_name(store.name, client=client)
            while True:
                ended = producing.is_set()
                try:
                    with client.transaction() as tx:
                        items = queue.get_many(rng.choice([1, 2, 7]), block=False)
                        if items and rng.random() < 0.1:
                            time.sleep(rng.choice([0, 0.02]))
                            raise ZeroDivisionError
                        if items and consumer == 0 and rng.random() < 0.05:
                            tx.connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
                except (ZeroDivisionError, psycopg.OperationalError, pgstore.errors.StoreUnavailable):
                    continue
                with lock:
                    taken.extend(items)
                if not items:
                    if ended:
                        return
                    time.sleep(0.002)

    def guard(function, argument):
        try:
            function(argument)
        except BaseException as exc:
            failures.append(exc)

    producers = [threading.Thread(target=guard, args=(produce, i)) for i in range(4)]
    consumers = [threading.Thread(target=guard, args=(consume, i)) for i in range(4)]
    for thread in producers + consumers:
        thread.start()
    for thread in producers:
        thread.join()
    producing.set()
    for thread in consumers:
        thread.join()
    with pytest.raises(stdlib.Empty):
        while True:
            taken.extend(store.get_many(100, timeout=0))

    assert failures == []
    assert sorted(taken) == sorted(put)
    assert len(put) == 600
    assert head(store) > 0
