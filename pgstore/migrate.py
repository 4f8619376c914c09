"""Migrations: how a database gets the schema `pgstore`, and how it keeps up with the code.

The revisions stand in alembic/versions (in a wheel: pgstore/_migrations). `upgrade` runs what is missing in one transaction
under an advisory lock: any number of processes may call it at once, and it is everything or nothing. Rights are granted in
the same transaction (sql/admin/roles.sql). `sql` gives all of it as text, for a DBA to run.

This is the only module that imports alembic, and SQLAlchemy on alembic's behalf; both inside functions, since every program
that uses pgstore imports this module to know SCHEMA_REVISION, and few of them migrate.
"""

from __future__ import annotations

import contextlib
import io
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql as compose
from psycopg.rows import namedtuple_row

from pgstore import errors

if TYPE_CHECKING:
    from alembic.config import Config

SCHEMA_REVISION = "0001"
"""The revision this code was written for: the newest in alembic/versions."""

OLDEST_SCHEMA_REVISION = "0001"
"""The oldest revision this code works with; below it a client raises SchemaOutdated."""

OLDEST_SERVER = 140000
"""The oldest PostgreSQL, as in server_version_num."""

# One number for all pgstore migrations of a database: the bytes of "pgstore\0".
_LOCK_KEY = int.from_bytes(b"pgstore\0", "big")
_LOCK_WAIT_SECONDS = 60  # for other migrations
_TABLE_WAIT_SECONDS = 10  # for the locks of a statement: while it waits, everybody who uses the table queues up behind it

# alembic's `context` and `op` stand for one migration per process at a time. Taken before the advisory lock: in the other
# order two threads, each with one of the two, would wait for each other for ever.
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
    """Roles that do not exist and could not be made, or that this login could not grant anything."""


def upgrade(url: str, *, roles: Roles | None = Roles()) -> Report:
    """
    Bring the schema of a database to SCHEMA_REVISION and grant the rights of *roles*; does nothing where nothing is missing.

    Args:
        url: a postgresql:// URL or a libpq connection string; a pooler in transaction mode will do.
        roles: who gets rights; None: nobody but the role that runs this.

    Raises:
        AccessDenied: the login lacks a right, and the message has the GRANT to run; or the password is wrong.
        DatabaseUnsuitable: the server is older than PostgreSQL 14, or the database is not UTF8.
        SchemaTooNew: a newer pgstore has migrated this database.
        SchemaError: there is a schema `pgstore` which is not ours.
        ConfigurationError: the URL cannot be read, names no database, or leads to a standby.
        StoreUnavailable: no server, or no answer; or another migration took longer than a minute.
        TransactionFailed: a lock could not be had in time; nothing was changed.
    """
    import sqlalchemy.exc

    with _one_at_a_time, _silent_alembic():
        try:
            with _connect(url) as connection:
                return _upgrade(connection, roles)
        except psycopg.Error as exc:
            raise _mapped(exc) from exc
        except sqlalchemy.exc.DBAPIError as exc:
            if not isinstance(exc.orig, psycopg.Error):
                raise
            # Not from SQLAlchemy's: it repeats the whole revision in its message.
            raise _mapped(exc.orig) from exc.orig


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
            raise errors.InvalidError(f"no revision {from_revision!r}; there are {', '.join(reversed(known))}")
        config.output_buffer = io.StringIO()
        _run(config, f"{from_revision}:{SCHEMA_REVISION}" if from_revision else SCHEMA_REVISION, as_text=True)
    return "\n".join(
        [
            f"-- pgstore, from {'nothing' if from_revision is None else f'revision {from_revision}'} to revision {SCHEMA_REVISION}."
            " Run by a role that may create schemas in this database.",
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;",
            *(f"{statement};" for statement in _settings()),
            f"DO {_quote(_WAIT)};",
            f"SET LOCAL lock_timeout = '{_TABLE_WAIT_SECONDS}s';",
            _CHECK.replace("{oldest_server}", str(OLDEST_SERVER)).replace(
                "{revision}", "NULL" if from_revision is None else _quote(from_revision)
            ),
            config.output_buffer.getvalue().strip(),
            *(f"SET LOCAL {name} = {_quote(value)};" for name, value in _role_settings(roles)),
            _roles_script(),
            "COMMIT;",
            "",
        ]
    )


