"""Migrations: how a database gets the schema `pgstore`, and how it keeps up with the code.

The revisions stand in alembic/versions (in a wheel: pgstore/_migrations). `upgrade` runs what is missing in one
transaction under an advisory lock: any number of processes may call it at once, and it is everything or nothing. Rights
are granted in the same transaction (sql/admin/roles.sql). `sql` gives all of it as text, for a DBA to run.

This is the only module that imports alembic, and SQLAlchemy on alembic's behalf; both inside functions, since every
program that uses pgstore imports this module to know SCHEMA_REVISION, and few of them migrate.
"""

from __future__ import annotations

import contextlib
import io
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg import sql as compose
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import namedtuple_row

from pgstore import errors
from pgstore.config import ConnectionString
from pgstore.core.error_mapping import check_conninfo, map_connect_error, map_error
from pgstore.core.limit import NOTICING_DEAD_PEERS
from pgstore.core.search_path import fault_of

if TYPE_CHECKING:
    import sqlalchemy
    from alembic.config import Config

    _Connection = psycopg.Connection[Any]

SCHEMA_REVISION = "0001"
"""The revision this code was written for: the newest in alembic/versions."""

OLDEST_SCHEMA_REVISION = "0001"
"""The oldest revision this code works with; below it a client raises SchemaOutdated."""

OLDEST_SERVER = 140000
"""The oldest PostgreSQL, as in server_version_num."""

_LOCK_KEY = int.from_bytes(b"pgstore\0", "big")  # of the advisory lock; one for all migrations of a database
_LOCK_WAIT_SECONDS = 60  # for other migrations
_STRANGER_WAIT_SECONDS = 5  # for a holder of the lock that may not migrate
# For any other lock. A statement that waits for a table makes everybody who comes after it wait too.
_TABLE_WAIT_SECONDS = 10

# alembic's `context` and `op` stand for one migration per process at a time. Taken before the advisory lock: in the
# other order two threads, each with one of the two, would wait for each other for ever.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Roles:
    """
    Names of the roles that are granted rights; sql/admin/roles.sql says which.

    Roles belong to the whole cluster: with the same names in two of its databases, a member has its rights in both.
    """

    reader: str = "pgstore_reader"
    writer: str = "pgstore_writer"
    owner: str = "pgstore_owner"

    def __post_init__(self) -> None:
        for name in self:
            if not name or "\0" in name or len(name.encode()) > 63:
                raise errors.InvalidError(f"role name {name!r} has {len(name.encode())} bytes, 1 to 63 are allowed")

    def __iter__(self) -> Iterator[str]:
        return iter((self.reader, self.writer, self.owner))


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


def upgrade(url: str, *, roles: Roles | None = Roles()) -> Report:
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
    with _one_at_a_time, _silent_alembic():
        connection = _connect(url)
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


