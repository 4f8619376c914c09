"""Errors of psycopg and libpq become ours in one place: the type says what to do, the text says why, and no password is in it."""

from __future__ import annotations

import re

import psycopg
import pytest

from pgstore import errors
from pgstore.core.error_mapping import check_conninfo, describe, map_connect_error, map_error


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGPASSWORD", "PGSTORE_URL", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)


def error(sqlstate, text="what the server said"):
    return psycopg.errors.lookup(sqlstate)(text)


@pytest.mark.parametrize(
    ("sqlstate", "expected"),
    [
        ("40001", errors.SerializationConflict),
        ("40P01", errors.SerializationConflict),
        ("25P02", errors.TransactionFailed),
        ("42501", errors.AccessDenied),
        ("28P01", errors.AccessDenied),
        ("28000", errors.AccessDenied),
        ("25006", errors.AccessDenied),
        ("42P01", errors.SchemaMissing),
        ("3F000", errors.SchemaMissing),
        ("42883", errors.SchemaMissing),
        ("42703", errors.SchemaMissing),
        ("08006", errors.StoreUnavailable),
        ("08P01", errors.StoreUnavailable),
        ("57P01", errors.StoreUnavailable),
        ("57P03", errors.StoreUnavailable),
        ("53300", errors.StoreUnavailable),
        ("53100", errors.StoreUnavailable),
        ("22021", errors.InvalidError),
        ("22P05", errors.InvalidError),
        ("23514", errors.StatementFailed),
        ("57014", errors.StatementFailed),
        ("55P03", errors.StatementFailed),
        ("22012", errors.StatementFailed),
    ],
)
def test_an_sqlstate_has_one_meaning(sqlstate, expected):
    mapped = map_error(error(sqlstate))

    assert type(mapped) is expected
    if expected is errors.StatementFailed:
        assert isinstance(mapped, errors.StatementFailed)
        assert mapped.sqlstate == sqlstate
    if sqlstate != "25P02":
        assert "what the server said" in str(mapped)


def test_a_lost_connection_has_no_sqlstate():
    mapped = map_error(psycopg.OperationalError("consuming input failed: server closed the connection unexpectedly"))
    assert type(mapped) is errors.StoreUnavailable


def test_a_conflict_is_a_failed_transaction_and_not_a_lost_connection():
    """
    Who catches StoreUnavailable to try later would never look at what has to be done again at once.
    """
    mapped = map_error(error("40001"))
    assert isinstance(mapped, errors.TransactionFailed)
    assert not isinstance(mapped, ConnectionError)


@pytest.mark.parametrize(
    ("text", "expected", "advice"),
    [
        ('FATAL:  password authentication failed for user "joe"', errors.AccessDenied, "password"),
        ("fe_sendauth: no password supplied", errors.AccessDenied, "password"),
        ('FATAL:  no pg_hba.conf entry for host "1.2.3.4", user "joe"', errors.AccessDenied, "user"),
        (
            'FATAL:  pg_hba.conf rejects connection for host "1.2.3.4", user "joe", database "shop", no encryption',
            errors.AccessDenied,
            "sslmode=require",
        ),
        ('FATAL:  role "joe" does not exist', errors.AccessDenied, "user"),
        ('FATAL:  database "shop" does not exist', errors.ConfigurationError, "createdb"),
        ('FATAL:  permission denied for database "shop"', errors.AccessDenied, "GRANT CONNECT"),
        ('could not translate host name "nowhere" to address', errors.StoreUnavailable, "unknown"),
        ("[Errno -2] Name or service not known", errors.StoreUnavailable, "unknown"),
        ("connection refused", errors.StoreUnavailable, "running"),
        ("FATAL:  the database system is starting up", errors.StoreUnavailable, "running"),
        ('FATAL:  role "joe" is not permitted to log in', errors.AccessDenied, "user"),
        ("FATAL:  sorry, too many clients already", errors.StoreUnavailable, "max_connections"),
        ('FATAL:  too many connections for role "joe"', errors.StoreUnavailable, "CONNECTION LIMIT"),
        ("server does not support SSL, but SSL was required", errors.StoreUnavailable, "sslmode"),
        (
            'connection to server on socket "/x/.s.PGSQL.1" failed: Permission denied',
            errors.StoreUnavailable,
            "this user",
        ),
        ("connection timeout expired", errors.StoreUnavailable, "running"),
        ("session is read-only", errors.StoreUnavailable, "primary"),
    ],
)
def test_a_refused_connection_says_why_where_and_what_to_do(text, expected, advice):
    mapped = map_connect_error(psycopg.OperationalError(text), "postgresql://joe:hush@db.example:5433/shop")

    assert type(mapped) is expected
    assert advice in str(mapped)
    assert "joe@db.example:5433/shop" in str(mapped)
    assert "hush" not in str(mapped)


