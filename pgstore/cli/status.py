"""`pgstore status`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from pgstore import embedded, errors, migrate
from pgstore.cli import output
from pgstore.cli.target import Target, target
from pgstore.connection import BlockingConnection, BrokenConnection
from pgstore.connection.handshake import SCHEMA, connect, handshake
from pgstore.core.error_mapping import describe
from pgstore.core.operation import Query
from pgstore.core.statement import Statement
from pgstore.core.steps import run_blocking

WHERE = Statement("SELECT current_database()::text, current_user::text", read_only=True)
ROLES = Statement(migrate.GRANTEES, read_only=True)
SIZES = Statement(
    """
    SELECT environment, kind, count(*), sum(entries)::bigint, sum(size_bytes)::bigint
      FROM pgstore.store_sizes
     WHERE environment = coalesce($1, environment)
     GROUP BY environment, kind
     ORDER BY environment, kind
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
class Report:
    """What `--json` prints."""

    source: str
    address: str
    server_version: str
    database: str
    login: str
    pooled: bool | None
    """Through a pooler in transaction mode; None: not found out."""
    schema_found: str | None
    schema_needed: str
    roles: list[str] | None
    """Who holds rights in the schema beside its owner; None: there is no schema."""
    stores: list[Stores] | None
    """None: in a schema that this code cannot read."""


def status(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """
    Show which database is used, and what it holds.

    Nothing is changed: a missing schema stays missing, an embedded server that does not run is not started. Everything is counted,
    which takes as long as reading it; --env counts one environment.

    \b
    Example:
      pgstore status
      pgstore --env staging status --json
    """
    chosen = target(context)
    if chosen.is_embedded and not embedded.Server().status().running:
        raise errors.StoreUnavailable(
            f"no database is configured, and the embedded server in {embedded.Server().directory} is not running: "
            "run `pgstore server start`, or give --url or PGSTORE_URL"
        )
    try:
        connection = connect(chosen.url)
        try:
            report, problem = _look(connection, chosen)
        finally:
            connection.close()
    except BrokenConnection as exc:
        raise errors.StoreUnavailable(f"the connection to {describe(chosen.url)} broke: {exc}") from exc
    if as_json:
        print(json.dumps(asdict(report), indent=2))
    else:
        _show(report)
    if problem is not None:
        raise problem


def _look(connection: BlockingConnection, chosen: Target) -> tuple[Report, errors.SchemaError | None]:
    """The report, and why this code cannot use the schema. That there is none is no problem: it is made on first use."""
    pooled = None
    problem: errors.SchemaError | None = None
    found = None
    stores: list[Stores] | None = []
    try:
        pooled = run_blocking(handshake(connection, chosen.url)).pooled
        stores = [Stores(*row) for row in connection.execute(Query(SIZES, chosen.given_environment))]
        found = _revision(connection)
    except errors.SchemaMissing:
        pass
    except errors.SchemaError as exc:
        found, problem, stores = _revision(connection), exc, None
    database, login = connection.execute(Query(WHERE))[0]
    version = (connection.pgconn.parameter_status(b"server_version") or b"").decode()
    return (
        Report(
            source=chosen.source,
            address=describe(chosen.url),
            server_version=version,
            database=database,
            login=login,
            pooled=pooled,
            schema_found=found,
            schema_needed=migrate.SCHEMA_REVISION,
            roles=None if found is None else [name for (name,) in connection.execute(Query(ROLES))],
            stores=stores,
        ),
        problem,
    )


def _revision(connection: BlockingConnection) -> str | None:
    rows: list[tuple[Any, ...]] = connection.execute(Query(SCHEMA))
    return rows[0][0] if rows else None


def _show(report: Report) -> None:
    found = (
        f"revision {report.schema_found}" if report.schema_found else "none, made on first use or by `pgstore migrate`"
    )
    output.facts(
        [
            ("database", f"{report.database} as {report.login}, {report.address} (from {report.source})"),
            ("server", f"PostgreSQL {report.server_version}{', through a pooler' if report.pooled else ''}"),
            ("schema", f"{found}; this pgstore needs {report.schema_needed}"),
            *([("rights", ", ".join(report.roles) or "the owner's alone")] if report.roles is not None else []),
        ]
    )
    if report.stores:
        output.table(
            ["environment", "kind", "stores", "entries", "size"],
            [(s.environment, s.kind, s.stores, s.entries, output.size(s.size_bytes)) for s in report.stores],
        )
    elif report.stores is not None:
        print("stores    none")