# --- files ------------------------------------------------------------------------------------------------------------


def migration_directory() -> Path:
    """Return the folder of env.py and versions/."""
    return _directory("alembic", "_migrations", "env.py")


def sql_directory() -> Path:
    """Return the folder of schema.sql, admin/ and checks/."""
    return _directory("sql", "_sql", "schema.sql")


def _directory(in_checkout: str, in_package: str, file: str) -> Path:
    package = Path(__file__).resolve().parent
    checkout = package.parent
    # Beside an installed package lies site-packages/alembic, which is alembic itself: hence the look for pyproject.toml. In a
    # checkout its own folders come first, in case someone has built into the package.
    candidates = [package / in_package]
    if (checkout / "pyproject.toml").is_file():
        candidates.insert(0, checkout / in_checkout)
    for candidate in candidates:
        if (candidate / file).is_file():
            return candidate
    raise errors.ConfigurationError(f"pgstore is not completely installed: no {candidates[-1] / file}")


def _roles_script() -> str:
    return (sql_directory() / "admin" / "roles.sql").read_text(encoding="utf-8")


# --- one upgrade ------------------------------------------------------------------------------------------------------

_LOOK = """
SELECT current_setting('server_version_num')::integer AS server,
       getdatabaseencoding()::text AS encoding,
       pg_is_in_recovery() AS standby,
       current_database()::text AS database,
       current_user::text AS login
"""

# From the catalog, which everybody may read: to_regclass() fails without rights on the schema.
_STATE = """
SELECT n.oid IS NOT NULL AS has_schema,
       has_database_privilege(current_database(), 'CREATE') AS may_create_schema,
       coalesce(has_schema_privilege(n.oid, 'CREATE') AND has_schema_privilege(n.oid, 'USAGE'), false) AS may_create_tables,
       r.oid IS NOT NULL AS has_revision,
       coalesce(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(r.oid, 'SELECT'), false) AS may_read_revision,
       pg_get_userbyid(r.relowner)::text AS owner,
       coalesce(pg_has_role(r.relowner, 'USAGE'), false) AS is_owner,
       (SELECT string_agg(c.relname, ', ' ORDER BY c.relname)
          FROM (SELECT relname FROM pg_class WHERE relnamespace = n.oid AND relkind IN ('r', 'v', 'm', 'f', 'p', 'S')
                   AND relname <> 'schema_revision' ORDER BY relname LIMIT 3) c) AS others
  FROM (VALUES (1)) one
  LEFT JOIN pg_namespace n ON n.nspname = 'pgstore'
  LEFT JOIN pg_class r ON r.relnamespace = n.oid AND r.relname = 'schema_revision'
"""

_GRANTED = """
SELECT name
  FROM unnest(%s::text[]) WITH ORDINALITY AS wanted (name, position)
 WHERE EXISTS (SELECT
                 FROM pg_roles r
                WHERE r.rolname = name
                  AND has_schema_privilege(r.oid, 'pgstore', 'USAGE')
                  AND has_table_privilege(r.oid, 'pgstore.store', CASE name WHEN %s THEN 'SELECT' ELSE 'INSERT' END))
 ORDER BY position
"""