@pytest.mark.parametrize(
    ("conninfo", "expected"),
    [
        ("postgresql://joe:hush@db.example:5433/shop", "joe@db.example:5433/shop"),
        ("host=db.example dbname=shop password=hush", "db.example/shop"),
        ("host=a,b port=1,2 user=joe password=hush", "joe@a:1,b:2"),
        ("postgresql://joe:hush@a,b/shop?sslpassword=hush", "joe@a,b/shop"),
        ("", "local socket"),
        ("no url at all hush", "an unreadable URL"),
        ("postgresql://joe:hu[sh@db/shop", "joe@db/shop"),
    ],
)
def test_a_description_never_holds_a_password(conninfo, expected):
    found = describe(conninfo)
    assert "hush" not in found
    if "[" not in conninfo:
        assert found == expected


def test_a_service_is_named_where_it_says_where_the_server_is(monkeypatch):
    """
    Nobody finds a mistake in a file that is not mentioned.
    """
    refused = psycopg.OperationalError("connection refused")
    assert "at the service shop" in str(map_connect_error(refused, "service=shop"))
    monkeypatch.setenv("PGSERVICE", "shop")
    assert "at the service shop" in str(map_connect_error(refused, ""))


@pytest.mark.parametrize(
    "conninfo",
    [
        "no url at all hush",
        "postgresql://joe:hush@1@db/shop",
        "postgresql://joe:hush/1@db/shop",
        "mysql://joe:hush@db/shop",
        "host",
        "postgresql://joe:hush\udcff@db/shop",
    ],
)
def test_an_unreadable_url_is_refused_without_a_word_of_it(conninfo):
    """
    libpq repeats what it stumbled over, which may be a piece of the password.
    """
    with pytest.raises(errors.ConfigurationError) as caught:
        check_conninfo(conninfo)
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("conninfo", "reason"),
    [
        ("mysql://joe:hush@db/shop", "begins with mysql://"),
        ("postgresql://db/shop?bogus=1", "has something behind ?"),
        ("postgresql://joe:a@b?hush=1@db/shop", "has something behind ?"),
        ("shop", "cannot be read"),
        ("postgres//ann:hush@db/shop", "begins with postgres// and not with postgresql://"),
        ("postgresql:/ann:hush@db/shop", "begins with postgresql:/ and not with postgresql://"),
        ("postgres:hush@db/shop", "begins with postgres: and not with postgresql://"),
    ],
)
def test_an_unreadable_url_is_refused_with_the_reason_and_its_origin(monkeypatch, conninfo, reason):
    """
    DATABASE_URL may have been set long ago, for another program.
    """
    monkeypatch.setenv("DATABASE_URL", conninfo)

    with pytest.raises(errors.ConfigurationError, match=f"URL in DATABASE_URL .*{re.escape(reason)}") as caught:
        check_conninfo(conninfo)

    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "conninfo",
    [
        "",
        "dbname=shop",
        "postgresql://",
        "postgresql://joe:p%40ss@db:5432/shop?sslmode=require",
        "host=/tmp",
        "host=@abstract",
    ],
)
def test_what_libpq_can_use_is_accepted(conninfo):
    check_conninfo(conninfo)