def sql(*, roles: Roles | None = Roles(), from_revision: str | None = None) -> str:
    """
    Return what `upgrade` would do as a script for `psql -v ON_ERROR_STOP=1`, in one transaction.

    Args:
        from_revision: where the database is now, which the script checks; None: it has no pgstore.
    """
    with _one_at_a_time, _silent_alembic():
        config = _config()
        known = _revisions(config)
        if from_revision is not None and from_revision not in known:
            raise errors.InvalidError(f"no revision {from_revision!r}, there are {', '.join(reversed(known))}")
        revisions = io.StringIO()
        config.output_buffer = revisions
        _run(config, f"{from_revision}:{SCHEMA_REVISION}" if from_revision else SCHEMA_REVISION, as_text=True)
    start = "nothing" if from_revision is None else f"revision {from_revision}"
    check = _CHECK.replace("{oldest_server}", str(OLDEST_SERVER))
    check = check.replace("{expected}", "NULL" if from_revision is None else _literal(from_revision))
    parts = [
        f"-- pgstore from {start} to revision {SCHEMA_REVISION}, for a role that may create schemas in this database.",
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;",
        *(f"{statement};" for statement in _settings()),
        f"{_lock()};",
        f"{_table_wait()};",
        check.strip(),
        revisions.getvalue().strip(),
        *(f"SET LOCAL {name} = {_literal(value)};" for name, value in _role_settings(roles)),
        _roles_script().strip(),
        "COMMIT;",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


# --- files ------------------------------------------------------------------------------------------------------------


def migration_directory() -> Path:
    """Return the folder of env.py and versions/."""
    return _directory("alembic", "_migrations", "env.py")


def sql_directory() -> Path:
    """Return the folder of schema.sql, admin/ and checks/."""
    return _directory("sql", "_sql", "schema.sql")


def examples_directory() -> Path:
    """Return the folder of pipeline.py, which `pgstore demo` runs."""
    return _directory("examples", "_examples", "pipeline.py")


def _directory(in_checkout: str, in_package: str, file: str) -> Path:
    package = Path(__file__).resolve().parent
    candidates = [package / in_package]
    # A checkout's own folders come first, should someone have built into its package. Beside an installed package,
    # though, lies site-packages/alembic, which is alembic itself: hence the look for pyproject.toml.
    if (package.parent / "pyproject.toml").is_file():
        candidates.insert(0, package.parent / in_checkout)
    for candidate in candidates:
        if (candidate / file).is_file():
            return candidate
    raise errors.ConfigurationError(f"pgstore is not completely installed: {package / in_package / file} is missing")


def _roles_script() -> str:
    return (sql_directory() / "admin" / "roles.sql").read_text(encoding="utf-8")


# --- one upgrade ------------------------------------------------------------------------------------------------------

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
_STATE = """
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

# `store` stands for all tables.
_GRANTED = """
SELECT r.rolname::text AS name
  FROM pg_roles r
 WHERE r.rolname = ANY (%s)
   AND has_schema_privilege(r.oid, 'pgstore', 'USAGE')
   AND has_table_privilege(r.oid, 'pgstore.store', 'SELECT')
"""

# Who holds any right on anything in the schema, but for those who own something in it. Exact in types, for sessions that are not
# ours.
GRANTEES: LiteralString = """
WITH part AS (
     SELECT n.nspowner AS owner, n.nspacl AS acl
       FROM pg_catalog.pg_namespace n
      WHERE n.nspname = 'pgstore'
      UNION ALL
     SELECT c.relowner, c.relacl
       FROM pg_catalog.pg_class c
       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = 'pgstore'
      UNION ALL
     SELECT c.relowner, a.attacl
       FROM pg_catalog.pg_attribute a
       JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = 'pgstore'
        AND a.attacl IS NOT NULL
      UNION ALL
     SELECT p.proowner, coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))
       FROM pg_catalog.pg_proc p
       JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
      WHERE n.nspname = 'pgstore'
      UNION ALL
     SELECT t.typowner, coalesce(t.typacl, pg_catalog.acldefault('T', t.typowner))
       FROM pg_catalog.pg_type t
       JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
      WHERE n.nspname = 'pgstore'
        AND t.typtype IN ('d', 'e', 'r')
)
SELECT DISTINCT CASE a.grantee WHEN 0::oid THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(a.grantee)::text END AS name
  FROM part p
 CROSS JOIN LATERAL pg_catalog.aclexplode(p.acl) a
 WHERE NOT EXISTS (SELECT FROM part o WHERE o.owner = a.grantee)
 ORDER BY name
