"""`pgstore backup` and `pgstore restore`."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from pgstore import migrate
from pgstore.admin import backup as backups
from pgstore.admin.backup_file import COMPRESSIONS, STANDARD
from pgstore.admin.restore import restore as restore_backup
from pgstore.cli import check, migration, output
from pgstore.cli.options import Yes, confirm
from pgstore.cli.target import target
from pgstore.core.error_mapping import describe

_DEFAULTS = migrate.Roles()


def backup(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to write it; `-`: to standard output.")],
    compression: Annotated[
        str | None,
        typer.Option(
            "--compression",
            metavar="|".join(COMPRESSIONS),
            help="How to compress it.  [default: zstd if its program is installed, else gzip]",
        ),
    ] = None,
) -> None:
    """
    Write all that pgstore has in the database to one file.

    Everything in it is as it was at one moment, large objects too; nobody has to stop working. FILE is replaced when the new one is
    complete and on the disk, and only you can read it. It is a script: `pgstore restore` restores it, and psql does. It takes the
    right to read everything (pgstore_writer), and a pg_dump that is not older than the server.

    \b
    Example:
      pgstore backup pgstore.sql.zst
      pgstore backup - | ssh backups 'cat > pgstore.sql.zst'
    """
    chosen = target(context)
    with _progress("backing up") as tell:
        made = backups.backup(chosen.url, file, compression=compression, tell=tell)
    say = _to_stderr if file == STANDARD else print
    size = "" if file == STANDARD else f", {output.size(os.stat(file).st_size)}"
    objects = f", {made.large_objects:,} large objects" if made.large_objects else ""
    say(
        f"{file}: database {made.header.database}, revision {made.header.schema_revision}{objects}; {made.compression}{size}"
    )
    if made.missing:
        _to_stderr(
            f"{made.missing:,} large objects are missing in the database, so in the backup too: see `pgstore check`"
        )


def restore(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="The backup; `-`: from standard input.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of all that pgstore has in the database now.")
    ] = False,
    yes: Yes = False,
    no_roles: Annotated[bool, typer.Option("--no-roles", help="As of `pgstore migrate`.")] = False,
    reader_role: Annotated[str, typer.Option(metavar="NAME", help="As of `pgstore migrate`.")] = _DEFAULTS.reader,
    writer_role: Annotated[str, typer.Option(metavar="NAME", help="As of `pgstore migrate`.")] = _DEFAULTS.writer,
    owner_role: Annotated[str, typer.Option(metavar="NAME", help="As of `pgstore migrate`.")] = _DEFAULTS.owner,
) -> None:
    """
    Restore a backup into a database without a schema pgstore, and check it.

    It is all or nothing. With --replace, programs that use the database wait, and then find their stores in what was restored. What
    else is in the database is left alone, and large objects get new numbers. Rights are given as
    `pgstore migrate` gives them. Restore only what you trust: what is in the file runs with your rights.

    \b
    Exit codes:
      0  restored, and the checks found nothing
      1  not restored; or restored, and a check has found something: see the output
      2  called in a wrong way
      3  restored, but not all checks could run: see the error

    \b
    Example:
      pgstore restore pgstore.sql.zst
      pgstore restore pgstore.sql.zst --replace --yes
      createdb copy && pgstore --url postgresql:///copy restore pgstore.sql.zst
    """
    roles = None if no_roles else migrate.Roles(reader_role, writer_role, owner_role)
    chosen = target(context)
    if replace:
        confirm(f"Replace all that pgstore has in {describe(chosen.url)}?", yes)
    with _progress("restoring") as tell:
        restored = restore_backup(chosen.url, file, replace=replace, roles=roles, tell=tell)
    header = restored.header
    print(f"{describe(chosen.url)}: restored what database {header.database} had at {header.taken_at}")
    migration.show(restored.migration, describe(chosen.url), roles, quiet=True)
    check.check(context)


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int | None], object]]:
    """On a terminal, a bar on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)
