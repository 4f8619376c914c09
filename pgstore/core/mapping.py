"""The one place where psycopg's errors become pgstore's. The original is kept as `__cause__` by `raise … from`."""

from __future__ import annotations

import re

import psycopg

from pgstore import errors

_PASSWORD_IN_URL = re.compile(r"(?<=://)([^:/@\s]+):[^@\s]*(?=@)")
_PASSWORD_IN_CONNINFO = re.compile(r"(?i)\b(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)")


def without_password(conninfo: str) -> str:
    """*conninfo* fit for a message."""
    return _PASSWORD_IN_CONNINFO.sub(r"\1***", _PASSWORD_IN_URL.sub(r"\1:***", conninfo))


def map_connect_error(exc: psycopg.Error, conninfo: str) -> errors.Error:
    """What a failed connection attempt means. libpq reports it as text only."""
    where = without_password(conninfo)
    text = " ".join(str(exc).split())
    if isinstance(exc, psycopg.ProgrammingError):
        return errors.ConfigurationError(f"{where!r} is not a connection URL that libpq understands: {text}")
    if re.search(r"password authentication failed|no password supplied|authentication failed|pg_hba\.conf", text):
        return errors.AccessDenied(f"the server refused the login with {where!r}: {text}; check user and password")
    if re.search(r'role ".*" does not exist', text):
        return errors.AccessDenied(f"the server refused the login with {where!r}: {text}; check the user")
    if re.search(r'database ".*" does not exist', text):
        return errors.ConfigurationError(f"cannot connect with {where!r}: {text}; create it with `createdb`")
    if "permission denied for database" in text:
        return errors.AccessDenied(
            f"cannot connect with {where!r}: {text}; run GRANT CONNECT ON DATABASE … TO the role"
        )
    if re.search(r"could not translate host name|Name or service not known|resolve", text):
        return errors.StoreUnavailable(f"the host of {where!r} is unknown: {text}")
    return errors.StoreUnavailable(f"cannot reach the server at {where!r}: {text}; is it running?")


def map_error(exc: psycopg.Error) -> errors.Error:
    """What an error of a statement means, on a connection that still works."""
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
            "GRANT pgstore_writer TO the role"
        )
    if state.startswith("28"):
        return errors.AccessDenied(f"the server refused the login: {text}")
    if state == "25006":
        return errors.AccessDenied(f"the server or the transaction is read-only: {text}; connect to the primary")
    if state in ("42P01", "3F000", "42883", "42703"):
        return errors.SchemaMissing(
            f"the pgstore schema is missing or not as this code knows it: {text}; run `pgstore migrate`"
        )
    if state.startswith(("08", "57P")) or (not state and isinstance(exc, psycopg.OperationalError)):
        return errors.StoreUnavailable(f"the connection to the server broke: {text}")
    if state.startswith("53"):
        return errors.StoreUnavailable(f"the server is out of resources: {text}")
    if state in ("22021", "22P05"):
        return errors.InvalidError(f"the database cannot hold this text: {text}")
    return errors.StatementFailed(
        f"the server refused a statement: {text} (SQLSTATE {state or 'unknown'})", state or None
    )
