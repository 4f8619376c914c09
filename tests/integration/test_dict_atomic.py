"""What Dict does in one step: increments, comparisons, defaults, mutations; and entries that expire."""

from __future__ import annotations

import asyncio
import contextlib
import fractions
import math
import multiprocessing
import operator
import sys
import threading
import time
from typing import Any

import psycopg
import pytest

import pgstore
from pgstore.core.operation import Query
from pgstore.core.statement import Statement
from pgstore.dict import base, take


@pytest.fixture
def store(client, store_name):
    return pgstore.Dict.from_name(store_name, create_if_missing=True, client=client)


@pytest.fixture
def store_elsewhere(client_elsewhere, store_name):
    return pgstore.Dict.from_name(store_name, create_if_missing=True, client=client_elsewhere)


def entry_id(store):
    return int(store.hydrate().object_id.removeprefix("di-"))


def expire(sql, store, key):
    sql(
        "UPDATE pgstore.dict_entry SET expires_at = now() - interval '1 s' WHERE store_id = %s AND key = %s",
        entry_id(store),
        key,
    )


# --------------------------------------------------------------------------------------------------------- increments


def test_increment_adds_and_starts_from_nothing(call, store):
    assert call(store.increment, "k") == 1
    assert call(store.increment, "k", 5) == 6
    assert call(store.increment, "k", -10) == -4
    assert call(store.get, "k") == -4
    assert type(call(store.get, "k")) is int


def test_adding_a_float_makes_a_float_and_it_stays_one(call, store):
    call(store.increment, "k", 1)

    assert call(store.increment, "k", 0.5) == 1.5
    assert call(store.increment, "k", 1) == 2.5
    assert type(call(store.get, "k")) is float


def test_what_is_no_number_cannot_be_incremented_and_stays(call, store):
    call(store.put, "text", "x")
    call(store.put, "flag", True)

    for key in ("text", "flag"):
        with pytest.raises(pgstore.InvalidError, match="not an int or float"):
            call(store.increment, key)
    assert call(store.get, "text") == "x"
    for by in ("1", None, True, 1j):
        with pytest.raises(pgstore.InvalidError, match="int or a float"):
            call(store.increment, "k", by)


def test_a_sum_beyond_64_bits_is_an_overflow_error_and_changes_nothing(call, store):
    call(store.put, "k", 2**63 - 1)

    with pytest.raises(OverflowError, match="64 bits"):
        call(store.increment, "k")
    with pytest.raises(OverflowError):
        call(store.increment, "k", 2**63)
    assert call(store.get, "k") == 2**63 - 1


def test_an_expired_number_is_incremented_from_nothing(call, store, sql):
    call(store.put, "k", 5)
    expire(sql, store, "k")

    assert call(store.increment, "k") == 1
    assert call(store.get, "k") == 1


def _increment(url, name, times):
    with pgstore.Client(url) as client:
        store = pgstore.Dict.from_name(name, client=client)
        for _ in range(times):
            store.increment("k")


def test_eight_processes_lose_no_increment(store, store_name, database):
    store.put("k", 0)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_increment, args=(database, store_name, 1000)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0] * 8
    assert store["k"] == 8000


# ---------------------------------------------------------------------------------------------- revisions, comparisons


def test_every_write_has_a_revision_of_its_own(call, store):
    call(store.put, "k", 1)
    first = call(store.get_entry, "k")
    call(store.put, "k", 1)
    second = call(store.get_entry, "k")

    assert first.value == second.value == 1
    assert first.revision != second.revision
    assert first.updated_at.tzinfo is not None
    assert first.expires_at is None
    assert call(store.get_entry, "nope") is None


def test_put_if_revision_writes_only_over_what_was_seen(call, store, store_elsewhere):
    call(store.put, "k", "a")
    seen = call(store.get_entry, "k").revision
    store_elsewhere.put("k", "b")

    assert call(store.put, "k", "c", if_revision=seen) is False
    assert call(store.put, "k", "c", if_revision=call(store.get_entry, "k").revision) is True
    assert call(store.get, "k") == "c"


def test_a_value_changed_and_changed_back_is_not_taken_for_unchanged(call, store):
    """
    No ABA: also not after a delete.
    """
    call(store.put, "k", "a")
    seen = call(store.get_entry, "k").revision
    call(store.pop, "k")
    call(store.put, "k", "a")

    assert call(store.put, "k", "mine", if_revision=seen) is False