"""


def _upgrade(connection: _Connection, roles: Roles | None) -> Report:
    import sqlalchemy
    import sqlalchemy.exc

    place = _examine(connection)
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
            if connection.closed:
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


def _migrate(bound: sqlalchemy.Connection, connection: _Connection, place: _Place, roles: Roles | None) -> Report:
    """Migrate and grant in the transaction of *connection*, which is what is below *bound*."""
    for statement in _settings():
        connection.execute(statement.encode())
    try:
        connection.execute(_lock().encode())
    except psycopg.errors.LockNotAvailable as exc:
        raise errors.StoreUnavailable(str(exc.diag.message_primary)) from exc
    connection.execute(_table_wait().encode())

    config = _config()
    state = _only_row(connection, _STATE)
    before = _current_revision(connection, state, place, known=_revisions(config))
    if before != SCHEMA_REVISION:
        _require_rights(state, place)
        if not state.has_schema:
            # Not in the first revision: alembic puts its own table there before it runs that.
            connection.execute("CREATE SCHEMA pgstore")
        config.attributes["connection"] = bound
        _run(config, SCHEMA_REVISION)

    # At the newest revision a role that may not grant has nothing to do here: a program may well migrate at each start.
    if before != SCHEMA_REVISION or state.is_owner:
        for name, value in _role_settings(roles):
            connection.execute("SELECT set_config(%s, %s, true)", [name, value])
        connection.execute(_roles_script().encode())
    wanted = list(dict.fromkeys(roles or ()))
    found = {row.name for row in connection.execute(_GRANTED, [wanted])}
    granted = tuple(name for name in wanted if name in found)
    grantees = tuple(row.name for row in connection.execute(GRANTEES))
    return Report(
        before,
        SCHEMA_REVISION,
        granted,
        roles_missing=tuple(name for name in wanted if name not in found),
        roles_else=tuple(name for name in grantees if name not in wanted),
    )


@dataclass(frozen=True)
class _Place:
    """Where a migration happens, and as whom; as text, a part of messages."""

    database: str
    login: str

    def __str__(self) -> str:
        return f"database {self.database!r}"


def _connect(url: str) -> _Connection:
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
    """What is said of silent servers where *url* says nothing."""
    return {name: value for name, value in NOTICING_DEAD_PEERS.items() if name not in conninfo_to_dict(url)}


def _examine(connection: _Connection) -> _Place:
    """Refuse a database that cannot hold pgstore; from here on transactions are what a migration needs."""
    found = _only_row(connection, _LOOK)
    connection.rollback()
    place = _Place(found.database, found.login)
    if fault := fault_of(found.search_path):
        raise errors.ConfigurationError(f"role {place.login!r} or {place} has the {fault}")
    if int(found.server) < OLDEST_SERVER:
        version = connection.info.parameter_status("server_version") or found.server
        message = f"the server is PostgreSQL {version}, pgstore needs {OLDEST_SERVER // 10000} or later"
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


def _current_revision(connection: _Connection, state: Any, place: _Place, *, known: list[str]) -> str | None:
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


def _require_rights(state: Any, place: _Place) -> None:
    if not state.has_schema and not state.may_create_schema:
        message = f"role {place.login!r} may not create the schema pgstore in {place}"
        raise errors.AccessDenied(f"{message}: {_grant('CREATE ON DATABASE {}', place.database, place)}")
    if state.has_revision and not state.is_owner:
        message = f"role {place.login!r} may not change schema pgstore of {place}, which belongs to {state.owner!r}"
        raise errors.AccessDenied(f"{message}: {_grant('{}', state.owner, place)}")
    if state.has_schema and not (state.may_use_schema and state.may_create_tables):
        message = f"role {place.login!r} may not create tables in schema pgstore of {place}"
        raise errors.AccessDenied(f"{message}: {_grant('USAGE, CREATE ON SCHEMA {}', 'pgstore', place)}")


def _grant(what: str, name: str, place: _Place) -> str:
    what = what.format(compose.Identifier(name).as_string())
    return f"GRANT {what} TO {compose.Identifier(place.login).as_string()}"


def _settings() -> list[str]:
    return [
        # Names are qualified, but those of PostgreSQL, which nobody's own shall shadow.
        "SET LOCAL search_path = pg_catalog, pg_temp",
        # What our text means, and whether it is taken, must not hang on what a role or a database has set.
        "SET LOCAL standard_conforming_strings = on",
        "SET LOCAL plpgsql.extra_errors = 'none'",
        "SET LOCAL plpgsql.extra_warnings = 'none'",
        "SET LOCAL client_min_messages = warning",
        "SET LOCAL statement_timeout = 0",
        "SET LOCAL idle_in_transaction_session_timeout = 0",
        f"SET LOCAL lock_timeout = {_LOCK_WAIT_SECONDS * 1000}",
    ]


# Before there is a schema there is nothing else to lock, but every login of the database may hold an advisory lock: a migration
# says who does, and does not wait long for one that cannot be migrating. A DO, since a SELECT would print an empty table.
_LOCK = """
DO $lock$
DECLARE
    began   CONSTANT timestamptz := clock_timestamp();
    holders text;
    migrate boolean;
BEGIN
    PERFORM set_config('lock_timeout', '{slice}ms', true);
    LOOP
        BEGIN
            PERFORM pg_advisory_xact_lock({key});
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            SELECT string_agg(format('process %s of role %I, application %L', l.pid, a.usename, a.application_name), ', '),
                   coalesce(bool_or(a.pid IS NULL
                                    OR has_database_privilege(a.usesysid, current_database(), 'CREATE')
                                    OR coalesce(pg_has_role(a.usesysid, n.nspowner, 'MEMBER'), false)), true)
              INTO holders, migrate
              FROM pg_locks l
              LEFT JOIN pg_stat_activity a ON a.pid = l.pid
              LEFT JOIN pg_namespace n ON n.nspname = 'pgstore'
             WHERE l.locktype = 'advisory'
               AND l.granted
               AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
               AND l.classid::bigint = {key}::bigint >> 32
               AND l.objid::bigint = {key}::bigint & 4294967295
               AND l.objsubid = 1;
            IF NOT migrate THEN
                RAISE lock_not_available USING MESSAGE = format(
                    'the lock for migrations of database %L is held by %s, which may not migrate: end it, by pg_terminate_backend',
                    current_database(), holders);
            ELSIF clock_timestamp() >= began + interval '{wait} milliseconds' THEN
                RAISE lock_not_available USING MESSAGE = format(
                    'another migration of database %L has been running for {wait_seconds} s, %s: try again later',
                    current_database(), coalesce(holders, 'by now ended'));
            END IF;
        END;
    END LOOP;
