"""Looking for damage: the queries of sql/checks, each of which returns no row on a healthy database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg

from pgstore import errors
from pgstore.admin.connecting import connected
from pgstore.core.error_mapping import map_error
from pgstore.migrate import sql_directory

ROWS_MAX: Final = 10_000  # of one check


@dataclass(frozen=True)
class Finding:
    """Damage: what one check has found."""

    check: str
    about: str
    columns: list[str]
    rows: list[tuple[Any, ...]]
    is_complete: bool = True
    """These are all rows; else there are more."""

    def of(self, column: str) -> list[Any]:
        """What the rows have in *column*."""
        index = self.columns.index(column)
        return [row[index] for row in self.rows]


@dataclass(frozen=True)
class Failure:
    """A check that could not run, which says nothing about damage."""

    check: str
    error: errors.Error


@dataclass(frozen=True)
class Report:
    """What checks have told."""

    checks: list[str]
    """All that were to run."""
    findings: list[Finding] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def is_healthy(self) -> bool:
        """Every check has run, and has found nothing."""
        return not self.findings and not self.failures


def run_checks(url: str, checks: Mapping[str, str] | None = None) -> Report:
    """
    Run *checks*, by default all of them, on the same state of the database. Nothing is locked or changed.

    A check that the server refuses to run is among the `failures`, and the others go on.

    Raises:
        StoreUnavailable, ConfigurationError, AccessDenied: there is no connection, or it broke.
    """
    if checks is None:
        checks = checks_of(sql_directory())
    with connected(url) as connection:
        return _run(connection, checks)


def checks_of(directory: Path) -> dict[str, str]:
    """The text of the checks in *directory*, by name."""
    return {path.stem: path.read_text() for path in sorted((directory / "checks").glob("*.sql"))}


def _run(connection: psycopg.Connection[Any], checks: Mapping[str, str]) -> Report:
    report = Report(list(checks))
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    connection.execute("SET LOCAL search_path = pg_catalog, pg_temp")
    for name, query in checks.items():
        try:
            with connection.transaction():
                cursor = connection.execute(query.encode())
                rows = cursor.fetchmany(ROWS_MAX)
        except psycopg.Error as exc:
            if connection.broken or connection.closed:
                raise
            report.failures.append(Failure(name, _mapped(exc)))
            continue
        if rows:
            columns = [column.name for column in cursor.description or ()]
            report.findings.append(Finding(name, _about(query), columns, rows, len(rows) < ROWS_MAX))
    return report


def _mapped(exc: psycopg.Error) -> errors.Error:
    error = map_error(exc)
    error.__cause__ = exc
    return error


def _about(query: str) -> str:
    """The comment at its head."""
    lines = query.splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("--")), len(lines))
    return " ".join(line.removeprefix("--").strip() for line in lines[:end])
