"""`pgstore nfs …`: NetworkFileSystems from a shell."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pgstore.admin import stores as stores_admin
from pgstore.admin import watching
from pgstore.cli import file_commands, listing, output, stores, transfer
from pgstore.cli.file_commands import Storage, Timeout
from pgstore.cli.groups import Group
from pgstore.cli.options import Environment, client_of
from pgstore.cli.paths import shown
from pgstore.cli.stores import Name, opened

app = typer.Typer(cls=Group, rich_markup_mode=None)
stores.add_list(app, "nfs")


@app.callback(invoke_without_command=True)
def nfs_(context: typer.Context) -> None:
    """
    NetworkFileSystems: files that several programs write at the same time.

    \b
    Example:
      pgstore nfs create cache
      pgstore nfs put cache a.txt logs/
      pgstore nfs get cache 'logs/*.txt' here/
    """
    output.help_if_alone(context)


@app.command()
def create(
    context: typer.Context,
    name: Name,
    storage: Storage = None,
    chunk_size: Annotated[
        int | None,
        typer.Option(metavar="BYTES", help="So many are stored together.  [default: 64 KiB]", show_default=False),
    ] = None,
    env: Environment = None,
) -> None:
    """
    Create a NetworkFileSystem. It must not exist.

    \b
    Example:
      pgstore nfs create cache
      pgstore nfs create images --storage large_object
    """
    with transfer.advised(), client_of(context, env, auto_migrate=None) as (client, environment):
        stores_admin.create(client, "nfs", name, environment, storage=storage, chunk_size=chunk_size)
    print(f"created NetworkFileSystem {name}\n")
    print(f'    @app.function(network_file_systems={{"/data": pgstore.NetworkFileSystem.from_name("{name}")}})')
    print('    def some_function():\n        os.listdir("/data")')


file_commands.add_all(app, "nfs")


@app.command()
def watch(
    context: typer.Context,
    name: Name,
    timeout: Timeout = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each change as a line of JSON.")] = False,
    env: Environment = None,
) -> None:
    """
    Print what others change, as it comes, until Ctrl-C: what happened, and the path.

    `reset` says that anything may have been changed: look at the files again.

    \b
    Example:
      pgstore nfs watch cache
      pgstore nfs watch cache --timeout 60 --json
    """
    with transfer.advised(), opened(context, "nfs", name, env) as nfs:
        for changes in watching.changes(nfs, timeout=timeout):
            for change, path in [("reset", "")] if changes is None else changes:
                if as_json:
                    print(json.dumps({"change": change, "path": path}), flush=True)
                else:
                    listing.line(f"{change} {shown(path)}".rstrip())


stores.add_delete(app, "nfs")