def test_revision_zero_stands_for_nothing_there(call, store, sql):
    assert call(store.put, "k", 1, if_revision=0) is True
    assert call(store.put, "k", 2, if_revision=0) is False
    expire(sql, store, "k")
    assert call(store.put, "k", 3, if_revision=0) is True
    for bad in ("1", 1.0, True):
        with pytest.raises(pgstore.InvalidError, match="revision"):
            call(store.put, "k", 1, if_revision=bad)
    with pytest.raises(pgstore.InvalidError, match="not both"):
        call(store.put, "k", 1, if_revision=5, skip_if_exists=True)


def test_compare_and_set(call, store):
    assert call(store.compare_and_set, "k", None, "a") is True
    assert call(store.compare_and_set, "k", None, "b") is False
    assert call(store.compare_and_set, "k", "x", "b") is False
    assert call(store.compare_and_set, "k", "a", "b") is True
    assert call(store.get, "k") == "b"


def test_of_many_that_compare_with_the_same_value_one_succeeds(store, store_elsewhere):
    store["k"] = 0
    won = []

    def attempt(handle, mine):
        if handle.compare_and_set("k", 0, mine):
            won.append(mine)

    threads = [threading.Thread(target=attempt, args=((store, store_elsewhere)[i % 2], i + 1)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert won == [store["k"]]


def test_setdefault_stores_only_where_there_is_nothing(call, store, sql):
    assert call(store.setdefault, "k", [1]) == [1]
    assert call(store.setdefault, "k", [2]) == [1]
    assert call(store.setdefault, "n") is None
    assert call(store.contains, "n")
    expire(sql, store, "k")
    assert call(store.setdefault, "k", 3) == 3


def test_popitem_takes_the_last_key_until_none_is_left(call, store):
    call(store.update, {"a": 1, "b": 2})

    assert call(store.popitem) == ("b", 2)
    assert call(store.popitem) == ("a", 1)
    with pytest.raises(KeyError, match="empty"):
        call(store.popitem)


def test_popitem_waits_for_an_entry_that_is_being_changed_if_there_is_no_other(client, store, store_elsewhere):
    store.update({"a": 1, "b": 2})
    taken = []

    with client.transaction():
        store["b"] = 3
        assert store_elsewhere.popitem() == ("a", 1)
        thread = threading.Thread(target=lambda: taken.append(store_elsewhere.popitem()))
        thread.start()
        time.sleep(0.2)
        assert taken == []
    thread.join()

    assert taken == [("b", 3)]
    with pytest.raises(KeyError):
        store.popitem()


def test_get_many_and_pop_many_give_those_that_are_there(call, store, sql):
    call(store.update, {"a": 1, 2: "two", "c": None, "old": 1})
    expire(sql, store, "old")

    assert call(store.get_many, ["a", 2.0, "nope", "c", "old"]) == {"a": 1, 2.0: "two", "c": None}
    assert call(store.pop_many, ["a", "nope", "old"]) == {"a": 1}
    assert call(store.get_many, []) == {} == call(store.pop_many, [])
    assert sorted(map(str, call(store.keys))) == ["2", "c"]


# ------------------------------------------------------------------------------------------------------------- mutate


def test_mutate_changes_a_value_in_place(store):
    with store.mutate("k", []) as entry:
        assert not entry.existed
        entry.value.append(1)
    with store.mutate("k") as entry:
        assert entry.existed
        entry.value.append(2)

    assert store["k"] == [1, 2]


def test_mutate_works_asynchronously(client, store):
    async def work():
        for number in range(3):
            async with store.mutate("k", []) as entry:
                entry.value.append(number)
        await client.aclose()

    asyncio.run(work())

    assert store["k"] == [0, 1, 2]


def test_an_exception_in_mutate_leaves_the_value_and_absence_as_they_were(store):
    store["k"] = [1]
    for key in ("k", "new"):
        with pytest.raises(RuntimeError), store.mutate(key, []) as entry:
            entry.value.append(2)
            raise RuntimeError

    assert store.items() == [("k", [1])]


def test_mutate_can_delete(store, sql):
    store["k"] = 1
    for key in ("k", "never was"):
        with store.mutate(key) as entry:
            entry.delete()

    assert store.len() == 0
    assert sql("SELECT count(*) FROM pgstore.dict_entry WHERE store_id = %s", entry_id(store)) == [(0,)]


@pytest.mark.parametrize("start", [None, []])
def test_mutations_of_one_key_come_one_after_the_other(store, store_elsewhere, start):
    """
    Also of a key that is not there yet, which has no row to lock.
    """
    if start is not None:
        store["k"] = start

    def add(handle, number):
        for _ in range(10):
            with handle.mutate("k", []) as entry:
                entry.value = [*entry.value, number]

    threads = [threading.Thread(target=add, args=(handle, i)) for i, handle in enumerate((store, store_elsewhere) * 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(store["k"]) == sorted([0, 1, 2, 3] * 10)


def test_mutate_takes_part_in_the_current_transaction(client, store):
    with pytest.raises(RuntimeError), client.transaction():
        with store.mutate("k", 0) as entry:
            entry.value += 1
        assert store["k"] == 1
        raise RuntimeError

    assert "k" not in store


# ---------------------------------------------------------------------------------------------------------------- ttl


def test_an_entry_expires_after_its_time_to_live(call, store):
    call(store.put, "short", 1, ttl=0.5)
    call(store.put, "long", 2, ttl=60)
    call(store.update, {"also short": 3}, ttl=0.5)
    call(store.increment, "count", ttl=0.5)
    call(store.setdefault, "default", 4, ttl=0.5)
    assert call(store.len) == 5

    time.sleep(0.6)

    assert call(store.keys) == ["long"]
    assert call(store.get_entry, "long").expires_at is not None


def test_of_equal_keys_the_first_stays_until_it_has_expired(store, sql):
    store[1] = "a"
    store[1.0] = "b"
    assert [type(key) for key in store] == [int]

    expire(sql, store, "\x01i1")
    store[1.0] = "c"

    assert [type(key) for key in store] == [float]


def test_a_put_without_ttl_makes_the_entry_stay(call, store):
    call(store.put, "k", 1, ttl=60)
    call(store.put, "k", 2)

    assert call(store.get_entry, "k").expires_at is None


def test_an_increment_keeps_the_expiry_that_the_entry_has(call, store):
    call(store.increment, "k", ttl=60)
    before = call(store.get_entry, "k").expires_at
    call(store.increment, "k", ttl=1)

    assert call(store.get_entry, "k").expires_at == before


def test_touch_sets_the_expiry_anew(call, store):
    call(store.put, "k", 1)

    assert call(store.touch, "k", 60) is True
    assert call(store.get_entry, "k").expires_at is not None
    assert call(store.touch, "k", float("inf")) is True
    assert call(store.get_entry, "k").expires_at is None
    assert call(store.touch, "nope", 60) is False


def test_a_dicts_own_ttl_holds_for_puts_that_say_nothing(call, client, store_name):
    store = pgstore.Dict.from_name(store_name, create_if_missing=True, ttl=60, client=client)
    call(store.put, "default", 1)
    call(store.put, "own", 1, ttl=float("inf"))

    assert call(store.get_entry, "default").expires_at is not None
    assert call(store.get_entry, "own").expires_at is None
    again = pgstore.Dict.from_name(store_name, client=client)
    call(again.put, "again", 1)
    assert call(again.get_entry, "again").expires_at is not None


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), "1", True])
def test_a_bad_ttl_is_refused(call, store, ttl):
    with pytest.raises(pgstore.InvalidError, match="ttl"):
        call(store.put, "k", 1, ttl=ttl)


def test_what_has_expired_is_collected_in_passing(store, sql, monkeypatch):
    monkeypatch.setattr(base, "_in_passing", lambda: True)
    store.update({i: i for i in range(50)}, ttl=0.01)
    time.sleep(0.05)

    store["new"] = 1

    assert sql("SELECT count(*) FROM pgstore.dict_entry WHERE store_id = %s", entry_id(store)) == [(1,)]


def test_a_transaction_that_collects_keeps_nobody_from_putting_anew(client, store, store_elsewhere, sql, monkeypatch):
    monkeypatch.setattr(base, "_in_passing", lambda: True)
    store.update({i: i for i in range(50)}, ttl=0.01)
    time.sleep(0.05)
    monkeypatch.setattr(base, "_in_passing", lambda: threading.current_thread() is threading.main_thread())
    fresh = threading.Thread(target=store_elsewhere.put, args=[7, "new"])

    with client.transaction():
        store["new"] = 1
        fresh.start()
        fresh.join(10)
        assert not fresh.is_alive()

    assert store.items() == [(7, "new"), ("new", 1)]
    assert sql("SELECT count(*) FROM pgstore.dict_entry WHERE store_id = %s", entry_id(store)) == [(2,)]


def test_a_joined_transaction_collects_nothing(client, database, store, sql, monkeypatch):
    """
    It is the caller's, may go on for long, and under REPEATABLE READ would fail over an entry that somebody has put anew.
    """
    monkeypatch.setattr(base, "_in_passing", lambda: True)
    store.put("old", 1, ttl=0.01)
    time.sleep(0.05)

    with psycopg.connect(database) as connection, client.transaction(connection=connection):
        store["new"] = 1

    assert sql("SELECT count(*) FROM pgstore.dict_entry WHERE store_id = %s", entry_id(store)) == [(2,)]


def test_what_is_taken_is_not_lost_when_collecting_fails(store, monkeypatch):
    store["k"] = "value"
    monkeypatch.setattr(base, "_in_passing", lambda: True)
    monkeypatch.setattr(base.DictBase, "_COLLECT", Statement("SELECT 1 / 0 WHERE $1 > 0", "int8"))

    with pytest.raises(pgstore.Error):
        store.pop("k")

    monkeypatch.undo()
    assert store.pop("k") == "value"


# ------------------------------------------------------------------------------------------------------------- ranges


@pytest.fixture
def words(store):
    store.update(
        {
            word: len(word)
            for word in ["", "a", "ab", "abc", "abd", "b", "ba", "\ud7ff", "\ue000", "\U0010ffff", "\U0010ffffx"]
        }
    )
    store.update({1: "int", ("t",): "tuple"})
    return store


def test_a_prefix_finds_what_starts_with_it(call, words):
    def found(prefix, **more):
        return call.iterate(words.iterate_keys(prefix=prefix, **more))

    assert found("ab") == ["ab", "abc", "abd"]
    assert found("ab", reverse=True) == ["abd", "abc", "ab"]
    assert found("\ud7ff") == ["\ud7ff"]
    assert found("\U0010ffff") == ["\U0010ffff", "\U0010ffffx"]
    assert found("zz") == []
    assert len(found("")) == 13
    for bad in ("\x01x", "\0", "x" * 1001, 5):
        with pytest.raises(pgstore.InvalidError, match="prefix"):
            found(bad)


def test_start_is_included_and_end_is_not(call, words):
    assert call.iterate(words.iterate_keys(start="ab", end="b")) == ["ab", "abc", "abd"]
    assert call.iterate(words.iterate_keys(start="ab", end="b", reverse=True)) == ["abd", "abc", "ab"]
    assert call.iterate(words.iterate_items(start="abc", prefix="ab")) == [("abc", 3), ("abd", 3)]
    assert call.iterate(words.iterate_values(start="a", limit=2)) == [1, 2]
    assert call.iterate(words.iterate_keys(limit=0)) == []
    with pytest.raises(pgstore.InvalidError, match="limit"):
        words.iterate_keys(limit=-1)


def test_reversed_is_the_other_way_round(words):
    assert list(reversed(words)) == list(words)[::-1]


def test_pages_and_limits_do_not_show(call, store, monkeypatch):
    monkeypatch.setattr("pgstore.dict.scan.FIRST_PAGE_ENTRIES", 3)
    monkeypatch.setattr("pgstore.dict.scan.PAGE_ENTRIES", 4)
    keys = [f"{i:03}" for i in range(30)]
    call(store.update, dict.fromkeys(keys, 1))

    for limit in (1, 3, 4, 7, 29, 30, 31):
        assert call.iterate(store.iterate_keys(limit=limit)) == keys[:limit]
        assert call.iterate(store.iterate_keys(reverse=True, limit=limit)) == keys[::-1][:limit]
    assert call.iterate(store.iterate_keys(start="010", end="020")) == keys[10:20]


def test_inside_a_transaction_a_scan_is_one_snapshot(client, store, store_elsewhere, monkeypatch):
    monkeypatch.setattr("pgstore.dict.scan.FIRST_PAGE_ENTRIES", 2)
    store.update({f"{i}": "old" for i in range(9)})

    with client.transaction():
        entries = store.iterate_items()
        first = next(entries)
        store_elsewhere.update({f"{i}": "new" for i in range(9)})
        store_elsewhere["x"] = "new"
        rest = list(entries)

    assert {value for _, value in [first, *rest]} == {"old"}
    assert len(rest) == 8


def test_a_transaction_may_begin_any_number_of_scans_and_leaves_no_statement_behind(client, store):
    """
    The server's cursors have names, and those of scans that were given up live as long as the transaction.
    """
    store.update({f"{i:03}": i for i in range(200)})

    with client.transaction() as tx:
        for number in range(200):
            assert next(store.iterate_values(start=f"{number:03}")) == number
            assert list(store.iterate_values(start=f"{number:03}", limit=1)) == [number]
        ((open_cursors,),) = tx.connection.execute("SELECT count(*) FROM pg_cursors").fetchall()
    with client.transaction():
        list(store.iterate_items())
        ((prepared, named),) = client.run(names_of_statements())

    assert open_cursors == 169  # the last ones were read to the end with their first page
    assert named == prepared
    assert prepared < 20


def names_of_statements():
    statement = Statement("SELECT count(*), count(nullif(name, '')) FROM pg_prepared_statements", read_only=True)
    return (yield Query(statement))


def test_a_wait_in_a_transaction_keeps_the_scan_that_it_has_begun(client, client_elsewhere, store, store_name):
    queue = pgstore.Queue.persist(store_name, client=client).hydrate()
    store.update({f"{i:03}": i for i in range(200)})
    threading.Timer(0.3, pgstore.Queue.persist(store_name, client=client_elsewhere).put, ["item"]).start()

    with client.transaction():
        entries = store.iterate_keys()
        next(entries)
        assert queue.get(timeout=20) == "item"
        assert len(list(entries)) == 199


# ------------------------------------------------------------------------------------------------------------ mapping


def test_a_dict_compares_with_mappings_and_merges(store, client, store_name):
    from collections.abc import MutableMapping

    store.update({"a": 1, 2: "two"})
    same = pgstore.Dict.from_name(store_name, client=client)
    other = pgstore.Dict.persist(f"{store_name}-b", client=client)

    untyped: Any = store
    assert isinstance(untyped, MutableMapping)
    assert store == {"a": 1, 2: "two"}
    assert store != {"a": 1}
    assert store == same
    assert store != other
    assert store.__eq__(5) is NotImplemented
    with pytest.raises(TypeError, match="unhashable"):
        hash(store)
    store |= {"b": 3}
    assert store == {"a": 1, 2: "two", "b": 3}
    assert store | {"a": 9} == {"a": 9, 2: "two", "b": 3}
    merged: Any = operator.or_({"a": 9}, untyped)
    assert merged == {"a": 1, 2: "two", "b": 3}
    other.update(store)
    assert store == other


# -------------------------------------------------------------------------------------------------------------- taking

TAKES = {
    "pop": lambda store: store.pop.aio("k"),
    "popitem": lambda store: store.popitem.aio(),
    "pop_many": lambda store: store.pop_many.aio(["k", "nope"]),
}


@pytest.fixture(params=[False, True], ids=["plain", "watched"])
def taken_from(client, store_name, request, monkeypatch):
    monkeypatch.setattr(
        base, "_in_passing", lambda: False
    )  # else one call in a hundred waits for the lock before it takes
    return pgstore.Dict.from_name(store_name, create_if_missing=True, watch=request.param, client=client).hydrate()


def cancelled_while_it_takes(client, database, operation):
    """Cancel *operation* when the server has begun it; its answer comes after."""
    waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'pgstore.dict_entry'::regclass AND NOT granted)"

    async def main():
        with psycopg.connect(database) as blocker:
            blocker.execute("LOCK pgstore.dict_entry IN SHARE MODE")
            task = asyncio.ensure_future(operation())
            while blocker.execute(waiting).fetchone() == (False,):  # noqa: ASYNC110 - a lock of the server's rings no bell
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.sleep(0.05)
            blocker.rollback()
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("kind", TAKES)
def test_what_a_cancelled_call_took_is_put_back_as_it_was(client, database, taken_from, sql, kind):
    """
    The entry is gone from the database when the cancellation comes, and nobody has it.
    """
    taken_from.put("k", None, ttl=1000)
    before = taken_from.get_entry("k")

    cancelled_while_it_takes(client, database, lambda: TAKES[kind](taken_from))

    after = taken_from.get_entry("k")
    assert after is not None
    assert after.expires_at == before.expires_at
    assert taken_from.pop("k", "missing") is None
    if taken_from._record.options.get("watch"):
        kinds = sql("SELECT kind FROM pgstore.dict_change WHERE store_id = %s ORDER BY id", entry_id(taken_from))
        assert [kind for (kind,) in kinds] == ["p", "d", "p", "d"]


