"""How the transaction of a migration begins: settings, the lock for migrations, and how long it waits for tables."""

from __future__ import annotations

LOCK_KEY = int.from_bytes(b"pgstore\0", "big")  # of the advisory lock; one for all migrations of a database
_LOCK_WAIT_SECONDS = 60  # for other migrations
_STRANGER_WAIT_SECONDS = 5  # for a holder of the lock that may not migrate
# For any other lock. A statement that waits for a table makes everybody who comes after it wait too.
_TABLE_WAIT_SECONDS = 10


def settings() -> list[str]:
    return [
        # PostgreSQL's names are not qualified, and nobody's own may shadow them.
        "SET LOCAL search_path = pg_catalog, pg_temp",
        # A role or a database may have set these otherwise. Then the script would mean something else, or be refused.
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


def lock() -> str:
    wait = int(_LOCK_WAIT_SECONDS * 1000)
    slice_ = min(wait, _STRANGER_WAIT_SECONDS * 1000)
    text = _LOCK.replace("{key}", str(LOCK_KEY)).replace("{slice}", str(slice_))
    return text.replace("{wait}", str(wait)).replace("{wait_seconds}", str(_LOCK_WAIT_SECONDS)).strip()


def table_wait() -> str:
    return f"SET LOCAL lock_timeout = {_TABLE_WAIT_SECONDS * 1000}"