END
$lock$
"""


def _lock() -> str:
    wait = int(_LOCK_WAIT_SECONDS * 1000)
    slice_ = min(wait, _STRANGER_WAIT_SECONDS * 1000)
    text = _LOCK.replace("{key}", str(_LOCK_KEY)).replace("{slice}", str(slice_))
    return text.replace("{wait}", str(wait)).replace("{wait_seconds}", str(_LOCK_WAIT_SECONDS)).strip()


def _table_wait() -> str:
    return f"SET LOCAL lock_timeout = {_TABLE_WAIT_SECONDS * 1000}"


def _role_settings(roles: Roles | None) -> list[tuple[str, str]]:
    if roles is None:
        return [("pgstore.roles", "off")]
    return [("pgstore.reader", roles.reader), ("pgstore.writer", roles.writer), ("pgstore.owner", roles.owner)]


def _only_row(connection: _Connection, statement: LiteralString) -> Any:
    row = connection.execute(statement).fetchone()
    assert row is not None, "a SELECT of one row"
    return row


# --- text for a DBA ---------------------------------------------------------------------------------------------------

_CHECK = """
DO $check$
DECLARE
    expected text := {expected};
    present  text;
BEGIN
    IF current_setting('server_version_num')::integer < {oldest_server} OR getdatabaseencoding() <> 'UTF8' THEN
        RAISE EXCEPTION 'pgstore needs PostgreSQL 14 or later and a UTF8 database';
    END IF;
    IF EXISTS (SELECT
                 FROM pg_class c
                 JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = 'pgstore' AND c.relname = 'schema_revision') THEN
        EXECUTE 'SELECT version_num FROM pgstore.schema_revision' INTO present;
    END IF;
    IF present IS DISTINCT FROM expected THEN
        RAISE EXCEPTION 'this script starts from %, the database is at %',
            coalesce('revision ' || expected, 'nothing'), coalesce('revision ' || present, 'nothing');
    END IF;
    IF expected IS NULL AND EXISTS (SELECT
                                      FROM pg_depend d
                                      JOIN pg_namespace n ON n.oid = d.refobjid
                                     WHERE d.refclassid = 'pg_namespace'::regclass
                                       AND n.nspname = 'pgstore'
                                       AND d.classid <> 'pg_default_acl'::regclass) THEN
        RAISE EXCEPTION 'the schema pgstore holds what no migration made: drop it';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'pgstore') THEN
        CREATE SCHEMA pgstore;
    END IF;
END
$check$;
"""


def _literal(text: str) -> str:
    return compose.Literal(text).as_string()


# --- alembic ----------------------------------------------------------------------------------------------------------


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migration_directory()).replace("%", "%%"))
    return config


def _revisions(config: Config) -> list[str]:
    """Return all revisions, the newest first."""
    from alembic.script import ScriptDirectory

    return [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]


def _run(config: Config, revision: str, *, as_text: bool = False) -> None:
    from alembic import command

    with _inside_another_run():
        command.upgrade(config, revision, sql=as_text)


@contextlib.contextmanager
def _inside_another_run() -> Iterator[None]:
    """
    Give alembic back to the run that this one is a part of, if it is: a revision of the host application may call us.

    `context` and `op` stand for one run. At the end of ours alembic would take them away from all.
    """
    from alembic import context, op

    outer = [proxy for module in (context, op) if (proxy := getattr(module, "_proxy", None)) is not None]
    try:
        yield
    finally:
        for proxy in outer:
            proxy._install_proxy()


@contextlib.contextmanager
def _silent_alembic() -> Iterator[None]:
    """Keep alembic's steps out of the host application's log, without a change to how that is configured."""
    thread = threading.get_ident()

    def from_elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != thread

    loggers = [logging.getLogger("alembic.runtime.migration"), logging.getLogger("alembic.runtime.plugins")]
    for logger in loggers:
        logger.addFilter(from_elsewhere)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(from_elsewhere)


# --- errors -----------------------------------------------------------------------------------------------------------


def _mapped(exc: psycopg.Error) -> errors.Error:
    text = (exc.diag.message_primary or str(exc)).strip()
    if exc.sqlstate == "42501":
        return errors.AccessDenied(
            f"{text}; a migration is for the owner of the schema pgstore, or a member of that role"
        )
    if exc.sqlstate == "55P03":
        return errors.TransactionFailed(f"{text}; nothing was changed: run it when no long transaction uses pgstore")
    return map_error(exc)
