"""Migrations: how a database gets the schema `pgstore`, and how it keeps up with the code.

The revisions stand in alembic/versions (in a wheel: pgstore/_migrations). `upgrade` runs what is missing in one
transaction under an advisory lock: any number of processes may call it at once, and it is everything or nothing. Rights
are granted in the same transaction. `sql` gives all of it as text, for a DBA to run.

- `run` has `upgrade`; `script` has `sql`. Both rest on `transaction`, which says how the transaction of a migration begins.
- `roles` says who gets rights, and who has them. `revisions` runs alembic, and says which revisions the code works with.
- `directories` finds what is shipped beside the code: migrations, SQL, an example.
- `scratch` has databases for tests, which have the schema already.

This is the only package that imports alembic, and SQLAlchemy on alembic's behalf; both inside functions, since every
program that uses pgstore imports it to know SCHEMA_REVISION, and few of them migrate.

Where a change belongs:

- A change of the schema is one of sql/schema.sql, and a new revision in alembic/versions, which `revisions.SCHEMA_REVISION` names.
  Revisions that were released stay as they are: they have run. `python -m tests.migration.release VERSION` freezes them, with a
  dump of a database from which later upgrades are tested.
- A right of a role is granted in sql/admin/roles.sql.
- What a database must be like before it is migrated is looked at in `run`, and in the script in `script`.
"""

from pgstore.migrate.directories import examples_directory, migration_directory, sql_directory
from pgstore.migrate.revisions import OLDEST_SCHEMA_REVISION, OLDEST_SERVER, SCHEMA_REVISION
from pgstore.migrate.roles import GRANTEES, Roles
from pgstore.migrate.run import Report, upgrade
from pgstore.migrate.script import sql

__all__ = [
    "GRANTEES",
    "OLDEST_SCHEMA_REVISION",
    "OLDEST_SERVER",
    "SCHEMA_REVISION",
    "Report",
    "Roles",
    "examples_directory",
    "migration_directory",
    "sql",
    "sql_directory",
    "upgrade",
]
