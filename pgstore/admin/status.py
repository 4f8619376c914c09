"""Which database a URL leads to, what it holds, and whether this code can use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pgstore import errors, migrate
from pgstore.connection import BlockingConnection, BrokenConnection
from pgstore.connection.handshake import SCHEMA, connect, handshake
from pgstore.core.error_mapping import describe
from pgstore.core.operation import Query
from pgstore.core.statement import Statement
from pgstore.core.steps import run_blocking

WHERE = Statement("SELECT current_database()::text, current_user::text", read_only=True)
ROLES = Statement(migrate.GRANTEES, read_only=True)
MAY = Statement(
    """
    SELECT CASE WHEN pg_has_role(n.nspowner, 'USAGE') THEN 'do everything, and migrate'
                WHEN has_table_privilege(to_regclass('pgstore.store')::oid, 'INSERT') THEN 'read and write'
                WHEN has_table_privilege(to_regclass('pgstore.store')::oid, 'SELECT') THEN 'read'
           END
      FROM pg_namespace n
     WHERE n.nspname = 'pgstore'
    """,
    read_only=True,
)
SIZES = Statement(
    """
    SELECT s.environment, s.kind, count(*), sum(z.entries)::bigint, sum(z.size_bytes)::bigint
      FROM pgstore.store s
      JOIN pgstore.store_sizes z ON z.store_id = s.id
     WHERE s.environment = coalesce($1, s.environment)
     GROUP BY s.environment, s.kind
     ORDER BY s.environment, s.kind
    """,
    "text",
    read_only=True,
)


@dataclass(frozen=True)
class Stores:
    """All stores of one kind in one environment."""

    environment: str
    kind: str
    stores: int
    entries: int
    size_bytes: int


@dataclass(frozen=True)
class Status:
    """What is known of a database."""

    address: str
    """`user@host:port/database`, without a password."""
    server_version: str
    database: str
    login: str
    pooled: bool | None
    """Through a pooler in transaction mode; None: not found out."""
    schema_found: str | None
    """Its revision; None: there is no schema, and the first use or `pgstore migrate` makes it."""
    schema_needed: str
    roles: list[str] | None
    """Who holds rights in the schema beside its owner; None: there is no schema."""
    may: str | None
    """What the login may do in the schema: read, read and write, or do everything, and migrate. None: nothing, or no schema."""
    stores: list[Stores] | None
    """None: in a schema that this code cannot read."""
    problem: errors.SchemaError | None
    """Why this code cannot use the schema; None: it can, or there is none yet."""


def status_of(url: str, environment: str | None = None) -> Status:
    """
    Look at the database of *url*. Changes nothing, and makes no schema. It counts all rows, of one *environment* if that is given.

    Raises:
        StoreUnavailable, ConfigurationError, AccessDenied, DatabaseUnsuitable: it cannot be looked at.
    """
    try:
        connection = connect(url)
        try:
            return _status(connection, url, environment)
        finally:
            connection.close()
    except BrokenConnection as exc:
        raise errors.StoreUnavailable(f"the connection to {describe(url)} broke: {exc}") from exc


def _status(connection: BlockingConnection, url: str, environment: str | None) -> Status:
    pooled = None
    problem: errors.SchemaError | None = None
    revision = None
    stores: list[Stores] | None = []
    try:
        pooled = run_blocking(handshake(connection, url)).pooled
        stores = [Stores(*row) for row in connection.execute(Query(SIZES, environment))]
        revision = _revision(connection)
    except errors.SchemaMissing:
        pass
    except errors.SchemaError as exc:
        revision, problem, stores = _revision(connection), exc, None
    database, login = connection.execute(Query(WHERE))[0]
    return Status(
        address=describe(url),
        server_version=(connection.pgconn.parameter_status(b"server_version") or b"").decode(),
        database=database,
        login=login,
        pooled=pooled,
        schema_found=revision,
        schema_needed=migrate.SCHEMA_REVISION,
        roles=None if revision is None else [name for (name,) in connection.execute(Query(ROLES))],
        may=None if revision is None else connection.execute(Query(MAY))[0][0],
        stores=stores,
        problem=problem,
    )


def _revision(connection: BlockingConnection) -> str | None:
    rows: list[tuple[Any, ...]] = connection.execute(Query(SCHEMA))
    return rows[0][0] if rows else None
