"""`pgstore check`: the queries of sql/checks, each of which returns no row on a healthy database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import psycopg
import typer

import pgstore
from pgstore.cli import output
from pgstore.cli.repair import REPAIRABLE, Finding, repair
from pgstore.cli.target import target
from pgstore.client.connect import conninfo
from pgstore.core.mapping import check_conninfo, map_connect_error, map_error
from pgstore.migrate import sql_directory

ROWS_MAX: Final = 10_000  # of one check
SHOWN_MAX: Final = 20


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

    --repair mends what has one certain repair, and says what it did. Sequences that were left behind when a replica took over are
    set far ahead, items that no get would find get new ids, what a file lacks is given back to it. It deletes only what no loss
    can explain; what may be the only copy of something is kept, and told of. It takes a member of pgstore_owner. The exit code is
    0 only if nothing is left.

    \b
    Example:
      pgstore check
      pgstore check --repair
    """
    url = target(context).url
    checks = checks_of(sql_directory())
    findings = run_checks(url, checks)
    if wants_repair and any(finding.check in REPAIRABLE for finding in findings):
        with pgstore.Client(url, auto_migrate=False) as client:
            for done in repair(client, findings):
                print(f"{'kept' if done.kept else 'repaired'}: {done.where}: {done.what}")
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
    check_conninfo(url)
    try:
        opened = psycopg.connect(conninfo(url))
    except psycopg.Error as exc:
        failure = map_connect_error(exc, url)
    else:
        return _run_checks(opened, checks)
    raise failure


def _run_checks(opened: psycopg.Connection, checks: dict[str, str]) -> list[Finding]:
    findings = []
    try:
        with opened as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            connection.execute("SET LOCAL search_path = pg_catalog, pg_temp")
            for name, query in checks.items():
                cursor = connection.execute(query.encode())
                rows = cursor.fetchmany(ROWS_MAX)
                if rows:
                    columns = [column.name for column in cursor.description or ()]
                    findings.append(Finding(name, _about(query), columns, rows, len(rows) < ROWS_MAX))
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
