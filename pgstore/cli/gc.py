"""`pgstore gc`."""

from __future__ import annotations

from dataclasses import astuple
from typing import Annotated

import typer

import pgstore
from pgstore import errors
from pgstore.cli import output
from pgstore.cli.target import target
from pgstore.client.session import sweep, unlink_large_objects
from pgstore.core.operation import Op, Query, Rows, atomic
from pgstore.core.statement import Statement
from pgstore.fs.retention.collection import GRACE_SECONDS, STORES, Collected, Collection

_NOUNS = {"volume": "Volume", "nfs": "NetworkFileSystem"}


def gc(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            help="A Volume or NetworkFileSystem.  [default: all, of all environments unless --env is given]"
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Delete nothing; show what would be.")] = False,
    grace: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="Keep what was still in use so long ago: readers may be at it."),
    ] = GRACE_SECONDS,
) -> None:
    """
    Delete what Volumes and NetworkFileSystems do not need any more.

    Old versions beyond those a Volume keeps and somebody reads, removed files that nobody has open, contents that nothing refers
    to, what crashed programs left. Programs that write do this in passing; it is for what they had no time for. It may run at any
    time, beside them and several times at once, and be stopped.

    \b
    Example:
      pgstore gc
      pgstore --env staging gc models --dry-run
    """
    chosen = target(context)
    # With a name it is the one environment that names are looked up in.
    environment = chosen.given_environment if name is None else chosen.environment
    with pgstore.Client(chosen.url, auto_migrate=False) as client:
        stores: Rows = client.run(_stores(environment, name))
        if not stores and name is not None:
            raise errors.NotFoundError(
                f"there is no Volume or NetworkFileSystem {name!r} in environment {environment!r}"
            )
        if not dry_run:
            client.run(_finish_deletions())
        found = []
        for store_id, *about in stores:
            collection = Collection(store_id, grace_seconds=grace)
            collected = client.run(collection.dry_run() if dry_run else collection.run())
            if collected:
                found.append((*about, collected))
    _show(found, "would be deleted" if dry_run else "deleted")


# Of stores that were deleted by somebody who did not get round to their large objects.
LEFT_OF = Statement("SELECT DISTINCT store_id FROM pgstore.large_object_left", read_only=True)


def _finish_deletions() -> Op[None]:
    yield from atomic(sweep())
    for (store_id,) in (yield Query(LEFT_OF)):
        yield from unlink_large_objects(store_id)


def _stores(environment: str | None, name: str | None) -> Op[Rows]:
    return (yield Query(STORES, environment, name))  # type: ignore[no-any-return]


def _show(found: list[tuple[str, str, str | None, Collected]], what: str) -> None:
    if not found:
        print(f"nothing {what}")
        return
    rows = []
    for environment, kind, name, collected in found:
        *counts, size_bytes = astuple(collected)
        rows.append((environment, _NOUNS[kind], name or "(ephemeral)", *counts, output.size(size_bytes)))
    print(f"{what}:")
    output.table(
        ["environment", "kind", "name", "versions", "names", "inodes", "contents", "chunks", "size of chunks"], rows
    )
