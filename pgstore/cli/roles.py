"""`pgstore roles`: who may use the stores of the database."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from pgstore import migrate
from pgstore.admin import roles as admin
from pgstore.cli import output
from pgstore.cli.groups import Group
from pgstore.cli.options import AsJson
from pgstore.cli.target import target

app = typer.Typer(cls=Group, rich_markup_mode=None)

_DEFAULTS = migrate.Roles()
Reader = Annotated[str, typer.Option("--reader-role", metavar="NAME", help="As `pgstore migrate` was told.")]
Writer = Annotated[str, typer.Option("--writer-role", metavar="NAME", help="The same.")]
Owner = Annotated[str, typer.Option("--owner-role", metavar="NAME", help="The same.")]
Login = Annotated[str, typer.Argument(metavar="LOGIN", help="The role that programs connect as.")]
Right = Annotated[str, typer.Argument(metavar="|".join(admin.RIGHTS), help="What it may.")]
AsSql = Annotated[bool, typer.Option("--sql", help="Print the SQL for whoever may run it, and run nothing.")]


@app.callback(invoke_without_command=True)
def roles(
    context: typer.Context,
    reader_role: Reader = _DEFAULTS.reader,
    writer_role: Writer = _DEFAULTS.writer,
    owner_role: Owner = _DEFAULTS.owner,
    as_json: AsJson = False,
) -> None:
    """
    Show who may use the stores of the database.

    There are three roles without login: readers see everything but what secrets hold, writers also use every store, owners may
    also migrate. Logins are made members of one of them, on the whole server: a member has its rights in each database with a
    pgstore in it.

    \b
    Example:
      pgstore roles
      pgstore roles grant app writer
      pgstore roles grant dashboard reader --sql
    """
    names = migrate.Roles(reader_role, writer_role, owner_role)
    context.meta["pgstore.roles"] = names
    if context.invoked_subcommand is not None:
        return
    found = admin.roles_of(target(context).running_url, names)
    if as_json:
        print(json.dumps(asdict(found), indent=2))
        return
    output.table(
        ["role", "may", "here", "members"],
        [
            (role.name, admin.RIGHTS[role.right], _here(role), ", ".join(map(_member, role.members)) or "-")
            for role in found.roles
        ],
    )
    if found.others:
        print(f"others with rights, given by hand: {', '.join(found.others)}")


@app.command()
def grant(context: typer.Context, login: Login, right: Right, as_sql: AsSql = False) -> None:
    """
    Let a login use the stores, on the whole server.

    \b
    Example:
      pgstore roles grant app writer
      pgstore roles grant app writer --sql
    """
    names: migrate.Roles = context.meta["pgstore.roles"]
    if as_sql:
        print(f"{admin.grant_sql(login, right, names)};")
        return
    admin.grant(target(context).running_url, login, right, names)
    print(f"{login} may {admin.RIGHTS[right]}")


@app.command()
def revoke(context: typer.Context, login: Login, right: Right, as_sql: AsSql = False) -> None:
    """
    Take from a login what `grant` gave it. What it may by other memberships stays.

    \b
    Example:
      pgstore roles revoke app writer
    """
    names: migrate.Roles = context.meta["pgstore.roles"]
    if as_sql:
        print(f"{admin.revoke_sql(login, right, names)};")
        return
    admin.revoke(target(context).running_url, login, right, names)
    print(f"{login} is no member of {getattr(names, right)} any more")


def _here(role: admin.Role) -> str:
    return "granted" if role.is_granted else "no rights" if role.exists else "missing"


def _member(member: admin.Member) -> str:
    notes = []
    if not member.inherits:
        notes.append("does not inherit")
    if not member.can_login:
        notes.append("no login")
    return f"{member.name} ({', '.join(notes)})" if notes else member.name
