"""Serializers, projections and signatures: what is stored, and what is refused before anything of it runs."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import fractions
import pathlib
import pickle
import uuid
import zoneinfo
from dataclasses import dataclass

import psycopg
import pytest

import pgstore
from pgstore.errors import ConfigurationError, SerializationError

KEY, OTHER_KEY = b"k" * 32, b"o" * 32


def entry_id(store):
    return int(store.hydrate().object_id.removeprefix("di-"))


# --------------------------------------------------------------------------------------------------------------- json


@pytest.fixture
def document(client, store_name):
    return pgstore.Dict.from_name(store_name, create_if_missing=True, serializer="json", client=client)


@pytest.mark.parametrize(
    "value", [None, True, 0, 2**100, 1.5, "ü\\u0000 \\\\", [], {}, {"a": [1, {"b": None}]}, "\\", "x\n", {"": ""}]
)
def test_json_values_make_the_round_trip(call, document, value):
    call(document.put, "k", value)

    assert call(document.get, "k") == value
    assert call(document.items) == [("k", value)]
    assert call(document.pop, "k") == value


@pytest.mark.parametrize(
    "value", [{1, 2}, b"x", object(), float("nan"), {"a": float("inf")}, "\0", ["\ud800"], {"\0": 1}]
)
def test_what_is_not_json_is_refused_and_the_key_named(call, document, value):
    with pytest.raises(SerializationError, match="'k'"):
        call(document.put, "k", value)

    assert call(document.len) == 0


def test_a_json_dict_holds_no_pickle_and_is_plain_jsonb_in_sql(call, document, sql):
    call(document.update, {"a": {"b": [1, 2]}, "n": 7})

    rows = sql(
        "SELECT key, codec, value IS NULL, json_value FROM pgstore.dict_entry WHERE store_id = %s ORDER BY key",
        entry_id(document),
    )

    assert rows == [("a", "j", True, {"b": [1, 2]}), ("n", "i", True, None)]
    assert call(document.increment, "n") == 8


def test_other_options_than_those_it_was_created_with_are_refused_on_first_use(call, client, document, store_name):
    document.hydrate()

    for options in ({"serializer": "pickle"}, {"ttl": 5}, {"watch": True}, {"json_projection": True}):
        other = pgstore.Dict.from_name(store_name, create_if_missing=True, client=client, **options)
        with pytest.raises(pgstore.InvalidError, match=f"created with {next(iter(options))}"):
            call(other.put, "k", 1)
    call(pgstore.Dict.from_name(store_name, serializer="json", watch=False, client=client).put, "k", 1)
    for options in ({"serializer": "yaml"}, {"ttl": -1}):
        with pytest.raises(pgstore.InvalidError, match=next(iter(options))):
            pgstore.Dict.from_name(store_name, **options)


PLAIN_KEYS = [
    None, 1, 1.5, 1j, True, b"b", "\0", "\ud800", "x" * 2000, (1, ("a", None)), frozenset({1, "b"}), decimal.Decimal("1.50"),
    fractions.Fraction(1, 3), uuid.uuid4(), dt.date(2024, 1, 31), dt.datetime.fromisoformat("2024-01-31"),
    dt.datetime(2024, 1, 31, 12, tzinfo=dt.UTC), dt.time(1, 2), dt.timedelta(1),
    dt.datetime(2024, 1, 31, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")), pathlib.PurePosixPath("/a"),
    pathlib.Path("/b"), pathlib.PureWindowsPath("c:/a"),
]  # fmt: skip


def test_every_key_of_the_standard_library_comes_back_from_a_json_dict(call, document):
    for number, key in enumerate(PLAIN_KEYS):
        call(document.clear)
        call(document.put, key, number)
        ((found, value),) = call(document.items)
        assert (type(found), found, value) == (type(key), key, number)


class Colour(enum.Enum):
    RED = 1


def test_a_class_of_the_program_is_no_key_of_a_json_dict(call, document):
    with pytest.raises(TypeError, match="serializer='json'"):
        call(document.put, (1, Colour.RED), 1)
    assert call(document.get, (1, Colour.RED)) is None


def test_a_json_dict_runs_no_code_whatever_is_in_its_table(call, document, sql):
    """
    Whoever may write to the table plants a pickle, as a value and as a key.
    """
    call(document.put, "good", [1])
    plant = "INSERT INTO pgstore.dict_entry (store_id, key, codec, value, key_pickle) VALUES (%s, %s, %s, %s, %s)"
    sql(plant, entry_id(document), "value", "p", pickle.dumps(Trap()), None)
    sql(plant, entry_id(document), "signed", "s", b"s" * 16 + pickle.dumps(Trap()), None)

    for operation, *arguments in (
        (document.get, "value"), (document.pop, "value"), (document.get, "signed"), (document.items,), (document.values,),
    ):  # fmt: skip
        Trap.loaded = False
        with pytest.raises(pgstore.DeserializationError, match="pickle"):
            call(operation, *arguments)
        assert not Trap.loaded

    sql("UPDATE pgstore.dict_entry SET codec = 'i', value = NULL, integer_value = 1, key_pickle = %s "
        "WHERE store_id = %s AND key = 'value'", pickle.dumps(Trap()), entry_id(document))  # fmt: skip
    del document["signed"]
    for operation in (document.keys, document.items):
        with pytest.raises(pgstore.DeserializationError, match="_fall_into"):
            call(operation)
        assert not Trap.loaded
    assert call(document.get, "good") == [1]


def test_a_projection_that_jsonb_might_refuse_is_left_out(call, client, store_name, sql, monkeypatch):
    monkeypatch.setattr("pgstore.dict.codec.PROJECTION_CHARS_MAX", 10)
    store = pgstore.Dict.from_name(store_name, create_if_missing=True, json_projection=True, client=client)

    call(store.update, {"long": [1] * 10, "short": [1]})

    rows = sql("SELECT key, json_value FROM pgstore.dict_entry WHERE store_id = %s ORDER BY key", entry_id(store))
    assert rows == [("long", None), ("short", [1])]


@pytest.mark.parametrize("option", ["watch", "json_projection"])
def test_a_switch_is_true_or_false(client, store_name, option):
    """
    Stored as 1 it would be on for Python and off for SQL.
    """
    with pytest.raises(pgstore.InvalidError, match=option):
        pgstore.Dict.from_name(store_name, create_if_missing=True, client=client, **{option: 1})  # type: ignore[arg-type]


def test_cloudpickle_as_serializer(call, client, store_name):
    store = pgstore.Dict.from_name(store_name, create_if_missing=True, serializer="cloudpickle", client=client)

    call(store.put, "double", lambda x: 2 * x)

    assert call(store.get, "double")(4) == 8


def test_a_projection_is_jsonb_beside_the_pickle_where_the_value_is_json(call, client, store_name, sql):
    store = pgstore.Dict.from_name(store_name, create_if_missing=True, json_projection=True, client=client)
    call(store.update, {"json": {"a": [1]}, "not json": {1, 2}, "nul": "\0"})

    rows = sql(
        "SELECT key, codec, json_value FROM pgstore.dict_entry WHERE store_id = %s ORDER BY key", entry_id(store)
    )

    assert rows == [("json", "p", {"a": [1]}), ("not json", "p", None), ("nul", "p", None)]
    assert call(store.get, "json") == {"a": [1]}
    assert call(store.get, "nul") == "\0"


# --------------------------------------------------------------------------------------------------------- signatures


@pytest.fixture
def signing(database):
    made = []

    def make(*keys):
        client = pgstore.Client(database, signing_keys=keys)
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


class Trap:
    """Tells when it is loaded."""

    loaded = False

    def __reduce__(self):
        return (_fall_into, ())


def _fall_into():
    Trap.loaded = True
    return Trap()


def refused(operation, *arguments):
    Trap.loaded = False
    with pytest.raises(pgstore.DeserializationError, match="sign"):
        operation(*arguments)
    assert not Trap.loaded


def test_signed_values_and_keys_make_the_round_trip_under_any_of_the_keys(signing, store_name):
    """
    Rotation: the new key signs, the old one is still accepted.
    """
    old = pgstore.Dict.persist(store_name, client=signing(OTHER_KEY))
    old.update({(1, "a"): [1], "n": 5, "f": 1.5})
    new = pgstore.Dict.persist(store_name, client=signing(KEY, OTHER_KEY))

    assert new == {(1, "a"): [1], "n": 5, "f": 1.5}
    new[(2, "b")] = [2]
    refused(old.get, (2, "b"))
    assert old["n"] == 5


def test_an_unsigned_pickle_is_refused_before_it_is_loaded(client, signing, store_name):
    unsigned = pgstore.Dict.persist(store_name, client=client)
    unsigned.update({"trap": Trap(), "n": 1})
    guarded = pgstore.Dict.persist(store_name, client=signing(KEY))

    refused(guarded.get, "trap")
    refused(guarded.values)
    assert guarded["n"] == 1
    assert guarded.keys() == ["n", "trap"]


def test_an_unsigned_key_is_refused_before_it_is_loaded(signing, store_name, sql):
    guarded = pgstore.Dict.persist(store_name, client=signing(KEY))
    guarded[(1, 2)] = 1
    sql("UPDATE pgstore.dict_entry SET key_pickle = %s WHERE store_id = %s", pickle.dumps(Trap()), entry_id(guarded))

    refused(guarded.keys)


@pytest.mark.parametrize("write", ["put", "update", "increment", "mutate"])
def test_whoever_signs_signs_the_key_too_though_it_is_there_already(signing, store_name, write):
    """
    Written anew, an entry no longer needs the key of old, or the trust in those who do not sign.
    """
    old, new = b"o" * 16, b"n" * 16
    unsigned = pgstore.Dict.persist(store_name, client=signing())
    unsigned.update({(1, "unsigned"): 1.5, (2, "old"): 1.5})
    pgstore.Dict.persist(store_name, client=signing(old))[2, "old"] = 1.5
    changing = pgstore.Dict.persist(store_name, client=signing(new, old))
    refused(changing.keys)

    for key in (1, "unsigned"), (2, "old"):
        if write == "mutate":
            with changing.mutate(key) as entry:
                entry.value = 2.5
        elif write == "update":
            changing.update({key: 2.5})
        elif write == "put":
            changing.put(key, 2.5)
        else:
            changing.increment(key)

    expected = [((1, "unsigned"), 2.5), ((2, "old"), 2.5)]
    assert pgstore.Dict.persist(store_name, client=signing(new)).items() == expected


def test_a_changed_pickle_is_refused_before_it_is_loaded(signing, store_name, sql):
    guarded = pgstore.Dict.persist(store_name, client=signing(KEY))
    guarded["k"] = "good"
    sql(
        "UPDATE pgstore.dict_entry SET value = substr(value, 1, 16) || %s WHERE store_id = %s",
        pickle.dumps(Trap()),
        entry_id(guarded),
    )

    refused(guarded.get, "k")


@pytest.mark.parametrize("where", ["another key", "another dict"])
def test_a_pickle_moved_from_elsewhere_is_refused(signing, store_name, sql, where):
    client = signing(KEY)
    source = pgstore.Dict.persist(store_name, client=client)
    target = pgstore.Dict.persist(f"{store_name}-2", client=client) if where == "another dict" else source
    source["from"] = Trap()
    key = "from" if where == "another dict" else "to"
    target[key] = "good"
    sql(
        """
        UPDATE pgstore.dict_entry
           SET value = (SELECT value FROM pgstore.dict_entry WHERE store_id = %s AND key = 'from')
         WHERE store_id = %s AND key = %s
        """,
        entry_id(source),
        entry_id(target),
        key,
    )

    refused(target.get, key)
    Trap.loaded = False
    assert isinstance(source["from"], Trap)


@pytest.mark.parametrize("role", ["value", "key"])
def test_a_signed_key_is_no_value_and_a_signed_value_no_key(signing, store_name, sql, role):
    """
    Of an entry whose key is a pickle there are two signatures, and what they are for is a part of them.
    """
    guarded = pgstore.Dict.persist(store_name, client=signing(KEY))
    guarded[1, "a"] = ["value"]
    if role == "value":
        change = "codec = 's', value = substr(key_pickle, 2)"
    else:
        change = "key_pickle = '\\x01'::bytea || value"
    sql(f"UPDATE pgstore.dict_entry SET {change} WHERE store_id = %s", entry_id(guarded))

    refused(guarded.values if role == "value" else guarded.keys)


def test_a_client_without_keys_reads_what_was_signed(client, signing, store_name):
    guarded = pgstore.Dict.persist(store_name, client=signing(KEY))
    guarded[(1, "a")] = [1]

    assert pgstore.Dict.persist(store_name, client=client) == {(1, "a"): [1]}


def test_bad_signing_keys_are_refused_and_never_shown():
    for bad in (b"short", "text" * 10, b"x" * 65):
        with pytest.raises(ConfigurationError, match="signing key"):
            pgstore.Client("host=db", signing_keys=[bad])  # type: ignore[list-item]
    assert "kkk" not in repr(pgstore.Client("host=db", signing_keys=[KEY]).settings)


# ------------------------------------------------------------------------------------- a Dict that was JSON, as pickles


RAN: list[str] = []


def run(what):
    RAN.append(what)


class Planted:
    """A value that does something when it is loaded."""

    def __reduce__(self):
        return run, ("code",)


@pytest.fixture
def remade(client, client_elsewhere, store_name):
    """A call that makes a JSON Dict, has *before* done with the reader's handle, and makes it anew as pickles, by another."""

    def remake(before, **asked):
        made = pgstore.Dict.from_name(store_name, create_if_missing=True, serializer="json", client=client_elsewhere)
        made["k"] = 1
        reader = pgstore.Dict.from_name(store_name, client=client, **asked)
        result = before(reader)
        pgstore.Dict.objects.delete(store_name, client=client_elsewhere)
        pickles = pgstore.Dict.from_name(store_name, create_if_missing=True, client=client_elsewhere)
        pickles.update({"k": Planted(), "number": 1, "text": "x"})
        return result

    RAN.clear()
    yield remake
    RAN.clear()


