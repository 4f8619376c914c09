"""Migrating a database, over a connection of our own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg import pq
from psycopg import sql as compose
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import namedtuple_row

from pgstore import errors
from pgstore.config import ConnectionString
from pgstore.core.error_mapping import check_conninfo, map_connect_error, map_error
from pgstore.core.limit import NOTICING_DEAD_PEERS
from pgstore.core.search_path import fault_of
from pgstore.migrate import revisions
from pgstore.migrate.roles import DEFAULT_ROLES, GRANTED, GRANTEES, Roles, role_settings, roles_script
from pgstore.migrate.transaction import lock, settings, table_wait

if TYPE_CHECKING:
    import sqlalchemy

    _Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Report:
    """What `upgrade` found and did."""

    before: str | None
    """The revision found; None: there was no schema."""
    after: str
    roles_granted: tuple[str, ...]
    """Roles that now have their rights."""
    roles_missing: tuple[str, ...]
    """Roles that do not exist and could not be made, or to which this login could not grant anything."""
    roles_else: tuple[str, ...] = ()
    """Other roles that hold rights in the schema, its owner aside. Who gave them knows why; a migration leaves them."""


def upgrade(url: str, *, roles: Roles | None = DEFAULT_ROLES) -> Report:
    """
    Bring the schema of a database to SCHEMA_REVISION and grant *roles* their rights; what is there already stays.

    Args:
        url: a postgresql:// URL or a libpq connection string; a pooler in transaction mode will do.
        roles: who gets rights; None: nobody but the role that runs this.

    Raises:
        AccessDenied: the login lacks a right, and the message has the GRANT to run; or the password is wrong.
        DatabaseUnsuitable: the server is older than PostgreSQL 14, or the database is not UTF8.
        SchemaTooNew: a newer pgstore has migrated this database.
        SchemaError: there is a schema `pgstore` that is not ours.
        ConfigurationError: the URL cannot be read, names no database, or leads to a standby.
        StoreUnavailable: no server, or no answer; or another migration took longer than a minute.
        OutcomeUnknown: the connection broke during the commit; calling this again settles it.
        TransactionFailed: a lock could not be had in time; nothing was changed.
    """
    import sqlalchemy.exc

    url = ConnectionString(url)  # not shown in tracebacks
    with revisions.alone():
        connection = connect(url)
        try:
            return _upgrade(connection, roles)
        except psycopg.Error as exc:
            raise _mapped(exc) from exc
        except sqlalchemy.exc.DBAPIError as exc:
            if not isinstance(exc.orig, psycopg.Error):
                raise
            # Not from SQLAlchemy's error: that repeats the whole revision in its message.
            raise _mapped(exc.orig) from exc.orig
        finally:
            connection.close()


# Before a search_path is set: nothing here is looked up along that of the login.
_LOOK = """
SELECT pg_catalog.current_setting('server_version_num') AS server,
       pg_catalog.getdatabaseencoding() AS encoding,
       pg_catalog.pg_is_in_recovery() AS standby,
       pg_catalog.current_database() AS database,
       current_user AS login,
       pg_catalog.current_setting('search_path') AS search_path
