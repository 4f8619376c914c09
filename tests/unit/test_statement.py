"""Parameters are packed as psycopg, which has been checked against every version of Postgres, packs them."""

from __future__ import annotations

import struct
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import adapters
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.datetime import DatetimeBinaryDumper
from psycopg.types.json import Jsonb
from psycopg.types.numeric import Int4BinaryDumper, Int8BinaryDumper

from pgstore.core.operation import OpenCursor
from pgstore.core.statement import TYPES, Statement

INT8 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
TIMES = st.datetimes(
    datetime(1, 1, 3),  # noqa: DTZ001
    datetime(9999, 12, 29),  # noqa: DTZ001
    timezones=st.timedeltas(timedelta(hours=-14), timedelta(hours=14)).map(timezone),
)


def packed(name, value):
    (data,) = Statement("SELECT $1", name).pack([value])
    return data


def by_psycopg(value, kind=None):
    transformer = Transformer()
    dumper = kind(type(value), transformer) if kind else transformer.get_dumper(value, PyFormat.BINARY)
    data = dumper.dump(value)
    assert data is not None
    return bytes(data)


@given(INT8)
def test_int8(value):
    assert packed("int8", value) == by_psycopg(value, Int8BinaryDumper)


@given(st.integers(-(2**31), 2**31 - 1))
def test_int4(value):
    assert packed("int4", value) == by_psycopg(value, Int4BinaryDumper)


@given(st.one_of(st.booleans(), st.floats(), st.binary(), TEXT))
def test_scalars(value):
    name = {bool: "bool", float: "float8", bytes: "bytea", str: "text"}[type(value)]
    assert packed(name, value) == by_psycopg(value)


@given(TIMES)
def test_timestamptz(value):
    """
    Microseconds since 2000, before it too, from any time zone.
    """
    assert packed("timestamptz", value) == by_psycopg(value, DatetimeBinaryDumper)


def test_jsonb_is_text_after_a_version():
    assert packed("jsonb", '{"a": 1}') == by_psycopg(Jsonb({"a": 1}))


@given(st.lists(INT8 | st.none()))
def test_arrays(values):
    """
    Empty, with nulls and without.
    """
    statement = Statement("SELECT $1", "int8[]")
    (data,) = statement.pack([values])
    assert data is not None
    loader = Transformer().get_loader(statement.oids[0], 1)  # type: ignore[arg-type]
    assert loader.load(data) == values


@given(st.lists(TEXT | st.none()), st.lists(st.binary() | st.none()), st.lists(TIMES | st.none()))
def test_arrays_of_what_has_no_fixed_length(texts, blobs, times):
    statement = Statement("SELECT $1, $2, $3", "text[] bytea[] timestamptz[]")
    data = statement.pack([texts, blobs, times])
    loaded = [
        Transformer().get_loader(oid, 1).load(each)  # type: ignore[arg-type]
        for oid, each in zip(statement.oids, data, strict=True)
    ]
    assert loaded == [texts, blobs, times]


def test_none_is_null_for_every_type():
    for name in TYPES:
        assert packed(name, None) is None


def test_types_have_the_servers_oids():
    for name, (oid, _) in TYPES.items():
        element = name.removesuffix("[]")
        info = adapters.types.get(f'"{element}"' if element == "char" else element)
        assert info is not None
        assert oid == (info.array_oid if name.endswith("[]") else info.oid), name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("int8", 2**63),
        ("int4", 2**31),
        ("int8", "1"),
        ("int8", 1.5),
        ("text", "\ud800"),
        ("text", 1),
        ("text[]", ["a", "\ud800"]),
        ("timestamptz", datetime(2000, 1, 1)),  # noqa: DTZ001
    ],
)
def test_what_does_not_fit_is_an_error_before_anything_is_sent(name, value):
    with pytest.raises((struct.error, TypeError, AttributeError, UnicodeEncodeError)):
        packed(name, value)


def test_each_statement_has_a_name_of_its_own():
    """
    Prepared under it: two with one name would run each other.
    """
    statements = [Statement("SELECT 1") for _ in range(10)]
    assert len({statement.name for statement in statements}) == 10
    assert all(statement.name.startswith(b"pgstore_") for statement in statements)


def test_an_unknown_type_is_an_error_at_import():
    with pytest.raises(KeyError):
        Statement("SELECT $1", "int5")


def test_a_repr_is_one_line_of_sql():
    assert repr(Statement("\n  SELECT 1,\n         2\n")) == "<Statement 'SELECT 1, 2'>"


def test_what_moves_a_cursor_is_not_sent_again():
    """
    Rows would be left out. To be read-only is something else.
    """
    cursor = OpenCursor("scan", lambda: None)

    for query in (cursor.fetch(10), cursor.close()):
        assert (query.read_only, query.repeatable) == (True, False)
