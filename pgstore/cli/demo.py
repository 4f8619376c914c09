"""`pgstore demo`: the pipeline of examples/, on files that every machine has."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from pgstore import errors
from pgstore.cli.options import Environment
from pgstore.cli.target import target
from pgstore.migrate import examples_directory


def demo(
    context: typer.Context,
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR", help="What to analyse.  [default: Python's own package `email`]", show_default=False
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="How many workers at once.")] = 2,
    kill: Annotated[bool, typer.Option(help="Kill a worker in the middle of its work.")] = True,
    env: Environment = None,
) -> None:
    """
    Run a pipeline on a small directory, and check its sums.

    Files go to a Volume, and a call is spawned for each; workers write their results to another Volume and count in a Dict.
    One worker is killed at its work. Then SQL adds everything up. The stores are deleted at the end; the calls stay for a week.

    \b
    Example:
      pgstore demo
      pgstore demo ~/src/project --workers 4 --no-kill
    """
    import email

    where = Path(email.__file__).parent if directory is None else directory
    if not where.is_dir():
        raise errors.InvalidError(f"{where} is not a directory")
    chosen = target(context, env)
    if chosen.is_embedded:
        chosen.url  # noqa: B018 - starts it, and says so
    program = examples_directory() / "pipeline.py"
    arguments = [str(where), "--workers", str(workers), *(["--kill"] if kill else [])]
    sys.stdout.flush()
    # In place of this process: its output, its exit code and Ctrl-C are the pipeline's own.
    os.execve(sys.executable, [sys.executable, str(program), *arguments], chosen.environ())