@pytest.mark.parametrize("kind", ["pop", "pop_many"])
def test_a_cancelled_call_does_not_bring_back_what_has_expired(client, database, taken_from, sql, kind):
    taken_from["k"] = 1
    expire(sql, taken_from, "k")

    cancelled_while_it_takes(client, database, lambda: TAKES[kind](taken_from))

    assert "k" not in taken_from


def test_what_cannot_be_loaded_is_not_taken(call, store, sql):
    """
    Of several entries one is damaged: the others, removed with it, would be nowhere.
    """
    call(store.put, "good", 1, ttl=1000)
    call(store.put, "k", [1])
    sql("UPDATE pgstore.dict_entry SET value = '\\x8005' WHERE store_id = %s AND key = 'k'", entry_id(store))

    for operation, arguments in (store.pop, ["k"]), (store.popitem, []), (store.pop_many, [["k", "good"]]):
        with pytest.raises(pgstore.DeserializationError, match="'k'"):
            call(operation, *arguments)

    assert call(store.keys) == ["good", "k"]
    assert call(store.get_entry, "good").expires_at is not None
    del store["k"]
    assert call(store.items) == [("good", 1)]


class Awkward:
    """Raises what it is told to when it is loaded."""

    raises: BaseException | None = None

    def __setstate__(self, state):
        if Awkward.raises is not None:
            raise Awkward.raises

    def __getstate__(self):
        return {"some": "state"}


