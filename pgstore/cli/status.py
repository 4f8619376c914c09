"""`pgstore status`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import typer

from pgstore.admin.status import Status, status_of
from pgstore.cli import output
from pgstore.cli.options import AsJson, Environment
from pgstore.cli.target import target


def status(
    context: typer.Context,
    as_json: AsJson = False,
    env: Environment = None,
) -> None:
    """
    Show which database is used, and what it holds.

    Nothing is changed: a missing schema stays missing, an embedded server that does not run is not started. Everything is counted,
    which takes as long as reading it; of all environments unless --env is given.

    \b
    Example:
      pgstore status
      pgstore status --env staging --json
    """
    chosen = target(context, env)
    found = status_of(chosen.running_url, chosen.given_environment)
    if as_json:
        told = asdict(replace(found, problem=None))
        del told["problem"]  # it becomes the error
        print(json.dumps({"source": chosen.source, **told}, indent=2))
    else:
        _show(found, chosen.source)
    if found.problem is not None:
        raise found.problem


def _show(found: Status, source: str) -> None:
    revision = (
        f"revision {found.schema_found}" if found.schema_found else "none, made on first use or by `pgstore migrate`"
    )
    output.fields(
        [
            ("database", f"{found.database} as {found.login}, {found.address} (from {source})"),
            ("server", f"PostgreSQL {found.server_version}{', through a pooler' if found.pooled else ''}"),
            ("schema", f"{revision}; this pgstore needs {found.schema_needed}"),
            *([("rights", _rights(found, found.roles))] if found.roles is not None else []),
        ]
    )
    if found.stores:
        output.table(
            ["Environment", "Kind", "Stores", "Entries", "Size"],
            [(s.environment, s.kind, s.stores, s.entries, output.size(s.size_bytes)) for s in found.stores],
        )
    elif found.stores is not None:
        print("stores    none")


def _rights(found: Status, roles: list[str]) -> str:
    given = f"given to {', '.join(roles)}" if roles else "the owner's alone"
    return f"{given}; {found.login} may {found.may or 'do nothing'}"
