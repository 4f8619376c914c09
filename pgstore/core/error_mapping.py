"""The one place where psycopg's errors become pgstore's. The original is kept as `__cause__` by `raise … from`."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Mapping
from typing import Final

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from pgstore import errors
from pgstore.core import limit


def describe(conninfo: str, *, with_defaults: bool = False) -> str:
    """
    Where *conninfo* leads, for a message: `user@host:port/database`. Never more: a URL may hold a password anywhere.

    Args:
        with_defaults: name user, port and database also where libpq fills them in.
    """
    try:
        given = conninfo_to_dict(conninfo)
    except (psycopg.ProgrammingError, UnicodeError):
        return "an unreadable URL"
    if _is_misread(given):
        return "an unreadable URL"
    defaults = _libpq_defaults() if with_defaults else {}
    user = given.get("user") or os.environ.get("PGUSER") or defaults.get("user")
    service = given.get("service") or os.environ.get("PGSERVICE")
    default = f"the service {service}" if service else "local socket"
    hosts = str(given.get("host") or given.get("hostaddr") or os.environ.get("PGHOST") or default).split(",")
    ports = str(given.get("port") or os.environ.get("PGPORT") or "").split(",")
    ports = [port or defaults.get("port", "") for port in ports]
    places = [f"{host}:{port}" if port else host for host, port in zip(hosts, ports * len(hosts), strict=False)]
    database = given.get("dbname") or os.environ.get("PGDATABASE") or (user if with_defaults else None)
    return (f"{user}@" if user else "") + ",".join(places) + (f"/{database}" if database else "")


def _libpq_defaults() -> dict[str, str]:
    return {option.keyword.decode(): option.val.decode() for option in pq.Conninfo.get_defaults() if option.val}


def check_conninfo(conninfo: str) -> None:
    """
    Raise ConfigurationError, without a word of it, for a URL that libpq cannot read or reads in the wrong way.

    libpq's own messages repeat what it stumbled over. That may be a piece of the password: of "secret@1" written as it is into a
    URL, "1" becomes the host; of "secret/1" the port is "secret".
    """
    origin = _origin(conninfo)
    given: Mapping[str, object] | None = None
    with contextlib.suppress(psycopg.ProgrammingError, UnicodeError):
        given = conninfo_to_dict(conninfo)
    if given is None:  # raised here, or libpq's own would be its `__context__`
        raise errors.ConfigurationError(
            f"the database URL{origin} {_unreadable(conninfo)}; expected postgresql://user:password@host:port/database or pairs "
            "like host=…"
        )
    is_misread = _is_misread(given)
    del given  # a traceback may show local variables
    if is_misread:
        raise errors.ConfigurationError(
            f"the database URL{origin} has no proper host and port: do user and password need %40 for @, %2F for /, %3A for :?"
        )


def _is_misread(given: Mapping[str, object]) -> bool:
    """Whether a piece of a password has become the host or the port."""
    hosts, ports = str(given.get("host", "")), str(given.get("port", ""))
    # "@name" is a socket in the abstract name space.
    return "@" in hosts[1:] or not set(ports) <= set("0123456789,")


def _origin(conninfo: str) -> str:
    """The variable that *conninfo* stands in, for a message: what was set by somebody else is hard to find otherwise."""
    return next((f" in {name}" for name in ("PGSTORE_URL", "DATABASE_URL") if os.environ.get(name) == conninfo), "")


def _unreadable(conninfo: str) -> str:
    scheme, separator, rest = conninfo.partition("://")
    if slip := re.match(r"postgres(?:ql)?(?!://)(?::/?|/+)(?=[^/:])", conninfo):
        return f"begins with {slip[0]} and not with postgresql://"
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return "cannot be read"
    if scheme not in ("postgresql", "postgres"):
        return f"begins with {scheme}://"
    if "?" in rest:
        return "has something behind ? that is no option=value of libpq's"  # not named: "a@b?c" may be a password
    return "cannot be read"


# What psycopg puts before libpq's words, and libpq's own "is the server running?".
_SAID_ANYWAY = re.compile(r"^connection (?:failed|is bad): | Is the server running [^?]*\?")


def map_connect_error(exc: psycopg.Error, conninfo: str) -> errors.Error:
    """
    What a failed connection attempt means. libpq reports it as text only.

    To be raised after the `except` block of *exc*, which would else be its `__context__`: that knows the connection, password and
    all, and its traceback does. The cause is one that knows the text.
    """
    error = _meaning(exc, conninfo)
    error.__cause__ = type(exc)(str(exc))
    return error


def _meaning(exc: psycopg.Error, conninfo: str) -> errors.Error:
    where = describe(conninfo)
    text = _SAID_ANYWAY.sub("", " ".join(str(exc).split()))
    if "pg_hba.conf" in text:
        advice = "is user, database or address missing in the server's pg_hba.conf?"
        if re.search(r"no encryption|SSL off", text):
            advice = "does it take encrypted connections only (sslmode=require)? Else " + advice
        return errors.AccessDenied(f"the server refused the login with {where}: {text}; {advice}")
    if re.search(r"password authentication failed|no password supplied|authentication failed", text):
        return errors.AccessDenied(f"the server refused the login with {where}: {text}; check user and password")
    if re.search(r'role ".*" (?:does not exist|is not permitted to log in)', text):
        return errors.AccessDenied(f"the server refused the login with {where}: {text}; check the user")
    if re.search(r'database ".*" does not exist', text):
        return errors.ConfigurationError(f"cannot connect with {where}: {text}; create it with `createdb`")
    if "permission denied for database" in text:
        return errors.AccessDenied(f"cannot connect with {where}: {text}; run GRANT CONNECT ON DATABASE … TO the role")
    if re.search(r"could not translate host name|Name or service not known|resolve", text):
        return errors.StoreUnavailable(f"the host of {where} is unknown: {text}")
    return errors.StoreUnavailable(f"cannot reach the server at {where}: {text}{_advice(text)}")


def _advice(text: str) -> str:
    if re.search(r"too many (?:clients|connections)|connection slots", text):
        return "; close some connections, or allow more (max_connections, CONNECTION LIMIT)"
    if "Permission denied" in text:
        return "; may this user use the server's socket?"
    if "session is read-only" in text:  # of several servers the one that can be written to is looked for
        return "; is the primary among them, and has the role not set default_transaction_read_only?"
    if "SSL" in text:
        return "; check sslmode"
    return "; is it running?"


QUERY_CANCELED: Final = "57014"
DISK_FULL: Final = "53100"


def timed_out() -> errors.TimedOut:
    return errors.TimedOut(
        "the time of the call was over while the server was at work on it, probably waiting for a lock that the transaction of "
        "somebody else holds (pg_blocking_pids tells whose); nothing was done"
    )


def map_error(exc: psycopg.Error, *, login: str = "") -> errors.Error:
    """What an error of a statement means, on a connection that still works. *login*: whose connection it is, if that is known."""
    state = exc.sqlstate or ""
    text = str(exc.diag.message_primary or exc).strip()
    if state in ("40001", "40P01"):
        return errors.SerializationConflict(
            f"the transaction was rolled back: {text}; run it again (see run_transaction)"
        )
    if state == "25P02":
        return errors.TransactionFailed("an earlier statement of this transaction failed; it can only be rolled back")
    if state == "42501":
        return errors.AccessDenied(
            f"{text}; a role needs to be a member of pgstore_reader to read and of pgstore_writer to write: "
            + (f'GRANT pgstore_writer TO "{login}"' if login else "GRANT pgstore_writer TO the role")
        )
    if state.startswith("28"):
        return errors.AccessDenied(f"the server refused the login: {text}")
    if state == "25006":
        return errors.AccessDenied(
            f"the server or the transaction is read-only: {text}; connect to the primary, with a role that has not set "
            "default_transaction_read_only"
        )
    if state in ("42P01", "3F000", "42883", "42703"):
        return errors.SchemaMissing(
            f"the pgstore schema is missing or not as this code knows it: {text}; run `pgstore migrate`"
        )
    if state.startswith(("08", "57P")) or (not state and isinstance(exc, psycopg.OperationalError)):
        return errors.StoreUnavailable(f"the connection to the server broke: {text}")
    if state == DISK_FULL:
        return errors.StoreUnavailable(f"the disk of the server is full: {text}", errno=errno.ENOSPC)
    if state.startswith("53"):
        return errors.StoreUnavailable(f"the server is out of resources: {text}")
    if state == QUERY_CANCELED and limit.is_over():
        return timed_out()
    # What the caller's data did, which in a transaction takes all of it along.
    spoilt = "; a transaction that this is in can only be rolled back"
    if state == "54000" or (state == "XX000" and "invalid memory alloc request size" in text):
        return errors.ValueTooLarge(
            f"the database cannot hold this value: {text}; put large ones into a Volume{spoilt}"
        )
    if state in ("22021", "22P05"):
        return errors.InvalidError(f"the database cannot hold this text: {text}{spoilt}")
    return errors.StatementFailed(
        f"the server refused a statement: {text} (SQLSTATE {state or 'unknown'}){spoilt}", state or None
    )
