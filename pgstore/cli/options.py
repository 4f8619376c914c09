"""Options that many commands have, each with one name, one help text and one meaning."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Annotated, Final

import typer

import pgstore
from pgstore.cli.completion import environments
from pgstore.cli.target import target

Environment = Annotated[
    str | None,
    typer.Option(
        "--env",
        "-e",
        metavar="NAME",
        help="The environment.  [default: main]",
        show_default=False,
        autocompletion=environments,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
AllowMissing = Annotated[bool, typer.Option("--allow-missing", help="It need not exist.")]
SHOWN: Final = 20
Number = Annotated[
    int | None, typer.Argument(metavar="N", min=0, help=f"The first so many.  [default: {SHOWN}]", show_default=False)
]
Everything = Annotated[bool, typer.Option("--all", "-a", help="All of them.")]
AsRepr = Annotated[bool, typer.Option("--repr", "-r", help="Show what Python's repr says.")]
Raw = Annotated[bool, typer.Option("--raw", help="Write a str or bytes as they are, without a newline.")]


@contextlib.contextmanager
def client_of(
    context: typer.Context, env: str | None = None, *, auto_migrate: bool | None = False
) -> Iterator[tuple[pgstore.Client, str]]:
    """
    A client of the database that the command is about, and the environment: *env*, the option after the verb, before the one that
    stands before the noun.

    A missing schema stays missing; *auto_migrate* is None where the command is the first use that makes it.
    """
    chosen = target(context, env)
    with pgstore.Client(chosen.url, environment=chosen.environment, auto_migrate=auto_migrate) as client:
        yield client, chosen.environment


def limit_of(number: int | None, everything: bool) -> int | None:
    """
    How many rows a table shows at most; None: all.

    Raises:
        InvalidError: both N and --all are given.
    """
    if everything and number is not None:
        raise pgstore.InvalidError("give N or --all, not both")
    return None if everything else SHOWN if number is None else number


def confirm(question: str, yes: bool) -> None:
    """
    Ask before something is lost, unless *yes*.

    Raises:
        Error: nobody can be asked.
        typer.Abort: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise pgstore.Error("nothing was changed, for nobody can be asked: give --yes")
    typer.confirm(f"{question} Nothing brings it back.", abort=True, err=True)