POPS = {
    "pop": lambda call, store: call(store.pop, "k"),
    "popitem": lambda call, store: call(store.popitem),
    "pop_many": lambda call, store: call(store.pop_many, ["good", "k"]),
}
FAILURES = [ValueError(), RecursionError(), MemoryError(), GeneratorExit(), StopIteration()]


@pytest.mark.parametrize("watched", [False, True], ids=["plain", "watched"])
@pytest.mark.parametrize("kind", POPS)
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_what_cannot_be_loaded_was_never_gone(call, client, store_name, sql, monkeypatch, kind, failure, watched):
    """
    Not for a moment, and with the revision that it had: it is loaded before it is removed.
    """
    store = pgstore.Dict.from_name(store_name, create_if_missing=True, watch=watched, client=client)
    store.update({"good": 1, "k": Awkward()})
    rows = "SELECT key, revision, xmin::text, xmax::text FROM pgstore.dict_entry WHERE store_id = %s ORDER BY key"
    before = sql(rows, entry_id(store))
    monkeypatch.setattr(Awkward, "raises", failure)

    with pytest.raises(pgstore.DeserializationError, match="'k'") as caught:
        POPS[kind](call, store)

    assert b"Awkward" in caught.value.raw
    assert sql(rows, entry_id(store)) == before


