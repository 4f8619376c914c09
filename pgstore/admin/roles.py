"""The roles that sql/admin/roles.sql grants rights to: who is a member, and making members."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from pgstore import errors, migrate
from pgstore.admin.connecting import connected
from pgstore.migrate import Roles

RIGHTS: Final = {"reader": "read", "writer": "read and write", "owner": "do everything, and migrate"}
SINCE_16: Final = 160_000  # membership has INHERIT of its own, and each grant its grantor

_ROLES: LiteralString = """
SELECT r.rolname::text,
       coalesce(has_schema_privilege(r.oid, n.oid, 'USAGE'), false)
  FROM pg_roles r
  LEFT JOIN pg_namespace n ON n.nspname = 'pgstore'
 WHERE r.rolname = ANY (%s)
"""
_MEMBERS: LiteralString = """
SELECT g.rolname::text,
       m.rolname::text,
       m.rolcanlogin,
       bool_or(a.admin_option),
       bool_or({inherits})
  FROM pg_auth_members a
  JOIN pg_roles g ON g.oid = a.roleid
  JOIN pg_roles m ON m.oid = a.member
 WHERE g.rolname = ANY (%s)
 GROUP BY g.rolname, m.rolname, m.rolcanlogin
 ORDER BY g.rolname, m.rolname
"""
_GRANTORS: LiteralString = """
SELECT pg_get_userbyid(a.grantor)::text
  FROM pg_auth_members a
 WHERE pg_get_userbyid(a.roleid) = %s
   AND pg_get_userbyid(a.member) = %s
