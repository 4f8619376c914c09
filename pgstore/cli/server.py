"""`pgstore server …`: the embedded server."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from pgstore import embedded
from pgstore.cli.groups import Group
from pgstore.cli.options import AsJson
from pgstore.cli.output import fields, help_if_alone
from pgstore.cli.target import start_embedded

app = typer.Typer(cls=Group, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def server(context: typer.Context) -> None:
    """
    Start, stop and find the embedded Postgres.

    It is for programs that were given no database, which start it by themselves.

    It goes on running when they end, listens on a socket that only this user can reach, and keeps
    its data in PGSTORE_SERVER_DIR, by default ~/.local/share/pgstore/pg<version>.

    \b
    Example:
      pgstore server start
      psql "$(pgstore server url)"
      pgstore server stop
    """
    help_if_alone(context)


@app.command()
def start() -> None:
    """
    Start the server and print its URL.

    The first start makes it.

    \b
    Example:
      pgstore server start
    """
    print(start_embedded())


@app.command()
def stop(
    immediate: Annotated[
        bool, typer.Option("--immediate", help="As in a crash: write nothing first. The next start replays the log.")
    ] = False,
) -> None:
    """
    Stop the server.

    Open transactions are rolled back; nothing that was committed is lost.

    \b
    Example:
      pgstore server stop
    """
    was_running = embedded.Server().stop(immediate=immediate)
    print("stopped" if was_running else "it was not running")


@app.command()
def status(as_json: AsJson = False) -> None:
    """
    Show whether the server runs, and where it is.

    The exit code is 1 if it does not run.

    \b
    Example:
      pgstore server status || pgstore server start
      pgstore server status --json
    """
    found = embedded.Server().status()
    if as_json:
        print(json.dumps(asdict(found), indent=2, default=str))
        if not found.running:
            raise typer.Exit(1)
        return
    fields(
        [
            ("state", "running" if found.running else "not running"),
            ("pid", found.pid),
            ("version", found.major and f"PostgreSQL {found.major}"),
            ("url", found.url),
            ("directory", found.directory),
            ("log", found.log),
            ("programs", found.binaries),
        ]
    )
    if not found.running:
        raise typer.Exit(1)


@app.command()
def url() -> None:
    """
    Print the server's URL, the same whether it runs or not.

    \b
    Example:
      pg_dump -n pgstore "$(pgstore server url)" > backup.sql
    """
    print(embedded.Server().url)
