"""Restoring a backup, in one transaction: all of it, or nothing.

The script of the backup (`backup_script`) is not given to psql, which would obey commands of its own in it, and would leave the
rights to a second transaction: its statements and rows are sent from here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg

from pgstore import errors, migrate
from pgstore.admin.backup_file import STANDARD, opened
from pgstore.admin.backup_script import Header, Rows, Script, Statements, TablesComplete
from pgstore.admin.connecting import NO_TIMEOUTS
from pgstore.admin.replacing import drop_schema, unlink
from pgstore.config import ConnectionString
from pgstore.core.error_mapping import map_error
from pgstore.migrate import revisions, transaction
from pgstore.migrate.roles import DEFAULT_ROLES, Roles, role_settings, roles_script
from pgstore.migrate.run import STATE, Place, connect, examine, only_row, require_rights

if TYPE_CHECKING:
    _Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Restored:
    """A backup that was restored."""

    header: Header
    migration: migrate.Report
    """What came after it: its revision may have been an older one."""


def restore(
    url: str,
    name: str,
    *,
    replace: bool = False,
    roles: Roles | None = DEFAULT_ROLES,
    tell: Callable[[int, int | None], object] = lambda done, total: None,
) -> Restored:
    """
    Restore the backup in the file *name*, or of standard input if that is `-`, into the database of *url*.

    What is restored belongs to whom a migration would give it, and *roles* get the rights that it would grant them. It is brought
    to the newest revision. Only restore what you trust: it runs as who restores it.

    Programs that use the database meanwhile wait, and go on in what was restored: a handle finds its store by name, an open file or
    a lease is lost (`client.history`).

    Args:
        replace: put it in the place of the schema that is there, with all that this has; else there must be none.
        tell: called with how many bytes of the file were read, and how many it has (None: that is not known).

    Raises:
        BackupError: it is no backup, is damaged or cut off, or the server is older than that which it was made of.
        SchemaError: the database has a schema pgstore, and it is not to be replaced, or others have built on it.
        SchemaTooNew: the backup is of a newer pgstore.
        AccessDenied: the role lacks a right; the message has the GRANT to run.
        FileMissing and its like: the file cannot be read.
        DatabaseUnsuitable, ConfigurationError, StoreUnavailable: as for a migration.
        OutcomeUnknown: the connection broke during the commit; `pgstore status` shows whether it is there.
    """
    url = ConnectionString(url)  # not shown in tracebacks
    with opened(name, tell) as file:
        script = Script(file, "standard input" if name == STANDARD else name)
        header = script.header()
        with revisions.alone():
            known = revisions.known_revisions(revisions.configuration())
        if header.schema_revision not in known:
            raise errors.SchemaTooNew(
                f"the backup is of revision {header.schema_revision}, the newest this pgstore knows is {known[0]}: install the "
                f"version that made it ({header.pgstore}), or a later one"
            )
        connection = connect(url)
        try:
            old_objects = _restore(connection, header, script, roles, replace=replace)
            unlink(connection, old_objects)
        except psycopg.Error as exc:
            raise _mapped(exc) from exc
        finally:
            connection.close()
    return Restored(header, migrate.upgrade(url, roles=roles))


def _restore(
    connection: _Connection, header: Header, script: Script, roles: Roles | None, *, replace: bool
) -> list[tuple[int, bytes]]:
    """Returns the large objects of what was replaced."""
    place = examine(connection)
    server_major = connection.info.server_version // 10000
    if server_major < header.server_major:
        raise errors.BackupError(
            f"the backup is of PostgreSQL {header.server_major}, and {place} is of {server_major}: restore it on version "
            f"{header.server_major} or a later one"
        )
    for statement in transaction.settings():
        connection.execute(statement.encode())
    connection.execute(NO_TIMEOUTS)
    try:
        connection.execute(transaction.lock().encode())
    except psycopg.errors.LockNotAvailable as exc:
        raise errors.StoreUnavailable(str(exc.diag.message_primary)) from exc
    connection.execute(transaction.table_wait().encode())
    has_schema, old_objects = _make_room(connection, place, replace=replace)
    settings = {row.name for row in connection.execute("SELECT s.name FROM pg_settings s")}
    for part in script.parts():
        match part:
            case Statements(text):
                connection.execute(_fitting(text, settings, has_schema=has_schema).encode())
            case Rows(statement, blocks):
                with connection.cursor().copy(statement.encode()) as copy:
                    for block in blocks:
                        copy.write(block)
            case TablesComplete():
                # Before there are large objects, which belong to who owns the tables then.
                for setting, value in role_settings(roles):
                    connection.execute("SELECT pg_catalog.set_config(%s, %s, true)", [setting, value])
                connection.execute(roles_script().encode())
    found = only_row(connection, "SELECT r.version_num FROM pgstore.schema_revision r")
    if found.version_num != header.schema_revision:
        raise errors.BackupError(
            f"the backup says that it is of revision {header.schema_revision}, and has {found.version_num}: it is damaged"
        )
    for (relation,) in connection.execute(_TABLES).fetchall():
        connection.execute(b"ANALYZE " + relation.encode())
    try:
        connection.commit()
    except psycopg.OperationalError as exc:
        if not connection.closed:
            raise
        raise errors.OutcomeUnknown(
            f"the connection broke while the restore into {place} was being committed: `pgstore status` shows whether it is there"
        ) from exc
    return old_objects


# A server knows nothing of tables that were just filled, and plans badly until autovacuum comes.
_TABLES: LiteralString = """
SELECT pg_catalog.format('pgstore.%I', c.relname)
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'pgstore'
   AND c.relkind = 'r'
