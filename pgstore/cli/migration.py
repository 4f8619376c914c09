"""`pgstore migrate`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from pgstore import errors
from pgstore import migrate as migrations
from pgstore.cli.options import AsJson
from pgstore.cli.target import target
from pgstore.core.error_mapping import describe

_DEFAULTS = migrations.Roles()


def migrate(
    context: typer.Context,
    sql: Annotated[bool, typer.Option("--sql", help="Print what would be run, and run nothing.")] = False,
    from_revision: Annotated[
        str | None,
        typer.Option("--from", metavar="REVISION", help="With --sql: where the database is now.  [default: nothing]"),
    ] = None,
    no_roles: Annotated[bool, typer.Option("--no-roles", help="Make no roles and grant no rights.")] = False,
    reader_role: Annotated[str, typer.Option(metavar="NAME", help="Who may read.")] = _DEFAULTS.reader,
    writer_role: Annotated[str, typer.Option(metavar="NAME", help="Who may also write.")] = _DEFAULTS.writer,
    owner_role: Annotated[str, typer.Option(metavar="NAME", help="Who may migrate.")] = _DEFAULTS.owner,
    as_json: AsJson = False,
) -> None:
    """
    Create the schema in the database, or bring it up to date.

    It is all or nothing, safe to run at the same time as others, and does nothing where nothing is to do. A program with the rights
    for it makes a missing schema by itself; only an older one waits for this command.

    \b
    Example:
      pgstore migrate
      pgstore migrate --json
      pgstore migrate --sql > pgstore.sql && psql -v ON_ERROR_STOP=1 -f pgstore.sql app
    """
    roles = None if no_roles else migrations.Roles(reader_role, writer_role, owner_role)
    if sql and as_json:
        raise errors.InvalidError("give --sql or --json, not both")
    if sql:
        print(migrations.sql(roles=roles, from_revision=from_revision), end="")
        return
    if from_revision is not None:
        raise errors.InvalidError("--from goes with --sql; without it the database itself says where it is")
    url = target(context).url
    report = migrations.upgrade(url, roles=roles)
    if as_json:
        print(json.dumps({"database": describe(url), **asdict(report)}, indent=2))
    else:
        show(report, describe(url), roles)


def show(report: migrations.Report, where: str, roles: migrations.Roles | None, *, quiet: bool = False) -> None:
    """Print what a migration has done; *quiet*: not that there was nothing to do."""
    if report.before == report.after and quiet:
        pass
    elif report.before == report.after:
        print(f"{where}: at revision {report.after}, nothing to migrate")
    else:
        print(f"{where}: migrated from {report.before or 'nothing'} to revision {report.after}")
    if report.roles_granted:
        print(f"roles with their rights: {', '.join(report.roles_granted)}")
    if report.roles_missing:
        print(
            f"no rights were given to {', '.join(report.roles_missing)}: missing, or not this login's to grant. A role with "
            "CREATEROLE can make them; run this again then"
        )
    if report.roles_else:
        print(f"others with rights, not given by this: {', '.join(report.roles_else)}")
    if roles is None:
        print("no roles were asked for: only the owner of the schema can use it")
