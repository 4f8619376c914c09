"""Dict, both forms, against the behaviour of a Python dict."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import pickle
import threading
import time
from typing import Any

import pytest

import pgstore
from pgstore.dict import bulk, scan
from pgstore.errors import ValueTooLarge


@pytest.fixture
def store(client, store_name):
    return pgstore.Dict.from_name(store_name, create_if_missing=True, client=client)


@pytest.fixture
def store_elsewhere(client_elsewhere, store_name):
    return pgstore.Dict.from_name(store_name, create_if_missing=True, client=client_elsewhere)


VALUES: list[Any] = [
    None, True, False, 0, -1, 2**63 - 1, -(2**63), 2**63, 2**200, 0.0, 1.5, float("inf"), "", "text", "\0", "\ud800", b"",
    b"\0\xff",
    [], {}, {"nested": [1, (2, {3})]}, (1, "x"), {1, 2}, frozenset({1}), range(3), complex(1, 2), ..., int, len,
]  # fmt: skip


def test_what_is_put_comes_back_equal_and_of_the_same_type(call, store):
    for number, value in enumerate(VALUES):
        call(store.put, number, value)

    for number, value in enumerate(VALUES):
        got = call(store.get, number)
        assert got == value
        assert type(got) is type(value)


def test_negative_zero_and_nan_keep_their_bits(call, store):
    call(store.put, "zero", -0.0)
    call(store.put, "nan", float("nan"))

    assert str(call(store.get, "zero")) == "-0.0"
    assert str(call(store.get, "nan")) == "nan"


def test_a_value_replaces_the_one_before_whatever_its_type(call, store):
    """
    The columns of the former value must not shine through.
    """
    for value in (1, "text", 2.5, {"a": 1}, 2**80, None, 3):
        call(store.put, "k", value)
        assert call(store.get, "k") == value
    assert call(store.len) == 1


def test_a_missing_key_gives_the_default_none_unless_told(call, store):
    assert call(store.get, "nope") is None
    assert call(store.get, "nope", 5) == 5
    assert call(store.pop, "nope") is None
    assert call(store.pop, "nope", 5) == 5
    assert not call(store.contains, "nope")


def test_subscription_of_a_missing_key_is_a_key_error_that_names_it(store):
    for attempt in (lambda: store["nope"], lambda: store.__delitem__("nope")):
        with pytest.raises(KeyError, match="'nope' is not in pgstore.Dict.from_name") as caught:
            attempt()
        assert isinstance(caught.value, pgstore.Error)


def test_operators_work_like_those_of_a_dict(store):
    store["a"] = 1
    store["b"] = None

    assert store["a"] == 1
    assert "a" in store
    assert "b" in store
    assert len(store) == 2
    del store["a"]
    assert "a" not in store
    assert list(store) == ["b"]


def test_pop_removes_and_returns(call, store):
    call(store.put, "k", [1])

    assert call(store.pop, "k") == [1]
    assert not call(store.contains, "k")


def test_put_skip_if_exists_writes_once(call, store):
    assert call(store.put, "k", 1, skip_if_exists=True) is True
    assert call(store.put, "k", 2, skip_if_exists=True) is False
    assert call(store.get, "k") == 1
    assert call(store.put, "k", 3) is True


def test_equal_keys_are_one_key(call, store):
    call(store.put, 1, "int")
    call(store.put, 1.0, "float")
    call(store.put, True, "bool")

    assert call(store.len) == 1
    assert call(store.get, 1) == "bool"
    assert call(store.keys) == [1]


@pytest.mark.parametrize(
    "key",
    ["", " ", "\0", "\ud800", "\x01x", "x" * 10_000, "😀", None, 7, 2.5, (1, ("a", None)), b"raw", frozenset({1, "a"})],
)
def test_any_key_comes_back_as_it_was_put(call, store, key):
    call(store.put, key, "v")

    assert call(store.get, key) == "v"
    assert call(store.keys) == [key]
    assert call(store.items) == [(key, "v")]
    assert call(store.pop, key) == "v"
    assert call(store.len) == 0


@pytest.mark.parametrize("key", [[], {}, {1}, float("nan"), object(), bytearray(b"x")])
def test_what_cannot_be_a_key_is_a_type_error_and_nothing_is_sent(call, store, key):
    for attempt in (store.get, store.contains, store.pop):
        with pytest.raises(TypeError):
            call(attempt, key)
    with pytest.raises(TypeError):
        call(store.put, key, 1)


def test_update_takes_mappings_pairs_and_keywords(call, store):
    call(store.update, {"a": 1, 2: "two"}, b=3)
    call(store.update, [("a", 10), ("c", 4)])
    call(store.update, mapping={"d": 5})
    call(store.update, None)
    call(store.update)
    call(store.update, {})

    assert dict(call(store.items)) == {"a": 10, 2: "two", "b": 3, "c": 4, "d": 5}


def test_update_takes_another_dict_also_inside_an_asynchronous_transaction(client, store, store_name):
    other = pgstore.Dict.persist(f"{store_name}-b", client=client)
    other.update({"a": 1, (2,): "two"})

    async def main():
        async with client.transaction():
            await store.update.aio(other)
        await client.aclose()

    asyncio.run(main())

    assert store == other


def test_update_with_equal_keys_keeps_the_last(call, store):
    call(store.update, [(1, "first"), (1.0, "second"), (True, "third")])

    assert call(store.items) == [(1, "third")] or call(store.values) == ["third"]
    assert call(store.len) == 1


def test_an_update_larger_than_a_batch_is_all_or_nothing(call, store, monkeypatch):
    monkeypatch.setattr(bulk, "BATCH_BYTES", 1000)
    call(store.update, {f"k{i}": "x" * 100 for i in range(50)})
    assert call(store.len) == 50

    with pytest.raises(pgstore.SerializationError):
        call(store.update, {**{f"n{i}": "x" * 100 for i in range(50)}, "z": threading.Lock()})
    assert call(store.len) == 50


def test_iteration_is_in_one_order_and_pages_do_not_show(call, store, monkeypatch):
    monkeypatch.setattr(scan, "FIRST_PAGE_ENTRIES", 3)
    monkeypatch.setattr(scan, "PAGE_ENTRIES", 7)
    entries = {f"{i:03}": i for i in range(25)}
    call(store.update, entries)

    assert call(store.keys) == list(entries)
    assert call(store.values) == list(entries.values())
    assert call(store.items) == list(entries.items())
    assert call.iterate(store.iterate_keys()) == list(entries)
    assert call.iterate(store.iterate_values()) == list(entries.values())
    assert call.iterate(store.iterate_items()) == list(entries.items())


def test_entries_may_be_changed_while_iterating(store):
    store.update({i: i for i in range(300)})

    for key in store:
        del store[key]

    assert len(store) == 0


def test_clear_empties_this_dict_and_no_other(call, client, store, store_name):
    other = pgstore.Dict.persist(f"{store_name}-b", client=client)
    call(store.put, "k", 1)
    call(other.put, "k", 2)

    call(store.clear)

    assert call(store.len) == 0
    assert call(other.get, "k") == 2


def test_bool_tells_whether_there_is_any_entry(store):
    assert not store
    store["k"] = 0
    assert store


def test_what_one_client_puts_another_gets(call, store, store_elsewhere):
    call(store.put, "k", {"a": 1})

    assert call(store_elsewhere.get, "k") == {"a": 1}


def test_values_are_copies(store):
    store["k"] = [1]
    store["k"].append(2)

    assert store["k"] == [1]


def test_a_value_that_cannot_be_pickled_is_refused_and_leaves_what_was_there(call, store):
    call(store.put, "k", 1)

    with pytest.raises(pgstore.SerializationError, match="lock"):
        call(store.put, "k", {"deep": [threading.Lock()]})

    assert call(store.get, "k") == 1


def test_a_value_above_the_limit_is_refused_and_the_message_names_volume(call, store, monkeypatch):
    monkeypatch.setattr("pgstore.serializers.values.VALUE_BYTES_MAX", 2_000_000)

    with pytest.raises(ValueTooLarge, match="Volume"):
        call(store.put, "k", b"x" * 2_000_001)

    assert call(store.len) == 0


def test_a_large_value_makes_the_round_trip(call, store):
    value = bytes(range(256)) * 80_000  # 20 MB

    call(store.put, "k", value)

    assert call(store.get, "k") == value


def test_damaged_bytes_raise_an_error_that_names_key_and_dict_and_blocks_nothing_else(call, store, sql):
    call(store.put, "good", "v")
    call(store.put, "bad", [1])
    sql("UPDATE pgstore.dict_entry SET value = '\\x8005' WHERE store_id = %s AND key = 'bad'", store_id(store))

    with pytest.raises(pgstore.DeserializationError, match=r"'bad'.*Dict") as caught:
        call(store.get, "bad")
    assert caught.value.raw == b"\x80\x05"

    assert call(store.keys) == ["bad", "good"]
    assert call(store.get, "good") == "v"
    call(store.clear)


def test_an_expired_entry_does_not_exist_for_anyone(call, store, sql):
    call(store.put, "k", 1)
    call(store.put, "other", 2)
    sql(
        "UPDATE pgstore.dict_entry SET expires_at = now() - interval '1 s' WHERE store_id = %s AND key = 'k'",
        store_id(store),
    )

    assert call(store.get, "k") is None
    assert not call(store.contains, "k")
    assert call(store.len) == 1
    assert call(store.items) == [("other", 2)]
    assert call(store.pop, "k", "gone") == "gone"
    assert call(store.put, "k", 3, skip_if_exists=True)
    assert call(store.get, "k") == 3


def test_values_are_readable_in_sql(call, client, store, sql):
    call(store.update, {"i": 7, "f": 1.5, "p": "text"})

    rows = sql("SELECT key, value FROM pgstore.dict_items WHERE store_id = %s ORDER BY key", store_id(store))

    assert rows == [("f", 1.5), ("i", 7), ("p", "text")]


def test_a_handle_pickles_by_name_and_works_where_it_arrives(store, database, monkeypatch):
    store["k"] = 1
    monkeypatch.setattr("pgstore.client._default", pgstore.Client(database))

    arrived = pickle.loads(pickle.dumps(store))

    assert arrived["k"] == 1
    pgstore.default_client().close()


def test_a_store_may_hold_handles_of_stores(call, store, database, monkeypatch):
    monkeypatch.setattr("pgstore.client._default", store._runner)
    call(store.put, "self", store)

    assert call(store.get, "self").name == store.name


def test_two_writers_of_overlapping_keys_never_deadlock(store, store_elsewhere):
    """
    Updates lock their keys in one order, so neither waits for the other in a circle.
    """
    keys = [f"k{i}" for i in range(200)]
    failures = []

    def write(handle, order):
        try:
            for _ in range(20):
                handle.update(dict.fromkeys(order, 1))
        except Exception as exc:
            failures.append(exc)

    threads = [
        threading.Thread(target=write, args=(store, keys)),
        threading.Thread(target=write, args=(store_elsewhere, keys[::-1])),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []


@pytest.mark.parametrize(
    "end", [lambda store: store.clear(), lambda store: pgstore.Dict.objects.delete("d", client=store._client)]
)
def test_clearing_and_deleting_wait_for_a_writer_of_many_keys_without_a_deadlock(own_database, end):
    """
    The writer has the first key and goes on to the last: who clears must not hold that one already, whatever its place on disk.
    """
    with pgstore.Client(own_database) as client, pgstore.Client(own_database) as client_elsewhere:
        store = pgstore.Dict.persist("d", client=client)
        store["b"] = store["a"] = 1
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            with client.transaction() as tx:
                tx.connection.execute("SELECT FROM pgstore.dict_entry WHERE key = 'a' FOR UPDATE")
                ending = threads.submit(end, pgstore.Dict.persist("d", client=client_elsewhere))
                time.sleep(0.3)
                tx.connection.execute("SELECT FROM pgstore.dict_entry WHERE key = 'b' FOR UPDATE")
            ending.result(20)

        assert pgstore.Dict.persist("d", client=client_elsewhere).items() == []


def store_id(store):
    return int(store.hydrate().object_id.removeprefix("di-"))


# ---------------------------------------------------------------------------------------------- what update is given


class Keyed:
    """A mapping by what it can do, as a row of a database driver is."""

    def keys(self):
        return ["ab", "cd"]

    def __getitem__(self, key):
        return key.upper()


def test_update_takes_for_a_mapping_what_has_keys(call, store):
    """
    As dict.update does; read as pairs, keys of two letters would silently become other entries.
    """
    call(store.update, Keyed())
    store |= Keyed()

    assert call(store.items) == [("ab", "AB"), ("cd", "CD")]


def test_update_takes_pairs_of_any_kind_and_refuses_others_as_dict_does(call, store):
    call(store.update, iter([["a", 1], ("b", 2), "cd"]))
    assert call(store.items) == [("a", 1), ("b", 2), ("c", "d")]

    wrong: Any
    for wrong, error in ([("a",)], ValueError), ([("a", 1, 2)], ValueError), ([5], TypeError), (5, TypeError):
        with pytest.raises(error):
            {}.update(wrong)
        with pytest.raises(error):
            call(store.update, wrong)


# ------------------------------------------------------------------------------------------------- unreadable entries


@pytest.mark.parametrize("inside", [False, True], ids=["pages", "cursor"])
def test_iteration_goes_on_behind_an_entry_that_cannot_be_loaded(client, store, sql, inside):
    """
    However it was begun: a value that cannot be loaded keeps nobody from the others.
    """
    store.update({"a": 1, "b": [2], "c": 3, "d": [4]})
    sql("UPDATE pgstore.dict_entry SET value = '\\x80' WHERE store_id = %s AND key = 'b'", store_id(store))

    with client.transaction() if inside else contextlib.nullcontext():
        for begin in store.iterate_items, lambda: iter(store.iterate_items()):
            assert _walked(begin()) == [("a", 1), "?", ("c", 3), ("d", [4])]
        assert _walked(iter(store.iterate_values())) == [1, "?", 3, [4]]


def test_what_is_left_of_a_page_can_be_walked_by_another_iterator(store):
    store.update(dict.fromkeys("abcd"))
    iterator = store.iterate_keys()

    assert next(iterator) == "a"
    assert next(iter(iterator)) == "b"
    assert list(iterator) == ["c", "d"]
    assert list(iterator) == []


def _walked(iterator):
    """What the iterator gives, by `next` alone, and "?" for each error."""
    seen: list[Any] = []
    while True:
        try:
            seen.append(next(iterator))
        except StopIteration:
            return seen
        except pgstore.DeserializationError:
            seen.append("?")


# -------------------------------------------------------------------------------------------- corners of a mapping


def test_a_key_may_have_any_name(store):
    store.update(self=1, store=2)
    asyncio.run(store.update.aio(other=3, owner=4, self=1))
    type(store).update(store, self=1)

    assert store.items() == [("other", 3), ("owner", 4), ("self", 1), ("store", 2)]


@pytest.mark.parametrize("other", [None, 5])
def test_what_is_no_mapping_is_a_type_error(store, other):
    with pytest.raises(TypeError):
        store |= other
    with pytest.raises(TypeError):
        store | other
    with pytest.raises(TypeError):
        other | store


def test_a_mistake_names_the_key(call, store):
    for put in (
        lambda: call(store.put, "the key", threading.Lock()),
        lambda: call(store.update, {"other": 1, "the key": threading.Lock()}),
        lambda: call(store.setdefault, "the key", threading.Lock()),
    ):
        with pytest.raises(pgstore.SerializationError, match="'the key'"):
            put()


@pytest.mark.parametrize("number", [2**63, -(2**70)])
def test_a_number_beyond_64_bits_is_said_to_be_one(call, store, number):
    store["large"] = number

    with pytest.raises(OverflowError, match="beyond 64 bits"):
        call(store.increment, "large")


def test_what_cannot_be_compared_is_told(call, store):
    """
    As arrays: `==` compares their elements.
    """

    class Ambiguous:
        def __bool__(self):
            raise ValueError("more than one element")

    class Vector:
        def __eq__(self, other):
            return Ambiguous()

        __hash__ = None  # type: ignore[assignment]

    store["vector"] = 1

    with pytest.raises(pgstore.InvalidError, match="'vector'.*cannot be compared"):
        call(store.compare_and_set, "vector", Vector(), 0)
    assert store["vector"] == 1


def test_a_cursor_of_another_type_is_refused(client, store_name):
    watched = pgstore.Dict.from_name(store_name, create_if_missing=True, client=client, watch=True)

    bad: list[Any] = [5, b"1-2-3", "1-2"]
    for since in bad:
        with pytest.raises(pgstore.InvalidError, match="not the cursor"):
            watched.watch(since=since)
