"""Opening a connection: settings, what kind of server answers, whether its schema fits this code.

The checks are one generator over a connection, run blocking or awaited (see `connection`).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgstore import errors
from pgstore.connection import ADAPTERS, AsyncConnection, BlockingConnection, BrokenConnection, Connection
from pgstore.core import limit
from pgstore.core.error_mapping import check_conninfo, describe, map_connect_error
from pgstore.core.operation import Many, Query
from pgstore.core.search_path import fault_of
from pgstore.core.statement import Statement
from pgstore.core.steps import Steps
from pgstore.migrate import revisions

# These two are the first on a connection, and are right whatever its search_path: they look nothing up along it, not even an
# operator or the name of a type. Behind a pooler in transaction mode another backend answers than the one that said hello.
WHO_ANSWERS = Statement(
    """
    SELECT pg_catalog.pg_backend_pid(),
           pg_catalog.to_regclass('pgstore.installation') IS NOT NULL,
           pg_catalog.current_setting('search_path')
    """,
    read_only=True,
)
# A copy made by CREATE DATABASE … TEMPLATE has the same id, so the name tells, too. What was restored under its old name has
# another oid: the database, or the tables where only the schema was dropped.
SCHEMA = Statement(
    """
    SELECT r.version_num,
           i.oldest_code_revision,
           pg_catalog.concat_ws('/', i.id, pg_catalog.current_database()),
           pg_catalog.concat_ws('/', (SELECT d.oid
                                        FROM pg_catalog.pg_database d
                                       WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()), i.tableoid),
           pg_catalog.current_setting('search_path')
      FROM pgstore.schema_revision r
     CROSS JOIN pgstore.installation i
    """,
    read_only=True,
)
# Generic plans: planning a point read costs three times its execution, and our statements have one good plan each. Sequential
# scans are not it, but look cheapest for a table that is still empty, and such a plan stays while the table grows: 5,000 names
# looked up in a directory took 8 s instead of 0.4 s. What can only be scanned then seems costly, and would be compiled. A role
# that is read-only by default is so to guard against slips in SQL typed by hand; who calls `put` means it.
_SETTINGS = (
    Query(Statement("SET default_transaction_read_only = off")),
    Query(Statement("SET default_transaction_isolation = 'read committed'")),
    Query(Statement("SET plan_cache_mode = force_generic_plan")),
    Query(Statement("SET enable_seqscan = off")),
    Query(Statement("SET jit = off")),
)
# A second lock on a door that the statements keep shut themselves (see `core.search_path`). Not on asynchronous connections:
# `Transaction.connection` hands them out, and the caller's own SQL needs their path, without a moment to set it.
_SAFE_PATH = Query(Statement("SET search_path = pg_catalog, pg_temp"))
# For statements of the caller's own in a transaction of ours: the path and the planner as their database has set them.
CALLERS_SETTINGS = "; ".join(
    f"SET LOCAL {name} TO DEFAULT" for name in ("search_path", "plan_cache_mode", "enable_seqscan", "jit")
)
# Where transaction numbers mean the same: one cluster, one timeline, and no crash in between, after which the numbers of what
# was lost are given to others. A crash resets statistics; a person who resets them makes us ignorant, no more. Not readable
# everywhere; where it is, the outcome of a lost COMMIT can be looked up (see `Transaction`). The timeline is that of the WAL that
# is written now: the control file's stays the old one for a while after a promotion.
IDENTITY = Statement(
    """
    SELECT pg_catalog.concat_ws('/', s.system_identifier,
                                CASE WHEN pg_is_in_recovery() THEN lpad(upper(to_hex(c.timeline_id)), 8, '0'::text)
                                     ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8)
                                END,
                                coalesce(extract(epoch FROM pg_stat_get_bgwriter_stat_reset_time()), 0::numeric))
      FROM pg_control_system() s, pg_control_checkpoint() c
    """,
    read_only=True,
)

_DEFAULTS: dict[str, Any] = {
    "connect_timeout": 10,
    "fallback_application_name": "pgstore",
    **limit.NOTICING_DEAD_PEERS,
}


@dataclass(frozen=True)
class Handshake:
    """What the checks found out."""

    pooled: bool
    schema: tuple[Any, ...]
    """The row of `SCHEMA`."""


def conninfo(url: str, **more: Any) -> str:
    """*url* with pgstore's connection defaults where it says nothing."""
    check_conninfo(url)
    given = conninfo_to_dict(url)
    defaults = dict(_DEFAULTS)
    if "," in str(given.get("host") or os.environ.get("PGHOST", "")):
        defaults["target_session_attrs"] = "read-write"  # several servers: the one that is the primary now
    if (left := limit.wait_seconds()) is not None:  # libpq takes no less than two seconds
        defaults["connect_timeout"] = min(_seconds(given.pop("connect_timeout", None)), max(2, math.ceil(left)))
    # What is sent is UTF-8 already: PGCLIENTENCODING must not make the server read it as something else.
    return make_conninfo(**{**defaults, **given, "client_encoding": "UTF8", **more})


def _seconds(connect_timeout: Any) -> float:
    """A `connect_timeout` as libpq reads it."""
    try:
        seconds = int(_DEFAULTS["connect_timeout"] if connect_timeout is None else connect_timeout)
    except ValueError:
        return float("inf")  # for libpq to refuse
    return seconds if seconds > 0 else float("inf")


