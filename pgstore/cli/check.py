"""`pgstore check`: the queries of sql/checks, each of which returns no row on a healthy database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import psycopg
import typer

import pgstore
from pgstore.cli import output
from pgstore.cli.target import target
from pgstore.client.session import delete_store, sweep, unlink_large_objects
from pgstore.core.mapping import map_error
from pgstore.core.operation import Op, Query, atomic
from pgstore.files import repair as file_repair
from pgstore.migrate import sql_directory
from pgstore.queue import repair as queue_repair
from pgstore.registry import EXISTS

ROWS_MAX: Final = 10_000  # of one check
SHOWN_MAX: Final = 20
_Row: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True)
class Finding:
    """What one check has found."""

    check: str
    about: str
    columns: list[str]
    rows: list[_Row]


def check(
    context: typer.Context,
    wants_repair: Annotated[
        bool, typer.Option("--repair", help="Repair what has one certain repair, and check again.")
    ] = False,
) -> None:
    """
    Look for damage in the database.

    Reads everything, in one snapshot; nothing is locked, and others may go on working. The exit code is 1 if anything was found.
    What is found is a mistake of pgstore's, of other programs that write to its tables, or of a backup: please report it.

    --repair deletes rows of stores that do not exist, and what nothing refers to; and sets sequences that were left behind when a
    replica took over, which takes a member of pgstore_owner.

    \b
    Example:
      pgstore check
      pgstore check --repair
    """
    url = target(context).url
    checks = checks_of(sql_directory())
    findings = run_checks(url, checks)
    if wants_repair and any(finding.check in REPAIRS for finding in findings):
        with pgstore.Client(url, auto_migrate=False) as client:
            for finding in findings:
                if finding.check in REPAIRS:
                    client.run(REPAIRS[finding.check](finding))
        findings = run_checks(url, checks)
    for finding in findings:
        _show(finding)
    if findings:
        raise typer.Exit(1)
    print(f"{len(checks)} checks found nothing")


def checks_of(directory: Path) -> dict[str, str]:
    """The checks by name."""
    return {path.stem: path.read_text() for path in sorted((directory / "checks").glob("*.sql"))}


def run_checks(url: str, checks: dict[str, str]) -> list[Finding]:
    """What the checks find, all in the same state of the database."""
    findings = []
    try:
        with psycopg.connect(url) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            connection.execute("SET LOCAL search_path = pg_catalog, pg_temp")
            for name, query in checks.items():
                cursor = connection.execute(query.encode())
                rows = cursor.fetchmany(ROWS_MAX)
                if rows:
                    columns = [column.name for column in cursor.description or ()]
                    findings.append(Finding(name, _about(query), columns, rows))
    except psycopg.Error as exc:
        raise map_error(exc) from exc
    return findings


def _about(query: str) -> str:
    """The comment at its head."""
    lines = query.splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("--")), len(lines))
    return " ".join(line.removeprefix("--").strip() for line in lines[:end])


def _show(finding: Finding) -> None:
    print(f"{finding.check}: {finding.about}")
    output.table(finding.columns, [[_cell(value) for value in row] for row in finding.rows[:SHOWN_MAX]])
    if len(finding.rows) > SHOWN_MAX:
        print(f"… and more; all: psql -f {sql_directory() / 'checks' / finding.check}.sql\n")


def _cell(value: object) -> str:
    if isinstance(value, bytes):
        return repr(value)[2:-1]
    return "" if value is None else str(value)


# ------------------------------------------------------------------------------------------------------------- repairs


def _delete_orphans(finding: Finding) -> Op[None]:
    """Delete what is left of stores that do not exist."""
    gone = {row[finding.columns.index("store_id")] for row in finding.rows}
    for store_id in sorted(gone):
        # Ids are never used twice: a store that is not there will not be.
        if not (yield Query(EXISTS, store_id)):
            yield from atomic(delete_store(store_id))
            yield from unlink_large_objects(store_id)


def _collect(_: Finding) -> Op[None]:
    yield from atomic(sweep())
    yield from file_repair.collect_leftovers()


REPAIRS: Final[dict[str, Callable[[Finding], Op[object]]]] = {
    "orphans": _delete_orphans,
    "file_leftovers": _collect,
    "file_sequence": lambda _: file_repair.repair_sequences(),
    "queue_sequence": lambda _: queue_repair.repair_sequences(),
}
