"""Queues from SQL: what is in them, and items that SQL puts for Python."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

import pgstore


@pytest.fixture
def store(client, store_name):
    return pgstore.Queue.from_name(store_name, create_if_missing=True, client=client).hydrate()


@pytest.mark.parametrize("item", [None, True, 1, 1.5, "ä\n", [1, [2]], {"a": {"b": None}}])
def test_what_sql_puts_python_takes_as_plain_objects(call, store, sql, item):
    sql("SELECT pgstore.queue_put(%s, %s)", store.name, Jsonb(item))
    sql("SELECT pgstore.queue_put(%s, %s, 'p')", store.name, Jsonb([item]))

    assert call(store.get, timeout=0) == item
    assert call(store.get, timeout=0, partition="p") == [item]


def test_sql_puts_by_id_and_into_another_environment(call, client, store, store_name, sql):
    elsewhere = pgstore.Queue.from_name(store_name, environment_name="other", create_if_missing=True, client=client)
    elsewhere.hydrate()

    sql("SELECT pgstore.queue_put(%s::bigint, '1')", int(store.object_id.removeprefix("qu-")))
    sql("SELECT pgstore.queue_put(%s, '2', '', 'other')", store_name)

    assert call(store.get_many, 9) == [1]
    assert call(elsewhere.get_many, 9) == [2]


def test_a_put_of_sql_wakes_a_waiting_get(call, store, database):
    def put():
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("SELECT pgstore.queue_put(%s, '{\"a\": 1}')", [store.name])

    threading.Timer(0.15, put).start()

    assert call(store.get, timeout=20) == {"a": 1}


@pytest.mark.parametrize(
    ("arguments", "sqlstate"),
    [
        (("no such queue", Jsonb(1)), "P0002"),
        ((None, Jsonb(1)), "P0002"),
        (("{name}", None), "22004"),
        (("{name}", Jsonb(1), None), "22004"),
        (("{name}", Jsonb(1), "x" * 65), "42622"),
    ],
)
def test_a_bad_put_of_sql_is_refused(store, sql, arguments, sqlstate):
    given = [store.name if argument == "{name}" else argument for argument in arguments]

    with pytest.raises(psycopg.Error) as caught:
        sql(f"SELECT pgstore.queue_put({', '.join(['%s'] * len(given))})", *given)

    assert caught.value.sqlstate == sqlstate


@pytest.mark.parametrize("position", range(4))
def test_a_take_of_sql_without_an_argument_takes_nothing(store, sql, position):
    """
    LIMIT NULL is no limit: it would take all.
    """
    store.put_many(range(3))
    arguments: list[Any] = [int(store.object_id.partition("-")[2]), "", 1, 0]
    arguments[position] = None

    with pytest.raises(psycopg.errors.NullValueNotAllowed, match="queue_take must not be NULL"):
        sql("SELECT * FROM pgstore.queue_take(%s, %s, %s, %s)", *arguments)

    assert store.len() == 3


@pytest.mark.parametrize("kind", ["deleted", "a Dict", "none"])
def test_sql_by_the_id_of_no_queue_does_nothing(client, store, store_name, sql, kind):
    store.put("item")
    entries = pgstore.Dict.from_name(store_name, create_if_missing=True, client=client).hydrate()
    number = {"deleted": store, "a Dict": entries}.get(kind)
    store_id = -1 if number is None else int(number.object_id.partition("-")[2])
    if kind == "deleted":
        pgstore.Queue.objects.delete(store.name, client=client)

    assert sql("SELECT * FROM pgstore.queue_take(%s, '', 1, 0)", store_id) == []
    with pytest.raises(psycopg.errors.NoDataFound, match=f"no Queue with id {store_id}"):
        sql("SELECT pgstore.queue_put(%s::bigint, '1')", store_id)
    assert sql("SELECT count(*) FROM pgstore.queue_item WHERE store_id = %s", store_id) == [(0,)]


def test_the_view_shows_items_of_either_side(store, sql):
    store.put({"from": ["Python", 1.5]})
    store.put(object, partition="p")
    sql('SELECT pgstore.queue_put(%s, \'{"from": "SQL"}\')', store.name)

    rows = sql(
        "SELECT environment, partition, item, attempts, size_bytes > 0 FROM pgstore.queue_items WHERE name = %s ORDER BY id",
        store.name,
    )

    assert [row[1:3] for row in rows] == [("", {"from": ["Python", 1.5]}), ("p", rows[1][2]), ("", {"from": "SQL"})]
    assert {(row[0], row[3], row[4]) for row in rows} == {("main", 0, True)}


def test_statistics_count_what_can_be_taken(store, sql):
    look = "SELECT depth, oldest_age >= '0', leased, delayed, dead FROM pgstore.queue_stats WHERE name = %s"
    assert sql(look, store.name) == [(0, None, 0, 0, 0)]
    store.put_many(range(3))

    assert sql(look, store.name) == [(3, True, 0, 0, 0)]


def test_how_much_a_queue_holds_counts_what_is_due(store, sql):
    """
    As `len` does: what has come back can be taken, whether or not a get has moved it yet.
    """
    store_id = int(store.object_id.removeprefix("qu-"))
    held = "SELECT entries, size_bytes FROM pgstore.store_sizes WHERE store_id = %s"
    store.put(b"now")
    store.put(b"later", delay=3600)
    (before,) = sql(held, store_id)
    assert before[0] == store.len() == 1

    sql("UPDATE pgstore.queue_deferred SET due_at = statement_timestamp() WHERE store_id = %s", store_id)

    (after,) = sql(held, store_id)
    assert after[0] == store.len() == 2
    assert after[1] > before[1] > 0


def test_a_trigger_feeds_a_worker(call, store, sql):
    """
    The README's example. An order that is rolled back was never there.
    """
    sql("CREATE TABLE trigger_orders (id int PRIMARY KEY, customer text)")
    sql(
        f"""
        CREATE FUNCTION enqueue_trigger_order() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pgstore.queue_put('{store.name}', to_jsonb(NEW));
            RETURN NULL;
        END $$
        """
    )
    sql("CREATE TRIGGER enqueue AFTER INSERT ON trigger_orders FOR EACH ROW EXECUTE FUNCTION enqueue_trigger_order()")
    try:
        sql("INSERT INTO trigger_orders VALUES (1, 'Ada'), (2, 'Bob')")
        sql(
            "DO 'BEGIN INSERT INTO trigger_orders VALUES (3, NULL); RAISE EXCEPTION $$no$$; EXCEPTION WHEN OTHERS THEN END'"
        )

        assert call(store.get_many, 9) == [{"id": 1, "customer": "Ada"}, {"id": 2, "customer": "Bob"}]
    finally:
        sql("DROP TABLE trigger_orders")
        sql("DROP FUNCTION enqueue_trigger_order")