def _upgrade(connection: psycopg.Connection[Any], roles: Roles | None) -> Report:
    import sqlalchemy
    import sqlalchemy.pool

    database, login = _examine(connection)
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: connection,
        poolclass=sqlalchemy.pool.NullPool,
        use_native_hstore=False,  # saves a look for a type that we do not have
    )
    with engine.connect() as bound, bound.begin():  # SQLAlchemy's questions about the server come first, then our transaction
        for statement in _settings():
            connection.execute(statement)
        try:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK_KEY])
        except psycopg.errors.LockNotAvailable as exc:
            message = f"another migration of database {database!r} has been running for {_LOCK_WAIT_SECONDS} s; try again later"
            raise errors.StoreUnavailable(message) from exc
        connection.execute(f"SET LOCAL lock_timeout = '{_TABLE_WAIT_SECONDS}s'")

        config = _config()
        state = _fetch_one(connection, _STATE)
        before = _current_revision(connection, state, database, login, known=_revisions(config))
        if before != SCHEMA_REVISION:
            _require_rights(state, database, login)
            if not state.has_schema:
                connection.execute("CREATE SCHEMA pgstore")  # where alembic puts its table before it runs the first revision
            config.attributes["connection"] = bound
            _run(config, SCHEMA_REVISION)
        # Whoever may not grant finds a finished schema: fine, for a program that migrates at each start with its normal login.
        if before != SCHEMA_REVISION or state.is_owner:
            for name, value in _role_settings(roles):
                connection.execute("SELECT set_config(%s, %s, true)", [name, value])
            connection.execute(_roles_script().encode())
        wanted = list(dict.fromkeys(roles or ()))
        rows = connection.execute(_GRANTED, [wanted, roles.reader if roles else ""]).fetchall()
        granted = [row.name for row in rows]
    return Report(before, SCHEMA_REVISION, tuple(granted), tuple(name for name in wanted if name not in granted))


def _connect(url: str) -> psycopg.Connection[Any]:
    try:
        psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # libpq's message may repeat the part of the URL it stumbled over, and that may be a password.
        message = "the database URL is neither postgresql://user:password@host:port/database nor key=value pairs as libpq takes them"
        raise errors.ConfigurationError(message) from None
    return psycopg.Connection[Any].connect(
        url,
        row_factory=namedtuple_row,
        prepare_threshold=None,  # poolers
        client_encoding="utf8",  # also where the database says nothing about encodings and is refused: else text comes as bytes
        fallback_application_name="pgstore migrate",
    )


def _examine(connection: psycopg.Connection[Any]) -> tuple[str, str]:
    """Refuse databases that cannot hold pgstore, make the next transaction read and write, return names of database and role."""
    found = _fetch_one(connection, _LOOK)
    connection.rollback()
    if found.server < OLDEST_SERVER:
        version = connection.info.parameter_status("server_version") or found.server
        raise errors.DatabaseUnsuitable(f"the server is PostgreSQL {version}, pgstore needs {OLDEST_SERVER // 10000} or later")
    if found.encoding != "UTF8":
        message = f"database {found.database!r} has encoding {found.encoding}, pgstore needs UTF8: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        raise errors.DatabaseUnsuitable(message)
    if found.standby:
        raise errors.ConfigurationError("the server is a standby and cannot be changed: migrate the primary (target_session_attrs=read-write finds it)")
    # Whatever the defaults of role or database are. Read committed, because a look after waiting for the lock must be a new one.
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    connection.read_only = False
    return found.database, found.login


def _current_revision(connection: psycopg.Connection[Any], state: Any, database: str, login: str, known: list[str]) -> str | None:
    if state.has_revision:
        if not state.may_read_revision:
            message = f"role {login!r} may not read schema pgstore of database {database!r}: {_grant_role(state.owner, login)}"
            raise errors.AccessDenied(message)
        row = connection.execute("SELECT version_num FROM pgstore.schema_revision").fetchone()
        if row is not None:
            if row.version_num not in known:
                message = f"schema pgstore of database {database!r} is at revision {row.version_num}, this code knows none after {SCHEMA_REVISION}: "
                raise errors.SchemaTooNew(message + "install the version of pgstore that made it, or a newer one")
            return str(row.version_num)
    if state.others:
        message = f"schema pgstore of database {database!r} holds something that pgstore did not make ({state.others}): rename or drop it"
        raise errors.SchemaError(message)
    return None