def connect(url: str) -> BlockingConnection:
    """Open a blocking connection; unchecked."""
    try:
        connection = psycopg.connect(conninfo(url), autocommit=True, prepare_threshold=None, context=_Context())
    except psycopg.Error as exc:
        failure = map_connect_error(exc, url)
    else:
        return BlockingConnection(connection, pooled=False)
    raise failure


class _AsyncConnection(psycopg.AsyncConnection[Any]):
    """Without psycopg's warning: it goes with its connection, which closes it, and in a cycle that was left either may be first."""

    def __del__(self, *_: Any) -> None:
        pass


async def connect_async(url: str) -> AsyncConnection:
    """Open a connection on the running event loop; unchecked."""
    try:
        connection = await _AsyncConnection.connect(
            conninfo(url), autocommit=True, prepare_threshold=None, context=_Context()
        )
    except psycopg.Error as exc:
        failure = map_connect_error(exc, url)
    except RuntimeError as exc:
        if "new futures" not in str(exc):  # which a host name is looked up by, until the interpreter is about to end
            raise
        raise errors.StoreUnavailable(f"no connection can be opened any more: {exc}") from exc
    else:
        return AsyncConnection(connection, pooled=False)
    raise failure


class _Context:
    adapters = ADAPTERS
    connection = None


def handshake(connection: Connection, url: str) -> Steps[Handshake]:
    """Check the server and its schema, and set the session up. Raises what `check_schema` and `_check_server` raise."""
    _check_server(connection, url)
    try:
        connection.prepared = None  # until it is known that the next statement meets the same backend
        try:
            ((backend_pid, installed, search_path),) = yield connection.execute(Query(WHO_ANSWERS))
        except errors.AccessDenied as exc:
            raise _no_access(connection) from exc
        if fault := fault_of(search_path):
            raise errors.ConfigurationError(f"the role or the database of {describe(url)} has the {fault}")
        pooled = backend_pid != connection.pgconn.backend_pid
        if not pooled:
            yield connection.execute_many(Many(settings(connection)))
        if not installed:
            raise errors.SchemaMissing(f"the database of {describe(url)} has no pgstore schema: run `pgstore migrate`")
        try:
            rows = yield connection.execute(Query(SCHEMA))
        except errors.AccessDenied as exc:
            raise _no_access(connection) from exc
        check_schema(rows)
        connection.identity = yield from _identify(connection)
    except BrokenConnection as exc:
        raise errors.StoreUnavailable(f"the connection to {describe(url)} broke while it was set up: {exc}") from exc
    connection.pooled = pooled
    connection.prepared = None if pooled else set()
    return Handshake(pooled, rows[0])


def settings(connection: Connection) -> tuple[Query, ...]:
    """What is set in a session of ours."""
    return (*_SETTINGS, _SAFE_PATH) if isinstance(connection, BlockingConnection) else _SETTINGS


def _check_server(connection: Connection, url: str) -> None:
    version = connection.pgconn.server_version
    if version < revisions.OLDEST_SERVER:
        raise errors.DatabaseUnsuitable(
            f"the server of {describe(url)} is PostgreSQL {version // 10000}, "
            f"pgstore needs {revisions.OLDEST_SERVER // 10000} or later"
        )
    encoding = (connection.pgconn.parameter_status(b"server_encoding") or b"").decode()
    if encoding != "UTF8":
        raise errors.DatabaseUnsuitable(
            f"the database of {describe(url)} has the encoding {encoding}, pgstore needs UTF8: "
            "create one with `createdb --encoding UTF8 --template template0`"
        )


def _no_access(connection: Connection) -> errors.AccessDenied:
    user = (connection.pgconn.user or b"").decode()
    role = sql.Identifier(user).as_string()
    return errors.AccessDenied(
        f"role {user!r} may not use the pgstore schema: run GRANT pgstore_reader TO {role} (to read) "
        f"or GRANT pgstore_writer TO {role} (to read and write); if it is a member already, it does not inherit the rights: "
        f"ALTER ROLE {role} INHERIT, and from PostgreSQL 16 on GRANT … WITH INHERIT TRUE"
    )


def check_schema(rows: list[tuple[Any, ...]]) -> None:
    """Compare the database's revision with the one that this code was written for. Revisions are numbers of four digits."""
    if not rows:
        raise errors.SchemaMissing("the pgstore schema was not set up completely: run `pgstore migrate`")
    found, oldest_code, *_ = rows[0]
    if found < revisions.OLDEST_SCHEMA_REVISION:
        raise errors.SchemaOutdated(
            f"the pgstore schema is at revision {found}, this code needs {revisions.SCHEMA_REVISION}: run `pgstore migrate`"
        )
    if oldest_code > revisions.SCHEMA_REVISION:
        raise errors.SchemaTooNew(
            f"the pgstore schema is at revision {found}, which needs code for revision {oldest_code} or later; this code is for "
            f"{revisions.SCHEMA_REVISION}: upgrade pgstore (`pip install --upgrade pgstore`)"
        )


def _identify(connection: Connection) -> Steps[str | None]:
    """Which cluster and timeline answers; None where that may not be read."""
    try:
        rows = yield connection.execute(Query(IDENTITY))
    except errors.Error:
        return None
    return rows[0][0] if rows else None
