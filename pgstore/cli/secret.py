"""`pgstore secret …`: secrets stored in the database. No command prints a value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import pgstore
from pgstore.admin import secrets as admin
from pgstore.cli import output
from pgstore.cli.completion import names
from pgstore.cli.groups import Group
from pgstore.cli.options import AllowMissing, AsJson, Environment, Yes, client_of, confirm
from pgstore.cli.target import target
from pgstore.secret import dotenv

app = typer.Typer(cls=Group, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def secret(context: typer.Context) -> None:
    """
    Store variables for functions, encrypted: `Secret.from_name` finds them.

    The key is in PGSTORE_SECRET_KEY, 32 bytes in base64. Of several, divided by commas, the first encrypts and any decrypts.

    \b
    Example:
      export PGSTORE_SECRET_KEY=$(openssl rand -base64 32)
      pgstore secret create openai OPENAI_API_KEY=-
      pgstore secret list
    """
    output.help_if_alone(context)


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The secret.", autocompletion=names("secret"))],
    pairs: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE …", help="Variables; KEY=- asks $EDITOR.")
    ] = None,
    from_dotenv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file of variables.", show_default=False)
    ] = None,
    from_json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A JSON object of strings.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="In place of one that exists.")] = False,
    env: Environment = None,
) -> None:
    """
    Store a secret.

    Others on this machine can see what stands on a command line; KEY=- and files are not seen.

    \b
    Example:
      pgstore secret create openai OPENAI_API_KEY=-
      pgstore secret create database --from-dotenv .env --force
    """
    values = {**_typed(pairs or []), **_of_dotenv(from_dotenv), **_of_json(from_json)}
    if not values:
        raise pgstore.InvalidError("give at least one KEY=VALUE, or a file of them")
    with client_of(context, env, auto_migrate=None) as (client, environment):
        admin.create(client, name, values, environment, replace=force)
    print(f"stored secret {name} with {', '.join(values)}\n")
    print(f'    @app.function(secrets=[pgstore.Secret.from_name("{name}")])')
    print(f'    def some_function():\n        os.environ["{next(iter(values))}"]')


def _typed(pairs: list[str]) -> dict[str, str]:
    values = {}
    for number, pair in enumerate(pairs, 1):
        key, separator, value = pair.partition("=")
        if not key or not separator:  # not shown: it may be a value
            raise pgstore.InvalidError(f"argument {number} after the name is not KEY=VALUE, nor KEY=- for $EDITOR")
        values[key] = _edited(key) if value == "-" else value
    return values


def _edited(key: str) -> str:
    import click

    text = click.edit("", require_save=False)
    if not text:
        raise pgstore.InvalidError(f"nothing was written for {key}")
    return text.removesuffix("\n")


def _of_dotenv(path: Path | None) -> dict[str, str]:
    if path is not None and not path.is_file():
        raise pgstore.InvalidError(f"--from-dotenv: there is no file {str(path)!r}")
    return {} if path is None else dotenv.read(path)


def _of_json(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    if not path.is_file():
        raise pgstore.InvalidError(f"--from-json: there is no file {str(path)!r}")
    try:
        found: Any = json.loads(path.read_bytes())
    except ValueError:
        raise pgstore.InvalidError(f"--from-json: {str(path)!r} is not JSON") from None  # whose error shows the text
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise pgstore.InvalidError(f"--from-json: {str(path)!r} is not an object of strings")
    return found


@app.command("list")
def list_(
    context: typer.Context,
    as_json: AsJson = False,
    env: Environment = None,
) -> None:
    """
    Show which secrets are stored, newest first, without their values.

    \b
    Example:
      pgstore secret list
      pgstore secret list --json -e staging
    """
    with client_of(context, env, auto_migrate=None) as (client, environment):
        found = admin.secrets(client, environment)
    output.records(
        ["Name", "Created at", "Created by", "Last used at"],
        [(each.name, each.created_at, each.created_by, each.last_used_at) for each in found],
        as_json,
    )


@app.command()
def delete(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The secret.", autocompletion=names("secret"))],
    allow_missing: AllowMissing = False,
    yes: Yes = False,
    env: Environment = None,
) -> None:
    """
    Delete a secret.

    \b
    Example:
      pgstore secret delete openai --yes
    """
    confirm(f"Delete the secret {name}?", yes)
    with client_of(context, env, auto_migrate=None) as (client, environment):
        admin.delete(client, name, environment, allow_missing=allow_missing)


@app.command()
def rotate(context: typer.Context) -> None:
    """
    Encrypt all secrets anew, with the first key of PGSTORE_SECRET_KEY.

    Afterwards the others can be taken away. It is about all environments.

    \b
    Example:
      PGSTORE_SECRET_KEY=NEW,OLD pgstore secret rotate
    """
    with pgstore.Client(target(context).url) as client:
        count = admin.rotate(client)
    print(f"{count} encrypted with the first key")