@pytest.mark.parametrize("kind", POPS)
def test_json_that_python_cannot_load_stays(call, store, sql, kind):
    """
    Nested more deeply than Python's parser goes; of several, all stay.
    """
    call(store.put, "good", 1)
    sql("SELECT pgstore.dict_put(%s::bigint, 'k', (repeat('[', 1500) || repeat(']', 1500))::jsonb)", entry_id(store))

    with pytest.raises(pgstore.DeserializationError, match="'k'") as caught:
        POPS[kind](call, store)

    assert caught.value.raw == b"[" * 1500 + b"]" * 1500
    assert call(store.keys) == ["good", "k"]
    for read in (lambda: call(store.get, "k"), lambda: call(store.get_entry, "k"), lambda: call(store.items)):
        with pytest.raises(pgstore.DeserializationError, match="'k'"):
            read()


def test_a_small_value_that_does_not_load_after_all_is_put_back_as_it_was(call, store, sql):
    """
    A pickle of no class, removed by the statement that reads it, though somebody has damaged it.
    """
    call(store.put, "k", "text", ttl=1000)
    sql(r"UPDATE pgstore.dict_entry SET value = '\x8005002e' WHERE store_id = %s", entry_id(store))
    facts = "SELECT revision, updated_at, expires_at, value FROM pgstore.dict_entry WHERE store_id = %s"
    before = sql(facts, entry_id(store))

    with pytest.raises(pgstore.DeserializationError, match="'k'"):
        call(store.pop, "k")

    assert sql(facts, entry_id(store)) == before