"""


def _make_room(connection: _Connection, place: Place, *, replace: bool) -> tuple[bool, list[tuple[int, bytes]]]:
    """
    See to it that there is no schema, or an empty one that somebody has made for us; returns whether there is one, and the large
    objects of what was there.
    """
    state = only_row(connection, STATE)
    if state.a_relation is None and state.a_thing is None:
        require_rights(state, place)
        return bool(state.has_schema), []
    if not state.has_revision:
        raise errors.SchemaError(
            f"schema pgstore of {place} holds {state.a_relation or state.a_thing!r}, which is not pgstore's: rename or drop it"
        )
    if not replace:
        raise errors.SchemaError(
            f"{place} has a schema pgstore already: restore into a database without one, or replace it (`restore --replace`)"
        )
    require_rights(state._replace(has_schema=False), place)
    return False, drop_schema(connection)


_SET = re.compile(r"^SET (\w+) = [^\n]*;\n", re.MULTILINE)
_CREATE_SCHEMA = re.compile(r"^(?:CREATE SCHEMA pgstore;|COMMENT ON SCHEMA pgstore IS '(?:[^']|'')*';)\n", re.MULTILINE)


def _fitting(text: str, settings: set[str], *, has_schema: bool) -> str:
    """*text* without what this server cannot do: settings of pg_dump's that are newer, and a schema that is there already."""
    text = _SET.sub(lambda found: found[0] if found[1] in settings else "", text)
    return _CREATE_SCHEMA.sub("", text) if has_schema else text


def _mapped(exc: psycopg.Error) -> errors.Error:
    text = str(exc.diag.message_primary or exc).strip()
    state = exc.sqlstate
    if state == "55P03":
        return errors.StoreUnavailable(
            "somebody's transaction uses pgstore, for ten seconds now; nothing was restored: end it, and run this again"
        )
    if state == "42501":
        return errors.AccessDenied(
            f"{text}; nothing was restored: a restore is for who may create the schema and what is in it"
        )
    if state is None or state.startswith(("08", "53", "57")):
        return map_error(exc)
    return errors.BackupError(
        f"the server refused what the backup says: {text} (SQLSTATE {state}); nothing was restored"
    )
