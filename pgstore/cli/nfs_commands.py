"""`pgstore nfs …`: NetworkFileSystems from a shell."""

from __future__ import annotations

from typing import Annotated

import typer

from pgstore.admin import stores as stores_admin
from pgstore.cli import file_commands, output, stores, transfer
from pgstore.cli.file_commands import Storage
from pgstore.cli.options import Environment, client_of
from pgstore.cli.stores import Name

app = typer.Typer(rich_markup_mode=None)
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
stores.add_delete(app, "nfs")
