"""A migration as text, for a DBA to run with psql."""

from __future__ import annotations

import io

from psycopg import sql as compose

from pgstore import errors
from pgstore.migrate import revisions
from pgstore.migrate.roles import DEFAULT_ROLES, Roles, role_settings, roles_script
from pgstore.migrate.transaction import lock, settings, table_wait


def sql(*, roles: Roles | None = DEFAULT_ROLES, from_revision: str | None = None) -> str:
    """
    Return what `upgrade` would do as a script for `psql -v ON_ERROR_STOP=1`, in one transaction.

    Args:
        from_revision: where the database is now, which the script checks; None: it has no pgstore.
    """
    newest = revisions.SCHEMA_REVISION
    with revisions.alone():
        config = revisions.configuration()
        known = revisions.known_revisions(config)
        if from_revision is not None and from_revision not in known:
            raise errors.InvalidError(f"no revision {from_revision!r}, there are {', '.join(reversed(known))}")
        text = io.StringIO()
        config.output_buffer = text
        revisions.run(config, f"{from_revision}:{newest}" if from_revision else newest, as_text=True)
    start = "nothing" if from_revision is None else f"revision {from_revision}"
    check = _CHECK.replace("{oldest_server}", str(revisions.OLDEST_SERVER))
    check = check.replace("{expected}", "NULL" if from_revision is None else _literal(from_revision))
    parts = [
        f"-- pgstore from {start} to revision {newest}, for a role that may create schemas in this database.",
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;",
        *(f"{statement};" for statement in settings()),
        f"{lock()};",
        f"{table_wait()};",
        check.strip(),
        text.getvalue().strip(),
        *(f"SET LOCAL {name} = {_literal(value)};" for name, value in role_settings(roles)),
        roles_script().strip(),
        "COMMIT;",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


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