@pytest.mark.parametrize(
    "value",
    [1, 1.5, "text", [1, {"a": None}], Awkward(), fractions.Fraction(1, 3)],
    ids=lambda value: type(value).__name__,
)
def test_pop_gives_what_was_put_and_removes_it(call, store, value):
    """
    Whether it goes in one statement or in two.
    """
    call(store.put, "k", value)

    taken = call(store.pop, "k")

    assert type(taken) is type(value)
    assert isinstance(value, Awkward) or taken == value
    assert call(store.pop, "k", "gone") == "gone"


@pytest.mark.parametrize("kind", POPS)
def test_an_entry_that_is_written_while_it_is_loaded_is_taken_as_it_is_then(store, store_elsewhere, monkeypatch, kind):
    """
    What is returned is what was removed.
    """
    store["k"] = Awkward()
    writes: list[int] = []

    def written_meanwhile(self, state):
        if not writes:
            writes.append(1)
            store_elsewhere["k"] = "new"

    monkeypatch.setattr(Awkward, "__setstate__", written_meanwhile)

    taken = POPS[kind](lambda operation, *arguments: operation(*arguments), store)

    assert taken in ("new", ("k", "new"), {"k": "new"})
    assert store.len() == 0


@pytest.mark.parametrize("kind", ["pop", "pop_many"])
def test_an_entry_that_is_removed_while_it_is_loaded_was_taken_by_the_other(store, store_elsewhere, monkeypatch, kind):
    store["k"] = Awkward()
    monkeypatch.setattr(Awkward, "__setstate__", lambda self, state: store_elsewhere.clear())

    assert POPS[kind](lambda operation, *arguments: operation(*arguments), store) in (None, {})


