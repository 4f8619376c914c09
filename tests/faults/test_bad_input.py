"""What no call can do anything with: refused where it is given, with an error that says why, and with nothing left half done."""

from __future__ import annotations

import asyncio
import decimal
import threading

import pytest

import pgstore
from pgstore.errors import ConfigurationError, InvalidError, ValueTooLarge
from pgstore.serializers import values


@pytest.fixture
def stores(client, store_name):
    return (
        pgstore.Dict.persist(store_name, client=client).hydrate(),
        pgstore.Queue.persist(store_name, client=client).hydrate(),
    )


@pytest.mark.parametrize(
    "timeout",
    [-1, -0.001, float("nan"), "x", "1", True, decimal.Decimal("NaN"), 1j, []],
    ids=lambda value: repr(value)[:12],
)
def test_a_timeout_is_a_number_of_seconds_or_none(call, stores, timeout):
    """
    A negative or nonsensical one would wait for ever, or not at all, somewhere deep inside.
    """
    _, queue = stores
    queue.put("item")

    for operation in (queue.get, queue.put_many, queue.put):
        arguments = () if operation is queue.get else (["other"],)
        with pytest.raises(InvalidError, match="timeout"):
            call(operation, *arguments, timeout=timeout)

    assert call(queue.get_many, 10) == ["item"]


@pytest.mark.parametrize(
    "timeout",
    [float("inf"), 1e300, 10**30, 10**400, 0, 0.0, decimal.Decimal(1), None],
    ids=lambda value: repr(value)[:12],
)
def test_every_number_of_seconds_is_a_timeout(call, stores, timeout):
    _, queue = stores
    queue.put("item")
    assert call(queue.get, timeout=timeout) == "item"


@pytest.mark.parametrize(
    "partition", ["", "\0", "a\0b", "x" * 65, "ü" * 33, "\ud800", "a\udfff", 1, b"x", ["x"]], ids=ascii
)
def test_a_partition_is_a_short_text(call, stores, partition):
    _, queue = stores
    for operation, *arguments in [
        (queue.put, 1),
        (queue.put_many, [1]),
        (queue.get, False),
        (queue.get_many, 1, False),
    ]:
        with pytest.raises(InvalidError, match="partition"):
            call(operation, *arguments, partition=partition)
    assert call(queue.len, total=True) == 0


@pytest.mark.parametrize("partition", ["x" * 64, "ü" * 32, "😀" * 16, "\x01", "'; --", "%s", "/"])
def test_every_short_text_is_a_partition(call, stores, partition):
    _, queue = stores
    call(queue.put, 1, partition=partition)
    assert call(queue.get, partition=partition) == 1


@pytest.mark.parametrize(
    "key",
    ["", "\0", "a\0b", "\x01", "\ud800", "x\udfff", "😀", "ü" * 5000, b"\0", ("\0", "\ud800"), 2**64, -(2**400)],
    ids=lambda key: ascii(key)[:12],
)
def test_every_key_of_a_supported_type_is_stored_or_refused_as_a_whole(call, stores, key):
    """
    NUL is no character to Postgres, and lone surrogates are none to UTF-8: they are escaped, not mangled.
    """
    entries, _ = stores
    call(entries.put, key, 1)
    call(entries.update, {key: 2})
    assert call(entries.get, key) == 2
    assert call(entries.keys) == [key]
    assert call(entries.pop, key) == 2


@pytest.mark.parametrize(
    "value", [2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 10**400, float("nan"), float("-inf"), -0.0]
)
def test_numbers_beyond_the_database_are_stored_too(call, stores, value):
    entries, queue = stores
    call(entries.put, "k", value)
    call(entries.update, {"l": value})
    call(queue.put, value)
    for found in (call(entries.get, "k"), call(entries.get, "l"), call(queue.get)):
        assert repr(found) == repr(value)
        assert type(found) is type(value)


def test_a_value_above_the_limit_is_refused_before_it_is_sent(call, stores, monkeypatch):
    """
    pg_dump fails above about 500 MiB, and would take the whole backup with it.
    """
    assert values.VALUE_BYTES_MAX == 256 * 1024**2
    entries, queue = stores
    large = b"x" * (2 << 20)
    monkeypatch.setattr(values, "VALUE_BYTES_MAX", len(large) - 1)

    for operation, *arguments in [
        (entries.put, "k", large),
        (entries.update, {"a": 1, "k": large}),
        (queue.put, large),
        (queue.put_many, ["small", large]),
    ]:
        with pytest.raises(ValueTooLarge, match="2.0 MiB"):
            call(operation, *arguments)

    assert call(entries.len) == call(queue.len) == 0


def test_the_database_refuses_too_large_values_as_well(eye):
    """
    For those who write by SQL.
    """
    columns = eye.rows(
        """
        SELECT c.attrelid::regclass::text, c.attname
          FROM pg_constraint k
          JOIN pg_attribute c ON c.atttypid = k.contypid
         WHERE k.contype = 'c'
           AND k.convalidated
           AND pg_get_constraintdef(k.oid) = 'CHECK ((octet_length(VALUE) <= 268435456))'
        """
    )
    assert set(columns) >= {
        ("pgstore.dict_entry", "value"),
        ("pgstore.queue_item", "payload"),
        ("pgstore.queue_deferred", "payload"),
    }


@pytest.mark.parametrize("n", [0, -1, 1.5, "1", True, None])
def test_a_number_of_items_is_a_positive_int(call, stores, n):
    _, queue = stores
    queue.put("item")
    with pytest.raises(InvalidError, match="1 or more"):
        call(queue.get_many, n)
    assert call(queue.len) == 1


def test_an_enormous_number_of_items_means_all(call, stores):
    _, queue = stores
    queue.put_many([1, 2])
    for n in (2**31, 2**63 - 1, 2**63, 10**30):
        assert call(queue.get_many, n) == [1, 2]
        call(queue.put_many, [1, 2])


def test_a_refused_call_leaves_the_connection_as_it_was(call, stores):
    """
    What cannot be packed must not leave half a message on the connection.
    """
    entries, queue = stores
    for _ in range(12):  # more than there are connections
        with pytest.raises(TypeError):
            call(entries.put, object(), 1)
        with pytest.raises(pgstore.SerializationError):
            call(queue.put, threading.Lock())
    call(entries.put, "k", 1)
    assert call(entries.get, "k") == 1


@pytest.mark.parametrize("connections_max", [0, -1, 1.5, "5", None, True])
def test_a_client_has_at_least_one_connection(connections_max):
    with pytest.raises(ConfigurationError, match="connections_max"):
        pgstore.Client("postgresql://", connections_max=connections_max)


@pytest.mark.parametrize("subject", [None, 1, "postgresql://", object(), pgstore.Dict])
def test_what_is_no_connection_cannot_be_joined(client, subject):
    if subject is None:
        with client.transaction(connection=None):  # a transaction of ours
            return
    with pytest.raises(InvalidError, match="cannot join"):
        client.transaction(connection=subject)


def test_a_transaction_in_the_wrong_form_is_refused_at_its_beginning(client, database):
    import psycopg

    with psycopg.connect(database) as connection:

        async def main():
            with pytest.raises(InvalidError, match="use `with`"):
                async with client.transaction(connection=connection):
                    pass
            async with await psycopg.AsyncConnection.connect(database) as aconnection:
                with pytest.raises(InvalidError, match="use `async with`"), client.transaction(connection=aconnection):
                    pass

        asyncio.run(main())
