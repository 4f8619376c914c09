"""Taking the schema pgstore of a database away, in the transaction that puts another one in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, LiteralString

import psycopg

from pgstore import errors
from pgstore.core.error_mapping import map_error

_Connection = psycopg.Connection[Any]

_LOCK_TRIES_MAX: Final = 5
_SHOWN_MAX: Final = 3
_UNLINKED_AT_ONCE: Final = 1000  # each takes a lock until the commit

# What others have made on top of ours, and would lose: views, columns of our types, triggers, publications. Tables for what is
# TOASTed are internal dependents.
_DEPENDENTS: LiteralString = """
WITH ours (classid, objid) AS (
     SELECT 'pg_namespace'::regclass, n.oid FROM pg_namespace n WHERE n.nspname = 'pgstore'
      UNION ALL
     SELECT 'pg_class'::regclass, c.oid FROM pg_class c WHERE c.relnamespace = 'pgstore'::regnamespace
      UNION ALL
     SELECT 'pg_proc'::regclass, p.oid FROM pg_proc p WHERE p.pronamespace = 'pgstore'::regnamespace
      UNION ALL
     SELECT 'pg_type'::regclass, t.oid FROM pg_type t WHERE t.typnamespace = 'pgstore'::regnamespace
      UNION ALL
     SELECT 'pg_constraint'::regclass, k.oid FROM pg_constraint k WHERE k.connamespace = 'pgstore'::regnamespace
      UNION ALL
     SELECT 'pg_rewrite'::regclass, r.oid
       FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
      WHERE c.relnamespace = 'pgstore'::regnamespace
      UNION ALL
     SELECT 'pg_attrdef'::regclass, a.oid
       FROM pg_attrdef a JOIN pg_class c ON c.oid = a.adrelid
      WHERE c.relnamespace = 'pgstore'::regnamespace
      UNION ALL
     SELECT 'pg_trigger'::regclass, t.oid
       FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
      WHERE c.relnamespace = 'pgstore'::regnamespace
        AND (t.tgisinternal OR p.pronamespace = 'pgstore'::regnamespace)
)
SELECT DISTINCT pg_describe_object(d.classid, d.objid, 0) AS object
  FROM pg_depend d
  JOIN ours o ON o.classid = d.refclassid AND o.objid = d.refobjid
 WHERE d.deptype <> 'i'
   AND d.classid <> 'pg_default_acl'::regclass
   AND NOT EXISTS (SELECT FROM ours i WHERE i.classid = d.classid AND i.objid = d.objid)
 ORDER BY 1
"""
_TABLES: LiteralString = """
SELECT format('pgstore.%I', c.relname) AS name
  FROM pg_class c
 WHERE c.relnamespace = 'pgstore'::regnamespace
   AND c.relkind = 'r'
 ORDER BY c.relname
"""
# With the header that says that they are ours (pgstore.chunk_header).
_OBJECTS: LiteralString = """
SELECT m.oid::bigint AS oid, uuid_send(i.id) || int8send(k.store_id) || int8send(k.id) AS header
  FROM (SELECT c.store_id, c.id, c.large_object
          FROM pgstore.chunk c
         WHERE c.large_object IS NOT NULL
         UNION ALL
        SELECT l.store_id, l.chunk_id, l.large_object
          FROM pgstore.large_object_left l) k
  JOIN pg_largeobject_metadata m ON m.oid = k.large_object
 CROSS JOIN pgstore.installation i
"""
# Programs notice that the database has another history on the next connection that they open. Not everything that they do on an old
# one would show it. What they are about to do is done once, on the new connection.
_END_CONNECTIONS: LiteralString = """
SELECT count(pg_terminate_backend(a.pid))
  FROM pg_stat_activity a
  JOIN pg_roles r ON r.oid = a.usesysid
  JOIN pg_roles me ON me.rolname = current_user
 WHERE a.datname = current_database()
   AND a.application_name = 'pgstore'
   AND a.pid <> pg_backend_pid()
   AND (me.rolsuper OR NOT r.rolsuper AND (pg_has_role(r.oid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE')))
"""
_UNLINK: LiteralString = """
SELECT count(lo_unlink(m.oid))
  FROM unnest(%s::oid[], %s::bytea[]) AS u (oid, header)
  JOIN pg_largeobject_metadata m ON m.oid = u.oid
 WHERE CASE WHEN pg_has_role(m.lomowner, 'USAGE') THEN lo_get(m.oid, 0, 32) = u.header ELSE false END
"""


def drop_schema(connection: _Connection) -> list[tuple[int, bytes]]:
    """
    Drop the schema in the transaction of *connection*; returns its large objects, for `unlink` to remove after the commit.

    Connections of pgstore's are ended, as far as this role may. Who opens one waits for the end of the transaction.

    Raises:
        SchemaError: things of others depend on it; nothing was dropped.
    """
    dependents = [row.object for row in connection.execute(_DEPENDENTS)]
    if dependents:
        raise errors.SchemaError(
            f"this would drop what others have made on top of the schema pgstore: {', '.join(dependents[:_SHOWN_MAX])}"
            f"{' and more' if len(dependents) > _SHOWN_MAX else ''}; drop it first, and make it again afterwards"
        )
    tables = ", ".join(row.name for row in connection.execute(_TABLES))
    for tries_left in reversed(range(_LOCK_TRIES_MAX)):
        try:
            with connection.transaction():
                connection.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE".encode())
            break
        except psycopg.errors.DeadlockDetected:  # who uses several tables has locked them in another order
            if not tries_left:
                raise
    objects = [(row.oid, row.header) for row in connection.execute(_OBJECTS)]
    connection.execute(_END_CONNECTIONS)
    connection.execute("DROP SCHEMA pgstore CASCADE")
    return objects


def unlink(connection: _Connection, objects: Sequence[tuple[int, bytes]]) -> None:
    """
    Remove large objects that `drop_schema` returned, in transactions of their own.

    Raises:
        BackupError: the restore is done, but some are still there.
    """
    try:
        _unlink(connection, objects)
    except psycopg.Error as exc:
        raise errors.BackupError(
            f"the backup was restored, but large objects of what it replaced are still there: {map_error(exc)}; nothing refers "
            "to them, so vacuumlo removes them"
        ) from exc


def _unlink(connection: _Connection, objects: Sequence[tuple[int, bytes]]) -> None:
    for start in range(0, len(objects), _UNLINKED_AT_ONCE):
        some = objects[start : start + _UNLINKED_AT_ONCE]
        connection.execute("SET LOCAL search_path = pg_catalog, pg_temp")
        connection.execute(_UNLINK, [[oid for oid, _ in some], [header for _, header in some]])
        connection.commit()