def test_what_an_interrupt_has_rolled_back_is_not_put_back(store, store_elsewhere, monkeypatch):
    """
    It is there anyhow, and may be in another's hands a moment later.
    """
    store["k"] = Awkward()
    monkeypatch.setattr(Awkward, "__setstate__", lambda self, state: store_elsewhere.put("k", "new"))
    remove, put_back = take.Taking._remove, take._putting_back
    removals: list[object] = []
    theirs: list[object] = []

    def interrupted(*arguments):
        removals.append(arguments)
        if len(removals) == 2:  # of the entry as it was written meanwhile, which is locked
            raise KeyboardInterrupt
        return remove(*arguments)

    def late(*arguments):
        theirs.append(store_elsewhere.pop("k"))
        return put_back(*arguments)

    monkeypatch.setattr(take.Taking, "_remove", interrupted)
    monkeypatch.setattr(take, "_putting_back", late)

    with pytest.raises(KeyboardInterrupt):
        store.pop("k")

    monkeypatch.undo()
    assert [*theirs, *store.values()] == ["new"]


def test_popitem_asks_for_one_entry_whatever_the_planner_believes(database):
    """
    On an empty table all plans are cheap, and a connection keeps the one that it has made.
    """
    statement = take.Taking._REMOVE_IF_FREE.plain

    with psycopg.connect(database) as connection:
        connection.execute("SET plan_cache_mode = force_generic_plan")
        connection.execute(f"PREPARE remove (int8, text, int8) AS {statement.sql.decode()}".encode())
        plan = [row[0].strip() for row in connection.execute("EXPLAIN EXECUTE remove (1, 'k', 1)")]

    assert plan.count("Index Cond: ((store_id = $1) AND (key = $2))") == 2