def fresh(client, store_name):
    """A handle of another program's, which has never seen the Dict."""
    return pgstore.Dict.from_name(store_name, client=client)


READS = {
    "get": lambda call, d: call(d.get, "k"),
    "get_entry": lambda call, d: call(d.get_entry, "k"),
    "get_many": lambda call, d: call(d.get_many, ["number", "k"]),
    "pop": lambda call, d: call(d.pop, "k"),
    "setdefault": lambda call, d: call(d.setdefault, "k", 2),
    "values": lambda call, d: call(d.values),
    "items": lambda call, d: call(d.items),
    "iterate_items": lambda call, d: call.iterate(d.iterate_items()),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_dict_that_was_json_loads_no_pickles(call, client, remade, store_name, read):
    """
    Who may delete a Dict would else decide by which serializer its readers read, and run code in them.
    """
    remade(lambda reader: reader["k"])
    reader = pgstore.Dict.from_name(store_name, client=client)

    with pytest.raises(pgstore.InvalidError, match="serializer='json'.*now of serializer='pickle'"):
        read(call, reader)

    assert RAN == []
    assert call(reader.get, "number") == 1  # what runs no code is read
    assert call(reader.contains, "k")
    assert call(reader.put, "mine", [1])


def test_what_it_does_not_load_it_does_not_take(call, client, remade, store_name):
    """
    Also a small pickle of no class, which else goes with the statement that reads it.
    """
    remade(lambda reader: reader["k"])
    reader = pgstore.Dict.from_name(store_name, client=client)

    for operation, arguments in (reader.pop, ["text"]), (reader.popitem, []), (reader.pop_many, [["number", "text"]]):
        with pytest.raises(pgstore.InvalidError, match="serializer='json'"):
            call(operation, *arguments)

    assert call(reader.keys) == ["k", "number", "text"]


@pytest.mark.parametrize("options", ["{}", '{"serializer": null}', '{"serializer": "cloudpickle"}'])
def test_it_loads_none_whatever_its_row_says(call, client, client_elsewhere, store_name, sql, options):
    """
    Who may write to the registry chooses every letter of the options.
    """
    made = pgstore.Dict.from_name(store_name, create_if_missing=True, serializer="json", client=client_elsewhere)
    made["k"] = 1
    sql("UPDATE pgstore.store SET options = %s::jsonb WHERE name = %s", options, store_name)
    trap = pickle.dumps(Planted())
    sql(
        "UPDATE pgstore.dict_entry SET codec = 'p', integer_value = NULL, value = %s WHERE store_id = %s",
        trap,
        entry_id(made),
    )
    RAN.clear()

    for read in READS.values():
        with pytest.raises((pgstore.InvalidError, pgstore.DeserializationError)):
            read(call, pgstore.Dict.from_name(store_name, client=client))
    assert RAN == []


def test_it_loads_none_in_a_client_that_has_never_seen_it(call, database, remade, store_name):
    """
    The database knows the name.
    """
    remade(lambda reader: None)

    for make in (
        lambda client: pgstore.Dict.from_name(store_name, client=client),
        lambda client: pgstore.Dict.persist(store_name, client=client),
        lambda client: pgstore.Dict.from_id(fresh(client, store_name).hydrate().object_id, client=client),
        lambda client: next(d for d in pgstore.Dict.objects.list(client=client) if d.name == store_name),
    ):
        with pytest.raises(pgstore.InvalidError, match="now of serializer='pickle'"):
            call(make(call.client(database)).get, "k")
    assert RAN == []


def test_it_loads_none_where_only_the_client_remembers(call, client, remade, store_name, sql):
    remade(lambda reader: reader["k"])
    sql("DELETE FROM pgstore.dict_json_name WHERE name = %s", store_name)

    with pytest.raises(pgstore.InvalidError, match="now of serializer='pickle'"):
        call(fresh(client, store_name).get, "k")
    assert RAN == []


@pytest.mark.parametrize("used", [True, False], ids=["used", "of a client that used another"])
def test_it_loads_none_through_a_handle_that_was_pickled_when_it_was_json(
    call, client, database, remade, store_name, sql, monkeypatch, used
):
    def before(reader):
        if used:
            reader.len()
        else:
            fresh(client, store_name).len()
        return pickle.dumps(reader)

    travelling = remade(before)
    sql("DELETE FROM pgstore.dict_json_name WHERE name = %s", store_name)
    monkeypatch.setattr("pgstore.client._default", call.client(database))

    arrived = pickle.loads(pickle.dumps(pickle.loads(travelling)))

    with pytest.raises(pgstore.InvalidError, match="now of serializer='pickle'"):
        call(arrived.get, "k")
    assert RAN == []


def test_who_named_json_is_told_on_first_use(call, database, remade, store_name, monkeypatch):
    travelling = remade(pickle.dumps, serializer="json")
    client = call.client(database)
    monkeypatch.setattr("pgstore.client._default", client)

    with pytest.raises(pgstore.InvalidError, match="serializer="):
        call(pgstore.Dict.from_name(store_name, serializer="json", client=client).get, "k")
    with pytest.raises(pgstore.InvalidError, match="serializer="):
        call(pickle.loads(travelling).get, "k")
    assert RAN == []


@pytest.mark.parametrize("joined", [True, False], ids=["joined", "own"])
def test_who_named_json_is_told_in_a_transaction_in_which_another_handle_found_it(
    client, database, remade, store_name, joined
):
    """
    What a transaction has found is shared by its handles, but not what was asked of them.
    """
    remade(lambda reader: None)
    with psycopg.connect(database) as connection, client.transaction(connection if joined else None):
        pgstore.Dict.from_name(store_name, serializer="pickle", client=client).len()

        with pytest.raises(pgstore.InvalidError, match="serializer="):
            pgstore.Dict.from_name(store_name, serializer="json", client=client).get("k")
        with pytest.raises(pgstore.InvalidError, match="now of serializer='pickle'"):
            pgstore.Dict.from_name(store_name, client=client).get("k")
    assert RAN == []


def test_who_names_the_other_serializer_accepts_it(call, client, remade, store_name):
    remade(lambda reader: reader["k"])

    accepting = pgstore.Dict.from_name(store_name, serializer="pickle", client=client)

    call(accepting.get, "k")
    assert RAN == ["code"]
    assert call(accepting.get, "text") == "x"


def test_the_owner_can_give_the_name_free(call, database, remade, store_name, sql):
    remade(lambda reader: None)
    sql("DELETE FROM pgstore.dict_json_name WHERE name = %s", store_name)

    assert call(pgstore.Dict.from_name(store_name, client=call.client(database)).get, "text") == "x"


def test_options_that_were_changed_under_a_handle_load_no_pickles(call, client, client_elsewhere, store_name, sql):
    """
    Who may write to the table can change the serializer without making the Dict anew.
    """
    entries = pgstore.Dict.from_name(store_name, create_if_missing=True, serializer="json", client=client)
    entries["k"] = 1
    sql("UPDATE pgstore.store SET options = '{}' WHERE name = %s", store_name)
    RAN.clear()
    pgstore.Dict.from_name(store_name, serializer="pickle", client=client_elsewhere)["k"] = Planted()

    for reader in (entries, fresh(client, store_name), fresh(call.client(client.settings.url), store_name)):
        with pytest.raises(pgstore.Error):
            call(reader.get, "k")
    assert RAN == []


def test_keys_that_are_pickled_are_not_loaded_either(call, client, client_elsewhere, remade, store_name):
    remade(lambda reader: reader["k"])
    pgstore.Dict.from_name(store_name, client=client_elsewhere)[PlantedKey()] = 1

    with pytest.raises(pgstore.Error):
        call(fresh(client, store_name).keys)
    assert RAN == []


@dataclass(frozen=True)
class PlantedKey:
    number: int = 1

    def __reduce__(self):
        return run, ("code of a key",)
