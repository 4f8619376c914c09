"""`pgstore volume …`: Volumes from a shell."""

from __future__ import annotations

import json
from typing import Annotated

import typer

import pgstore
from pgstore.admin import files as admin
from pgstore.admin import stores as stores_admin
from pgstore.admin import watching
from pgstore.cli import file_commands, listing, output, stores, transfer
from pgstore.cli.file_commands import Storage, Timeout
from pgstore.cli.groups import Group
from pgstore.cli.options import AsJson, Environment, client_of
from pgstore.cli.paths import shown
from pgstore.cli.stores import Name, opened

app = typer.Typer(cls=Group, rich_markup_mode=None)
stores.add_list(app, "volume")


@app.callback(invoke_without_command=True)
def volume_(context: typer.Context) -> None:
    """
    Volumes: files with versions.

    \b
    Example:
      pgstore volume create models
      pgstore volume put models weights.bin v1/
      pgstore volume get models v1/weights.bin - | sha256sum
    """
    output.help_if_alone(context)


@app.command()
def create(
    context: typer.Context,
    name: Name,
    version: Annotated[
        int | None, typer.Option(help="1 or 2, as in Modal; it means nothing here.", hidden=True)
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            metavar="VERSIONS", help="So many of the newest stay readable.  [default: 10]", show_default=False
        ),
    ] = None,
    storage: Storage = None,
    chunk_size: Annotated[
        int | None,
        typer.Option(metavar="BYTES", help="So many are stored together.  [default: 256 KiB]", show_default=False),
    ] = None,
    env: Environment = None,
) -> None:
    """
    Create a Volume. It must not exist.

    \b
    Example:
      pgstore volume create models
      pgstore volume create datasets --keep 100
    """
    with transfer.advised(), client_of(context, env, auto_migrate=None) as (client, environment):
        stores_admin.create(
            client, "volume", name, environment, version=version, keep=keep, storage=storage, chunk_size=chunk_size
        )
    print(f"created Volume {name}\n")
    print(f'    @app.function(volumes={{"/data": pgstore.Volume.from_name("{name}")}})')
    print('    def some_function():\n        os.listdir("/data")')


@app.command()
def rename(
    context: typer.Context,
    name: Name,
    new_name: Annotated[str, typer.Argument(metavar="NEW", help="Its new name.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="As in Modal; nobody is asked.", hidden=True)] = False,
    env: Environment = None,
) -> None:
    """
    Give a Volume a new name. Programs that have it open stay on it.

    \b
    Example:
      pgstore volume rename models old-models
    """
    with client_of(context, env) as (client, environment):
        pgstore.Volume.rename(name, new_name, client=client, environment_name=environment)


file_commands.add_all(app, "volume")


@app.command()
def versions(
    context: typer.Context,
    name: Name,
    number: Annotated[int, typer.Option("--number", "-n", min=0, metavar="N", help="At most so many.")] = 20,
    all_: Annotated[bool, typer.Option("--all", "-a", help="All of them.")] = False,
    sizes: Annotated[bool, typer.Option("--sizes", "-s", help="How many files each has, and their size.")] = False,
    as_json: AsJson = False,
    env: Environment = None,
) -> None:
    """
    Show the versions that can still be read, newest first. Each commit made one.

    \b
    Example:
      pgstore volume versions models
      pgstore volume versions models --all --sizes --json
    """
    with transfer.advised(), opened(context, "volume", name, env) as volume:
        found = admin.versions(volume, limit=None if all_ else number, sizes=sizes)
    columns = ["Version", "Committed at"]
    rows: list[tuple[object, ...]] = [(each.version, each.committed_at) for each in found]
    if sizes:
        columns += ["Files", "Size"]
        rows = [
            (*row, each.files, each.size_bytes if as_json or each.size_bytes is None else output.size(each.size_bytes))
            for row, each in zip(rows, found, strict=True)
        ]
    output.records(columns, rows, as_json)


@app.command()
def restore(
    context: typer.Context,
    name: Name,
    version: Annotated[int, typer.Argument(metavar="VERSION", help="0: the empty Volume.", show_default=False)],
    env: Environment = None,
) -> None:
    """
    Make a Volume what it was in a version, by a commit like any other. Nothing is lost: what was newer stays in its versions.

    \b
    Example:
      pgstore volume restore models 17
    """
    with transfer.advised(), opened(context, "volume", name, env) as volume:
        made = volume.restore(version)
    print(f"version {made} is what version {version} was")


@app.command()
def watch(
    context: typer.Context,
    name: Name,
    since: Annotated[
        int | None, typer.Option(min=0, metavar="VERSION", help="Go on after this version.", show_default=False)
    ] = None,
    timeout: Timeout = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each version as a line of JSON.")] = False,
    env: Environment = None,
) -> None:
    """
    Print what each commit changes, as it comes, until Ctrl-C: version, what happened, and the path.

    A directory that came or went stands for all that was in it. For each version the names of the Volume are read.

    \b
    Example:
      pgstore volume watch models
      pgstore volume watch models --since 17 --timeout 60 --json
    """
    with transfer.advised(), opened(context, "volume", name, env) as volume:
        for each in watching.versions(volume, since=since, timeout=timeout):
            if as_json:
                changes = [{"change": change, "path": path} for change, path in each.changes]
                found = {"version": each.version, "committed_at": each.committed_at.isoformat(), "changes": changes}
                print(json.dumps(found), flush=True)
                continue
            for change, path in each.changes or [("nothing", "")]:
                listing.line(f"{each.version} {change} {shown(path)}".rstrip())


stores.add_delete(app, "volume")