"""


@dataclass(frozen=True)
class Member:
    """A role that is a member of one of ours, directly."""

    name: str
    can_login: bool
    may_add_members: bool
    inherits: bool
    """It has the rights without SET ROLE; else pgstore refuses it."""


@dataclass(frozen=True)
class Role:
    """One of the three roles."""

    right: str
    """`reader`, `writer` or `owner`."""
    name: str
    exists: bool
    is_granted: bool
    """It may use the schema in this database."""
    members: list[Member]


@dataclass(frozen=True)
class RolesReport:
    """Who may use the schema of a database."""

    login: str
    roles: list[Role]
    others: list[str]
    """Roles with rights that were given by hand."""


def roles_of(url: str, names: Roles | None = None) -> RolesReport:
    """Look who may use the schema in the database of *url*. Raises `StoreUnavailable`, `AccessDenied`."""
    names = names or Roles()
    with _transaction(url) as connection:
        is_since_16 = connection.info.server_version >= SINCE_16
        granted = dict(connection.execute(_ROLES, [list(names)]).fetchall())
        query = sql.SQL(_MEMBERS).format(inherits=sql.SQL("a.inherit_option" if is_since_16 else "m.rolinherit"))
        members = connection.execute(query, [list(names)]).fetchall()
        holders = [name for (name,) in connection.execute(migrate.GRANTEES).fetchall()]
        found = [
            Role(
                right,
                name,
                name in granted,
                granted.get(name, False),
                [Member(*m[1:]) for m in members if m[0] == name],
            )
            for right, name in zip(RIGHTS, names, strict=True)
        ]
        return RolesReport(connection.info.user, found, [name for name in holders if name not in set(names)])


def grant_sql(login: str, right: str, names: Roles | None = None, *, server_version: int = 0) -> str:
    """
    The SQL that makes *login* a member, for whoever may run it.

    Args:
        right: `reader`, `writer` or `owner`.
        server_version: as libpq has it; 0: for any. From 16 on a member inherits because this says so.
    """
    inherit = " WITH INHERIT TRUE" if server_version >= SINCE_16 else ""
    return f"GRANT {_quoted(_name(right, names))} TO {_quoted(login)}{inherit}"


def revoke_sql(login: str, right: str, names: Roles | None = None, *, grantor: str | None = None) -> str:
    """The SQL that ends the membership of *login*; *grantor*: the one that this role gave."""
    given = "" if grantor is None else f" GRANTED BY {_quoted(grantor)}"
    return f"REVOKE {_quoted(_name(right, names))} FROM {_quoted(login)}{given}"


def grant(url: str, login: str, right: str, names: Roles | None = None) -> None:
    """
    Make *login* a member of the role with this *right*, which then has the rights in every database of the server.

    Raises:
        AccessDenied: ours is not a role that may. The message has the SQL for one that is.
        NotFoundError: there is no such login, or no such role of ours.
    """
    name = _name(right, names)
    with _transaction(url) as connection:
        statement = grant_sql(login, right, names, server_version=connection.info.server_version)
        _check_roles(connection, login, name)
        if connection.info.server_version < SINCE_16:
            row = connection.execute("SELECT rolinherit FROM pg_roles WHERE rolname = %s", [login]).fetchone()
            if row is not None and not row[0]:
                raise errors.InvalidError(
                    f"as a member of {name!r} {login!r} would inherit no rights: run ALTER ROLE {_quoted(login)} INHERIT first"
                )
        _run(connection, statement, login, name)


def revoke(url: str, login: str, right: str, names: Roles | None = None) -> None:
    """
    End the membership of *login* in the role with this *right*. Rights that it has by other ways stay.

    Raises:
        AccessDenied: as of `grant`.
        NotFoundError: there is no such login, or it is no member.
    """
    name = _name(right, names)
    with _transaction(url) as connection:
        _check_roles(connection, login, name)
        grantors = [grantor for (grantor,) in connection.execute(_GRANTORS, [name, login]).fetchall()]
        if not grantors:
            raise errors.NotFoundError(f"{login!r} is no member of {name!r}: `pgstore roles` shows who is")
        with connection.transaction():
            if connection.info.server_version < SINCE_16:
                _run(connection, revoke_sql(login, right, names), login, name)
            else:
                for grantor in grantors:
                    _run(connection, revoke_sql(login, right, names, grantor=grantor), login, name)


@contextlib.contextmanager
def _transaction(url: str) -> Iterator[psycopg.Connection[Any]]:
    with connected(url) as connection:
        connection.execute("SET LOCAL search_path = pg_catalog, pg_temp")
        yield connection


def _check_roles(connection: psycopg.Connection[Any], login: str, name: str) -> None:
    found = {
        role
        for (role,) in connection.execute(
            "SELECT rolname::text FROM pg_roles WHERE rolname = ANY (%s)", [[login, name]]
        )
    }
    if name not in found:
        raise errors.NotFoundError(
            f"there is no role {name!r}: `pgstore migrate` makes it, by a role that has CREATEROLE"
        )
    if login not in found:
        raise errors.NotFoundError(
            f"there is no role {login!r}: run CREATE ROLE {_quoted(login)} LOGIN PASSWORD '…' first"
        )


def _run(connection: psycopg.Connection[Any], statement: str, login: str, name: str) -> None:
    try:
        connection.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege as exc:
        raise errors.AccessDenied(
            f"{connection.info.user!r} may not say who is a member of {name!r}; that takes a superuser, or a role with ADMIN "
            f"OPTION on it (before PostgreSQL 16: CREATEROLE), which can run: {statement}"
        ) from exc
    except psycopg.errors.InvalidGrantOperation as exc:  # as of two roles that would be members of each other
        raise errors.InvalidError(f"{login!r} cannot be a member of {name!r}: {exc.diag.message_primary}") from exc


def _name(right: str, names: Roles | None) -> str:
    if right not in RIGHTS:
        raise errors.InvalidError(f"the right is {right!r}, expected one of {', '.join(RIGHTS)}")
    return str(getattr(names or Roles(), right))


def _quoted(name: str) -> str:
    if not name or "\0" in name or len(name.encode()) > 63:
        raise errors.InvalidError(f"role name {name!r} has {len(name.encode())} bytes, 1 to 63 are allowed")
    return '"' + name.replace('"', '""') + '"'
