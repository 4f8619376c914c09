"""`pgstore psql`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from pgstore.admin.psql import psql_command
from pgstore.cli.target import target


def psql(
    context: typer.Context,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGUMENTS", help="Of psql's own.", show_default=False)
    ] = None,
) -> None:
    """
    Open psql on the database in use.

    The schema pgstore is in its search_path, so `SELECT * FROM queue_stats` does. All that follows is psql's own.

    \b
    Example:
      pgstore psql
      pgstore psql -c 'SELECT name, depth FROM queue_stats' --csv
      pgstore psql -- -f report.sql
    """
    program, command, environ = psql_command(target(context).url, arguments or ())
    sys.stdout.flush()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and psql would go on writing to a closed pipe
    os.execve(program, command, environ)
