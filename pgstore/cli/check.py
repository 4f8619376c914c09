"""`pgstore check`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any, Final

import typer

import pgstore
from pgstore import errors
from pgstore.admin.check import Finding, Report, run_checks
from pgstore.admin.repair import REPAIRABLE, Repair, repair
from pgstore.cli import output
from pgstore.cli.codes import NotChecked
from pgstore.cli.options import AsJson
from pgstore.cli.target import target
from pgstore.migrate import sql_directory

SHOWN_MAX: Final = 20

SOUND: Final = 0
DAMAGED: Final = 1


def check(
    context: typer.Context,
    wants_repair: Annotated[
        bool, typer.Option("--repair", help="Repair what has one certain repair, and check again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """
    Look for damage in the database.

    Reads everything, in one snapshot; nothing is locked, and others may go on working. What is found is a mistake of pgstore's, of
    other programs that write to its tables, or of a backup: please report it.

    \b
    Exit codes:
      0  all checks have run and found nothing
      1  something was found, or is left after --repair
      2  called in a wrong way
      3  nothing was found, but not all checks could run: see the error

    --repair mends what has one certain repair, and says what it did. Sequences that were left behind when a replica took over are
    set far ahead, items that no get would find get new ids, what a file lacks is given back to it. It deletes only what no loss
    can explain; what may be the only copy of something is kept, and told of. It takes a member of pgstore_owner, and nothing is
    repaired as long as a check cannot run.

    \b
    Example:
      pgstore check
      pgstore check --repair --json
    """
    report = _look(context)
    repairs: list[Repair] = []
    if wants_repair and not report.failures and any(finding.check in REPAIRABLE for finding in report.findings):
        with pgstore.Client(target(context).url, auto_migrate=False) as client:
            for done in repair(client, report.findings):
                repairs.append(done)
                if not as_json:
                    print(f"{'kept' if done.kept else 'repaired'}: {done.where}: {done.what}")
        report = _look(context)
    if as_json:
        _show_json(report, repairs)
    else:
        for finding in report.findings:
            _show(finding)
    if report.failures:
        failure = _failure(report)
        if report.findings:
            raise failure  # DAMAGED is the exit code of errors
        raise NotChecked from failure
    if report.findings:
        raise typer.Exit(DAMAGED)
    if not as_json:
        print(f"{len(report.checks)} checks found nothing")


def _look(context: typer.Context) -> Report:
    try:
        return run_checks(target(context).url)
    except Exception as exc:
        raise NotChecked from exc


def _failure(report: Report) -> errors.Error:
    """Why not all checks could run."""
    first = report.failures[0].error
    if len(report.failures) == len(report.checks):  # for one reason, such as that there is no schema
        return first
    names = ", ".join(failure.check for failure in report.failures)
    return errors.Error(f"the checks {names} could not run: {first}")


def _show_json(report: Report, repairs: list[Repair]) -> None:
    told = {
        "checks": report.checks,
        "repairs": [asdict(each) for each in repairs],
        "findings": [
            {"check": each.check, "about": each.about, "rows": [_record(each, row) for row in each.rows]}
            for each in report.findings
        ],
        "failures": [{"check": each.check, "error": str(each.error)} for each in report.failures],
    }
    print(json.dumps(told, indent=2, default=_cell))


def _record(finding: Finding, row: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(finding.columns, row, strict=True))


def _show(finding: Finding) -> None:
    print(f"{finding.check}: {finding.about}")
    output.table(finding.columns, [[_cell(value) for value in row] for row in finding.rows[:SHOWN_MAX]])
    if len(finding.rows) > SHOWN_MAX:
        print(f"… and more; all: psql -f {sql_directory() / 'checks' / finding.check}.sql\n")


def _cell(value: object) -> str:
    if isinstance(value, bytes):
        return repr(value)[2:-1]
    return "" if value is None else str(value)
