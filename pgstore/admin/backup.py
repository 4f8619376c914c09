"""Making a backup: all that the schema pgstore holds, as it is at one moment, in one file (`backup_script` says what is in it).

pg_dump writes the tables, as seen by a snapshot that a transaction of ours exports. In the same transaction the large objects that
are chunks are read, and only those: pg_dump would leave all out, or take those of other applications along.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import IO, Any, Final, LiteralString

import psycopg
from psycopg import sql

from pgstore import errors, migrate
from pgstore.admin import backup_script as script
from pgstore.admin.backup_file import Writable, compression_of, written
from pgstore.admin.connecting import NO_TIMEOUTS, connected
from pgstore.admin.programs import Program, find_program, same_server
from pgstore.core.error_mapping import describe

_BLOCK_BYTES: Final = 1 << 20
_LOCK_SECONDS: Final = 60  # for a migration that is going on

# What means nothing elsewhere: ids of transactions, which the watchers of Dicts compare with those of their server; and large
# objects that are still to be deleted.
_LEFT_OUT: Final = ("dict_change", "large_object_left")

Tell = Callable[[int, int | None], object]
"""Called with bytes done and with the bytes that there are probably to do; None: that is not known."""


@dataclass(frozen=True)
class Backup:
    """A backup that was made."""

    header: script.Header
    compression: str
    """`zstd`, `gzip` or `none`."""
    large_objects: int
    missing: int
    """Chunks without their large object: the database is damaged, and so is what will be restored; see `pgstore check`."""


def backup(url: str, name: str, *, compression: str | None = None, tell: Tell = lambda done, total: None) -> Backup:
    """
    Write a backup of the schema pgstore to the file *name*, or to standard output if that is `-`.

    Nothing is locked but against migrations. The file has its name when it is complete and on the disk, in place of one that had
    it.

    Args:
        compression: `zstd`, `gzip` or `none`; None: zstd where its program is installed, else gzip.
        tell: called with the bytes of the script so far.

    Raises:
        BackupError: pg_dump failed.
        SchemaMissing, SchemaTooNew: there is no schema, or one of a newer pgstore.
        AccessDenied: the role may not read everything; the message has the GRANT to run.
        ConfigurationError: no pg_dump fits the server; a pooler stands before it; the URL cannot be used.
        StoreUnavailable: no server, no answer, or a migration that takes more than a minute.
        InvalidError, FileFailed and its like: the file cannot be written.
    """
    chosen = compression_of(compression)
    with connected(url, prepare_threshold=None) as connection:
        try:
            return _backup(connection, url, name, chosen, tell)
        except psycopg.errors.LockNotAvailable as exc:
            raise _locked() from exc


_STATE: LiteralString = """
SELECT current_setting('server_version_num')::integer / 10000,
       pg_backend_pid(),
       current_database()::text,
       current_user::text,
       to_char(timezone('UTC', now()), 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
"""
_REVISION: LiteralString = """
SELECT r.version_num::text, i.oldest_code_revision
  FROM pgstore.schema_revision r
 CROSS JOIN pgstore.installation i
"""
_UNREADABLE: LiteralString = """
SELECT c.relname::text
  FROM pg_class c
 WHERE c.relnamespace = 'pgstore'::regnamespace
   AND c.relkind IN ('r', 'p', 'S')
   AND NOT CASE c.relkind WHEN 'S' THEN has_sequence_privilege(c.oid, 'SELECT') ELSE has_table_privilege(c.oid, 'SELECT') END
 ORDER BY c.relname
"""
# As of the last vacuum: pg_table_size waits for locks. In the text of a script a byte of a file has two digits.
_ABOUT_HOW_MUCH: LiteralString = """
SELECT coalesce(sum(2 * current_setting('block_size')::bigint * (greatest(c.relpages, 0) + greatest(t.relpages, 0))), 0)::bigint
  FROM pg_class c
  LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
 WHERE c.relnamespace = 'pgstore'::regnamespace
   AND c.relkind = 'r'
"""


def _backup(connection: psycopg.Connection[Any], url: str, name: str, compression: str, tell: Tell) -> Backup:
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    connection.execute("SET LOCAL search_path = pg_catalog, pg_temp")
    connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'".encode())
    # Before the snapshot: in a table that is rewritten after it, this transaction would see no row. Why this fails is told below.
    with (
        contextlib.suppress(
            psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.InsufficientPrivilege
        ),
        connection.transaction(),
    ):
        connection.execute("LOCK TABLE pgstore.chunk IN ACCESS SHARE MODE")
    server_major, backend_pid, database, login, taken_at = _row(connection, _STATE)
    if backend_pid != connection.info.backend_pid:
        raise errors.ConfigurationError(
            f"a pooler answers at {describe(url)}, and pg_dump would leave its settings to others there: give the URL of the "
            "server itself"
        )
    connection.execute(NO_TIMEOUTS)
    header = script.Header(_revision(connection, login, url), server_major, database, taken_at, version("pgstore"))
    if unreadable := [row[0] for row in connection.execute(_UNREADABLE)]:
        raise errors.AccessDenied(
            f"role {login!r} may not read {', '.join(f'pgstore.{relation}' for relation in unreadable[:3])}"
            f"{' and more' if len(unreadable) > 3 else ''}; a backup has everything: run {_grant('pgstore_writer', login)}"
        )
    program = find_program("pg_dump", server_major)
    (snapshot,) = _row(connection, "SELECT pg_export_snapshot()")
    (total,) = _row(connection, _ABOUT_HOW_MUCH)
    with written(name, compression) as file:
        counted = _Counted(file, tell, total)
        counted.write(header.text())
        counted.write(script.BEGIN)
        for block in _dumped(program, url, connection, snapshot):
            counted.write(block)
        counted.write(script.RAISE_SEQUENCES)
        counted.write(script.LARGE_OBJECT_FUNCTION)
        counted.write(script.TABLES_COMPLETE)
        objects, missing = _large_objects(connection, counted)
        counted.write(script.END)
    return Backup(header, compression, objects, missing)


def _revision(connection: psycopg.Connection[Any], login: str, url: str) -> str:
    try:
        row = connection.execute(_REVISION).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as exc:
        raise errors.SchemaMissing(
            f"the database of {describe(url)} has no pgstore schema: there is nothing to back up"
        ) from exc
    except psycopg.errors.InsufficientPrivilege as exc:
        raise errors.AccessDenied(
            f"role {login!r} may not use the pgstore schema: run {_grant('pgstore_writer', login)}"
        ) from exc
    if row is None:
        raise errors.SchemaMissing("the pgstore schema was not set up completely: run `pgstore check`")
    revision, oldest_code = row
    if oldest_code > migrate.SCHEMA_REVISION:
        raise errors.SchemaTooNew(
            f"the pgstore schema is at revision {revision}, which needs code for revision {oldest_code} or later; this code is for "
            f"{migrate.SCHEMA_REVISION}: upgrade pgstore (`pip install --upgrade pgstore`)"
        )
    return str(revision)


def _grant(role: str, login: str) -> str:
    return f"GRANT {role} TO {sql.Identifier(login).as_string()}"


# --- the tables -------------------------------------------------------------------------------------------------------


def _dumped(program: Program, url: str, connection: psycopg.Connection[Any], snapshot: str) -> Iterator[bytes]:
    """What pg_dump writes."""
    target, environ = same_server(url, connection)
    command = [
        str(program.path),
        f"--dbname={target}",
        "--format=plain",
        "--schema=pgstore",
        *(f"--exclude-table-data=pgstore.{table}" for table in _LEFT_OUT),
        "--no-owner",
        "--no-privileges",
        "--no-tablespaces",
        "--no-security-labels",
        "--encoding=UTF8",
        "--no-password",
        f"--lock-wait-timeout={_LOCK_SECONDS}s",
        f"--snapshot={snapshot}",
    ]
    with tempfile.TemporaryFile() as said:
        # Of a session of its own: a Ctrl-C is for us, who end it.
        process = subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, start_new_session=True
        )
        assert process.stdout is not None
        try:
            while block := process.stdout.read(_BLOCK_BYTES):
                yield block
            if process.wait():
                raise _failure(said)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _failure(said: IO[bytes]) -> errors.Error:
    said.seek(0)
    lines = said.read().decode(errors="replace").splitlines()
    told = [line.partition("error: ")[2] for line in lines if line.startswith("pg_dump: error: ")]
    text = told[-1] if told else " ".join(lines[-1:]) or "it said nothing"
    if "lock timeout" in " ".join(lines):
        return _locked()
    return errors.BackupError(f"pg_dump failed: {text}")


def _locked() -> errors.StoreUnavailable:
    return errors.StoreUnavailable(
        f"a table has been locked for {_LOCK_SECONDS} s, as by a migration; nothing was written: try again later"
    )


# --- large objects ----------------------------------------------------------------------------------------------------

_OBJECTS: LiteralString = "SELECT count(*) FROM pgstore.chunk k WHERE k.large_object IS NOT NULL"
# OFFSET 0: the length is found once, and tells whether the object is there and is the chunk's own.
_COPY_OBJECTS: LiteralString = """
COPY (SELECT c.store_id, c.id, pgstore.chunk_read(c.store_id, c.id, 0::bigint, c.length::integer)
        FROM (SELECT k.store_id, k.id, pgstore.chunk_length(k.store_id, k.id) AS length
                FROM pgstore.chunk k
               WHERE k.large_object IS NOT NULL
               ORDER BY k.store_id, k.id
              OFFSET 0) c
       WHERE c.length IS NOT NULL) TO STDOUT
"""


def _large_objects(connection: psycopg.Connection[Any], file: Writable) -> tuple[int, int]:
    """Write them; returns how many, and how many are missing."""
    (chunks,) = _row(connection, _OBJECTS)
    file.write(script.LARGE_OBJECTS_BEGIN)
    with connection.cursor() as cursor:
        with cursor.copy(_COPY_OBJECTS) as rows:
            for block in rows:
                file.write(bytes(block))
        objects = cursor.rowcount
    file.write(script.LARGE_OBJECTS_END)
    return objects, chunks - objects


class _Counted:
    def __init__(self, file: Writable, tell: Tell, total: int) -> None:
        self._file = file
        self._tell = tell
        self._total = total
        self._done = 0

    def write(self, data: bytes, /) -> None:
        self._file.write(data)
        self._done += len(data)
        self._tell(self._done, max(self._total, self._done))


def _row(connection: psycopg.Connection[Any], statement: LiteralString) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = connection.execute(statement).fetchone()
    assert row is not None, "a SELECT of one row"
    return row
