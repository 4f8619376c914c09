"""What the commands of Dicts, Queues, Volumes and NetworkFileSystems have in common."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer

import pgstore
from pgstore.admin import stores as admin
from pgstore.cli import output
from pgstore.cli.completion import names_of_group
from pgstore.cli.options import AllowMissing, AsJson, Environment, Yes, client_of, confirm

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The store.", show_default=False, autocompletion=names_of_group)
]


@contextlib.contextmanager
def opened(context: typer.Context, kind: admin.Kind, name: str, env: str | None) -> Iterator[Any]:
    """
    The store *name*, which exists, with a client of its own.

    Raises:
        NotFoundError: there is none; it says which command makes one.
    """
    with client_of(context, env) as (client, environment):
        yield found(client, kind, name, environment)


def found(client: pgstore.Client, kind: admin.Kind, name: str, environment: str) -> Any:
    """The store *name*. Raises `NotFoundError` in the words of the command line."""
    try:
        return admin.handle(client, kind, name, environment)
    except pgstore.NotFoundError as exc:
        raise _missing(exc, kind, name, environment) from exc


def _missing(exc: pgstore.NotFoundError, kind: admin.Kind, name: str, environment: str) -> pgstore.NotFoundError:
    # What Python's message advises is Python; a store of another kind is told of as it is.
    if "from_name" not in str(exc) and "allow_missing" not in str(exc):
        return exc
    shown = admin.CLASSES[kind]
    return pgstore.NotFoundError(
        f"there is no {shown} named {name!r} in environment {environment!r}; `pgstore {kind} list` shows those that are there"
    )


@contextlib.contextmanager
def transaction(context: typer.Context, kind: admin.Kind, name: str, env: str | None) -> Iterator[Any]:
    """As `opened`, in a transaction: what is taken from the store is back in it unless the block comes to its end."""
    with client_of(context, env) as (client, environment):
        store = found(client, kind, name, environment)
        with client.transaction():
            yield store


def show_details(context: typer.Context, kind: admin.Kind, name: str, env: str | None, as_json: bool) -> None:
    """Print what a store is and holds."""
    with client_of(context, env) as (client, environment):
        try:
            found = admin.details(client, kind, name, environment)
        except pgstore.NotFoundError as exc:
            raise _missing(exc, kind, name, environment) from exc
    if as_json:
        print(json.dumps({**asdict(found), "created_at": found.created_at.isoformat()}, indent=2))
        return
    entries = {"dict": "entries", "queue": "items"}.get(kind, "files")
    output.fields(
        [
            ("name", found.name),
            ("environment", found.environment),
            ("id", found.id),
            ("created", output.created(found.created_at, found.created_by)),
            ("options", ", ".join(f"{option}={value}" for option, value in found.options.items()) or "none"),
            (entries, f"{found.entries:,}"),
            ("size", output.size(found.size_bytes)),
        ]
    )


def add_list(app: typer.Typer, kind: admin.Kind) -> None:
    """Give a group its `list`: name, time and maker of each store, the newest first."""

    def list_(context: typer.Context, as_json: AsJson = False, env: Environment = None) -> None:
        with client_of(context, env) as (client, environment):
            found = admin.stores(client, kind, environment)
        output.records(
            ["Name", "Created at", "Created by"], [(s.name, s.created_at, s.created_by) for s in found], as_json
        )

    shown = admin.CLASSES[kind]
    app.command(
        "list", help=_help(f"Show the {shown}s of the environment, newest first.", kind, "list", "list --json")
    )(list_)


def add_delete(app: typer.Typer, kind: admin.Kind) -> None:
    """Give a group its `delete`."""
    shown = admin.CLASSES[kind]

    def delete(
        context: typer.Context,
        name: Name,
        allow_missing: AllowMissing = False,
        yes: Yes = False,
        env: Environment = None,
    ) -> None:
        confirm(f"Delete the {shown} {name} and all that it holds?", yes)
        with client_of(context, env) as (client, environment):
            try:
                admin.delete(client, kind, name, environment, allow_missing=allow_missing)
            except pgstore.NotFoundError as exc:
                raise _missing(exc, kind, name, environment) from exc

    app.command("delete", help=_help(f"Delete a {shown}, with all that it holds.", kind, "delete old --yes"))(delete)


def _help(text: str, kind: admin.Kind, *examples: str) -> str:
    lines = "\n".join(f"  pgstore {kind} {example}" for example in examples)
    return f"{text}\n\n\b\nExample:\n{lines}"