"""

# From the catalog, which everybody may read: to_regclass() fails without rights on the schema.
STATE = """
SELECT n.oid IS NOT NULL AS has_schema,
       has_database_privilege(current_database(), 'CREATE') AS may_create_schema,
       coalesce(has_schema_privilege(n.oid, 'USAGE'), false) AS may_use_schema,
       coalesce(has_schema_privilege(n.oid, 'CREATE'), false) AS may_create_tables,
       r.oid IS NOT NULL AS has_revision,
       coalesce(has_table_privilege(r.oid, 'SELECT'), false) AS may_read_revision,
       pg_get_userbyid(r.relowner)::text AS owner,
       coalesce(pg_has_role(r.relowner, 'USAGE'), false) AS is_owner,
       (SELECT min(c.relname::text)
          FROM pg_class c
         WHERE c.relnamespace = n.oid
           AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')) AS a_relation,
       (SELECT min(pg_describe_object(d.classid, d.objid, d.objsubid))
          FROM pg_depend d
         WHERE d.refclassid = 'pg_namespace'::regclass
           AND d.refobjid = n.oid
           AND d.classid <> 'pg_default_acl'::regclass) AS a_thing
  FROM (VALUES (1)) AS one_row
  LEFT JOIN pg_namespace n ON n.nspname = 'pgstore'
  LEFT JOIN pg_class r ON r.relnamespace = n.oid AND r.relname = 'schema_revision' AND r.relkind = 'r'
"""


def _upgrade(connection: _Connection, roles: Roles | None) -> Report:
    import sqlalchemy
    import sqlalchemy.exc

    place = examine(connection)
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: connection,
        poolclass=sqlalchemy.NullPool,
        pool_reset_on_return=None,
        use_native_hstore=False,  # saves a look for a type that we do not have
    )
    with engine.connect() as bound:  # first SQLAlchemy asks the server about itself, in a transaction of its own
        transaction = bound.begin()
        try:
            report = _migrate(bound, connection, place, roles)
        except BaseException:
            # Closed, or at work after Ctrl-C: a cancellation takes a busy server its time, and psycopg waits 5 s for it.
            if connection.closed or connection.info.transaction_status == pq.TransactionStatus.ACTIVE:
                bound.invalidate()  # else SQLAlchemy tries to roll back, and that error would hide this one
            raise
        try:
            transaction.commit()
        except sqlalchemy.exc.DBAPIError as exc:
            if not connection.closed:
                raise
            bound.invalidate()
            message = f"the connection broke while the migration of {place} was being committed: run it again"
            raise errors.OutcomeUnknown(message) from exc.orig
    return report


def _migrate(bound: sqlalchemy.Connection, connection: _Connection, place: Place, roles: Roles | None) -> Report:
    """Migrate and grant in the transaction of *connection*, which is what is below *bound*."""
    for statement in settings():
        connection.execute(statement.encode())
    try:
        connection.execute(lock().encode())
    except psycopg.errors.LockNotAvailable as exc:
        raise errors.StoreUnavailable(str(exc.diag.message_primary)) from exc
    connection.execute(table_wait().encode())

    config = revisions.configuration()
    state = only_row(connection, STATE)
    before = _current_revision(connection, state, place, known=revisions.known_revisions(config))
    if before != revisions.SCHEMA_REVISION:
        require_rights(state, place)
        if not state.has_schema:
            # Not in the first revision: alembic puts its own table there before it runs that.
            connection.execute("CREATE SCHEMA pgstore")
        config.attributes["connection"] = bound
        revisions.run(config, revisions.SCHEMA_REVISION)

    # At the newest revision a role that may not grant has nothing to do here: a program may well migrate at each start.
    if before != revisions.SCHEMA_REVISION or state.is_owner:
        for name, value in role_settings(roles):
            connection.execute("SELECT set_config(%s, %s, true)", [name, value])
        connection.execute(roles_script().encode())
    wanted = list(dict.fromkeys(roles or ()))
    found = {row.name for row in connection.execute(GRANTED, [wanted])}
    granted = tuple(name for name in wanted if name in found)
    grantees = tuple(row.name for row in connection.execute(GRANTEES))
    return Report(
        before,
        revisions.SCHEMA_REVISION,
        granted,
        roles_missing=tuple(name for name in wanted if name not in found),
        roles_else=tuple(name for name in grantees if name not in wanted),
    )


@dataclass(frozen=True)
class Place:
    """Where a migration happens, and as whom; as text, a part of messages."""

    database: str
    login: str

    def __str__(self) -> str:
        return f"database {self.database!r}"


def connect(url: str) -> _Connection:
    check_conninfo(url)
    try:
        return psycopg.Connection.connect(
            url,
            row_factory=namedtuple_row,
            prepare_threshold=None,  # poolers
            client_encoding="utf8",  # also where it is SQL_ASCII and we refuse: text would come as bytes
            fallback_application_name="pgstore migrate",
            **_unsaid(url),
        )
    except psycopg.Error as exc:
        failure = map_connect_error(exc, url)
    raise failure


def _unsaid(url: str) -> dict[str, Any]:
    """The settings by which a dead server is noticed, but for those that *url* has itself."""
    return {name: value for name, value in NOTICING_DEAD_PEERS.items() if name not in conninfo_to_dict(url)}


def examine(connection: _Connection) -> Place:
    """Refuse a database that cannot hold pgstore. All transactions after this are READ COMMITTED and may write."""
    found = only_row(connection, _LOOK)
    connection.rollback()
    place = Place(found.database, found.login)
    if fault := fault_of(found.search_path):
        raise errors.ConfigurationError(f"role {place.login!r} or {place} has the {fault}")
    if int(found.server) < revisions.OLDEST_SERVER:
        version = connection.info.parameter_status("server_version") or found.server
        message = f"the server is PostgreSQL {version}, pgstore needs {revisions.OLDEST_SERVER // 10000} or later"
        raise errors.DatabaseUnsuitable(message)
    if found.encoding != "UTF8":
        message = f"{place} has encoding {found.encoding}, pgstore needs UTF8: CREATE DATABASE … ENCODING 'UTF8'"
        raise errors.DatabaseUnsuitable(f"{message} TEMPLATE template0")
    if found.standby:
        message = (
            "the server is a standby, which cannot be changed: migrate the primary (target_session_attrs=read-write)"
        )
        raise errors.ConfigurationError(message)
    # Whatever the defaults are. Read committed, because the look after waiting for the lock must be a new one.
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    connection.read_only = False
    return place


def _current_revision(connection: _Connection, state: Any, place: Place, *, known: list[str]) -> str | None:
    if state.has_revision:
        if not (state.may_use_schema and state.may_read_revision):
            message = f"role {place.login!r} may not read schema pgstore of {place}"
            raise errors.AccessDenied(f"{message}: {_grant('{}', state.owner, place)}")
        row = connection.execute("SELECT version_num FROM pgstore.schema_revision").fetchone()
        if row is not None:
            if row.version_num not in known:
                message = f"{place} is at revision {row.version_num}, the newest this pgstore knows is {known[0]}"
                raise errors.SchemaTooNew(f"{message}: install the version that migrated it, or a later one")
            return str(row.version_num)
    # Not even an empty schema_revision or a view of that name: reading and writing would run its owner's code with our
    # rights, and we may be a superuser in a database where others create schemas.
    if state.a_relation is not None:
        message = f"schema pgstore of {place} holds {state.a_relation!r}, which no migration made: rename or drop it"
        raise errors.SchemaError(message)
    if state.a_thing is not None:
        # A function that matches calls better than ours, say.
        message = f"schema pgstore of {place} holds the {state.a_thing}, which no migration made: drop the schema"
        raise errors.SchemaError(message)
    return None


def require_rights(state: Any, place: Place) -> None:
    if not state.has_schema and not state.may_create_schema:
        message = f"role {place.login!r} may not create the schema pgstore in {place}"
        raise errors.AccessDenied(f"{message}: {_grant('CREATE ON DATABASE {}', place.database, place)}")
    if state.has_revision and not state.is_owner:
        message = f"role {place.login!r} may not change schema pgstore of {place}, which belongs to {state.owner!r}"
        raise errors.AccessDenied(f"{message}: {_grant('{}', state.owner, place)}")
    if state.has_schema and not (state.may_use_schema and state.may_create_tables):
        message = f"role {place.login!r} may not create tables in schema pgstore of {place}"
        raise errors.AccessDenied(f"{message}: {_grant('USAGE, CREATE ON SCHEMA {}', 'pgstore', place)}")


def _grant(what: str, name: str, place: Place) -> str:
    what = what.format(compose.Identifier(name).as_string())
    return f"GRANT {what} TO {compose.Identifier(place.login).as_string()}"


def only_row(connection: _Connection, statement: LiteralString) -> Any:
    row = connection.execute(statement).fetchone()
    assert row is not None, "a SELECT of one row"
    return row


def _mapped(exc: psycopg.Error) -> errors.Error:
    text = (exc.diag.message_primary or str(exc)).strip()
    if exc.sqlstate == "42501":
        return errors.AccessDenied(
            f"{text}; a migration is for the owner of the schema pgstore, or a member of that role"
        )
    if exc.sqlstate == "55P03":
        return errors.TransactionFailed(f"{text}; nothing was changed: run it when no long transaction uses pgstore")
    return map_error(exc)