def _require_rights(state: Any, database: str, login: str) -> None:
    role = compose.Identifier(login).as_string(None)
    if not state.has_schema and not state.may_create_schema:
        statement = f"GRANT CREATE ON DATABASE {compose.Identifier(database).as_string(None)} TO {role}"
        raise errors.AccessDenied(f"role {login!r} may not create the schema pgstore in database {database!r}: {statement}")
    if state.has_schema and not state.may_create_tables:
        statement = f"GRANT USAGE, CREATE ON SCHEMA pgstore TO {role}"
        raise errors.AccessDenied(f"role {login!r} may not create tables in schema pgstore of database {database!r}: {statement}")
    if state.has_revision and not state.is_owner:
        message = f"role {login!r} may not change schema pgstore of database {database!r}: {_grant_role(state.owner, login)}"
        raise errors.AccessDenied(message)


def _grant_role(owner: str, login: str) -> str:
    return f"GRANT {compose.Identifier(owner).as_string(None)} TO {compose.Identifier(login).as_string(None)}"


def _settings() -> list[str]:
    return [
        "SET LOCAL search_path = ''",  # names are qualified; nobody's function shadows one of PostgreSQL's
        "SET LOCAL client_min_messages = warning",
        "SET LOCAL statement_timeout = 0",
        "SET LOCAL idle_in_transaction_session_timeout = 0",
        f"SET LOCAL lock_timeout = '{_LOCK_WAIT_SECONDS}s'",
    ]


def _role_settings(roles: Roles | None) -> list[tuple[str, str]]:
    if roles is None:
        return [("pgstore.roles", "off")]
    return [("pgstore.reader", roles.reader), ("pgstore.writer", roles.writer), ("pgstore.owner", roles.owner)]


def _fetch_one(connection: psycopg.Connection[Any], statement: str) -> Any:
    row = connection.execute(statement.encode()).fetchone()
    assert row is not None, "a SELECT of constants has one row"
    return row


# --- text for a DBA ---------------------------------------------------------------------------------------------------

_WAIT = f"BEGIN PERFORM pg_advisory_xact_lock({_LOCK_KEY}); END"

_CHECK = """
DO $check$
DECLARE
    expected text := {revision};
    found text;
BEGIN
    IF current_setting('server_version_num')::integer < {oldest_server} OR getdatabaseencoding() <> 'UTF8' THEN
        RAISE EXCEPTION 'pgstore needs PostgreSQL 14 or later and a UTF8 database';
    END IF;
    IF EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = 'pgstore' AND c.relname = 'schema_revision') THEN
        EXECUTE 'SELECT version_num FROM pgstore.schema_revision' INTO found;
    END IF;
    IF found IS DISTINCT FROM expected THEN
        RAISE EXCEPTION 'this script starts from %, the database is at %', coalesce('revision ' || expected, 'nothing'), coalesce('revision ' || found, 'nothing');
    END IF;
    IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'pgstore') THEN
        CREATE SCHEMA pgstore;
    END IF;
END
$check$;
"""


def _quote(text: str) -> str:
    return compose.Literal(text).as_string(None)


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

    command.upgrade(config, revision, sql=as_text)


@contextlib.contextmanager
def _silent_alembic() -> Iterator[None]:
    """Keep alembic from telling the host application's log about every step, without a change to how that is configured."""
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
    state = exc.sqlstate
    if state is None:  # refused while connecting: libpq keeps the server's text and not its code
        if isinstance(exc, psycopg.OperationalError):
            if "password" in text or "authentication" in text or "pg_hba.conf" in text or "permission denied" in text:
                return errors.AccessDenied(text)
            if "does not exist" in text:
                return errors.ConfigurationError(text)
            return errors.StoreUnavailable(text)
        return errors.StatementFailed(text)
    if state == "42501" or state.startswith("28"):
        return errors.AccessDenied(text)
    if state == "3D000":
        return errors.ConfigurationError(text)
    if state.startswith(("08", "57P", "53")):
        return errors.StoreUnavailable(text)
    if state in ("40001", "40P01"):
        return errors.SerializationConflict(text)
    if state == "55P03":
        return errors.TransactionFailed(f"{text}; nothing was changed: run it again when no long transaction uses pgstore")
    return errors.StatementFailed(text, state)
