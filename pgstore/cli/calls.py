"""`pgstore calls`: spawned calls."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer

import pgstore
from pgstore.admin import calls as admin
from pgstore.cli import output
from pgstore.cli.completion import names
from pgstore.cli.groups import Group
from pgstore.cli.options import AsJson, Environment
from pgstore.cli.target import target

app = typer.Typer(cls=Group, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def calls(
    context: typer.Context,
    of: Annotated[
        str | None,
        typer.Option("--app", metavar="NAME", autocompletion=names("app"), help="Of this App.  [default: all]"),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="The newest so many.")] = 100,
    as_json: AsJson = False,
    env: Environment = None,
) -> None:
    """
    Show spawned calls, the newest first.

    They are of all environments unless --env is given.

    \b
    Example:
      pgstore calls --app shop
      pgstore calls get fc-2a00001-17
      pgstore calls cancel fc-2a00001-17
    """
    if context.invoked_subcommand is not None:
        return
    chosen = target(context, env)
    with pgstore.Client(chosen.url, auto_migrate=False) as client:
        found = admin.calls(client, of, environment=chosen.given_environment, limit=limit)
        unattended = admin.unattended(client, of, environment=chosen.given_environment)
    if as_json:
        print(json.dumps([asdict(each) for each in found], indent=2, default=str))
    elif not found:
        print("no calls")
    else:
        columns = ["Call id", "App", "Function", "State", "Attempts", "Spawned at", "Started at", "Ended at", "Error"]
        output.table(columns, [_row(each) for each in found])
    for each in unattended:
        print(
            f"{each.calls} calls of {each.function} wait, and no worker of App {each.app!r} is there: run `pgstore worker FILE`",
            file=sys.stderr,
        )


@app.command()
def get(
    context: typer.Context,
    call_id: Annotated[str, typer.Argument(metavar="ID", help="The id of the call, fc-….")],
    as_json: AsJson = False,
) -> None:
    """
    Show what has become of a call.

    \b
    Example:
      pgstore calls get fc-2a00001-17
    """
    with pgstore.Client(target(context).url, auto_migrate=False) as client:
        _show(admin.call(client, call_id), as_json)


@app.command()
def cancel(
    context: typer.Context,
    call_id: Annotated[str, typer.Argument(metavar="ID", help="The id of the call, fc-….")],
    kill: Annotated[bool, typer.Option("--kill", help="Kill its worker at once.")] = False,
    as_json: AsJson = False,
) -> None:
    """
    End a call. If it waits it never runs; if it runs its worker is interrupted, and killed ten seconds later.

    \b
    Example:
      pgstore calls cancel fc-2a00001-17
    """
    with pgstore.Client(target(context).url, auto_migrate=False) as client:
        _show(admin.cancel(client, call_id, kill=kill), as_json)


def _show(call: admin.Call, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(call), indent=2, default=str))
    else:
        output.fields((name.replace("_", " "), _text(value)) for name, value in asdict(call).items())


def _row(call: admin.Call) -> tuple[Any, ...]:
    times = (call.spawned_at, call.started_at, call.ended_at)
    return call.id, call.app, call.function, call.state, call.attempts, *map(_text, times), call.error or ""


def _text(value: object) -> object:
    return f"{value.astimezone():%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else "" if value is None else value
