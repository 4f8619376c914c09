"""`pgstore roles`: who is a member, making members, and what a DBA is told where that is not ours to do."""

from __future__ import annotations

import json

import psycopg
import pytest

import pgstore
from pgstore import errors
from pgstore.admin import roles
from pgstore.cli import run

LOGIN, ADMIN, QUOTED = "roles_app", "roles_admin", 'Roles "app"'


@pytest.fixture
def logins(database):
    """Logins without any rights; the database's URL."""
    names = (LOGIN, ADMIN, QUOTED)

    def each(text):
        with psycopg.connect(database, autocommit=True) as connection:
            for name in names:
                connection.execute(psycopg.sql.SQL(text).format(psycopg.sql.Identifier(name)))

    each("DROP ROLE IF EXISTS {}")
    each("CREATE ROLE {} LOGIN")
    yield database
    each("DROP ROLE {}")


def as_role(url, role):
    return url.replace("postgres@", f"{role}@")


def members(url, right):
    (role,) = [each for each in roles.roles_of(url).roles if each.right == right]
    return [member.name for member in role.members]


@pytest.mark.parametrize("login", [LOGIN, QUOTED], ids=["plain", "quoted"])
def test_who_is_made_a_member_is_shown_and_can_be_taken_away(logins, login):
    """
    Names are quoted, whatever they are.
    """
    roles.grant(logins, login, "reader")
    roles.grant(logins, login, "reader")  # once more does no harm
    there = members(logins, "reader")
    roles.revoke(logins, login, "reader")

    assert login in there
    assert login not in members(logins, "reader")


def test_a_writer_may_write_and_a_reader_may_not(logins):
    """
    The names of the rights keep what they promise.
    """
    roles.grant(logins, LOGIN, "reader")
    with pgstore.Client(as_role(logins, LOGIN), auto_migrate=False) as client:
        with pytest.raises(errors.AccessDenied):
            pgstore.Dict.persist("of-roles", client=client)["a"] = 1
        roles.grant(logins, LOGIN, "writer")
        pgstore.Dict.persist("of-roles", client=client)["a"] = 1
    roles.revoke(logins, LOGIN, "writer")
    roles.revoke(logins, LOGIN, "reader")


def test_who_may_not_grant_is_told_the_sql_for_who_may(logins):
    """
    The line can be handed to the administrator.
    """
    with pytest.raises(errors.AccessDenied, match='GRANT "pgstore_writer" TO "roles_app"'):
        roles.grant(as_role(logins, ADMIN), LOGIN, "writer")


def test_a_member_with_admin_option_may_grant(logins):
    """
    Who answers for the stores need not be a superuser.
    """
    with psycopg.connect(logins, autocommit=True) as connection:
        connection.execute(f"GRANT pgstore_writer TO {ADMIN} WITH ADMIN OPTION")

    roles.grant(as_role(logins, ADMIN), LOGIN, "writer")

    assert LOGIN in members(logins, "writer")
    roles.revoke(as_role(logins, ADMIN), LOGIN, "writer")


@pytest.mark.parametrize(
    ("login", "right", "hint"),
    [
        ("roles_nobody", "writer", "CREATE ROLE"),
        (LOGIN, "king", "reader, writer, owner"),
        ("", "writer", "1 to 63"),
        ("pgstore_writer", "writer", "cannot be a member"),
    ],
    ids=["login", "right", "empty", "itself"],
)
def test_a_wrong_grant_says_what_is_wrong(logins, login, right, hint):
    """
    And nothing is changed.
    """
    with pytest.raises(errors.Error, match=hint):
        roles.grant(logins, login, right)


def test_who_is_no_member_cannot_be_taken_away(logins):
    """
    A typing error in a name must not pass for a right that is gone.
    """
    with pytest.raises(errors.NotFoundError, match="no member"):
        roles.revoke(logins, LOGIN, "owner")


def test_rights_on_nothing_are_not_given(logins):
    """
    Where the role is missing, the line says what makes it.
    """
    with pytest.raises(errors.NotFoundError, match="pgstore migrate"):
        roles.grant(logins, LOGIN, "reader", pgstore.migrate.Roles(reader="roles_missing"))


def test_a_login_that_would_inherit_nothing_is_not_granted(logins, server):
    """
    It would be refused at its first connection, with rights that it seems to have.
    """
    with psycopg.connect(logins, autocommit=True) as connection:
        if connection.info.server_version >= roles.SINCE_16:
            pytest.skip("a grant says by itself that the member inherits")
        connection.execute(f"ALTER ROLE {LOGIN} NOINHERIT")

    with pytest.raises(errors.InvalidError, match="INHERIT first"):
        roles.grant(logins, LOGIN, "reader")

    assert LOGIN not in members(logins, "reader")


def test_the_command_shows_and_prints_what_it_would_do(logins, capfd):
    """
    A DBA runs nothing unread.
    """
    assert run(["--url", logins, "roles", "grant", LOGIN, "writer", "--sql"]) == 0
    script = capfd.readouterr().out
    with psycopg.connect(logins, autocommit=True) as connection:
        connection.execute(script.encode())

    assert run(["--url", logins, "roles", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert run(["--url", logins, "roles"]) == 0
    assert LOGIN in capfd.readouterr().out
    assert run(["--url", logins, "roles", "revoke", LOGIN, "writer"]) == 0
    capfd.readouterr()

    assert [m["name"] for role in told["roles"] if role["right"] == "writer" for m in role["members"]].count(LOGIN) == 1
    assert LOGIN not in members(logins, "writer")