def test_takers_at_once_share_the_entries(store, store_elsewhere):
    """
    Each is taken once, whoever was quicker.
    """
    store.update({f"{number:03}": Awkward() for number in range(60)})
    taken = []

    def take(entries):
        while True:
            try:
                taken.append(entries.popitem()[0])
            except KeyError:
                return

    threads = [
        threading.Thread(target=take, args=(entries,)) for entries in (store, store_elsewhere, store, store_elsewhere)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(taken) == [f"{number:03}" for number in range(60)]


def test_values_too_large_together_for_one_statement_are_put_back_in_one_step(client, store, sql, monkeypatch):
    monkeypatch.setattr("pgstore.dict.take.BATCH_BYTES", 100)
    store.update({f"{number}": "x" * 60 for number in range(5)})
    before = sql("SELECT key, revision FROM pgstore.dict_entry WHERE store_id = %s ORDER BY key", entry_id(store))
    remove = store._remove

    def interrupted(self, *arguments):
        yield from remove(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(pgstore.Dict, "_remove", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.pop_many([f"{number}" for number in range(5)])

    assert (
        sql("SELECT key, revision FROM pgstore.dict_entry WHERE store_id = %s ORDER BY key", entry_id(store)) == before
    )
    assert sql("SELECT count(DISTINCT xmin::text) FROM pgstore.dict_entry WHERE store_id = %s", entry_id(store)) == [
        (1,)
    ]


# ------------------------------------------------------------------------------------------- refusals in a transaction

LARGE = 1.5e308
LARGEST = sys.float_info.max
ULP = math.ulp(LARGEST)
REFUSED = {
    "integer": (2**63 - 1, 1),
    "negative integer": (-(2**63), -1),
    "far": (2**62, 2**62),
    "float": (LARGE, LARGE),
    "rounded up": (LARGEST - ULP, 1.5 * ULP),
    "negative float": (-LARGE, -LARGE),
}


@pytest.mark.parametrize("joined", [False, True], ids=["own", "joined"])
@pytest.mark.parametrize("case", REFUSED)
def test_a_sum_that_does_not_fit_leaves_a_transaction_usable(client, store, database, joined, case):
    """
    It is an answer, as a KeyError is; everything else of the transaction is still to be committed.
    """
    present, added = REFUSED[case]
    store["k"] = present

    with psycopg.connect(database) as connection, client.transaction(connection=connection if joined else None):
        store["before"] = 1
        with pytest.raises(OverflowError, match="64 bits"):
            store.increment("k", added)
        store["after"] = 1

    assert store.items() == [("after", 1), ("before", 1), ("k", present)]


def test_sums_at_the_ends_of_their_range_are_exact(call, store):
    for present, added, expected in (
        (2**63 - 2, 1, 2**63 - 1),
        (-(2**63), 2**63 - 1, -1),
        (0, -(2**63), -(2**63)),
        (LARGE, -LARGE, 0.0),
        (LARGE, 0.25e308, LARGE + 0.25e308),
        (LARGEST - ULP, 1.25 * ULP, LARGEST),
        (1.25 * ULP, LARGEST - ULP, LARGEST),
        (-LARGEST, -ULP / 4, -LARGEST),
        (float("inf"), LARGE, float("inf")),
        (5e-324, 5e-324, 1e-323),
        (2**63 - 1, 0.5, float(2**63)),
    ):
        call(store.put, "k", present)
        assert call(store.increment, "k", added) == expected
        assert call(store.get, "k") == expected


def test_numbers_say_themselves_what_they_are(call, store):
    """
    numpy's, fractions.
    """

    class Index:
        def __index__(self):
            return 3

    assert call(store.increment, "n", Index()) == 3
    assert call(store.increment, "n", fractions.Fraction(1, 2)) == 3.5
    assert call(store.put, "k", 1, ttl=fractions.Fraction(1000))
    with pytest.raises(OverflowError):
        call(store.increment, "n", fractions.Fraction(10**400))


@pytest.mark.parametrize("ttl", [1e11, 1e12, 1e18, 2**63 - 1, 1e300, 10**400, "1", True, float("nan")], ids=repr)
def test_a_lifetime_beyond_the_calendar_is_refused_before_anything_is_sent(call, client, store, ttl):
    with client.transaction() if call.form == "blocking" else contextlib.nullcontext():
        for operation in (store.put, store.setdefault):
            with pytest.raises(pgstore.InvalidError, match="ttl"):
                call(operation, "k", 1, ttl=ttl)
        call(store.put, "other", 1, ttl=float("inf"))

    assert call(store.items) == [("other", 1)]


def test_numbers_beyond_64_bits_are_no_revisions_cursors_or_limits(call, store):
    with pytest.raises(pgstore.InvalidError, match="revision"):
        call(store.put, "k", 1, if_revision=2**63)
    with pytest.raises(pgstore.InvalidError, match="cursor"):
        store.watch(since=f"1-{2**64}-0")
    call(store.put, "k", 1)
    assert call.iterate(store.iterate_items(limit=2**70)) == [("k", 1)]


@pytest.mark.parametrize("write", ["put", "setdefault", "update"])
def test_json_that_is_too_large_as_jsonb_leaves_a_transaction_usable(client, store_name, write):
    """
    Which is known only when the server has made it.
    """
    store = pgstore.Dict.from_name(store_name, create_if_missing=True, serializer="json", client=client)

    with client.transaction():
        store["before"] = 1
        with pytest.raises(pgstore.errors.ValueTooLarge, match="too large for jsonb"):
            elements = [None] * (
                2**24 + 1
            )  # one more than the server has room for; None is what takes it least time to read
            arguments = [{"k": elements}] if write == "update" else ["k", elements]
            getattr(store, write)(*arguments)
        store["after"] = 1

    assert store.items() == [("after", 1), ("before", 1)]
