"""`pgstore gc`."""

from __future__ import annotations

import json
from dataclasses import asdict, astuple
from typing import Annotated, Any

import typer

import pgstore
from pgstore.admin.gc import CollectedStore, collect
from pgstore.cli import output
from pgstore.cli.completion import names
from pgstore.cli.options import AsJson, Environment
from pgstore.cli.target import target
from pgstore.core.names import KIND_NAMES
from pgstore.fs.retention.collection import GRACE_SECONDS


def gc(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            autocompletion=names("volume", "nfs"),
            help="A Volume or NetworkFileSystem.  [default: all, of all environments unless --env is given]",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Delete nothing; show what would be.")] = False,
    grace: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="Keep what was still in use so long ago: readers may be at it."),
    ] = GRACE_SECONDS,
    as_json: AsJson = False,
    env: Environment = None,
) -> None:
    """
    Delete what Volumes and NetworkFileSystems do not need any more.

    Old versions beyond those a Volume keeps and somebody reads, removed files that nobody has open, contents that nothing refers
    to, what crashed programs left. Programs that write do this in passing; it is for what they had no time for. It may run at any
    time, beside them and several times at once, and be stopped.

    \b
    Example:
      pgstore gc
      pgstore gc models --dry-run --env staging
    """
    chosen = target(context, env)
    # With a name it is the one environment that names are looked up in.
    environment = chosen.given_environment if name is None else chosen.environment
    with pgstore.Client(chosen.url, auto_migrate=False) as client:
        collected = collect(client, name, environment=environment, dry_run=dry_run, grace_seconds=grace)
    if as_json:
        print(json.dumps([_record(each) for each in collected], indent=2))
    else:
        _show(collected, "would be deleted" if dry_run else "deleted")


def _record(store: CollectedStore) -> dict[str, Any]:
    found = asdict(store)
    collected = found.pop("collected")
    return {**found, **collected}


def _show(stores: list[CollectedStore], what: str) -> None:
    if not stores:
        print(f"nothing {what}")
        return
    rows = []
    for store in stores:
        *counts, size_bytes = astuple(store.collected)
        row = (store.environment, KIND_NAMES[store.kind], store.name or "(ephemeral)", *counts, output.size(size_bytes))
        rows.append(row)
    print(f"{what}:")
    output.table(
        ["Environment", "Kind", "Name", "Versions", "Names", "Inodes", "Contents", "Chunks", "Size of chunks"], rows
    )
